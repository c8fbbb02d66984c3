//! The shim without a containerd: what newer ones ask for, and snapshotters that Debian's does not have.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use containerd_shim::protos::api::{
    CreateTaskRequest, DeleteRequest, Mount, ShutdownRequest, StartRequest, WaitRequest,
};
use containerd_shim::protos::protobuf::Message;
use containerd_shim::protos::shim_sync::{Client, TaskClient};
use containerd_shim::protos::ttrpc::context;
use serde_json::json;
use tempfile::TempDir;

use crate::lab;
use crate::lab::Runtime;
use crate::support::{BIN, guest, shared_templates};

/// How long a call may take.
const PATIENCE: i64 = 120_000_000_000;

struct Direct {
    folder: TempDir,
    /// Events go here, and no further.
    _events: UnixListener,
    client: TaskClient,
    address: String,
}

impl Direct {
    /// A shim for a bundle in which this script is run.
    fn new(script: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("direct").tempdir_in("/dev/shm").unwrap();
        let bundle = folder.path().join("bundle");
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        let config = json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs"},
            "process": {
                "user": {"uid": 0, "gid": 0}, "cwd": "/",
                "args": ["/bin/sh", "-c", script], "env": ["PATH=/bin"],
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            ],
            "linux": {"namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "network"},
            ]},
        });
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        // A named pipe where containerd reads it.
        fs::write(bundle.join("log"), "").unwrap();
        let events = UnixListener::bind(folder.path().join("events")).unwrap();
        let shim = Path::new(BIN).with_file_name("containerd-shim-ampoule-v2");
        let started = Command::new(&shim)
            .args(["-namespace", "direct", "-id", "one", "-address"].map(OsStr::new))
            // Of which the socket's address is made.
            .arg(folder.path())
            .arg("start")
            .current_dir(&bundle)
            .env("TTRPC_ADDRESS", folder.path().join("events"))
            .env("AMPOULE_STATE", folder.path().join("ampoule"))
            .env("AMPOULE_TEMPLATES", shared_templates())
            .env("AMPOULE_GUEST", guest())
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let address = String::from_utf8(started.stdout).unwrap();
        let words = String::from_utf8_lossy(&started.stderr);
        assert!(address.starts_with("unix:///"), "{address:?} {words}");
        let client = TaskClient::new(Client::connect(&address).unwrap());
        Self { folder, _events: events, client, address }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the container with this root file system: its exit status and output.
    fn run(&self, rootfs: Mount) -> (u32, String) {
        let context = || context::with_timeout(PATIENCE);
        let output = self.path("output");
        let create = CreateTaskRequest {
            id: "one".into(),
            bundle: self.path("bundle").display().to_string(),
            rootfs: vec![rootfs],
            stdout: format!("file://{}", output.display()),
            ..Default::default()
        };
        let made = self.client.create(context(), &create).unwrap();
        assert!(made.pid > 0);
        let start = StartRequest { id: "one".into(), ..Default::default() };
        let started = self.client.start(context(), &start);
        let log = || fs::read_to_string(self.path("bundle/log")).unwrap();
        assert!(started.is_ok(), "{started:?}\n{}", log());
        let wait = WaitRequest { id: "one".into(), ..Default::default() };
        let exit = self.client.wait(context(), &wait).unwrap();
        let delete = DeleteRequest { id: "one".into(), ..Default::default() };
        self.client.delete(context(), &delete).unwrap();
        let shutdown = ShutdownRequest { id: "one".into(), ..Default::default() };
        self.client.shutdown(context(), &shutdown).unwrap();
        (exit.exit_status, fs::read_to_string(output).unwrap())
    }
}

/// A root file system of busybox.
fn busybox(folder: &Path) {
    fs::create_dir_all(folder.join("bin")).unwrap();
    fs::create_dir(folder.join("proc")).unwrap();
    fs::create_dir(folder.join("dev")).unwrap();
    fs::create_dir(folder.join("sys")).unwrap();
    fs::copy("/bin/busybox", folder.join("bin/busybox")).unwrap();
    for applet in ["sh", "cat", "sync", "touch"] {
        symlink("busybox", folder.join("bin").join(applet)).unwrap();
    }
    fs::write(folder.join("word"), "from the disk\n").unwrap();
}

fn mount(kind: &str, source: &Path, options: &[&str]) -> Mount {
    Mount {
        type_: kind.into(),
        source: source.display().to_string(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..Default::default()
    }
}

#[track_caller]
fn makes(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn a_snapshotter_keeps_root_file_systems_on_disks() {
    let lab = lab!();
    if lab.runtime == Runtime::Runc {
        return;
    }
    let direct = Direct::new("cat /word; echo new > /new; sync; exit 7");
    busybox(&direct.path("root"));
    let disk = direct.path("disk");
    makes(
        Command::new("mkfs.ext4").args(["-q", "-d"]).arg(direct.path("root")).arg(&disk).arg("16M"),
    );
    let (status, output) = direct.run(mount("ext4", &disk, &["loop", "rw"]));
    assert_eq!((status, output.as_str()), (7, "from the disk\n"));
    // What was written is on it, and it is whole.
    makes(Command::new("e2fsck").args(["-f", "-n"]).arg(&disk));
    let read = Command::new("debugfs").args(["-R", "cat /new"]).arg(&disk).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&read.stdout), "new\n");
    let socket = direct.address.trim_start_matches("unix://");
    assert!(!Path::new(socket).exists());
}

#[test]
fn a_disk_that_is_only_read_stays_as_it_is() {
    let lab = lab!();
    if lab.runtime == Runtime::Runc {
        return;
    }
    let direct = Direct::new("cat /word; touch /new || echo refused");
    busybox(&direct.path("root"));
    let disk = direct.path("disk");
    makes(Command::new("mkfs.erofs").arg(&disk).arg(direct.path("root")));
    let before = fs::read(&disk).unwrap();
    let (_, output) = direct.run(mount("erofs", &disk, &["loop", "ro"]));
    assert!(output.starts_with("from the disk\n") && output.ends_with("refused\n"), "{output}");
    assert!(before == fs::read(&disk).unwrap());
}

#[test]
fn what_a_runtime_is_can_be_asked_before_there_is_one() {
    let lab = lab!();
    if lab.runtime == Runtime::Runc {
        return;
    }
    let shim = Path::new(BIN).with_file_name("containerd-shim-ampoule-v2");
    let told =
        Command::new(&shim).arg("-info").stdin(std::process::Stdio::null()).output().unwrap();
    let info =
        containerd_shim::protos::types::introspection::RuntimeInfo::parse_from_bytes(&told.stdout);
    assert_eq!(info.unwrap().name, "io.containerd.ampoule.v2");
    let told = Command::new(&shim).arg("-v").output().unwrap();
    let words = String::from_utf8(told.stdout).unwrap();
    assert!(words.contains(env!("CARGO_PKG_VERSION")), "{words}");
    let refused = Command::new(&shim).arg("frobnicate").output().unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("frobnicate"));
}
