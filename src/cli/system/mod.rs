//! `ampoule system`: ampoule as a part of a host.

mod config;
mod df;
mod info;
mod install;
mod prune;
mod uninstall;

use std::path::PathBuf;
use std::process::ExitCode;

use super::{Failure, Global};
use crate::system::step::Step;
use crate::system::{Place, SystemError};

/// Look after what ampoule keeps; put it on a host, and take it off again
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Config(config::Args),
    Df(df::Args),
    Info(info::Args),
    Prune(prune::Args),
    Install(install::Args),
    Uninstall(uninstall::Args),
}

/// Where, and whether at all.
#[derive(Debug, clap::Args)]
struct Common {
    /// Folder below which everything goes: bin and lib/ampoule
    #[arg(long, value_name = "DIR", default_value = "/usr/local")]
    prefix: PathBuf,
    /// Root of the system that is meant, for images, and for hosts that are mounted somewhere
    #[arg(long, value_name = "DIR", default_value = "/")]
    host_root: PathBuf,
    /// Restart containerd afterwards, by systemctl
    #[arg(long)]
    restart: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

impl Common {
    fn place(&self) -> Result<Place, SystemError> {
        Place::new(&self.host_root, &self.prefix)
    }

    /// A line for each step.
    fn tell(&self, steps: &[Step]) {
        let would = if self.dry_run { "would " } else { "" };
        for step in steps {
            println!("{would}{step}");
        }
        if steps.is_empty() {
            println!("nothing to do: all is as it should be");
        }
    }
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    match &args.verb {
        Verb::Config(args) => config::run(args),
        Verb::Df(args) => df::run(args, global),
        Verb::Info(args) => info::run(args, global),
        Verb::Prune(args) => prune::run(args, global),
        Verb::Install(args) => install::run(args),
        Verb::Uninstall(args) => uninstall::run(args),
    }
}

#[cfg(test)]
mod tests;
