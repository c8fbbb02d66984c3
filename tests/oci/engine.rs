//! podman and buildah with a storage of their own, and ampoule-oci as the runtime that they are
//! configured to use.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

use crate::lab::OCI;
use crate::support::{Finished, images, shared_templates};

/// The image that containers are made of.
pub const IMAGE: &str = "localhost/busybox:latest";

/// An engine's folder: a tmpfs, so that its storage is never on an overlay itself.
pub struct Engine {
    folder: TempDir,
}

/// Why a program's tests cannot run here; nothing where they can.
pub fn missing(program: &str) -> Option<String> {
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    });
    (!found).then(|| format!("needs {program} (tools/install-deps test)"))
}

impl Engine {
    /// The one that tests which run at the same time share: its image is loaded once.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Engine>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(engine) = shared.upgrade() {
            return engine;
        }
        let engine = Arc::new(Self::new());
        *shared = Arc::downgrade(&engine);
        engine
    }

    fn new() -> Self {
        let engine = Self { folder: TempDir::new().unwrap() };
        mount(
            Some("engine"),
            engine.folder.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            Some("mode=755"),
        )
        .unwrap();
        // The runtime's state is this test's own; engines know nothing of it.
        let script = format!(
            "#!/bin/sh\nexport AMPOULE_STATE={} AMPOULE_TEMPLATES={}\nexec {OCI} --root {} \"$@\"\n",
            engine.text("sandboxes"),
            shared_templates().display(),
            engine.text("containers"),
        );
        fs::write(engine.path("ampoule-oci"), script).unwrap();
        fs::set_permissions(engine.path("ampoule-oci"), fs::Permissions::from_mode(0o755)).unwrap();
        let configuration = format!(
            "[containers]\nlog_driver = \"k8s-file\"\n\
             [engine]\nruntime = \"ampoule-oci\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
             runtime_supports_json = [\"ampoule-oci\"]\nruntime_supports_kvm = [\"ampoule-oci\"]\n\
             [engine.runtimes]\nampoule-oci = [\"{}\"]\n",
            engine.text("ampoule-oci"),
        );
        fs::write(engine.path("containers.conf"), configuration).unwrap();
        let archive = images().join("busybox.tar");
        engine.ok(&["load", "--quiet", "--input", archive.to_str().unwrap()]);
        engine
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A command line of podman, or of buildah.
    pub fn command_of<S: AsRef<OsStr>>(
        &self,
        program: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new(program);
        command
            .arg("--root")
            .arg(self.path("storage"))
            .arg("--runroot")
            .arg(self.path("run"))
            .args(["--storage-driver", "overlay"]);
        if program == "podman" {
            command.arg("--tmpdir").arg(self.path("tmp"));
        }
        command
            .args(args)
            .env("CONTAINERS_CONF", self.path("containers.conf"))
            .env("TMPDIR", self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs podman to its end.
    pub fn output(&self, args: &[&str]) -> Finished {
        Finished::of(self.command_of("podman", args).output().unwrap())
    }

    /// Runs podman, which must succeed: its standard output.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let finished = self.output(args);
        assert_eq!(finished.code, 0, "podman {args:?} failed: {finished:?}");
        finished.stdout
    }

    /// Runs podman with this input.
    pub fn with_input(&self, args: &[&str], input: Vec<u8>) -> Output {
        let mut command = self.command_of("podman", args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let feeder = thread::spawn(move || {
            // A program that ends before it has read all is the test's to judge.
            let _ = std::io::Write::write_all(&mut stdin, &input);
        });
        let output = child.wait_with_output().unwrap();
        feeder.join().unwrap();
        output
    }

    /// Whether the runtime keeps anything of a container.
    pub fn keeps(&self, id: &str) -> bool {
        self.path("containers").join(id).exists()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.output(&["rm", "--force", "--all", "--time", "0"]);
        let _ = umount2(self.folder.path(), MntFlags::MNT_DETACH);
    }
}

/// A folder of the host for one test.
pub fn folder(engine: &Engine, name: &str) -> PathBuf {
    let path = engine.path(name);
    fs::create_dir(&path).unwrap();
    path
}

/// A path as an argument.
pub fn argument(path: &Path) -> &str {
    path.to_str().unwrap()
}
