//! `ampoule-oci create`: a container of a bundle, up to the point where its program waits for the
//! start.

use std::path::PathBuf;
use std::process::ExitCode;

use super::bundle::Bundle;
use super::keeper::{CreateJob, Job};
use super::record::Status;
use super::spawn::{self, Ready};
use super::store::Held;
use super::{Global, OciError, delete};

/// Create a container of a bundle
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub new: New,
}

/// What `create` and `run` are told of a new container.
#[derive(Debug, clap::Args)]
pub struct New {
    /// Folder of the bundle
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// Unix socket that the terminal's master is sent to
    #[arg(long, value_name = "PATH")]
    pub console_socket: Option<PathBuf>,
    /// Unix socket that a descriptor of the container's process is sent to
    #[arg(long, value_name = "PATH")]
    pub pidfd_socket: Option<PathBuf>,
    /// File to write the process's pid to
    #[arg(long, value_name = "PATH")]
    pub pid_file: Option<PathBuf>,
    /// Accepted for runc's callers: the root is changed inside the guest
    #[arg(long)]
    pub no_pivot: bool,
    /// Accepted for runc's callers: every container has a session keyring, on its own kernel
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Descriptors to pass on; a guest takes none
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    /// Id of the container
    pub id: String,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, OciError> {
    create(global, &args.new, Terminal::Socket)?.go()?;
    Ok(ExitCode::SUCCESS)
}

/// Where the terminal of a container is that has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminal {
    /// Behind a socket of the caller's.
    Socket,
    /// There, or it is this command's own.
    Own,
}

/// Creates a container with this command's standard streams. Its keeper waits to be let go.
pub fn create(global: &Global, new: &New, terminal: Terminal) -> Result<Ready, OciError> {
    if new.preserve_fds > 0 {
        let message = "--preserve-fds: a guest cannot be handed descriptors of the host";
        return Err(OciError::Usage(message.into()));
    }
    let bundle = Bundle::open(&new.bundle)?;
    check_terminal(&bundle, new, terminal)?;
    let held = global.store().create(&new.id)?;
    let created = make(global, new, &held, &bundle);
    if created.is_err() {
        // A keeper that was killed has cleared nothing away; the first error is the one to tell.
        let _ = delete::remains(global, held);
    }
    created
}

fn check_terminal(bundle: &Bundle, new: &New, terminal: Terminal) -> Result<(), OciError> {
    let process = bundle.spec.process().as_ref();
    let wanted = process.and_then(|process| process.terminal()).unwrap_or(false);
    let message = match (wanted, &new.console_socket) {
        (true, None) if terminal == Terminal::Socket => {
            "cannot allocate tty if runc will detach without setting console socket"
        }
        (false, Some(_)) => "cannot use console socket if runc will not detach or allocate tty",
        _ => return Ok(()),
    };
    Err(OciError::Usage(message.into()))
}

fn make(global: &Global, new: &New, held: &Held, bundle: &Bundle) -> Result<Ready, OciError> {
    held.write_config(&bundle.config)?;
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let job = CreateJob {
        id: new.id.clone(),
        root: global.store().root().to_owned(),
        bundle: bundle.path.clone(),
        places: global.places(),
        console_socket: new.console_socket.as_ref().map(absolute),
        systemd_cgroup: global.systemd_cgroup,
    };
    let keeper = spawn::spawn(Job::Create(job), Some(held))?;
    for warning in &keeper.made.warnings {
        global.log().warn(warning);
    }
    let record = keeper.made.record(&new.id, bundle, keeper.pid(), Status::Created);
    let told = held
        .write(&record)
        .and_then(|()| keeper.tell_pid(new.pidfd_socket.as_deref(), new.pid_file.as_deref()));
    match told {
        Ok(()) => Ok(keeper),
        Err(error) => {
            keeper.abandon();
            Err(error)
        }
    }
}
