use super::*;
use proptest::prelude::*;

const CONFIG: &str = "/etc/containerd/config.toml";

/// As Debian ships it.
const DEBIAN: &str = r#"version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
      conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.internal.v1.opt"]
    path = "/var/lib/containerd/opt"
"#;

/// As nodes of clusters have it.
const NODE: &str = r#"# kubeadm's
version = 2
[plugins."io.containerd.grpc.v1.cri".containerd]
  default_runtime_name = "runc" # as ever
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = true
[timeouts]
  "io.containerd.timeout.shim.load" = "5s"
"#;

/// As containerd 2 has it.
const NEWER: &str = "version = 3\nimports = [\"/etc/other.toml\"]\n[grpc]\n  address = \"/x\"\n";

fn host(text: Option<&str>) -> (tempfile::TempDir, Place) {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("etc/containerd")).unwrap();
    if let Some(text) = text {
        fs::write(folder.path().join("etc/containerd/config.toml"), text).unwrap();
    }
    let place = Place::new(folder.path(), Path::new("/usr/local")).unwrap();
    (folder, place)
}

fn text(place: &Place, path: &str) -> Option<String> {
    fs::read_to_string(place.host(Path::new(path))).ok()
}

fn configured(place: &Place, before: Option<&Configured>) -> Configured {
    let change = configure(place, Path::new(CONFIG), before).unwrap();
    super::super::step::take(&change.steps).unwrap();
    change.configured.unwrap()
}

fn undone_all(place: &Place, configured: &Configured) {
    super::super::step::take(&undo(place, configured).unwrap()).unwrap();
}

fn runtimes_of(text: &str) -> Vec<String> {
    let (document, version) = config::parse(text).unwrap();
    let plugin = match version {
        Version::Two => "io.containerd.grpc.v1.cri",
        Version::Three => "io.containerd.cri.v1.runtime",
    };
    let runtimes = document["plugins"][plugin]["containerd"]["runtimes"].as_table().unwrap();
    runtimes.iter().map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn version_2_is_changed_itself_and_back() {
    for (plain, runtimes) in [
        (DEBIAN, &["runc", "ampoule"][..]),
        (NODE, &["runc", "ampoule"]),
        ("version = 2", &["runc", "ampoule"]),
    ] {
        let (_folder, place) = host(Some(plain));
        let first = configured(&place, None);
        let made = text(&place, CONFIG).unwrap();
        assert_eq!(runtimes_of(&made), runtimes, "{made}");
        // Every line of it is there still.
        let mut lines = made.lines();
        assert!(plain.lines().all(|line| lines.any(|made| made == line)), "{made}");
        assert_eq!(configured(&place, Some(&first)), first);
        undone_all(&place, &first);
        assert_eq!(text(&place, CONFIG).unwrap(), plain);
        assert_eq!(text(&place, "/etc/containerd/config.toml.before-ampoule"), None);
    }
}

#[test]
fn containerd_itself_reads_it() {
    let dump = |text: &str| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        fs::write(&path, text).unwrap();
        let mut containerd = std::process::Command::new("containerd");
        let output =
            containerd.arg("--config").arg(&path).args(["config", "dump"]).output().ok()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(String::from_utf8(output.stdout).unwrap())
    };
    for plain in [DEBIAN, NODE] {
        let (_folder, place) = host(Some(plain));
        configured(&place, None);
        let Some(read) = dump(&text(&place, CONFIG).unwrap()) else {
            eprintln!("skipped: there is no containerd here");
            return;
        };
        let names = [".runtimes.ampoule]", ".runtimes.runc]"];
        assert!(names.iter().all(|name| read.contains(name)), "{read}");
        assert!(read.contains("pod_annotations = [\"io.ampoule.*\"]"), "{read}");
    }
}

#[test]
fn version_3_imports_a_file_of_ours() {
    const OURS: &str = "/etc/containerd/conf.d/ampoule.toml";
    let (_folder, place) = host(Some(NEWER));
    let first = configured(&place, None);
    let made = text(&place, CONFIG).unwrap();
    assert!(made.contains(&format!("imports = [\"/etc/other.toml\", \"{OURS}\"]")), "{made}");
    let ours = text(&place, OURS).unwrap();
    assert!(ours.starts_with("version = 3\n") && runtimes_of(&ours) == ["ampoule"], "{ours}");
    undone_all(&place, &first);
    assert_eq!((text(&place, CONFIG).unwrap(), text(&place, OURS)), (NEWER.into(), None));

    // One that imports the whole folder is not touched.
    for import in ["/etc/containerd/conf.d/*.toml", "conf.d/*.toml", "conf.d/ampoule.toml"] {
        let plain = format!("version = 3\nimports = ['{import}']\n");
        let (_folder, place) = host(Some(&plain));
        let first = configured(&place, None);
        assert_eq!(first.written, None);
        assert_eq!(text(&place, CONFIG).unwrap(), plain);
        assert!(text(&place, OURS).is_some());
        undone_all(&place, &first);
        assert_eq!((text(&place, CONFIG).unwrap(), text(&place, OURS)), (plain, None));
    }
}

#[test]
fn without_a_file_there_is_one_that_goes_again() {
    let (_folder, place) = host(None);
    let first = configured(&place, None);
    assert_eq!(runtimes_of(&text(&place, CONFIG).unwrap()), ["runc", "ampoule"]);
    undone_all(&place, &first);
    assert_eq!(text(&place, CONFIG), None);
}

#[test]
fn what_others_have_changed_since_stays() {
    let (_folder, place) = host(Some(DEBIAN));
    let first = configured(&place, None);
    let theirs = "\n[timeouts]\n  later = \"1s\"\n";
    let made = text(&place, CONFIG).unwrap() + theirs;
    fs::write(place.host(Path::new(CONFIG)), &made).unwrap();
    // An installation over it takes that for what was there before.
    let second = configured(&place, Some(&first));
    undone_all(&place, &second);
    let left = text(&place, CONFIG).unwrap();
    assert_eq!(left, format!("{DEBIAN}{theirs}"));
    // The same without it, and with the backup gone.
    fs::write(place.host(Path::new(CONFIG)), &made).unwrap();
    undone_all(&place, &first);
    assert_eq!(text(&place, CONFIG).unwrap(), left);
    // Somebody has made more of runc.
    let (_folder, place) = host(Some("version = 2\n"));
    let first = configured(&place, None);
    let made = text(&place, CONFIG).unwrap();
    let made = made.replace("runc.v2\"\n", "runc.v2\"\nruntime_root = \"/r\"\n");
    fs::write(place.host(Path::new(CONFIG)), made).unwrap();
    undone_all(&place, &first);
    assert_eq!(runtimes_of(&text(&place, CONFIG).unwrap()), ["runc"]);
}

#[test]
fn a_runtime_of_somebody_elses_is_left_alone() {
    let theirs = |kind: &str| {
        format!(
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.ampoule]\n\
             runtime_type = \"{kind}\"\n"
        )
    };
    let (_folder, place) = host(Some(&theirs(RUNTIME)));
    let change = configure(&place, Path::new(CONFIG), None).unwrap();
    assert!(change.steps.is_empty() && change.configured.is_none());
    let (_folder, place) = host(Some(&theirs("io.containerd.kata.v2")));
    let error = configure(&place, Path::new(CONFIG), None).unwrap_err();
    assert!(crate::report::chain(&error).contains("io.containerd.kata.v2"), "{error}");
}

#[test]
fn what_is_not_understood_is_refused() {
    for (text, word) in [
        ("version = 1\n", "version 1"),
        ("", "version 1"),
        ("version = 4\n", "version 4"),
        ("version = \n", "not understood"),
        ("version = 2\nplugins = 3\n", "plugins is not a table"),
        ("version = 2\nplugins = {\"io.containerd.grpc.v1.cri\" = {}}\n", "plugins is not a table"),
        ("version = 3\nimports = 3\n", "imports is not a table"),
    ] {
        let (_folder, place) = host(Some(text));
        let error = crate::report::chain(&configure(&place, Path::new(CONFIG), None).unwrap_err());
        assert!(error.contains(word) && error.contains(CONFIG), "{text:?}: {error}");
    }
    let (_folder, place) = host(None);
    std::os::unix::fs::symlink("elsewhere", place.host(Path::new(CONFIG))).unwrap();
    let refused = configure(&place, Path::new(CONFIG), None);
    assert!(matches!(refused, Err(SystemError::Link(_))));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic_and_every_one_comes_back(tail in "[ -~\n]{0,200}") {
        for version in [2, 3] {
            let plain = format!("version = {version}\n{tail}");
            let (_folder, place) = host(Some(&plain));
            if let Ok(Change { steps, configured: Some(configured) }) = configure(&place, Path::new(CONFIG), None) {
                super::super::step::take(&steps).unwrap();
                undone_all(&place, &configured);
                prop_assert_eq!(text(&place, CONFIG).unwrap(), plain);
            }
        }
    }
}
