//! `ampoule history`: how an image was built.

use std::process::ExitCode;

use jiff::Timestamp;
use oci_spec::image::History;
use serde::Serialize;

use super::age::age;
use super::format::{Format, List};
use super::size;
use super::{Failure, Global};
use crate::image::{Image, Store};

/// Longest command that is shown without --no-trunc, in characters (docker's).
const WIDTH: usize = 45;

/// Show how an image was built, the last step first
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ampoule history debian\n  \
    ampoule history --no-trunc --format '{{.Size}} {{.CreatedBy}}' debian")]
pub struct Args {
    /// Show commands in full
    #[arg(long)]
    no_trunc: bool,
    /// Show ids alone
    #[arg(short, long)]
    quiet: bool,
    /// How to show it: table, json (an object a line), or a template such as {{.CreatedBy}}
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// Name or id of the image
    #[arg(value_name = "IMAGE")]
    image: String,
}

const LIST: List = List {
    fields: &[
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ],
    columns: &["ID", "CreatedSince", "CreatedBy", "Size", "Comment"],
};

/// A step, with docker's names for its parts.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    comment: String,
    created_at: String,
    created_by: String,
    created_since: String,
    #[serde(rename = "ID")]
    id: String,
    size: String,
}

/// Prints the steps.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let image = Store::open(&global.places().data)?.get(&args.image)?;
    let rows = rows(&image, args.no_trunc, Timestamp::now())?;
    if args.quiet {
        rows.iter().for_each(|row| println!("{}", row.id));
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", args.format.list(&LIST, &rows)?);
    Ok(ExitCode::SUCCESS)
}

fn rows(image: &Image, whole: bool, now: Timestamp) -> Result<Vec<Row>, Failure> {
    let id = if whole { image.id.to_string() } else { image.id.hex().chars().take(12).collect() };
    let mut sizes = image.layers()?.unwrap_or_default().into_iter().map(|it| it.unpacked_size);
    let steps = image.config.history().iter().flatten();
    let mut rows: Vec<Row> = steps
        .map(|step| {
            let size = if step.empty_layer() == Some(true) { 0 } else { sizes.next().unwrap_or(0) };
            row(step, size, whole, now)
        })
        .collect();
    // The steps before the last are of no image that anybody has.
    rows.reverse();
    if let Some(last) = rows.first_mut() {
        last.id = id;
    }
    Ok(rows)
}

fn row(step: &History, size: u64, whole: bool, now: Timestamp) -> Row {
    let text = |part: &Option<String>| plain(part.as_deref().unwrap_or_default());
    let created: Option<Timestamp> =
        step.created().as_ref().and_then(|created| created.parse().ok());
    let mut created_by = text(step.created_by());
    if !whole && created_by.chars().count() > WIDTH {
        created_by = created_by.chars().take(WIDTH - 1).chain(['…']).collect();
    }
    Row {
        comment: text(step.comment()),
        created_at: created.map_or_else(|| "N/A".to_owned(), |at| at.to_string()),
        created_by,
        created_since: created
            .map_or_else(|| "N/A".to_owned(), |at| format!("{} ago", age(now.duration_since(at)))),
        id: "<missing>".to_owned(),
        size: size::decimal(size),
    }
}

/// An image's words in one line, without what a terminal would take for more than text.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use oci_spec::image::HistoryBuilder;

    use super::*;

    #[test]
    fn a_step_is_shown_in_one_line() {
        let step = HistoryBuilder::default()
            .created("2024-05-31T00:00:00Z")
            .created_by(format!("RUN a\n\x1b[2J{}", "b".repeat(80)))
            .build()
            .unwrap();
        let now = "2024-06-01T00:00:00Z".parse().unwrap();
        let row = row(&step, 1500, false, now);
        assert_eq!(row.created_by.chars().count(), WIDTH);
        assert!(row.created_by.starts_with("RUN a  [2Jbb") && row.created_by.ends_with('…'));
        assert_eq!((row.size.as_str(), row.created_since.as_str()), ("1.5kB", "24 hours ago"));
    }
}
