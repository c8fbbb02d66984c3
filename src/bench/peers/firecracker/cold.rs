//! Boots: from the start of the process to its end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::bench::attempt::{Attempt, AttemptError};
use crate::bench::entrant::{Start, Subject};
use crate::bench::interrupt::Interrupt;

/// What one start does.
pub const DOES: &str =
    "Firecracker: boots the same guest until its agent finds no host; runs no container";

/// A machine to boot.
#[derive(Debug)]
pub struct Cold {
    program: PathBuf,
    config: PathBuf,
}

impl Cold {
    /// Of this machine; its configuration is written to `scratch`.
    pub fn new(program: &Path, scratch: &Path, machine: &Value) -> io::Result<Self> {
        let config = scratch.join("firecracker.json");
        fs::write(&config, machine.to_string())?;
        Ok(Self { program: program.to_owned(), config })
    }
}

impl Subject for Cold {
    fn start(&self, _label: &str, interrupt: &Interrupt) -> Result<Start, AttemptError> {
        let mut command = Command::new(&self.program);
        command.arg("--no-api").arg("--config-file").arg(&self.config);
        let total_us = Attempt::of(command).run(interrupt)?.length_us();
        Ok(Start { total_us, phases: Vec::new() })
    }
}
