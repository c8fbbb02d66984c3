//! `ampoule image rm`: names and images taken away.

use std::process::ExitCode;

use super::super::{Failure, Global, report};
use crate::image::{Removed, Store, Users};
use crate::sandbox::{Registry, images_of};

/// Remove images.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ampoule image rm debian:11\n  \
    ampoule image rm $(ampoule image ls -q --filter dangling=true)")]
pub struct Args {
    /// Names, ids, starts of ids or digests
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Remove an image by its id even if it has names in several repositories, and one that a container
    /// that does not run was made of
    #[arg(short, long)]
    force: bool,
}

/// Removes each image; one that fails does not keep the others.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let places = global.places();
    let store = Store::open(&places.data)?;
    let users = match args.force {
        true => Users::default(),
        false => images_of(&Registry::new(&places).list()?),
    };
    let store = store.with_users(users);
    let mut failed = None;
    for image in &args.images {
        match store.remove(image, args.force) {
            Ok(removed) => removed.iter().for_each(print),
            Err(error) => {
                // The last failure is told by the caller.
                if let Some(before) = failed.replace(error) {
                    report(&before);
                }
            }
        }
    }
    match failed {
        None => Ok(ExitCode::SUCCESS),
        Some(error) => Err(error.into()),
    }
}

pub fn print(removed: &Removed) {
    match removed {
        Removed::Untagged(name) => println!("Untagged: {}", name.familiar()),
        Removed::Deleted(id) => println!("Deleted: {id}"),
    }
}
