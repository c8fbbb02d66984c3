//! `ampoule pull`: an image from a registry.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::image::progress::{Lines, Shown};
use super::registry::RegistryArgs;
use super::{Failure, Global, each_or_last, say};
use crate::image::pull::tags;
use crate::image::registry::Platform;
use crate::image::verify::Purpose;
use crate::image::{Digest, Image, Pulled, Puller, Reference, Store, StoreError, Verifier};
use crate::sandbox::Places;

/// Pull an image from a registry
///
/// Layers that the store has are not fetched, and a pull that was killed goes on where it was. Who the
/// user is to a registry, its mirrors and its certificates: docs/images.md.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ampoule pull debian\n  ampoule pull ghcr.io/user/tool:v1\n  \
    ampoule pull --all-tags ghcr.io/user/tool\n  \
    ampoule pull --platform linux/arm64 debian@sha256:…\n  \
    ampoule pull --tls-verify=false registry.test:5000/box")]
pub struct Args {
    /// Name of the image, with a tag or a digest
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    image: String,
    /// All images of the repository, by all of its tags
    #[arg(short, long)]
    all_tags: bool,
    /// The one for another machine, of an image for several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Take it only if this program accepts it (docs/security.md)
    #[arg(long, value_name = "PROGRAM", env = "AMPOULE_VERIFY_WITH")]
    verify_with: Option<PathBuf>,
    /// Print the image's name alone
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Pulls the image and prints its name.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let name: Reference = args.image.parse()?;
    if args.all_tags && !Reference::is_bare(&args.image) {
        return Err("a tag or a digest cannot be used with --all-tags".into());
    }
    if !args.all_tags && Reference::is_bare(&args.image) && !args.quiet {
        say("Using default tag: latest");
    }
    let lines = if args.quiet { Lines::Hidden } else { Lines::Output };
    let named = args.verify_with.as_deref().map(std::path::absolute).transpose()?;
    let verifier = Verifier::new(named.as_deref(), Purpose::Load)?;
    let store = Store::open(&global.places().data)?.with_verifier(verifier);
    if !args.all_tags {
        pull(&store, &name, args.platform.clone(), &args.registry, lines)?;
        say(&name.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    let tags = tags(&args.registry.settings()?, &name)?;
    if tags.is_empty() {
        return Err(format!("{} has no tags", name.familiar_name()).into());
    }
    let tags: Vec<String> = tags.iter().map(ToString::to_string).collect();
    // Not all of them need be images.
    let outcome = each_or_last(&tags, |tag| {
        pull(&store, &tag.parse()?, args.platform.clone(), &args.registry, lines)?;
        Ok::<_, Failure>(())
    });
    say(&name.name());
    outcome
}

/// When `run` and `create` pull an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum PullPolicy {
    /// Every time; what is there stays where nothing changed
    Always,
    /// Where it is not there
    #[default]
    Missing,
    /// Not at all
    Never,
}

/// The image that `run` and `create` start from, after what `--pull` says. How far a pull is goes to standard
/// error; `verify_with` is asked about what is pulled, as in a load.
///
/// # Errors
///
/// As a pull, and as [`Store::get`].
pub fn ensure(
    places: &Places,
    image: &str,
    policy: PullPolicy,
    verify_with: Option<&Path>,
    registry: &RegistryArgs,
) -> Result<Image, Failure> {
    let store = Store::open(&places.data)?;
    let there = match store.get(image) {
        Ok(there) => Some(there),
        Err(StoreError::NotFound(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let wanted = match policy {
        PullPolicy::Always => true,
        PullPolicy::Missing => there.is_none(),
        PullPolicy::Never => false,
    };
    // An id is in the store, or nowhere.
    let is_id = Digest::from_hex(image.strip_prefix("sha256:").unwrap_or(image)).is_some();
    if wanted
        && !is_id
        && let Ok(name) = image.parse::<Reference>()
    {
        let named = verify_with.map(std::path::absolute).transpose()?;
        let store = store.clone().with_verifier(Verifier::new(named.as_deref(), Purpose::Load)?);
        if there.is_none() {
            let shown = Shown::new(Lines::Errors);
            shown.line(&format!("Unable to find image '{}' locally", name.familiar()));
        }
        pull(&store, &name, None, registry, Lines::Errors)?;
    } else if let Some(there) = there {
        return Ok(there);
    }
    Ok(store.get(image)?)
}

fn pull(
    store: &Store,
    name: &Reference,
    platform: Option<Platform>,
    registry: &RegistryArgs,
    lines: Lines,
) -> Result<Pulled, Failure> {
    let settings = registry.settings()?;
    let shown = Shown::new(lines);
    let what = name.tag().map(str::to_owned);
    let what = what.or_else(|| name.digest().map(|digest| digest.to_string()));
    shown.line(&format!("{}: Pulling from {}", what.unwrap_or_default(), name.path()));
    let puller = Puller { store, settings: &settings, platform };
    let pulled = puller.pull(name, &|event| shown.pulling(event));
    shown.end();
    let pulled = pulled?;
    shown.line(&format!("Digest: {}", pulled.digest));
    let status = if pulled.new { "Downloaded newer image for" } else { "Image is up to date for" };
    shown.line(&format!("Status: {status} {}", name.familiar()));
    Ok(pulled)
}
