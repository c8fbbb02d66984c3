//! The containers of the sandbox. One request a file.

mod create;
mod delete;
mod exec;
mod files;
mod kill;
mod launch;
mod layer;
mod line;
mod name;
mod pause;
mod process;
mod rename;
mod start;
mod state;
mod stdio;
mod table;
mod update;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ampoule_protocol::message::{ExitStatus, INIT, ProcessId, Stats, Stdio};
pub use create::create;
pub use delete::delete;
pub use exec::exec;
pub use files::rewrite;
pub use kill::{kill, kill_everything};
pub use layer::{Layer, layer, root};
pub use pause::{pause, resume};
pub use rename::rename_hosts;
pub use start::start;
pub use table::processes;
pub use update::update;

use nix::sched::CloneFlags;

use crate::cgroup::Cgroup;
use crate::error::{Doing, Error, Result};
use crate::transport::Connection;
use crate::{Agent, log, shares};
use process::Process;
use state::State;

/// Ended processes beside the first that a container remembers for a late `Wait`.
const MAX_ENDED: usize = 64;

/// One container.
#[derive(Debug)]
pub struct Container {
    name: String,
    cgroup: Cgroup,
    /// The request that made it, as it came: what `exec` inherits from.
    request: Vec<u8>,
    /// What of shares it may have had mounted: paths of the guest.
    shares: BTreeSet<PathBuf>,
    /// Disks that were plugged in for it.
    disks: Vec<PathBuf>,
    /// `CLONE_NEW*` of the namespaces that are not the guest's own.
    namespaces: i32,
    state: Mutex<State>,
    /// The first process's setup stage, which waits for the start.
    control: Mutex<Option<UnixStream>>,
    /// Where its root file system's changes are. Given up with its first process: what keeps a disk mounted
    /// keeps it from being whole.
    layer: Mutex<Option<Arc<Layer>>>,
    processes: Mutex<Processes>,
}

#[derive(Debug, Default)]
struct Processes {
    by_name: BTreeMap<String, Arc<Process>>,
    /// Names beside the first process's, oldest first.
    order: Vec<String>,
}

impl Container {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn processes(&self) -> MutexGuard<'_, Processes> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn control(&self) -> MutexGuard<'_, Option<UnixStream>> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn layer(&self) -> MutexGuard<'_, Option<Arc<Layer>>> {
        self.layer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn process(&self, name: &str) -> Result<Arc<Process>> {
        self.processes()
            .by_name
            .get(name)
            .cloned()
            .ok_or_else(|| Error::NotFound { what: "process", name: name.to_owned() })
    }

    /// # Errors
    /// The name is taken.
    fn add_process(&self, name: &str, process: Arc<Process>) -> Result<()> {
        let mut processes = self.processes();
        if processes.by_name.contains_key(name) {
            return Err(Error::AlreadyExists { what: "process", name: name.to_owned() });
        }
        processes.forget_ended();
        if name != INIT {
            processes.order.push(name.to_owned());
        }
        processes.by_name.insert(name.to_owned(), process);
        Ok(())
    }

    /// The status of an exit that was seen just now.
    fn exit_status(&self, code: i32) -> ExitStatus {
        ExitStatus { code, oom_killed: self.cgroup.oom_kills() > 0 }
    }

    /// Where the first process shares its pid namespace, its end leaves others behind.
    fn init_exited(&self, process: &Process, code: i32) {
        self.state().ended();
        self.layer().take();
        if let Err(e) = self.cgroup.kill() {
            log::line(&format!("container {:?}: {e}", self.name));
        }
        process.exited(self.exit_status(code));
    }
}

impl Processes {
    /// Keeps the number of remembered ended processes within [`MAX_ENDED`].
    fn forget_ended(&mut self) {
        let is_over = |name: &String| self.by_name.get(name).is_none_or(|p| p.is_over());
        let over = self.order.iter().filter(|name| is_over(name)).count();
        if over < MAX_ENDED {
            return;
        }
        if let Some(oldest) = self.order.iter().position(is_over) {
            let name = self.order.remove(oldest);
            self.by_name.remove(&name);
        }
    }
}

/// All containers, by name.
#[derive(Debug)]
pub struct Containers(Mutex<BTreeMap<String, Arc<Container>>>);

impl Containers {
    /// None yet.
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Container>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, name: &str) -> Result<Arc<Container>> {
        self.lock()
            .get(name)
            .cloned()
            .ok_or_else(|| Error::NotFound { what: "container", name: name.to_owned() })
    }

    fn add(&self, container: Arc<Container>) -> Result<()> {
        let mut all = self.lock();
        if all.contains_key(&container.name) {
            let name = container.name.clone();
            return Err(Error::AlreadyExists { what: "container", name });
        }
        all.insert(container.name.clone(), container);
        Ok(())
    }

    /// Removes a container, and what of shares only it has had mounted: nobody comes in between who
    /// would need it.
    fn remove(&self, container: &Container) {
        let mut all = self.lock();
        all.remove(&container.name);
        for path in &container.shares {
            if !all.values().any(|other| other.shares.contains(path)) {
                shares::detach(path);
            }
        }
    }

    /// A process of a container that has a namespace of this kind for itself or with others.
    ///
    /// # Errors
    /// There is none, or it is in the guest's own.
    pub fn member(&self, name: &str, kind: CloneFlags, process: &str) -> Result<Arc<Process>> {
        let container = self.find(name)?;
        if !CloneFlags::from_bits_retain(container.namespaces).contains(kind) {
            return Err(Error::Invalid(format!("container {name:?} has no {kind:?}")));
        }
        container.process(process)
    }

    /// Whether there is none, nor one being made.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Lets go of all streams whose connection broke.
    pub fn release_streams(&self) {
        for container in self.all() {
            let processes: Vec<_> = container.processes().by_name.values().cloned().collect();
            processes.iter().for_each(|process| process.release_streams());
        }
    }

    fn all(&self) -> Vec<Arc<Container>> {
        self.lock().values().cloned().collect()
    }
}

/// Gives a process whose streams wait new ones.
pub fn attach(agent: &Agent, id: &ProcessId, stdio: &Stdio) -> Result<()> {
    find(agent, id)?.attach(&agent.streams, stdio)
}

fn find(agent: &Agent, id: &ProcessId) -> Result<Arc<Process>> {
    agent.containers.find(&id.container)?.process(&id.process)
}

/// Blocks until a process has ended and its output has been handed over whole.
pub fn wait(agent: &Agent, id: &ProcessId) -> Result<ExitStatus> {
    Ok(find(agent, id)?.wait())
}

/// Blocks until more than `after` processes of a container were killed for want of memory: how many
/// were. None where the container has ended, or the client is gone.
pub fn await_oom_kill(
    agent: &Agent,
    name: &str,
    after: Option<u64>,
    client: &Connection,
) -> Result<Option<u64>> {
    agent.containers.find(name)?.cgroup.await_oom_kill(after, client.as_fd())
}

/// What a container uses.
pub fn stats(agent: &Agent, name: &str) -> Result<Stats> {
    Ok(agent.containers.find(name)?.cgroup.stats())
}

/// Sets a terminal's size.
pub fn resize(agent: &Agent, id: &ProcessId, rows: u16, columns: u16) -> Result<()> {
    nix::ioctl_write_ptr_bad!(set_window_size, libc::TIOCSWINSZ, libc::winsize);
    let process = find(agent, id)?;
    let Some(master) = process.terminal() else {
        return Err(Error::WrongState(format!("process {:?} has no terminal", id.process)));
    };
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize behind the pointer, which is to a live one.
    unsafe { set_window_size(master.as_raw_fd(), &raw const size) }
        .doing(|| "resize the terminal")
        .map(drop)
}
