//! `ampoule run`: a container in a sandbox of its own.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::arguments::{ProcessArgs, cpus, memory, terminal_for};
use super::pull::{self, PullPolicy};
use super::registry::RegistryArgs;
use super::{Failure, Global};
use crate::clock::now_us;
use crate::sandbox::detach;
use crate::sandbox::timings::{Phases, Timings};
use crate::sandbox::trace;
use crate::sandbox::{Ends, Options, keeper};
use crate::terminal;

/// Run a program of an image in a new container, in a microVM of its own
///
/// Exit status: the program's own, or 128 + N where signal N ended it; 125 where ampoule failed,
/// 126 where the program cannot be executed, 127 where it is not found.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule run --rm debian python3 -c 'print(1)'\n  \
    ampoule run -it --cpus 2 -m 256m debian sh\n  ampoule run -d --name web nginx")]
pub struct Args {
    /// Run in the background and print the container's id
    #[arg(short, long)]
    detach: bool,
    /// Remove the container's record when it ends
    #[arg(long)]
    rm: bool,
    /// Name of the container
    #[arg(long)]
    name: Option<String>,
    /// Host name of the container (default: the beginning of its id)
    #[arg(short = 'h', long, value_name = "NAME")]
    hostname: Option<String>,
    /// Program that replaces the image's entrypoint; empty for none
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// CPUs of the container, fractions allowed
    #[arg(long, value_name = "N", value_parser = cpus)]
    cpus: Option<f64>,
    /// Memory limit of the container (b, k, m, g)
    #[arg(short, long, value_name = "SIZE", value_parser = memory)]
    memory: Option<u64>,
    /// Use the image only if this program accepts it (docs/security.md)
    #[arg(long, value_name = "PROGRAM", env = "AMPOULE_VERIFY_WITH")]
    verify_with: Option<PathBuf>,
    /// When the image is pulled
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = PullPolicy::Missing)]
    pull: PullPolicy,
    #[command(flatten)]
    registry: RegistryArgs,
    /// Another guest kernel than ampoule's
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,
    /// How the guest comes to life: restored from a template, which the first start makes, or
    /// booted
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Start::Warm)]
    start: Start,
    /// Print how long each phase of the start took, on standard error
    #[arg(long, conflicts_with = "detach")]
    timings: bool,
    /// Write the length of each phase to this file, as JSON (for `ampoule bench`)
    #[arg(long, value_name = "PATH", conflicts_with = "detach", hide = true)]
    timings_file: Option<PathBuf>,
    #[command(flatten)]
    process: ProcessArgs,
    /// Image to run
    image: String,
    /// Program and arguments, in place of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Start {
    /// Boot its kernel
    Cold,
    /// Restore a template; boot where that cannot be done
    Warm,
}

/// Runs the verb.
pub fn run(args: Args, global: &Global) -> Result<ExitCode, Failure> {
    let command_us = now_us();
    let places = global.places();
    terminal_for(args.process.tty, args.process.interactive && !args.detach)?;
    let verify_with = args.verify_with.as_deref();
    pull::ensure(&places, &args.image, args.pull, verify_with, &args.registry)?;
    let (detach, timings, timings_file) = (args.detach, args.timings, args.timings_file.clone());
    let options = options(args);
    if detach {
        let id = detach::start(&places, &options)?;
        println!("{id}");
        return Ok(ExitCode::SUCCESS);
    }
    let image = options.open_image(&places)?;
    let job = keeper::Job {
        places: &places,
        image: &image,
        options: &options,
        command_us,
        timings: timings || timings_file.is_some() || trace::is_wanted(),
    };
    let outcome = keeper::run(&job, |_| Ok(Ends::Own { stdin: options.interactive }), |_| {})?;
    if let Some(lost) = outcome.lost_output {
        eprintln!("ampoule: the container's output could not be written: {lost}");
    }
    trace::timings(&format!("run {}", options.image), &options.image, &outcome.timings);
    if timings {
        eprint!("{}", outcome.timings);
    }
    if let Some(file) = timings_file {
        write_timings(&file, &outcome.timings)
            .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    }
    Ok(ExitCode::from(outcome.code))
}

fn write_timings(file: &Path, timings: &Timings) -> io::Result<()> {
    fs::write(file, serde_json::to_vec(&Phases::from(timings))?)
}

fn options(args: Args) -> Options {
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    Options {
        image: args.image,
        verify_with: args.verify_with.map(absolute),
        command: args.command,
        entrypoint: args.entrypoint,
        env: args.process.env(|name| env::var(name).ok()),
        workdir: args.process.workdir,
        user: args.process.user,
        hostname: args.hostname,
        name: args.name,
        cpus: args.cpus,
        memory: args.memory,
        kernel: args.kernel.map(absolute),
        interactive: args.process.interactive,
        terminal: args.process.tty,
        terminal_size: args.process.tty.then(terminal::size).flatten(),
        remove: args.rm,
        cold: args.start == Start::Cold,
    }
}
