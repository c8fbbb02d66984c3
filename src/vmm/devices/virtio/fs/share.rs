//! One mount of the exported tree, served by a PassthroughFs of its own.
//!
//! fuse-backend-rs numbers the mounts that it comes to, and has 254 numbers for them, which it takes back
//! from none. So the top and each of its entries that is a mount have one for themselves: with the share
//! that has gone, and that the guest has forgotten, its numbers go too.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{FsOptions, ROOT_ID, stat64};
use fuse_backend_rs::api::filesystem::{Context, FileSystem};
use fuse_backend_rs::passthrough::{CachePolicy, Config, PassthroughFs};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, openat, statx};

use super::local::is_local;

/// How long the guest may take names and attributes for true without asking again.
pub const TIMEOUT: Duration = Duration::from_secs(1);

/// See the module.
pub struct Share {
    /// Its files, by fuse-backend-rs' numbers for them.
    pub files: PassthroughFs,
    /// The mount, as the kernel numbers it. The number is no other mount's while this one is held.
    pub mount: u64,
    /// Its top in `files`, which is not forgotten there as long as the share is served.
    pub root: u64,
    device: u64,
    local: bool,
}

impl Share {
    /// The top of what is served. Nothing is held yet: see [`PassthroughFs::init`].
    pub fn top(top: BorrowedFd<'_>) -> io::Result<Self> {
        Self::of(top, mount_of(top)?, serving(top)?, ROOT_ID)
    }

    /// What is mounted at an entry of the top, and is `mount`.
    ///
    /// # Errors
    /// `ESTALE`: it is not any more.
    pub fn at(
        top: BorrowedFd<'_>,
        name: &CStr,
        mount: u64,
        capable: FsOptions,
    ) -> io::Result<Self> {
        let files = serving(top)?;
        files.init(capable)?;
        // Its root there is the top, so that a single file can be served as a directory is. That has no
        // number that the guest could learn: see `Nodes`.
        let root = files.lookup(&Context::default(), ROOT_ID, name)?.inode;
        // The mount that was found is held now; what is found again is that one.
        let found = entry(top, name)?;
        if mount_of(found.as_fd())? != mount {
            return Err(io::Error::from_raw_os_error(libc::ESTALE));
        }
        Self::of(found.as_fd(), mount, files, root)
    }

    fn of(
        root_file: BorrowedFd<'_>,
        mount: u64,
        files: PassthroughFs,
        root: u64,
    ) -> io::Result<Self> {
        let device = nix::sys::stat::fstat(root_file)?.st_dev;
        Ok(Self { files, mount, root, device, local: is_local(root_file) })
    }

    /// The attributes of its top, and for how long they may be taken for true.
    pub fn attributes(&self) -> io::Result<(stat64, Duration)> {
        self.files.getattr(&Context::default(), self.root, None)
    }

    /// Whether what is on a device is known to be on the host as soon as it was written. What is mounted
    /// deeper counts as not known.
    pub fn holds_at_once(&self, device: u64) -> bool {
        self.local && self.device == device
    }

    /// Whether [`Share::holds_at_once`] says so of any device.
    pub fn any_local(&self) -> bool {
        self.local
    }
}

/// An entry of the top, to look at.
pub fn entry(top: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(top, name, flags, Mode::empty())?)
}

/// The number of the mount that a file was opened in.
pub fn mount_of(file: BorrowedFd<'_>) -> io::Result<u64> {
    let found = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    if StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID) {
        Ok(found.stx_mnt_id)
    } else {
        Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
    }
}

fn serving(top: BorrowedFd<'_>) -> io::Result<PassthroughFs> {
    PassthroughFs::new(Config {
        // The last component is not a link, which would not be followed.
        root_dir: format!("/proc/self/fd/{}/.", top.as_raw_fd()),
        attr_timeout: TIMEOUT,
        entry_timeout: TIMEOUT,
        cache_policy: CachePolicy::Auto,
        xattr: true,
        killpriv_v2: true,
        allow_direct_io: false,
        // Else numbers of nodes that the guest has forgotten are remembered for ever.
        use_host_ino: true,
        // A handle can name any file of the host.
        inode_file_handles: false,
        ..Config::default()
    })
}
