//! Opens everything of the host's that a machine is made of, before it is made: it can then be made
//! where nothing can be opened any more.

use super::config::{DiskConfig, Export, FsConfig, MachineConfig, NetConfig};
use super::devices::list::DeviceError;
use super::devices::virtio::{block, fs, net};
use super::host::{Host, Opened};
use super::machine::MachineError;
use super::snapshot::state::Plugs;

/// What a machine is made of that boots. `alone`: the calling thread is alone with its mounts
/// ([`fs::own_mounts`]).
///
/// # Errors
/// They name what cannot be opened.
pub fn machine(config: &mut MachineConfig, alone: bool) -> Result<(), MachineError> {
    config.validate()?;
    devices(&mut config.disks, &mut config.nets, &mut config.shares, alone)?;
    config.host = Host::open_boot_files(&config.kernel, config.initrd.as_deref())?;
    Ok(config.host.open_own()?)
}

/// What is plugged into a machine that is restored; `alone` as in [`machine`].
///
/// # Errors
/// They name what cannot be opened.
pub fn plugs(plugs: &mut Plugs, alone: bool) -> Result<(), MachineError> {
    devices(&mut plugs.disks, &mut plugs.nets, &mut plugs.shares, alone)?;
    Ok(plugs.host.open_own()?)
}

fn devices(
    disks: &mut [DiskConfig],
    nets: &mut [NetConfig],
    shares: &mut [FsConfig],
    alone: bool,
) -> Result<(), DeviceError> {
    for disk in disks {
        disk.opened = block::open(disk)?.map(Opened::new).unwrap_or_default();
    }
    for net in nets {
        let wire = net.backend.as_ref().map(net::Wire::open).transpose()?;
        net.opened = wire.map(Opened::new).unwrap_or_default();
    }
    for FsConfig { tag, export, opened } in shares {
        // Nobody but who has made it can open it.
        if *export == Some(Export::Given) {
            opened.get().ok_or_else(|| fs::FsError::NotGiven { tag: tag.clone() })?;
            continue;
        }
        let open = if alone { fs::open_here } else { fs::open };
        let root = export.as_ref().map(|export| open(tag, export)).transpose()?;
        *opened = root.map(Opened::new).unwrap_or_default();
    }
    Ok(())
}
