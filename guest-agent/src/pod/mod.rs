//! A pod: namespaces that the containers of a sandbox share, apart from the agent's own. Each is kept
//! by a mount of its file below [`POD_NAMESPACES`], whoever is in it.

mod pause;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use ampoule_protocol::message::Pod;
use ampoule_protocol::network::POD_NAMESPACES;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::error::{Doing, Error, Result};
use crate::{Agent, setup, thread};

pub use pause::pause;

/// What makes the agent's binary the first process of a pod's pid namespace.
pub const ARGUMENT: &str = "pause";

/// What there is of the sandbox's pod; held while something is made.
#[derive(Debug)]
pub struct State(Mutex<Made>);

#[derive(Debug, Default)]
struct Made {
    pod: bool,
    pid: bool,
}

impl State {
    /// No pod.
    pub const fn new() -> Self {
        Self(Mutex::new(Made { pod: false, pid: false }))
    }
}

/// Makes the pod.
pub fn create(agent: &Agent, pod: &Pod) -> Result<()> {
    let mut made = agent.pod.0.lock().unwrap_or_else(PoisonError::into_inner);
    if made.pod {
        return Err(Error::AlreadyExists { what: "pod", name: pod.hostname.clone() });
    }
    fs::create_dir_all(POD_NAMESPACES).doing(|| format!("make {POD_NAMESPACES}"))?;
    let all = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    // They are the thread's alone, which ends: the mounts hold them.
    thread::run("pod", || {
        unshare(all).doing(|| "make the pod's namespaces")?;
        if !pod.hostname.is_empty() {
            nix::unistd::sethostname(&pod.hostname)
                .doing(|| format!("set the host name {:?}", pod.hostname))?;
        }
        setup::loopback_up()?;
        setup::set_sysctls(&pod.sysctls, all)?;
        ["net", "ipc", "uts"].into_iter().try_for_each(|name| keep("thread-self", name))
    })
    .doing(|| "start a thread")??;
    share_memory()?;
    made.pod = true;
    Ok(())
}

/// Mounts what containers have as their `/dev/shm`, as large as other runtimes' pods have it.
fn share_memory() -> Result<()> {
    let at = path("shm");
    let action = || format!("mount {}", at.display());
    fs::create_dir(&at).doing(action)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = Some("mode=1777,size=65536k");
    mount(Some("shm"), &at, Some("tmpfs"), flags, options).doing(action)
}

/// Makes the pod's pid namespace, where there is none yet. Its first process ends with the guest.
pub fn with_pids(agent: &Agent) -> Result<()> {
    let mut made = agent.pod.0.lock().unwrap_or_else(PoisonError::into_inner);
    if !made.pod {
        return Err(Error::NotFound { what: "pod", name: POD_NAMESPACES.into() });
    }
    if made.pid {
        return Ok(());
    }
    let program = &agent.program;
    thread::run("pod", || {
        unshare(CloneFlags::CLONE_NEWPID).doing(|| "make the pod's pid namespace")?;
        // It is this thread's next child that is in it. The reaper collects it like all others.
        let first = Command::new(program)
            .arg(ARGUMENT)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .doing(|| format!("run {} {ARGUMENT}", program.display()))?;
        keep(&first.id().to_string(), "pid")
    })
    .doing(|| "start a thread")??;
    made.pid = true;
    Ok(())
}

/// Mounts the file of a namespace of a process where containers look for it.
fn keep(process: &str, name: &str) -> Result<()> {
    const NONE: Option<&str> = None;
    let (source, target) = (format!("/proc/{process}/ns/{name}"), path(name));
    let action = || format!("keep {source} at {}", target.display());
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o444)
        .open(&target)
        .doing(action)?;
    mount(Some(source.as_str()), &target, NONE, MsFlags::MS_BIND, NONE).doing(action)
}

/// Opens one of the pod's namespaces.
pub fn open(name: &str) -> Result<File> {
    let path = path(name);
    File::open(&path).doing(|| format!("open the pod's namespace {}", path.display()))
}

fn path(name: &str) -> PathBuf {
    Path::new(POD_NAMESPACES).join(name)
}
