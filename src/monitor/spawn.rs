//! How a keeper starts its monitor.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};

use super::channel::{Channel, ChannelError};
use super::control::{MonitorConfig, MonitorEvent, MonitorRequest};

/// Most of a dead monitor's own words that are kept, in bytes.
const WORDS_LIMIT: u64 = 4096;

/// Why there is no monitor.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// the process could not be started
    #[error("cannot start the sandbox's monitor")]
    Process(#[source] io::Error),
    /// its configuration did not reach it
    #[error("cannot configure the sandbox's monitor")]
    Configure(#[source] ChannelError),
}

/// A monitor, as its keeper holds it. Dropping it ends the monitor, and with it the machine.
#[derive(Debug)]
pub struct Monitor {
    child: Child,
    control: Channel,
}

impl Monitor {
    /// Starts a monitor for this machine, with the descriptors that belong to the configuration.
    pub fn spawn(
        id: &str,
        config: &MonitorConfig,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Self, SpawnError> {
        let (control, theirs) = Channel::pair().map_err(SpawnError::Process)?;
        let child = Command::new("/proc/self/exe")
            .arg0("ampoule")
            .args(["monitor", id])
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // A terminal's Ctrl-C is for the container, by way of the keeper.
            .process_group(0)
            .spawn()
            .map_err(SpawnError::Process)?;
        let monitor = Self { child, control };
        monitor.control.send_with(config, descriptors).map_err(SpawnError::Configure)?;
        Ok(monitor)
    }

    /// Its pid, valid until [`Monitor::end`].
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(-1)
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

    /// Ends the machine and waits for the process: its exit status, and what it said on its
    /// standard error.
    pub fn end(&mut self) -> io::Result<(ExitStatus, String)> {
        // The machine holds nothing that is worth a slower end: what must last was flushed by the
        // guest.
        self.child.kill()?;
        let status = self.child.wait()?;
        let mut words = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            stderr.take(WORDS_LIMIT).read_to_end(&mut words)?;
        }
        Ok((status, String::from_utf8_lossy(&words).trim().to_owned()))
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
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
