//! What a container has mounted.

use clap::Args;

use super::super::Failure;
use super::mounts::{mount, tmpfs, volume};
use crate::sandbox::layer;
use crate::sandbox::mounts::{self, MountKind, MountPoint};
use crate::sandbox::{Places, Registry};

/// What a container has mounted, and where what it writes goes.
#[derive(Debug, Args)]
pub struct StorageArgs {
    /// Mount a directory or a file of the host, or a volume ([SOURCE:]TARGET[:ro|nocopy])
    #[arg(short, long = "volume", value_name = "SOURCE:TARGET", value_parser = volume)]
    volumes: Vec<MountPoint>,
    /// Mount something, in detail (type=bind|volume|tmpfs,source=…,target=…[,readonly])
    #[arg(long = "mount", value_name = "FIELDS", value_parser = mount)]
    mounts: Vec<MountPoint>,
    /// Mount a file system in memory (TARGET[:size=…,mode=…])
    #[arg(long = "tmpfs", value_name = "TARGET", value_parser = tmpfs)]
    tmpfs: Vec<MountPoint>,
    /// Mount what another container has mounted (CONTAINER[:ro])
    #[arg(long = "volumes-from", value_name = "CONTAINER")]
    from: Vec<String>,
    /// Size of the disk that takes what is written to the root file system (size=10g; without --rm there is
    /// one by default, and memory takes it with --rm)
    #[arg(long = "storage-opt", value_name = "size=SIZE", value_parser = storage_option)]
    pub layer_size: Option<u64>,
    /// Mount the root file system read-only
    #[arg(long)]
    pub read_only: bool,
}

/// `size=SIZE`, docker's one option of storage that a guest knows.
fn storage_option(text: &str) -> Result<u64, String> {
    let size = text.strip_prefix("size=").ok_or("the one option is size=SIZE")?;
    let bytes = super::size(size)?;
    if !layer::SIZES.contains(&bytes) {
        return Err("a disk has 32m to 1t".into());
    }
    // What a sector is to a disk, and a block to its file system.
    Ok(bytes.next_multiple_of(4096))
}

impl StorageArgs {
    /// All mounts; those of other containers where there is no other at the same place.
    pub fn mounts(self, places: &Places) -> Result<Vec<MountPoint>, Failure> {
        let mut all: Vec<_> =
            [self.volumes, self.mounts, self.tmpfs].into_iter().flatten().collect();
        for container in &self.from {
            add_from(&mut all, places, container)?;
        }
        mounts::check(&all)?;
        Ok(all)
    }
}

fn add_from(all: &mut Vec<MountPoint>, places: &Places, asked: &str) -> Result<(), Failure> {
    let (container, read_only) = match asked.split_once(':') {
        None | Some((_, "rw")) => (asked.trim_end_matches(":rw"), false),
        Some((container, "ro")) => (container, true),
        Some(_) => return Err(format!("--volumes-from {asked}: it is to be CONTAINER[:ro]").into()),
    };
    let other = Registry::new(places).find(container)?.state;
    for mut mount in other.mounts.into_iter().filter(MountPoint::is_shared) {
        if all.iter().any(|own| own.target == mount.target) {
            continue;
        }
        mount.read_only |= read_only;
        if let MountKind::Volume { anonymous, .. } = &mut mount.kind {
            // It goes with the container that it was made for.
            *anonymous = false;
        }
        all.push(mount);
    }
    Ok(())
}
