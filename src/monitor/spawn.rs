//! How a keeper starts its monitor.

use std::ffi::{CStr, CString};
use std::fmt;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};

use super::birth::{Birth, born};
use super::channel::{Channel, ChannelError};
use super::control::{Identity, MonitorConfig, MonitorEvent, MonitorRequest};
use super::group::Group;
use super::{jail, user_namespace};
use crate::process::Process;

/// Most of a dead monitor's own words that are kept, in bytes.
const WORDS_LIMIT: u64 = 4096;

/// The descriptor at which a monitor finds its control socket.
pub const CONTROL: RawFd = 3;

/// The environment variable that names the folder of the sandboxes.
const STATE_VARIABLE: &str = "AMPOULE_STATE";

/// How long a monitor that has hung up may take to be gone.
const ENDING_TIME: Duration = Duration::from_secs(2);

/// What a child exits with that could not become a monitor, as with shells.
const NOT_EXECUTED: i32 = 127;

/// Why there is no monitor.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// the process could not be started
    #[error("cannot start the sandbox's monitor")]
    Process(#[source] io::Error),
    /// the host permits no user namespaces
    #[error(
        "cannot make a user namespace for the sandbox's monitor (see user.max_user_namespaces, \
         kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns)"
    )]
    UserNamespace(#[source] io::Error),
    /// it does not fit into its control group
    #[error("cannot move the sandbox's monitor into its control group")]
    Group(#[source] io::Error),
    /// its configuration did not reach it
    #[error("cannot configure the sandbox's monitor")]
    Configure(#[source] ChannelError),
}

/// How a monitor ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status.
    Status(i32),
    /// By a signal.
    Signal(Signal),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exit status: {status}"),
            Self::Signal(signal) => write!(f, "signal: {} ({signal})", *signal as i32),
        }
    }
}

/// What a monitor is started with.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Id of the sandbox, for whoever looks at the process list.
    pub id: &'a str,
    /// Its first message; who it is to be is filled in.
    pub config: MonitorConfig,
    /// What belongs to that.
    pub descriptors: Vec<BorrowedFd<'a>>,
    /// Whether it has the caller's standard input and output, and stays among the processes that the
    /// caller's terminal signals.
    pub console: bool,
    /// The control group that it is born into; the caller's without one.
    pub group: Option<Group>,
}

/// A monitor, as its keeper holds it. Dropping it ends the monitor, and with it the machine.
#[derive(Debug)]
pub struct Monitor {
    pid: Pid,
    control: Channel,
    words: Option<OwnedFd>,
    end: Option<End>,
    /// Dropped last, when nothing is in it any more.
    group: Option<Group>,
}

impl Monitor {
    /// Starts a monitor.
    pub fn spawn(wanted: Wanted<'_>) -> Result<Self, SpawnError> {
        let Wanted { id, mut config, mut descriptors, console, group } = wanted;
        let (control, theirs) = Channel::pair().map_err(SpawnError::Process)?;
        let (words, stderr) = pipe2(OFlag::O_CLOEXEC).map_err(|e| SpawnError::Process(e.into()))?;
        let unprivileged = config.jail.is_some() && !jail::can_change_user();
        let mut flags = libc::CLONE_NEWPID;
        if config.jail.is_none() {
            flags = 0;
        } else if unprivileged {
            flags |= libc::CLONE_NEWUSER;
        }
        let pid = Exec::new(id, theirs, stderr, console)
            .and_then(|exec| {
                exec.start(&Birth { flags, cgroup: group.as_ref().and_then(Group::birthplace) })
            })
            .map_err(|e| {
                if unprivileged { SpawnError::UserNamespace(e) } else { SpawnError::Process(e) }
            })?;
        let monitor = Self { pid, control, words: Some(words), end: None, group };
        if let Some(group) = &monitor.group {
            group.admit(monitor.pid()).map_err(SpawnError::Group)?;
        }
        let mut namespace = None;
        if let Some(wanted) = &mut config.jail {
            if unprivileged {
                user_namespace::of_this_user(pid).map_err(SpawnError::UserNamespace)?;
                wanted.identity = Identity::Own;
            } else {
                wanted.identity = Identity::Unique(jail::uid_of(pid));
                if config.machine.serves_files() {
                    // While the monitor is being loaded.
                    let made = user_namespace::of_all_users().map_err(SpawnError::UserNamespace)?;
                    wanted.user_namespace = true;
                    namespace = Some(made);
                }
            }
        }
        if let Some(namespace) = &namespace {
            descriptors.insert(0, namespace.as_fd());
        }
        monitor.control.send_with(&config, &descriptors).map_err(SpawnError::Configure)?;
        Ok(monitor)
    }

    /// Its pid, valid until [`Monitor::end`].
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Asks it something, with the descriptors that belong to that.
    pub fn ask(
        &self,
        request: MonitorRequest,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        self.control.send_with(&request, descriptors)
    }

    /// Takes what it tells next; `None` when it is gone.
    pub fn event(&self) -> Result<Option<MonitorEvent>, ChannelError> {
        self.control.receive()
    }

    /// Ends the machine and waits for the process: how it ended, and what it said on its standard
    /// error.
    pub fn end(&mut self) -> io::Result<(End, String)> {
        let end = self.reap()?;
        let mut words = Vec::new();
        if let Some(stderr) = self.words.take() {
            std::fs::File::from(stderr).take(WORDS_LIMIT).read_to_end(&mut words)?;
        }
        Ok((end, String::from_utf8_lossy(&words).trim().to_owned()))
    }

    /// Whether it has closed its end of the control socket.
    fn has_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(self.control.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    fn reap(&mut self) -> io::Result<End> {
        if let Some(end) = self.end {
            return Ok(end);
        }
        // One that has ended by itself says how.
        let mut status = waitpid(self.pid, Some(WaitPidFlag::WNOHANG));
        if matches!(status, Ok(WaitStatus::StillAlive)) && self.has_hung_up() {
            // Its descriptors are closed a moment before it can be waited for.
            let _ =
                Process::of(self.pid()).and_then(|process| process.ends_within(Some(ENDING_TIME)));
            status = waitpid(self.pid, Some(WaitPidFlag::WNOHANG));
        }
        if matches!(status, Ok(WaitStatus::StillAlive)) {
            // The machine holds nothing that is worth a slower end: what must last was flushed by
            // the guest. The process is this one's child that nobody has waited for: it is it.
            kill(self.pid, Signal::SIGKILL)?;
            status = loop {
                match waitpid(self.pid, None) {
                    Err(Errno::EINTR) => {}
                    status => break status,
                }
            };
        }
        let end = match status? {
            WaitStatus::Exited(_, status) => End::Status(status),
            WaitStatus::Signaled(_, signal, _) => End::Signal(signal),
            other => return Err(io::Error::other(format!("{other:?}"))),
        };
        self.end = Some(end);
        Ok(end)
    }
}

impl AsFd for Monitor {
    /// Readable when it has something to tell, or is gone.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // Already reaped where `end` was called; then this does nothing.
        let _ = self.reap();
    }
}

/// Everything that a child needs to become a monitor, made before there is a child.
struct Exec {
    arguments: [CString; 3],
    /// What becomes its standard streams and its control socket, all above those.
    descriptors: [OwnedFd; 4],
    /// Nothing of the caller's, who may have secrets there; but where its sandboxes are, for whoever
    /// looks for what belongs to them.
    environment: Option<CString>,
    own_group: bool,
}

/// Has a process that was born into a user namespace, and is not root there, keep what it is to make its
/// jail with when it executes its program. It makes system calls alone; whether they were done.
fn keep_capabilities() -> bool {
    // _LINUX_CAPABILITY_VERSION_3 and the process itself; effective, permitted and inheritable sets of
    // 32 capabilities each (capget(2)).
    let header = [0x2008_0522_u32, 0];
    let mut sets = [[0_u32; 3]; 2];
    // SAFETY: both have the layout and size that the kernel reads and writes.
    let read = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) };
    for [_, permitted, inheritable] in &mut sets {
        *inheritable = *permitted;
    }
    // SAFETY: as above; the kernel only reads.
    let written = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    let raised = jail::OF_JAILERS.iter().all(|capability| {
        // SAFETY: no memory is involved.
        let raised = unsafe {
            libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, *capability, 0, 0)
        };
        raised == 0
    });
    read == 0 && written == 0 && raised
}

impl Exec {
    fn new(id: &str, control: OwnedFd, stderr: OwnedFd, console: bool) -> io::Result<Self> {
        let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
        let above = |fd: BorrowedFd<'_>| -> io::Result<OwnedFd> {
            use std::os::fd::FromRawFd;
            let fd = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(CONTROL + 1))?;
            // SAFETY: the descriptor is new and nobody else's.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        };
        let (stdin, stdout) = (io::stdin(), io::stdout());
        // A process without them has nothing to lend.
        let lent = |own: BorrowedFd<'_>| if console { above(own) } else { above(null.as_fd()) };
        let descriptors = [
            lent(stdin.as_fd()).or_else(|_| above(null.as_fd()))?,
            lent(stdout.as_fd()).or_else(|_| above(null.as_fd()))?,
            above(stderr.as_fd())?,
            above(control.as_fd())?,
        ];
        let arguments = [c"ampoule".to_owned(), c"monitor".to_owned(), CString::new(id)?];
        let environment = std::env::var_os(STATE_VARIABLE).and_then(|value| {
            CString::new([STATE_VARIABLE.as_bytes(), b"=", value.as_bytes()].concat()).ok()
        });
        Ok(Self { arguments, descriptors, environment, own_group: !console })
    }

    fn start(&self, birth: &Birth<'_>) -> io::Result<Pid> {
        let [name, verb, id] = self.arguments.each_ref().map(|argument| argument.as_ptr());
        let arguments = [name, verb, id, std::ptr::null()];
        let environment = [
            self.environment.as_ref().map_or(std::ptr::null(), |it| it.as_ptr()),
            std::ptr::null(),
        ];
        let descriptors = self.descriptors.each_ref().map(OwnedFd::as_raw_fd);
        let program: &CStr = c"/proc/self/exe";
        if let Some(pid) = born(birth)? {
            return Ok(pid);
        }
        // In the child: system calls alone.
        // SAFETY: the descriptors are open; all pointers are to what was made above, ended by null.
        unsafe {
            if birth.flags & libc::CLONE_NEWUSER != 0 && !keep_capabilities() {
                libc::_exit(NOT_EXECUTED);
            }
            if self.own_group {
                // A terminal's Ctrl-C is for the container, by way of the keeper.
                libc::setpgid(0, 0);
            }
            for (from, to) in descriptors.into_iter().zip(0..) {
                if libc::dup2(from, to) < 0 {
                    libc::_exit(NOT_EXECUTED);
                }
            }
            libc::close_range(CONTROL.cast_unsigned() + 1, libc::c_uint::MAX, 0);
            libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr());
            libc::_exit(NOT_EXECUTED)
        }
    }
}
