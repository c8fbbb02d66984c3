//! Registries that are asked too often, and say when they want to be asked again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fake::{Fake, Reply, Request, Served};
use crate::lab::Lab;

/// A registry that says this of its first `times` requests for what has `part` in its path.
fn busy(part: &'static str, times: usize, after: Option<&'static str>) -> Fake {
    let said = Arc::new(AtomicUsize::new(0));
    Fake::with(&Served::small(), move |request: &Request| {
        if !request.path().contains(part) || said.fetch_add(1, Ordering::SeqCst) >= times {
            return None;
        }
        let body = br#"{"errors": [{"code": "TOOMANYREQUESTS", "message": "not so fast"}]}"#;
        let after = after.map(|after| ("Retry-After", after));
        Some(Reply::new("429 Too Many Requests", after.as_slice(), body))
    })
}

#[test]
fn a_registry_is_waited_for_and_that_is_told() {
    for part in ["/manifests/", "/blobs/"] {
        for after in ["0", "Thu, 01 Jan 1998 00:00:00 GMT"] {
            let lab = Lab::new();
            let registry = busy(part, 2, Some(after));
            let done = lab.ampoule.output(&["pull", &registry.name("box")]);
            assert_eq!(done.code, 0, "{done:?}");
            let told = format!("The registry {} wants to be asked again in 0 s", registry.host);
            assert_eq!(done.stderr.matches(&told).count(), 2, "{done:?}");
        }
    }
    let lab = Lab::new();
    let registry = busy("/manifests/", 1, Some("1"));
    let done = lab.ampoule.output(&["pull", "-q", &registry.name("box")]);
    assert!(done.code == 0 && done.stderr.contains("again in 1 s"), "{done:?}");
}

#[test]
fn one_that_wants_too_much_is_not_waited_for() {
    for (times, after, words) in [
        (usize::MAX, Some("0"), "to be asked again in 0 s: not so fast"),
        (1, Some("3600"), "to be asked again in 3600 s: not so fast"),
        (1, Some("99999999999999999999"), "answers 429 for the manifest of"),
        (1, Some("soon"), "answers 429 for the manifest of"),
        (1, None, "answers 429 for the manifest of"),
    ] {
        let lab = Lab::new();
        let registry = busy("/manifests/", times, after);
        lab.ampoule.output(&["pull", &registry.name("box")]).fails(125, &[words, "not so fast"]);
        assert!(registry.count("/manifests/") <= 6, "{:?}", registry.requests());
    }
}

#[test]
fn a_token_server_is_waited_for_as_well() {
    let said = AtomicUsize::new(0);
    let tokens = Fake::new(move |_| match said.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::new("429 Too Many Requests", &[("Retry-After", "0")], b""),
        _ => Reply::ok(br#"{"token": "good"}"#),
    });
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"s\"", tokens.host);
    let registry = Fake::with(&Served::small(), move |request| {
        let known = request.headers.get("authorization").map(String::as_str);
        let challenge = [("www-authenticate", realm.as_str())];
        (known != Some("Bearer good")).then(|| Reply::new("401 Unauthorized", &challenge, b""))
    });
    let lab = Lab::new();
    lab.ampoule.ok(&["pull", &registry.name("box")]);
    assert_eq!(tokens.requests().len(), 2);
}
