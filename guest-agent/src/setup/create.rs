//! The first process of a new container: one ordered list.

use std::os::fd::OwnedFd;

use ampoule_protocol::message::UserName;
use nix::sched::CloneFlags;
use oci_spec::runtime::{Process, Spec};

use super::paths::Root;
use super::{
    Around, Prepared, capabilities, cwd, devices, has_terminal, identity, masks, mounts, network,
    program, rlimits, rootfs, sysctl, terminal, user,
};
use crate::error::{Doing, Result};

/// Sets up the container around this process, and then the process.
pub fn prepare(
    around: &Around,
    process: Process,
    name: Option<UserName>,
    stdio: Vec<OwnedFd>,
) -> Result<Prepared> {
    let spec = &around.spec;
    let namespaces = crate::spec::namespaces(spec);
    nix::unistd::setsid().doing(|| "start a session")?;
    set_names(spec)?;
    if namespaces.contains(CloneFlags::CLONE_NEWNET) {
        network::loopback_up()?;
    }
    sysctl::apply(spec, namespaces)?;

    // All of this is done from outside the new root, by descriptors that cannot lead out of it.
    let root = rootfs::mount(&around.rootfs, around.disk.as_deref())?;
    mounts::mount_all(spec, &root, namespaces)?;
    devices::make_all(spec, &root)?;
    let pty = if has_terminal(&process) {
        let pty = terminal::open(&root, process.console_size())?;
        terminal::bind_console(&root, &pty)?;
        Some(pty)
    } else {
        None
    };
    masks::apply(spec, &root)?;
    identity::bind(&root)?;
    mounts::finish(spec, &root)?;
    rootfs::finish(spec, &root)?;
    rootfs::enter(root)?;

    personality(spec)?;
    prepare_process(process, name, stdio, pty)
}

/// What the first and further processes of a container have in common, inside its root.
pub fn prepare_process(
    process: Process,
    name: Option<UserName>,
    stdio: Vec<OwnedFd>,
    pty: Option<terminal::Pty>,
) -> Result<Prepared> {
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
    user::set_umask(process.user());
    capabilities::drop_bounding(&process)?;
    user::switch(&identity)?;
    capabilities::set(&process)?;
    if process.no_new_privileges().unwrap_or(false) {
        nix::sys::prctl::set_no_new_privs().doing(|| "set no_new_privs")?;
    }
    let program = program::Program::find(&process, &identity.home)?;
    Ok(Prepared { program, terminal })
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
