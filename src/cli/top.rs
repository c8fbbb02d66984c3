//! `ampoule top`: the processes of a container.

use std::process::ExitCode;

use ampoule_protocol::message::{Reply, Request};
use clap::Args as ClapArgs;
use jiff::ZonedDateTime;

use super::{Failure, Global};
use crate::agent::{Client, ClientError, EXCHANGE_TIME};
use crate::oci::ps::{columns, text};
use crate::sandbox::{InGuest, Registry, lifecycle};

/// List the processes of a running container, with the pids that its guest gives them
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule top web\n  ampoule top web -o pid,args")]
pub struct Args {
    /// Container, by name or id
    container: String,
    /// Of ps's options, -e, -A, -f and -o with the columns that there are
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "PS OPTIONS")]
    options: Vec<String>,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let columns = columns(&args.options)?;
    let entry = lifecycle::running(&Registry::new(&global.places()), &args.container)?;
    let InGuest { vsock, container } = entry.in_guest();
    let request = Request::Processes { container, table: true };
    let mut agent = Client::open(&vsock, EXCHANGE_TIME)?;
    match agent.ask(&request)? {
        Reply::Processes { pids, table } => {
            print!("{}", text(&columns, &pids, &table, &ZonedDateTime::now()));
            Ok(ExitCode::SUCCESS)
        }
        _ => Err(ClientError::UnexpectedReply.into()),
    }
}
