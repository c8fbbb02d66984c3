//! Registries with TLS: whose certificate is trusted, and by what.

use std::fs;

use crate::authority::Authority;
use crate::lab::Lab;
use crate::real::Real;
use crate::support::Finished;

#[test]
fn only_a_certificate_that_is_vouched_for_is_taken() {
    let lab = Lab::new();
    let authority = Authority::new(&lab.path("authority"));
    let registry = Real::new(&lab.path("registry"), &authority.section(), "");
    let name = registry.name("box:1");
    lab.load(&lab.small(&name)).gives(0, &format!("Loaded image: {name}\n"));
    // A server that says it is somebody is not spoken to without TLS instead.
    let words = ["is not trusted", "UnknownIssuer", "certs.d", "--tls-verify=false"];
    lab.ampoule.output(&["push", &name]).fails(125, &words);
    lab.ampoule.output(&["pull", &name]).fails(125, &words);
    lab.ampoule.output(&["login", "-u", "a", "-p", "b", &registry.host]).fails(125, &words);
    lab.ampoule.ok(&["push", "--tls-verify=false", &name]);

    let certificates = lab.path("certificates");
    fs::create_dir(&certificates).unwrap();
    fs::copy(authority.file("ca.crt"), certificates.join("ca.crt")).unwrap();
    let folder = certificates.display().to_string();
    let status = format!("Status: Image is up to date for {name}\n");
    let pulled = lab.ampoule.ok(&["pull", "--cert-dir", &folder, &name]);
    assert!(!pulled.contains("newer"), "{pulled}");
    let mut pull = lab.ampoule.command(["pull", &name]);
    let done = Finished::of(pull.env("SSL_CERT_FILE", authority.file("ca.crt")).output().unwrap());
    assert!(done.code == 0 && done.stdout.contains(&status), "{done:?}");

    fs::write(certificates.join("ca.crt"), "-----BEGIN CERTIFICATE-----\nx\n").unwrap();
    lab.ampoule
        .output(&["pull", "--cert-dir", &folder, &name])
        .fails(125, &["cannot use the certificate", "ca.crt"]);
    lab.ampoule
        .output(&["pull", "--cert-dir", &lab.text("nowhere"), &name])
        .fails(125, &["cannot use the certificate", "nowhere"]);
}

#[test]
fn a_registry_may_want_to_know_a_certificate_of_ours() {
    let lab = Lab::new();
    let authority = Authority::new(&lab.path("authority"));
    let section = authority
        .section()
        .replace("}\n", &format!(", clientcas: [{}]}}\n", authority.file("ca.crt")));
    let registry = Real::new(&lab.path("registry"), &section, "");
    let name = registry.name("box:1");
    lab.load(&lab.small(&name)).gives(0, &format!("Loaded image: {name}\n"));
    let folder = lab.path("certificates");
    fs::create_dir(&folder).unwrap();
    fs::copy(authority.file("ca.crt"), folder.join("ca.crt")).unwrap();
    let text = folder.display().to_string();
    assert_eq!(lab.ampoule.output(&["push", "--cert-dir", &text, &name]).code, 125);
    fs::copy(authority.file("server.crt"), folder.join("client.cert")).unwrap();
    fs::copy(authority.file("server.key"), folder.join("client.key")).unwrap();
    lab.ampoule.ok(&["push", "--cert-dir", &text, &name]);
}
