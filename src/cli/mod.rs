//! The `ampoule` command: one verb per file.
//!
//! A verb is a `clap` argument struct and `run(args) -> Result<ExitCode, Failure>`; the one place
//! that prints errors is [`main`].

mod age;
mod arguments;
mod attach;
mod bench;
mod build;
mod commit;
mod completion;
mod confirm;
mod cp;
mod create;
mod diff;
mod doctor;
mod events;
mod exec;
mod fork;
mod format;
mod history;
mod image;
mod import;
mod inspect;
mod keeper;
mod kill;
mod labels;
mod load;
mod login;
mod logout;
mod logs;
mod man;
mod metrics;
pub(crate) mod monitor;
mod network;
mod occupied;
mod pause;
mod port;
mod ps;
mod pull;
mod push;
mod registry;
mod rename;
mod restart;
mod rm;
mod run;
mod save;
mod size;
mod start;
mod stats;
mod stop;
mod system;
mod table;
mod tag;
mod template;
mod top;
mod unpause;
mod update;
mod vm;
mod volume;
mod wait;

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nix::sys::signal::{self, SigHandler, Signal};

use crate::report::chain;
use crate::sandbox::detach::DetachError;
use crate::sandbox::{Places, SandboxError};

/// Exit status of every failure of ampoule itself, as docker's: 126, 127 and 128+N belong to the
/// container.
pub const FAILED: u8 = 125;

/// Every OCI container in its own microVM.
#[derive(Debug, Parser)]
#[command(name = "ampoule", version, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// Options of every verb.
#[derive(Debug, clap::Args)]
pub struct Global {
    /// Folder of images and logs [default: /var/lib/ampoule]
    #[arg(long, global = true, value_name = "DIR", env = "AMPOULE_ROOT")]
    root: Option<PathBuf>,
    /// Folder of running containers' state [default: /run/ampoule]
    #[arg(long, global = true, value_name = "DIR", env = "AMPOULE_STATE")]
    state: Option<PathBuf>,
    /// Folder of templates [default: templates in --root]
    #[arg(long, global = true, value_name = "DIR", env = "AMPOULE_TEMPLATES")]
    templates: Option<PathBuf>,
}

impl Global {
    /// Where things are kept.
    pub fn places(&self) -> Places {
        Places::new(self.root.as_deref(), self.state.as_deref(), self.templates.as_deref())
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(Box<run::Args>),
    Create(Box<create::Args>),
    Start(start::Args),
    Load(load::Args),
    Build(build::Args),
    Pull(pull::Args),
    Push(push::Args),
    Save(save::Args),
    Import(import::Args),
    Tag(tag::Args),
    History(history::Args),
    Login(login::Args),
    Logout(logout::Args),
    Image(image::Args),
    /// List images (as `ampoule image ls`)
    Images(image::ls::Args),
    /// Remove images (as `ampoule image rm`)
    Rmi(image::rm::Args),
    Ps(ps::Args),
    Exec(exec::Args),
    Attach(attach::Args),
    Cp(cp::Args),
    Diff(diff::Args),
    Commit(commit::Args),
    Fork(fork::Args),
    Logs(logs::Args),
    Stats(stats::Args),
    Metrics(metrics::Args),
    Inspect(inspect::Args),
    Top(top::Args),
    Events(events::Args),
    Stop(stop::Args),
    Restart(restart::Args),
    Kill(kill::Args),
    Pause(pause::Args),
    Unpause(unpause::Args),
    Wait(wait::Args),
    Rename(rename::Args),
    Update(update::Args),
    Rm(rm::Args),
    Template(template::Args),
    Doctor(doctor::Args),
    Completion(completion::Args),
    Man(man::Args),
    System(system::Args),
    Bench(bench::Args),
    Vm(vm::Args),
    Volume(volume::Args),
    Network(network::Args),
    Port(port::Args),
    #[command(hide = true)]
    Monitor(monitor::Args),
    #[command(hide = true)]
    Keeper,
}

impl Verb {
    /// Whether a closed pipe is the verb's own to deal with.
    fn carries_streams(&self) -> bool {
        match self {
            Self::Run(_)
            | Self::Create(_)
            | Self::Start(_)
            | Self::Attach(_)
            | Self::Exec(_)
            | Self::Vm(_)
            | Self::Monitor(_)
            | Self::Keeper => true,
            // They may ask a program for secrets, which may end before it has read what it was asked.
            Self::Pull(_) | Self::Push(_) | Self::Login(_) | Self::Logout(_) => true,
            Self::Image(args) => args.speaks_to_a_registry(),
            // A client that has gone is no end.
            Self::Metrics(args) => args.serves(),
            _ => false,
        }
    }

    fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        if !self.carries_streams() {
            end_with_the_reader();
        }
        match self {
            Self::Run(args) => run::run(*args, global),
            Self::Load(args) => load::run(&args, global),
            Self::Build(args) => build::run(args, global),
            Self::Pull(args) => pull::run(&args, global),
            Self::Push(args) => push::run(&args, global),
            Self::Save(args) => save::run(&args, global),
            Self::Import(args) => import::run(&args, global),
            Self::Tag(args) => tag::run(&args, global),
            Self::History(args) => history::run(&args, global),
            Self::Login(args) => login::run(&args, global),
            Self::Logout(args) => logout::run(&args, global),
            Self::Image(args) => image::run(&args, global),
            Self::Images(args) => image::ls::run(&args, global),
            Self::Rmi(args) => image::rm::run(&args, global),
            Self::Ps(args) => ps::run(&args, global),
            Self::Exec(args) => exec::run(args, global),
            Self::Cp(args) => cp::run(&args, global),
            Self::Diff(args) => diff::run(&args, global),
            Self::Commit(args) => commit::run(&args, global),
            Self::Fork(args) => fork::run(args, global),
            Self::Logs(args) => logs::run(&args, global),
            Self::Stats(args) => stats::run(&args, global),
            Self::Metrics(args) => metrics::run(args, global),
            Self::Create(args) => create::run(*args, global),
            Self::Start(args) => start::run(args, global),
            Self::Attach(args) => attach::run(args, global),
            Self::Inspect(args) => inspect::run(&args, global),
            Self::Update(args) => update::run(&args, global),
            Self::Top(args) => top::run(&args, global),
            Self::Events(args) => events::run(&args, global),
            Self::Restart(args) => restart::run(&args, global),
            Self::Kill(args) => kill::run(args, global),
            Self::Pause(args) => pause::run(args, global),
            Self::Unpause(args) => unpause::run(args, global),
            Self::Wait(args) => wait::run(&args, global),
            Self::Rename(args) => rename::run(&args, global),
            Self::Stop(args) => stop::run(&args, global),
            Self::Rm(args) => rm::run(args, global),
            Self::Template(args) => template::run(args, global),
            Self::System(args) => system::run(&args, global),
            Self::Completion(args) => completion::run(&args),
            Self::Man(args) => man::run(&args),
            Self::Doctor(args) => doctor::run(&args, global),
            Self::Bench(args) => bench::run(args, global),
            Self::Vm(args) => vm::run(args),
            Self::Volume(args) => volume::run(args, global),
            Self::Network(args) => network::run(args, global),
            Self::Port(args) => port::run(&args, global),
            Self::Monitor(_) => monitor::run(),
            Self::Keeper => keeper::run(),
        }
    }
}

/// A line for standard output; who has gone does not read it.
fn say(text: &str) {
    drop(writeln!(io::stdout(), "{text}"));
}

/// What docker says and returns when the detach keys were typed to `attach` and `exec`.
fn let_go() -> ExitCode {
    // Nobody is left to tell where standard error is closed.
    drop(writeln!(io::stderr(), "read escape sequence"));
    ExitCode::from(1)
}

/// A list whose reader has gone away ends quietly, as any other program's.
fn end_with_the_reader() {
    // SAFETY: the default action takes no handler that could be unsound.
    let _ = unsafe { signal::signal(Signal::SIGPIPE, SigHandler::SigDfl) };
}

/// Why a verb failed, and with which exit status.
#[derive(Debug)]
pub struct Failure {
    /// Exit status of the command.
    pub status: u8,
    /// What happened; its whole chain of sources is printed once.
    pub error: Box<dyn Error + Send + Sync>,
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        Self { status: status_of(error.as_ref()), error }
    }
}

/// Errors that have an exit status of their own have it wherever they turn up.
fn status_of(error: &(dyn Error + Send + Sync + 'static)) -> u8 {
    if let Some(error) = error.downcast_ref::<SandboxError>() {
        return error.exit_status();
    }
    error.downcast_ref::<DetachError>().map_or(FAILED, DetachError::exit_status)
}

/// Does something to each container, prints its name where that went well, and goes on where it did
/// not; fails if any failed.
fn each<E: Into<Failure>>(
    containers: &[String],
    mut act: impl FnMut(&str) -> Result<(), E>,
) -> Result<ExitCode, Failure> {
    each_or_last(containers, |container| act(container).map(|()| println!("{container}")))
}

/// Does something with each of these, and goes on where that fails: the last failure is returned, those
/// before it are told.
fn each_or_last<E: Into<Failure>>(
    all: &[String],
    mut act: impl FnMut(&str) -> Result<(), E>,
) -> Result<ExitCode, Failure> {
    let mut last: Option<Failure> = None;
    for one in all {
        if let Err(error) = act(one)
            && let Some(before) = last.replace(error.into())
        {
            tell(&before);
        }
    }
    last.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// Parses the command line, runs the verb, prints its failure.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            let status = if usage.use_stderr() { FAILED } else { 0 };
            // Nothing is left to tell the failure to when the terminal is gone.
            let _ = usage.print();
            return ExitCode::from(status);
        }
    };
    cli.verb.run(&cli.global).unwrap_or_else(|failure| {
        tell(&failure);
        ExitCode::from(failure.status)
    })
}

fn tell(failure: &Failure) {
    report(failure.error.as_ref());
}

/// Prints an error to standard error.
fn report(error: &(dyn Error + 'static)) {
    // Nobody is left to tell where standard error is closed.
    let _ = writeln!(io::stderr(), "ampoule: {}", chain(error));
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Adds the verbs whose help has no example.
    fn without_example(command: &clap::Command, missing: &mut Vec<String>) {
        let verbs: Vec<_> = command.get_subcommands().filter(|verb| !verb.is_hide_set()).collect();
        if verbs.is_empty() && !command.clone().render_long_help().to_string().contains("Example") {
            missing.push(command.get_bin_name().unwrap_or(command.get_name()).to_owned());
        }
        verbs.into_iter().for_each(|verb| without_example(verb, missing));
    }

    #[test]
    fn the_help_of_every_verb_has_an_example() {
        let mut cli = Cli::command().disable_help_subcommand(true);
        cli.build();
        let mut missing = Vec::new();
        without_example(&cli, &mut missing);
        assert_eq!(missing, Vec::<String>::new());
    }
}
