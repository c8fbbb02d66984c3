//! `ampoule exec`: a further process in a running container.

use std::env;
use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::arguments::{ProcessArgs, terminal_for};
use super::{Failure, Global};
use crate::sandbox::Registry;
use crate::sandbox::exec::{self, ExecOptions};

/// Run a further program in a running container
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Do not wait for the program
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    process: ProcessArgs,
    /// Container, by name or id
    container: String,
    /// Program and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<String>,
}

/// Runs the verb.
pub fn run(args: Args, global: &Global) -> Result<ExitCode, Failure> {
    terminal_for(args.process.tty, args.process.interactive && !args.detach)?;
    let options = ExecOptions {
        command: args.command,
        env: args.process.env(Vec::new(), |name| env::var(name).ok()),
        workdir: args.process.workdir,
        user: args.process.user,
        interactive: args.process.interactive,
        terminal: args.process.tty,
        detach: args.detach,
    };
    let code = exec::run(&Registry::new(&global.places()), &args.container, options)?;
    Ok(ExitCode::from(code))
}
