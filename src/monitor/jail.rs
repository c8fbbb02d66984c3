//! What a monitor gives up before it looks at anything of the guest's.
//!
//! By then it has opened all that its machine is made of. It keeps that, memory, and a way to its
//! keeper; [`Jail::enter`] is the list of the rest, and [`super::seccomp`] what its threads may still
//! ask of the kernel.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use caps::{CapSet, Capability, CapsHashSet};
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, Scope,
};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, open, openat};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Pid, geteuid, setgroups};

use super::control::{Identity, Jailed};
use crate::mounts::{
    NODEV, NOEXEC, NOSUID, RDONLY, become_root, clone_tree, move_mount, set_attributes, tmpfs,
};
use crate::vmm::host::Role;

/// First of the 4,194,304 users and groups that monitors are: this number and their pid (at most
/// 2^22) on the host, so that no two that live are the same. systemd's table of user ids has nobody
/// there.
pub const FIRST_UID: u32 = 0x7000_0000;

/// Descriptors that a monitor may have open: 1,024 vsock connections and as much again.
const DESCRIPTORS: u64 = 2048;

/// The same where it serves files: one for each that the guest knows. A descriptor keeps one to two
/// KiB of the host's kernel busy.
const DESCRIPTORS_OF_FILES: u64 = 1 << 19;

/// Threads and processes of one monitor's user.
const THREADS: u64 = 128;

/// Numbers of the capabilities that making a jail takes, over the user namespace that a monitor is born
/// into: SETPCAP, SYS_CHROOT and SYS_ADMIN.
pub const OF_JAILERS: [libc::c_ulong; 3] = [8, 18, 21];

/// What the thread that serves files needs over the user namespace that it is in: to act as the files'
/// owners, and in spite of their modes (the guest's kernel has decided that already).
const OF_FILES: [Capability; 8] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
];

/// A monitor that cannot give up something: it does not go on.
#[derive(Debug, thiserror::Error)]
#[error("the monitor cannot be jailed: cannot {what}")]
pub struct JailError {
    what: &'static str,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

fn cannot<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: &'static str,
) -> impl FnOnce(E) -> JailError {
    move |source| JailError { what, source: source.into() }
}

/// The user and group that the monitor with this pid becomes.
pub fn uid_of(pid: Pid) -> u32 {
    FIRST_UID.saturating_add(pid.as_raw().unsigned_abs())
}

/// Whether this process may become any user of [`FIRST_UID`]'s range: root, and not only that of a
/// user namespace without them.
pub fn can_change_user() -> bool {
    geteuid().is_root()
        && fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| maps_range(&map))
}

/// Whether the range of monitors' users is in a `uid_map` (user_namespaces(7)).
fn maps_range(map: &str) -> bool {
    const LAST: u64 = FIRST_UID as u64 + (1 << 22);
    map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        matches!(numbers[..], [first, _, count]
            if first <= u64::from(FIRST_UID) && first.saturating_add(count) > LAST)
    })
}

/// What a monitor's jail is made for.
#[derive(Debug)]
pub struct Jail<'a> {
    /// Who it becomes.
    pub identity: Identity,
    /// The user namespace in which it serves files, where there is one.
    pub user_namespace: Option<OwnedFd>,
    /// Tops of the directories that it serves.
    pub shares: Vec<BorrowedFd<'a>>,
}

impl Jail<'_> {
    /// Enters it. The process has no other threads, and has had none: one that has ended is a thread of it
    /// for a moment still. It has left the host's mounts ([`crate::vmm::devices::virtio::fs::own_mounts`]).
    ///
    /// # Errors
    /// Something cannot be given up: the process must not go on.
    pub fn enter(self) -> Result<(), JailError> {
        let serves_files = !self.shares.is_empty();
        limit_resources(serves_files).map_err(cannot("limit its resources"))?;
        prctl::set_no_new_privs().map_err(cannot("give up new privileges"))?;
        // It was born into its pid namespace, and is alone with its mounts since it has opened anything.
        let own = CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP;
        unshare(own).map_err(cannot("leave the host's namespaces"))?;
        empty_root(serves_files).map_err(cannot("leave the host's files"))?;
        restrict_paths(&self.shares)?;
        match (self.identity, self.user_namespace) {
            (Identity::Unique(_), Some(namespace)) => serve_users(namespace)?,
            (Identity::Unique(uid), None) => become_user(uid)?,
            (Identity::Own, _) => {
                caps::clear(None, CapSet::Bounding).map_err(cannot("drop its bounding set"))?;
                drop_all().map_err(cannot("drop capabilities"))?;
            }
        }
        // Both are undone by a change of the user.
        prctl::set_dumpable(false).map_err(cannot("keep others from looking into it"))?;
        prctl::set_pdeathsig(Signal::SIGKILL).map_err(cannot("be tied to its keeper"))?;
        Ok(())
    }
}

/// Limits that hold for the whole process.
pub fn limit_resources(serves_files: bool) -> nix::Result<()> {
    let descriptors = if serves_files { DESCRIPTORS_OF_FILES } else { DESCRIPTORS };
    let raised = setrlimit(Resource::RLIMIT_NOFILE, descriptors, descriptors);
    if raised.is_err() {
        // Without the right to raise it: what there is.
        let (_, hard) = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE)?;
        let most = hard.min(descriptors);
        setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    }
    // A crash must not write the guest's memory to the host's disk.
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    setrlimit(Resource::RLIMIT_MEMLOCK, 0, 0)?;
    setrlimit(Resource::RLIMIT_MSGQUEUE, 0, 0)?;
    Ok(())
}

/// Makes a tree with nothing in it the root, read-only. What serves files finds its own descriptors
/// in it, at `/proc/self/fd`: it has to open again, for reading or writing, what it holds for looking.
fn empty_root(serves_files: bool) -> io::Result<()> {
    let own = serves_files.then(|| clone_tree(AT_FDCWD, c"/proc/self/fd", 0)).transpose()?;
    let root = tmpfs()?;
    if own.is_some() {
        for path in ["proc", "proc/self", "proc/self/fd"] {
            mkdirat(&root, path, Mode::from_bits_truncate(0o555))?;
        }
        // fuse-backend-rs wants to have it open, and reads it for file handles alone, which are off.
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        openat(&root, "proc/self/mountinfo", flags, Mode::S_IRUSR)?;
    }
    move_mount(root.as_fd(), AT_FDCWD, c"/")?;
    if let Some(own) = own {
        set_attributes(own.as_fd(), 0, NOSUID | NODEV | NOEXEC)?;
        move_mount(own.as_fd(), root.as_fd(), c"proc/self/fd")?;
    }
    set_attributes(root.as_fd(), 0, RDONLY | NOSUID | NODEV | NOEXEC)?;
    become_root(root.as_fd())
}

/// No file but those of the shares, no TCP port, no abstract socket and no process of others: where
/// the host's kernel has Landlock, and as much of it as that has.
fn restrict_paths(shares: &[BorrowedFd<'_>]) -> Result<(), JailError> {
    const NEWEST: ABI = ABI::V6;
    let restrict = || -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(NEWEST))?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(Scope::from_all(NEWEST))?
            .create()?;
        for share in shares {
            rules = rules.add_rule(PathBeneath::new(share, AccessFs::from_all(NEWEST)))?;
        }
        if !shares.is_empty() {
            let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
            let own = open("/proc/self/fd", flags, Mode::empty())?;
            rules = rules.add_rule(PathBeneath::new(own, AccessFs::ReadDir))?;
            let nothing = open("/proc/self/mountinfo", flags, Mode::empty())?;
            rules = rules.add_rule(PathBeneath::new(nothing, AccessFs::ReadFile))?;
        }
        rules.restrict_self()?;
        Ok(())
    };
    restrict().map_err(cannot("restrict itself by Landlock"))
}

/// Becomes a user that nobody else is, without any capability.
fn become_user(uid: u32) -> Result<(), JailError> {
    caps::clear(None, CapSet::Bounding).map_err(cannot("drop its bounding set"))?;
    setgroups(&[]).map_err(cannot("leave its groups"))?;
    setrlimit(Resource::RLIMIT_NPROC, THREADS, THREADS).map_err(cannot("limit its threads"))?;
    let (group, user) = (nix::unistd::Gid::from_raw(uid), nix::unistd::Uid::from_raw(uid));
    nix::unistd::setresgid(group, group, group).map_err(cannot("change its group"))?;
    nix::unistd::setresuid(user, user, user).map_err(cannot("change its user"))?;
    drop_all().map_err(cannot("drop capabilities"))
}

/// Becomes root of a user namespace that owns nothing, with the capabilities that serving files takes.
fn serve_users(namespace: OwnedFd) -> Result<(), JailError> {
    setgroups(&[]).map_err(cannot("leave its groups"))?;
    setns(namespace, CloneFlags::CLONE_NEWUSER).map_err(cannot("enter its user namespace"))?;
    caps::clear(None, CapSet::Ambient).map_err(cannot("drop ambient capabilities"))?;
    // Kept until its threads are confined: to say that a change of user changes no capabilities.
    let mut kept = CapsHashSet::from(OF_FILES);
    kept.insert(Capability::CAP_SETPCAP);
    let dropped = caps::all().into_iter().filter(|capability| !kept.contains(capability));
    for capability in dropped {
        if caps::has_cap(None, CapSet::Bounding, capability).unwrap_or(false) {
            caps::drop(None, CapSet::Bounding, capability)
                .map_err(cannot("drop its bounding set"))?;
        }
    }
    keep(&kept).map_err(cannot("drop capabilities"))
}

/// Takes from the calling thread what its role does not need, where the process has kept something to
/// serve files with.
pub fn narrow(jailed: Jailed, role: Role) -> io::Result<()> {
    let Identity::Unique(uid) = jailed.identity else { return Ok(()) };
    if !jailed.user_namespace {
        return Ok(());
    }
    if role == Role::Shares {
        return keep_for_files().map_err(io::Error::other);
    }
    caps::clear(None, CapSet::Bounding).map_err(io::Error::other)?;
    // Of this thread alone: the C library would change those of all.
    // SAFETY: no memory is involved.
    let changed = unsafe {
        libc::syscall(libc::SYS_setresgid, uid, uid, uid)
            | libc::syscall(libc::SYS_setresuid, uid, uid, uid)
    };
    Errno::result(changed)?;
    drop_all().map_err(io::Error::other)?;
    // The change of the user has undone both.
    prctl::set_dumpable(false)?;
    Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)
}

fn keep_for_files() -> Result<(), caps::errors::CapsError> {
    let have = caps::read(None, CapSet::Permitted)?;
    keep(&CapsHashSet::from(OF_FILES).intersection(&have).copied().collect())
}

/// Drops every capability of the calling thread.
fn drop_all() -> Result<(), caps::errors::CapsError> {
    caps::clear(None, CapSet::Ambient)?;
    keep(&CapsHashSet::new())
}

fn keep(capabilities: &CapsHashSet) -> Result<(), caps::errors::CapsError> {
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    caps::set(None, CapSet::Effective, capabilities)?;
    caps::set(None, CapSet::Permitted, capabilities)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monitors_are_users_that_nobody_else_is() {
        assert_eq!(uid_of(Pid::from_raw(1)), 0x7000_0001);
        assert!(uid_of(Pid::from_raw(1 << 22)) < 0x7fff_0000);
    }

    #[test]
    fn a_root_that_has_few_users_cannot_give_monitors_one() {
        assert!(maps_range("         0          0 4294967295\n"));
        assert!(!maps_range("0 1000 1\n1 100000 65536\n"));
        assert!(!maps_range(""));
        assert!(!maps_range("nonsense"));
    }
}
