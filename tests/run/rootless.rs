//! Without root: a user who may open `/dev/kvm`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;

use tempfile::TempDir;

use crate::needs_sandboxes;
use crate::support::{BIN, Finished, guest, images, skip};

/// Anybody's id that is not root's.
const USER: u32 = 1000;

/// A user's home, and its command lines.
struct User {
    home: TempDir,
    group: u32,
}

impl User {
    fn output<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Finished {
        let group = self.group.to_string();
        let user = USER.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &user, "--regid", &user, "--groups", &group, "--"]);
        command.arg(BIN).args(args).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap()).env("AMPOULE_GUEST", guest());
        command.env("HOME", self.home.path()).env("XDG_RUNTIME_DIR", self.home.path().join("run"));
        Finished::of(command.output().unwrap())
    }

    fn ok(&self, args: &[&str]) -> String {
        let finished = self.output(args);
        assert_eq!(finished.code, 0, "{args:?}: {finished:?}");
        finished.stdout
    }
}

#[test]
fn images_are_loaded_and_run_and_what_needs_root_says_so() {
    needs_sandboxes!();
    let kvm = fs::metadata("/dev/kvm").unwrap();
    if !nix::unistd::geteuid().is_root() || kvm.mode() & 0o060 != 0o060 {
        return skip("needs root, and a /dev/kvm that a group may use");
    }
    let user = User { home: TempDir::new().unwrap(), group: kvm.gid() };
    fs::create_dir(user.home.path().join("run")).unwrap();
    for folder in [user.home.path(), &user.home.path().join("run")] {
        chown(folder, Some(USER), Some(USER)).unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
    }
    user.ok(&["load", "-q", "-i", images().join("nonroot.tar").to_str().unwrap()]);
    user.ok(&["load", "-q", "-i", images().join("busybox.tar").to_str().unwrap()]);
    // Owners of files are the image's, whoever loads it.
    let owners =
        user.ok(&["run", "--rm", "busybox", "stat", "-c", "%u:%g", "/bin/busybox", "/etc"]);
    assert_eq!(owners, "0:0\n0:0\n");
    assert_ne!(user.ok(&["run", "--rm", "nonroot", "id", "-u"]).trim(), "0");

    user.ok(&[
        "run",
        "-d",
        "--name",
        "web",
        "busybox",
        "sh",
        "-c",
        "echo kept >> /note; cat /note; sleep 1000",
    ]);
    assert_eq!(user.ok(&["exec", "web", "id", "-u"]), "0\n");
    user.ok(&["stop", "-t", "0", "web"]);
    user.ok(&["start", "web"]);
    user.ok(&["pause", "web"]);
    user.ok(&["unpause", "web"]);
    user.ok(&["stop", "-t", "0", "web"]);
    assert_eq!(user.ok(&["logs", "--tail", "2", "web"]), "kept\nkept\n");
    user.ok(&["rm", "web"]);
    let data = user.home.path().join(".local/share/ampoule");
    assert!(data.join("images").is_dir() && user.home.path().join("run/ampoule").is_dir());
    assert!(user.ok(&["system", "info"]).contains("Rootless: true"));

    let mount = format!("{}:/data", user.home.path().display());
    for volume in [mount.as_str(), "named:/data"] {
        user.output(["run", "--rm", "-v", volume, "busybox", "true"])
            .fails(125, &["/data", "root"]);
    }
}
