//! The spec's mounts, in its order. Their targets are looked up inside the container's root.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, fstat};
use oci_spec::runtime::{Mount, Spec};

use super::options::{self, Options};
use super::paths::Root;
use super::trees::{self, Attributes, Tree};
use super::users::{Ids, UserNamespace};
use super::{copy_up, path_of};
use crate::error::{Doing, Error, Result};
use crate::shares;

const NONE: Option<&str> = None;

/// What a bind mount shows, ready to be attached.
#[derive(Debug)]
pub struct Source {
    tree: Tree,
    is_directory: bool,
    /// What is left to change of it when it has been filled.
    attributes: Attributes,
}

/// Opens the sources of all bind mounts, in their order: as the guest's root, who may open all of
/// them and map their ids.
pub fn open_sources(spec: &Spec, users: Option<&UserNamespace>) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for entry in spec.mounts().iter().flatten() {
        let options = parse(entry)?;
        if is_bind(entry, &options) && !options.flags.contains(MsFlags::MS_REMOUNT) {
            sources.push(open_source(entry, &options, users)?);
        }
    }
    Ok(sources)
}

/// Mounts all.
pub fn mount_all(spec: &Spec, root: &Root, sources: Vec<Source>) -> Result<()> {
    let mut sources = sources.into_iter();
    for entry in spec.mounts().iter().flatten() {
        let options = parse(entry)?;
        if options.flags.contains(MsFlags::MS_REMOUNT) {
            remount(entry, &options, root)?;
        } else if is_bind(entry, &options) {
            let source = sources
                .next()
                .ok_or_else(|| Error::Invalid("a bind mount lacks its source".into()))?;
            bind(entry, &options, &source, root)?;
        } else {
            mount_one(entry, &options, root)?;
        }
        finish_one(entry, &options, root)?;
    }
    Ok(())
}

/// Makes those read-only at last whose inside had to be written on the way.
pub fn finish(spec: &Spec, root: &Root) -> Result<()> {
    for entry in spec.mounts().iter().flatten() {
        if is_made_read_only_last(entry, &parse(entry)?) {
            let action =
                || format!("make the mount at {} read-only", entry.destination().display());
            let target = root.open_in(entry.destination(), OFlag::O_PATH).doing(action)?;
            trees::set(&target, Attributes::READ_ONLY, false).doing(action)?;
        }
    }
    Ok(())
}

/// Checks what can be said of a mount before anything is made.
pub fn check(entry: &Mount) -> Result<()> {
    let at = entry.destination().display();
    let options = parse(entry)?;
    let bind = is_bind(entry, &options);
    if bind && !options.data.is_empty() {
        let data = &options.data;
        return Err(Error::Invalid(format!("the bind mount at {at} has options {data:?}")));
    }
    let needs_source = bind && !options.flags.contains(MsFlags::MS_REMOUNT);
    if needs_source && !entry.source().as_ref().is_some_and(|source| source.is_absolute()) {
        return Err(Error::Invalid(format!("the bind mount at {at} has no absolute source")));
    }
    let mappings = (entry.uid_mappings().is_some(), entry.gid_mappings().is_some());
    if mappings.0 != mappings.1 {
        let message = format!("mount at {at}: uidMappings and gidMappings go together");
        return Err(Error::Invalid(message));
    }
    if (mappings.0 || options.ids != options::Ids::Unmapped) && !bind {
        return Err(Error::Invalid(format!("mount at {at}: only bind mounts have mapped ids")));
    }
    if options.copy_up && !bind && entry.typ().as_deref() != Some("tmpfs") {
        return Err(Error::Invalid(format!(
            "mount at {at}: tmpcopyup needs a tmpfs or a bind mount"
        )));
    }
    match entry.source() {
        Some(source) if needs_source => shares::split(source).map(drop),
        _ => Ok(()),
    }
}

fn parse(entry: &Mount) -> Result<Options> {
    let list = entry.options().as_deref().unwrap_or_default();
    options::parse(list)
        .map_err(|e| Error::Invalid(format!("mount at {}: {e}", entry.destination().display())))
}

fn is_bind(entry: &Mount, options: &Options) -> bool {
    options.flags.contains(MsFlags::MS_BIND) || entry.typ().as_deref() == Some("bind")
}

/// Other mounts' targets, and devices, are made inside a tmpfs.
fn is_made_read_only_last(entry: &Mount, options: &Options) -> bool {
    entry.typ().as_deref() == Some("tmpfs")
        && options.flags.contains(MsFlags::MS_RDONLY)
        && !options.flags.contains(MsFlags::MS_BIND)
}

/// The source is a path of the guest, or one of a share.
fn open_source(entry: &Mount, options: &Options, users: Option<&UserNamespace>) -> Result<Source> {
    let path = entry.source().as_deref().unwrap_or(Path::new("/"));
    let action = || format!("bind {} on {}", path.display(), entry.destination().display());
    let file = match shares::split(path)? {
        Some((tag, inside)) => shares::open(tag, inside)?,
        None => open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).doing(action)?,
    };
    let kind = SFlag::from_bits_truncate(fstat(&file).doing(action)?.st_mode) & SFlag::S_IFMT;
    let tree = Tree::copy(&file, options.flags.contains(MsFlags::MS_REC)).doing(action)?;
    map_ids(entry, options, users, &tree)?;
    let attributes = options.attributes;
    let (now, later) = match options.copy_up {
        true => (Attributes::default(), attributes),
        false => (attributes, Attributes::default()),
    };
    if !now.is_empty() {
        tree.set(now, false).doing(action)?;
    }
    if !options.recursive.is_empty() {
        tree.set(options.recursive, true).doing(action)?;
    }
    Ok(Source { tree, is_directory: kind == SFlag::S_IFDIR, attributes: later })
}

/// By the mount's own mappings, or by the container's where only an option asks for it.
fn map_ids(
    entry: &Mount,
    options: &Options,
    users: Option<&UserNamespace>,
    tree: &Tree,
) -> Result<()> {
    let at = entry.destination().display();
    let own = match (entry.uid_mappings(), entry.gid_mappings()) {
        (Some(uids), Some(gids)) => {
            let uids = Ids::new("mounts[].uidMappings", Some(uids))?;
            let gids = Ids::new("mounts[].gidMappings", Some(gids))?;
            Some(UserNamespace::new(uids, gids)?)
        }
        _ if options.ids == options::Ids::Unmapped => return Ok(()),
        _ => None,
    };
    let Some(namespace) = own.as_ref().or(users) else {
        return Err(Error::Invalid(format!(
            "mount at {at}: mapped ids need uidMappings or a user namespace"
        )));
    };
    let recursive = options.ids == options::Ids::MappedRecursively;
    tree.map_ids(namespace.fd(), recursive).doing(|| format!("map the ids of the mount at {at}"))
}

fn bind(entry: &Mount, options: &Options, source: &Source, root: &Root) -> Result<()> {
    let target = if source.is_directory {
        root.make_directory(entry.destination())?
    } else {
        root.make_file(entry.destination())?
    };
    if options.copy_up {
        let action = || format!("copy up {}", entry.destination().display());
        copy_up::fill(&source.tree, &target).doing(action)?;
        source.tree.set(source.attributes, false).doing(action)?;
    }
    source.tree.attach(&target).doing(|| format!("bind on {}", entry.destination().display()))
}

fn mount_one(entry: &Mount, options: &Options, root: &Root) -> Result<()> {
    let kind = match entry.typ().as_deref().unwrap_or("none") {
        "cgroup" => "cgroup2",
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
    if options.copy_up {
        copy_from(&target, entry, options, root)?;
    }
    Ok(())
}

/// Fills a tmpfs with what it covers, and gives it the owner and mode of that unless an option
/// does.
fn copy_from(covered: &OwnedFd, entry: &Mount, options: &Options, root: &Root) -> Result<()> {
    let action = || format!("copy up {}", entry.destination().display());
    let read = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let target = root.open_in(entry.destination(), read).doing(action)?;
    // Opened through the descriptor: the name leads to the tmpfs now.
    let covered = open(path_of(covered).as_str(), read | OFlag::O_CLOEXEC, Mode::empty());
    let covered = covered.doing(action)?;
    copy_up::copy(&covered, &target).doing(action)?;
    let owns = |option: &str| ["mode=", "uid=", "gid="].iter().any(|o| option.starts_with(o));
    if options.data.split(',').any(owns) {
        return Ok(());
    }
    copy_up::like(&target, &covered).doing(action)
}

/// Changes a mount that is there.
fn remount(entry: &Mount, options: &Options, root: &Root) -> Result<()> {
    let action = || format!("remount {}", entry.destination().display());
    let mounted = root.open_in(entry.destination(), OFlag::O_PATH).doing(action)?;
    if is_bind(entry, options) {
        return trees::set(&mounted, options.attributes, false).doing(action);
    }
    let data = Some(options.data.as_str()).filter(|data| !data.is_empty());
    mount(NONE, path_of(&mounted).as_str(), NONE, options.flags, data).doing(action)
}

/// What comes after the mount itself.
fn finish_one(entry: &Mount, options: &Options, root: &Root) -> Result<()> {
    if options.propagation.is_empty() && (is_bind(entry, options) || options.recursive.is_empty()) {
        return Ok(());
    }
    let action = || format!("set the propagation of {}", entry.destination().display());
    let mounted = root.open_in(entry.destination(), OFlag::O_PATH).doing(action)?;
    if !is_bind(entry, options) && !options.recursive.is_empty() {
        trees::set(&mounted, options.recursive, true)
            .doing(|| format!("change the mounts at {}", entry.destination().display()))?;
    }
    for flags in &options.propagation {
        mount(NONE, path_of(&mounted).as_str(), NONE, *flags, NONE).doing(action)?;
    }
    Ok(())
}
