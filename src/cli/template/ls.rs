//! `ampoule template ls`: a list of templates.

use std::process::ExitCode;

use jiff::Timestamp;
use serde::Serialize;

use super::super::age::age;
use super::super::size;
use super::super::table::Table;
use super::super::{Failure, Global};
use crate::sandbox::template::{About, Templates};

/// List templates
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show keys alone
    #[arg(short, long)]
    quiet: bool,
    /// How to show them
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// a table
    Table,
    /// one JSON object a line
    Json,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    key: String,
    #[serde(rename = "CPUs")]
    cpus: u8,
    #[serde(rename = "MemoryMiB")]
    memory_mib: u32,
    kernel: String,
    created_at: String,
    /// Bytes on disk.
    size: u64,
    /// Whether a start can still use it: its kernel, agent and program are there, unchanged.
    current: bool,
}

/// Prints the list.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let templates = Templates::new(global.places().templates());
    let all = templates.list()?;
    if args.quiet {
        all.iter().for_each(|about| println!("{}", about.key));
        return Ok(ExitCode::SUCCESS);
    }
    match args.format {
        Format::Json => {
            for about in &all {
                println!("{}", serde_json::to_string(&row(&templates, about))?);
            }
        }
        Format::Table => print!("{}", table(&templates, &all)),
    }
    Ok(ExitCode::SUCCESS)
}

fn row(templates: &Templates, about: &About) -> Row {
    Row {
        key: about.key.clone(),
        cpus: about.vcpus,
        memory_mib: about.memory_mib,
        kernel: about.kernel.display().to_string(),
        created_at: about.created.to_string(),
        size: templates.occupied(&about.key),
        current: about.is_current(),
    }
}

fn table(templates: &Templates, all: &[About]) -> Table {
    let now = Timestamp::now();
    let mut table = Table::new(&["KEY", "CPUS", "MEMORY", "KERNEL", "CREATED", "SIZE", "CURRENT"]);
    for about in all {
        let row = row(templates, about);
        table.row([
            row.key,
            row.cpus.to_string(),
            format!("{}MiB", row.memory_mib),
            row.kernel,
            format!("{} ago", age(now.duration_since(about.created))),
            size::decimal(row.size),
            if row.current { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table
}
