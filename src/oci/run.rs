//! `ampoule-oci run`: a container created and started, and waited for.

use std::process::ExitCode;

use super::create::{self, New, Terminal};
use super::error::host;
use super::start::{self, Laid};
use super::{Global, OciError, delete};
use crate::sandbox::signals::Signals;
use crate::terminal::RawTerminal;

/// Create a container of a bundle and execute its program
///
/// Exit status: the program's own, or 128 + N where signal N ended it; 1 where there is no container.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do not wait for the container's end
    #[arg(short, long)]
    detach: bool,
    /// Do not remove the container when it has ended
    #[arg(long)]
    keep: bool,
    /// Accepted for runc's callers: processes that outlive the container's are always ended with it
    #[arg(long, hide = true)]
    no_subreaper: bool,
    #[command(flatten)]
    new: New,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, OciError> {
    let (new, id) = (&args.new, &args.new.id);
    if args.detach {
        let keeper = create::create(global, new, Terminal::Socket)?;
        started(global, id)?;
        keeper.go()?;
        return Ok(ExitCode::SUCCESS);
    }
    let signals = Signals::block().map_err(host("block signals"))?;
    let keeper = create::create(global, new, Terminal::Own)?;
    // The keeper, in a session of its own, reads from this command's terminal all the same.
    let raw = RawTerminal::enter().map_err(host("set the terminal to raw mode"))?;
    started(global, id)?;
    let code = keeper.go_and_wait(&signals).inspect_err(|_| {
        // The first error is the one to tell.
        let _ = delete::by_force(global, id);
    })?;
    drop(raw);
    if !args.keep {
        delete::ended(global, id)?;
    }
    Ok(ExitCode::from(code))
}

/// A container that does not start goes.
fn started(global: &Global, id: &str) -> Result<(), OciError> {
    start::start(global, id, Laid::Before).inspect_err(|_| {
        // The first error is the one to tell.
        let _ = delete::by_force(global, id);
    })
}
