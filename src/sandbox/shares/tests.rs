use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{OFlag, openat};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};
use tempfile::TempDir;

use super::*;
use crate::monitor::channel::Channel;

/// A tree; none, with the reason printed, where mounts are not permitted.
fn tree() -> Option<SharedTree> {
    match SharedTree::new() {
        Err(SharedTreeError::Share(FsError::Namespace(error))) => {
            println!("skipped: sharing needs the right to mount: {error}");
            None
        }
        tree => Some(tree.unwrap()),
    }
}

fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("file"), "content").unwrap();
    folder
}

fn share(path: &Path, read_only: bool) -> Share {
    Share { path: path.into(), read_only }
}

/// A file below the top, as a monitor comes to it.
fn read(top: BorrowedFd<'_>, path: &str) -> io::Result<String> {
    let mut text = String::new();
    let file = openat(top, path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    File::from(file).read_to_string(&mut text)?;
    Ok(text)
}

fn write(top: BorrowedFd<'_>, path: &str) -> io::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC;
    let file = openat(top, path, flags, Mode::S_IRWXU)?;
    File::from(file).write_all(b"new")
}

#[test]
fn shares_come_and_go_below_a_top_that_nobody_writes_to() {
    let Some(tree) = tree() else { return };
    let folder = folder();
    let top = tree.top().as_fd();
    assert!(read(top, "rw/file").is_err());
    tree.add("rw", &share(folder.path(), false)).unwrap();
    tree.add("ro", &share(folder.path(), true)).unwrap();
    tree.add("single", &share(&folder.path().join("file"), true)).unwrap();
    for path in ["rw/file", "ro/file", "single"] {
        assert_eq!(read(top, path).unwrap(), "content");
    }
    write(top, "rw/other").unwrap();
    assert_eq!(fs::read_to_string(folder.path().join("other")).unwrap(), "new");
    for path in ["ro/other", "single", "top"] {
        assert_eq!(write(top, path).unwrap_err().raw_os_error(), Some(libc::EROFS), "{path}");
    }
    assert_eq!(mkdirat(top, "top", Mode::S_IRWXU), Err(Errno::EROFS));

    let held = openat(top, "rw", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
    for name in ["rw", "ro", "single"] {
        tree.remove(name).unwrap();
        assert!(matches!(tree.remove(name), Err(SharedTreeError::Missing(_))));
    }
    assert_eq!(read(top, "rw/file").unwrap_err().raw_os_error(), Some(libc::ENOENT));
    // It leads to itself, and no further up.
    let up = openat(held.as_fd(), "..", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
    let inode = |file: &OwnedFd| File::from(file.try_clone().unwrap()).metadata().unwrap().ino();
    assert_eq!(inode(&up), inode(&held));
    tree.add("rw", &share(folder.path(), true)).unwrap();
    assert_eq!(read(top, "rw/file").unwrap(), "content");
}

#[test]
fn the_top_leads_nowhere_and_nothing_of_the_hosts_is_in_its_namespace() {
    let Some(tree) = tree() else { return };
    let folder = folder();
    tree.add("a", &share(folder.path(), false)).unwrap();
    for path in ["../a/file", "../../a/file"] {
        assert_eq!(read(tree.top().as_fd(), path).unwrap(), "content");
    }
    // What a thread finds there that goes in.
    let found = tree.inside(|| {
        nix::unistd::fchdir(tree.top().as_fd())?;
        let names: Vec<_> = fs::read_dir("..")?.map(|entry| entry.map(|e| e.file_name())).collect();
        assert_eq!(names.into_iter().collect::<io::Result<Vec<_>>>()?, ["a"]);
        Ok(())
    });
    found.unwrap();
}

#[test]
fn what_cannot_be_added_is_named_and_leaves_nothing() {
    let Some(tree) = tree() else { return };
    let folder = folder();
    let there = share(folder.path(), false);
    tree.add("a", &there).unwrap();
    assert!(matches!(tree.add("a", &there), Err(SharedTreeError::Exists(_))));
    for name in ["", ".", "..", "a/b", "a\0b", &"x".repeat(256)] {
        let refused = Err::<(), _>(tree.add(name, &there).unwrap_err());
        assert!(matches!(refused, Err(SharedTreeError::Share(FsError::Name { .. }))), "{name:?}");
        let refused = tree.remove(name);
        assert!(matches!(refused, Err(SharedTreeError::Share(FsError::Name { .. }))), "{name:?}");
    }
    let missing = share(&folder.path().join("missing"), false);
    let refused = tree.add("b", &missing);
    assert!(matches!(refused, Err(SharedTreeError::Share(FsError::Path { .. }))), "{refused:?}");
    tree.add("b", &there).unwrap();
}

#[test]
fn all_of_it_goes_with_a_keeper_that_is_killed() {
    if tree().is_none() {
        return;
    }
    let folder = folder();
    let (ours, theirs) = Channel::pair().unwrap();
    // SAFETY: the child makes its tree, tells, and waits for its end.
    let child = match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let tell = || {
                let tree = SharedTree::new().ok()?;
                tree.add("a", &share(folder.path(), false)).ok()?;
                Channel::from(theirs).send_with(&"made", &[tree.top().as_fd()]).ok()?;
                nix::unistd::pause();
                Some(())
            };
            tell();
            std::process::abort();
        }
        ForkResult::Parent { child } => child,
    };
    let (_, tops) = ours.receive_with::<String>(1).unwrap().unwrap();
    let top = tops[0].as_fd();
    assert_eq!(read(top, "a/file").unwrap(), "content");
    kill(child, Signal::SIGKILL).unwrap();
    waitpid(child, None).unwrap();
    assert_eq!(read(top, "a/file").unwrap_err().raw_os_error(), Some(libc::ENOENT));
}
