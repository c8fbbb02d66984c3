//! `ampoule volume create`: a new volume.

use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::super::arguments::label;
use super::super::{Failure, Global};
use super::store;
use crate::volume::{Record, random_name};

/// Make a volume, and print its name; one that is there already stays as it is
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule volume create data\n  \
    ampoule volume create --label tier=db data\n  ampoule run --rm -v data:/data busybox ls /data")]
pub struct Args {
    /// Label of the volume
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Driver of the volume: there is one, local
    #[arg(short, long, value_name = "NAME", default_value = "local", value_parser = ["local"])]
    driver: String,
    /// Name; a random one by default
    name: Option<String>,
}

/// Runs the verb.
pub fn run(args: Args, global: &Global) -> Result<ExitCode, Failure> {
    let anonymous = args.name.is_none();
    let name = args.name.map_or_else(random_name, Ok)?;
    let labels = args.labels.into_iter().collect();
    store(global).create(&name, Record { labels, anonymous, ..Record::now() })?;
    println!("{name}");
    Ok(ExitCode::SUCCESS)
}
