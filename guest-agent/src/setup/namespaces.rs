//! Entering new namespaces, those of other containers, or those of a container that runs.

use std::fs::{self, File};
use std::os::fd::OwnedFd;

use nix::sched::{CloneFlags, setns, unshare};
use oci_spec::runtime::{Linux, Spec};

use super::users::{self, Ids, UserNamespace};
use crate::error::{Doing, Error, Result};
use crate::spec::Namespaces;

/// `CLONE_NEWTIME`, which nix does not name.
const TIME: CloneFlags = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);

/// The user namespace that the spec asks for: made, or another container's.
pub fn user(spec: &Spec, namespaces: &Namespaces) -> Result<Option<UserNamespace>> {
    let kind = CloneFlags::CLONE_NEWUSER;
    let mut joined = namespaces.joined.iter().filter(|joined| joined.kind == kind);
    if let Some(pid) = joined.find_map(|joined| joined.pid) {
        return UserNamespace::of(pid).map(Some);
    }
    let Some(linux) = spec.linux().as_ref().filter(|_| namespaces.new.contains(kind)) else {
        return Ok(None);
    };
    let uids = Ids::new("linux.uidMappings", linux.uid_mappings().as_deref())?;
    let gids = Ids::new("linux.gidMappings", linux.gid_mappings().as_deref())?;
    UserNamespace::new(uids, gids).map(Some)
}

/// Joins those of other containers but for the user namespace: after that, those that belong to
/// the guest's root could not be joined any more.
pub fn join_others(namespaces: &Namespaces) -> Result<()> {
    for joined in namespaces.joined.iter().filter(|j| j.kind != CloneFlags::CLONE_NEWUSER) {
        let path = joined.path();
        let action = || format!("join the namespace {path}");
        let file = File::open(&path).doing(action)?;
        setns(file, joined.kind).doing(action)?;
    }
    Ok(())
}

/// Moves this process, and for the pid namespace its children, into new namespaces, which belong
/// to the user namespace that it is in.
pub fn unshare_new(flags: CloneFlags) -> Result<()> {
    let flags = flags - CloneFlags::CLONE_NEWUSER - TIME;
    unshare(flags).doing(|| format!("make the namespaces {flags:?}"))
}

/// Moves this process's children into a new time namespace. It belongs to the guest's root: nobody
/// else may set its clocks, which this process's file in `/proc` is for.
pub fn unshare_time(spec: &Spec, flags: CloneFlags) -> Result<()> {
    let Some(linux) = spec.linux().as_ref().filter(|_| flags.contains(TIME)) else {
        return Ok(());
    };
    unshare(TIME).doing(|| "make a time namespace")?;
    set_clocks(linux)
}

/// Before the first process of the time namespace: it is fixed from then on.
fn set_clocks(linux: &Linux) -> Result<()> {
    let offsets = linux.time_offsets().iter().flatten();
    let lines: String = offsets
        .map(|(clock, offset)| {
            let (seconds, nanoseconds) =
                (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
            format!("{clock} {seconds} {nanoseconds}\n")
        })
        .collect();
    if lines.is_empty() {
        return Ok(());
    }
    fs::write("/proc/self/timens_offsets", &lines)
        .doing(|| format!("set linux.timeOffsets {lines:?}"))
}

/// Moves this process, and for the pid namespace its children, into those namespaces of another
/// process that its container has for itself. `owner` takes over the process's pipes before.
pub fn join(
    member: &OwnedFd,
    pid: i32,
    namespaces: i32,
    owner: impl FnOnce(&UserNamespace) -> Result<()>,
) -> Result<()> {
    let flags = CloneFlags::from_bits_retain(namespaces);
    let has_users = flags.contains(CloneFlags::CLONE_NEWUSER);
    if has_users {
        owner(&UserNamespace::of(pid)?)?;
    }
    setns(member, flags).doing(|| format!("join {flags:?}"))?;
    if has_users { users::become_root() } else { Ok(()) }
}

/// Checks that `linux.timeOffsets` names clocks that have offsets.
pub fn check_clocks(linux: &Linux) -> Result<()> {
    for (clock, offset) in linux.time_offsets().iter().flatten() {
        let known = matches!(clock.as_str(), "monotonic" | "boottime");
        if !known || offset.nanosecs().unwrap_or(0) >= 1_000_000_000 {
            return Err(Error::Invalid(format!("linux.timeOffsets {clock:?}: {offset:?}")));
        }
    }
    Ok(())
}
