//! `ampoule volume inspect`: what is known of volumes.

use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::super::{Failure, Global, each_or_last};
use super::{Told, store};

/// Show what is known of volumes, as JSON
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule volume inspect data")]
pub struct Args {
    /// Volumes
    #[arg(required = true)]
    volumes: Vec<String>,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let store = store(global);
    let mut found = Vec::new();
    let outcome = each_or_last(&args.volumes, |name| {
        found.push(store.get(name)?);
        Ok::<_, crate::volume::VolumeError>(())
    });
    let told: Vec<_> = found.iter().map(Told::from).collect();
    println!("{}", serde_json::to_string_pretty(&told)?);
    outcome
}
