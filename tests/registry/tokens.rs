//! Token servers: who gets a password and a token, and who does not.

use std::sync::Arc;

use crate::fake::{Fake, Reply, Request, Served};
use crate::lab::Lab;
use crate::support::Finished;

const REALM: &str = "www-authenticate";

/// A registry that wants tokens of the server at `realm`.
fn wants_tokens(realm: String) -> Fake {
    Fake::with(&Served::small(), move |request| {
        let challenge = format!("Bearer realm=\"{realm}\",service=\"test\",scope=\"x\"");
        let bearer = request.headers.get("authorization").map(String::as_str);
        let wanted = bearer != Some("Bearer good-token");
        wanted.then(|| {
            Reply::new("401 Unauthorized", &[(REALM, challenge.as_str())], b"{\"errors\": []}")
        })
    })
}

/// A token server for who has the password, or for everybody.
fn gives_tokens(open: bool) -> Fake {
    Fake::new(move |request: &Request| {
        // me:pass
        let known = request.headers.get("authorization").map(String::as_str);
        if open || known == Some("Basic bWU6cGFzcw==") {
            Reply::ok(br#"{"access_token": "good-token", "expires_in": 60}"#)
        } else {
            let words = br#"{"details": "incorrect username or password"}"#;
            Reply::new("401 Unauthorized", &[], words)
        }
    })
}

fn pull(lab: &Lab, registry: &Fake, auth: Option<&str>) -> Finished {
    let mut pull = lab.ampoule.command(["pull", &registry.name("team/box")]);
    let logins = match auth {
        Some(auth) => format!(r#"{{"auths": {{"{}": {{"auth": "{auth}"}}}}}}"#, registry.host),
        None => "{}".to_owned(),
    };
    pull.env("REGISTRY_AUTH_FILE", lab.file("auth.json", logins.as_bytes()));
    Finished::of(pull.output().unwrap())
}

#[test]
fn a_token_is_asked_for_once_and_with_what_it_is_for() {
    let lab = Lab::new();
    let tokens = gives_tokens(true);
    let registry = wants_tokens(format!("http://{}/token?a=b", tokens.host));
    assert_eq!(pull(&lab, &registry, None).code, 0);
    let asked = tokens.requests();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].path(), "/token?a=b&service=test&scope=repository%3Ateam%2Fbox%3Apull");
    assert!(!asked[0].headers.contains_key("authorization"));
}

#[test]
fn a_password_is_exchanged_for_a_token() {
    let lab = Lab::new();
    let tokens = gives_tokens(false);
    let registry = wants_tokens(format!("http://{}/token", tokens.host));
    pull(&lab, &registry, None).fails(125, &["denies access", "incorrect username or password"]);
    pull(&lab, &registry, Some("bWU6d3Jvbmc=")).fails(125, &["denies access"]);
    assert_eq!(pull(&lab, &registry, Some("bWU6cGFzcw==")).code, 0);
    // The registry itself never sees the password.
    for request in registry.requests() {
        let shown = request.headers.get("authorization");
        assert!(shown.is_none_or(|shown| shown == "Bearer good-token"), "{request:?}");
    }
}

#[test]
fn a_token_server_is_not_believed_everything() {
    let lab = Lab::new();
    for (answer, words) in [
        ("", "the token server's answer is not valid"),
        ("{}", "gave no token"),
        (r#"{"token": "a\r\nX: y"}"#, "is not one"),
    ] {
        let tokens = Fake::new(move |_| Reply::ok(answer.as_bytes()));
        let registry = wants_tokens(format!("http://{}/token", tokens.host));
        pull(&lab, &registry, None).fails(125, &[words]);
    }
    let endless = Fake::new(|_| {
        let mut reply = Reply::raw("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        reply.endless = vec![b' '; 64 << 10];
        reply
    });
    let registry = wants_tokens(format!("http://{}/token", endless.host));
    pull(&lab, &registry, None).fails(125, &["the token", "is larger than"]);
    for realm in ["file:///etc/passwd", "gopher://x", "nothing"] {
        let registry = wants_tokens(realm.to_owned());
        pull(&lab, &registry, None).fails(125, &["token server"]);
    }
    // A token that is of no use is not asked for again and again.
    let useless = Fake::new(|_| Reply::ok(br#"{"token": "bad"}"#));
    let registry = wants_tokens(format!("http://{}/token", useless.host));
    pull(&lab, &registry, None).fails(125, &["denies access"]);
    assert_eq!(useless.requests().len(), 1);
}

#[test]
fn where_a_registry_leads_to_learns_nothing_of_us() {
    let lab = Lab::new();
    let image = Served::small();
    let storage = Arc::new(Fake::with(&image, |_| None));
    let to = Arc::clone(&storage);
    let registry = Fake::with(&image, move |request| {
        if request.headers.get("authorization").map(String::as_str) != Some("Basic bWU6cGFzcw==") {
            let challenge = [(REALM, "Basic realm=\"test\"")];
            return Some(Reply::new("401 Unauthorized", &challenge, b""));
        }
        let there = format!("http://{}{}", to.host, request.path());
        let headers = [("Location", there.as_str())];
        request.path().contains("/blobs/").then(|| Reply::new("307 Found", &headers, b""))
    });
    assert_eq!(pull(&lab, &registry, Some("bWU6cGFzcw==")).code, 0);
    assert_eq!(storage.requests().len(), 2);
    for request in storage.requests() {
        assert!(!request.headers.contains_key("authorization"), "{request:?}");
    }
}
