//! `ampoule start`: start containers that do not run.

use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::arguments::terminal_for;
use super::run::{attached, left};
use super::{Failure, Global, each};
use crate::clock::now_us;
use crate::detach_keys::DetachKeys;
use crate::sandbox::attach;
use crate::sandbox::detach::What;
use crate::sandbox::keeper::{self, Source, Wanted};
use crate::sandbox::{Registry, SandboxError, lifecycle};

/// Start containers that were made or have ended
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule start web\n  ampoule start -ai job\n  \
    ampoule start -ai --detach-keys ctrl-p,ctrl-q box")]
pub struct Args {
    /// Stay with the container: its output, its exit code; signals are passed on
    #[arg(short, long)]
    attach: bool,
    /// Give it standard input, too
    #[arg(short, long, requires = "attach")]
    interactive: bool,
    /// Keys that end this command and leave the container running, where it has a terminal that is typed to;
    /// the container of an --attach without them ends with the command
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<DetachKeys>,
    /// Containers, by name or id
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Runs the verb.
pub fn run(args: Args, global: &Global) -> Result<ExitCode, Failure> {
    let command_us = now_us();
    let places = global.places();
    let registry = Registry::new(&places);
    if !args.attach {
        return each(&args.containers, |container| {
            lifecycle::start(&registry, container).map(drop)
        });
    }
    let [container] = args.containers.as_slice() else {
        return Err("you cannot start and attach to several containers at once".into());
    };
    let entry = registry.find(container)?;
    if !lifecycle::at_rest(&entry)? {
        return Err(SandboxError::Running(entry.state.name).into());
    }
    let mut record = entry.record()?;
    record.options.interactive &= args.interactive;
    terminal_for(record.options.terminal, record.options.interactive)?;
    let keys = args.detach_keys.filter(|_| record.options.terminal && record.options.interactive);
    if let Some(keys) = keys {
        let restart = record.options.restart;
        return Ok(left(attach::start(&places, What::Start(record.id), restart, keys)?));
    }
    let image = record.open_image(&places)?;
    let wanted = Wanted::Again(Box::new(record));
    let job = keeper::Job { places: &places, wanted, command_us, timings: false };
    let outcome = keeper::run(job, Source::Image(&image), attached, |_| {})?;
    if let Some(lost) = outcome.lost_output {
        eprintln!("ampoule: the container's output could not be written: {lost}");
    }
    Ok(ExitCode::from(outcome.code))
}
