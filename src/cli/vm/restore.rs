//! `ampoule vm restore`: lets a machine go on from its snapshot.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::devices::{Disk, Net};
use super::wait::Attendance;
use super::{MEMORY, STATE};
use crate::cli::Failure;
use crate::vmm::config::{SerialMode, VsockConfig};
use crate::vmm::devices::virtio::DeviceState;
use crate::vmm::machine::Machine;
use crate::vmm::snapshot::Snapshot;
use crate::vmm::snapshot::state::{MachineState, Plugs};

/// Let a machine go on from its snapshot
///
/// Exit status: as that of `ampoule vm run`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The machine gets as many disks and network devices as the snapshot's had, and a \
    vsock device if that had one; the snapshot itself names nothing of the host. The disks must hold \
    what they held when the snapshot was made. Any number of machines can be restored from one \
    snapshot."
)]
pub struct Args {
    /// Folder made by `ampoule vm snapshot`
    folder: PathBuf,
    /// Disk image or block device in place of the snapshot's, read-only with ",ro"; /dev/vda first
    #[arg(long = "disk", value_name = "PATH[,ro]")]
    disks: Vec<Disk>,
    /// Existing tap interface in place of the snapshot's; eth0 first
    #[arg(long = "net", value_name = "tap=NAME[,mac=M]")]
    nets: Vec<Net>,
    /// Unix socket of the host side of the guest's vsock device
    #[arg(long, value_name = "PATH")]
    vsock: Option<PathBuf>,
    /// Socket to make for `ampoule vm snapshot`, `pause` and `resume`
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Put the guest's serial console on standard input and output; on a terminal, Ctrl-A x stops
    /// the machine
    #[arg(long)]
    serial: bool,
}

/// A snapshot that no machine can be made of with what was given.
#[derive(Debug, thiserror::Error)]
enum RestoreError {
    #[error("{} is no snapshot: cannot open its {name}", folder.display())]
    Open {
        folder: PathBuf,
        name: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the snapshot's machine has {saved} {what}, {given} were given ({option})")]
    Count { what: &'static str, saved: usize, given: usize, option: &'static str },
    #[error("the snapshot's machine has a vsock device, which needs a socket (--vsock)")]
    NoVsock,
    #[error("the snapshot's machine has no vsock device (--vsock)")]
    Vsock,
    #[error("the guest knows its network device {index} by the address {saved}, which stays")]
    Mac { index: usize, saved: String },
}

/// Restores, waits, reports.
pub fn run(args: Args) -> Result<ExitCode, Failure> {
    let attendance = Attendance::new(args.control.as_deref())?;
    let snapshot = Snapshot::read(&open(&args.folder, STATE)?, open(&args.folder, MEMORY)?)?;
    let plugs = plugs(args, &snapshot.state)?;
    snapshot.verify_memory()?;
    let serial = plugs.serial;
    attendance.run(Machine::restore(snapshot, plugs)?, serial)
}

fn open(folder: &Path, name: &'static str) -> Result<File, RestoreError> {
    let mut options = File::options();
    // A pipe in its place would otherwise wait for somebody who writes to it.
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let open = |source| RestoreError::Open { folder: folder.into(), name, source };
    options.open(folder.join(name)).map_err(open)
}

/// What is plugged in: everything of the host's that the machine had, nothing that it had not.
fn plugs(args: Args, state: &MachineState) -> Result<Plugs, RestoreError> {
    let saved = &state.config;
    let count = |what, saved, given, option| match saved == given {
        true => Ok(()),
        false => Err(RestoreError::Count { what, saved, given, option }),
    };
    count("disks", saved.disks.len(), args.disks.len(), "--disk")?;
    count("network devices", saved.nets.len(), args.nets.len(), "--net")?;
    let vsock = match (&saved.vsock, args.vsock) {
        (None, None) => None,
        (None, Some(_)) => return Err(RestoreError::Vsock),
        (Some(_), None) => return Err(RestoreError::NoVsock),
        (Some(saved), Some(uds_path)) => {
            Some(VsockConfig { guest_cid: saved.guest_cid, uds_path, listener: None })
        }
    };
    let known = state.devices.iter().filter_map(|device| match device.device() {
        DeviceState::Net { mac } => Some(*mac),
        _ => None,
    });
    for (index, (net, known)) in args.nets.iter().zip(known).enumerate() {
        if net.0.mac.is_some_and(|mac| mac != known) {
            let saved = known.map(|byte| format!("{byte:02x}")).join(":");
            return Err(RestoreError::Mac { index, saved });
        }
    }
    Ok(Plugs {
        disks: args.disks.into_iter().map(|disk| disk.0).collect(),
        nets: args.nets.into_iter().map(|net| net.0).collect(),
        vsock,
        serial: if args.serial { SerialMode::Stdio } else { SerialMode::Off },
    })
}
