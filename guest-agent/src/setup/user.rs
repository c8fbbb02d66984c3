//! The process's user: found, given its stdio, switched to.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use ampoule_protocol::message::UserName;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{
    Gid, Uid, dup2_stderr, dup2_stdin, dup2_stdout, fchown, setgroups, setresgid, setresuid,
};
use oci_spec::runtime::User;

use super::passwd::{self, Identity};
use super::paths::Root;
use super::users::UserNamespace;
use crate::error::{Doing, Error, Result};

/// Most bytes of `/etc/passwd` or `/etc/group` that are read.
const MAX_FILE: u64 = 4 << 20;

/// umask of processes whose spec has none.
const DEFAULT_UMASK: u32 = 0o022;

/// Who the process runs as.
pub fn resolve(root: &Root, user: &User, name: Option<&UserName>) -> Result<Identity> {
    let passwd = read(root, "/etc/passwd")?;
    match name {
        Some(name) => {
            passwd::look_up(&name.user, &name.groups, &passwd, &read(root, "/etc/group")?)
                .map_err(|e| Error::Invalid(e.to_string()))
        }
        None => Ok(Identity {
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            home: passwd::home_of(user.uid(), &passwd),
        }),
    }
}

/// The file as the container has it; empty where it is not there or is no file at all.
fn read(root: &Root, path: &str) -> Result<String> {
    let action = || format!("read the container's {path}");
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = match root.open_in(path, flags) {
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ENXIO | Errno::ELOOP) => {
            return Ok(String::new());
        }
        file => file.doing(action)?,
    };
    let kind = fstat(&file).doing(action)?.st_mode;
    if SFlag::from_bits_truncate(kind) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    File::from(file).take(MAX_FILE).read_to_end(&mut bytes).doing(action)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Gives the pipes to the root of a user namespace, which can then give them to its user.
pub fn give(stdio: &[OwnedFd], users: &UserNamespace) -> Result<()> {
    for fd in stdio {
        if is_pipe(fd)? {
            fchown(fd, Some(users.uid(0)?), Some(users.gid(0)?)).doing(|| "give away the pipes")?;
        }
    }
    Ok(())
}

fn is_pipe(fd: &OwnedFd) -> Result<bool> {
    let mode = fstat(fd).doing(|| "look at stdin, stdout and stderr")?.st_mode;
    Ok(SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFIFO)
}

/// Makes the pipes this process's stdio, and its user's own: they can be opened again by
/// `/dev/stdout` and the like.
pub fn take_stdio(stdio: Vec<OwnedFd>, identity: &Identity) -> Result<()> {
    let action = || "take over stdin, stdout and stderr";
    for fd in &stdio {
        if is_pipe(fd)? {
            let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
            fchown(fd, Some(uid), Some(gid)).doing(action)?;
        }
    }
    let [stdin, stdout, stderr] = stdio.as_slice() else {
        return Err(Error::Invalid("a process has three standard descriptors".into()));
    };
    dup2_stdin(stdin).doing(action)?;
    dup2_stdout(stdout).doing(action)?;
    dup2_stderr(stderr).doing(action)
}

/// Sets the mask of permissions that new files do not get.
pub fn set_umask(user: &User) {
    let mask = user.umask().unwrap_or(DEFAULT_UMASK);
    nix::sys::stat::umask(Mode::from_bits_truncate(mask));
}

/// Becomes the user, and keeps the permitted capabilities for [`super::capabilities::set`].
pub fn switch(identity: &Identity) -> Result<()> {
    nix::sys::prctl::set_keepcaps(true).doing(|| "keep capabilities")?;
    let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups).doing(|| "set the supplementary groups")?;
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    setresgid(gid, gid, gid).doing(|| format!("become group {gid}"))?;
    setresuid(uid, uid, uid).doing(|| format!("become user {uid}"))
}
