//! `ampoule network`: networks of ampoule's own.

mod connect;
mod create;
mod disconnect;
mod inspect;
mod ls;
mod prune;
mod rm;

use std::process::ExitCode;

pub use inspect::mac;

use super::labels::LabelFilter;
use super::{Failure, Global};
use crate::network::bridge::{Network, NetworkStore};
use crate::sandbox::network::{self, NetworkMode};
use crate::sandbox::{Entry, Registry};

/// Manage networks
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Connect(connect::Args),
    Create(create::Args),
    Disconnect(disconnect::Args),
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
        Verb::Connect(args) => connect::run(args, global),
        Verb::Create(args) => create::run(args, global),
        Verb::Disconnect(args) => disconnect::run(&args, global),
        Verb::Inspect(args) => inspect::run(&args, global),
        Verb::Ls(args) => ls::run(&args, global),
        Verb::Prune(args) => prune::run(&args, global),
        Verb::Rm(args) => rm::run(&args, global),
    }
}

fn store(global: &Global) -> Result<NetworkStore, Failure> {
    Ok(network::store(&global.places())?)
}

/// Whether a container is to be on this network whenever it runs.
fn is_on(entry: &Entry, network: &Network) -> bool {
    // One whose record cannot be read can be started no more.
    let mode = entry.record().map(|record| record.options.network.mode);
    matches!(mode, Ok(NetworkMode::Networks(attachments))
        if attachments.iter().any(|attachment| attachment.network == network.name))
}

/// Removes the networks that are wanted and that no container is to be on: their names.
pub fn remove_unused(
    global: &Global,
    wanted: impl Fn(&Network) -> bool,
) -> Result<Vec<String>, Failure> {
    let store = store(global)?;
    let entries = Registry::new(&global.places()).list()?;
    let mut removed = Vec::new();
    for network in store.list()? {
        let used = network.is_default() || entries.iter().any(|entry| is_on(entry, &network));
        if used || !wanted(&network) {
            continue;
        }
        match crate::network::bridge::port::remove(&store, &network) {
            Ok(()) => removed.push(network.name),
            // A container has come to it meanwhile.
            Err(crate::network::bridge::BridgeError::InUse { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(removed)
}

/// Which networks are meant; all that are given have to fit, of one kind one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Filter {
    Name(String),
    Id(String),
    Driver(String),
    Label(LabelFilter),
}

/// `name=PART`, `id=BEGINNING`, `driver=bridge`, `label=KEY[=VALUE]`.
fn filter(text: &str) -> Result<Filter, String> {
    let (key, value) = text.split_once('=').ok_or("it is to be KEY=VALUE")?;
    match key {
        "name" => Ok(Filter::Name(value.to_owned())),
        "id" => Ok(Filter::Id(value.to_owned())),
        "driver" => Ok(Filter::Driver(value.to_owned())),
        "label" => Ok(Filter::Label(LabelFilter::new(value))),
        _ => Err("networks are filtered by name=…, id=…, driver=… and label=…".into()),
    }
}

fn fits(filters: &[Filter], network: &Network) -> bool {
    let one = |filter: &Filter| match filter {
        Filter::Name(part) => network.name.contains(part.as_str()),
        Filter::Id(beginning) => network.id.starts_with(beginning.as_str()),
        Filter::Driver(driver) => driver == "bridge",
        Filter::Label(label) => label.fits(&network.labels),
    };
    let kind = std::mem::discriminant::<Filter>;
    filters.iter().all(|filter| {
        let labels = matches!(filter, Filter::Label(..));
        let mut same = filters.iter().filter(|other| kind(other) == kind(filter));
        if labels { one(filter) } else { same.any(one) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_dockers() {
        let network = Network {
            id: "0123".repeat(16),
            name: "front".into(),
            created: jiff::Timestamp::now(),
            bridge: "amp-01230123012".into(),
            mac: [2, 0, 0, 0, 0, 1],
            subnets: Vec::new(),
            internal: false,
            icc: true,
            masquerade: true,
            mtu: 1500,
            labels: [("tier".to_owned(), "web".to_owned())].into(),
        };
        let with = |texts: &[&str]| {
            let filters: Vec<_> = texts.iter().map(|text| filter(text).unwrap()).collect();
            fits(&filters, &network)
        };
        assert!(with(&[]) && with(&["name=ron"]) && with(&["label=tier"]) && with(&["id=01"]));
        assert!(with(&["name=nothing", "name=front", "label=tier=web", "driver=bridge"]));
        assert!(!with(&["label=tier=db"]) && !with(&["label=tier", "label=x"]));
        assert!(!with(&["name=front", "driver=macvlan"]));
        assert!(filter("scope=local").is_err() && filter("name").is_err());
    }
}
