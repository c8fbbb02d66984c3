//! Runtimes with the command line of runc, this program's own among them: `run`, `create` and `start`,
//! `exec`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::bundle;
use super::{Setting, Unready};
use crate::bench::attempt::{Attempt, AttemptError, clear};
use crate::bench::entrant::{Entrant, Span, Start, Subject};
use crate::bench::interrupt::Interrupt;
use crate::bench::sandboxes::Mode;

/// What a container runs that others are executed in: it must last, and any image with a shell has it.
const LASTING: [&str; 3] = ["tail", "-f", "/dev/null"];

/// A runtime.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// What people call it.
    pub name: &'static str,
    /// Its program.
    pub program: PathBuf,
    /// What it says of its version.
    pub version: String,
    /// Whether it is this program's own.
    pub ours: bool,
    /// Variables that it is told where things are by.
    pub environment: Vec<(&'static str, PathBuf)>,
}

/// What is timed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Doing {
    /// `run`: a container from its creation to its end.
    Run,
    /// `create`, then `start`: until its program runs.
    Create,
    /// `exec` in the container of this id: a process to its end.
    Exec(String, Vec<String>),
}

impl Doing {
    fn span(&self) -> Span {
        match self {
            Self::Run => Span::Whole,
            Self::Create => Span::Create,
            Self::Exec(..) => Span::Exec,
        }
    }
}

/// A runtime and the bundle that it runs.
#[derive(Debug)]
struct OciRuntime {
    runtime: Runtime,
    doing: Doing,
    bundle: PathBuf,
    /// State of its containers: of a folder of its own, so that nothing stays in the host's.
    state: PathBuf,
}

/// An entrant for each way of starting that the runtime has a part in.
pub fn entrants(
    runtime: &Runtime,
    setting: &Setting<'_>,
    interrupt: &Interrupt,
) -> Result<Vec<Entrant>, Unready> {
    let has = |mode: &Mode| setting.modes.contains(mode);
    let mut entrants = Vec::new();
    let whole = [Mode::Cold, Mode::Warm, Mode::Fork];
    if !runtime.ours && whole.iter().any(has) {
        let does = "run: the same image's files and config.json, on the host's kernel";
        let subject = OciRuntime::new(runtime, "", Doing::Run, setting, interrupt)?;
        entrants.push(runtime.entrant("", does, subject));
    }
    if has(&Mode::Oci) {
        let does = "create, then start, of a bundle: until the program runs";
        let subject = OciRuntime::new(runtime, "create", Doing::Create, setting, interrupt)?;
        entrants.push(runtime.entrant(" create+start", does, subject));
    }
    if has(&Mode::Exec) {
        let does = "exec of the command in a running container, to its end";
        let id = format!("bench-{}-base", std::process::id());
        let doing = Doing::Exec(id, setting.options.command.clone());
        let subject = OciRuntime::new(runtime, "exec", doing, setting, interrupt)?;
        entrants.push(runtime.entrant(" exec", does, subject));
    }
    Ok(entrants)
}

impl Runtime {
    fn entrant(&self, what: &str, does: &'static str, subject: OciRuntime) -> Entrant {
        Entrant {
            name: format!("{}{what}", self.name),
            does,
            version: self.version.clone(),
            span: subject.doing.span(),
            ours: self.ours,
            subject: Box::new(subject),
        }
    }
}

impl OciRuntime {
    /// With a bundle of its own, and a running container where others are executed in one.
    fn new(
        runtime: &Runtime,
        what: &str,
        doing: Doing,
        setting: &Setting<'_>,
        interrupt: &Interrupt,
    ) -> Result<Self, Unready> {
        let folder = setting.scratch.join(format!("{}{what}", runtime.name));
        let mut options = setting.options.clone();
        if matches!(doing, Doing::Exec(..)) {
            options.command = LASTING.map(str::to_owned).to_vec();
        }
        let bundle = bundle::make(&folder, setting.image, &options, interrupt)?;
        let made = Self { runtime: runtime.clone(), doing, bundle, state: folder.join("state") };
        if let Doing::Exec(id, _) = &made.doing {
            made.create(id, interrupt)?;
        }
        Ok(made)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.runtime.program);
        command.envs(self.runtime.environment.iter().map(|(name, value)| (name, value)));
        command.arg("--root").arg(&self.state);
        command
    }

    fn removal(&self, id: &str) -> Command {
        let mut undo = self.command();
        undo.args(["delete", "--force", id]);
        undo
    }

    fn attempt(
        &self,
        command: Command,
        id: &str,
        interrupt: &Interrupt,
    ) -> Result<u64, AttemptError> {
        let attempt = Attempt { command, undo: Some(self.removal(id)) };
        Ok(attempt.run(interrupt)?.length_us())
    }

    fn on_bundle(&self, verb: &str, id: &str) -> Command {
        let mut command = self.command();
        command.arg(verb).arg("--bundle").arg(&self.bundle).arg(id);
        command
    }

    /// Creates and starts a container: how long both took.
    fn create(&self, id: &str, interrupt: &Interrupt) -> Result<u64, AttemptError> {
        let create = self.attempt(self.on_bundle("create", id), id, interrupt)?;
        let mut start = self.command();
        start.args(["start", id]);
        Ok(create.saturating_add(self.attempt(start, id, interrupt)?))
    }

    fn remove(&self, id: &str) -> Result<(), AttemptError> {
        let mut removal = self.removal(id);
        let status =
            clear(&mut removal).map_err(AttemptError::host("cannot remove a container"))?;
        if status.success() {
            return Ok(());
        }
        let command = crate::bench::attempt::line(&removal);
        Err(AttemptError::Failed { command, status, words: String::new() })
    }
}

impl Subject for OciRuntime {
    fn start(&self, label: &str, interrupt: &Interrupt) -> Result<Start, AttemptError> {
        let total_us = match &self.doing {
            Doing::Run => self.attempt(self.on_bundle("run", label), label, interrupt)?,
            Doing::Create => {
                let total_us = self.create(label, interrupt)?;
                self.remove(label)?;
                total_us
            }
            Doing::Exec(id, arguments) => {
                let mut command = self.command();
                command.arg("exec").arg(id).args(arguments);
                Attempt::of(command).run(interrupt)?.length_us()
            }
        };
        Ok(Start { total_us, phases: Vec::new() })
    }
}

impl Drop for OciRuntime {
    fn drop(&mut self) {
        if let Doing::Exec(id, _) = &self.doing {
            // What cannot be removed is told by nobody better than by what is then left.
            let _ = self.remove(id);
        }
    }
}

/// A runtime of the host's kernel.
pub fn peer(
    name: &'static str,
    program: &Path,
    version: String,
    setting: &Setting<'_>,
    interrupt: &Interrupt,
) -> Result<Vec<Entrant>, Unready> {
    let program = program.to_owned();
    let runtime = Runtime { name, program, version, ours: false, environment: Vec::new() };
    entrants(&runtime, setting, interrupt)
}
