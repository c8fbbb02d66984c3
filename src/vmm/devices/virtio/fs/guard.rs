//! Every operation's arguments, checked in one place before fuse-backend-rs acts on them.
//!
//! What it does for itself: nodes and open files are numbers that it has given out, looked up in its
//! tables; names are resolved below a directory's descriptor, without following symbolic links; only
//! files and directories are opened, never devices or pipes. What it leaves to its caller, and is done
//! here: names, flags that open something else than the file, the size of buffers, the number of
//! descriptors.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{
    ATTR_SUBMOUNT, CreateIn, FsOptions, OpenOptions, ROOT_ID, SetattrValid, stat64, statvfs64,
};
use fuse_backend_rs::api::filesystem::{
    Context, DirEntry, Entry, FileSystem, GetxattrReply, ListxattrReply, ZeroCopyReader,
    ZeroCopyWriter,
};
use fuse_backend_rs::passthrough::{CachePolicy, Config, PassthroughFs};

use super::budget::Budget;
use super::local::LocalDevices;
use super::metrics::FsMetrics;

/// How long the guest may take names and attributes for true without asking again.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Longest value, and list of names, of extended attributes that Linux has, in bytes.
const XATTR_MAX: u32 = 65536;

/// Longest name of a directory entry, in bytes.
const NAME_MAX: usize = 255;

/// What of an open file's flags means something on the host. `O_DIRECT` is the guest's own affair: it
/// keeps out of the guest's page cache, and the host's file system need not support it.
const OPEN_FLAGS: i32 = libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_DSYNC
    | libc::O_EXCL
    | libc::O_NOATIME
    | libc::O_NONBLOCK
    | libc::O_SYNC
    | libc::O_TRUNC;

/// `FOPEN_NOFLUSH` of the kernel's include/uapi/linux/fuse.h, which fuse-backend-rs does not have.
const NOFLUSH: u32 = 1 << 5;

/// The guest's view of one exported directory.
pub struct Guard {
    pub(super) files: PassthroughFs,
    root: Arc<OwnedFd>,
    root_device: AtomicU64,
    /// How long the top's entries may be taken for true.
    top_timeout: Duration,
    /// Where the last close of a file has nothing to say.
    local: LocalDevices,
    budget: Budget,
    mounted: AtomicBool,
    metrics: Arc<FsMetrics>,
}

impl Guard {
    /// Serves what `root` is the top of. With `changing`, its entries come and go: the guest asks
    /// again each time, and so has none of them in memory that nothing uses.
    pub fn new(
        root: Arc<OwnedFd>,
        changing: bool,
        budget: Budget,
        metrics: Arc<FsMetrics>,
    ) -> io::Result<Self> {
        let files = PassthroughFs::new(Config {
            // The last component is not a link, which would not be followed.
            root_dir: format!("/proc/self/fd/{}/.", root.as_raw_fd()),
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
        })?;
        Ok(Self {
            files,
            root_device: AtomicU64::new(0),
            top_timeout: if changing { Duration::ZERO } else { TIMEOUT },
            local: LocalDevices::of(root.as_fd()),
            root,
            budget,
            mounted: AtomicBool::new(false),
            metrics,
        })
    }

    /// Whether the guest has mounted the file system: it may know of nodes and open files.
    pub fn is_mounted(&self) -> bool {
        self.mounted.load(Ordering::Relaxed)
    }

    fn refuse<T>(&self, errno: i32) -> io::Result<T> {
        self.metrics.refused.add(1);
        Err(io::Error::from_raw_os_error(errno))
    }

    /// A name is one component of a path, and neither the directory itself nor its parent.
    fn name(&self, name: &CStr) -> io::Result<()> {
        let bytes = name.to_bytes();
        let proper = !matches!(bytes, b"" | b"." | b"..") && !bytes.contains(&b'/');
        if !proper {
            return self.refuse(libc::EINVAL);
        }
        if bytes.len() > NAME_MAX {
            return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
        }
        Ok(())
    }

    /// Whether the guest may know, or have open, one file more.
    pub(super) fn one_more(&self) -> io::Result<()> {
        self.budget.check(self.root.as_fd()).inspect_err(|_| {
            self.metrics.over_budget.add(1);
        })
    }

    fn flags(flags: u32) -> u32 {
        flags & OPEN_FLAGS.cast_unsigned()
    }

    /// What the guest need not do with an open file.
    ///
    /// A flush, at each `close`, is for file systems that keep written data to themselves until then,
    /// and what could not be written: where none is, and where nothing can be written, the guest is
    /// told to send none.
    ///
    /// A file that is only written to is written to directly, with what the program holds: the
    /// guest's cache would be dropped all the same as soon as the file's time has changed, and before
    /// it is written to, the file would be asked for its capabilities. Nobody can map it.
    fn with_file(&self, flags: u32, device: Option<u64>, mut options: OpenOptions) -> OpenOptions {
        let access = flags.cast_signed() & libc::O_ACCMODE;
        if access == libc::O_WRONLY {
            options |= OpenOptions::DIRECT_IO;
        }
        if access == libc::O_RDONLY || device.is_some_and(|device| self.local.holds(device)) {
            // SAFETY: the bits are the guest's to look at; nothing here depends on which are set.
            options |= unsafe { OpenOptions::from_bits_unchecked(NOFLUSH) };
        }
        options
    }

    /// An entry that was found: of the top, what is mounted there may be another than before.
    pub(super) fn found(&self, parent: u64, name: &[u8], entry: Entry) -> Entry {
        if parent == ROOT_ID && entry.attr.st_dev != self.root_device.load(Ordering::Relaxed) {
            self.local.look(self.root.as_fd(), name);
        }
        self.entry(parent, entry)
    }

    /// Tells the guest of a mount point: there begin other inode numbers.
    fn entry(&self, parent: u64, mut entry: Entry) -> Entry {
        let is_directory = entry.attr.st_mode & libc::S_IFMT == libc::S_IFDIR;
        let crosses = if parent == ROOT_ID {
            entry.entry_timeout = self.top_timeout;
            entry.attr.st_dev != self.root_device.load(Ordering::Relaxed)
        } else {
            mount_of(entry.inode) != mount_of(parent)
        };
        if is_directory && crosses && entry.inode != ROOT_ID {
            entry.attr_flags |= ATTR_SUBMOUNT;
        }
        entry
    }
}

/// The device and mount of a node, as fuse-backend-rs numbers them in the node's number.
fn mount_of(node: u64) -> u64 {
    node >> 47 & 0xff
}

impl FileSystem for Guard {
    type Inode = u64;
    type Handle = u64;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        let of_files = self.files.init(capable)?;
        let (root, _) = self.files.getattr(&Context::default(), ROOT_ID, None)?;
        self.root_device.store(root.st_dev, Ordering::Relaxed);
        self.mounted.store(true, Ordering::Relaxed);
        // Neither POSIX_LOCKS nor FLOCK_LOCKS: without them locks are the guest's own.
        let of_messages = FsOptions::ASYNC_READ
            | FsOptions::ASYNC_DIO
            | FsOptions::ATOMIC_O_TRUNC
            | FsOptions::AUTO_INVAL_DATA
            | FsOptions::BIG_WRITES
            | FsOptions::MAX_PAGES
            | FsOptions::PARALLEL_DIROPS
            | FsOptions::SUBMOUNTS;
        Ok(of_files | of_messages)
    }

    fn destroy(&self) {
        self.mounted.store(false, Ordering::Relaxed);
        self.files.destroy();
    }

    fn lookup(&self, context: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        self.name(name)?;
        self.one_more()?;
        let entry = self.files.lookup(context, parent, name)?;
        Ok(self.found(parent, name.to_bytes(), entry))
    }

    fn forget(&self, context: &Context, inode: u64, count: u64) {
        self.files.forget(context, inode, count);
    }

    fn batch_forget(&self, context: &Context, requests: Vec<(u64, u64)>) {
        self.files.batch_forget(context, requests);
    }

    fn getattr(
        &self,
        context: &Context,
        inode: u64,
        handle: Option<u64>,
    ) -> io::Result<(stat64, Duration)> {
        self.files.getattr(context, inode, handle)
    }

    fn setattr(
        &self,
        context: &Context,
        inode: u64,
        attr: stat64,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(stat64, Duration)> {
        self.files.setattr(context, inode, attr, handle, valid)
    }

    fn readlink(&self, context: &Context, inode: u64) -> io::Result<Vec<u8>> {
        self.files.readlink(context, inode)
    }

    fn symlink(
        &self,
        context: &Context,
        target: &CStr,
        parent: u64,
        name: &CStr,
    ) -> io::Result<Entry> {
        self.name(name)?;
        self.one_more()?;
        Ok(self.entry(parent, self.files.symlink(context, target, parent, name)?))
    }

    fn mknod(
        &self,
        context: &Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        rdev: u32,
        umask: u32,
    ) -> io::Result<Entry> {
        self.name(name)?;
        self.one_more()?;
        let entry = self.files.mknod(context, parent, name, mode, rdev, umask)?;
        Ok(self.entry(parent, entry))
    }

    fn mkdir(
        &self,
        context: &Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        umask: u32,
    ) -> io::Result<Entry> {
        self.name(name)?;
        self.one_more()?;
        Ok(self.entry(parent, self.files.mkdir(context, parent, name, mode, umask)?))
    }

    fn unlink(&self, context: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.name(name)?;
        self.files.unlink(context, parent, name)
    }

    fn rmdir(&self, context: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.name(name)?;
        self.files.rmdir(context, parent, name)
    }

    fn rename(
        &self,
        context: &Context,
        parent: u64,
        name: &CStr,
        new_parent: u64,
        new_name: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        self.name(name)?;
        self.name(new_name)?;
        self.files.rename(context, parent, name, new_parent, new_name, flags)
    }

    fn link(&self, context: &Context, inode: u64, parent: u64, name: &CStr) -> io::Result<Entry> {
        self.name(name)?;
        self.one_more()?;
        Ok(self.entry(parent, self.files.link(context, inode, parent, name)?))
    }

    fn open(
        &self,
        context: &Context,
        inode: u64,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions, Option<u32>)> {
        self.one_more()?;
        let flags = Self::flags(flags);
        let (handle, options, backing) = self.files.open(context, inode, flags, fuse_flags)?;
        let writes = flags.cast_signed() & libc::O_ACCMODE != libc::O_RDONLY;
        let device = if writes && self.local.any() {
            self.files.getattr(context, inode, handle).ok().map(|(attr, _)| attr.st_dev)
        } else {
            None
        };
        Ok((handle, self.with_file(flags, device, options), backing))
    }

    fn create(
        &self,
        context: &Context,
        parent: u64,
        name: &CStr,
        mut args: CreateIn,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions, Option<u32>)> {
        self.name(name)?;
        self.one_more()?;
        args.flags = Self::flags(args.flags);
        let (entry, handle, options, backing) = self.files.create(context, parent, name, args)?;
        let options = self.with_file(args.flags, Some(entry.attr.st_dev), options);
        Ok((self.entry(parent, entry), handle, options, backing))
    }

    fn read(
        &self,
        context: &Context,
        inode: u64,
        handle: u64,
        into: &mut dyn ZeroCopyWriter,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        flags: u32,
    ) -> io::Result<usize> {
        let flags = Self::flags(flags);
        self.files
            .read(context, inode, handle, into, size, offset, lock_owner, flags)
            .inspect(|n| self.metrics.read_bytes.add_bytes(*n))
    }

    fn write(
        &self,
        context: &Context,
        inode: u64,
        handle: u64,
        from: &mut dyn ZeroCopyReader,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        delayed_write: bool,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<usize> {
        let flags = Self::flags(flags);
        self.files
            .write(
                context,
                inode,
                handle,
                from,
                size,
                offset,
                lock_owner,
                delayed_write,
                flags,
                fuse_flags,
            )
            .inspect(|n| self.metrics.written_bytes.add_bytes(*n))
    }

    fn flush(&self, context: &Context, inode: u64, handle: u64, owner: u64) -> io::Result<()> {
        self.files.flush(context, inode, handle, owner)
    }

    fn fsync(&self, context: &Context, inode: u64, data: bool, handle: u64) -> io::Result<()> {
        self.files.fsync(context, inode, data, handle)
    }

    fn fallocate(
        &self,
        context: &Context,
        inode: u64,
        handle: u64,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        self.files.fallocate(context, inode, handle, mode, offset, length)
    }

    fn release(
        &self,
        context: &Context,
        inode: u64,
        flags: u32,
        handle: u64,
        flush: bool,
        flock_release: bool,
        lock_owner: Option<u64>,
    ) -> io::Result<()> {
        self.files.release(context, inode, flags, handle, flush, flock_release, lock_owner)
    }

    fn statfs(&self, context: &Context, inode: u64) -> io::Result<statvfs64> {
        self.files.statfs(context, inode)
    }

    fn setxattr(
        &self,
        context: &Context,
        inode: u64,
        name: &CStr,
        value: &[u8],
        flags: u32,
    ) -> io::Result<()> {
        self.files.setxattr(context, inode, name, value, flags)
    }

    fn getxattr(
        &self,
        context: &Context,
        inode: u64,
        name: &CStr,
        size: u32,
    ) -> io::Result<GetxattrReply> {
        self.files.getxattr(context, inode, name, size.min(XATTR_MAX))
    }

    fn listxattr(&self, context: &Context, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        self.files.listxattr(context, inode, size.min(XATTR_MAX))
    }

    fn removexattr(&self, context: &Context, inode: u64, name: &CStr) -> io::Result<()> {
        self.files.removexattr(context, inode, name)
    }

    fn opendir(
        &self,
        context: &Context,
        inode: u64,
        flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        self.one_more()?;
        self.files.opendir(context, inode, Self::flags(flags))
    }

    fn readdir(
        &self,
        context: &Context,
        inode: u64,
        handle: u64,
        size: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry<'_>) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.list(context, inode, (handle, size, offset), &mut |listed, entry| {
            let added = add_entry(listed);
            // The guest is not told of the node. One that is not added is forgotten already.
            if !matches!(added, Ok(0)) {
                self.files.forget(context, entry.inode, 1);
            }
            added
        })
    }

    fn readdirplus(
        &self,
        context: &Context,
        inode: u64,
        handle: u64,
        size: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry<'_>, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.list(context, inode, (handle, size, offset), add_entry)
    }

    fn fsyncdir(&self, context: &Context, inode: u64, data: bool, handle: u64) -> io::Result<()> {
        self.files.fsyncdir(context, inode, data, handle)
    }

    fn releasedir(&self, context: &Context, inode: u64, flags: u32, handle: u64) -> io::Result<()> {
        self.files.releasedir(context, inode, flags, handle)
    }

    fn access(&self, context: &Context, inode: u64, mask: u32) -> io::Result<()> {
        self.files.access(context, inode, mask)
    }

    fn lseek(
        &self,
        context: &Context,
        inode: u64,
        handle: u64,
        offset: u64,
        whence: u32,
    ) -> io::Result<u64> {
        self.files.lseek(context, inode, handle, offset, whence)
    }
}
