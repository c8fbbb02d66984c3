//! `ampoule vm run`: boots a kernel in a machine of its own and waits for its end.

use std::path::PathBuf;
use std::process::ExitCode;

use super::devices::{Disk, Net, SharedDirectory};
use super::wait::{Attendance, Seal};
use crate::cli::Failure;
use crate::monitor::control::Start;
use crate::monitor::group::Size;
use crate::vmm::config::{MAX_VCPUS, MachineConfig, SerialMode, VsockConfig};
use crate::vmm::host::Host;

/// The context id of the only guest behind a vsock socket.
const GUEST_CID: u64 = 3;

/// Arguments of `ampoule vm run`.
///
/// Exit status: 0 when the guest switches itself off or restarts, 125 when its kernel panics or
/// the machine fails, 128+N after signal N.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ampoule vm run --kernel vmlinux --initrd initrd.img --serial\n  \
    ampoule vm run --kernel vmlinux --disk root.img,ro --cmdline root=/dev/vda \\\n      --net tap=tap0 --control vm.sock"
)]
pub struct Args {
    /// Kernel: an x86-64 ELF vmlinux or a bzImage that takes virtio-mmio devices from its command
    /// line
    #[arg(long, value_name = "K")]
    kernel: PathBuf,
    /// Initial RAM disk
    #[arg(long, value_name = "I")]
    initrd: Option<PathBuf>,
    /// Kernel command line, added to the defaults and overruling them
    #[arg(long, value_name = "C", default_value = "")]
    cmdline: String,
    /// Number of vCPUs
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_VCPUS)))]
    vcpus: u8,
    /// Guest memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = 128)]
    memory: u32,
    /// Disk image or block device, read-only with ",ro"; /dev/vda first. So many bytes and requests in a
    /// second with ",bps=RATE" and ",iops=RATE"
    #[arg(long = "disk", value_name = "PATH[,ro]")]
    disks: Vec<Disk>,
    /// Network device on an existing tap interface, or on a Unix stream socket where frames come behind their
    /// length, as passt has it; eth0 first. So many bytes and frames in a second to the guest with
    /// ",rx-bps=RATE" and ",rx-pps=RATE", and from it with "tx-"
    #[arg(long = "net", value_name = "tap=NAME|stream=PATH[,mac=M]")]
    nets: Vec<Net>,
    /// Unix socket of the host side of the guest's vsock device (context id 3)
    #[arg(long, value_name = "PATH")]
    vsock: Option<PathBuf>,
    /// Socket to make for `ampoule vm snapshot`, `pause` and `resume`
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Directory for the guest to mount (mount -t virtiofs NAME /mnt), read-only with ",ro"
    #[arg(long = "share", value_name = "tag=NAME,path=DIR[,ro]")]
    shares: Vec<SharedDirectory>,
    /// Let the guest give free memory back to the host
    #[arg(long)]
    balloon: bool,
    /// Put the guest's serial console on standard input and output; on a terminal, Ctrl-A x stops
    /// the machine
    #[arg(long)]
    serial: bool,
    #[command(flatten)]
    seal: Seal,
}

impl From<Args> for MachineConfig {
    fn from(args: Args) -> Self {
        Self {
            kernel: args.kernel,
            initrd: args.initrd,
            cmdline: args.cmdline,
            vcpus: args.vcpus,
            memory_mib: args.memory,
            serial: if args.serial { SerialMode::Stdio } else { SerialMode::Off },
            disks: args.disks.into_iter().map(|disk| disk.0).collect(),
            nets: args.nets.into_iter().map(|net| net.with_vcpus(args.vcpus)).collect(),
            vsock: args.vsock.map(|uds_path| VsockConfig {
                guest_cid: GUEST_CID,
                uds_path,
                listener: None,
                ports: None,
            }),
            rng: true,
            balloon: args.balloon,
            shares: args.shares.into_iter().map(|share| share.0).collect(),
            host: Host::default(),
        }
    }
}

/// Boots, waits, reports.
pub fn run(args: Args) -> Result<ExitCode, Failure> {
    let attendance = Attendance::new(args.control.as_deref())?;
    let seal = args.seal;
    let config = MachineConfig::from(args);
    let (serial, vsock) =
        (config.serial, config.vsock.as_ref().map(|vsock| vsock.uds_path.clone()));
    let size = Size { memory_mib: config.memory_mib, vcpus: config.vcpus };
    attendance.run(Start::Boot(config), &[], vsock, serial, seal, size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::config::{Export, FsConfig, NetBackend, Share};
    use crate::vmm::host::Opened;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn config(line: &str) -> Result<MachineConfig, clap::Error> {
        let words = std::iter::once("run").chain(line.split_whitespace());
        Command::try_parse_from(words).map(|command| command.args.into())
    }

    #[test]
    fn everything_lands_in_the_configuration() {
        let config = config(
            "--kernel k --initrd i --cmdline c --vcpus 3 --memory 256 --disk a --disk b,ro \
             --net tap=t0,mac=02:00:00:00:00:0a --vsock v --share tag=t,path=a,b,ro --balloon --serial",
        )
        .unwrap();
        assert_eq!((config.vcpus, config.memory_mib), (3, 256));
        assert_eq!(config.serial, SerialMode::Stdio);
        let disks: Vec<_> = config
            .disks
            .iter()
            .map(|d| (d.path.as_ref().unwrap().to_str().unwrap(), d.read_only))
            .collect();
        assert_eq!(disks, [("a", false), ("b", true)]);
        let tap = NetBackend::Tap { name: "t0".into(), queues: 3 };
        assert_eq!(config.nets[0].backend, Some(tap));
        assert_eq!(config.nets[0].mac, Some([2, 0, 0, 0, 0, 10]));
        assert_eq!(config.vsock.unwrap().guest_cid, 3);
        assert!(config.balloon);
        let share = Share { path: "a,b".into(), read_only: true };
        let expected = FsConfig {
            tag: "t".into(),
            export: Some(Export::Directory(share)),
            opened: Opened::default(),
        };
        assert_eq!(config.shares, [expected]);
    }

    #[test]
    fn numbers_have_ranges() {
        for line in ["", "--kernel k --vcpus 0", "--kernel k --vcpus 33", "--kernel k --memory x"] {
            assert!(config(line).is_err(), "{line}");
        }
    }
}
