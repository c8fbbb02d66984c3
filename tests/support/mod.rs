//! What the tests that boot sandboxes share.
//!
//! They run on a host with real KVM (`tools/test` brings them to one). A test that cannot run where
//! it is says so through [`skip`]: by name and reason, counted by `tools/test`.

#![allow(dead_code)] // each facet uses its own part

pub mod namespaces;

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::thread;

use tempfile::TempDir;

/// Says that the calling test does not run here, and why.
pub fn skip(reason: &str) {
    let name = thread::current().name().unwrap_or("?").to_owned();
    println!("skipped: {name}: {reason}");
}

/// Returns from the calling test, as skipped, where there is no real KVM or no guest to boot.
#[macro_export]
macro_rules! needs_sandboxes {
    () => {
        if let Err(reason) = $crate::support::can_boot() {
            return $crate::support::skip(&reason);
        }
    };
}

/// Whether sandboxes can be booted here; asked once.
pub fn can_boot() -> Result<(), String> {
    static ANSWER: OnceLock<Result<(), String>> = OnceLock::new();
    let ask = || {
        let probe = Command::new(BIN).args(["doctor", "--probe"]).output().unwrap();
        let said = String::from_utf8_lossy(&probe.stdout).trim().to_owned();
        if said != "real" {
            return Err(format!("needs real KVM, this machine's is {said}"));
        }
        for file in ["vmlinux", "initramfs.cpio"] {
            if !guest().join(file).is_file() {
                return Err(format!(
                    "needs the guest's {file} (tools/build-kernel, tools/build-guest)"
                ));
            }
        }
        Ok(())
    };
    ANSWER.get_or_init(ask).clone()
}

/// The program under test.
pub const BIN: &str = env!("CARGO_BIN_EXE_ampoule");

/// Folder of the guest's kernel and initramfs.
pub fn guest() -> PathBuf {
    Path::new(BIN).parent().unwrap().parent().unwrap().join("guest")
}

/// Folder of the images that tests run, made by `tools/test`.
pub fn images() -> PathBuf {
    std::env::var_os("AMPOULE_TEST_IMAGES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/images"), PathBuf::from)
}

/// Templates that all tests of a host share: each is made once. Not in the checkout, whose file
/// system may be slow.
pub fn shared_templates() -> PathBuf {
    std::env::temp_dir().join("ampoule-test-templates")
}

/// An ampoule with folders of its own and the shared store of test images.
pub struct Ampoule {
    state: TempDir,
    root: PathBuf,
    templates: PathBuf,
    /// The network of containers that name none.
    network: Option<&'static str>,
    /// Holds the root, where that is the test's own.
    _own: Option<TempDir>,
}

impl Ampoule {
    /// With the shared images: containers are its own.
    pub fn new() -> Self {
        let own = TempDir::new().unwrap();
        for part in std::fs::read_dir(images().join("store")).into_iter().flatten().flatten() {
            // What a quickstart has left there is nobody else's.
            let others = ["containers", "names", "damaged", "networks", "volumes", "templates"];
            if others.iter().any(|name| part.file_name() == *name) {
                continue;
            }
            std::os::unix::fs::symlink(part.path(), own.path().join(part.file_name())).unwrap();
        }
        let root = own.path().to_owned();
        let mut ampoule = Self::with_root(root);
        ampoule._own = Some(own);
        ampoule
    }

    /// With the default network, of the namespace that commands are started in.
    pub fn networked() -> Self {
        let mut ampoule = Self::new();
        ampoule.network = None;
        ampoule
    }

    /// With another image store.
    pub fn with_root(root: PathBuf) -> Self {
        let (state, templates) = (TempDir::new().unwrap(), shared_templates());
        // All tests share the host's own network, which is left as it is.
        Self { state, root, templates, network: Some("none"), _own: None }
    }

    /// With templates of its own, in `folder`.
    pub fn with_templates(folder: &Path) -> Self {
        let mut ampoule = Self::new();
        ampoule.templates = folder.to_owned();
        ampoule
    }

    /// A command line.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(BIN);
        command
            .args(args)
            .env("AMPOULE_ROOT", &self.root)
            .env("AMPOULE_STATE", self.state.path())
            .env("AMPOULE_TEMPLATES", &self.templates)
            .env_remove("AMPOULE_NETWORK")
            .stdin(Stdio::null());
        if let Some(network) = self.network {
            command.env("AMPOULE_NETWORK", network);
        }
        command
    }

    /// Runs a command line to its end.
    pub fn output(&self, args: &[&str]) -> Finished {
        Finished::of(self.command(args).output().unwrap())
    }

    /// Runs a command line that must succeed: its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let finished = self.output(args);
        assert_eq!(finished.code, 0, "{args:?} failed: {finished:?}");
        finished.stdout
    }

    /// Runs `script` in a new container of `image` with `sh -c`, with `options` before the image.
    pub fn shell(&self, options: &[&str], image: &str, script: &str) -> Finished {
        let args = [&["run", "--rm"], options, &[image, "sh", "-c", script]].concat();
        self.output(&args)
    }

    /// Starts a command line with pipes.
    pub fn spawn(&self, args: &[&str]) -> Child {
        self.command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Runs a command line with this input.
    pub fn with_input(&self, args: &[&str], input: Vec<u8>) -> Output {
        feed(self.spawn(args), input)
    }

    /// Names of everything below the state folder, and of what is kept of containers.
    pub fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        let mut folders = vec![self.state.path().to_owned()];
        folders.extend(["containers", "names", "damaged"].map(|name| self.root.join(name)));
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                let below = path.strip_prefix(self.state.path());
                let below = below.or_else(|_| path.strip_prefix(&self.root)).unwrap();
                left.push(below.display().to_string());
                if entry.file_type().unwrap().is_dir() {
                    folders.push(path);
                }
            }
        }
        left.retain(|path| path != "sandboxes" && path != "events.json");
        left.sort();
        left
    }

    /// Every sandbox's state, for whoever asks why a test failed.
    pub fn states(&self) -> String {
        let folders = std::fs::read_dir(self.root.join("containers"));
        let states = folders.into_iter().flatten().flatten();
        states
            .filter_map(|folder| std::fs::read_to_string(folder.path().join("state.json")).ok())
            .collect()
    }

    /// The folder of what lasts.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The state folder.
    pub fn state(&self) -> &Path {
        self.state.path()
    }

    /// Ids of all processes that work in this state folder: monitors and keepers.
    pub fn processes(&self) -> Vec<i32> {
        let state = self.state.path().to_str().unwrap().as_bytes();
        let ours = |pid: &i32| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            exe == Path::new(BIN) && environ.windows(state.len()).any(|part| part == state)
        };
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(ours).collect()
    }
}

impl Drop for Ampoule {
    fn drop(&mut self) {
        for pid in self.processes() {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
    }
}

/// A command that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    pub fn of(output: Output) -> Self {
        Self {
            code: code(output.status),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Fails the test where the exit code or standard output is another one.
    #[track_caller]
    pub fn gives(&self, code: i32, stdout: &str) {
        assert_eq!((self.code, self.stdout.as_str()), (code, stdout), "{self:?}");
    }

    /// Fails the test where the exit code is another one or standard error lacks one of the words.
    #[track_caller]
    pub fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is missing in {self:?}");
        }
    }
}

/// Writes this to a program's standard input, closes that, and waits for the program's end.
pub fn feed(mut child: Child, input: Vec<u8>) -> Output {
    let mut stdin = child.stdin.take().unwrap();
    let feeder = thread::spawn(move || {
        // A program that ends before it has read all is the test's to judge.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    output
}

/// Exit code, or minus the signal that ended the command.
pub fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| -status.signal().unwrap_or(0))
}

/// Reads until the text has come; fails the test where the stream ends before.
#[track_caller]
pub fn read_until(from: &mut impl Read, text: &str) -> String {
    let mut read = Vec::new();
    let mut byte = [0u8];
    while !read.ends_with(text.as_bytes()) {
        match from.read(&mut byte) {
            Ok(1) => read.push(byte[0]),
            other => {
                panic!("{other:?} before {text:?}; read so far: {}", String::from_utf8_lossy(&read))
            }
        }
    }
    String::from_utf8(read).unwrap()
}

/// Sends a signal to a child.
pub fn signal(child: &Child, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, signal).unwrap();
}
