//! `ampoule-oci exec`: a further process in a running container.

use std::path::PathBuf;
use std::process::ExitCode;

use oci_spec::runtime::{Capability, Process, User};

use super::error::host;
use super::keeper::{self, ExecJob, Job};
use super::record::{Record, Status};
use super::store::Held;
use super::{Global, OciError, bundle, console, spawn};
use crate::sandbox::exec;
use crate::sandbox::signals::Signals;
use crate::terminal::RawTerminal;

/// Run a process in a running container
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Unix socket that the terminal's master is sent to
    #[arg(long, value_name = "PATH")]
    console_socket: Option<PathBuf>,
    /// Unix socket that a descriptor of the process is sent to
    #[arg(long, value_name = "PATH")]
    pidfd_socket: Option<PathBuf>,
    /// Working directory in the container
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// NAME=VALUE over the container's environment
    #[arg(short, long, value_name = "ENTRY")]
    env: Vec<String>,
    /// Give the process a terminal
    #[arg(short, long)]
    tty: bool,
    /// User: UID[:GID]
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Further groups
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    /// File with the process, as `process` of a config.json
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Do not wait for the process
    #[arg(short, long)]
    detach: bool,
    /// File to write the process's pid to
    #[arg(long, value_name = "PATH")]
    pid_file: Option<PathBuf>,
    /// Accepted for runc's callers; labels are for the host's kernel
    #[arg(long, value_name = "LABEL", hide = true)]
    process_label: Option<String>,
    /// Accepted for runc's callers; profiles are for the host's kernel
    #[arg(long, value_name = "PROFILE", hide = true)]
    apparmor: Option<String>,
    /// Let the process gain no privileges
    #[arg(long)]
    no_new_privs: bool,
    /// A further capability
    #[arg(short, long, value_name = "CAP")]
    cap: Vec<String>,
    /// Descriptors to pass on; a guest takes none
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Accepted for runc's callers
    #[arg(long, value_name = "PATH", hide = true)]
    cgroup: Option<String>,
    /// Run it in a paused container too, once that goes on
    #[arg(long)]
    ignore_paused: bool,
    /// Id of the container
    id: String,
    /// Program and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, OciError> {
    exec(args, global).map_err(|error| OciError::Exec(Box::new(error)))
}

fn exec(args: &Args, global: &Global) -> Result<ExitCode, OciError> {
    if args.preserve_fds > 0 {
        let message = "--preserve-fds: a guest cannot be handed descriptors of the host";
        return Err(OciError::Usage(message.into()));
    }
    let (held, record) = global.store().hold(&args.id)?;
    check(&record, args.ignore_paused)?;
    let process = process(args, &held)?;
    // Others may change the container while this one runs.
    drop(held);
    let with_terminal = process.terminal().unwrap_or(false);
    if args.detach || args.console_socket.is_some() {
        return detach(args, &record, process);
    }
    let signals = Signals::block().map_err(host("block signals"))?;
    let raw = if with_terminal {
        RawTerminal::enter().map_err(host("set the terminal to raw mode"))?
    } else {
        None
    };
    let mut running = keeper::run_further(&record.vsock, process)?;
    if let Err(error) = tell_pid(args) {
        running.kill();
        return Err(error);
    }
    let end = exec::keep(&mut running, &signals, exec::Caller::Patient)?;
    drop(raw);
    if let Some(source) = running.streams.failure() {
        return Err(OciError::Host { what: "write the process's output", source });
    }
    match end {
        exec::End::Exit(code) => Ok(ExitCode::from(code)),
        // No keys are looked for.
        exec::End::LetGo => Ok(ExitCode::SUCCESS),
    }
}

/// Tells the caller where to find this process, which is the further process to it.
fn tell_pid(args: &Args) -> Result<(), OciError> {
    let pid = i32::try_from(std::process::id()).unwrap_or(-1);
    spawn::tell_pid(pid, args.pidfd_socket.as_deref(), args.pid_file.as_deref())
}

fn check(record: &Record, ignore_paused: bool) -> Result<(), OciError> {
    match record.status {
        Status::Running => Ok(()),
        Status::Stopped => Err(OciError::Usage("cannot exec in a stopped container".into())),
        Status::Paused if ignore_paused => Ok(()),
        Status::Paused => {
            let message = "cannot exec in a paused container (use --ignore-paused to override)";
            Err(OciError::Usage(message.into()))
        }
        status => Err(OciError::WrongStatus { verb: "exec in", status }),
    }
}

fn detach(args: &Args, record: &Record, process: Process) -> Result<ExitCode, OciError> {
    if process.terminal().unwrap_or(false) && args.console_socket.is_none() {
        let message = "cannot allocate tty if runc will detach without setting console socket";
        return Err(OciError::Usage(message.into()));
    }
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let console_socket = args.console_socket.as_ref().map(absolute);
    let job = ExecJob { vsock: record.vsock.clone(), process, console_socket };
    let keeper = spawn::spawn(Job::Exec(Box::new(job)), None)?;
    keeper.tell_pid(args.pidfd_socket.as_deref(), args.pid_file.as_deref())?;
    if args.detach {
        keeper.go()?;
        return Ok(ExitCode::SUCCESS);
    }
    let signals = Signals::block().map_err(host("block signals"))?;
    Ok(ExitCode::from(keeper.go_and_wait(&signals)?))
}

/// The process of a file, or the container's first with what the command line changes in it.
fn process(args: &Args, held: &Held) -> Result<Process, OciError> {
    if let Some(path) = &args.process {
        let mut process = bundle::read_process(path)?;
        process.set_apparmor_profile(None);
        process.set_selinux_label(None);
        return Ok(process);
    }
    if args.command.is_empty() {
        return Err(OciError::Usage("process args cannot be empty".into()));
    }
    let spec = held.folder.read_config()?;
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_apparmor_profile(None);
    process.set_selinux_label(None);
    process.set_args(Some(args.command.clone()));
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(args.env.iter().cloned());
    process.set_env(Some(env));
    if let Some(cwd) = &args.cwd {
        process.set_cwd(cwd.clone());
    }
    if args.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    process.set_terminal(Some(args.tty));
    process.set_console_size(None);
    console::size_as_own(&mut process);
    set_user(&mut process, args)?;
    add_capabilities(&mut process, &args.cap)?;
    Ok(process)
}

fn set_user(process: &mut Process, args: &Args) -> Result<(), OciError> {
    let mut user: User = process.user().clone();
    if let Some(text) = &args.user {
        let wrong = || OciError::Usage(format!("--user {text:?}: it is UID[:GID], in numbers"));
        let (uid, gid) = text.split_once(':').map_or((text.as_str(), None), |(u, g)| (u, Some(g)));
        user.set_uid(uid.parse().map_err(|_| wrong())?);
        if let Some(gid) = gid {
            user.set_gid(gid.parse().map_err(|_| wrong())?);
        }
    }
    if !args.additional_gids.is_empty() {
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        groups.extend(&args.additional_gids);
        user.set_additional_gids(Some(groups));
    }
    process.set_user(user);
    Ok(())
}

/// Into the sets that runc adds them to: all but the inheritable one.
fn add_capabilities(process: &mut Process, names: &[String]) -> Result<(), OciError> {
    if names.is_empty() {
        return Ok(());
    }
    let mut all = process.capabilities().clone().unwrap_or_default();
    for name in names {
        let upper = name.to_ascii_uppercase();
        let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let known: Capability = plain
            .parse()
            .map_err(|_| OciError::Usage(format!("--cap {name:?}: there is no such capability")))?;
        let with = |set: &Option<std::collections::HashSet<Capability>>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(known);
            Some(set)
        };
        let (bounding, effective) = (with(all.bounding()), with(all.effective()));
        let (permitted, ambient) = (with(all.permitted()), with(all.ambient()));
        all.set_bounding(bounding);
        all.set_effective(effective);
        all.set_permitted(permitted);
        all.set_ambient(ambient);
    }
    process.set_capabilities(Some(all));
    Ok(())
}
