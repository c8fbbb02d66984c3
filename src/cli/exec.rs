//! `ampoule exec`: a further process in a running container.

use std::env;
use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::arguments::{ProcessArgs, terminal_for};
use super::{Failure, Global, let_go};
use crate::detach_keys::DetachKeys;
use crate::sandbox::Registry;
use crate::sandbox::exec::{self, End, ExecOptions};

/// Run a further program in a running container
///
/// Exit status: the program's; 1 where the detach keys were typed.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  ampoule exec web nginx -s reload\n  ampoule exec -it web sh\n  \
    ampoule exec -d -e LEVEL=2 -w /srv web ./sweep"
)]
pub struct Args {
    /// Do not wait for the program
    #[arg(short, long)]
    detach: bool,
    /// Keys that end this and leave the program running, where it has a terminal
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: DetachKeys,
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
        keys: Some(args.detach_keys),
    };
    Ok(match exec::run(&Registry::new(&global.places()), &args.container, options)? {
        End::Exit(code) => ExitCode::from(code),
        End::LetGo => let_go(),
    })
}
