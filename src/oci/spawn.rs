//! How a command becomes two: itself, and the process that is to stand for a container or for a further
//! process in one.
//!
//! The keeper is forked off and executes nothing: what the command has read and checked is there
//! already, and loading the program once more would take longer than anything else that a keeper does
//! before its guest starts.

use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, setsid};

use super::console;
use super::error::{OciError, file, host};
use super::keeper::{self, Answer, Job, Made};
use super::store::{Held, replace};
use crate::monitor::channel::Channel;
use crate::process::Process;
use crate::sandbox::monitored::wait;
use crate::sandbox::signals::Signals;

/// A keeper that has said what came of its job, and waits for [`Ready::go`]. Dropped, it clears
/// everything away.
#[derive(Debug)]
pub struct Ready {
    pid: Pid,
    channel: Channel,
    /// What came of it.
    pub made: Made,
}

/// Forks a keeper, which has this command's standard streams, and waits until its process is there. The
/// keeper of a container has that one's lock from its first moment on, whatever becomes of this command.
/// Whoever calls this is its process's only thread.
pub fn spawn(job: Job, container: Option<&Held>) -> Result<Ready, OciError> {
    let lock = container.map(Held::lock_keeper).transpose()?;
    let (channel, theirs) = Channel::pair().map_err(host("make a socket pair"))?;
    // SAFETY: no other thread exists that could hold a lock which the child needs.
    let pid = match unsafe { fork() }.map_err(host("start the container's keeper"))? {
        ForkResult::Child => {
            drop(channel);
            if let Some(held) = container {
                // SAFETY: the child goes on to its end in `live`, which knows nothing of it.
                unsafe { held.let_go_of_copy() };
            }
            // A session of its own: signals of the caller's terminal are for the caller.
            let _ = setsid();
            keeper::live(job, Channel::from(theirs), lock);
        }
        ForkResult::Parent { child } => child,
    };
    drop((theirs, lock));
    let answer = channel.receive();
    if let Ok(Some(Answer::Made(made))) = answer {
        return Ok(Ready { pid, channel, made });
    }
    // Whatever it was, it is its last word: it ends now, everything cleared away.
    drop(channel);
    let status = collect(pid)?;
    match answer? {
        Some(Answer::Failed { message }) => Err(OciError::Keeper(message)),
        _ => Err(OciError::Keeper(format!("the container's keeper died (exit status {status})"))),
    }
}

/// Waits for a keeper's end: its exit code, or 128 and the signal that ended it.
fn collect(pid: Pid) -> Result<i32, OciError> {
    loop {
        match waitpid(pid, None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as i32),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(host("wait for the container's keeper")(errno)),
        }
    }
}

impl Ready {
    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Tells its caller where to find it: a descriptor of it to a socket, its pid in a file.
    pub fn tell_pid(&self, socket: Option<&Path>, pid_file: Option<&Path>) -> Result<(), OciError> {
        tell_pid(self.pid(), socket, pid_file)
    }

    /// Lets it go on by itself, for good.
    pub fn go(self) -> Result<(), OciError> {
        Ok(self.channel.send(&())?)
    }

    /// Lets it go on, and waits for its end: its exit code. Signals are passed on to it.
    pub fn go_and_wait(self, signals: &Signals) -> Result<u8, OciError> {
        self.channel.send(&())?;
        let process = Process::of(self.pid()).map_err(host("watch the container's keeper"))?;
        loop {
            let mut fds = [
                PollFd::new(process.as_fd(), PollFlags::POLLIN),
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            ];
            if wait(&mut fds, PollTimeout::NONE)? == Some(0) {
                break;
            }
            if let Some(signal) = signals.next().map_err(host("read a signal"))? {
                // Fails only where it has ended.
                let _ = process.signal(signal);
            }
        }
        Ok(u8::try_from(collect(self.pid)?).unwrap_or(super::KEEPER_FAILED))
    }

    /// Has it clear everything away, and waits until it has.
    pub fn abandon(self) {
        let Self { pid, channel, .. } = self;
        drop(channel);
        // Its exit code tells nothing that is not known.
        let _ = collect(pid);
    }
}

/// Tells a caller where to find a process: a descriptor of it to a socket; its pid in a file, which is
/// there whole or not at all, without a newline.
pub fn tell_pid(pid: i32, socket: Option<&Path>, pid_file: Option<&Path>) -> Result<(), OciError> {
    if let Some(socket) = socket {
        let process = Process::of(pid).map_err(host("watch the container's process"))?;
        console::send(socket, &process, b"pidfd").map_err(file("send a pidfd to", socket))?;
    }
    let Some(path) = pid_file else { return Ok(()) };
    replace(path, pid.to_string().as_bytes()).map_err(file("write", path))
}
