//! `ampoule template rm`: remove templates.

use std::process::ExitCode;

use super::super::{Failure, Global, each};
use crate::sandbox::template::Templates;

/// Remove templates; sandboxes that were restored from them go on
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  ampoule template rm 3f9c")]
pub struct Args {
    /// Templates, by key or its beginning
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let templates = Templates::new(global.places().templates());
    each(&args.keys, |wanted| templates.remove(wanted).map(drop))
}
