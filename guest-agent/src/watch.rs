//! The main loop: ended children, memory that ran out, the host's end.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use ampoule_protocol::message::Event;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::cgroup::{self, Cgroup};
use crate::error::{Doing, Result};
use crate::transport::Connection;
use crate::{Agent, log};

const SIGNALS: u64 = 0;
const HOST: u64 = 1;
/// Containers' `memory.events` count from here.
const FIRST_MEMORY: u64 = 2;

/// What the main loop watches beside children and the host.
#[derive(Debug)]
pub struct Watcher {
    epoll: OnceLock<Epoll>,
    memory: Mutex<Memory>,
}

#[derive(Debug)]
struct Memory {
    next: u64,
    by_key: BTreeMap<u64, MemoryEvents>,
}

#[derive(Debug)]
struct MemoryEvents {
    container: String,
    file: File,
    kills: u64,
}

impl Watcher {
    /// Nothing yet.
    pub const fn new() -> Self {
        let memory = Memory { next: FIRST_MEMORY, by_key: BTreeMap::new() };
        Self { epoll: OnceLock::new(), memory: Mutex::new(memory) }
    }

    fn epoll(&self) -> Result<&Epoll> {
        if let Some(epoll) = self.epoll.get() {
            return Ok(epoll);
        }
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).doing(|| "make an epoll")?;
        Ok(self.epoll.get_or_init(|| epoll))
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the main loop when the host ends this connection.
    pub fn watch_host(&self, connection: &Connection) -> Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLRDHUP, HOST);
        self.epoll()?.add(connection, event).doing(|| "watch the host")
    }

    /// The end of this connection is not of interest any more.
    pub fn forget_host(&self, connection: &Connection) {
        // Fails only where it was not watched.
        let _ = self.epoll().map(|epoll| epoll.delete(connection));
    }

    /// Tells the host from now on when a process of the container is killed for want of memory.
    pub fn watch_memory(&self, container: &str, cgroup: &Cgroup) {
        // Without a memory controller there is nothing to watch.
        let (Ok(file), Ok(epoll)) = (cgroup.memory_events(), self.epoll()) else {
            return;
        };
        let mut memory = self.memory();
        let key = memory.next;
        memory.next += 1;
        match epoll.add(&file, EpollEvent::new(EpollFlags::EPOLLPRI, key)) {
            Ok(()) => {
                let container = container.to_owned();
                memory.by_key.insert(key, MemoryEvents { container, file, kills: 0 });
            }
            Err(e) => log::line(&format!("cannot watch the memory of {container:?}: {e}")),
        }
    }

    /// The container is no more. Closing the file takes it out of the epoll.
    pub fn forget(&self, container: &str) {
        self.memory().by_key.retain(|_, events| events.container != container);
    }

    /// The container of a changed `memory.events`, where a process was killed.
    fn new_kill(&self, key: u64) -> Option<String> {
        let mut memory = self.memory();
        let events = memory.by_key.get_mut(&key)?;
        let kills = cgroup::read_oom_kills(&mut events.file);
        let is_new = kills > events.kills;
        events.kills = kills;
        is_new.then(|| events.container.clone())
    }
}

/// Keeps the signals that the main loop reads from interrupting anything: before any thread.
pub fn take_signals() -> Result<SignalFd> {
    // SAFETY: ignoring a signal is no handler of ours. A reader that is gone is an error to see.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) }.doing(|| "ignore SIGPIPE")?;
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.thread_block().doing(|| "block SIGCHLD")?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .doing(|| "make a signalfd")
}

/// Runs until the host is gone; a template, which has none, runs on.
pub fn run(agent: &Agent, signals: &SignalFd) -> Result<()> {
    let epoll = agent.watcher.epoll()?;
    let action = || "watch children and the host";
    epoll.add(signals, EpollEvent::new(EpollFlags::EPOLLIN, SIGNALS)).doing(action)?;
    let mut events = [EpollEvent::empty(); 8];
    loop {
        let count = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(Errno::EINTR) => 0,
            count => count.doing(action)?,
        };
        for event in events.iter().take(count) {
            match event.data() {
                SIGNALS => {
                    // Signals of the same kind are merged: the children are asked one by one.
                    while signals.read_signal().doing(action)?.is_some() {}
                    agent.reaper.reap();
                }
                HOST if !agent.host.is_gone() => {}
                // A clone goes on with another host.
                HOST if agent.held.is() => agent.host.let_go(&agent.watcher),
                HOST => return Ok(()),
                key => {
                    if let Some(container) = agent.watcher.new_kill(key) {
                        agent.host.tell(&Event::OutOfMemory { container });
                    }
                }
            }
        }
    }
}
