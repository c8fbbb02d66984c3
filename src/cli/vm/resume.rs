//! `ampoule vm resume`: lets a paused machine go on.

use std::path::PathBuf;
use std::process::ExitCode;

use super::control;
use super::wait::block_signals;
use crate::cli::Failure;
use crate::monitor::control::MonitorRequest;

/// Let a paused machine go on
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  ampoule vm resume --control vm.sock")]
pub struct Args {
    /// The machine's control socket, as given to `ampoule vm run`
    #[arg(long, value_name = "PATH")]
    control: PathBuf,
}

/// Runs the verb.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let answer = control::ask(&args.control, MonitorRequest::Resume, &[], &block_signals()?)?;
    Ok(answer.into())
}
