//! Mirrors of the configuration are asked before the registry.

use crate::fake::{Fake, Reply, Served};
use crate::lab::Lab;
use crate::support::Finished;

/// Pulls `registry.invalid/team/box` or another image with these mirrors of its registry.
fn pull(lab: &Lab, registry: &str, mirrors: &[&str]) -> Finished {
    let list: Vec<_> = mirrors.iter().map(|mirror| format!("{mirror:?}")).collect();
    let config = format!("[registry.{registry:?}]\nmirrors = [{}]\n", list.join(", "));
    let config = lab.file("config.toml", config.as_bytes());
    let mut pull = lab.ampoule.command(["pull", &format!("{registry}/team/box")]);
    Finished::of(pull.env("AMPOULE_CONFIG", config).output().unwrap())
}

#[test]
fn a_mirror_has_it_and_the_registry_is_not_asked() {
    let lab = Lab::new();
    let mirror = Fake::with(&Served::small(), |_| None);
    let done = pull(&lab, "registry.invalid", &[&format!("http://{}", mirror.host)]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stdout.ends_with("registry.invalid/team/box:latest\n"), "{done:?}");
    lab.ampoule.ok(&["image", "inspect", "registry.invalid/team/box"]);
    let paths: Vec<_> = mirror.requests().iter().map(|asked| asked.path().to_owned()).collect();
    assert_eq!(paths[0], "/v2/team/box/manifests/latest");
}

#[test]
fn what_a_mirror_has_not_comes_from_the_next() {
    let image = Served::large(100 << 10);
    let layer = ampoule::image::Digest::of(&image.layers[0]).to_string();
    // One that is down, one that knows nothing, one that has lost a layer.
    let empty = Fake::new(|_| Reply::not_found());
    let lost = {
        let layer = layer.clone();
        Fake::with(&image, move |asked| asked.path().ends_with(&layer).then(Reply::not_found))
    };
    let registry = Fake::with(&image, |_| None);
    let mirrors = ["127.0.0.1:1", &empty.host, &lost.host];
    let lab = Lab::new();
    let done = pull(&lab, &registry.host, &mirrors);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!((empty.count("/manifests/"), lost.count("/manifests/")), (1, 1));
    assert_eq!((lost.count(&layer), registry.count(&layer)), (1, 1));
    assert_eq!(registry.count("/manifests/"), 0);
}

#[test]
fn a_wrong_configuration_is_named() {
    let lab = Lab::new();
    pull(&lab, "registry.invalid", &["ftp://x"]).fails(125, &["\"ftp://x\"", "not the address"]);
    let config = lab.file("config.toml", b"[registry.\"x\"]\nmirors = []\n");
    let mut pull = lab.ampoule.command(["pull", "x/y"]);
    Finished::of(pull.env("AMPOULE_CONFIG", config).output().unwrap()).fails(125, &["mirors"]);
}
