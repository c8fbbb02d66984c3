//! A process of a container, as the agent knows it from its creation to its container's end.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use ampoule_protocol::message::{self, ExitStatus};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::line::{Line, Role};
use crate::error::{Doing, Error, Result};
use crate::streams::Streams;

/// One process and what belongs to it.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    /// Signals go here: never to another process that was given the same number.
    pidfd: OwnedFd,
    /// Readable for ever once the process has ended; the relays watch it.
    ended: EventFd,
    terminal: OnceLock<Arc<OwnedFd>>,
    status: Mutex<Status>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Status {
    exit: Option<ExitStatus>,
    /// Output streams that are not handed over whole yet.
    open_outputs: usize,
    lines: Vec<Arc<Line>>,
}

impl Process {
    /// The process `pid`, which is not collected before this returns.
    pub fn new(pid: i32) -> Result<Self> {
        Ok(Self {
            pid,
            pidfd: pidfd_open(pid).doing(|| format!("open a descriptor of process {pid}"))?,
            ended: EventFd::from_flags(EfdFlags::EFD_CLOEXEC).doing(|| "make an eventfd")?,
            terminal: OnceLock::new(),
            status: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// In the outermost pid namespace.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// To join its namespaces with.
    pub fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// Readable once the process has ended.
    pub fn ended(&self) -> &EventFd {
        &self.ended
    }

    /// The terminal's master side.
    pub fn terminal(&self) -> Option<&Arc<OwnedFd>> {
        self.terminal.get()
    }

    /// Remembers the terminal.
    pub fn set_terminal(&self, master: OwnedFd) -> Arc<OwnedFd> {
        self.terminal.get_or_init(|| Arc::new(master)).clone()
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a stream, which goes with the process's container.
    pub fn add_line(&self, line: Arc<Line>) {
        self.status().lines.push(line);
    }

    /// Without the lock: a line takes it when it ends.
    fn lines(&self) -> Vec<Arc<Line>> {
        self.status().lines.clone()
    }

    /// Gives the process's streams new connections, by these tokens.
    ///
    /// # Errors
    /// It has no such stream, or the stream's connection works.
    pub fn attach(&self, streams: &Streams, stdio: &message::Stdio) -> Result<()> {
        let lines = self.lines();
        let tokens = [
            (Role::Stdin, &stdio.stdin),
            (Role::Stdout, &stdio.stdout),
            (Role::Stderr, &stdio.stderr),
            (Role::Terminal, &stdio.terminal),
        ];
        for (role, token) in tokens {
            let Some(token) = token else { continue };
            let Some(line) = lines.iter().find(|line| line.role() == role) else {
                return Err(Error::WrongState(format!("the process has no {role:?}")));
            };
            line.attach(streams, token)?;
        }
        Ok(())
    }

    /// Lets go of the streams whose connection broke.
    pub fn release_streams(&self) {
        self.lines().iter().for_each(|line| line.release());
    }

    /// Counts one output stream as not handed over until the guard is dropped.
    pub fn open_output(self: &Arc<Self>) -> OpenOutput {
        self.status().open_outputs += 1;
        OpenOutput(self.clone())
    }

    /// The process has been collected.
    pub fn exited(&self, exit: ExitStatus) {
        self.status().exit = Some(exit);
        // Fails only on overflow of the counter, and this is its one write.
        let _ = self.ended.write(1);
        self.changed.notify_all();
        self.lines().iter().for_each(|line| line.process_ended());
    }

    /// Blocks until the process has ended and its output has been handed over whole.
    pub fn wait(&self) -> ExitStatus {
        let mut status = self.status();
        loop {
            match status.exit {
                Some(exit) if status.open_outputs == 0 => return exit,
                _ => {
                    status = self.changed.wait(status).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Kills the process, lets go of its streams and blocks until it has been collected.
    pub fn end(&self, streams: &Streams) {
        // Fails only where it has ended.
        let _ = self.signal(libc::SIGKILL);
        self.abandon(streams);
        let mut status = self.status();
        while status.exit.is_none() {
            status = self.changed.wait(status).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether [`Process::wait`] would return at once.
    pub fn is_over(&self) -> bool {
        let status = self.status();
        status.exit.is_some() && status.open_outputs == 0
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// [`Error::WrongState`] where the process has ended.
    pub fn signal(&self, signal: i32) -> Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Err(Errno::ESRCH) => Err(Error::WrongState("the process has ended".to_owned())),
            result => result.doing(|| format!("send signal {signal} to process {}", self.pid)),
        }
    }

    /// Lets go of all streams, handed over or not.
    fn abandon(&self, streams: &Streams) {
        self.lines().iter().for_each(|line| line.abandon(streams));
    }
}

/// An output stream that is not handed over whole yet.
#[derive(Debug)]
pub struct OpenOutput(Arc<Process>);

impl Drop for OpenOutput {
    fn drop(&mut self) {
        self.0.status().open_outputs -= 1;
        self.0.changed.notify_all();
    }
}

/// A descriptor of a process.
pub fn pidfd_open(pid: i32) -> nix::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and no memory of ours.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel returned this descriptor just now (close-on-exec), nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal to the process behind a descriptor; `ESRCH` where it has been collected.
pub fn pidfd_send_signal(pidfd: &OwnedFd, signal: i32) -> nix::Result<()> {
    // SAFETY: a null siginfo is allowed and means that of kill(2); the rest are integers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Errno::result(result).map(drop)
}
