//! `ampoule template ls`: a list of templates.

use std::process::ExitCode;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use super::super::age::age;
use super::super::format::{Format, List};
use super::super::size;
use super::super::{Failure, Global};
use crate::sandbox::template::{About, Templates};

/// List templates
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ampoule template ls\n  \
    ampoule template ls --format '{{.Key}} {{.Size}}'")]
pub struct Args {
    /// Show keys alone
    #[arg(short, long)]
    quiet: bool,
    /// How to show them: table, json (an object a line, with sizes in bytes), or a template such as {{.Key}}
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

const LIST: List = List {
    fields: &[
        ("Key", "KEY"),
        ("CPUs", "CPUS"),
        ("Memory", "MEMORY"),
        ("Kernel", "KERNEL"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedSince", "CREATED"),
        ("Size", "SIZE"),
        ("Current", "CURRENT"),
    ],
    columns: &["Key", "CPUs", "Memory", "Kernel", "CreatedSince", "Size", "Current"],
};

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
    let rows: Vec<Row> = all.iter().map(|about| row(&templates, about)).collect();
    let shown = match args.format {
        Format::Json => args.format.list(&LIST, &rows)?,
        _ => args.format.list(&LIST, &words(&rows, &all))?,
    };
    print!("{shown}");
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

/// The same in words alone.
fn words(rows: &[Row], all: &[About]) -> Vec<Value> {
    let now = Timestamp::now();
    let told = |(row, about): (&Row, &About)| {
        json!({
            "Key": row.key,
            "CPUs": row.cpus,
            "Memory": format!("{}MiB", row.memory_mib),
            "Kernel": row.kernel,
            "CreatedAt": row.created_at,
            "CreatedSince": format!("{} ago", age(now.duration_since(about.created))),
            "Size": size::decimal(row.size),
            "Current": if row.current { "yes" } else { "no" },
        })
    };
    rows.iter().zip(all).map(told).collect()
}
