//! `ampoule build`: an image from a Dockerfile.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::{Failure, Global};
use crate::build::Build;
use crate::image::Reference;

/// Build an image from a Dockerfile, each RUN step in a microVM; print its id
///
/// buildah reads the file and lays the layers. Images that it builds on are taken from the store, or
/// pulled.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule build -t app .\n  \
    ampoule build -f app.Dockerfile --build-arg V=2 --target test --network none src")]
pub struct Args {
    /// The Dockerfile [default: Containerfile or Dockerfile of the context]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Name of the image
    #[arg(short, long = "tag", value_name = "NAME")]
    tags: Vec<Reference>,
    /// Value of an ARG (K=V), or the caller's (K)
    #[arg(long = "build-arg", value_name = "K=V")]
    build_args: Vec<String>,
    /// Stage to end with
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Label of the image
    #[arg(long = "label", value_name = "K=V")]
    labels: Vec<String>,
    /// Network of the steps: none, or what buildah makes
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
    /// Take no step from the cache
    #[arg(long)]
    no_cache: bool,
    /// Ask the registry for newer images to build on
    #[arg(long)]
    pull: bool,
    /// File that the image's id is written to
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Print the id alone
    #[arg(short, long)]
    quiet: bool,
    /// Folder that COPY takes from
    context: PathBuf,
}

/// Runs the verb.
pub fn run(args: Args, global: &Global) -> Result<ExitCode, Failure> {
    let mut passed_on: Vec<OsString> = Vec::new();
    let mut pass = |option: &str, values: &[String]| {
        for value in values {
            passed_on.extend([option.into(), value.into()]);
        }
    };
    pass("--build-arg", &args.build_args);
    pass("--label", &args.labels);
    pass("--target", args.target.as_slice());
    pass("--network", args.network.as_slice());
    if args.no_cache {
        passed_on.push("--no-cache".into());
    }
    passed_on.push(if args.pull { "--pull-always" } else { "--pull=missing" }.into());
    let build = Build {
        context: args.context,
        file: args.file,
        tags: args.tags,
        passed_on,
        quiet: args.quiet,
    };
    let built = build.run(&global.places())?;
    println!("{}", built.id);
    if let Some(file) = args.iidfile {
        fs::write(&file, built.id.to_string())
            .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
