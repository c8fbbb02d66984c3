//! `ampoule push`: an image to a registry.

use std::process::ExitCode;
use std::sync::Arc;

use super::image::progress::{Lines, Shown};
use super::registry::RegistryArgs;
use super::{Failure, Global, each_or_last, say};
use crate::image::push::{Event, push};
use crate::image::{Reference, Store};

/// Push an image to the registry in its name
///
/// Manifest and layers are those that the image came with, byte for byte; what the registry has is not sent.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ampoule tag debian localhost:5000/debian\n  \
    ampoule push localhost:5000/debian\n  ampoule push --all-tags localhost:5000/debian")]
pub struct Args {
    /// Name of the image, in its registry
    #[arg(value_name = "NAME[:TAG]")]
    image: String,
    /// All images of that name, with all of their tags
    #[arg(short, long)]
    all_tags: bool,
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
    if args.all_tags {
        return push_all(args, &store, &name);
    }
    if Reference::is_bare(&args.image) && !args.quiet {
        say("Using default tag: latest");
    }
    push_one(args, &store, &name)?;
    Ok(ExitCode::SUCCESS)
}

/// Pushes all that the store has by this name.
fn push_all(args: &Args, store: &Store, name: &Reference) -> Result<ExitCode, Failure> {
    if !Reference::is_bare(&args.image) {
        return Err("a tag or a digest cannot be used with --all-tags".into());
    }
    let images = store.list()?;
    let names = images.iter().flat_map(|image| &image.references);
    let named = names.filter(|other| other.name() == name.name() && other.tag().is_some());
    let mut tags: Vec<String> = named.map(ToString::to_string).collect();
    tags.sort_unstable();
    if tags.is_empty() {
        return Err(format!("no image is called {} with a tag", name.familiar_name()).into());
    }
    each_or_last(&tags, |tag| push_one(args, store, &tag.parse()?))
}

fn push_one(args: &Args, store: &Store, name: &Reference) -> Result<(), Failure> {
    let settings = args.registry.settings()?;
    let lines = if args.quiet { Lines::Hidden } else { Lines::Output };
    let shown = Arc::new(Shown::new(lines));
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
    let pushed = push(store, &settings, name, &hear);
    shown.end();
    let pushed = pushed?;
    if args.quiet {
        say(&name.to_string());
    } else {
        let tag = name.tag().unwrap_or_default();
        say(&format!("{tag}: digest: {} size: {}", pushed.digest, pushed.size));
    }
    Ok(())
}
