//! `ampoule ps`: list containers.

use std::process::ExitCode;

use clap::{Args as ClapArgs, ValueEnum};
use jiff::Timestamp;
use serde_json::json;

use super::age::age;
use super::table::Table;
use super::{Failure, Global};
use crate::sandbox::{Registry, State, Status};

/// List containers
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Ended ones too
    #[arg(short, long)]
    all: bool,
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// Form of the list; json is one object a line
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let mut entries = Registry::new(&global.places()).list()?;
    entries.retain(|entry| args.all || entry.state.status == Status::Running);
    // Newest first, as docker.
    entries.reverse();
    let rows = entries.iter().map(|entry| Row::of(&entry.state, args.no_trunc));
    if args.quiet {
        rows.for_each(|row| println!("{}", row.id));
    } else if args.format == Format::Json {
        rows.for_each(|row| println!("{}", row.json()));
    } else {
        let mut table =
            Table::new(&["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES"]);
        rows.for_each(|row| {
            table.row([row.id, row.image, row.command, row.created, row.status, row.name]);
        });
        print!("{table}");
    }
    Ok(ExitCode::SUCCESS)
}

/// A container in the words of docker's list.
struct Row {
    id: String,
    image: String,
    command: String,
    created: String,
    state: Status,
    status: String,
    name: String,
}

impl Row {
    fn of(state: &State, whole: bool) -> Self {
        let now = Timestamp::now();
        let ago = |then: Timestamp| age(now.duration_since(then));
        let command = state.command.join(" ");
        let status = match state.status {
            Status::Created => "Created".to_owned(),
            Status::Running => format!("Up {}", ago(state.started.unwrap_or(state.created))),
            Status::Exited => format!(
                "Exited ({}) {} ago",
                state.exit_code.unwrap_or(-1),
                ago(state.finished.unwrap_or(state.created))
            ),
        };
        Self {
            id: if whole { state.id.clone() } else { state.short_id().to_owned() },
            image: state.image.clone(),
            command: format!("{:?}", if whole { command } else { shorten(&command) }),
            created: format!("{} ago", ago(state.created)),
            state: state.status,
            status,
            name: state.name.clone(),
        }
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "ID": self.id, "Image": self.image, "Command": self.command,
            "RunningFor": self.created, "State": self.state, "Status": self.status,
            "Names": self.name,
        })
    }
}

/// docker's 20 columns.
fn shorten(command: &str) -> String {
    if command.chars().count() <= 20 {
        return command.to_owned();
    }
    command.chars().take(19).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_commands_are_shortened() {
        assert_eq!(shorten("sleep 5"), "sleep 5");
        assert_eq!(shorten(&"x".repeat(30)).chars().count(), 20);
    }
}
