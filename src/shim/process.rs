//! A process as containerd knows it: a container's first, or a further one.

use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard};

use ampoule_protocol::message::ProcessId;
use containerd_shim::protos::protobuf::MessageField;
use containerd_shim::protos::protobuf::well_known_types::timestamp::Timestamp;
use jiff::Timestamp as Time;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use oci_spec::runtime::{BoxBuilder, Process as Spec};
use tokio::sync::watch;

use super::error::ShimError;
use super::lock;
use super::stdio::{Paths, Pipes};
use crate::report::chain;
use crate::sandbox::container::Running;
use crate::sandbox::monitored::wait;

/// Exit status of a process whose sandbox is gone: as of one that was killed.
pub const KILLED: u32 = 128 + 9;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code, or 128 + signal.
    pub status: u32,
    /// When.
    pub at: Time,
}

impl Exit {
    /// Now.
    pub fn now(status: u32) -> Self {
        Self { status, at: Time::now() }
    }

    /// The time, as the API has it.
    pub fn timestamp(&self) -> MessageField<Timestamp> {
        timestamp(self.at)
    }
}

/// A time, as the API has it.
pub fn timestamp(at: Time) -> MessageField<Timestamp> {
    MessageField::some(Timestamp {
        seconds: at.as_second(),
        nanos: at.subsec_nanosecond(),
        ..Default::default()
    })
}

/// How far a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It is there, or is known, and waits for its start.
    Created,
    /// Its program runs.
    Running,
    /// It stands still.
    Paused,
    /// It has ended.
    Stopped(Exit),
}

/// See the module.
#[derive(Debug)]
pub struct Process {
    /// Its name in the guest; none for a pod, which is no process.
    pub guest: Option<ProcessId>,
    /// Where its input comes from and its output goes.
    pub paths: Paths,
    /// What a further one is to run.
    pub spec: Option<Box<Spec>>,
    status: Mutex<Status>,
    exit: watch::Sender<Option<Exit>>,
    pipes: Mutex<Pipes>,
    /// Rows and columns of its terminal, where somebody has named them.
    size: Mutex<Option<(u16, u16)>>,
}

impl Process {
    /// One that was created.
    pub fn new(guest: Option<ProcessId>, paths: Paths, spec: Option<Box<Spec>>) -> Self {
        let (exit, _) = watch::channel(None);
        let (status, pipes) = (Mutex::new(Status::Created), Mutex::default());
        Self { guest, paths, spec, status, exit, pipes, size: Mutex::default() }
    }

    /// How far it is. While the guard is held, it does not change.
    pub fn status(&self) -> MutexGuard<'_, Status> {
        lock(&self.status)
    }

    /// Tells when it has ended.
    pub fn ended(&self) -> watch::Receiver<Option<Exit>> {
        self.exit.subscribe()
    }

    /// Its name in the guest.
    ///
    /// # Errors
    /// It is a pod.
    pub fn guest(&self) -> Result<&ProcessId, ShimError> {
        self.guest.as_ref().ok_or_else(|| {
            ShimError::WrongState(
                "a pod's sandbox has no process of its own to do that with".into(),
            )
        })
    }

    /// Remembers its pipes; that its input is closed may have been said before.
    pub fn set_pipes(&self, pipes: Pipes) {
        let mut known = self.pipes();
        let said = std::mem::replace(&mut *known, pipes);
        if said.is_closed() {
            known.close_stdin();
        }
    }

    fn pipes(&self) -> MutexGuard<'_, Pipes> {
        lock(&self.pipes)
    }

    /// Remembers the size of its terminal.
    pub fn set_size(&self, rows: u16, columns: u16) {
        *lock(&self.size) = Some((rows, columns));
    }

    /// Lets a process that is started begin with that size.
    pub fn size_into(&self, spec: &mut Spec) {
        let size = *lock(&self.size);
        if let Some((rows, columns)) = size.filter(|_| self.paths.terminal) {
            let built = BoxBuilder::default().height(rows).width(columns).build();
            // Neither is missing.
            spec.set_console_size(built.ok());
        }
    }

    /// Begins to carry its input.
    pub fn begin_input(&self) -> Result<(), ShimError> {
        self.pipes().begin()
    }

    /// Closes its input.
    pub fn close_stdin(&self) {
        self.pipes().close_stdin();
    }

    /// It has ended: whether that is news. `tell` is called before anybody can see it.
    pub fn set_ended(&self, exit: Exit, tell: impl FnOnce()) -> bool {
        let mut status = self.status();
        if matches!(*status, Status::Stopped(_)) {
            return false;
        }
        *status = Status::Stopped(exit);
        tell();
        *self.pipes() = Pipes::default();
        self.exit.send_replace(Some(exit));
        true
    }
}

/// Waits until a process has ended and everything that it wrote has been handed over.
pub fn await_exit(mut running: Running) -> Exit {
    let waited = wait_for(running.as_fd());
    let taken = waited.and_then(|()| Ok(running.take_exit()?));
    let status = match taken {
        Ok(exit) => u32::try_from(exit.code).unwrap_or(255),
        Err(error) => {
            // Its sandbox has ended, and its keeper tells why.
            log::debug!("{}", chain(&error));
            KILLED
        }
    };
    let exit = Exit::now(status);
    if let Err(error) = wait_for(running.streams.as_fd()) {
        log::warn!("{}", chain(&error));
    }
    if let Some(error) = running.streams.failure() {
        log::warn!("output is lost: {error}");
    }
    exit
}

fn wait_for(fd: std::os::fd::BorrowedFd<'_>) -> Result<(), crate::sandbox::SandboxError> {
    wait(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::NONE).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_ends_once() {
        let process = Process::new(None, Paths::default(), None);
        let mut told = 0;
        assert!(process.set_ended(Exit::now(3), || told += 1));
        assert!(!process.set_ended(Exit::now(4), || told += 1));
        assert_eq!(told, 1);
        assert!(matches!(*process.status(), Status::Stopped(Exit { status: 3, .. })));
        assert!(process.guest().is_err());
    }
}
