//! This program's own starts: `ampoule fork` of a running sandbox.

use super::attempt::{Attempt, AttemptError, clear, line};
use super::entrant::{Entrant, Start, Subject};
use super::interrupt::Interrupt;
use super::peers::Setting;
use super::sandboxes::{ampoule, entrant, removal};
use crate::sandbox::Places;

/// What the sandbox runs that is forked: it must last, and any image with a shell has it.
const LASTING: [&str; 3] = ["tail", "-f", "/dev/null"];

/// A running sandbox that is copied with each start; removed when dropped.
#[derive(Debug)]
struct Base {
    places: Places,
    name: String,
}

/// Starts the sandbox that is to be forked.
pub fn forks(setting: &Setting, interrupt: &Interrupt) -> Result<Entrant, AttemptError> {
    let base =
        Base { places: setting.places.clone(), name: format!("bench-{}-base", std::process::id()) };
    let mut command = ampoule(&base.places);
    command.args(["run", "--detach", "--rm", "--network", "none", "--name", &base.name]);
    command.arg(&setting.options.image).args(LASTING);
    Attempt { command, undo: None }.run(interrupt)?;
    let does = "ampoule fork: copies a running sandbox, whose program goes on in the copy";
    Ok(entrant("ampoule fork", does, Box::new(base)))
}

impl Subject for Base {
    fn start(&self, label: &str, interrupt: &Interrupt) -> Result<Start, AttemptError> {
        let mut command = ampoule(&self.places);
        command.args(["fork", &self.name, label]);
        let attempt = Attempt { command, undo: Some(removal(&self.places, label)) };
        let total_us = attempt.run(interrupt)?.length_us();
        let mut removal = removal(&self.places, label);
        let status =
            clear(&mut removal).map_err(AttemptError::host("cannot remove a forked sandbox"))?;
        if !status.success() {
            let command = line(&removal);
            return Err(AttemptError::Failed { command, status, words: String::new() });
        }
        Ok(Start { total_us, phases: Vec::new() })
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        // Not there where it was not started; what cannot be removed stays in `ampoule ps`.
        let _ = clear(&mut removal(&self.places, &self.name));
    }
}
