//! What the shim keeps: containers, their processes, and the sandbox that all of them are in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use containerd_shim::ExitSignal;
use oci_spec::runtime::Spec;

use super::error::ShimError;
use super::events::Events;
use super::hooks::Hooked;
use super::lock;
use super::process::{Exit, KILLED, Process};
use super::rootfs::Mounted;
use super::sandbox::{Sandbox, Seen};
use super::spec::Kind;
use crate::oci::hooks::Kind as HookKind;

/// Most further processes that a container may have at a time, ended ones that nobody has asked to be
/// forgotten among them.
const MAX_EXECS: usize = 4096;

/// A container.
#[derive(Debug)]
pub struct Task {
    /// Its id.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Its first process.
    pub init: Arc<Process>,
    /// Its further ones.
    execs: Mutex<BTreeMap<String, Arc<Process>>>,
    /// What its guest sees of the host.
    pub seen: Seen,
    /// Its `config.json`, where it has hooks that are yet to run.
    pub hooks: Option<Box<Spec>>,
    /// Its root file system, where it was mounted for it.
    rootfs: Mutex<Option<Mounted>>,
}

/// All of them.
#[derive(Debug)]
pub struct Tasks {
    /// Where it is told what happens.
    pub events: Events,
    /// Set when the shim is no longer wanted.
    pub exit: Ending,
    all: Mutex<BTreeMap<String, Arc<Task>>>,
    sandbox: Mutex<Option<Arc<Sandbox>>>,
}

/// The signal that ends the shim.
#[derive(Default)]
pub struct Ending(pub ExitSignal);

impl std::fmt::Debug for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ending")
    }
}

impl Task {
    /// One whose first process was created.
    pub fn new(
        id: &str,
        bundle: PathBuf,
        kind: Kind,
        init: Process,
        seen: Seen,
        rootfs: Option<Mounted>,
    ) -> Self {
        Self {
            id: id.to_owned(),
            bundle,
            kind,
            init: Arc::new(init),
            execs: Mutex::default(),
            seen,
            hooks: None,
            rootfs: Mutex::new(rootfs),
        }
    }

    /// One of its processes; the first where no name is given.
    pub fn process(&self, exec: &str) -> Result<Arc<Process>, ShimError> {
        if exec.is_empty() {
            return Ok(Arc::clone(&self.init));
        }
        let found = lock(&self.execs).get(exec).cloned();
        found.ok_or_else(|| ShimError::not_found("process", exec))
    }

    /// Adds a further process.
    pub fn add(&self, exec: &str, process: Process) -> Result<(), ShimError> {
        let mut execs = lock(&self.execs);
        if execs.contains_key(exec) {
            return Err(ShimError::AlreadyExists(format!("process {exec}: already exists")));
        }
        if execs.len() >= MAX_EXECS {
            let message = format!("container {} has {MAX_EXECS} processes: too many", self.id);
            return Err(ShimError::WrongState(message));
        }
        execs.insert(exec.to_owned(), Arc::new(process));
        Ok(())
    }

    /// Forgets a further process.
    pub fn forget(&self, exec: &str) {
        lock(&self.execs).remove(exec);
    }

    /// Runs its hooks of a kind.
    pub fn run_hooks(&self, kind: HookKind, pid: u32) -> Result<(), ShimError> {
        let Some(spec) = &self.hooks else { return Ok(()) };
        Hooked { id: &self.id, bundle: &self.bundle, spec, pid }.run(&[kind])
    }

    /// Unmounts its root file system.
    pub fn unmount(&self) {
        lock(&self.rootfs).take();
    }

    /// All of its processes, with the names of the further ones.
    pub fn processes(&self) -> Vec<(String, Arc<Process>)> {
        let execs = lock(&self.execs);
        let further = execs.iter().map(|(name, process)| (name.clone(), Arc::clone(process)));
        std::iter::once((String::new(), Arc::clone(&self.init))).chain(further).collect()
    }
}

impl Tasks {
    /// None yet.
    pub fn new(events: Events) -> Self {
        Self { events, exit: Ending::default(), all: Mutex::default(), sandbox: Mutex::default() }
    }

    /// A container.
    pub fn find(&self, id: &str) -> Result<Arc<Task>, ShimError> {
        let found = lock(&self.all).get(id).cloned();
        found.ok_or_else(|| ShimError::not_found("container", id))
    }

    /// A container and one of its processes.
    pub fn find_process(
        &self,
        id: &str,
        exec: &str,
    ) -> Result<(Arc<Task>, Arc<Process>), ShimError> {
        let task = self.find(id)?;
        let process = task.process(exec)?;
        Ok((task, process))
    }

    /// Adds a container.
    pub fn add(&self, task: Task) -> Arc<Task> {
        let task = Arc::new(task);
        lock(&self.all).insert(task.id.clone(), Arc::clone(&task));
        task
    }

    /// Forgets a container.
    pub fn forget(&self, id: &str) {
        lock(&self.all).remove(id);
    }

    /// Every container.
    pub fn all(&self) -> Vec<Arc<Task>> {
        lock(&self.all).values().cloned().collect()
    }

    /// The sandbox that everything is in.
    ///
    /// # Errors
    /// There is none, or no longer.
    pub fn sandbox(&self) -> Result<Arc<Sandbox>, ShimError> {
        lock(&self.sandbox).clone().ok_or_else(ShimError::sandbox_ended)
    }

    /// Remembers the sandbox.
    pub fn set_sandbox(&self, sandbox: Sandbox) -> Arc<Sandbox> {
        let sandbox = Arc::new(sandbox);
        *lock(&self.sandbox) = Some(Arc::clone(&sandbox));
        sandbox
    }

    /// Pid of whatever stands for the processes of the sandbox on the host: its monitor. 0 where it has
    /// none any more.
    pub fn pid(&self) -> u32 {
        let sandbox = lock(&self.sandbox);
        sandbox.as_ref().map_or(0, |sandbox| sandbox.pid())
    }

    /// Ends the sandbox, and clears away what it had of the host's.
    pub fn end_sandbox(&self) -> Result<(), ShimError> {
        // Without the lock: those who ask for it meanwhile hear that it has ended.
        let sandbox = lock(&self.sandbox).clone();
        sandbox.map_or(Ok(()), |sandbox| sandbox.end())
    }

    /// The sandbox has died under its containers.
    pub fn sandbox_died(&self) {
        for task in self.all() {
            for (name, process) in task.processes() {
                self.ended(&task.id, &name, &process, Exit::now(KILLED));
            }
        }
    }

    /// A process has ended.
    pub fn ended(&self, id: &str, exec: &str, process: &Process, exit: Exit) {
        let pid = self.pid();
        process.set_ended(exit, || self.events.exit(id, exec, pid, exit));
    }
}
