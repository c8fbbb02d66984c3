//! docker-registry with tokens of a server that it trusts by a certificate.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::fake::{Fake, Reply, Request};
use crate::lab::{Lab, run};
use crate::real::Real;
use crate::support::{Finished, feed};

/// Makes a key and a certificate of its own.
fn certificate(key: &str, certificate: &str) {
    let mut make = Command::new("openssl");
    make.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]);
    run(make.args(["-subj", "/CN=tokens", "-keyout", key, "-out", certificate]));
}

/// A token for what `scope` asks for (RFC 7519, as distribution's docs/spec/auth/jwt.md has it).
fn token(scope: &str, key: &str, certificate: &str) -> String {
    let der =
        Command::new("openssl").args(["x509", "-in", certificate, "-outform", "DER"]).output();
    let header =
        json!({"typ": "JWT", "alg": "RS256", "x5c": [STANDARD.encode(der.unwrap().stdout)]});
    let mut access = Vec::new();
    if let [kind, name, actions] = scope.split(':').collect::<Vec<_>>()[..] {
        let actions: Vec<_> = actions.split(',').collect();
        access.push(json!({"type": kind, "name": name, "actions": actions}));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({
        "iss": "tester", "sub": "me", "aud": "test", "exp": now + 300, "nbf": now - 60, "iat": now,
        "jti": "1", "access": access,
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(&claims));
    let sign = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign", key])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let signature = feed(sign, signed.clone().into_bytes()).stdout;
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The scope that a request names.
fn scope(request: &Request) -> String {
    let query = request.path().split_once('?').map_or("", |(_, query)| query);
    let scope = query.split('&').find_map(|part| part.strip_prefix("scope="));
    let scope = scope.unwrap_or_default().replace("%3A", ":");
    scope.replace("%2F", "/").replace("%2C", ",")
}

#[test]
fn docker_s_registry_is_used_with_tokens() {
    let lab = Lab::new();
    let (key, cert) = (lab.text("key.pem"), lab.text("cert.pem"));
    certificate(&key, &cert);
    assert!(Path::new(&cert).exists());
    let bundle = cert.clone();
    let tokens = Fake::new(move |request| {
        let known = request.headers.get("authorization").map(String::as_str);
        // me:pass
        if known != Some("Basic bWU6cGFzcw==") {
            return Reply::new("401 Unauthorized", &[], br#"{"details": "who are you"}"#);
        }
        let token = token(&scope(request), &key, &cert);
        Reply::ok(json!({"token": token, "expires_in": 300}).to_string().as_bytes())
    });
    let section = format!(
        "auth:\n  token: {{realm: \"http://{}/token\", service: test, issuer: tester, \
         rootcertbundle: {bundle}}}\n",
        tokens.host
    );
    let registry = Real::new(&lab.path("registry"), "", &section);
    let name = registry.name("team/box:1");
    lab.load(&lab.small(&name)).gives(0, &format!("Loaded image: {name}\n"));
    let known = |args: &[&str]| {
        let mut command = lab.ampoule.command(args);
        command.env("DOCKER_CONFIG", lab.path("docker")).env_remove("REGISTRY_AUTH_FILE");
        Finished::of(command.output().unwrap())
    };
    known(&["push", &name]).fails(125, &["denies access", "who are you"]);
    let login = |password| known(&["login", "-u", "me", "-p", password, &registry.host]);
    login("wrong").fails(125, &["denies access", "who are you"]);
    login("pass").gives(0, "Login Succeeded\n");
    let pushed = known(&["push", &name]);
    assert_eq!(pushed.code, 0, "{pushed:?}");
    lab.ampoule.ok(&["image", "rm", &name]);
    let pulled = known(&["pull", &name]);
    assert_eq!(pulled.code, 0, "{pulled:?}");
    // One token for each thing that was done: pull and push are two.
    let scopes: Vec<_> = tokens.requests().iter().map(scope).collect();
    assert_eq!(scopes.iter().filter(|scope| scope.ends_with(":pull")).count(), 1, "{scopes:?}");
}
