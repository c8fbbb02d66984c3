//! A pod of a test's own: a guest with slots, a tree of shares, and containers in it.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ampoule::agent::message::{
    BlockDevice, Create, Exec, HookState, ProcessId, Reply, Request, Rootfs, RootfsSource, Stdio,
    Wake, WritableLayer,
};
use ampoule::agent::{Client, ClientError, stream};
use ampoule::sandbox::launch::{Backing, Launched, Machine};
use ampoule::sandbox::template::Templates;
use ampoule::sandbox::{Places, SHARE, Shape, SharedTree};
use ampoule::vmm::config::Share;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{guest, shared_templates};

const TIME: Duration = Duration::from_secs(120);

pub struct Pod {
    pub machine: Machine,
    pub tree: SharedTree,
    pub folder: TempDir,
    pub client: Client,
    tokens: u32,
}

impl Pod {
    /// A guest without containers.
    pub fn start() -> Self {
        // SAFETY: every test sets it to the same, before it starts anything that reads it.
        unsafe { std::env::set_var("AMPOULE_GUEST", guest()) };
        let folder = TempDir::new().unwrap();
        let places =
            Places::new(Some(folder.path()), Some(folder.path()), Some(&shared_templates()));
        let shape = Shape::new(None, None, None).for_pod();
        let template = Templates::new(places.templates()).get(&shape).unwrap();
        let tree = SharedTree::new().unwrap();
        let backing = Backing { top: Some(tree.top().clone()), ..Backing::default() };
        let (machine, launched) =
            Machine::start(&places, &shape, backing, Some(&template)).unwrap();
        assert!(matches!(launched, Launched::Warm));
        let mut client = Client::open(&machine.vsock(), TIME).unwrap();
        client.call(&Request::Wake(Box::new(wake()))).unwrap();
        Self { machine, tree, folder, client, tokens: 0 }
    }

    /// A new folder on the host.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    }

    pub fn share(&self, name: &str, path: &Path, read_only: bool) {
        self.tree.add(name, &Share { path: path.into(), read_only }).unwrap();
    }

    /// Makes a container that does nothing, and starts it.
    pub fn run(&mut self, create: Create) -> Result<(), ClientError> {
        let id = ProcessId::init(&create.container);
        self.client.send(&Request::Create(Box::new(create)))?;
        self.client.receive_created()?;
        self.client.call(&Request::Start(id))
    }

    /// Kills a container and forgets it.
    pub fn delete(&mut self, name: &str) {
        let id = ProcessId::init(name);
        self.client.call(&Request::Kill { id: id.clone(), signal: 9, all: true }).unwrap();
        self.client.send(&Request::Wait(id)).unwrap();
        self.client.receive_exited().unwrap();
        self.client.call(&Request::Delete { container: name.into() }).unwrap();
    }

    /// What a shell says in a container, its errors among it.
    pub fn shell(&mut self, container: &str, script: &str) -> String {
        self.tokens += 1;
        let token = format!("out-{}", self.tokens);
        let process: Value = json!({
            "user": {"uid": 0, "gid": 0}, "cwd": "/",
            "args": ["sh", "-c", format!("exec 2>&1\n{script}")],
        });
        let exec = Exec {
            container: container.into(),
            process: token.clone(),
            spec: Box::new(serde_json::from_value(process).unwrap()),
            user: None,
            inherit: true,
            stdio: Stdio { stdout: Some(token.clone()), ..Stdio::default() },
        };
        let mut output = stream(&self.machine.vsock(), &token).unwrap();
        self.client.send(&Request::Exec(Box::new(exec))).unwrap();
        match self.client.receive().unwrap() {
            Reply::Created { .. } => {}
            other => panic!("{other:?}"),
        }
        let mut said = String::new();
        output.read_to_string(&mut said).unwrap();
        said
    }

    /// Another connection to its agent.
    pub fn connect(&self) -> Client {
        Client::open(&self.machine.vsock(), TIME).unwrap()
    }
}

/// The request for a container whose root is this, and whose program waits.
pub fn container(name: &str, source: RootfsSource) -> Create {
    Create {
        container: name.into(),
        spec: Box::new(serde_json::from_value(spec()).unwrap()),
        rootfs: Rootfs { source, writable: WritableLayer::Source },
        block_devices: Vec::<BlockDevice>::new(),
        identity: HookState::default(),
        files: Vec::new(),
        networked: false,
        user: None,
        stdio: Stdio::default(),
    }
}

/// A directory of the tree.
pub fn shared(path: &str) -> RootfsSource {
    RootfsSource::Share { tag: SHARE.into(), path: path.into() }
}

/// The same with a share bound to a path.
pub fn bind(mut create: Create, share: &str, to: &str) -> Create {
    let mount = json!({
        "destination": to, "type": "bind", "options": ["rbind"],
        "source": format!("{}/{SHARE}/{share}", ampoule_protocol::SHARES),
    });
    let mut mounts = create.spec.mounts().clone().unwrap_or_default();
    mounts.push(serde_json::from_value(mount).unwrap());
    create.spec.set_mounts(Some(mounts));
    create
}

fn spec() -> Value {
    let caps = ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN", "CAP_MKNOD"];
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "process": {
            "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["sleep", "1000000"],
            "env": ["PATH=/bin"],
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
        ],
        // The network is the pod's.
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}]},
    })
}

fn wake() -> Wake {
    Wake {
        seed: "5a".repeat(Wake::SEED_BYTES),
        realtime_ns: 1_800_000_000_000_000_000,
        machine_id: "1".repeat(32),
        boot_id: "01234567-89ab-4cde-8f01-23456789abcd".into(),
        hostname: "pod".into(),
    }
}

/// Makes a root file system of busybox.
pub fn busybox(root: &Path) {
    for directory in ["bin", "etc", "tmp"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let applets = Command::new("/bin/busybox").arg("--list").output().unwrap().stdout;
    for applet in String::from_utf8(applets).unwrap().lines().filter(|name| *name != "busybox") {
        let _ = symlink("busybox", root.join("bin").join(applet));
    }
}

/// Runs a program of the host that must succeed.
pub fn tool(program: &str, args: &[&str]) -> String {
    let done = Command::new(program).args(args).output().unwrap();
    assert!(done.status.success(), "{program} {args:?}: {done:?}");
    String::from_utf8(done.stdout).unwrap()
}
