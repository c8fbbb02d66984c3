//! `ampoule build`: buildah's layers, and steps in microVMs.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::needs_sandboxes;
use crate::support::{Ampoule, images, skip};

/// A context with this Dockerfile, and a file.
fn context(dockerfile: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("Dockerfile"), dockerfile).unwrap();
    fs::write(folder.path().join("given"), "given\n").unwrap();
    folder
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn images_are_built_run_and_saved() {
    needs_sandboxes!();
    if Command::new("buildah").arg("--version").output().is_err() {
        return skip("needs buildah (tools/install-deps test)");
    }
    let root = TempDir::new().unwrap();
    let ampoule = Ampoule::with_root(root.path().to_owned());
    ampoule.ok(&["load", "-q", "-i", text(&images().join("busybox.tar"))]);
    let script = "FROM busybox AS first\n\
        ARG V=1\n\
        COPY given /given\n\
        RUN cat /proc/sys/kernel/osrelease > /kernel && echo $V $(id -u) > /v\n\
        FROM busybox\n\
        COPY --from=first /given /kernel /v /\n\
        LABEL tier=front\n\
        CMD [\"cat\", \"/v\", \"/given\", \"/kernel\"]\n";
    let here = context(script);
    let build = ["build", "-q", "-t", "app:1", "-t", "localhost:5000/app", "--network", "none"];
    let build = [&build[..], &["--build-arg", "V=2", text(here.path())]].concat();
    let id = ampoule.ok(&build);
    let done = ampoule.ok(&["run", "--rm", "app:1"]);
    let (made, kernel) = done.split_at("2 0\ngiven\n".len());
    assert_eq!(made, "2 0\ngiven\n");
    // The step ran on a kernel of its own: that of the container here.
    assert_eq!(
        ampoule.ok(&["run", "--rm", "busybox", "cat", "/proc/sys/kernel/osrelease"]),
        kernel
    );
    assert_ne!(fs::read_to_string("/proc/sys/kernel/osrelease").unwrap(), kernel);
    let told = ampoule.ok(&["image", "inspect", "localhost:5000/app"]);
    assert!(told.contains(id.trim()) && told.contains("\"tier\": \"front\""), "{told}");

    let failing = context("FROM busybox\nRUN echo why >&2; exit 9\n");
    let args = ["build", "-t", "bad", "--network", "none", text(failing.path())];
    ampoule.output(&args).fails(125, &["why", "buildah has failed"]);
    ampoule.output(&["run", "--rm", "--pull", "never", "bad"]).fails(125, &["no such image"]);
    ampoule.output(&["build", "/no/such/context"]).fails(125, &["buildah has failed"]);
    assert!(ampoule.ok(&["system", "df"]).contains("Build Cache"));
    ampoule.ok(&["system", "prune", "-af"]);
    assert_eq!(ampoule.ok(&["images", "-q"]), "");
    let left = ampoule.left();
    assert!(
        left.iter().all(|path| path.starts_with("build") || path.starts_with("oci")),
        "{left:?}"
    );
}
