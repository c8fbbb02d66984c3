//! `ampoule volume ls`: a list of volumes.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use serde::Serialize;

use super::super::format::{Format, List};
use super::super::labels::listed;
use super::super::{Failure, Global};
use super::{Filter, filter, fits, store, users};
use crate::volume::Volume;

/// List volumes
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  ampoule volume ls\n  ampoule volume ls -q --filter dangling=true\n  \
    ampoule volume ls --filter label=tier=db --format json"
)]
pub struct Args {
    /// Show names alone
    #[arg(short, long)]
    quiet: bool,
    /// Only those that fit: dangling=true|false, name=PART, label=KEY[=VALUE]
    #[arg(short, long = "filter", value_name = "KEY=VALUE", value_parser = filter)]
    filters: Vec<Filter>,
    /// How to show them: table, json (an object a line), or a template such as {{.Mountpoint}}
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

const LIST: List = List {
    fields: &[
        ("Driver", "DRIVER"),
        ("Name", "VOLUME NAME"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Scope", "SCOPE"),
        ("Labels", "LABELS"),
    ],
    columns: &["Driver", "Name"],
};

/// A line of the list, with docker's names for its parts.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    driver: &'static str,
    labels: String,
    mountpoint: String,
    name: String,
    scope: &'static str,
}

impl From<Volume> for Row {
    fn from(volume: Volume) -> Self {
        Self {
            driver: "local",
            labels: listed(&volume.record.labels),
            mountpoint: volume.mountpoint.display().to_string(),
            name: volume.name,
            scope: "local",
        }
    }
}

/// Prints the list.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let mut volumes = store(global).list()?;
    let users = users(global)?;
    volumes.retain(|volume| fits(&args.filters, volume, users.contains_key(&volume.name)));
    let rows: Vec<Row> = volumes.into_iter().map(Row::from).collect();
    if args.quiet {
        rows.iter().for_each(|row| println!("{}", row.name));
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", args.format.list(&LIST, &rows)?);
    Ok(ExitCode::SUCCESS)
}
