//! The spec's mounts, in its order. Their targets are looked up inside the container's root.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use oci_spec::runtime::{Mount, Spec};

use super::options::{self, Options, OptionsError};
use super::path_of;
use super::paths::Root;
use crate::error::{Doing, Error, Result};

const NONE: Option<&str> = None;

/// Mounts all.
pub fn mount_all(spec: &Spec, root: &Root, namespaces: CloneFlags) -> Result<()> {
    for entry in spec.mounts().iter().flatten() {
        let options = parse(entry)?;
        let own_cgroup = namespaces.contains(CloneFlags::CLONE_NEWCGROUP);
        mount_one(entry, &options, root, own_cgroup)?;
    }
    Ok(())
}

/// Makes those read-only at last whose inside had to be written on the way.
pub fn finish(spec: &Spec, root: &Root) -> Result<()> {
    for entry in spec.mounts().iter().flatten() {
        let options = parse(entry)?;
        if is_made_read_only_last(entry, &options) {
            let action =
                || format!("make the mount at {} read-only", entry.destination().display());
            let target = root.open_in(entry.destination(), OFlag::O_PATH).doing(action)?;
            remount(&target, options.flags).doing(action)?;
        }
    }
    Ok(())
}

fn parse(entry: &Mount) -> Result<Options> {
    let list = entry.options().as_deref().unwrap_or_default();
    options::parse(list).map_err(|e| match e {
        OptionsError::Unsupported(option) => Error::Unsupported(format!("mount option {option:?}")),
        other => Error::Invalid(format!("mount at {}: {other}", entry.destination().display())),
    })
}

/// Other mounts' targets, and devices, are made inside a tmpfs.
fn is_made_read_only_last(entry: &Mount, options: &Options) -> bool {
    entry.typ().as_deref() == Some("tmpfs")
        && options.flags.contains(MsFlags::MS_RDONLY)
        && !options.flags.contains(MsFlags::MS_BIND)
}

fn mount_one(entry: &Mount, options: &Options, root: &Root, own_cgroup: bool) -> Result<()> {
    let kind = entry.typ().as_deref().unwrap_or("none");
    if options.flags.contains(MsFlags::MS_BIND) || kind == "bind" {
        return bind(entry, &source(entry)?, options, root);
    }
    let kind = match kind {
        "cgroup" | "cgroup2" if own_cgroup => "cgroup2",
        "cgroup" | "cgroup2" => {
            return Err(Error::Unsupported("a cgroup mount without a cgroup namespace".into()));
        }
        kind => kind,
    };
    let mut flags = options.flags;
    if is_made_read_only_last(entry, options) {
        flags.remove(MsFlags::MS_RDONLY);
    }
    let action = || format!("mount {kind} on {}", entry.destination().display());
    let target = root.make_directory(entry.destination())?;
    let data = Some(options.data.as_str()).filter(|data| !data.is_empty());
    let source = entry.source().clone().unwrap_or_else(|| PathBuf::from(kind));
    mount(Some(&source), path_of(&target).as_str(), Some(kind), flags, data).doing(action)?;
    set_propagation(entry, options, root)
}

fn source(entry: &Mount) -> Result<PathBuf> {
    match entry.source() {
        Some(source) if source.is_absolute() => Ok(source.clone()),
        _ => {
            let target = entry.destination().display();
            Err(Error::Invalid(format!("the bind mount at {target} has no absolute source")))
        }
    }
}

/// The source is a path of the guest.
fn bind(entry: &Mount, source: &Path, options: &Options, root: &Root) -> Result<()> {
    if !options.data.is_empty() {
        let target = entry.destination().display();
        let data = &options.data;
        return Err(Error::Invalid(format!("the bind mount at {target} has options {data:?}")));
    }
    let action = || format!("bind {} on {}", source.display(), entry.destination().display());
    let is_directory = std::fs::metadata(source).doing(action)?.is_dir();
    let target = if is_directory {
        root.make_directory(entry.destination())?
    } else {
        root.make_file(entry.destination())?
    };
    let flags = MsFlags::MS_BIND | (options.flags & MsFlags::MS_REC);
    mount(Some(source), path_of(&target).as_str(), NONE, flags, NONE).doing(action)?;
    let further = options.flags - MsFlags::MS_BIND - MsFlags::MS_REC;
    if !further.is_empty() {
        let mounted = root.open_in(entry.destination(), OFlag::O_PATH).doing(action)?;
        remount(&mounted, further).doing(action)?;
    }
    set_propagation(entry, options, root)
}

/// Gives one mount other flags; its file system keeps its own.
fn remount(mounted: &OwnedFd, flags: MsFlags) -> nix::Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags;
    mount(NONE, path_of(mounted).as_str(), NONE, flags, NONE)
}

fn set_propagation(entry: &Mount, options: &Options, root: &Root) -> Result<()> {
    for flags in &options.propagation {
        let action = || format!("set the propagation of {}", entry.destination().display());
        let mounted = root.open_in(entry.destination(), OFlag::O_PATH).doing(action)?;
        mount(NONE, path_of(&mounted).as_str(), NONE, *flags, NONE).doing(action)?;
    }
    Ok(())
}
