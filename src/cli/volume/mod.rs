//! `ampoule volume`: directories that outlive the containers that have them.

mod create;
mod inspect;
mod ls;
mod prune;
mod rm;

use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;

use serde::Serialize;

use super::labels::LabelFilter;
use super::occupied::occupied;
use super::{Failure, Global};
use crate::sandbox::{Registry, mounts};
use crate::volume::{Volume, VolumeError, VolumeStore};

/// Manage volumes
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Create(create::Args),
    Inspect(inspect::Args),
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    Prune(prune::Args),
    #[command(visible_alias = "remove")]
    Rm(rm::Args),
}

/// Runs the verb.
pub fn run(args: Args, global: &Global) -> Result<ExitCode, Failure> {
    match args.verb {
        Verb::Create(args) => create::run(args, global),
        Verb::Inspect(args) => inspect::run(&args, global),
        Verb::Ls(args) => ls::run(&args, global),
        Verb::Prune(args) => prune::run(&args, global),
        Verb::Rm(args) => rm::run(&args, global),
    }
}

fn store(global: &Global) -> VolumeStore {
    VolumeStore::new(&global.places().data)
}

/// Ids of the containers that have each volume.
fn users(global: &Global) -> Result<HashMap<String, Vec<String>>, Failure> {
    Ok(mounts::users(&Registry::new(&global.places()).list()?))
}

/// Removes the volumes that are wanted and that no container has: their names, and how many bytes of the
/// host's storage they took.
pub fn remove_unused(
    global: &Global,
    wanted: impl Fn(&Volume) -> bool,
) -> Result<(Vec<String>, u64), Failure> {
    let (store, users) = (store(global), users(global)?);
    let (mut removed, mut bytes) = (Vec::new(), 0u64);
    for volume in store.list()? {
        if users.contains_key(&volume.name) || !wanted(&volume) {
            continue;
        }
        let held = occupied(&volume.mountpoint);
        match store.remove(&volume.name, &[]) {
            Ok(()) => {
                removed.push(volume.name);
                bytes = bytes.saturating_add(held);
            }
            // Somebody is starting a container with it, or was faster.
            Err(VolumeError::Held(_) | VolumeError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok((removed, bytes))
}

/// A volume in docker's words.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Told<'a> {
    created_at: String,
    driver: &'static str,
    labels: &'a BTreeMap<String, String>,
    mountpoint: String,
    name: &'a str,
    options: Option<()>,
    scope: &'static str,
}

impl<'a> From<&'a Volume> for Told<'a> {
    fn from(volume: &'a Volume) -> Self {
        Self {
            created_at: volume.record.created.to_string(),
            driver: "local",
            labels: &volume.record.labels,
            mountpoint: volume.mountpoint.display().to_string(),
            name: &volume.name,
            options: None,
            scope: "local",
        }
    }
}

/// Which volumes are meant; all that are given have to fit, of one kind one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Filter {
    Dangling(bool),
    Name(String),
    Label(LabelFilter),
}

/// `dangling=true`, `name=PART`, `label=KEY[=VALUE]`.
fn filter(text: &str) -> Result<Filter, String> {
    let (key, value) = text.split_once('=').ok_or("it is to be KEY=VALUE")?;
    match (key, value) {
        ("dangling", "true" | "1") => Ok(Filter::Dangling(true)),
        ("dangling", "false" | "0") => Ok(Filter::Dangling(false)),
        ("name", part) => Ok(Filter::Name(part.to_owned())),
        ("label", label) => Ok(Filter::Label(LabelFilter::new(label))),
        _ => Err("volumes are filtered by dangling=true|false, name=… and label=…".into()),
    }
}

fn fits(filters: &[Filter], volume: &Volume, in_use: bool) -> bool {
    let names = |filter: &&Filter| matches!(filter, Filter::Name(_));
    let one = |filter: &Filter| match filter {
        Filter::Dangling(dangling) => *dangling != in_use,
        Filter::Name(part) => volume.name.contains(part.as_str()),
        Filter::Label(label) => label.fits(&volume.record.labels),
    };
    filters.iter().filter(|filter| !names(filter)).all(one)
        && (!filters.iter().any(|filter| names(&filter)) || filters.iter().filter(names).any(one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::Record;

    #[test]
    fn filters_are_dockers() {
        let labels = [("tier".to_owned(), "db".to_owned())].into();
        let record = Record { labels, ..Record::default() };
        let volume = Volume { name: "data1".into(), mountpoint: "/m".into(), record };
        let with = |texts: &[&str], in_use| {
            let filters: Vec<_> = texts.iter().map(|text| filter(text).unwrap()).collect();
            fits(&filters, &volume, in_use)
        };
        assert!(with(&[], true) && with(&["name=ata"], true) && with(&["label=tier"], true));
        assert!(with(&["name=nothing", "name=data"], true));
        assert!(with(&["label=tier=db", "dangling=true"], false));
        assert!(!with(&["label=tier=web"], true) && !with(&["label=tier", "label=x"], true));
        assert!(!with(&["dangling=true"], true) && with(&["dangling=false"], true));
        assert!(filter("driver=local").is_err() && filter("dangling=maybe").is_err());
    }
}
