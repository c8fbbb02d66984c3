//! `ampoule network ls`: a list of networks.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use serde::Serialize;

use super::super::format::{Format, List};
use super::super::labels::listed;
use super::super::{Failure, Global};
use super::{Filter, filter, fits, store};
use crate::network::bridge::Network;

/// List networks; the default one, bridge, is there when a container has been on it
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule network ls\n  \
    ampoule network ls -q --filter label=tier=web\n  ampoule network ls --format '{{.Name}} {{.ID}}'")]
pub struct Args {
    /// Show ids alone
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Only those that fit: name=PART, id=BEGINNING, driver=bridge, label=KEY[=VALUE]
    #[arg(short, long = "filter", value_name = "KEY=VALUE", value_parser = filter)]
    filters: Vec<Filter>,
    /// How to show them: table, json (an object a line), or a template such as {{.Name}}
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

const LIST: List = List {
    fields: &[
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("CreatedAt", "CREATED AT"),
    ],
    columns: &["ID", "Name", "Driver", "Scope"],
};

/// A line of the list, with docker's names for its parts.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(rename = "CreatedAt")]
    created_at: String,
    #[serde(rename = "Driver")]
    driver: &'static str,
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "IPv4")]
    ipv4: &'static str,
    #[serde(rename = "IPv6")]
    ipv6: String,
    #[serde(rename = "Internal")]
    internal: String,
    #[serde(rename = "Labels")]
    labels: String,
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "Scope")]
    scope: &'static str,
}

impl Row {
    fn of(network: &Network, whole: bool) -> Self {
        Self {
            created_at: network.created.to_string(),
            driver: "bridge",
            id: if whole { network.id.clone() } else { network.short_id().to_owned() },
            ipv4: "true",
            ipv6: network.gateways().any(|gateway| gateway.is_ipv6()).to_string(),
            internal: network.internal.to_string(),
            labels: listed(&network.labels),
            name: network.name.clone(),
            scope: "local",
        }
    }
}

/// Prints the list.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let mut networks = store(global)?.list()?;
    networks.retain(|network| fits(&args.filters, network));
    let rows: Vec<Row> = networks.iter().map(|network| Row::of(network, args.no_trunc)).collect();
    if args.quiet {
        rows.iter().for_each(|row| println!("{}", row.id));
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", args.format.list(&LIST, &rows)?);
    Ok(ExitCode::SUCCESS)
}
