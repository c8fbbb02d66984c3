//! `ampoule vm pause`: stops a machine until it is resumed.

use std::path::PathBuf;
use std::process::ExitCode;

use super::control;
use super::wait::block_signals;
use crate::cli::Failure;
use crate::monitor::control::MonitorRequest;

/// Stop a machine's CPUs and devices until it is resumed
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  ampoule vm pause --control vm.sock")]
pub struct Args {
    /// The machine's control socket, as given to `ampoule vm run`
    #[arg(long, value_name = "PATH")]
    control: PathBuf,
}

/// Runs the verb.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let answer = control::ask(&args.control, MonitorRequest::Pause, &[], &block_signals()?)?;
    Ok(answer.into())
}
