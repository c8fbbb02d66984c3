//! `ampoule logout`: a login that is forgotten.

use std::process::ExitCode;

use super::{Failure, Global, say};
use crate::image::registry::{Logins, registry_of};

/// Forget the login of a registry
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ampoule logout\n  \
    ampoule logout registry.test")]
pub struct Args {
    /// The registry [default: docker.io]
    #[arg(value_name = "REGISTRY", default_value = "", hide_default_value = true)]
    server: String,
}

/// Forgets it.
pub fn run(args: &Args, _global: &Global) -> Result<ExitCode, Failure> {
    let host = registry_of(&args.server);
    if Logins::of_environment().remove(&host)? {
        say(&format!("Removing login credentials for {host}"));
    } else {
        say(&format!("Not logged in to {host}"));
    }
    Ok(ExitCode::SUCCESS)
}
