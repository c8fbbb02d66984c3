//! `ampoule volume inspect`: what is known of volumes.

use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::super::format::Format;
use super::super::{Failure, Global, each_or_last};
use super::{Told, store};

/// Show what is known of volumes, as JSON
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule volume inspect data\n  \
    ampoule volume inspect -f '{{.Mountpoint}}' data")]
pub struct Args {
    /// How to show them: json (an object a line), or a template such as {{.Mountpoint}}; an array where nothing is asked
    #[arg(short, long, value_name = "FORMAT", default_value = "", hide_default_value = true)]
    format: Format,
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
    print!("{}", args.format.inspect(&told)?);
    outcome
}
