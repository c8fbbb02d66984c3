//! `ampoule vm run`: boots a kernel in a machine of its own and waits for its end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::cli::Failure;
use crate::terminal::RawTerminal;
use crate::vmm::config::{
    DiskConfig, MAX_VCPUS, MachineConfig, NetConfig, SerialMode, VsockConfig,
};
use crate::vmm::exit::Exit;
use crate::vmm::machine::{Machine, Running};

/// The context id of the only guest behind a vsock socket.
const GUEST_CID: u64 = 3;

/// Arguments of `ampoule vm run`.
///
/// Exit status: 0 when the guest switches itself off or restarts, 125 when its kernel panics or
/// the machine fails, 128+N after signal N.
#[derive(Debug, clap::Args)]
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
    /// Disk image or block device, read-only with ",ro"; /dev/vda first
    #[arg(long = "disk", value_name = "PATH[,ro]")]
    disks: Vec<Disk>,
    /// Network device on an existing tap interface; eth0 first
    #[arg(long = "net", value_name = "tap=NAME[,mac=M]")]
    nets: Vec<Net>,
    /// Unix socket of the host side of the guest's vsock device (context id 3)
    #[arg(long, value_name = "PATH")]
    vsock: Option<PathBuf>,
    /// Let the guest give free memory back to the host
    #[arg(long)]
    balloon: bool,
    /// Put the guest's serial console on standard input and output; on a terminal, Ctrl-A x stops
    /// the machine
    #[arg(long)]
    serial: bool,
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
            nets: args.nets.into_iter().map(|net| net.0).collect(),
            vsock: args.vsock.map(|uds_path| VsockConfig {
                guest_cid: GUEST_CID,
                uds_path,
                listener: None,
            }),
            rng: true,
            balloon: args.balloon,
        }
    }
}

/// Why a guest's end is a failure.
#[derive(Debug, thiserror::Error)]
enum GuestError {
    #[error("the guest's kernel panicked: {0}")]
    Panicked(String),
}

/// Boots, waits, reports.
pub fn run(args: Args) -> Result<ExitCode, Failure> {
    // Before there are other threads, so that no thread but this sees them.
    let signals = block_signals()?;
    let config = MachineConfig::from(args);
    let on_terminal = config.serial == SerialMode::Stdio;
    let machine = Machine::new(config)?;
    // Dropped on every way out of here, before a failure is printed.
    let _terminal = if on_terminal { RawTerminal::enter()? } else { None };
    let running = machine.start()?;
    let signal = wait(&running, &signals)?;
    if signal.is_some() {
        running.stop();
    }
    match running.finish()? {
        Exit::PowerOff | Exit::Reset => Ok(ExitCode::SUCCESS),
        Exit::Stopped => Ok(ExitCode::from(signal.map_or(0, status_of_signal))),
        Exit::GuestPanic { message } => Err(GuestError::Panicked(message).into()),
    }
}

fn block_signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        set.add(signal);
    }
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)
}

/// Waits for the machine's end or a signal; tells the signal's number.
fn wait(running: &Running, signals: &SignalFd) -> Result<Option<u32>, io::Error> {
    // SAFETY: the descriptor lives as long as `running`.
    let ended = unsafe { BorrowedFd::borrow_raw(running.exit_event()) };
    let mut fds =
        [PollFd::new(ended, PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => break,
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let [ended, _] = &fds;
    if ended.any() == Some(true) {
        return Ok(None);
    }
    Ok(signals.read_signal()?.map(|info| info.ssi_signo))
}

/// As a shell tells it: 128 and the signal's number.
fn status_of_signal(number: u32) -> u8 {
    u8::try_from(number).unwrap_or(0).saturating_add(128)
}

#[derive(Debug, Clone)]
struct Disk(DiskConfig);

/// An argument that is not of the form that its help shows.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum ArgError {
    #[error("the path is empty")]
    EmptyPath,
    #[error("no tap=NAME")]
    NoTap,
    #[error("{0:?} is no name of an interface: 1 to 15 characters without '/' or spaces")]
    TapName(String),
    #[error("unknown option {0:?}")]
    Unknown(String),
    #[error("{0:?} is no unicast hardware address such as 02:00:00:00:00:01")]
    Mac(String),
}

impl FromStr for Disk {
    type Err = ArgError;

    fn from_str(text: &str) -> Result<Self, ArgError> {
        let (path, read_only) = match text.strip_suffix(",ro") {
            Some(path) => (path, true),
            None => (text, false),
        };
        if path.is_empty() {
            return Err(ArgError::EmptyPath);
        }
        Ok(Self(DiskConfig { path: Some(path.into()), read_only, serial: None }))
    }
}

#[derive(Debug, Clone)]
struct Net(NetConfig);

impl FromStr for Net {
    type Err = ArgError;

    fn from_str(text: &str) -> Result<Self, ArgError> {
        let (mut tap, mut mac) = (None, None);
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("tap", name)) => tap = Some(interface_name(name)?),
                Some(("mac", address)) => mac = Some(hardware_address(address)?),
                _ => return Err(ArgError::Unknown(part.into())),
            }
        }
        Ok(Self(NetConfig { tap: Some(tap.ok_or(ArgError::NoTap)?), mac }))
    }
}

/// What Linux takes as an interface's name (`dev_valid_name`).
fn interface_name(name: &str) -> Result<String, ArgError> {
    let fits = (1..libc::IFNAMSIZ).contains(&name.len());
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if !fits || name == "." || name == ".." || name.contains(bad) {
        return Err(ArgError::TapName(name.into()));
    }
    Ok(name.into())
}

fn hardware_address(text: &str) -> Result<[u8; 6], ArgError> {
    let wrong = || ArgError::Mac(text.into());
    let mut address = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut address {
        let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+'));
        *byte = part.and_then(|p| u8::from_str_radix(p, 16).ok()).ok_or_else(wrong)?;
    }
    let [first, ..] = address;
    // Bit 0 of the first byte marks a group of interfaces.
    if parts.next().is_some() || first & 1 == 1 || address == [0; 6] {
        return Err(wrong());
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use proptest::prelude::*;

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
             --net tap=t0,mac=02:00:00:00:00:0a --vsock v --balloon --serial",
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
        assert_eq!(config.nets[0].tap.as_deref(), Some("t0"));
        assert_eq!(config.nets[0].mac, Some([2, 0, 0, 0, 0, 10]));
        assert_eq!(config.vsock.unwrap().guest_cid, 3);
        assert!(config.balloon);
    }

    #[test]
    fn numbers_have_ranges() {
        for line in ["", "--kernel k --vcpus 0", "--kernel k --vcpus 33", "--kernel k --memory x"] {
            assert!(config(line).is_err(), "{line}");
        }
    }

    #[test]
    fn wrong_devices_are_told_apart() {
        let net = |text: &str| Net::from_str(text).map(|_| ()).unwrap_err();
        assert_eq!(net("mac=02:00:00:00:00:01"), ArgError::NoTap);
        assert_eq!(net("tap=a/b"), ArgError::TapName("a/b".into()));
        assert_eq!(net("tap=0123456789abcdef"), ArgError::TapName("0123456789abcdef".into()));
        assert_eq!(net("tap=a,mtu=3"), ArgError::Unknown("mtu=3".into()));
        for mac in ["", "02:00", "01:00:00:00:00:00", "02:00:00:00:00:00:00", "+2:00:00:00:00:00"] {
            assert_eq!(net(&format!("tap=a,mac={mac}")), ArgError::Mac(mac.into()));
        }
        assert_eq!(Disk::from_str(",ro").map(|_| ()).unwrap_err(), ArgError::EmptyPath);
    }

    #[test]
    fn a_signal_is_told_as_a_shell_does() {
        assert_eq!(status_of_signal(15), 143);
    }

    proptest! {
        #[test]
        fn parsers_take_anything(text in ".{0,40}") {
            let _ = Disk::from_str(&text);
            let _ = Net::from_str(&text);
        }
    }
}
