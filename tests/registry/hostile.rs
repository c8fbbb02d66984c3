//! Registries that lie, send too much, or lead astray: refused by name, and nothing of them stays.

use ampoule::image::Digest;
use serde_json::{Value, json};

use crate::fake::{Fake, MANIFEST_TYPE, Reply, Served, manifest};
use crate::lab::{Lab, layer};

/// Pulls what must be refused: sees that the words are there and no image is.
#[track_caller]
fn refuses(fake: &Fake, words: &[&str]) {
    let lab = Lab::new();
    lab.ampoule.ok(&["image", "ls"]);
    let before = lab.stored();
    lab.ampoule.output(&["pull", &fake.name("box")]).fails(125, words);
    assert_eq!(lab.stored(), before);
}

fn with_manifest(manifest: &[u8]) -> Fake {
    let mut image = Served::small();
    image.manifest = manifest.to_vec();
    Fake::with(&image, |_| None)
}

#[test]
fn a_manifest_has_bounds() {
    // Said to be huge, and being endless without a word of how long it is.
    let huge = Fake::with(&Served::small(), |request| {
        let headers = [("Content-Length", "100000000000"), ("Content-Type", MANIFEST_TYPE)];
        request.path().contains("/manifests/").then(|| Reply::new("200 OK", &headers, b"{"))
    });
    refuses(&huge, &["the manifest of", "is larger than 4194304 bytes"]);
    let endless = Fake::with(&Served::small(), |request| {
        let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
        let mut reply = Reply::raw(head);
        reply.endless = vec![b' '; 64 << 10];
        request.path().contains("/manifests/").then_some(reply)
    });
    refuses(&endless, &["the manifest of", "is larger than 4194304 bytes"]);
    let image = Served::small();
    let many: Vec<_> = (0..2000).map(|_| image.layers[0].clone()).collect();
    let many = manifest(&image.config, &many).to_string();
    refuses(&with_manifest(many.as_bytes()), &["more than 1000 layers"]);
}

#[test]
fn a_manifest_is_one() {
    for (text, words) in [
        ("", &["the manifest of", "is not valid"][..]),
        ("[1]", &["is not valid"]),
        ("{}", &["is not valid"]),
        (r#"{"mediaType": "application/x"}"#, &["application/x", "which is not an image's"]),
    ] {
        refuses(&with_manifest(text.as_bytes()), words);
    }
    let image = Served::small();
    let mut odd: Value = serde_json::from_slice(&image.manifest).unwrap();
    odd["layers"][0]["digest"] = "sha256:../../../etc/passwd".into();
    let words = ["the manifest", "is not valid", "../../../etc/passwd"];
    refuses(&with_manifest(odd.to_string().as_bytes()), &words);
    let mut odd: Value = serde_json::from_slice(&image.manifest).unwrap();
    odd["config"]["size"] = 5_000_000_000_u64.into();
    refuses(&with_manifest(odd.to_string().as_bytes()), &["configuration", "is larger than"]);
    let mut odd: Value = serde_json::from_slice(&image.manifest).unwrap();
    odd["layers"][0]["size"] = u64::MAX.into();
    refuses(&with_manifest(odd.to_string().as_bytes()), &["more than", "bytes"]);
}

#[test]
fn lists_lead_to_an_image_at_last() {
    let image = Served::small();
    let list = |digest: &str, architecture: &str| {
        json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{"mediaType": MANIFEST_TYPE, "digest": digest, "size": 1,
                "platform": {"os": "linux", "architecture": architecture}}]})
        .to_string()
    };
    let digest = Digest::of(&image.manifest).to_string();
    // A list of a list of a list of …
    let mut chain = vec![list(&digest, "amd64")];
    for _ in 0..6 {
        let last = Digest::of(chain.last().unwrap().as_bytes()).to_string();
        chain.push(list(&last, "amd64"));
    }
    let serve = move |chain: Vec<String>| {
        Fake::with(&Served::small(), move |request| {
            let (path, last) = (request.path().to_owned(), chain.last().unwrap());
            let wanted = |list: &&String| path.ends_with(&Digest::of(list.as_bytes()).to_string());
            let found =
                if path.ends_with("latest") { Some(last) } else { chain.iter().find(wanted) };
            found.map(|list| Reply::ok(list.as_bytes()))
        })
    };
    refuses(&serve(chain.clone()), &["list of lists"]);
    chain.truncate(1);
    let lab = Lab::new();
    let good = serve(chain);
    lab.ampoule.ok(&["pull", &good.name("box")]);
    lab.ampoule
        .output(&["pull", "--platform", "linux/arm64", &good.name("box")])
        .fails(125, &["is not there for linux/arm64", "linux/amd64"]);
}

#[test]
fn an_image_for_another_machine_is_kept_but_not_run() {
    let mut image = Served::small();
    let mut config: Value = serde_json::from_slice(&image.config).unwrap();
    config["architecture"] = "arm64".into();
    image.config = config.to_string().into_bytes();
    image.manifest = manifest(&image.config, &image.layers).to_string().into_bytes();
    let fake = Fake::with(&image, |_| None);
    let lab = Lab::new();
    let name = fake.name("box");
    lab.ampoule
        .output(&["pull", "--platform", "linux/amd64", &name])
        .fails(125, &["is for linux/arm64, not for linux/amd64"]);
    lab.ampoule.ok(&["pull", "--platform", "linux/arm64", &name]);
    lab.ampoule.output(&["run", &name, "true"]).fails(125, &["is for linux/arm64", "cannot run"]);
}

#[test]
fn a_blob_is_what_it_is_said_to_be() {
    let image = Served::large(100 << 10);
    let digest = Digest::of(&image.layers[0]).to_string();
    let answers = |reply: fn(&[u8]) -> Reply| {
        let (digest, blob) = (digest.clone(), image.layers[0].clone());
        Fake::with(&image, move |request| request.path().ends_with(&digest).then(|| reply(&blob)))
    };
    let other = answers(|blob| {
        let mut other = blob.to_vec();
        other[5000] ^= 1;
        Reply::ok(&other)
    });
    refuses(&other, &["is damaged: its digest is", &digest]);
    let long = answers(|blob| Reply::ok(&[blob, b"more"].concat()));
    refuses(&long, &["has another size than"]);
    let short = answers(|blob| Reply::ok(&blob[..1000]));
    refuses(&short, &["has another size than"]);
    let endless = answers(|_| {
        let mut reply = Reply::raw("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        reply.endless = vec![0; 64 << 10];
        reply
    });
    refuses(&endless, &["has another size than"]);
    let missing = answers(|_| Reply::not_found());
    refuses(&missing, &["does not have the layer", &digest]);
}

#[test]
fn who_begins_anew_each_time_is_left() {
    let image = Served::large(1 << 20);
    let blob = image.layers[0].clone();
    let digest = Digest::of(&blob).to_string();
    let fake = {
        let digest = digest.clone();
        Fake::with(&image, move |request| {
            // More than nothing each time, and never from where it is asked for.
            let length = blob.len().to_string();
            let headers = [("Content-Length", length.as_str())];
            let part = &blob[..500 << 10];
            request.path().ends_with(&digest).then(|| Reply::new("200 OK", &headers, part))
        })
    };
    let lab = Lab::new();
    lab.ampoule.output(&["pull", &fake.name("box")]).fails(125, &["the connection to", "failed"]);
    assert_eq!(fake.count(&digest), 5);
}

#[test]
fn nobody_is_led_in_circles_or_out_of_tls() {
    let circle = Fake::with(&Served::small(), |request| {
        let path = request.path().to_owned();
        let to = [("Location", path.as_str())];
        path.contains("/manifests/").then(|| Reply::new("307 Temporary Redirect", &to, b""))
    });
    refuses(&circle, &["leads from address to address"]);
    assert_eq!(circle.count("/manifests/"), 11);
    let file = Fake::with(&Served::small(), |request| {
        let to = [("Location", "file:///etc/passwd")];
        request.path().contains("/manifests/").then(|| Reply::new("302 Found", &to, b""))
    });
    refuses(&file, &["file:///etc/passwd"]);
}

#[test]
fn words_of_a_registry_are_but_text() {
    let words = format!("no\u{1b}[2J{}", "x".repeat(100_000));
    let body = json!({"errors": [{"code": "X", "message": words}]}).to_string();
    let fake = Fake::with(&Served::small(), move |request| {
        let status = "418 I'm a teapot";
        request.path().contains("/manifests/").then(|| Reply::new(status, &[], body.as_bytes()))
    });
    let lab = Lab::new();
    let done = lab.ampoule.output(&["pull", &fake.name("box")]);
    done.fails(125, &["answers 418"]);
    assert!(!done.stderr.contains('\u{1b}') && done.stderr.len() < 2000, "{}", done.stderr.len());
}

#[test]
fn a_layer_of_a_registry_is_as_hostile_as_one_of_an_archive() {
    let image = Served::new(vec![layer(&[("../../evil", b"x")])]);
    let lab = Lab::new();
    let done = lab.ampoule.output(&["pull", &Fake::with(&image, |_| None).name("box")]);
    done.fails(125, &["cannot use the image", "is refused"]);
    assert_eq!(lab.ampoule.ok(&["image", "ls", "-q"]), "");
}
