//! A containerd of the tests' own, and what a host has of a container.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use ampoule_cri::Client;
use ampoule_cri::node::{HANDLERS, Node, PLUGINS, Setting, folders};

use crate::support::{BIN, Finished, can_boot, feed, guest, images, shared_templates};

/// What containers are made of.
pub const IMAGE: &str = "docker.io/library/busybox:latest";
/// The same, for pods with a user of its own.
pub const NONROOT: &str = "docker.io/library/nonroot:latest";
/// Name of the shim's program.
const SHIM: &str = "containerd-shim-ampoule-v2";

/// The runtime whose containers the tests look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    Ampoule,
    /// For comparison, when a test is written.
    Runc,
}

impl Runtime {
    /// The one that is tested in this run.
    pub fn tested() -> Self {
        match std::env::var("AMPOULE_TEST_RUNTIME").as_deref() {
            Ok("runc") => Self::Runc,
            Ok("ampoule") | Err(_) => Self::Ampoule,
            Ok(other) => panic!("AMPOULE_TEST_RUNTIME: there is no runtime {other:?}"),
        }
    }

    /// The name that pods choose it by.
    pub fn handler(self) -> &'static str {
        let [runc, ampoule] = HANDLERS;
        if self == Self::Runc { runc.0 } else { ampoule.0 }
    }

    /// The name that containerd finds its shim by.
    pub fn kind(self) -> &'static str {
        let [runc, ampoule] = HANDLERS;
        if self == Self::Runc { runc.1 } else { ampoule.1 }
    }
}

/// Why no test can run here; asked once.
pub fn missing() -> Result<(), String> {
    static ANSWER: OnceLock<Result<(), String>> = OnceLock::new();
    let ask = || {
        if !nix::unistd::geteuid().is_root() {
            return Err("needs root".to_owned());
        }
        for program in ["containerd", "ctr", "runc", "iptables"] {
            let found = std::env::var_os("PATH").is_some_and(|path| {
                std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
            });
            if !found && !Path::new("/usr/sbin").join(program).is_file() {
                return Err(format!("needs {program} (tools/install-deps test)"));
            }
        }
        for file in [Path::new(PLUGINS).join("bridge"), images().join("pause.tar")] {
            if !file.is_file() {
                let file = file.display();
                return Err(format!("needs {file} (tools/install-deps test, rootfs/test-images)"));
            }
        }
        if Runtime::tested() == Runtime::Ampoule {
            can_boot()?;
            if !shims().join(SHIM).is_file() {
                return Err(format!("needs {SHIM}"));
            }
        }
        Ok(())
    };
    ANSWER.get_or_init(ask).clone()
}

/// The containerd that tests share, or the calling test's end, as skipped.
#[macro_export]
macro_rules! lab {
    () => {{
        if let Err(reason) = $crate::lab::missing() {
            return $crate::support::skip(&reason);
        }
        $crate::lab::Lab::shared()
    }};
    (own) => {{
        if let Err(reason) = $crate::lab::missing() {
            return $crate::support::skip(&reason);
        }
        $crate::lab::Lab::new()
    }};
}

/// Returns from the calling test, as skipped, where control groups are not of the second version alone.
#[macro_export]
macro_rules! needs_groups {
    () => {
        if !std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            return $crate::support::skip("needs cgroup v2");
        }
    };
}

/// Folder of the shim under test.
fn shims() -> PathBuf {
    std::env::var_os("AMPOULE_TEST_SHIMS")
        .map_or_else(|| Path::new(BIN).parent().unwrap().to_owned(), PathBuf::from)
}

/// Folder of its guest's kernel and initramfs.
fn guest_of(shims: &Path) -> PathBuf {
    let beside = shims.parent().unwrap().join("guest");
    if beside.is_dir() { beside } else { guest() }
}

pub struct Lab {
    node: Node,
    pub runtime: Runtime,
}

impl Lab {
    /// The one that tests which run at the same time share.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Lab>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(lab) = shared.upgrade() {
            return lab;
        }
        let lab = Arc::new(Self::new());
        *shared = Arc::downgrade(&lab);
        lab
    }

    /// One that no other test uses.
    pub fn new() -> Self {
        let shims = shims();
        let environment =
            vec![("AMPOULE_TEMPLATES", shared_templates()), ("AMPOULE_GUEST", guest_of(&shims))];
        let setting = Setting { images: images(), shims, environment, traced: true };
        let lab = Self { node: Node::start(setting).unwrap(), runtime: Runtime::tested() };
        lab.node.import(lab.space(), "busybox").unwrap();
        lab
    }

    /// Loads an archive of the tests for pods; not all need it.
    pub fn load(&self, image: &str) {
        self.node.import("k8s.io", image).unwrap();
        // Pods know images by their whole names only.
        let name = format!("docker.io/library/{image}:latest");
        let tag = ["-n", "k8s.io", "images", "tag", "--force", &format!("{image}:latest"), &name];
        self.node.ctr(&tag).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.node.folder().join(name)
    }

    /// The same, as an argument.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A folder of the host for one test.
    pub fn new_folder(&self, name: &str) -> PathBuf {
        let path = self.path("host").join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// containerd's namespace of what `ctr` makes: its control groups are in a folder of this name.
    pub fn space(&self) -> &str {
        self.node.name()
    }

    /// Parent of the control groups of pods.
    pub fn cgroup(&self) -> String {
        self.node.cgroup()
    }

    /// A command line of `ctr`.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.node.program("ctr", ["-n", self.space()]);
        command.args(args);
        command
    }

    /// Runs `ctr` to its end.
    pub fn output(&self, args: &[&str]) -> Finished {
        Finished::of(self.command(args).output().unwrap())
    }

    /// Runs `ctr`, which must succeed: its standard output.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let finished = self.output(args);
        assert_eq!(finished.code, 0, "ctr {args:?} failed: {finished:?}{}", self.told());
        finished.stdout
    }

    /// A command line of `ctr run` with the tested runtime.
    pub fn run_args<'a>(
        &self,
        options: &[&'a str],
        id: &'a str,
        command: &[&'a str],
    ) -> Vec<&'a str> {
        let head: [&'static str; 3] = ["run", "--runtime", self.runtime.kind()];
        [&head[..], options, &[IMAGE, id], command].concat()
    }

    /// `ctr run --rm` to its end.
    pub fn run(&self, options: &[&str], id: &str, script: &str) -> Finished {
        let options = [&["--rm"], options].concat();
        self.output(&self.run_args(&options, id, &["sh", "-c", script]))
    }

    /// Runs a command line with this input.
    pub fn with_input(&self, args: &[&str], input: Vec<u8>) -> Output {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        feed(command.spawn().unwrap(), input)
    }

    /// The interface for pods.
    pub fn cri(&self) -> &Client {
        self.node.client().unwrap()
    }

    /// Kills containerd and nothing else.
    pub fn kill_containerd(&self) {
        self.node.kill_containerd();
    }

    /// Starts containerd again.
    pub fn start_containerd(&self) {
        self.node.start_containerd().unwrap();
    }

    /// Everything ends at once, as when the power fails.
    pub fn fail_power(&self) {
        self.node.fail_power();
    }

    /// The last that containerd and its shims told, for whoever asks why a test failed.
    pub fn told(&self) -> String {
        self.node.told()
    }

    /// Ids and command lines of the processes that work for this containerd: shims, keepers, monitors.
    pub fn processes(&self) -> Vec<(i32, String)> {
        self.node.processes()
    }

    /// The file that stands for a pod's network.
    pub fn network_of(&self, pod: &str) -> Option<String> {
        let info = Finished::of(
            self.node.program("ctr", ["-n", "k8s.io", "container", "info", pod]).output().unwrap(),
        );
        let info: serde_json::Value = serde_json::from_str(&info.stdout).ok()?;
        let spaces = info["Spec"]["linux"]["namespaces"].as_array()?;
        let network = spaces.iter().find(|space| space["type"] == "network")?;
        network["path"].as_str().map(str::to_owned)
    }

    /// The host's ends of pods' links: those in the bridge between them.
    pub fn links(&self) -> Vec<String> {
        let ports = Path::new("/sys/class/net").join(self.node.bridge()).join("brif");
        let links = fs::read_dir(ports).into_iter().flatten().flatten();
        links.map(|link| link.file_name().to_string_lossy().into_owned()).collect()
    }

    /// What is kept of sandboxes.
    pub fn machines(&self) -> Vec<String> {
        let kept = ["sandboxes", "names"].map(|name| self.path("ampoule").join(name));
        let entries = kept.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten());
        entries.flatten().map(|entry| entry.path().display().to_string()).collect()
    }

    /// What the host still has of a container or pod of this id.
    pub fn left(&self, id: &str) -> Vec<String> {
        let mut left: Vec<String> = Vec::new();
        let processes = self.processes().into_iter().map(|(_, words)| format!("process {words}"));
        left.extend(processes.filter(|words| words.contains(id)));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        left.extend(mounts.lines().filter(|line| line.contains(id)).map(str::to_owned));
        for folder in [self.path("state"), self.path("ampoule"), PathBuf::from("/sys/fs/cgroup")] {
            let found = folders(&folder);
            let named = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().contains(id);
            left.extend(
                found.iter().filter(|path| named(path)).map(|path| path.display().to_string()),
            );
        }
        left
    }

    /// Fails the test where something of this id does not go away.
    #[track_caller]
    pub fn nothing_left(&self, id: &str) {
        let end = Instant::now() + Duration::from_secs(30);
        while !self.left(id).is_empty() {
            let late = Instant::now() > end;
            assert!(!late, "left of {id}: {:#?}{}", self.left(id), self.told());
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("{}", self.told());
        }
    }
}

/// Waits until the condition holds, which something else brings about.
#[track_caller]
pub fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !condition() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(100));
    }
}
