//! How a command starts the process that is to stand for a container, or for a further process.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command};

use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::console;
use super::error::{OciError, file, host};
use super::keeper::{Answer, Job, Made};
use super::store::replace;
use crate::monitor::channel::Channel;
use crate::sandbox::monitored::wait;
use crate::sandbox::process::Process;
use crate::sandbox::signals::Signals;

/// Descriptor at which a keeper finds its channel: its standard streams are the container's.
pub const CHANNEL_FD: RawFd = 3;

/// Descriptor at which a container's keeper finds the lock that says that it lives.
pub const LOCK_FD: RawFd = 4;

/// Descriptors from here on are in the way of neither.
const FREE_FD: RawFd = 10;

/// A keeper that has said what came of its job, and waits for [`Ready::go`].
#[derive(Debug)]
pub struct Ready {
    child: Child,
    channel: Channel,
    /// What came of it.
    pub made: Made,
}

/// Starts a keeper with this command's standard streams, and waits until its process is there. The
/// keeper has `lock` from its first moment on, whatever becomes of this command.
pub fn spawn(job: &Job, spoken: &[u8], lock: Option<&File>) -> Result<Ready, OciError> {
    let (channel, end) = Channel::pair().map_err(host("make a socket pair"))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("ampoule-oci").arg("keeper");
    let theirs = aside(&end)?;
    let lock = lock.map(aside).transpose()?;
    let places = [(Some(&theirs), CHANNEL_FD), (lock.as_ref(), LOCK_FD)]
        .map(|(from, to)| (from.map(AsRawFd::as_raw_fd), to));
    let prepare = move || {
        // A session of its own: signals of the caller's terminal are for the caller.
        nix::unistd::setsid()?;
        for (from, to) in places {
            if let Some(from) = from {
                // SAFETY: both are integers; afterwards the descriptor is open beyond the exec.
                nix::errno::Errno::result(unsafe { libc::dup2(from, to) })?;
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made, and nothing is allocated.
    unsafe { command.pre_exec(prepare) };
    let mut child = command.spawn().map_err(host("start the container's keeper"))?;
    drop((end, theirs, lock));
    let body = memory(spoken).map_err(host("hand over the container's process"))?;
    channel.send_with(job, &[body.as_fd()])?;
    match channel.receive()? {
        Some(Answer::Made(made)) => Ok(Ready { child, channel, made }),
        Some(Answer::Failed { message }) => {
            // Its last word: it ends now, everything cleared away.
            child.wait().map_err(host("wait for the container's keeper"))?;
            Err(OciError::Keeper(message))
        }
        None => {
            let status = child.wait().map_err(host("wait for the container's keeper"))?;
            Err(OciError::Keeper(format!("the container's keeper died ({status})")))
        }
    }
}

/// The same once more, where no descriptor is that a keeper looks for.
fn aside(descriptor: &impl AsFd) -> Result<OwnedFd, OciError> {
    let number = fcntl(descriptor.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(FREE_FD))
        .map_err(host("start the container's keeper"))?;
    // SAFETY: it has just been made, and nothing else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn memory(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("job", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

impl Ready {
    /// Its pid.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(-1)
    }

    /// Tells its caller where to find it: a descriptor of it to a socket, its pid in a file.
    pub fn tell_pid(&self, socket: Option<&Path>, pid_file: Option<&Path>) -> Result<(), OciError> {
        if let Some(socket) = socket {
            let process = Process::of(self.pid()).map_err(host("watch the container's keeper"))?;
            console::send(socket, &process, b"pidfd").map_err(file("send a pidfd to", socket))?;
        }
        pid_file.map_or(Ok(()), |path| write_pid_file(path, self.pid()))
    }

    /// Lets it go on by itself, for good.
    pub fn go(self) -> Result<(), OciError> {
        Ok(self.channel.send(&())?)
    }

    /// Lets it go on, and waits for its end: its exit code. Signals are passed on to it.
    pub fn go_and_wait(mut self, signals: &Signals) -> Result<u8, OciError> {
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
        let status = self.child.wait().map_err(host("wait for the container's keeper"))?;
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(super::KEEPER_FAILED))
    }

    /// Has it clear everything away, and waits until it has.
    pub fn abandon(mut self) {
        drop(self.channel);
        // Its exit code tells nothing that is not known.
        let _ = self.child.wait();
    }
}

/// Tells a pid in a file, which is there whole or not at all, without a newline.
pub fn write_pid_file(path: &Path, pid: i32) -> Result<(), OciError> {
    replace(path, pid.to_string().as_bytes()).map_err(file("write", path))
}
