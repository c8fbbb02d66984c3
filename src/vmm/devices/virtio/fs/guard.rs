//! Every operation's arguments, checked in one place before fuse-backend-rs acts on them.
//!
//! What it does for itself: nodes and open files are numbers that it has given out, looked up in its
//! tables, once [`super::nodes`] has found the share that they are of; names are resolved below a directory's descriptor, without following symbolic links; only
//! files and directories are opened, never devices or pipes. What it leaves to its caller, and is done
//! here: names, flags that open something else than the file, the size of buffers, the number of
//! descriptors.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
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

use super::budget::Budget;
use super::listing::Part;
use super::metrics::FsMetrics;
use super::nodes::{Nodes, in_different_mounts};
use super::share::{self, Share, TIMEOUT};

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
    pub(super) nodes: Nodes,
    pub(super) root: Arc<OwnedFd>,
    /// How long the top's entries may be taken for true.
    pub(super) top_timeout: Duration,
    /// What the guest's kernel is capable of.
    capable: AtomicU64,
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
        Ok(Self {
            nodes: Nodes::new(Share::top(root.as_fd())?),
            root,
            top_timeout: if changing { Duration::ZERO } else { TIMEOUT },
            capable: AtomicU64::new(0),
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
    fn with_file(flags: u32, local: bool, mut options: OpenOptions) -> OpenOptions {
        let access = flags.cast_signed() & libc::O_ACCMODE;
        if access == libc::O_WRONLY {
            options |= OpenOptions::DIRECT_IO;
        }
        if access == libc::O_RDONLY || local {
            // SAFETY: the bits are the guest's to look at; nothing here depends on which are set.
            options |= unsafe { OpenOptions::from_bits_unchecked(NOFLUSH) };
        }
        options
    }

    /// What a name stands for. The guest is told of it.
    pub(super) fn find(&self, context: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        let (share, directory) = self.nodes.find(parent)?;
        if parent == ROOT_ID
            && let Some(entry) = self.find_share(name)?
        {
            return Ok(entry);
        }
        let entry = share.files.lookup(context, directory, name)?;
        self.entry(&share, directory, entry)
    }

    /// The share at an entry of the top; none where it is the top's own.
    fn find_share(&self, name: &CStr) -> io::Result<Option<Entry>> {
        if !self.is_mounted() {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        let found = share::entry(self.root.as_fd(), name)?;
        let mount = share::mount_of(found.as_fd())?;
        if mount == self.nodes.top.mount {
            return Ok(None);
        }
        let share = match self.nodes.share(mount) {
            Some(share) => share,
            None => Arc::new(Share::at(self.root.as_fd(), name, mount, self.capable())?),
        };
        let (attr, attr_timeout) = share.attributes()?;
        let is_directory = attr.st_mode & libc::S_IFMT == libc::S_IFDIR;
        Ok(Some(Entry {
            inode: self.nodes.tell(&share, share.root)?,
            attr,
            attr_flags: if is_directory { ATTR_SUBMOUNT } else { 0 },
            attr_timeout,
            entry_timeout: self.top_timeout,
            ..Entry::default()
        }))
    }

    /// A share's answer in the guest's numbers: of an entry that is there, in a directory of the share.
    /// The guest is told of a mount point: there begin other inode numbers.
    pub(super) fn entry(
        &self,
        share: &Arc<Share>,
        parent: u64,
        mut entry: Entry,
    ) -> io::Result<Entry> {
        if parent == ROOT_ID {
            entry.entry_timeout = self.top_timeout;
        }
        let is_directory = entry.attr.st_mode & libc::S_IFMT == libc::S_IFDIR;
        if is_directory && in_different_mounts(entry.inode, parent) {
            entry.attr_flags |= ATTR_SUBMOUNT;
        }
        entry.inode = self.nodes.tell(share, entry.inode)?;
        Ok(entry)
    }

    fn capable(&self) -> FsOptions {
        FsOptions::from_bits_truncate(self.capable.load(Ordering::Relaxed))
    }

    /// Two directories, or a file and a directory, of one share.
    fn both(&self, one: u64, other: u64) -> io::Result<(Arc<Share>, u64, u64)> {
        let ((share, one), (of_other, other)) = (self.nodes.find(one)?, self.nodes.find(other)?);
        if Arc::ptr_eq(&share, &of_other) {
            return Ok((share, one, other));
        }
        // As between any two mounts.
        Err(io::Error::from_raw_os_error(libc::EXDEV))
    }
}

impl FileSystem for Guard {
    type Inode = u64;
    type Handle = u64;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        let of_files = self.nodes.top.files.init(capable)?;
        self.capable.store(capable.bits(), Ordering::Relaxed);
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
        self.nodes.clear();
        self.nodes.top.files.destroy();
    }

    fn lookup(&self, context: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        self.name(name)?;
        self.one_more()?;
        self.find(context, parent, name)
    }

    fn forget(&self, _context: &Context, inode: u64, count: u64) {
        self.nodes.forget(inode, count);
    }

    fn batch_forget(&self, _context: &Context, requests: Vec<(u64, u64)>) {
        for (inode, count) in requests {
            self.nodes.forget(inode, count);
        }
    }

    fn getattr(
        &self,
        context: &Context,
        inode: u64,
        handle: Option<u64>,
    ) -> io::Result<(stat64, Duration)> {
        let (share, inode) = self.nodes.find(inode)?;
        share.files.getattr(context, inode, handle)
    }

    fn setattr(
        &self,
        context: &Context,
        inode: u64,
        attr: stat64,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(stat64, Duration)> {
        let (share, inode) = self.nodes.find(inode)?;
        share.files.setattr(context, inode, attr, handle, valid)
    }

    fn readlink(&self, context: &Context, inode: u64) -> io::Result<Vec<u8>> {
        let (share, inode) = self.nodes.find(inode)?;
        share.files.readlink(context, inode)
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
        let (share, parent) = self.nodes.find(parent)?;
        self.entry(&share, parent, share.files.symlink(context, target, parent, name)?)
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
        let (share, parent) = self.nodes.find(parent)?;
        self.entry(&share, parent, share.files.mknod(context, parent, name, mode, rdev, umask)?)
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
        let (share, parent) = self.nodes.find(parent)?;
        self.entry(&share, parent, share.files.mkdir(context, parent, name, mode, umask)?)
    }

    fn unlink(&self, context: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.name(name)?;
        let (share, parent) = self.nodes.find(parent)?;
        share.files.unlink(context, parent, name)
    }

    fn rmdir(&self, context: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.name(name)?;
        let (share, parent) = self.nodes.find(parent)?;
        share.files.rmdir(context, parent, name)
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
        let (share, parent, new_parent) = self.both(parent, new_parent)?;
        share.files.rename(context, parent, name, new_parent, new_name, flags)
    }

    fn link(&self, context: &Context, inode: u64, parent: u64, name: &CStr) -> io::Result<Entry> {
        self.name(name)?;
        self.one_more()?;
        let (share, inode, parent) = self.both(inode, parent)?;
        self.entry(&share, parent, share.files.link(context, inode, parent, name)?)
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
        let (share, inode) = self.nodes.find(inode)?;
        let (handle, options, backing) = share.files.open(context, inode, flags, fuse_flags)?;
        let writes = flags.cast_signed() & libc::O_ACCMODE != libc::O_RDONLY;
        let local = writes
            && share.any_local()
            && share
                .files
                .getattr(context, inode, handle)
                .is_ok_and(|(attr, _)| share.holds_at_once(attr.st_dev));
        Ok((handle, Self::with_file(flags, local, options), backing))
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
        let (share, parent) = self.nodes.find(parent)?;
        let (entry, handle, options, backing) = share.files.create(context, parent, name, args)?;
        let local = share.holds_at_once(entry.attr.st_dev);
        let options = Self::with_file(args.flags, local, options);
        Ok((self.entry(&share, parent, entry)?, handle, options, backing))
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
        let (share, inode) = self.nodes.find(inode)?;
        share
            .files
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
        let (share, inode) = self.nodes.find(inode)?;
        share
            .files
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
        let (share, inode) = self.nodes.find(inode)?;
        share.files.flush(context, inode, handle, owner)
    }

    fn fsync(&self, context: &Context, inode: u64, data: bool, handle: u64) -> io::Result<()> {
        let (share, inode) = self.nodes.find(inode)?;
        share.files.fsync(context, inode, data, handle)
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
        let (share, inode) = self.nodes.find(inode)?;
        share.files.fallocate(context, inode, handle, mode, offset, length)
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
        let (share, inode) = self.nodes.find(inode)?;
        share.files.release(context, inode, flags, handle, flush, flock_release, lock_owner)
    }

    fn statfs(&self, context: &Context, inode: u64) -> io::Result<statvfs64> {
        let (share, inode) = self.nodes.find(inode)?;
        share.files.statfs(context, inode)
    }

    fn setxattr(
        &self,
        context: &Context,
        inode: u64,
        name: &CStr,
        value: &[u8],
        flags: u32,
    ) -> io::Result<()> {
        let (share, inode) = self.nodes.find(inode)?;
        share.files.setxattr(context, inode, name, value, flags)
    }

    fn getxattr(
        &self,
        context: &Context,
        inode: u64,
        name: &CStr,
        size: u32,
    ) -> io::Result<GetxattrReply> {
        let (share, inode) = self.nodes.find(inode)?;
        share.files.getxattr(context, inode, name, size.min(XATTR_MAX))
    }

    fn listxattr(&self, context: &Context, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        let (share, inode) = self.nodes.find(inode)?;
        share.files.listxattr(context, inode, size.min(XATTR_MAX))
    }

    fn removexattr(&self, context: &Context, inode: u64, name: &CStr) -> io::Result<()> {
        let (share, inode) = self.nodes.find(inode)?;
        share.files.removexattr(context, inode, name)
    }

    fn opendir(
        &self,
        context: &Context,
        inode: u64,
        flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        self.one_more()?;
        let (share, inode) = self.nodes.find(inode)?;
        share.files.opendir(context, inode, Self::flags(flags))
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
        let part = Part { handle, size, offset, nodes: false };
        self.list(context, inode, part, &mut |listed, _| add_entry(listed))
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
        self.list(context, inode, Part { handle, size, offset, nodes: true }, add_entry)
    }

    fn fsyncdir(&self, context: &Context, inode: u64, data: bool, handle: u64) -> io::Result<()> {
        let (share, inode) = self.nodes.find(inode)?;
        share.files.fsyncdir(context, inode, data, handle)
    }

    fn releasedir(&self, context: &Context, inode: u64, flags: u32, handle: u64) -> io::Result<()> {
        let (share, inode) = self.nodes.find(inode)?;
        share.files.releasedir(context, inode, flags, handle)
    }

    fn access(&self, context: &Context, inode: u64, mask: u32) -> io::Result<()> {
        let (share, inode) = self.nodes.find(inode)?;
        share.files.access(context, inode, mask)
    }

    fn lseek(
        &self,
        context: &Context,
        inode: u64,
        handle: u64,
        offset: u64,
        whence: u32,
    ) -> io::Result<u64> {
        let (share, inode) = self.nodes.find(inode)?;
        share.files.lseek(context, inode, handle, offset, whence)
    }
}
