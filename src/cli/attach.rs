//! `ampoule attach`: the streams of a running container.

use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::arguments::terminal_for;
use super::{Failure, Global, let_go};
use crate::detach_keys::DetachKeys;
use crate::sandbox::attach::{self, AttachOptions};
use crate::sandbox::exec::End;
use crate::sandbox::{Registry, lifecycle};

/// Attach this terminal's input and output to a running container
///
/// Its input where it was started with --interactive. Exit status: that of its program; 1 where the detach
/// keys were typed.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule attach box\n  \
    ampoule attach --detach-keys ctrl-x,x box\n  ampoule attach --no-stdin --sig-proxy=false web")]
pub struct Args {
    /// Keys that end this and leave the container running, where it has a terminal
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: DetachKeys,
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
    let options = AttachOptions { stdin, proxy: args.sig_proxy, keys: args.detach_keys };
    Ok(match attach::run(&registry, &entry, options)? {
        End::Exit(code) => ExitCode::from(code),
        End::LetGo => let_go(),
    })
}
