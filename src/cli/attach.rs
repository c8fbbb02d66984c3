//! `ampoule attach`: the streams of a running container.

use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::arguments::terminal_for;
use super::{Failure, Global};
use crate::sandbox::attach::{self, AttachOptions};
use crate::sandbox::{Registry, lifecycle};

/// Attach this terminal's input and output to a running container
///
/// Its input where it was started with --interactive. Exit status: that of its program.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Leave standard input alone
    #[arg(long)]
    no_stdin: bool,
    /// Pass signals on to the program
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1,
          default_missing_value = "true", require_equals = true)]
    sig_proxy: bool,
    /// Container, by name or id
    container: String,
}

/// Runs the verb.
pub fn run(args: Args, global: &Global) -> Result<ExitCode, Failure> {
    let registry = Registry::new(&global.places());
    let entry = lifecycle::running(&registry, &args.container)?;
    let stdin = !args.no_stdin && entry.record()?.options.interactive;
    terminal_for(entry.state.terminal, stdin)?;
    let options = AttachOptions { stdin, proxy: args.sig_proxy };
    Ok(ExitCode::from(attach::run(&registry, &entry, options)?))
}
