//! Standard input to the guest's serial port, on the device thread.
//!
//! The port holds 64 bytes. When it is full, standard input is not watched until the guest has
//! read all of it.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::{Arc, Mutex};

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::Port;
use super::escape::Escape;
use crate::vmm::exit::{Ending, Exit, lock};

/// How standard input is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watch {
    /// By the event loop.
    On,
    /// Not until the guest has read what the port holds.
    Off,
    /// Not by the event loop, which takes no files: they are always readable.
    File,
    /// Never again: there is no more input.
    Ended,
}

/// Reads standard input.
pub struct Input {
    port: Arc<Mutex<Port>>,
    drained: EventFd,
    stdin: ManuallyDrop<File>,
    escape: Option<Escape>,
    ending: Arc<Ending>,
    watch: Watch,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input").field("watch", &self.watch).finish_non_exhaustive()
    }
}

impl Input {
    /// Input for `port`; none if the port is not on standard input.
    pub fn new(port: &Arc<Mutex<Port>>, ending: Arc<Ending>) -> io::Result<Option<Self>> {
        let Some(drained) = lock(port).drained()? else {
            return Ok(None);
        };
        // SAFETY: the descriptor is not closed, so that this is no other owner; on a process
        // without a standard input, reads fail.
        let stdin = ManuallyDrop::new(unsafe { File::from_raw_fd(libc::STDIN_FILENO) });
        let escape = stdin.is_terminal().then(Escape::default);
        let port = port.clone();
        Ok(Some(Self { port, drained, stdin, escape, ending, watch: Watch::Off }))
    }

    fn watch(&mut self, ops: &mut EventOps) {
        self.watch = match ops.add(Events::new(&*self.stdin, EventSet::IN)) {
            Ok(()) => Watch::On,
            Err(event_manager::Error::Epoll(e)) if e.errno() == libc::EPERM => Watch::File,
            Err(_) => Watch::Ended,
        };
        if self.watch == Watch::File {
            self.fill(ops);
        }
    }

    fn unwatch(&mut self, next: Watch, ops: &mut EventOps) {
        if self.watch == Watch::On
            && let Err(error) = ops.remove(Events::empty(&*self.stdin))
        {
            log::debug!("serial input: {error}");
        }
        self.watch = next;
    }

    /// Moves as much input as there is room for.
    fn fill(&mut self, ops: &mut EventOps) {
        let mut typed = [0; 64];
        // One byte may become two: an escape that was none.
        let room = lock(&self.port).room() / 2;
        if room == 0 {
            let next = if self.watch == Watch::File { Watch::File } else { Watch::Off };
            return self.unwatch(next, ops);
        }
        let room = room.min(typed.len());
        let count = match self.stdin.read(typed.get_mut(..room).unwrap_or_default()) {
            Ok(0) => return self.unwatch(Watch::Ended, ops),
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return,
            Err(_) => return self.unwatch(Watch::Ended, ops),
        };
        let typed = typed.get(..count).unwrap_or_default();
        let Some(escape) = &mut self.escape else {
            return lock(&self.port).give(typed);
        };
        let mut guest = Vec::with_capacity(2 * count);
        if escape.filter(typed, &mut guest) {
            self.ending.end(Ok(Exit::Stopped));
        }
        lock(&self.port).give(&guest);
    }
}

impl MutEventSubscriber for Input {
    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::new(&self.drained, EventSet::IN)) {
            log::warn!("serial input: {error}");
            return;
        }
        self.watch(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if events.fd() == self.stdin.as_raw_fd() {
            return self.fill(ops);
        }
        // Only says that there is room; how often it was said is of no interest.
        let _ = self.drained.read();
        match self.watch {
            Watch::Off => self.watch(ops),
            Watch::File => self.fill(ops),
            Watch::On | Watch::Ended => {}
        }
    }
}
