//! `ampoule run`: a container in a sandbox of its own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::arguments::{ContainerArgs, LifeArgs};
use super::pull::{self, PullPolicy};
use super::registry::RegistryArgs;
use super::{Failure, Global};
use crate::clock::now_us;
use crate::detach_keys::DetachKeys;
use crate::sandbox::attach;
use crate::sandbox::detach::{self, What};
use crate::sandbox::exec::End;
use crate::sandbox::keeper::{self, Source, Wanted};
use crate::sandbox::log::Log;
use crate::sandbox::outlet::Outlet;
use crate::sandbox::timings::{Phases, Timings};
use crate::sandbox::trace;
use crate::sandbox::{Ends, Kept, Options, SandboxError};

/// Run a program of an image in a new container, in a microVM of its own
///
/// Exit status: the program's own, or 128 + N where signal N ended it; 125 where ampoule failed,
/// 126 where the program cannot be executed, 127 where it is not found; 0 where the detach keys were typed.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule run --rm debian python3 -c 'print(1)'\n  \
    ampoule run -it --cpus 2 -m 256m debian sh\n  ampoule run -d --name web nginx\n  \
    ampoule run -it --detach-keys ctrl-p,ctrl-q debian sh")]
pub struct Args {
    /// Run in the background and print the container's id
    #[arg(short, long)]
    detach: bool,
    /// Keys that end this command and leave the container running; the container of a command without them
    /// ends with it. Without -i and -t they mean nothing
    #[arg(long, value_name = "KEYS", conflicts_with_all = ["timings", "timings_file"])]
    detach_keys: Option<DetachKeys>,
    /// Remove the container's record when it ends
    #[arg(long)]
    rm: bool,
    /// When the image is pulled
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = PullPolicy::Missing)]
    pull: PullPolicy,
    #[command(flatten)]
    registry: RegistryArgs,
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
    life: LifeArgs,
    #[command(flatten)]
    container: ContainerArgs,
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
    args.container.check_terminal(args.detach)?;
    let Args {
        detach,
        detach_keys,
        rm,
        pull,
        registry,
        start,
        timings,
        timings_file,
        life,
        container,
    } = args;
    let options = Options { remove: rm, cold: start == Start::Cold, ..container.options(&places)? };
    let options = life.apply(options)?;
    let verify_with = options.verify_with.as_deref();
    let image = pull::ensure(&places, &options.image, pull, verify_with, &registry)?;
    if detach {
        let id = detach::start(&places, &options)?;
        println!("{id}");
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(keys) = detach_keys.filter(|_| options.terminal && options.interactive) {
        let restart = options.restart;
        return Ok(left(attach::start(&places, What::Run(Box::new(options)), restart, keys)?));
    }
    options.accept(&image)?;
    let name = options.image.clone();
    let job = keeper::Job {
        places: &places,
        wanted: Wanted::new(&image, options)?,
        command_us,
        timings: timings || timings_file.is_some() || trace::is_wanted(),
    };
    let outcome = keeper::run(job, Source::Image(&image), attached, |_| {})?;
    if let Some(lost) = outcome.lost_output {
        eprintln!("ampoule: the container's output could not be written: {lost}");
    }
    trace::timings(&format!("run {name}"), &name, &outcome.timings);
    if timings {
        eprint!("{}", outcome.timings);
    }
    if let Some(file) = timings_file {
        write_timings(&file, &outcome.timings)
            .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    }
    Ok(ExitCode::from(outcome.code))
}

/// The caller's own streams; what lasts has a log, too.
pub fn attached(kept: &Kept, options: &Options) -> Result<Ends, SandboxError> {
    let outlet = (!options.remove).then(|| {
        let log = Log::open(&kept.folder.log(), options.log)
            .map_err(SandboxError::host("cannot open the container's log"))?;
        Ok::<_, SandboxError>(Outlet::new(Some(log), false))
    });
    Ok(Ends::Own { stdin: options.interactive, keys: None, outlet: outlet.transpose()? })
}

/// The exit status of a command whose container has ended, or that was let go of: nothing is wrong then.
pub fn left(end: End) -> ExitCode {
    match end {
        End::Exit(code) => ExitCode::from(code),
        End::LetGo => ExitCode::SUCCESS,
    }
}

fn write_timings(file: &Path, timings: &Timings) -> io::Result<()> {
    fs::write(file, serde_json::to_vec(&Phases::from(timings))?)
}
