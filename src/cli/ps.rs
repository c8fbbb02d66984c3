//! `ampoule ps`: list containers.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use jiff::Timestamp;
use serde::Serialize;

use super::age::age;
use super::arguments::Filters;
use super::format::{Format, List};
use super::labels::{LabelFilter, listed};
use super::port;
use super::{Failure, Global};
use crate::network::firewall::Published;
use crate::report::chain;
use crate::sandbox::mounts::{MountKind, MountPoint};
use crate::sandbox::{Entry, Options, Registry, State, Status, health};

/// What a list can be filtered by.
const FILTERS: [&str; 13] = [
    "id",
    "name",
    "status",
    "exited",
    "ancestor",
    "before",
    "since",
    "label",
    "health",
    "volume",
    "restart-policy",
    "network",
    "publish",
];

/// List containers
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule ps -a --filter status=exited --format json\n  \
    ampoule ps --format 'table {{.Names}}\\t{{.Status}}\\t{{.Ports}}'\n  \
    ampoule start $(ampoule ps -aq --filter restart-policy=always)")]
pub struct Args {
    /// Those that do not run too
    #[arg(short, long)]
    all: bool,
    /// Only what matches: id=, name=, status=, exited=, ancestor=, before=, since=, label=, health=, volume=,
    /// restart-policy=, network=, publish=PORT[/tcp]
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
    /// The last N that were made, in whatever state
    #[arg(short = 'n', long, value_name = "N")]
    last: Option<usize>,
    /// The last that was made, in whatever state
    #[arg(short, long, conflicts_with = "last")]
    latest: bool,
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// How to show them: table, json (an object a line), or a template such as {{.Names}}
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

const LIST: List = List {
    fields: &[
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("CreatedAt", "CREATED AT"),
        ("RunningFor", "CREATED"),
        ("Ports", "PORTS"),
        ("State", "STATE"),
        ("Status", "STATUS"),
        ("Names", "NAMES"),
        ("Labels", "LABELS"),
        ("Mounts", "MOUNTS"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("Networks", "NETWORKS"),
    ],
    columns: &["ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"],
};

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let filters = Filters::parse(&args.filters, &FILTERS)?;
    let registry = Registry::new(&global.places());
    let (mut entries, damaged) = registry.look()?;
    for damaged in damaged {
        let (id, error) = (damaged.id, chain(&damaged.error));
        eprintln!(
            "ampoule: warning: container {id} is damaged, the next start sets it aside: {error}"
        );
    }
    let last = args.last.or(args.latest.then_some(1));
    let every = args.all || last.is_some() || filters.has("status") || filters.has("exited");
    let made = |wanted: &str| registry.find(wanted).ok().map(|entry| entry.state.created);
    entries.retain(|entry| (every || is_up(entry)) && is_wanted(entry, &filters, made));
    // Newest first, as docker.
    entries.reverse();
    entries.truncate(last.unwrap_or(usize::MAX));
    let rows: Vec<Row> = entries.iter().map(|entry| Row::of(entry, args.no_trunc)).collect();
    if args.quiet {
        rows.iter().for_each(|row| println!("{}", row.id));
    } else {
        print!("{}", args.format.list(&LIST, &rows)?);
    }
    Ok(ExitCode::SUCCESS)
}

/// docker's list has these without --all.
fn is_up(entry: &Entry) -> bool {
    entry.state.status.is_running() || entry.state.status == Status::Restarting
}

/// Whether all filters let it through. `made` tells when a container was made.
fn is_wanted(entry: &Entry, filters: &Filters, made: impl Fn(&str) -> Option<Timestamp>) -> bool {
    let state = &entry.state;
    let image = |wanted: &str| {
        state.image == wanted
            || state.image.strip_suffix(":latest") == Some(wanted)
            || state.image.split_once(':').is_some_and(|(name, _)| name == wanted)
    };
    filters.all("id", |id| !id.is_empty() && state.id.starts_with(id))
        && filters.all("name", |name| state.name.contains(name.trim_start_matches('/')))
        && filters.all("status", |status| state.status.word() == status)
        && filters.all("exited", |code| {
            state.status == Status::Exited
                && state.exit_code.map(|code| code.to_string()).as_deref() == Some(code)
        })
        && filters.all("ancestor", image)
        && filters.all("before", |other| made(other).is_some_and(|made| state.created < made))
        && filters.all("since", |other| made(other).is_some_and(|made| state.created > made))
        && (!["label", "volume", "restart-policy", "network"].iter().any(|key| filters.has(key))
            || entry.record().is_ok_and(|record| is_wanted_as(&record.options, filters)))
        && filters.all("publish", |wanted| {
            port::published(state).iter().any(|published| {
                let host = published.host_port.to_string();
                wanted == host || wanted == format!("{host}/{}", published.protocol)
            })
        })
        && filters.all("health", |wanted| verdict(entry).unwrap_or("none") == wanted)
}

fn is_wanted_as(options: &Options, filters: &Filters) -> bool {
    let label = |wanted: &str| LabelFilter::new(wanted).fits(&options.labels);
    let volume = |wanted: &str| {
        let is_it = |mount: &MountPoint| {
            mount.volume() == Some(wanted) || mount.target.as_os_str() == wanted
        };
        options.mounts.iter().any(is_it)
    };
    filters.each("label", label)
        && filters.all("volume", volume)
        && filters.all("restart-policy", |name| options.restart.name() == name)
        && filters.all("network", |name| options.network.mode.names().iter().any(|n| n == name))
}

/// What its checks say; none where nothing is checked.
fn verdict(entry: &Entry) -> Option<&'static str> {
    health::read(entry.folder.container()).map(|health| health.status.word())
}

/// A container in the words of docker's list.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    #[serde(rename = "ID")]
    id: String,
    image: String,
    command: String,
    created_at: String,
    running_for: String,
    ports: String,
    state: Status,
    status: String,
    names: String,
    labels: String,
    mounts: String,
    local_volumes: String,
    networks: String,
}

impl Row {
    fn of(entry: &Entry, whole: bool) -> Self {
        let state = &entry.state;
        let now = Timestamp::now();
        let ago = |then: Timestamp| age(now.duration_since(then));
        let command = state.command.join(" ");
        let status = match state.status {
            Status::Created => "Created".to_owned(),
            Status::Running => {
                let up = format!("Up {}", ago(state.started.unwrap_or(state.created)));
                match verdict(entry) {
                    Some("starting") => format!("{up} (health: starting)"),
                    Some(verdict) => format!("{up} ({verdict})"),
                    None => up,
                }
            }
            Status::Paused => {
                format!("Up {} (Paused)", ago(state.started.unwrap_or(state.created)))
            }
            Status::Restarting => format!(
                "Restarting ({}) {} ago",
                state.exit_code.unwrap_or(-1),
                ago(state.finished.unwrap_or(state.created))
            ),
            Status::Exited => format!(
                "Exited ({}) {} ago",
                state.exit_code.unwrap_or(-1),
                ago(state.finished.unwrap_or(state.created))
            ),
        };
        let options = entry.record().map(|record| record.options).unwrap_or_default();
        let mounts: Vec<String> = options.mounts.iter().filter_map(mounted).collect();
        let volumes = options.mounts.iter().filter(|mount| mount.volume().is_some()).count();
        Self {
            id: if whole { state.id.clone() } else { state.short_id().to_owned() },
            image: state.image.clone(),
            command: format!("{:?}", if whole { command } else { shorten(&command) }),
            created_at: state.created.to_string(),
            running_for: format!("{} ago", ago(state.created)),
            ports: ports(state),
            state: state.status,
            status,
            names: state.name.clone(),
            labels: listed(&options.labels),
            mounts: mounts.join(","),
            local_volumes: volumes.to_string(),
            networks: options.network.mode.names().join(","),
        }
    }
}

/// A volume's name, or the path that is mounted; what is in memory has none.
fn mounted(mount: &MountPoint) -> Option<String> {
    match &mount.kind {
        MountKind::Bind { source, .. } => Some(source.display().to_string()),
        MountKind::Volume { name, .. } => Some(name.clone()),
        MountKind::Tmpfs { .. } => None,
    }
}

/// What leads to it, as `0.0.0.0:8080->80/tcp`.
fn ports(state: &State) -> String {
    if !state.status.is_running() {
        return String::new();
    }
    let told = |p: &Published| format!("{}->{}/{}", port::host(p), p.container_port, p.protocol);
    port::published(state).iter().map(told).collect::<Vec<_>>().join(", ")
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
