//! A containerd of one's own, set up as a node has it: two runtimes to choose from, a bridge between pods.
//! Everything that it writes is on one tmpfs, which goes with it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::{Client, ConnectError};

/// The handlers that pods can choose, and the names by which containerd finds their shims.
pub const HANDLERS: [(&str, &str); 2] =
    [("runc", "io.containerd.runc.v2"), ("ampoule", "io.containerd.ampoule.v2")];
/// What stands for a pod with runc: of the images that tests run.
const PAUSE: &str = "localhost/pause:1";
/// Where Debian has the plugins of which networks are made.
pub const PLUGINS: &str = "/usr/lib/cni";
/// How long containerd may take to serve.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why there is no node.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("containerd has ended ({status}); it told: {told}")]
    Ended { status: ExitStatus, told: String },
    #[error("containerd does not serve; it told: {0}")]
    Silent(String),
    #[error("ctr {args:?} failed: {told}")]
    Ctr { args: Vec<String>, told: String },
    #[error(transparent)]
    Client(#[from] ConnectError),
}

/// What a node is made of.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Folder of the images' archives.
    pub images: PathBuf,
    /// Folder of ampoule's shim.
    pub shims: PathBuf,
    /// What containerd has in its environment beside that of its starter, and so have its shims.
    pub environment: Vec<(&'static str, PathBuf)>,
    /// Whether starts are traced, to `trace.json` in its folder.
    pub traced: bool,
}

/// A running containerd.
#[derive(Debug)]
pub struct Node {
    folder: TempDir,
    setting: Setting,
    containerd: Mutex<Child>,
    client: OnceLock<Client>,
}

impl Node {
    /// Starts one, with the images that every pod takes.
    pub fn start(setting: Setting) -> Result<Self, NodeError> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |source| NodeError::Io { what, source }
        };
        let folder =
            tempfile::Builder::new().prefix("node").tempdir().map_err(failed("no folder"))?;
        let place = folder.path();
        mount(Some("node"), place, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
            .map_err(io::Error::from)
            .map_err(failed("no tmpfs"))?;
        write_settings(place).map_err(failed("the settings are not written"))?;
        let containerd = spawn(place, &setting).map_err(failed("containerd is not started"))?;
        let client = OnceLock::new();
        let node = Self { folder, setting, containerd: Mutex::new(containerd), client };
        node.await_containerd()?;
        node.import("k8s.io", "busybox")?;
        node.import("k8s.io", "pause")?;
        Ok(node)
    }

    /// Loads an archive into a namespace of containerd.
    pub fn import(&self, space: &str, image: &str) -> Result<(), NodeError> {
        let archive = self.setting.images.join(format!("{image}.tar"));
        self.ctr(&["-n", space, "images", "import", &archive.display().to_string()]).map(drop)
    }

    /// Runs `ctr`, which must succeed: its standard output.
    pub fn ctr(&self, args: &[&str]) -> Result<String, NodeError> {
        let output = self
            .program("ctr", args)
            .output()
            .map_err(|source| NodeError::Io { what: "no ctr".to_owned(), source })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(NodeError::Ctr { args: args.iter().map(|&arg| arg.to_owned()).collect(), told })
    }

    /// The folder that goes with the node.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A name that no other node has.
    pub fn name(&self) -> &str {
        name_of(self.folder.path())
    }

    /// Parent of the control groups of pods.
    pub fn cgroup(&self) -> String {
        format!("/{}-pods", self.name())
    }

    /// Name of the bridge between pods.
    pub fn bridge(&self) -> String {
        bridge_of(self.folder.path())
    }

    /// A program that knows this containerd.
    pub fn program<S: AsRef<OsStr>>(
        &self,
        program: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .env("CONTAINERD_ADDRESS", self.folder.path().join("containerd.sock"))
            .env("TMPDIR", self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// The interface for pods.
    pub fn client(&self) -> Result<&Client, NodeError> {
        if self.client.get().is_none() {
            let client = Client::connect(&self.folder.path().join("containerd.sock"))?;
            let _ = self.client.set(client);
        }
        self.client.get().ok_or_else(|| NodeError::Silent(self.told()))
    }

    fn containerd(&self) -> MutexGuard<'_, Child> {
        self.containerd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills containerd and nothing else.
    pub fn kill_containerd(&self) {
        let mut containerd = self.containerd();
        let _ = containerd.kill();
        let _ = containerd.wait();
    }

    /// Starts containerd again.
    pub fn start_containerd(&self) -> Result<(), NodeError> {
        *self.containerd() = spawn(self.folder.path(), &self.setting).map_err(|source| {
            NodeError::Io { what: "containerd is not started".to_owned(), source }
        })?;
        self.await_containerd()
    }

    fn await_containerd(&self) -> Result<(), NodeError> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Ok(Some(status)) = self.containerd().try_wait() {
                return Err(NodeError::Ended { status, told: self.told() });
            }
            let socket = self.folder.path().join("containerd.sock");
            if UnixStream::connect(socket).is_ok() && self.ctr(&["version"]).is_ok() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(100));
        }
        Err(NodeError::Silent(self.told()))
    }

    /// The last that containerd and its shims told, for whoever asks why something failed.
    pub fn told(&self) -> String {
        let told =
            fs::read_to_string(self.folder.path().join("containerd.log")).unwrap_or_default();
        let lines: Vec<&str> = told.lines().collect();
        let (before, last) = lines.split_at(lines.len().saturating_sub(25));
        // Why something ended is told when it does, which may be long before it is missed.
        let grave = |line: &&&str| {
            ["level=warn", "level=err", "level=fatal"].iter().any(|level| line.contains(level))
        };
        let mut grave: Vec<&str> = before.iter().filter(grave).copied().collect();
        let shown = grave.split_off(grave.len().saturating_sub(40));
        format!("\n{}\n…\n{}", shown.join("\n"), last.join("\n"))
    }

    /// Ids and command lines of the processes that work for this containerd: shims, keepers, monitors.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let ours = self.folder.path().display().to_string();
        let works = |pid: &i32| {
            let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            let name = exe.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            (name.starts_with("containerd-shim") || name.starts_with("ampoule"))
                && (String::from_utf8_lossy(&environ).contains(&ours)
                    || words(*pid).contains(&ours))
        };
        pids().into_iter().filter(works).map(|pid| (pid, words(pid))).collect()
    }

    /// Everything that runs for this containerd ends at once, itself included, and what a start of the
    /// machine makes anew is gone.
    pub fn fail_power(&self) {
        self.kill_containerd();
        self.kill_all();
        self.end_groups();
        self.unmount("/state/");
        // runc's is of all nodes.
        let runc = Path::new("/run/containerd/runc").join(self.name());
        let place = self.folder.path();
        for folder in [place.join("state"), place.join("ampoule"), runc] {
            let _ = fs::remove_dir_all(folder);
        }
    }

    fn kill_all(&self) {
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            let processes = self.processes();
            if processes.is_empty() {
                break;
            }
            for (pid, _) in processes {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn end_groups(&self) {
        for group in [format!("/{}", self.name()), self.cgroup()] {
            end_group(&Path::new("/sys/fs/cgroup").join(&group[1..]));
        }
    }

    /// Unmounts everything of this node whose path has this part.
    fn unmount(&self, part: &str) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let all = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        let ours: Vec<&str> =
            all.filter(|path| path.contains(self.name()) && path.contains(part)).collect();
        for path in ours.iter().rev() {
            let _ = umount2(Path::new(path), MntFlags::MNT_DETACH);
        }
    }
}

impl Drop for Node {
    /// Whatever failed may have left anything.
    fn drop(&mut self) {
        if let Some(client) = self.client.get() {
            for pod in client.pods().unwrap_or_default() {
                let _ = client.stop_pod(&pod.id);
                let _ = client.remove_pod(&pod.id);
            }
        }
        self.kill_containerd();
        self.kill_all();
        self.end_groups();
        let bridge = self.bridge();
        let _ = Command::new("ip").args(["link", "delete", &bridge]).stderr(Stdio::null()).status();
        self.unmount("");
    }
}

/// Ids of all processes.
pub fn pids() -> Vec<i32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Command line of a process.
pub fn words(pid: i32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&words).trim_end_matches('\0').replace('\0', " ")
}

/// Folders below this one, whatever their depth.
pub fn folders(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(folder, &mut found);
    found
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // A root file system has names of its own.
            if entry.file_name() != "rootfs" {
                walk(&entry.path(), found);
            }
            found.push(entry.path());
        }
    }
}

/// Kills what is in a control group, and removes it.
fn end_group(group: &Path) {
    if !group.exists() {
        return;
    }
    let _ = fs::write(group.join("cgroup.kill"), "1");
    let mut found = folders(group);
    found.push(group.to_owned());
    // The kernel takes a moment to see that all have died.
    let gone = Instant::now() + Duration::from_secs(5);
    for path in found {
        while fs::remove_dir(&path).is_err() && path.exists() && Instant::now() < gone {
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn name_of(folder: &Path) -> &str {
    folder.file_name().and_then(OsStr::to_str).unwrap_or("node")
}

/// Links' names are short.
fn bridge_of(folder: &Path) -> String {
    format!("br-{}", name_of(folder))
}

fn write_settings(folder: &Path) -> io::Result<()> {
    fs::create_dir(folder.join("cni"))?;
    fs::write(folder.join("config.toml"), config_of(folder))?;
    fs::write(folder.join("cni/10-node.conflist"), network_of(folder))
}

fn config_of(folder: &Path) -> String {
    let place = folder.display();
    let runtimes = HANDLERS.map(|(handler, kind)| {
        format!(
            "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{handler}]\n\
             runtime_type = \"{kind}\"\n"
        )
    });
    format!(
        "version = 2\nroot = \"{place}/root\"\nstate = \"{place}/state\"\n\
         disabled_plugins = [\"io.containerd.internal.v1.opt\", \"io.containerd.snapshotter.v1.btrfs\", \
           \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.snapshotter.v1.zfs\", \
           \"io.containerd.snapshotter.v1.aufs\"]\n\
         [grpc]\naddress = \"{place}/containerd.sock\"\n\
         [ttrpc]\naddress = \"{place}/containerd.sock.ttrpc\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{PAUSE}\"\n\
         stream_server_address = \"127.0.0.1\"\nstream_server_port = \"0\"\n\
         restrict_oom_score_adj = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"{PLUGINS}\"\nconf_dir = \"{place}/cni\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd]\ndefault_runtime_name = \"runc\"\n\
         snapshotter = \"overlayfs\"\n{}",
        runtimes.concat(),
    )
}

/// A bridge, as most nodes have one, with a range of addresses that no other node uses.
fn network_of(folder: &Path) -> String {
    let bridge = bridge_of(folder);
    let third = bridge.bytes().fold(0u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
    let place = folder.display();
    format!(
        r#"{{"cniVersion": "1.0.0", "name": "{bridge}", "plugins": [
            {{"type": "bridge", "bridge": "{bridge}", "isGateway": true, "ipMasq": true, "hairpinMode": true,
              "ipam": {{"type": "host-local", "dataDir": "{place}/addresses",
                        "ranges": [[{{"subnet": "10.213.{third}.0/24"}}]],
                        "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
            {{"type": "portmap", "capabilities": {{"portMappings": true}}}}
        ]}}"#,
    )
}

fn spawn(folder: &Path, setting: &Setting) -> io::Result<Child> {
    let log =
        fs::OpenOptions::new().create(true).append(true).open(folder.join("containerd.log"))?;
    let inherited = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{inherited}:/usr/sbin:/sbin", setting.shims.display());
    Command::new("containerd")
        .arg("--config")
        .arg(folder.join("config.toml"))
        .env("PATH", path)
        .env("AMPOULE_STATE", folder.join("ampoule"))
        .env("TMPDIR", folder)
        .envs(setting.environment.iter().map(|(name, value)| (name, value)))
        .envs(setting.traced.then(|| ("AMPOULE_TRACE", folder.join("trace.json"))))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
}
