//! The first process of a new container: one ordered list.

use std::os::fd::OwnedFd;

use ampoule_protocol::message::UserName;
use nix::sched::{CloneFlags, setns, unshare};
use oci_spec::runtime::{LinuxSeccomp, Process, Spec};

use super::devices::Made;
use super::hooks::Hooks;
use super::mounts::Source;
use super::paths::Root;
use super::rootfs::Disks;
use super::{
    Around, Prepared, capabilities, cwd, devices, has_terminal, identity, keyring, masks, mounts,
    namespaces, network, program, rlimits, rootfs, scheduling, seccomp, sysctl, terminal, user,
};
use crate::error::{Doing, Result};
use crate::spec::Namespaces;

/// What a container needs that only the guest's root may make, and its namespaces.
pub struct Staged {
    namespaces: Namespaces,
    root: Root,
    layer: Option<[OwnedFd; 2]>,
    sources: Vec<Source>,
    devices: Option<Made>,
}

/// A process, and what it is to be.
pub struct Setting {
    /// As the spec has it.
    pub process: Process,
    /// Who it runs as, in place of the process's own uid, gid and groups.
    pub name: Option<UserName>,
    /// Its container's filter of system calls.
    pub seccomp: Option<LinuxSeccomp>,
    /// stdin, stdout and stderr; none where it has a terminal.
    pub stdio: Vec<OwnedFd>,
}

/// Makes and joins the container's namespaces, up to the fork.
///
/// A user namespace takes away what this process may do to the guest: root file system, sources of
/// mounts and devices are prepared before. `network` is a namespace that it need not make.
pub fn enter(around: &Around, stdio: &[OwnedFd], network: Option<OwnedFd>) -> Result<Staged> {
    let spec = &around.spec;
    let namespaces = Namespaces::of(spec)?;
    namespaces::join_others(&namespaces)?;
    namespaces::unshare_time(spec, namespaces.new)?;
    let users = namespaces::user(spec, &namespaces)?;

    unshare(CloneFlags::CLONE_NEWNS).doing(|| "make a mount namespace")?;
    let disks = Disks { source: around.disk.as_deref(), layer: around.layer.as_deref() };
    let rootfs::Mounted { mut root, layer } = rootfs::mount(&around.rootfs, disks, users.as_ref())?;
    let sources = mounts::open_sources(spec, users.as_ref())?;
    let mut devices = None;
    if let Some(users) = &users {
        devices = Some(devices::make_for(spec, &around.block_devices, users)?);
        user::give(stdio, users)?;
        rootfs::stand_in(root)?;
        users.enter()?;
        root = rootfs::move_into_own_namespace()?;
    }
    let mut made = CloneFlags::CLONE_NEWNS;
    if let Some(network) = network {
        made |= CloneFlags::CLONE_NEWNET;
        setns(network, CloneFlags::CLONE_NEWNET).doing(|| "join the network namespace")?;
    }
    namespaces::unshare_new(namespaces.new - made)?;
    Ok(Staged { namespaces, root, layer, sources, devices })
}

/// Sets up the container around this process, and then the process.
pub fn prepare(around: &Around, staged: Staged, setting: Setting) -> Result<Prepared> {
    let spec = &around.spec;
    let Staged { namespaces, root, layer, sources, devices } = staged;
    nix::unistd::setsid().doing(|| "start a session")?;
    set_names(spec)?;
    if namespaces.new.contains(CloneFlags::CLONE_NEWNET) {
        network::loopback_up()?;
    }
    sysctl::apply(spec, namespaces.all())?;

    // All of this is done from outside the new root, by descriptors that cannot lead out of it.
    mounts::mount_all(spec, &root, sources)?;
    devices::make_all(spec, &around.block_devices, &root, devices.as_ref())?;
    let pty = if has_terminal(&setting.process) {
        let pty = terminal::open(&root, setting.process.console_size())?;
        terminal::bind_console(&root, &pty)?;
        Some(pty)
    } else {
        None
    };
    masks::apply(spec, &root)?;
    identity::bind(&root)?;
    mounts::finish(spec, &root)?;
    rootfs::finish(spec, &root)?;
    rootfs::enter(spec, root)?;

    Hooks::create_container(spec, &around.identity)?.run()?;
    personality(spec)?;
    let prepared = prepare_process(setting, pty, Hooks::start_container(spec, &around.identity)?)?;
    Ok(Prepared { layer, ..prepared })
}

/// What the first and further processes of a container have in common, inside its root.
pub fn prepare_process(
    setting: Setting,
    pty: Option<terminal::Pty>,
    hooks: Hooks,
) -> Result<Prepared> {
    let Setting { process, name, seccomp, stdio } = setting;
    keyring::renew()?;
    let root = Root::open("/")?;
    let identity = user::resolve(&root, process.user(), name.as_ref())?;
    cwd::enter(&root, process.cwd())?;
    let terminal = match pty {
        Some(pty) => Some(terminal::take_over(pty, identity.uid)?),
        None => {
            user::take_stdio(stdio, &identity)?;
            None
        }
    };
    rlimits::apply(&process)?;
    scheduling::apply(&process)?;
    user::set_umask(process.user());
    let no_new_privileges = process.no_new_privileges().unwrap_or(false);
    let mut filter = seccomp.as_ref().map(seccomp::Filter::new).transpose()?;
    if !no_new_privileges && let Some(filter) = filter.take() {
        // Whoever may gain privileges needs one for it: it has to be now. Else it is done last.
        filter.load()?;
    }
    capabilities::drop_bounding(&process)?;
    user::switch(&identity)?;
    capabilities::set(&process)?;
    if no_new_privileges {
        nix::sys::prctl::set_no_new_privs().doing(|| "set no_new_privs")?;
    }
    let program = program::Program::find(&process, &identity.home)?;
    Ok(Prepared { program, terminal, layer: None, hooks, filter })
}

fn set_names(spec: &Spec) -> Result<()> {
    if let Some(name) = spec.hostname() {
        nix::unistd::sethostname(name).doing(|| format!("set the host name {name:?}"))?;
    }
    if let Some(name) = spec.domainname() {
        // SAFETY: the pointer and the length are those of one live string.
        let result = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
        nix::errno::Errno::result(result).doing(|| format!("set the domain name {name:?}"))?;
    }
    Ok(())
}

fn personality(spec: &Spec) -> Result<()> {
    use oci_spec::runtime::LinuxPersonalityDomain::{PerLinux, PerLinux32};
    const PER_LINUX32: libc::c_ulong = 8;
    let asked = spec.linux().as_ref().and_then(|linux| linux.personality().as_ref());
    let Some(personality) = asked else {
        return Ok(());
    };
    let persona = match personality.domain() {
        PerLinux => 0,
        PerLinux32 => PER_LINUX32,
    };
    // SAFETY: personality takes one integer.
    let result = unsafe { libc::personality(persona) };
    nix::errno::Errno::result(result).doing(|| "set the personality").map(drop)
}
