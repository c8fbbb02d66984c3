//! `ampoule vm restore`: lets a machine go on from its snapshot.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::devices::{Disk, Net, SharedDirectory};
use super::wait::{Attendance, Seal};
use super::{MEMORY, STATE};
use crate::cli::Failure;
use crate::monitor::control::{Start, TouchedPages};
use crate::monitor::group::Size;
use crate::vmm::config::{SerialMode, VsockConfig};
use crate::vmm::devices::virtio::DeviceState;
use crate::vmm::host::Host;
use crate::vmm::snapshot::Snapshot;
use crate::vmm::snapshot::state::{MachineState, Plugs};

/// Let a machine go on from its snapshot
///
/// Exit status: as that of `ampoule vm run`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The machine gets as many disks, network devices and shares as the snapshot's had, and a \
    vsock device if that had one; the snapshot itself names nothing of the host. The disks must hold \
    what they held when the snapshot was made. Any number of machines can be restored from one \
    snapshot.\n\nExample:\n  ampoule vm restore --disk root.img,ro snapshot"
)]
pub struct Args {
    /// Folder made by `ampoule vm snapshot`
    folder: PathBuf,
    /// Disk image or block device in place of the snapshot's, read-only with ",ro"; /dev/vda first
    #[arg(long = "disk", value_name = "PATH[,ro]")]
    disks: Vec<Disk>,
    /// Existing tap interface or socket in place of the snapshot's, with limits as `run` takes them; eth0
    /// first
    #[arg(long = "net", value_name = "tap=NAME|stream=PATH[,mac=M]")]
    nets: Vec<Net>,
    /// Directory in place of the snapshot's share; the guest goes on with the tag that it knows
    #[arg(long = "share", value_name = "tag=NAME,path=DIR[,ro]")]
    shares: Vec<SharedDirectory>,
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
    #[command(flatten)]
    seal: Seal,
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
    let state = open(&args.folder, STATE)?;
    let snapshot = Snapshot::read(&state, open(&args.folder, MEMORY)?)?;
    let seal = args.seal;
    let plugs = plugs(args, &snapshot.state)?;
    snapshot.verify_memory()?;
    let (serial, vsock) = (plugs.serial, plugs.vsock.as_ref().map(|vsock| vsock.uds_path.clone()));
    let saved = &snapshot.state.config;
    let size = Size { memory_mib: saved.memory_mib, vcpus: saved.vcpus };
    let files = [state.as_fd(), snapshot.memory.as_fd()];
    attendance.run(Start::Restore(plugs, TouchedPages::Ignored), &files, vsock, serial, seal, size)
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
    let count = |what, saved, given, option| {
        if saved == given {
            return Ok(());
        }
        Err(RestoreError::Count { what, saved, given, option })
    };
    count("disks", saved.disks.len(), args.disks.len(), "--disk")?;
    count("network devices", saved.nets.len(), args.nets.len(), "--net")?;
    count("shares", saved.shares.len(), args.shares.len(), "--share")?;
    let vsock = match (&saved.vsock, args.vsock) {
        (None, None) => None,
        (None, Some(_)) => return Err(RestoreError::Vsock),
        (Some(_), None) => return Err(RestoreError::NoVsock),
        (Some(saved), Some(uds_path)) => {
            Some(VsockConfig { guest_cid: saved.guest_cid, uds_path, listener: None, ports: None })
        }
    };
    let known = state.devices.iter().filter_map(|device| match device.device() {
        DeviceState::Net { mac, .. } => Some(*mac),
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
        nets: args.nets.into_iter().map(|net| net.with_vcpus(saved.vcpus)).collect(),
        shares: args.shares.into_iter().map(|share| share.0).collect(),
        vsock,
        serial: if args.serial { SerialMode::Stdio } else { SerialMode::Off },
        host: Host::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::config::DiskConfig;
    use crate::vmm::snapshot::state::testing::state;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn with(state: &MachineState, line: &str) -> Result<Plugs, RestoreError> {
        let words = ["restore", "folder"].into_iter().chain(line.split_whitespace());
        plugs(Command::try_parse_from(words).unwrap().args, state)
    }

    #[test]
    fn every_device_of_the_hosts_is_named_and_no_other() {
        let mut state = state();
        assert!(matches!(with(&state, "--disk d"), Err(RestoreError::Count { saved: 0, .. })));
        assert!(matches!(with(&state, "--net tap=t"), Err(RestoreError::Count { given: 1, .. })));
        let shared = with(&state, "--share tag=t,path=d");
        assert!(matches!(shared, Err(RestoreError::Count { what: "shares", .. })));
        assert!(matches!(with(&state, "--vsock v"), Err(RestoreError::Vsock)));
        with(&state, "").unwrap();

        let path = Some("/saved".into());
        let saved = DiskConfig { path, read_only: true, ..DiskConfig::default() };
        state.config.disks.push(saved);
        state.config.vsock = Some(VsockConfig {
            guest_cid: 7,
            uds_path: "/saved".into(),
            listener: None,
            ports: None,
        });
        assert!(matches!(with(&state, "--vsock v"), Err(RestoreError::Count { given: 0, .. })));
        assert!(matches!(with(&state, "--disk d"), Err(RestoreError::NoVsock)));
        let plugs = with(&state, "--disk d --vsock v").unwrap();
        assert_eq!(plugs.disks[0].path.as_deref(), Some(Path::new("d")));
        let vsock = plugs.vsock.unwrap();
        assert_eq!((vsock.guest_cid, vsock.uds_path), (7, "v".into()));
    }
}
