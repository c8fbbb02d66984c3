//! `ampoule system uninstall`.

use std::process::ExitCode;

use super::Common;
use crate::cli::Failure;
use crate::system::uninstall::uninstall;
use crate::system::{SystemError, containerd};

/// Undo `ampoule system install`
///
/// containerd's configuration becomes what it was, byte for byte where nobody else has changed it since; else
/// what was added is taken out of it. Images, templates and containers' records stay.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  ampoule system uninstall")]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Although sandboxes are running, which then cannot be ended properly
    #[arg(long)]
    force: bool,
    /// Succeed where nothing is installed
    #[arg(long)]
    if_installed: bool,
}

/// Runs the verb.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let Common { restart, dry_run, .. } = args.common;
    let place = args.common.place()?;
    let outcome = match uninstall(&place, args.force, dry_run) {
        Err(error @ SystemError::NotInstalled(_)) if args.if_installed => {
            println!("{error}");
            return Ok(ExitCode::SUCCESS);
        }
        outcome => outcome?,
    };
    args.common.tell(&outcome.steps);
    if dry_run || !outcome.of_containerd {
        return Ok(ExitCode::SUCCESS);
    }
    if restart {
        containerd::restart(place)?;
    } else {
        println!("next: systemctl restart containerd");
    }
    Ok(ExitCode::SUCCESS)
}
