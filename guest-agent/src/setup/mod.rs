//! The setup stage: the agent's binary, executed anew and single-threaded, that becomes a
//! container's process.
//!
//! A threaded process must not fork and go on with code like this, so the agent runs itself with
//! the argument [`ARGUMENT`] and talks to it over its standard input, a socket:
//!
//! | agent | setup stage |
//! | --- | --- |
//! | [`Job`], with the descriptors of [`Descriptors`], and the requests | |
//! | | enters the cgroup and the namespaces, forks; [`Report::Process`] names the child |
//! | registers the child; [`Order::LetGo`] | |
//! | | the parent exits: the child is the agent's own from now on, never collected unregistered |
//! | | the child sets itself up; [`Report::Ready`], with its terminal's master and its layer if it has them |
//! | [`Order::Start`] | |
//! | | executes the program, which closes the socket; else [`Report::Failed`] |

mod capabilities;
pub mod channel;
mod copy_up;
mod create;
mod cwd;
mod devices;
mod hooks;
mod identity;
mod inherit;
mod join;
mod keyring;
mod masks;
mod mounts;
mod namespaces;
mod network;
mod options;
mod passwd;
mod paths;
mod program;
mod rlimits;
mod rootfs;
mod scheduling;
mod seccomp;
mod sysctl;
mod terminal;
mod trees;
mod user;
mod users;

use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use ampoule_protocol::frame;
use ampoule_protocol::message::{
    AgentError, BlockDevice, Create, ErrorKind, HookState, Request, Rootfs, UserName,
};
use nix::fcntl::OFlag;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::unistd::{ForkResult, fork, pipe2};
use oci_spec::runtime::{ExecCPUAffinity, LinuxSeccomp, Process, Spec};
use serde::{Deserialize, Serialize};

use crate::error::{Doing, Error, Result};
pub use channel::Order;
pub use devices::check as check_devices;
pub use hooks::check as check_hooks;
pub use mounts::check as check_mount;
pub use namespaces::check_clocks;
pub use network::loopback_up;
pub use paths::Root;
pub use rootfs::{STAGE, check as check_rootfs, propagation};
pub use seccomp::check as check_seccomp;
pub use sysctl::set as set_sysctls;
pub use users::Ids;

/// What makes the agent's binary a setup stage.
pub const ARGUMENT: &str = "setup";

/// Where a process runs. What it is follows as the host's own requests, each in a frame as it
/// came: there is one reader of specs in the binary, and it is the largest thing in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Job {
    /// In a new container: a `Create` follows.
    Create {
        /// The device node of its root file system's source, where that is a disk.
        disk: Option<PathBuf>,
        /// That of its writable layer.
        layer: Option<PathBuf>,
        /// Numbers of the disks that it has as devices, in the request's order.
        block_devices: Vec<libc::dev_t>,
        /// Its network namespace comes along, and is not to be made.
        network: bool,
    },
    /// In a container that runs: an `Exec` follows, and the container's `Create`.
    Join {
        /// `CLONE_NEW*` of the namespaces that are not the guest's own.
        namespaces: i32,
        /// Its first process.
        pid: i32,
    },
}

/// A process to become.
struct Target {
    process: Process,
    /// `linux.seccomp` of its container.
    seccomp: Option<LinuxSeccomp>,
    /// Who it runs as, in place of the process's own uid, gid and groups.
    user: Option<UserName>,
    /// The container to make around it.
    container: Option<Around>,
}

/// What is made around the first process of a container.
struct Around {
    spec: Box<Spec>,
    rootfs: Rootfs,
    disk: Option<PathBuf>,
    layer: Option<PathBuf>,
    /// Disks that it has as devices, with their numbers.
    block_devices: Vec<(BlockDevice, libc::dev_t)>,
    identity: HookState,
}

impl Target {
    fn receive(control: &UnixStream, job: &Job) -> Result<Self> {
        let out_of_turn = || Error::Invalid("the job's request is another one".into());
        match (job, request(control)?) {
            (Job::Create { disk, layer, block_devices: numbers, .. }, Request::Create(create)) => {
                let Create { mut spec, rootfs, user, mut identity, container, .. } = *create;
                let block_devices =
                    create.block_devices.into_iter().zip(numbers.iter().copied()).collect();
                if identity.id.is_empty() {
                    identity.id = container;
                }
                let process = spec.process_mut().take().ok_or_else(out_of_turn)?;
                let seccomp = seccomp::of(&spec);
                let (disk, layer) = (disk.clone(), layer.clone());
                let around = Around { spec, rootfs, disk, layer, block_devices, identity };
                Ok(Self { process, seccomp, user, container: Some(around) })
            }
            (Job::Join { .. }, Request::Exec(exec)) => {
                let Request::Create(create) = request(control)? else {
                    return Err(out_of_turn());
                };
                let seccomp = seccomp::of(&create.spec);
                let (process, user) = inherit::process(*exec, *create);
                crate::spec::check_process(&process)?;
                Ok(Self { process, seccomp, user, container: None })
            }
            _ => Err(out_of_turn()),
        }
    }
}

fn request(mut control: &UnixStream) -> Result<Request> {
    frame::read(&mut control)
        .map_err(|e| Error::system("read the request", std::io::Error::other(e)))
}

/// What a setup stage tells.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// The container's process, by its pid in the agent's pid namespace.
    Process(i32),
    /// The process only waits for [`Order::Start`]. Its terminal's master comes along, if it has one, and the
    /// directories of its writable layer, if it has made that.
    Ready {
        /// It has a terminal.
        terminal: bool,
    },
    /// It cannot be done.
    Failed(AgentError),
}

/// What comes with a [`Job`].
struct Descriptors {
    /// The cgroup's `cgroup.procs`.
    cgroup: OwnedFd,
    /// The process whose namespaces are joined.
    join: Option<OwnedFd>,
    /// The network namespace that is a new container's.
    network: Option<OwnedFd>,
    /// stdin, stdout and stderr; none where the process has a terminal.
    stdio: Vec<OwnedFd>,
}

impl Descriptors {
    fn take(job: &Job, terminal: bool, descriptors: Vec<OwnedFd>) -> Result<Self> {
        let mut descriptors = descriptors.into_iter();
        let missing = || Error::Invalid("the job lacks a descriptor".into());
        let cgroup = descriptors.next().ok_or_else(missing)?;
        let mut next = || descriptors.next().ok_or_else(missing).map(Some);
        let (join, network) = match job {
            Job::Create { network: false, .. } => (None, None),
            Job::Create { network: true, .. } => (None, next()?),
            Job::Join { .. } => (next()?, None),
        };
        let stdio: Vec<OwnedFd> = descriptors.collect();
        let expected = if terminal { 0 } else { 3 };
        if stdio.len() != expected {
            return Err(missing());
        }
        Ok(Self { cgroup, join, network, stdio })
    }
}

fn has_terminal(process: &Process) -> bool {
    process.terminal().unwrap_or(false)
}

/// Runs the setup stage; returns its exit code where it does not become the program.
pub fn run() -> i32 {
    let Ok(control) = control_socket() else {
        return 1;
    };
    let Err(error) = become_process(&control) else {
        return 0;
    };
    let error = AgentError::from(error);
    let code = match error.kind {
        ErrorKind::CommandNotFound => 127,
        ErrorKind::CommandNotExecutable => 126,
        _ => 1,
    };
    // The agent sees the socket's end where this fails.
    let _ = channel::send(&control, &Report::Failed(error), &[]);
    code
}

/// Moves the socket away from descriptor 0, and keeps it out of the program that is executed.
fn control_socket() -> nix::Result<UnixStream> {
    // SAFETY: the agent starts the setup stage with the socket as standard input, and nothing of
    // this process has used or closed that descriptor yet.
    let stdin = unsafe { OwnedFd::from_raw_fd(libc::STDIN_FILENO) };
    let fd = nix::fcntl::fcntl(&stdin, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(3))?;
    // SAFETY: F_DUPFD_CLOEXEC returned this descriptor just now and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

fn become_process(control: &UnixStream) -> Result<()> {
    let Some((job, descriptors)) = channel::receive::<Job>(control)? else {
        return Ok(());
    };
    let target = Target::receive(control, &job)?;
    let descriptors = Descriptors::take(&job, has_terminal(&target.process), descriptors)?;
    hide()?;
    let processors = target.process.exec_cpu_affinity().clone().unwrap_or_default();
    let is_further = target.container.is_none();
    if is_further {
        scheduling::run_on(ExecCPUAffinity::initial(&processors).as_ref())?;
    }
    enter_cgroup(&descriptors.cgroup)?;
    if is_further {
        scheduling::run_on(processors.cpu_affinity_final().as_ref())?;
    }
    // Before the namespaces: here /proc is the guest's own.
    let score = target.process.oom_score_adj().unwrap_or(0);
    std::fs::write("/proc/self/oom_score_adj", score.to_string())
        .doing(|| format!("set the OOM score adjustment {score}"))?;
    let Descriptors { join, network, stdio, .. } = descriptors;
    let staged = match &target.container {
        Some(around) => Some(create::enter(around, &stdio, network)?),
        None => None,
    };
    if let (Job::Join { namespaces, pid }, Some(member)) = (job, &join) {
        namespaces::join(member, pid, namespaces, |users| user::give(&stdio, users))?;
    }

    let (parent_lives, parent_end) = pipe2(OFlag::O_CLOEXEC).doing(|| "make a pipe")?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }.doing(|| "fork")? {
        ForkResult::Parent { child } => {
            channel::send(control, &Report::Process(child.as_raw()), &[])?;
            // No order: the agent has given up, and kills the cgroup.
            channel::await_order(control, Order::LetGo).map(drop)
        }
        ForkResult::Child => {
            drop(parent_end);
            wait_for_end(parent_lives)?;
            let Target { process, seccomp, user, container } = target;
            let process = create::Setting { process, name: user, seccomp, stdio };
            let prepared = match (container, staged) {
                (Some(around), Some(staged)) => create::prepare(&around, staged, process)?,
                _ => join::prepare(process)?,
            };
            prepared.start(control)
        }
    }
}

/// Keeps containers' processes from tracing this one or opening its files while it is among them.
fn hide() -> Result<()> {
    nix::sys::prctl::set_dumpable(false).doing(|| "become undumpable")?;
    // SAFETY: close_range takes three integers; close-on-exec closes nothing in this process.
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    nix::errno::Errno::result(result).doing(|| "mark descriptors close-on-exec").map(drop)
}

fn enter_cgroup(procs: &OwnedFd) -> Result<()> {
    nix::unistd::write(procs, b"0").doing(|| "enter the cgroup").map(drop)
}

/// Blocks until the setup stage's first process has exited: it alone has the other end.
fn wait_for_end(parent_lives: OwnedFd) -> Result<()> {
    let mut nothing = [0u8; 1];
    std::fs::File::from(parent_lives)
        .read(&mut nothing)
        .doing(|| "wait for the setup stage's first process")
        .map(drop)
}

/// A process that is set up, up to the execution of its program.
struct Prepared {
    program: program::Program,
    terminal: Option<OwnedFd>,
    /// The upper and the lower directory of its root.
    layer: Option<[OwnedFd; 2]>,
    /// Run as the process itself, right before its program.
    hooks: hooks::Hooks,
    /// Loaded last: what comes after it has to be allowed by it.
    filter: Option<seccomp::Filter>,
}

impl Prepared {
    fn start(self, control: &UnixStream) -> Result<()> {
        let layer = self.layer.iter().flatten();
        let descriptors: Vec<_> =
            self.terminal.iter().chain(layer).map(std::os::fd::AsFd::as_fd).collect();
        let terminal = self.terminal.is_some();
        channel::send(control, &Report::Ready { terminal }, &descriptors)?;
        drop(descriptors);
        // The master must be the agent's alone, or the terminal would never hang up.
        drop((self.terminal, self.layer));
        if !channel::await_order(control, Order::Start)? {
            return Ok(());
        }
        default_signals()?;
        self.hooks.run()?;
        if let Some(filter) = self.filter {
            filter.load()?;
        }
        self.program.execute()
    }
}

/// What the agent blocks and ignores is not the program's.
fn default_signals() -> Result<()> {
    // SAFETY: the default action is no handler of ours.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }.doing(|| "reset SIGPIPE")?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).doing(|| "unblock signals")
}

/// The path that names an open file, for calls that take only paths. It goes through the guest's
/// own `/proc` and is not looked up in the container.
fn path_of(fd: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
