//! Shares that come and go while a guest has the file system mounted.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use fuse_backend_rs::abi::fuse_abi::FsOptions;
use fuse_backend_rs::api::filesystem::{Context, DirEntry, Entry, FileSystem};
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, fchdir, unlinkat};

use super::super::budget::Budget;
use super::super::export::{mount_point, own_mounts};
use super::super::guard::Guard;
use super::*;
use crate::mounts::{move_mount, tmpfs};

/// The top of a tree in the mount namespace of the calling thread.
struct Tree(Arc<OwnedFd>);

/// Does something with a tree on a thread that is alone with its mounts; nothing, with the reason printed,
/// where that is not permitted.
fn with_tree(act: impl FnOnce(&Tree) + Send) {
    let apart = || match own_mounts() {
        Err(FsError::Namespace(error)) => {
            println!("skipped: sharing needs the right to mount: {error}");
        }
        done => {
            done.unwrap();
            let top = tmpfs().unwrap();
            move_mount(top.as_fd(), AT_FDCWD, c"/").unwrap();
            act(&Tree(Arc::new(top)));
        }
    };
    thread::scope(|scope| scope.spawn(apart).join()).unwrap();
}

impl Tree {
    /// A file system of its own, with a file in it that holds the name.
    fn add(&self, name: &str) {
        let (entry, root) = (CString::new(name).unwrap(), tmpfs().unwrap());
        let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let file = openat(root.as_fd(), "file", flags, Mode::S_IRWXU).unwrap();
        File::from(file).write_all(name.as_bytes()).unwrap();
        mount_point(self.0.as_fd(), &entry, true).unwrap();
        move_mount(root.as_fd(), self.0.as_fd(), &entry).unwrap();
    }

    fn remove(&self, name: &str) {
        fchdir(&self.0).unwrap();
        umount2(name, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).unwrap();
        unlinkat(&self.0, name, UnlinkatFlags::RemoveDir).unwrap();
    }

    /// A driver that has mounted it.
    fn client(&self) -> Client {
        let opened = Opened::shared(Arc::clone(&self.0));
        let config = FsConfig { tag: "t".into(), export: Some(Export::Given), opened };
        let mut client = Client::active(Fs::new(&config, &Host::default()).unwrap());
        client.init().unwrap();
        client
    }

    fn guard(&self) -> Guard {
        let budget = Budget::below(1 << 20);
        let guard = Guard::new(Arc::clone(&self.0), true, budget, Arc::default()).unwrap();
        guard.init(FsOptions::empty()).unwrap();
        guard
    }
}

/// More than fuse-backend-rs numbers in one PassthroughFs.
const MANY: usize = 300;

#[test]
fn there_is_no_end_to_shares_that_come_and_go() {
    with_tree(|tree| {
        let mut client = tree.client();
        for i in 0..2 * MANY {
            let name = format!("share {i}");
            assert_eq!(client.send(LOOKUP, ROOT, &cstr(&name)), Err(libc::ENOENT));
            tree.add(&name);
            let entry = client.send(LOOKUP, ROOT, &cstr(&name)).unwrap();
            // Its attributes begin at 40; their flags, at 84 of them, say that it is a mount point.
            assert_eq!(word(&entry, 40 + 84), 1);
            let share = long(&entry, 0);
            assert_eq!(client.lookup(ROOT, &name), share);
            let file = client.lookup(share, "file");
            let handle = client.open(file, libc::O_RDONLY);
            tree.remove(&name);
            // It goes when the guest has forgotten it.
            assert_eq!(client.read(file, handle, 100).unwrap(), name.as_bytes());
            for (node, times) in [(file, 1), (share, 2)] {
                assert!(client.send(GETATTR, node, &longs(&[0, 0])).is_ok());
                assert_eq!(client.send(FORGET, node, &longs(&[times])), Err(0));
                assert_eq!(client.send(GETATTR, node, &longs(&[0, 0])), Err(libc::EBADF));
            }
            assert_eq!(client.read(file, handle, 100), Err(libc::EBADF));
        }
    });
}

#[test]
fn as_many_shares_as_the_host_has_are_there_at_once_and_apart() {
    with_tree(|tree| {
        let mut client = tree.client();
        let names: BTreeSet<_> = (0..MANY).map(|i| format!("share {i}")).collect();
        names.iter().for_each(|name| tree.add(name));
        let shares: Vec<_> = names.iter().map(|name| client.lookup(ROOT, name)).collect();
        let files: Vec<_> = shares.iter().map(|share| client.lookup(*share, "file")).collect();
        let all: BTreeSet<_> = shares.iter().chain(&files).collect();
        assert_eq!(all.len(), 2 * MANY);
        for (name, file) in names.iter().zip(&files) {
            let handle = client.open(*file, libc::O_RDONLY);
            assert_eq!(client.read(*file, handle, 100).unwrap(), name.as_bytes());
            // Handles are a share's own.
            assert_eq!(client.read(shares[0], handle, 100), Err(libc::EBADF));
        }
        // Numbers that the guest makes up, of places that there are and of such as there are not.
        for node in files.iter().chain(&shares).flat_map(|node| [node ^ 1 << 20, node | 1 << 62]) {
            assert_eq!(client.send(GETATTR, node, &longs(&[0, 0])), Err(libc::EBADF), "{node:#x}");
        }
        let (one, other) = (shares[0], shares[1]);
        let rename = [longs(&[other]), cstr("file"), cstr("new")].concat();
        assert_eq!(client.send(RENAME, one, &rename), Err(libc::EXDEV));
        let link = |file| [longs(&[file]), cstr("new")].concat();
        assert_eq!(client.send(LINK, other, &link(files[0])), Err(libc::EXDEV));
        assert_eq!(client.send(LINK, ROOT, &link(files[0])), Err(libc::EXDEV));
        assert!(client.send(LINK, one, &link(files[0])).is_ok());
        assert_eq!(client.send(LOOKUP, one, &cstr("..")), Err(libc::EINVAL));
        assert_eq!(listed(&mut client), names);
    });
}

/// The names of the top's entries.
fn listed(client: &mut Client) -> BTreeSet<String> {
    let handle = long(&client.send(OPENDIR, ROOT, &words(&[0, 0])).unwrap(), 0);
    let (mut names, mut offset) = (BTreeSet::new(), 0);
    loop {
        let body = [longs(&[handle, offset]), words(&[500, 0]), longs(&[0, 0])].concat();
        let part = client.send_with_room(READDIR, ROOT, &body, 516).unwrap();
        let mut rest = part.as_slice();
        if rest.is_empty() {
            break;
        }
        while !rest.is_empty() {
            offset = long(rest, 8);
            let len = word(rest, 16) as usize;
            let name = String::from_utf8(rest[24..24 + len].to_vec()).unwrap();
            assert!(names.insert(name.clone()), "{name}");
            rest = &rest[(24 + len).next_multiple_of(8)..];
        }
    }
    assert!(names.remove(".") && names.remove(".."));
    names
}

#[test]
fn what_is_forgotten_costs_nothing_more() {
    with_tree(|tree| {
        let (guard, context) = (tree.guard(), Context::default());
        assert_eq!(guard.nodes.count(), (1, 1));
        let names: Vec<_> = (0..MANY).map(|i| format!("share {i}")).collect();
        names.iter().for_each(|name| tree.add(name));
        let look = |parent, name: &str| {
            guard.lookup(&context, parent, &CString::new(name).unwrap()).unwrap().inode
        };
        let shares: Vec<_> = names.iter().map(|name| look(ROOT, name)).collect();
        let files: Vec<_> = shares.iter().map(|share| look(*share, "file")).collect();
        assert_eq!(guard.nodes.count(), (MANY + 1, MANY + 1));
        guard.batch_forget(&context, shares.iter().map(|share| (*share, 1)).collect());
        // The guest knows of a file there still.
        assert!(guard.getattr(&context, files[0], None).is_ok());
        guard.batch_forget(&context, files.iter().map(|file| (*file, 1)).collect());
        assert_eq!(guard.nodes.count(), (1, 1));
        // Listing the top tells of nothing.
        let (handle, _) = guard.opendir(&context, ROOT, 0).unwrap();
        let mut count = 0;
        let mut add = |_: DirEntry<'_>, entry: Entry| {
            assert_eq!(entry.inode, 0);
            count += 1;
            Ok(1)
        };
        guard.readdirplus(&context, ROOT, handle.unwrap(), 1 << 16, 0, &mut add).unwrap();
        assert_eq!((count, guard.nodes.count()), (MANY + 2, (1, 1)));
        // Names are looked up anew, and all of it goes with the mount.
        look(look(ROOT, &names[7]), "file");
        assert_eq!(guard.nodes.count(), (2, 2));
        guard.destroy();
        assert_eq!(guard.nodes.count(), (1, 1));
    });
}
