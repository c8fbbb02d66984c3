//! A runtime with the command line of runc: `run --bundle`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::bundle;
use super::{Setting, Unready};
use crate::bench::attempt::{Attempt, AttemptError};
use crate::bench::entrant::{Start, Subject};
use crate::bench::interrupt::Interrupt;

/// A runtime and the bundle that it runs.
#[derive(Debug)]
pub struct OciRuntime {
    program: PathBuf,
    bundle: PathBuf,
    /// State of its containers: of a folder of its own, so that nothing stays in the host's.
    state: PathBuf,
}

impl OciRuntime {
    /// The runtime with a bundle of its own; `name` is that of the bundle's folder.
    pub fn new(
        program: &Path,
        name: &str,
        setting: &Setting<'_>,
        interrupt: &Interrupt,
    ) -> Result<Self, Unready> {
        let folder = setting.scratch.join(name);
        let bundle = bundle::make(&folder, setting.image, setting.options, interrupt)?;
        Ok(Self { program: program.to_owned(), bundle, state: folder.join("state") })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.state);
        command
    }
}

impl Subject for OciRuntime {
    fn start(&self, label: &str, interrupt: &Interrupt) -> Result<Start, AttemptError> {
        let mut command = self.command();
        command.arg("run").arg("--bundle").arg(&self.bundle).arg(label);
        let mut undo = self.command();
        undo.args(["delete", "--force", label]);
        let total_us = Attempt { command, undo: Some(undo) }.run(interrupt)?.length_us();
        Ok(Start { total_us, phases: Vec::new() })
    }
}
