//! User namespaces: made with their mappings, entered, and used to map the ids of mounts.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Gid, Uid, fork, pipe2, setgroups, setresgid, setresuid};
use oci_spec::runtime::LinuxIdMapping;

use crate::error::{Doing, Error, Result};

/// Lines that the kernel takes of a mapping.
const MAX_RANGES: usize = 340;

/// A user namespace, and who its ids are outside.
#[derive(Debug)]
pub struct UserNamespace {
    namespace: OwnedFd,
    uids: Ids,
    gids: Ids,
}

/// Ids of a namespace by those of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids(Vec<Range>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    inside: u32,
    outside: u32,
    size: u32,
}

impl Ids {
    /// # Errors
    /// There are none, too many, or ids beyond the last.
    pub fn new(field: &str, mappings: Option<&[LinuxIdMapping]>) -> Result<Self> {
        let mappings = mappings.unwrap_or_default();
        let range = |mapping: &LinuxIdMapping| {
            let (inside, outside, size) =
                (mapping.container_id(), mapping.host_id(), mapping.size());
            let fits = |first: u32| first.checked_add(size).is_some();
            let valid = size > 0 && fits(inside) && fits(outside);
            valid.then_some(Range { inside, outside, size }).ok_or_else(|| {
                Error::Invalid(format!("{field}: {size} ids from {inside} to {outside}"))
            })
        };
        if mappings.is_empty() || mappings.len() > MAX_RANGES {
            let count = mappings.len();
            return Err(Error::Invalid(format!(
                "{field} has {count} ranges, not 1 to {MAX_RANGES}"
            )));
        }
        mappings.iter().map(range).collect::<Result<_>>().map(Self)
    }

    /// What the kernel tells of a namespace that is there.
    fn parse(text: &str) -> Self {
        let range = |line: &str| {
            let mut numbers = line.split_whitespace().map(str::parse::<u32>);
            let mut next = || numbers.next()?.ok();
            Some(Range { inside: next()?, outside: next()?, size: next()? })
        };
        Self(text.lines().filter_map(range).collect())
    }

    /// The guest's id of one inside.
    pub fn outside(&self, id: u32) -> Option<u32> {
        self.0.iter().find_map(|range| {
            let offset = id.checked_sub(range.inside)?;
            (offset < range.size).then(|| range.outside.checked_add(offset))?
        })
    }
}

impl std::fmt::Display for Ids {
    /// As `/proc/PID/uid_map` takes it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|r| writeln!(f, "{} {} {}", r.inside, r.outside, r.size))
    }
}

impl UserNamespace {
    /// A new one. It belongs to the guest's root.
    pub fn new(uids: Ids, gids: Ids) -> Result<Self> {
        Ok(Self { namespace: make(&uids, &gids)?, uids, gids })
    }

    /// The one that a process of the guest is in.
    pub fn of(pid: i32) -> Result<Self> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            std::fs::read_to_string(&path).doing(|| format!("read {path}"))
        };
        let path = format!("/proc/{pid}/ns/user");
        let namespace = File::open(&path).doing(|| format!("open {path}"))?;
        let (uids, gids) = (Ids::parse(&read("uid_map")?), Ids::parse(&read("gid_map")?));
        Ok(Self { namespace: namespace.into(), uids, gids })
    }

    /// Its descriptor, for mounts whose ids it maps.
    pub fn fd(&self) -> &OwnedFd {
        &self.namespace
    }

    /// The guest's id of a user inside.
    ///
    /// # Errors
    /// It is not mapped.
    pub fn uid(&self, id: u32) -> Result<Uid> {
        let id = self.uids.outside(id);
        id.map(Uid::from_raw).ok_or_else(|| Error::Invalid("linux.uidMappings lack a user".into()))
    }

    /// The guest's id of a group inside.
    ///
    /// # Errors
    /// It is not mapped.
    pub fn gid(&self, id: u32) -> Result<Gid> {
        let id = self.gids.outside(id);
        id.map(Gid::from_raw).ok_or_else(|| Error::Invalid("linux.gidMappings lack a group".into()))
    }

    /// Moves this process into it, as its root. There is no way back.
    pub fn enter(&self) -> Result<()> {
        setns(&self.namespace, CloneFlags::CLONE_NEWUSER).doing(|| "join the user namespace")?;
        become_root()
    }
}

/// Becomes user and group 0 of the user namespace that this process was moved into.
pub fn become_root() -> Result<()> {
    let action = || "become root of the user namespace";
    setgroups(&[]).doing(action)?;
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(gid, gid, gid).doing(action)?;
    setresuid(uid, uid, uid).doing(action)
}

/// A namespace that nobody is in. Only a process can make one, and only another one may say which
/// ids it has: a child makes it and ends when the mappings are written.
fn make(uids: &Ids, gids: &Ids) -> Result<OwnedFd> {
    let action = || "make a user namespace";
    let (made, tell_made) = pipe2(OFlag::O_CLOEXEC).doing(action)?;
    let (end, hold) = pipe2(OFlag::O_CLOEXEC).doing(action)?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }.doing(action)? {
        ForkResult::Child => {
            drop((made, hold));
            let result = unshare(CloneFlags::CLONE_NEWUSER).map_or_else(|e| e as i32, |()| 0);
            let _ = File::from(tell_made).write_all(&result.to_ne_bytes());
            let _ = File::from(end).read(&mut [0]);
            // SAFETY: _exit takes an integer. Nothing of this copy of the process is to run.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            drop((tell_made, end));
            let mut result = [0; 4];
            let told = File::from(made).read_exact(&mut result).doing(action);
            let namespace = told.and_then(|()| match i32::from_ne_bytes(result) {
                0 => map(child.as_raw(), uids, gids),
                errno => Err(Errno::from_raw(errno)).doing(action),
            });
            drop(hold);
            waitpid(child, None).doing(action)?;
            namespace
        }
    }
}

fn map(pid: i32, uids: &Ids, gids: &Ids) -> Result<OwnedFd> {
    for (name, ids) in [("uid_map", uids), ("gid_map", gids)] {
        let text = ids.to_string();
        // The kernel takes it in one piece.
        std::fs::write(format!("/proc/{pid}/{name}"), &text)
            .doing(|| format!("set the {name} {text:?}"))?;
    }
    let namespace = File::open(format!("/proc/{pid}/ns/user")).doing(|| "open a user namespace")?;
    Ok(namespace.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn ids(json: Value) -> Result<Ids> {
        let mappings: Vec<LinuxIdMapping> = serde_json::from_value(json).unwrap();
        Ids::new("linux.uidMappings", Some(&mappings))
    }

    #[test]
    fn ids_are_found_outside() {
        let ids = ids(json!([
            {"containerID": 0, "hostID": 100_000, "size": 10},
            {"containerID": 50, "hostID": 7, "size": 1},
        ]))
        .unwrap();
        assert_eq!((ids.outside(0), ids.outside(9)), (Some(100_000), Some(100_009)));
        assert_eq!((ids.outside(50), ids.outside(10), ids.outside(51)), (Some(7), None, None));
        assert_eq!(ids.to_string(), "0 100000 10\n50 7 1\n");
        assert_eq!(
            Ids::parse("         0     100000         10\n        50          7          1\n"),
            ids
        );
    }

    #[test]
    fn mappings_that_make_no_sense_are_refused() {
        let range =
            |first: u32, size: u32| json!({"containerID": 0, "hostID": first, "size": size});
        for json in [json!([]), json!([range(0, 0)]), json!([range(u32::MAX, 2)])] {
            assert!(matches!(ids(json.clone()), Err(Error::Invalid(_))), "{json}");
        }
        assert!(ids(json!(vec![range(1, 1); 341])).is_err());
        assert!(Ids::new("linux.uidMappings", None).is_err());
    }
}
