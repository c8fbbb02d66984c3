//! Runs a hostile guest, looks at its monitor at the worst moment, and judges its end.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;
use tempfile::TempDir;

use crate::program;
use crate::support::{BIN, code};

/// A guest that has not ended by then is one that its monitor has let hang.
const PATIENCE: Duration = Duration::from_secs(240);

/// Memory of the guest in MiB.
const MEMORY: u64 = 64;

/// What the monitor may have beside the guest's memory, in MiB, unless a test says otherwise.
const OWN: u64 = 32;

/// Descriptors that the monitor of such a machine has open, generously.
const DESCRIPTORS: usize = 64;

/// The main thread, one vCPU, the devices, the file system, and one that KVM starts for itself.
const THREADS: u64 = 5;

/// What the first bytes of each disk are.
const FIRST_SECTOR: &[u8] = b"first sector";

/// Descriptors that this process may have open: the other ends of all connections.
const HELD: u64 = 4096;

/// What a shell's programs may have, who can ask for more.
const SOFT_LIMIT: u64 = 1024;

/// Port of the host where somebody accepts and never reads.
const SILENT_PORT: u32 = 2000;

/// A machine with one device of each kind (two disks) and a guest that attacks.
pub struct Guest {
    folder: TempDir,
    attack: String,
    seed: u64,
    options: Vec<String>,
    own: u64,
    descriptors: usize,
    /// When the read-only disk was last written to.
    made: SystemTime,
    /// Connections that are held open, and not read.
    held: Arc<Mutex<Vec<UnixStream>>>,
}

/// The monitor, as it was while its guest waited.
#[derive(Debug)]
pub struct Sample {
    /// Descriptors that are open.
    pub descriptors: usize,
    threads: u64,
    peak_mib: u64,
}

/// A guest that has ended.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    /// Lines of the serial port, bytes that are no UTF-8 replaced.
    pub said: Vec<String>,
    pub stderr: String,
    pub samples: Vec<Sample>,
    /// From the word `now` on.
    pub ended_after: Option<Duration>,
    peak_mib: u64,
}

impl Guest {
    pub fn new(attack: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path();
        for disk in ["disk", "read-only"] {
            fs::write(path.join(disk), FIRST_SECTOR).unwrap();
            File::options().write(true).open(path.join(disk)).unwrap().set_len(64 << 20).unwrap();
        }
        fill_share(path);
        let made = fs::metadata(path.join("read-only")).unwrap().modified().unwrap();
        Self {
            folder,
            attack: attack.to_owned(),
            seed: 1,
            options: Vec::new(),
            own: OWN,
            descriptors: DESCRIPTORS,
            made,
            held: Arc::default(),
        }
    }

    /// With other numbers by chance.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// With another option of `ampoule vm run`.
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.options.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// Lets the monitor have so many MiB and descriptors more than usual.
    pub fn may_take(mut self, mib: u64, descriptors: usize) -> Self {
        self.own += mib;
        self.descriptors += descriptors;
        self
    }

    /// A file of the machine's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command that runs the machine in its folder, without the share.
    pub fn command(&self) -> Command {
        let cmdline = format!("attack={} seed={}", self.attack, self.seed);
        let mut command = Command::new(BIN);
        command
            .args(["vm", "run", "--memory", &MEMORY.to_string(), "--serial", "--balloon"])
            .args(["--disk", "disk", "--disk", "read-only,ro", "--vsock", "vsock"])
            .args(["--cmdline", &cmdline])
            .args(&self.options)
            .arg("--kernel")
            .arg(program::guest())
            .current_dir(&self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let usual = || {
            let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
            Ok(setrlimit(Resource::RLIMIT_NOFILE, SOFT_LIMIT.min(hard), hard)?)
        };
        // SAFETY: both system calls may be made between fork and exec, and nothing else is done.
        unsafe { command.pre_exec(usual) };
        command
    }

    /// Runs the attack to its end.
    pub fn run(&self) -> Done {
        self.listen();
        let mut child = self.command().args(["--share", "tag=files,path=share"]).spawn().unwrap();
        let done = attend(&mut child, &self.attack);
        self.share_is_whole();
        assert!(done.code >= 0, "{}: the monitor was killed: {done:?}", self.attack);
        assert!(!done.stderr.contains("panicked at"), "{}: {done:?}", self.attack);
        assert!(done.peak_mib <= MEMORY + self.own, "{}: {} MiB", self.attack, done.peak_mib);
        for sample in &done.samples {
            assert!(sample.threads <= THREADS, "{}: {sample:?}", self.attack);
            assert!(sample.peak_mib <= MEMORY + self.own, "{}: {sample:?}", self.attack);
            assert!(sample.descriptors <= self.descriptors, "{}: {sample:?}", self.attack);
        }
        done
    }

    /// Runs the attack, after which every device has to serve a sound driver.
    #[track_caller]
    pub fn survives(&self) -> Done {
        let done = self.run();
        assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{}: {done:?}", self.attack);
        let cases = done.said.iter().find_map(|line| {
            line.strip_prefix("survived ")?.strip_suffix(" cases")?.parse::<u64>().ok()
        });
        let Some(cases) = cases else { panic!("{}: {:?}", self.attack, done.said) };
        assert!(cases > 0 && !done.samples.is_empty(), "{}: {done:?}", self.attack);
        let peak = done.samples.iter().map(|sample| sample.peak_mib).max().unwrap_or_default();
        println!(
            "{} (seed {}): survived {cases} hostile cases, monitor at {peak} MiB",
            self.attack, self.seed
        );
        done
    }

    /// Accepts whoever calls the host, and never reads.
    fn listen(&self) {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, HELD.min(hard), hard).unwrap();
        let listener = UnixListener::bind(self.path(&format!("vsock_{SILENT_PORT}"))).unwrap();
        let held = Arc::clone(&self.held);
        thread::spawn(move || {
            for caller in listener.incoming() {
                held.lock().unwrap().push(caller.unwrap());
            }
        });
    }

    /// What the guest was not given, it has neither changed nor made.
    fn share_is_whole(&self) {
        assert_eq!(fs::read_to_string(self.path("secret")).unwrap(), "secret");
        let mut beside: Vec<_> = fs::read_dir(&self.folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with("vsock"))
            .collect();
        beside.sort();
        assert_eq!(beside, ["disk", "read-only", "secret", "share"], "{}", self.attack);
        let changed = fs::metadata(self.path("read-only")).unwrap().modified().unwrap();
        assert_eq!(changed, self.made, "{}: the read-only disk was written to", self.attack);
    }
}

fn fill_share(folder: &Path) {
    let share = folder.join("share");
    fs::create_dir_all(share.join("folder")).unwrap();
    fs::write(folder.join("secret"), "secret").unwrap();
    fs::write(share.join("file"), "file").unwrap();
    fs::write(share.join("folder/file"), "file").unwrap();
    nix::unistd::mkfifo(&share.join("fifo"), Mode::from_bits_truncate(0o600)).unwrap();
    drop(UnixListener::bind(share.join("socket")).unwrap());
    for (name, target) in [
        ("root", "/proc/self/root"),
        ("cwd", "/proc/self/cwd"),
        ("up", ".."),
        ("passwd", "/etc/passwd"),
    ] {
        symlink(target, share.join(name)).unwrap();
    }
}

/// Reads what the guest says, looks at the monitor whenever the guest waits for that, and waits for
/// the end.
pub fn attend(child: &mut Child, attack: &str) -> Done {
    let mut stdin = child.stdin.take().unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let mut errors = child.stderr.take().unwrap();
    let errors = thread::spawn(move || std::io::read_to_string(&mut errors).unwrap_or_default());
    let (tell, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in stdout.split(b'\n') {
            let line = String::from_utf8_lossy(&line.unwrap()).into_owned();
            if tell.send((Instant::now(), line)).is_err() {
                return;
            }
        }
    });
    let (mut said, mut samples, mut began) = (Vec::new(), Vec::new(), None);
    let until = Instant::now() + PATIENCE;
    loop {
        match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok((_, line)) if line.ends_with("hold") => {
                samples.push(Sample::of(child.id()));
                stdin.write_all(b"\n").unwrap();
            }
            Ok((at, line)) => {
                if line == "now" {
                    began = Some(at);
                }
                said.push(line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                child.kill().unwrap();
                panic!("{attack}: the guest hangs; it said {said:?}");
            }
        }
    }
    let (status, peak_mib) = reap(child);
    Done {
        code: code(status),
        said,
        stderr: errors.join().unwrap(),
        samples,
        ended_after: began.map(|began| began.elapsed()),
        peak_mib,
    }
}

/// Waits for a child: its status, and the most memory that it has had in MiB. A child begins with
/// what its parent has had, so that this process has to stay small.
pub fn reap(child: &Child) -> (ExitStatus, u64) {
    let pid = i32::try_from(child.id()).unwrap();
    let mut status = 0;
    // SAFETY: all fields are integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both places are this function's own, and the child is nobody else's to wait for.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    assert_eq!(waited, pid);
    (ExitStatus::from_raw(status), u64::try_from(usage.ru_maxrss).unwrap() >> 10)
}

impl Sample {
    /// Of the monitor of this `ampoule vm run`.
    fn of(command: u32) -> Self {
        let children =
            fs::read_to_string(format!("/proc/{command}/task/{command}/children")).unwrap();
        let pid = children.trim();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let number = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        Self {
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
            threads: number("Threads:"),
            peak_mib: number("VmHWM:") >> 10,
        }
    }
}
