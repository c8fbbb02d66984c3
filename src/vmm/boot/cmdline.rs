//! The kernel command line: defaults, then the user's part, which may overrule them, then the
//! devices.

use linux_loader::cmdline::{Cmdline, Error as Refused};
use vm_memory::GuestAddress;

use crate::vmm::arch::x86_64::layout::{CMDLINE_MAX, VIRTIO_MMIO_SIZE};
use crate::vmm::config::SerialMode;

/// * `reboot=k`: a restart is one write to the keyboard controller
/// * `panic=-1`: a kernel that cannot go on restarts at once, which ends the machine
/// * `tsc=reliable`: no watchdog on the time stamp counter, KVM keeps it in step
/// * `random.trust_cpu=on`: the random number generator is ready from the start
/// * `cryptomgr.notests`: ciphers are not tried out at every start
/// * `rcupdate.rcu_expedited=1`: mounts and namespaces do not wait for grace periods
/// * `swiotlb=noforce`: no bounce buffers for devices that reach all memory
/// * `i8042.*`: no search for a keyboard and a mouse
const DEFAULTS: &str = "reboot=k panic=-1 tsc=reliable random.trust_cpu=on cryptomgr.notests \
                        rcupdate.rcu_expedited=1 swiotlb=noforce i8042.noaux i8042.nomux i8042.dumbkbd i8042.nopnp";

/// Without a console, only what a kernel says when it dies or halts is written, through the early
/// console, which costs a handful of port writes at start; the serial driver finds no port.
const SILENT: &str = "quiet loglevel=1 earlyprintk=ttyS0,keep 8250.nr_uarts=0";

const CONSOLE: &str = "console=ttyS0";

/// The command line cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CmdlineError {
    /// the kernel takes no other characters
    #[error("the kernel command line holds something else than printable ASCII characters")]
    NotPrintable,
    /// the whole does not fit the kernel's buffer
    #[error(
        "the kernel command line is too long: more than {} bytes with what the machine adds",
        CMDLINE_MAX - 1
    )]
    TooLong,
    /// the command line is refused for another reason
    #[error("invalid kernel command line")]
    Invalid(#[source] Refused),
}

/// What a machine without a console gives to its kernel beside the user's part and the devices: for
/// whoever boots the same guest in another machine.
pub fn silent() -> String {
    format!("{DEFAULTS} {SILENT}")
}

/// A virtio-mmio device as the command line announces it.
#[derive(Debug, Clone, Copy)]
pub struct Announced {
    /// Address of its registers.
    pub address: u64,
    /// Its interrupt line.
    pub irq: u32,
}

/// The whole command line. What follows ` -- ` in the `user`'s part stays at the end: it is for
/// the guest's init.
pub fn command_line(
    user: &str,
    serial: SerialMode,
    devices: &[Announced],
) -> Result<Cmdline, CmdlineError> {
    let console = match serial {
        SerialMode::Off => SILENT,
        SerialMode::Stdio if has_console(user) => "",
        SerialMode::Stdio => CONSOLE,
    };
    let user = without_bare_separator(user.trim());
    let text = [DEFAULTS, console, user].join(" ");
    if !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(CmdlineError::NotPrintable);
    }
    let mut cmdline = Cmdline::try_from(&text, CMDLINE_MAX).map_err(refused)?;
    for device in devices {
        cmdline
            .add_virtio_mmio_device(
                VIRTIO_MMIO_SIZE,
                GuestAddress(device.address),
                device.irq,
                None,
            )
            .map_err(refused)?;
    }
    Ok(cmdline)
}

fn has_console(user: &str) -> bool {
    user.split_ascii_whitespace().take_while(|w| *w != "--").any(|w| w.starts_with("console="))
}

/// A separator with nothing behind it would make the devices arguments of init.
fn without_bare_separator(user: &str) -> &str {
    match user.strip_suffix("--") {
        Some(rest) if rest.is_empty() || rest.ends_with(' ') => rest,
        _ => user,
    }
}

fn refused(error: Refused) -> CmdlineError {
    match error {
        Refused::TooLarge | Refused::InvalidCapacity => CmdlineError::TooLong,
        other => CmdlineError::Invalid(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(user: &str, serial: SerialMode, devices: &[Announced]) -> String {
        let cmdline = command_line(user, serial, devices).unwrap();
        cmdline.as_cstring().unwrap().into_string().unwrap()
    }

    #[test]
    fn user_overrules_defaults_and_devices_come_before_inits_arguments() {
        let devices = [Announced { address: 0xd000_0000, irq: 5 }];
        let line = line("panic=5 -- --verbose", SerialMode::Off, &devices);
        assert!(line.starts_with(DEFAULTS));
        let order = ["panic=-1", "panic=5", "virtio_mmio.device=4K@0xd0000000:5", "-- --verbose"];
        let places: Vec<_> = order.iter().map(|part| line.find(part).unwrap()).collect();
        assert!(places.is_sorted(), "{line}");
    }

    #[test]
    fn serial_decides_the_console() {
        assert!(line("", SerialMode::Off, &[]).contains(SILENT));
        assert!(line("", SerialMode::Stdio, &[]).contains(CONSOLE));
        let own = line("console=hvc0", SerialMode::Stdio, &[]);
        assert!(!own.contains(CONSOLE) && own.contains("console=hvc0"));
    }

    #[test]
    fn too_long_and_unprintable_are_told_apart() {
        let long = "x".repeat(CMDLINE_MAX);
        assert!(matches!(command_line(&long, SerialMode::Off, &[]), Err(CmdlineError::TooLong)));
        let nul = command_line("a\0b", SerialMode::Off, &[]);
        assert!(matches!(nul, Err(CmdlineError::NotPrintable)));
    }

    #[test]
    fn a_bare_separator_does_not_hide_the_devices() {
        let devices = [Announced { address: 0xd000_0000, irq: 5 }];
        for user in ["--", "x --", " x -- "] {
            assert!(!line(user, SerialMode::Off, &devices).contains(" -- "));
        }
    }

    proptest! {
        #[test]
        fn never_longer_than_the_kernel_takes(user in ".{0,3000}") {
            if let Ok(cmdline) = command_line(&user, SerialMode::Off, &[]) {
                prop_assert!(cmdline.as_cstring().unwrap().as_bytes_with_nul().len() <= CMDLINE_MAX);
            }
        }
    }
}
