//! `ampoule-oci list`: the containers of a root.

use std::process::ExitCode;

use nix::unistd::{Uid, User};

use super::error::file;
use super::record::Record;
use super::{Global, OciError, table};

/// List the containers
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Form of the list
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = table::Format::Table)]
    format: table::Format,
    /// Only the ids
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, OciError> {
    let store = global.store();
    let all = store.list()?;
    if args.quiet {
        return table::print(
            &all.iter().map(|record| record.id.clone() + "\n").collect::<String>(),
        );
    }
    let owner = if all.is_empty() { String::new() } else { owner(store.root())? };
    table::print(&match args.format {
        table::Format::Json => json(&all, &owner)? + "\n",
        table::Format::Table => text(&all, &owner),
    })
}

/// Whose containers they are: the name, or `#` and the number of a user without one.
fn owner(root: &std::path::Path) -> Result<String, OciError> {
    use std::os::unix::fs::MetadataExt;
    let uid = root.metadata().map_err(file("look at", root))?.uid();
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    Ok(user.map_or_else(|| format!("#{uid}"), |user| user.name))
}

/// As runc tells it: null where there is none.
fn json(all: &[Record], owner: &str) -> Result<String, OciError> {
    let told: Vec<_> = all.iter().map(|record| record.told_of(owner)).collect();
    let told = (!told.is_empty()).then_some(told);
    serde_json::to_string(&told)
        .map_err(|error| OciError::Host { what: "write JSON", source: error.into() })
}

fn text(all: &[Record], owner: &str) -> String {
    let mut lines = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    lines.extend(all.iter().map(|record| {
        [
            record.id.clone(),
            record.told_pid().to_string(),
            record.status.name().to_owned(),
            table::plain(&record.bundle.to_string_lossy()),
            record.created.to_string(),
            owner.to_owned(),
        ]
    }));
    table::align(&lines, &[])
}

#[cfg(test)]
mod tests {
    use super::super::store::testing::record;
    use super::*;

    #[test]
    fn a_table_has_a_line_for_each() {
        let text = text(&[record("first"), record("b")], "root");
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
        assert_eq!(lines[1], ["first", "42", "running", "/b", "1970-01-01T00:00:00Z", "root"]);
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn json_is_as_runc_writes_it() {
        assert_eq!(json(&[], "").unwrap(), "null");
        let text = json(&[record("c")], "root").unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value[0]["ociVersion"], "1.2.0");
        assert_eq!((&value[0]["id"], &value[0]["pid"]), (&"c".into(), &42.into()));
        assert_eq!(value[0]["owner"], "root");
        assert!(!text.contains('\n'));
    }
}
