//! `ampoule run` of an image that a registry has and the store has not.

use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::needs_sandboxes;
use crate::real::Real;
use crate::support::{Ampoule, Finished, images};

#[test]
fn what_is_missing_is_pulled_and_run() {
    needs_sandboxes!();
    if Command::new("docker-registry").arg("--version").stdout(Stdio::null()).status().is_err() {
        return crate::support::skip("needs docker-registry (tools/install-deps)");
    }
    let folder = TempDir::new().unwrap();
    let registry = Real::plain(&folder.path().join("registry"));
    let name = registry.name("box:1");
    let from = Ampoule::with_root(folder.path().join("from"));
    from.ok(&["load", "-q", "-i", images().join("busybox.tar").to_str().unwrap()]);
    from.ok(&["tag", "busybox", &name]);
    from.ok(&["push", "-q", &name]);

    let to = Ampoule::with_root(folder.path().join("to"));
    let run = |policy: &str| to.output(&["run", "--rm", "--pull", policy, &name, "echo", "hello"]);
    run("never").fails(125, &["no such image"]);
    let first: Finished = run("missing");
    first.gives(0, "hello\n");
    assert!(first.stderr.contains("Unable to find image") && first.stderr.contains("Downloaded"));
    let again = run("missing");
    again.gives(0, "hello\n");
    assert_eq!(again.stderr, "");
    let always = run("always");
    always.gives(0, "hello\n");
    assert!(always.stderr.contains("Image is up to date"), "{always:?}");
}
