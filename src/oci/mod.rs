//! The OCI runtime command line, as runc's callers use it: `ampoule-oci`. One verb per file.
//!
//! A verb is a `clap` argument struct and `run(args, &Global) -> Result<ExitCode, OciError>`; the one
//! place that reports errors is [`main`].
//!
//! * [`store`], [`record`]: the containers of a `--root`, their folders, locks and state
//! * [`bundle`], [`translate`]: a bundle's `config.json`, and what of it is the guest's and the host's
//! * [`keeper`]: the process that stands for a container, or for a further process in one
//! * [`face`], [`console`], [`cgroup`], [`hooks`]: what such a process looks like from the host: its
//!   namespaces, terminal, control group; and the caller's own programs
//! * [`guest`], [`processors`]: what a verb asks of a container's guest and its machine
//! * [`stats`], [`table`], [`log`]: what is printed, and errors, as callers read them

mod bundle;
pub(crate) mod cgroup;
mod console;
mod create;
mod delete;
mod error;
mod events;
mod exec;
mod face;
mod features;
#[cfg(fuzzing)]
pub mod fuzzing;
mod guest;
pub(crate) mod hooks;
mod keeper;
mod kill;
mod list;
mod log;
pub(crate) mod network;
mod pause;
mod processors;
pub(crate) mod ps;
mod record;
mod resume;
mod run;
mod spawn;
mod spec;
mod start;
mod state;
mod stats;
mod store;
mod table;
mod translate;
mod update;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub(crate) use bundle::{Bundle, BundleError, read as read_spec};
pub use error::OciError;
use log::{Format, Log};
pub(crate) use record::{Record, Status as RecordStatus};
use store::Store;
pub use translate::{CPUS_ANNOTATION, MEMORY_ANNOTATION};
pub(crate) use translate::{DEFAULT_PERIOD, TranslateError, as_annotated, look, size, translate};

use crate::sandbox::Places;

/// Version of the runtime specification that is implemented.
pub const SPEC_VERSION: &str = "1.2.1";

/// Exit status of a command that failed, as runc's.
const FAILED: u8 = 1;

/// Exit code of a keeper without a program's.
const KEEPER_FAILED: u8 = 255;

/// OCI runtime whose every container is in a microVM of its own
#[derive(Debug, Parser)]
#[command(name = "ampoule-oci", disable_version_flag = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Option<Verb>,
}

/// Options of every verb, as runc's.
#[derive(Debug, clap::Args)]
pub struct Global {
    /// Folder of the containers' state
    #[arg(long, value_name = "DIR", default_value = "/run/ampoule/oci")]
    root: PathBuf,
    /// Write errors and warnings to this file too
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Form of the lines in --log
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Text)]
    log_format: Format,
    /// Log more
    #[arg(long)]
    debug: bool,
    /// Read linux.cgroupsPath as "slice:prefix:name"
    #[arg(long)]
    systemd_cgroup: bool,
    /// Accepted for runc's callers; this runtime has to be root
    #[arg(long, value_name = "BOOL", hide = true, num_args = 0..=1, default_missing_value = "true")]
    rootless: Option<String>,
    /// Accepted for runc's callers
    #[arg(long, value_name = "PATH", hide = true)]
    criu: Option<PathBuf>,
    /// Print the version
    #[arg(short, long, action = clap::ArgAction::SetTrue)]
    version: bool,
    /// Folder of sandboxes' state [default: /run/ampoule]
    #[arg(long, value_name = "DIR", env = "AMPOULE_STATE", hide = true)]
    sandboxes: Option<PathBuf>,
    /// Folder of templates [default: /var/lib/ampoule/templates]
    #[arg(long, value_name = "DIR", env = "AMPOULE_TEMPLATES", hide = true)]
    templates: Option<PathBuf>,
}

impl Global {
    fn store(&self) -> Store {
        Store::new(&self.root)
    }

    fn log(&self) -> Log {
        Log::new(self.log.clone(), self.log_format)
    }

    fn places(&self) -> Places {
        Places::new(None, self.sandboxes.as_deref(), self.templates.as_deref())
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    Create(create::Args),
    Start(start::Args),
    Run(run::Args),
    State(state::Args),
    Kill(kill::Args),
    Delete(delete::Args),
    Exec(exec::Args),
    Pause(pause::Args),
    Resume(resume::Args),
    Update(update::Args),
    Events(events::Args),
    Ps(ps::Args),
    List(list::Args),
    Spec(spec::Args),
    Features(features::Args),
    #[command(hide = true)]
    Monitor(crate::cli::monitor::Args),
}

impl Verb {
    fn run(self, global: &Global) -> Result<ExitCode, OciError> {
        match self {
            Self::Create(args) => create::run(&args, global),
            Self::Start(args) => start::run(&args, global),
            Self::Run(args) => run::run(&args, global),
            Self::State(args) => state::run(&args, global),
            Self::Kill(args) => kill::run(&args, global),
            Self::Delete(args) => delete::run(&args, global),
            Self::Exec(args) => exec::run(&args, global),
            Self::Pause(args) => pause::run(&args, global),
            Self::Resume(args) => resume::run(&args, global),
            Self::Update(args) => update::run(&args, global),
            Self::Events(args) => events::run(&args, global),
            Self::Ps(args) => ps::run(&args, global),
            Self::List(args) => list::run(&args, global),
            Self::Spec(args) => spec::run(&args, global),
            Self::Features(args) => features::run(&args, global),
            Self::Monitor(_) => {
                crate::monitor::process::main().map_err(OciError::Monitor)?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// Closes what the caller has left open beside the standard streams. A keeper and its monitor live on
/// with what they have: files and locks of the caller's are none of theirs, and a guest takes no
/// descriptors (so that `LISTEN_FDS` means nothing here).
fn close_what_is_not_ours() {
    // SAFETY: nothing has been opened by this process yet.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
}

/// Parses the command line, runs the verb, reports its failure.
pub fn main() -> ExitCode {
    // A monitor's keeper has done so already, and given it what it needs.
    if std::env::args_os().nth(1).is_none_or(|verb| verb != "monitor") {
        close_what_is_not_ours();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            let status = if usage.use_stderr() { FAILED } else { 0 };
            // Nothing is left to tell the failure to when the terminal is gone.
            let _ = usage.print();
            return ExitCode::from(status);
        }
    };
    if cli.global.version {
        println!("ampoule-oci version {}\nspec: {SPEC_VERSION}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let log = cli.global.log();
    let Some(verb) = cli.verb else {
        log.error("no command was given: see --help");
        return ExitCode::from(FAILED);
    };
    verb.run(&cli.global).unwrap_or_else(|error| {
        log.error(&crate::report::chain(&error));
        ExitCode::from(error.exit_status())
    })
}

/// As callers read it, and people.
fn json<T: serde::Serialize>(value: &T) -> Result<String, OciError> {
    serde_json::to_string_pretty(value)
        .map_err(|error| OciError::Host { what: "write JSON", source: error.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_does_not_contradict_itself() {
        Cli::command().debug_assert();
    }
}
