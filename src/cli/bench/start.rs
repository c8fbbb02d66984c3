//! `ampoule bench start`: how long a start takes, beside others.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args as ClapArgs;
use nix::sys::signal::Signal;
use tempfile::{NamedTempFile, TempDir};

use super::progress::Progress;
use super::tables::tables;
use crate::bench::attempt::AttemptError;
use crate::bench::entrant::Entrant;
use crate::bench::interrupt::Interrupt;
use crate::bench::machine::Machine;
use crate::bench::peers::{Missing, Peer, Setting};
use crate::bench::report::{Report, Setup};
use crate::bench::sandboxes::{self, Mode};
use crate::bench::{forks, oci, plot, rounds};
use crate::cli::{Failure, Global};
use crate::sandbox::Options;

/// Time whole starts of sandboxes, and of others by turns with them
///
/// Exit status: 0 where all was measured that is there, 125 where a start failed.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule bench start --mode cold --compare crun\n  \
    ampoule bench start --mode cold --mode warm --runs 50 --compare crun --svg starts.svg\n  \
    ampoule bench start --mode oci --mode exec --compare crun --compare runc\n  \
    ampoule bench start --mode warm --concurrency 8 --image debian python3 -c 'print(1)'")]
pub struct Args {
    /// How sandboxes are started; more than once for more than one way
    #[arg(long = "mode", value_name = "MODE", required = true)]
    modes: Vec<Mode>,
    /// Rounds; in each, everybody has a turn
    #[arg(long, value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,
    /// Starts at once in a turn
    #[arg(long, value_name = "C", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    concurrency: u32,
    /// Who takes turns with the sandboxes: crun, runc, firecracker or qemu, with =PATH where it is
    /// not in PATH
    #[arg(long = "compare", value_name = "PEER[=PATH]")]
    peers: Vec<Peer>,
    /// Image to start
    #[arg(long, default_value = "busybox")]
    image: String,
    /// Write everything that was measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw it into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Program and arguments to run in the image
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, default_value = "true")]
    command: Vec<String>,
}

/// Why a benchmark cannot be run.
#[derive(Debug, thiserror::Error)]
enum BenchError {
    #[error("{0} is named twice")]
    Twice(String),
    #[error("the OCI runtime cannot be measured")]
    Runtime(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot write {}", path.display())]
    Output {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{doing}")]
    Host {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Runs the verb.
pub fn run(args: Args, global: &Global) -> Result<ExitCode, Failure> {
    once_each(&args)?;
    let host = |doing| move |source| BenchError::Host { doing, source };
    let interrupt = Interrupt::block().map_err(host("cannot block signals"))?;
    measure(args, global, &interrupt).or_else(|failure| match interrupt.take() {
        // Whatever failed, failed because of that.
        Some(signal) => Ok(ended_by(signal)),
        None => Err(failure),
    })
}

fn ended_by(signal: Signal) -> ExitCode {
    ExitCode::from(u8::try_from(128 + signal as i32).unwrap_or(super::super::FAILED))
}

fn measure(args: Args, global: &Global, interrupt: &Interrupt) -> Result<ExitCode, Failure> {
    // A file that cannot be written is found out now, not when all is measured.
    let json = args.json.as_deref().map(Output::to).transpose()?;
    let svg = args.svg.as_deref().map(Output::to).transpose()?;
    let scratch = TempDir::with_prefix("ampoule-bench-");
    let scratch = scratch
        .map_err(|source| BenchError::Host { doing: "cannot make a temporary folder", source })?;
    let places = global.places();
    let options = Options { image: args.image, command: args.command, ..Options::default() };
    let image = options.open_image(&places)?;
    let setting = Setting {
        places: &places,
        image: &image,
        options: &options,
        scratch: scratch.path(),
        modes: &args.modes,
    };
    let machine = Machine::this();
    let (entrants, missing) = entrants(&setting, &args.peers, interrupt)?;

    let progress = Progress::new(args.runs, entrants.len());
    let name = |number: usize| entrants.get(number).map_or("", |entrant| entrant.name.as_str());
    let tell = |turn: crate::bench::plan::Turn| progress.tell(turn, name(turn.entrant));
    let rounds = rounds::run(&entrants, args.runs, args.concurrency, interrupt, tell)?;
    drop(progress);

    let setup =
        Setup { rounds: args.runs, at_once: args.concurrency, ..Setup::new(&image, &options) };
    let report = Report::of(machine, setup, entrants, rounds, missing);
    print!("{}", tables(&report));
    if let Some(json) = json {
        json.write(&serde_json::to_vec_pretty(&report)?)?;
    }
    if let Some(svg) = svg {
        svg.write(plot::draw(&report).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// This program's ways of starting first, then the peers.
fn entrants(
    setting: &Setting<'_>,
    peers: &[Peer],
    interrupt: &Interrupt,
) -> Result<(Vec<Entrant>, Vec<Missing>), Failure> {
    let mut entrants = Vec::new();
    for mode in setting.modes {
        match mode {
            Mode::Cold => entrants.push(sandboxes::cold(setting)),
            Mode::Warm => entrants.push(sandboxes::warm(setting)),
            Mode::Fork => entrants.push(forks::forks(setting, interrupt)?),
            Mode::Oci | Mode::Exec => {}
        }
    }
    if setting.modes.iter().any(|mode| matches!(mode, Mode::Oci | Mode::Exec)) {
        entrants.extend(oci::entrants(setting, interrupt).map_err(BenchError::Runtime)?);
    }
    let mut missing = Vec::new();
    for peer in peers {
        match peer.prepare(setting, interrupt) {
            Ok(found) => entrants.extend(found),
            Err(lacking) => missing.push(lacking),
        }
        if interrupt.is_raised() {
            return Err(AttemptError::Interrupted.into());
        }
    }
    Ok((entrants, missing))
}

/// Two of a name could not be told apart.
fn once_each(args: &Args) -> Result<(), BenchError> {
    let modes = args.modes.iter().map(|mode| format!("--mode {mode:?}").to_lowercase());
    let peers = args.peers.iter().map(|peer| format!("--compare {peer}"));
    let mut seen = std::collections::HashSet::new();
    match modes.chain(peers).find(|name| !seen.insert(name.clone())) {
        Some(name) => Err(BenchError::Twice(name)),
        None => Ok(()),
    }
}

/// A file that appears when it is whole.
#[derive(Debug)]
struct Output {
    file: NamedTempFile,
    path: PathBuf,
}

impl Output {
    fn to(path: &Path) -> Result<Self, BenchError> {
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        match NamedTempFile::new_in(folder) {
            Ok(file) if !path.is_dir() => Ok(Self { file, path: path.to_owned() }),
            Ok(_) => Err(Self::failed(path, io::ErrorKind::IsADirectory.into())),
            Err(error) => Err(Self::failed(path, error)),
        }
    }

    fn write(mut self, bytes: &[u8]) -> Result<(), BenchError> {
        use std::fs::Permissions;
        use std::os::unix::fs::PermissionsExt;
        let written = self.file.write_all(bytes).and_then(|()| {
            // A temporary file is its owner's alone; a report is for everybody.
            self.file.as_file().set_permissions(Permissions::from_mode(0o644))
        });
        written.map_err(|error| Self::failed(&self.path, error))?;
        let persisted = self.file.persist(&self.path);
        persisted.map(drop).map_err(|error| Self::failed(&self.path, error.error))
    }

    fn failed(path: &Path, source: io::Error) -> BenchError {
        BenchError::Output { path: path.to_owned(), source }
    }
}
