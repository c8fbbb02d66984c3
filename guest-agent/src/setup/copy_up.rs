//! `tmpcopyup`: a tmpfs, or a bind mount with nothing in it, begins with a copy of the directory that it is
//! mounted on.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstatat, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, fchown, fchownat, symlinkat};

/// Directories within directories that are followed: each has descriptors open.
const MAX_DEPTH: usize = 64;

/// Copies what is in a directory, with owners and modes. Links are copied, not followed. The size
/// of the tmpfs is the limit of what is copied.
pub fn copy(from: &impl AsFd, to: &impl AsFd) -> nix::Result<()> {
    copy_directory(from, to, 0)
}

/// Fills a directory with what it is to cover, and gives it the owner and mode of that; one that has
/// something in it stays as it is.
pub fn fill(empty: &impl AsFd, covered: &impl AsFd) -> nix::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut entries = Dir::openat(empty, ".", flags, Mode::empty())?;
    if entries.iter().nth(2).is_some() {
        return Ok(());
    }
    let [empty, covered] = [empty.as_fd(), covered.as_fd()]
        .map(|directory| openat(directory, ".", flags, Mode::empty()));
    let (empty, covered) = (empty?, covered?);
    copy_directory(&covered, &empty, 0)?;
    like(&empty, &covered)
}

fn copy_directory(from: &impl AsFd, to: &impl AsFd, depth: usize) -> nix::Result<()> {
    if depth > MAX_DEPTH {
        return Err(Errno::ELOOP);
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut directory = Dir::openat(from, ".", flags, Mode::empty())?;
    for entry in directory.iter() {
        let entry = entry?;
        let name = Path::new(std::ffi::OsStr::from_bytes(entry.file_name().to_bytes()));
        if name != Path::new(".") && name != Path::new("..") {
            copy_entry(from, to, name, depth)?;
        }
    }
    Ok(())
}

fn copy_entry(from: &impl AsFd, to: &impl AsFd, name: &Path, depth: usize) -> nix::Result<()> {
    let found = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let kind = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
    let no_follow = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    if kind == SFlag::S_IFDIR {
        mkdirat(to, name, Mode::S_IRWXU)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | no_follow;
        let source = openat(from, name, flags, Mode::empty())?;
        let target = openat(to, name, flags, Mode::empty())?;
        copy_directory(&source, &target, depth + 1)?;
        set_owner(&target, &found)
    } else if kind == SFlag::S_IFREG {
        let source = openat(from, name, OFlag::O_RDONLY | no_follow, Mode::empty())?;
        let create = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | no_follow;
        let target = openat(to, name, create, Mode::S_IRUSR | Mode::S_IWUSR)?;
        set_owner(&copy_file(source, target)?, &found)
    } else {
        if kind == SFlag::S_IFLNK {
            symlinkat(readlinkat(from, name)?.as_os_str(), to, name)?;
        } else {
            mknodat(to, name, kind, Mode::from_bits_truncate(found.st_mode), found.st_rdev)?;
        }
        let (uid, gid) = owner(&found);
        given(fchownat(to, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW))
    }
}

fn copy_file(from: OwnedFd, to: OwnedFd) -> nix::Result<OwnedFd> {
    let (mut from, mut to) = (File::from(from), File::from(to));
    let failed = |e: io::Error| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO));
    io::copy(&mut from, &mut to).map_err(failed)?;
    Ok(to.into())
}

/// The mode after the owner, whose change clears set-uid.
fn set_owner(file: &OwnedFd, like: &FileStat) -> nix::Result<()> {
    let (uid, gid) = owner(like);
    given(fchown(file, uid, gid))?;
    fchmod(file, Mode::from_bits_truncate(like.st_mode & 0o7777))
}

/// A share of a host's user who is not root has files of that user alone.
fn given(owner: nix::Result<()>) -> nix::Result<()> {
    match owner {
        Err(Errno::EPERM) => Ok(()),
        owner => owner,
    }
}

fn owner(like: &FileStat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(like.st_uid)), Some(Gid::from_raw(like.st_gid)))
}

/// Gives the tmpfs's root the owner and mode of the directory that it covers.
pub fn like(target: &OwnedFd, covered: &OwnedFd) -> nix::Result<()> {
    set_owner(target, &nix::sys::stat::fstat(covered)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn modes_and_links_are_copied() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(from.path().join("d")).unwrap();
        fs::write(from.path().join("d/file"), "text").unwrap();
        let mode = fs::Permissions::from_mode(0o4750);
        fs::set_permissions(from.path().join("d/file"), mode).unwrap();
        symlink("/no/such", from.path().join("link")).unwrap();
        copy(&File::open(from.path()).unwrap(), &File::open(to.path()).unwrap()).unwrap();
        let copied = to.path().join("d/file");
        assert_eq!(fs::read_to_string(&copied).unwrap(), "text");
        assert_eq!(fs::metadata(&copied).unwrap().permissions().mode() & 0o7777, 0o4750);
        assert_eq!(fs::read_link(to.path().join("link")).unwrap(), Path::new("/no/such"));
    }
}
