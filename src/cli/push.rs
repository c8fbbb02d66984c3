//! `ampoule push`: an image to a registry.

use std::process::ExitCode;
use std::sync::Arc;

use super::image::progress::{Lines, Shown};
use super::registry::RegistryArgs;
use super::{Failure, Global, say};
use crate::image::push::{Event, push};
use crate::image::{Reference, Store};

/// Push an image to the registry in its name
///
/// Manifest and layers are those that the image came with, byte for byte; what the registry has is not sent.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ampoule tag debian localhost:5000/debian\n  \
    ampoule push localhost:5000/debian")]
pub struct Args {
    /// Name of the image, in its registry
    #[arg(value_name = "NAME[:TAG]")]
    image: String,
    /// Print the image's name alone
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Pushes the image and prints its digest.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let name: Reference = args.image.parse()?;
    let store = Store::open(&global.places().data)?;
    let settings = args.registry.settings()?;
    let lines = if args.quiet { Lines::Hidden } else { Lines::Output };
    let shown = Arc::new(Shown::new(lines));
    if Reference::is_bare(&args.image) {
        shown.line("Using default tag: latest");
    }
    shown.line(&format!("The push refers to repository [{}]", name.name()));
    let hear = {
        let shown = Arc::clone(&shown);
        Arc::new(move |event: Event<'_>| match event {
            Event::Layers(blobs) => shown.layers(blobs),
            Event::There(digest) => shown.done(digest, "Layer already exists"),
            Event::Sent(digest, bytes) => shown.moved(digest, bytes, "Pushing"),
            Event::Done(digest) => shown.done(digest, "Pushed"),
        }) as crate::image::push::Hear
    };
    let pushed = push(&store, &settings, &name, &hear);
    shown.end();
    let pushed = pushed?;
    if args.quiet {
        say(&name.to_string());
    } else {
        let tag = name.tag().unwrap_or_default();
        say(&format!("{tag}: digest: {} size: {}", pushed.digest, pushed.size));
    }
    Ok(ExitCode::SUCCESS)
}
