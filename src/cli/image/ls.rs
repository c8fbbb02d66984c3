//! `ampoule image ls`, `ampoule images`: a list of images.

use std::process::ExitCode;
use std::str::FromStr;

use jiff::Timestamp;
use serde::Serialize;

use super::super::age::age;
use super::super::format::{Format, List};
use super::super::size;
use super::super::{Failure, Global};
use crate::image::{Image, Reference, Store};

/// List images.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ampoule image ls --digests\n  \
    ampoule image ls --filter 'reference=ghcr.io/*/*' --format '{{.Repository}}:{{.Tag}} {{.Size}}'")]
pub struct Args {
    /// Show ids alone
    #[arg(short, long)]
    quiet: bool,
    /// Show ids and digests in full
    #[arg(long)]
    no_trunc: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Show those alone that fit: dangling=true|false, reference=PATTERN (* and ? stand for others)
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<Filter>,
    /// How to show them: table, json (an object a line), or a template such as {{.Repository}}
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

const LIST: List = List {
    fields: &[
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("Digest", "DIGEST"),
        ("ID", "IMAGE ID"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("Size", "SIZE"),
    ],
    columns: &["Repository", "Tag", "ID", "CreatedSince", "Size"],
};

const WITH_DIGESTS: List =
    List { columns: &["Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"], ..LIST };

/// A line of the list, with docker's names for its parts.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    repository: String,
    tag: String,
    digest: String,
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
    let rows: Vec<Row> = images.iter().flat_map(|image| rows(image, args, now)).collect();
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
    let list = if args.digests { WITH_DIGESTS } else { LIST };
    print!("{}", args.format.list(&list, &rows)?);
    Ok(ExitCode::SUCCESS)
}

/// What an image must be to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Filter {
    /// with or without a tag
    Dangling(bool),
    /// called like this
    Reference(String),
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("dangling", "true" | "1")) => Ok(Self::Dangling(true)),
            Some(("dangling", "false" | "0")) => Ok(Self::Dangling(false)),
            Some(("reference", pattern)) => Ok(Self::Reference(pattern.to_owned())),
            _ => Err("dangling=true, dangling=false or reference=PATTERN".to_owned()),
        }
    }
}

/// Whether a name is like a pattern, in one of the forms that docker takes.
fn is_like(name: &Reference, pattern: &str) -> bool {
    let forms = [name.familiar(), name.to_string(), name.familiar_name(), name.name()];
    forms.iter().any(|form| glob(pattern.as_bytes(), form.as_bytes()))
}

/// A pattern as Go's path.Match knows it, without its classes: `*` and `?` stop at a slash.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    // Where to go on when what followed the last `*` did not fit: linear in memory, and no worse
    // than the product of both lengths in time.
    let (mut at, mut from, mut again) = (0, 0, None);
    while let Some(byte) = text.get(from) {
        match pattern.get(at) {
            Some(b'*') => {
                again = Some((at, from));
                at += 1;
            }
            Some(b'?') if *byte != b'/' => (at, from) = (at + 1, from + 1),
            Some(wanted) if wanted == byte && *wanted != b'?' => (at, from) = (at + 1, from + 1),
            _ => match again {
                Some((star, begin)) if text.get(begin) != Some(&b'/') => {
                    again = Some((star, begin + 1));
                    (at, from) = (star + 1, begin + 1);
                }
                _ => return false,
            },
        }
    }
    pattern.get(at..).unwrap_or_default().iter().all(|byte| *byte == b'*')
}

/// One row for each name of an image that is to be shown.
fn rows(image: &Image, args: &Args, now: Timestamp) -> Vec<Row> {
    let whole = args.no_trunc;
    let id = if whole { image.id.to_string() } else { image.id.hex().chars().take(12).collect() };
    let none = || "<none>".to_owned();
    let (tags, digests): (Vec<&Reference>, Vec<&Reference>) =
        image.references.iter().partition(|name| name.tag().is_some());
    let row = |name: Option<&Reference>| {
        let same = |other: &&&Reference| name.is_some_and(|name| name.name() == other.name());
        let digest = digests.iter().find(same).and_then(|name| name.digest());
        Row {
            repository: name.map_or_else(none, Reference::familiar_name),
            tag: name.and_then(Reference::tag).map_or_else(none, str::to_owned),
            digest: digest.map_or_else(none, |digest| digest.to_string()),
            id: id.clone(),
            created_at: image.created.map_or_else(|| "N/A".to_owned(), |at| at.to_string()),
            created_since: image.created.map_or_else(|| "N/A".to_owned(), |at| since(at, now)),
            size: size::decimal(image.size),
        }
    };
    let patterns: Vec<&str> = args.filter.iter().filter_map(Filter::pattern).collect();
    let dangling = tags.is_empty();
    let fits = args.filter.iter().all(|filter| match filter {
        Filter::Dangling(wanted) => *wanted == dangling,
        Filter::Reference(_) => true,
    });
    if !fits {
        return Vec::new();
    }
    let shown = if dangling { &digests } else { &tags };
    let like = |name: &&&Reference| {
        patterns.is_empty() || patterns.iter().any(|pattern| is_like(name, pattern))
    };
    let found: Vec<Row> = shown.iter().filter(like).map(|name| row(Some(name))).collect();
    if found.is_empty() && patterns.is_empty() { vec![row(None)] } else { found }
}

impl Filter {
    fn pattern(&self) -> Option<&str> {
        match self {
            Self::Reference(pattern) => Some(pattern),
            Self::Dangling(_) => None,
        }
    }
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
    fn patterns_stop_at_a_slash() {
        for (pattern, text, fits) in [
            ("busy*", "busybox:1", true),
            ("*:1", "busybox:1", true),
            ("*", "a/b", false),
            ("*/b", "a/b", true),
            ("b?x", "box", true),
            ("b?x", "b/x", false),
            ("a*b*c", "aXbYbZc", true),
            ("", "", true),
            ("", "a", false),
            ("a", "a*", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = Row {
            repository: "busybox".to_owned(),
            tag: "latest".to_owned(),
            digest: "<none>".to_owned(),
            id: "0123456789ab".to_owned(),
            created_at: String::new(),
            created_since: "2 weeks ago".to_owned(),
            size: "4.26MB".to_owned(),
        };
        let expected = "REPOSITORY   TAG      IMAGE ID       CREATED       SIZE\n\
                        busybox      latest   0123456789ab   2 weeks ago   4.26MB\n";
        assert_eq!(Format::Plain.list(&LIST, &[row]).unwrap(), expected);
    }
}
