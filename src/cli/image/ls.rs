//! `ampoule image ls`, `ampoule images`: a list of images.

use std::process::ExitCode;

use jiff::Timestamp;
use serde::Serialize;

use super::super::age::age;
use super::super::size;
use super::super::table::Table;
use super::super::{Failure, Global};
use crate::image::{Image, Reference, Store};

/// List images.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show ids alone
    #[arg(short, long)]
    quiet: bool,
    /// Show ids and digests in full
    #[arg(long)]
    no_trunc: bool,
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

/// A line of the list, with docker's names for its parts.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    repository: String,
    tag: String,
    #[serde(rename = "ID")]
    id: String,
    created_at: String,
    created_since: String,
    size: String,
}

/// Prints the list.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let images = Store::open(&global.places().data)?.list()?;
    let now = Timestamp::now();
    let rows: Vec<Row> = images.iter().flat_map(|image| rows(image, args.no_trunc, now)).collect();
    if args.quiet {
        let mut shown = Vec::new();
        for row in rows {
            if !shown.contains(&row.id) {
                println!("{}", row.id);
                shown.push(row.id);
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    match args.format {
        Format::Json => {
            for row in rows {
                println!("{}", serde_json::to_string(&row)?);
            }
        }
        Format::Table => print!("{}", table(&rows)),
    }
    Ok(ExitCode::SUCCESS)
}

/// One row for each name of an image.
fn rows(image: &Image, whole: bool, now: Timestamp) -> Vec<Row> {
    let id = if whole { image.id.to_string() } else { image.id.hex().chars().take(12).collect() };
    let row = |name: Option<&Reference>| Row {
        repository: name.map_or_else(|| "<none>".to_owned(), Reference::familiar_name),
        tag: name.and_then(Reference::tag).unwrap_or("<none>").to_owned(),
        id: id.clone(),
        created_at: image.created.map_or_else(|| "N/A".to_owned(), |at| at.to_string()),
        created_since: image.created.map_or_else(|| "N/A".to_owned(), |at| since(at, now)),
        size: size::decimal(image.size),
    };
    if image.references.is_empty() {
        return vec![row(None)];
    }
    image.references.iter().map(|name| row(Some(name))).collect()
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]);
    for row in rows {
        let cells = [&row.repository, &row.tag, &row.id, &row.created_since, &row.size];
        table.row(cells.map(Clone::clone));
    }
    table
}

/// How long ago `then` was, in docker's words.
fn since(then: Timestamp, now: Timestamp) -> String {
    format!("{} ago", age(now.duration_since(then)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_docker_s() {
        let now: Timestamp = "2024-06-01T00:00:00Z".parse().unwrap();
        for (then, text) in [
            ("2024-06-01T00:00:00Z", "Less than a second ago"),
            ("2024-05-31T23:59:15Z", "45 seconds ago"),
            ("2024-05-31T12:00:00Z", "12 hours ago"),
            ("2024-05-01T00:00:00Z", "4 weeks ago"),
            ("2021-06-01T00:00:00Z", "3 years ago"),
            ("2030-01-01T00:00:00Z", "Less than a second ago"),
        ] {
            assert_eq!(since(then.parse().unwrap(), now), text);
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = Row {
            repository: "busybox".to_owned(),
            tag: "latest".to_owned(),
            id: "0123456789ab".to_owned(),
            created_at: String::new(),
            created_since: "2 weeks ago".to_owned(),
            size: "4.26MB".to_owned(),
        };
        let expected = "REPOSITORY   TAG      IMAGE ID       CREATED       SIZE\n\
                        busybox      latest   0123456789ab   2 weeks ago   4.26MB\n";
        assert_eq!(table(&[row]).to_string(), expected);
    }
}
