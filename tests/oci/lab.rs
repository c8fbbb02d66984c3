//! A bundle with busybox, and a runtime whose state is nobody else's.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use ampoule::process::Process;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Finished, shared_templates};

/// The runtime under test.
pub const OCI: &str = env!("CARGO_BIN_EXE_ampoule-oci");

/// What the containers' programs are made of.
const APPLETS: [&str; 37] = [
    "cat",
    "chmod",
    "chown",
    "cp",
    "cut",
    "date",
    "dd",
    "echo",
    "env",
    "false",
    "grep",
    "head",
    "hostname",
    "id",
    "kill",
    "ln",
    "ls",
    "mkdir",
    "mount",
    "mv",
    "nproc",
    "ps",
    "readlink",
    "rm",
    "sed",
    "seq",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "stty",
    "touch",
    "true",
    "tty",
    "wc",
    "yes",
];

/// A script that says when it is there, and runs until something ends it.
pub const WAITS: &str = "echo ready; while :; do sleep 1; done";

/// A bundle in `bundle/`, the runtime's `--root` in `root/`, sandboxes in `state/`.
pub struct Lab {
    folder: TempDir,
}

/// A container's process and its caller's ends of its streams.
pub struct Created {
    pub stdin: Option<ChildStdin>,
    pub stdout: ChildStdout,
    pub stderr: ChildStderr,
}

impl Lab {
    /// With a bundle whose program is this one.
    pub fn new(args: &[&str]) -> Self {
        let lab = Self { folder: TempDir::new().unwrap() };
        let rootfs = lab.rootfs();
        for folder in ["bin", "dev", "etc", "home", "proc", "sys", "tmp"] {
            fs::create_dir_all(rootfs.join(folder)).unwrap();
        }
        fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        fs::write(rootfs.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").unwrap();
        lab.write_config(&config(args));
        lab
    }

    /// With a bundle whose program is a shell with this script.
    pub fn shell(script: &str) -> Self {
        Self::new(&["sh", "-c", script])
    }

    /// Something below the folder that goes with the test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same, as an argument.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub fn bundle(&self) -> PathBuf {
        self.path("bundle")
    }

    pub fn rootfs(&self) -> PathBuf {
        self.path("bundle/rootfs")
    }

    fn write_config(&self, config: &Value) {
        fs::write(self.bundle().join("config.json"), config.to_string()).unwrap();
    }

    /// Changes the bundle's configuration.
    pub fn change(&self, change: impl FnOnce(&mut Value)) -> &Self {
        let file = self.bundle().join("config.json");
        let mut config = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        change(&mut config);
        self.write_config(&config);
        self
    }

    /// Adds a bind mount of a folder or file of the host.
    pub fn bind(&self, source: &Path, destination: &str, options: &[&str]) -> &Self {
        self.change(|config| {
            let mount = json!({
                "destination": destination, "type": "bind", "source": source, "options": options,
            });
            config["mounts"].as_array_mut().unwrap().push(mount);
        })
    }

    /// A command line of the runtime.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(OCI);
        command
            .arg("--root")
            .arg(self.path("root"))
            .args(args)
            .current_dir(self.bundle())
            .env("AMPOULE_STATE", self.path("state"))
            .env("AMPOULE_TEMPLATES", shared_templates())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command line to its end, and that of its output.
    pub fn output(&self, args: &[&str]) -> Finished {
        Finished::of(self.command(args).output().unwrap())
    }

    /// Runs a command line that must succeed: its standard output.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let finished = self.output(args);
        assert_eq!(finished.code, 0, "{args:?} failed: {finished:?}");
        finished.stdout
    }

    /// Starts a command line with pipes.
    pub fn spawn(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Creates a container, which has the pipes' other ends for as long as it lives.
    #[track_caller]
    pub fn create(&self, id: &str, options: &[&str]) -> Created {
        let mut child = self.spawn(&[&["create"], options, &[id]].concat());
        let mut created = Created {
            stdin: child.stdin.take(),
            stdout: child.stdout.take().unwrap(),
            stderr: child.stderr.take().unwrap(),
        };
        if !child.wait().unwrap().success() {
            let mut told = String::new();
            created.stderr.read_to_string(&mut told).unwrap();
            panic!("create {id} failed: {told}");
        }
        created
    }

    /// Creates and starts a container.
    #[track_caller]
    pub fn start(&self, id: &str) -> Created {
        let created = self.create(id, &[]);
        self.ok(&["start", id]);
        created
    }

    /// What `state` says.
    #[track_caller]
    pub fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok(&["state", id])).unwrap()
    }

    #[track_caller]
    pub fn status(&self, id: &str) -> String {
        self.state(id)["status"].as_str().unwrap().to_owned()
    }

    /// The pid that `state` says.
    #[track_caller]
    pub fn pid(&self, id: &str) -> i32 {
        i32::try_from(self.state(id)["pid"].as_i64().unwrap()).unwrap()
    }

    /// Ids of all processes that work for this runtime, with their command lines.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let state = self.text("state").into_bytes();
        let ours = |pid: &i32| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            exe == Path::new(OCI) && environ.windows(state.len()).any(|part| part == state)
        };
        let pids = fs::read_dir("/proc").unwrap().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(ours);
        pids.map(|pid| (pid, words(pid))).collect()
    }

    /// The pids of those that do this.
    pub fn doing(&self, verb: &str) -> Vec<i32> {
        let all = self.processes().into_iter();
        all.filter(|(_, words)| words.split(' ').nth(1) == Some(verb)).map(|(pid, _)| pid).collect()
    }

    /// What is left of containers: folders, processes, mounts.
    pub fn left(&self) -> Vec<String> {
        let mut left: Vec<String> = self.processes().into_iter().map(|(_, words)| words).collect();
        let mut folders = vec![self.path("root"), self.path("state")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                left.push(
                    entry.path().strip_prefix(self.folder.path()).unwrap().display().to_string(),
                );
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        left.retain(|path| path != "state/sandboxes" && path != "state/names");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        left.extend(mounts.lines().filter(|line| line.contains(&self.text(""))).map(str::to_owned));
        left
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for (pid, _) in self.processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn words(pid: i32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&words).trim_end_matches('\0').replace('\0', " ")
}

/// Waits until the condition holds, which something else brings about.
#[track_caller]
pub fn until(condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !condition() {
        assert!(Instant::now() < end, "what was waited for did not come");
        std::thread::yield_now();
    }
}

/// Waits for the end of a process that need not be this one's child.
pub fn await_end(pid: i32) {
    // One that is gone already has no handle.
    if let Ok(process) = Process::of(pid) {
        assert!(process.ends_within(None).unwrap());
    }
}

/// Makes orphans below this process its children: what a keeper exits with can be seen.
pub fn adopt_orphans() {
    nix::sys::prctl::set_child_subreaper(true).unwrap();
}

/// Exit code of an adopted process.
pub fn exit_code(pid: i32) -> i32 {
    match waitpid(Pid::from_raw(pid), None).unwrap() {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => -(signal as i32),
        other => panic!("{other:?}"),
    }
}

/// What an engine would write down, by and large.
fn config(args: &[&str]) -> Value {
    let capabilities = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_MKNOD",
        "CAP_NET_BIND_SERVICE",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SYS_CHROOT",
    ]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/bin", "TERM=xterm", "GREETING=hello"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs"},
        "hostname": "lab",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
                "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
            ],
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
        },
    })
}
