//! `ampoule import`: an image of a root file system's tar archive.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use jiff::Timestamp;

use super::load::bar;
use super::{Failure, Global};
use crate::image::changes::Change;
use crate::image::import::Description;
use crate::image::verify::Purpose;
use crate::image::{Reference, Store, Verifier};

/// Make an image of the tar archive of a root file system
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mmdebstrap bookworm - | ampoule import - debian:mine\n  \
    ampoule import -c 'CMD [\"/bin/sh\"]' -c 'ENV LANG=C.UTF-8' rootfs.tar.gz box")]
pub struct Args {
    /// Change of the image's configuration, as a Dockerfile's: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL,
    /// STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<Change>,
    /// What the image's history says of it
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Take it only if this program accepts it (docs/security.md)
    #[arg(long, value_name = "PROGRAM", env = "AMPOULE_VERIFY_WITH")]
    verify_with: Option<PathBuf>,
    /// The archive, plain or compressed (gzip, zstd); - for standard input
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
    /// Name of the image
    #[arg(value_name = "NAME[:TAG]")]
    name: Option<Reference>,
}

/// Makes the image and prints its id.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    if let Some(name) = args.name.as_ref().filter(|name| name.digest().is_some()) {
        return Err(format!("the name of the image, {name}, has a digest").into());
    }
    let named = args.verify_with.as_deref().map(std::path::absolute).transpose()?;
    let verifier = Verifier::new(named.as_deref(), Purpose::Load)?;
    let store = Store::open(&global.places().data)?.with_verifier(verifier);
    let from_stdin = args.file.as_os_str() == "-";
    let source = if from_stdin { "-".to_owned() } else { args.file.display().to_string() };
    let reader: Box<dyn Read> = if from_stdin {
        Box::new(io::stdin().lock())
    } else {
        let opened = File::open(&args.file);
        Box::new(opened.map_err(|error| format!("cannot open {source}: {error}"))?)
    };
    let description = Description {
        name: args.name.clone(),
        changes: args.change.clone(),
        message: args.message.clone().unwrap_or_else(|| format!("Imported from {source}")),
        architecture: None,
        created: Timestamp::now(),
    };
    let bar = bar(false);
    let imported =
        store.import(reader, &description, &mut |progress| super::load::show(&bar, progress));
    bar.finish_and_clear();
    println!("{}", imported?);
    Ok(ExitCode::SUCCESS)
}
