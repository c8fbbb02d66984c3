//! `ampoule vm`: machines without containers.

mod control;
mod devices;
mod pause;
mod restore;
mod resume;
mod run;
mod snapshot;
mod wait;

use std::process::ExitCode;

use clap::Subcommand;

use super::Failure;
use control::Answer;

/// The file of a snapshot's folder that holds everything but the memory.
const STATE: &str = "state";
/// The file of a snapshot's folder that holds the guest's memory.
const MEMORY: &str = "memory";

/// Run machines without containers
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Boot a kernel in a machine of its own
    Run(run::Args),
    Snapshot(snapshot::Args),
    Restore(restore::Args),
    Pause(pause::Args),
    Resume(resume::Args),
}

/// Runs the verb.
pub fn run(args: Args) -> Result<ExitCode, Failure> {
    match args.verb {
        Verb::Run(args) => run::run(args),
        Verb::Snapshot(args) => snapshot::run(&args),
        Verb::Restore(args) => restore::run(args),
        Verb::Pause(args) => pause::run(&args),
        Verb::Resume(args) => resume::run(&args),
    }
}

impl From<Answer> for ExitCode {
    /// As a shell tells it.
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Done => Self::SUCCESS,
            Answer::Signal(number) => Self::from(wait::status_of_signal(number)),
        }
    }
}
