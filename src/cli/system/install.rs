//! `ampoule system install`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::Common;
use crate::cli::Failure;
use crate::system::containerd::{self, config};
use crate::system::install::{Source, install, was_read};

/// Install ampoule, its other names, and the guest's kernel and initramfs
///
/// What is installed already is replaced in one step, so that sandboxes that run go on; what is as it should
/// be is not touched. `ampoule system uninstall` undoes it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ampoule system install\n  \
    ampoule system install --containerd")]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Let containerd know the runtime, for pods of a RuntimeClass
    #[arg(long)]
    containerd: bool,
    /// containerd's configuration
    #[arg(long, value_name = "FILE", default_value = containerd::CONFIG, requires = "containerd")]
    config: PathBuf,
}

/// Runs the verb.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let Common { restart, dry_run, .. } = args.common;
    let place = args.common.place()?;
    let config = args.containerd.then_some(args.config.as_path());
    let outcome = install(&place, &Source::here()?, config, dry_run)?;
    args.common.tell(&outcome.steps);
    if outcome.configured_by_others {
        println!("{} has the runtime {} already", args.config.display(), config::HANDLER);
    }
    if dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    match (restart, config) {
        _ if !outcome.unread => {}
        (true, _) => {
            println!("restarting containerd");
            was_read(&containerd::restart(place)?)?;
        }
        (false, Some(_)) => println!(
            "next: systemctl restart containerd; then pods with runtimeClassName: {} \
             (docs/kubernetes.md)",
            config::HANDLER
        ),
        (false, None) => {}
    }
    Ok(ExitCode::SUCCESS)
}
