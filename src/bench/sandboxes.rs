//! This program's own starts: `ampoule run` of the image, cold or warm.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::attempt::{Attempt, AttemptError, line};
use super::entrant::{Entrant, Span, Start, Subject};
use super::interrupt::Interrupt;
use super::peers::Setting;
use crate::sandbox::Places;
use crate::sandbox::timings::{Phase, Phases};

/// This same program, also where its file has been replaced meanwhile.
const PROGRAM: &str = "/proc/self/exe";

/// How a sandbox is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Mode {
    /// Its kernel is booted
    Cold,
    /// It is restored from a template
    Warm,
    /// It is a copy of a running one
    Fork,
    /// As an OCI runtime's: created of a bundle, then started
    Oci,
    /// A further process in a running one, by the OCI runtime
    Exec,
}

/// A command line of this program that works in the same places.
pub fn ampoule(places: &Places) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("--root").arg(&places.data).arg("--state").arg(&places.state);
    command.arg("--templates").arg(places.templates());
    command
}

/// Removes a container, running or not.
pub fn removal(places: &Places, name: &str) -> Command {
    let mut command = ampoule(places);
    command.args(["rm", "--force", name]);
    command
}

/// This program as an entrant.
pub fn entrant(name: &str, does: &'static str, subject: Box<dyn Subject>) -> Entrant {
    let version = format!("ampoule {}", env!("CARGO_PKG_VERSION"));
    let (name, span) = (name.to_owned(), Span::Whole);
    Entrant { name, does, version, span, ours: true, subject }
}

#[derive(Debug)]
struct Sandboxes {
    places: Places,
    mode: Mode,
    image: String,
    command: Vec<String>,
    scratch: PathBuf,
}

/// Starts with the kernel's boot.
pub fn cold(setting: &Setting) -> Entrant {
    let does = "ampoule run --rm: boots a kernel, runs the command in a container, clears away";
    entrant("ampoule cold", does, sandboxes(setting, Mode::Cold))
}

/// Starts from a template, which the warm-up makes where there is none.
pub fn warm(setting: &Setting) -> Entrant {
    let does =
        "ampoule run --rm: restores a template, runs the command in a container, clears away";
    entrant("ampoule warm", does, sandboxes(setting, Mode::Warm))
}

fn sandboxes(setting: &Setting, mode: Mode) -> Box<dyn Subject> {
    Box::new(Sandboxes {
        places: setting.places.clone(),
        mode,
        image: setting.options.image.clone(),
        command: setting.options.command.clone(),
        scratch: setting.scratch.to_owned(),
    })
}

impl Subject for Sandboxes {
    fn start(&self, label: &str, interrupt: &Interrupt) -> Result<Start, AttemptError> {
        let file = self.scratch.join(format!("{label}.timings"));
        let mut command = ampoule(&self.places);
        command.args(["run", "--rm", "--network", "none", "--name", label]);
        command.args(["--start", if self.mode == Mode::Warm { "warm" } else { "cold" }]);
        command.arg("--timings-file").arg(&file).arg(&self.image).args(&self.command);
        let command_line = line(&command);
        let attempt = Attempt { command, undo: Some(removal(&self.places, label)) };
        let total_us = attempt.run(interrupt)?.length_us();
        let told = match read(&file) {
            Ok(told) => told,
            Err(source) => return Err(AttemptError::Phases { command: command_line, source }),
        };
        if self.mode == Mode::Warm && !told.warm {
            return Err(AttemptError::Cold { command: command_line });
        }
        Ok(Start { total_us, phases: with_the_rest(told.phases, total_us) })
    }
}

fn read(file: &Path) -> io::Result<Phases> {
    let told = serde_json::from_reader(File::open(file)?)?;
    fs::remove_file(file)?;
    Ok(told)
}

/// The program tells of the time from its `main` on; what the kernel takes to load it and to bury
/// it is what is left of the whole.
fn with_the_rest(mut phases: Vec<Phase>, total_us: u64) -> Vec<Phase> {
    let told: u64 = phases.iter().map(|phase| phase.us).fold(0, u64::saturating_add);
    let us = total_us.saturating_sub(told);
    phases.push(Phase { name: "process made and ended".into(), us });
    phases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phases_add_up_to_the_whole() {
        let phase = |name: &'static str, us| Phase { name: name.into(), us };
        let all = with_the_rest(vec![phase("a", 3), phase("b", 4)], 10);
        assert_eq!(all.iter().map(|phase| phase.us).sum::<u64>(), 10);
        assert_eq!(with_the_rest(vec![phase("a", 30)], 10)[1].us, 0);
    }
}
