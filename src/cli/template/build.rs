//! `ampoule template build`: makes a template ahead of its first use.

use std::path::PathBuf;
use std::process::ExitCode;

use super::super::arguments::{cpus, memory};
use super::super::{Failure, Global};
use crate::sandbox::Shape;
use crate::sandbox::template::Templates;

/// Make the template that `ampoule run` with the same options is restored from, and print its key
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ampoule template build\n  \
    ampoule template build --cpus 2 -m 1g")]
pub struct Args {
    /// CPUs of the container, as in `ampoule run`
    #[arg(long, value_name = "N", value_parser = cpus)]
    cpus: Option<f64>,
    /// Memory limit of the container, as in `ampoule run`
    #[arg(short, long, value_name = "SIZE", value_parser = memory)]
    memory: Option<u64>,
    /// Another guest kernel than ampoule's
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,
}

/// Runs the verb.
pub fn run(args: Args, global: &Global) -> Result<ExitCode, Failure> {
    let Args { cpus, memory, kernel } = args;
    let kernel = kernel.map(|path| std::path::absolute(&path).unwrap_or(path));
    let shape = Shape::new(cpus, memory, kernel);
    Templates::new(global.places().templates()).get(&shape)?;
    println!("{}", Templates::key(&shape)?);
    Ok(ExitCode::SUCCESS)
}
