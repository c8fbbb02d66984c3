//! What a container has mounted beside its root file system: directories and files of the host, volumes,
//! file systems in memory. What a user asks for, and what its guest is given.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, FileType};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

use ampoule_protocol::SHARES;
use nix::unistd::geteuid;
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{Mount, Spec};
use serde::{Deserialize, Serialize};

use super::launch::SHARE;
use super::places::Places;
use super::registry::{Entry, Registry};
use crate::vmm::config::Share;
use crate::volume::{Held, Record, VolumeError, VolumeStore, random_name};

/// Devices that every guest has, under the same numbers as the host.
const GUEST_DEVICES: [&str; 6] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

/// Most mounts of a container, its image's volumes included.
const MOST: usize = 256;

/// The option by which the agent fills what it mounts, if there is nothing in it, with what is covered.
const COPY_UP: &str = "tmpcopyup";

/// Why a container cannot have what is to be mounted in it.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// a place that cannot be one
    #[error("invalid mount path {0:?}: it must be an absolute path, and not /")]
    Target(PathBuf),
    /// two mounts at one place
    #[error("duplicate mount point: {}", .0.display())]
    Duplicate(PathBuf),
    /// more than anybody needs
    #[error("a container has at most {MOST} mounts, the volumes of its image included")]
    TooMany,
    /// the host's directory or file
    #[error("cannot mount {}: cannot {what} it", path.display())]
    Source {
        /// which
        path: PathBuf,
        /// what was attempted
        what: &'static str,
        /// why it failed
        #[source]
        source: io::Error,
    },
    /// what has no meaning in a guest
    #[error("cannot mount {}: it {reason}", path.display())]
    Unsupported {
        /// which
        path: PathBuf,
        /// why not
        reason: &'static str,
    },
    /// what a user without root cannot do
    #[error(
        "cannot mount a directory of the host or a volume at {}: who serves its files needs rights over \
         them that root alone can give away; run ampoule as root, or use --tmpfs", .0.display()
    )]
    NeedsRoot(PathBuf),
    /// a volume
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

/// A mount that a user, or an image, asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountPoint {
    /// Where the container sees it.
    pub target: PathBuf,
    /// Whether the container may only read.
    pub read_only: bool,
    /// What it is.
    pub kind: MountKind,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MountKind {
    /// A directory or a file of the host.
    Bind {
        /// Its absolute path.
        source: PathBuf,
        /// A directory is made where nothing is.
        make: bool,
    },
    /// A volume, which is made where there is none.
    Volume {
        /// Its name.
        name: String,
        /// Filled, while there is nothing in it, with what the image has at that place.
        copy: bool,
        /// Made for this container: it goes with it.
        anonymous: bool,
    },
    /// A file system in memory.
    Tmpfs {
        /// In the words of mount(8).
        options: Vec<String>,
    },
}

impl MountPoint {
    /// A mount at a place, which is made plain.
    pub fn new(target: &Path, read_only: bool, kind: MountKind) -> Result<Self, MountError> {
        Ok(Self { target: plain(target)?, read_only, kind })
    }

    /// The volume that it is of.
    pub fn volume(&self) -> Option<&str> {
        match &self.kind {
            MountKind::Volume { name, .. } => Some(name),
            _ => None,
        }
    }

    /// The volume that goes with its container.
    pub fn own_volume(&self) -> Option<&str> {
        match &self.kind {
            MountKind::Volume { name, anonymous: true, .. } => Some(name),
            _ => None,
        }
    }

    /// Whether the guest gets it from the host.
    pub fn is_shared(&self) -> bool {
        !matches!(self.kind, MountKind::Tmpfs { .. })
    }
}

/// An absolute path without `.` and `..`, below the root.
fn plain(path: &Path) -> Result<PathBuf, MountError> {
    let refused = || MountError::Target(path.to_owned());
    if !path.is_absolute() || path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(refused());
    }
    let mut plain = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => drop(plain.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if plain == Path::new("/") { Err(refused()) } else { Ok(plain) }
}

/// Refuses two mounts at one place, and more than there may be.
pub fn check(mounts: &[MountPoint]) -> Result<(), MountError> {
    if mounts.len() > MOST {
        return Err(MountError::TooMany);
    }
    let mut targets: Vec<&Path> = mounts.iter().map(|mount| mount.target.as_path()).collect();
    targets.sort_unstable();
    match targets.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(MountError::Duplicate(pair[0].to_owned())),
        None => Ok(()),
    }
}

/// Adds a volume of its own for each place that the image declares one at and that has no mount yet.
pub fn add_declared(
    mounts: &mut Vec<MountPoint>,
    image: &ImageConfiguration,
) -> Result<(), MountError> {
    let declared = image.config().as_ref().and_then(|config| config.volumes().clone());
    for place in declared.unwrap_or_default() {
        let target = plain(Path::new(&place))?;
        if mounts.iter().all(|mount| mount.target != target) {
            let kind = MountKind::Volume { name: random_name()?, copy: true, anonymous: true };
            mounts.push(MountPoint { target, read_only: false, kind });
        }
    }
    check(mounts)
}

/// What a container has mounted, as its guest gets it. Its volumes stay while this is held.
#[derive(Debug, Default)]
pub struct Mounted {
    /// For the container's specification, in its order.
    pub mounts: Vec<Mount>,
    /// What the guest sees of the host's, by name in [`SHARE`].
    pub shares: BTreeMap<String, Share>,
    _volumes: Vec<Held>,
}

impl Mounted {
    /// Makes what is to be made, and looks at what is there.
    pub fn prepare(places: &Places, mounts: &[MountPoint]) -> Result<Self, MountError> {
        if !geteuid().is_root()
            && let Some(mount) = mounts.iter().find(|mount| mount.is_shared())
        {
            return Err(MountError::NeedsRoot(mount.target.clone()));
        }
        let mut prepared = Self::default();
        let mut mounts: Vec<&MountPoint> = mounts.iter().collect();
        // What is mounted inside of another mount comes after it.
        mounts.sort_by_key(|mount| mount.target.components().count());
        for (number, mount) in mounts.into_iter().enumerate() {
            let name = format!("m{number}");
            let mut options: Vec<String> = Vec::new();
            let mut share = |path: &Path, read_only| {
                let share = Share { path: path.to_owned(), read_only };
                prepared.shares.insert(name.clone(), share);
                options.push("rbind".into());
            };
            let kind = match &mount.kind {
                MountKind::Bind { source, make } => {
                    find(source, *make)?;
                    share(source, mount.read_only);
                    "bind"
                }
                MountKind::Volume { name, copy, anonymous } => {
                    let record = || Record { anonymous: *anonymous, ..Record::now() };
                    let held = VolumeStore::new(&places.data).take(name, record)?;
                    // Also where the container may only read, it is filled first.
                    let fill = *copy && held.is_empty();
                    share(&held.volume.mountpoint, mount.read_only && !fill);
                    if fill {
                        options.push(COPY_UP.into());
                    }
                    prepared._volumes.push(held);
                    "bind"
                }
                MountKind::Tmpfs { options: own } => {
                    options.clone_from(own);
                    "tmpfs"
                }
            };
            if mount.read_only {
                options.push("ro".into());
            }
            let mut entry = Mount::default();
            let source = match kind {
                "bind" => Path::new(SHARES).join(SHARE).join(&name),
                kind => kind.into(),
            };
            entry.set_destination(mount.target.clone());
            entry.set_typ(Some(kind.into()));
            entry.set_source(Some(source));
            entry.set_options(Some(options));
            prepared.mounts.push(entry);
        }
        Ok(prepared)
    }

    /// Adds them to a specification, in the place of what it has at the same places.
    pub fn add_to(&self, spec: &mut Spec) {
        let mut all = spec.mounts().clone().unwrap_or_default();
        let replaced =
            |mount: &Mount| self.mounts.iter().any(|own| own.destination() == mount.destination());
        all.retain(|mount| !replaced(mount));
        all.extend(self.mounts.iter().cloned());
        spec.set_mounts(Some(all));
    }
}

/// Looks for a directory or a file of the host.
fn find(source: &Path, make: bool) -> Result<(), MountError> {
    let failed =
        |what| move |error| MountError::Source { path: source.to_owned(), what, source: error };
    let found = match fs::metadata(source) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && make => {
            return fs::create_dir_all(source).map_err(failed("make"));
        }
        found => found.map_err(failed("find"))?,
    };
    match other_end(source, found.file_type()) {
        Some(reason) => Err(MountError::Unsupported { path: source.to_owned(), reason }),
        None => Ok(()),
    }
}

/// Why what is at a path of the host cannot be had in a guest; none where it can.
pub fn other_end(path: &Path, kind: FileType) -> Option<&'static str> {
    if kind.is_socket() {
        Some("is a socket, behind which there is nobody in a guest")
    } else if kind.is_fifo() {
        Some("is a named pipe, whose other end would not be in the guest")
    } else if kind.is_block_device() {
        Some("is a disk of the host")
    } else if kind.is_char_device() && !GUEST_DEVICES.iter().any(|device| path == Path::new(device))
    {
        Some("is a device of the host")
    } else {
        None
    }
}

/// The containers that have each volume, those that do not run included.
pub fn users(entries: &[Entry]) -> HashMap<String, Vec<String>> {
    let mut users: HashMap<String, Vec<String>> = HashMap::new();
    for entry in entries {
        for volume in entry.state.mounts.iter().filter_map(MountPoint::volume) {
            users.entry(volume.to_owned()).or_default().push(entry.state.short_id().to_owned());
        }
    }
    users
}

/// Removes the volumes that were made for one container, whose record is gone. One that another container has
/// by now stays.
pub fn remove_own(registry: &Registry, mounts: &[MountPoint]) {
    let mut own = mounts.iter().filter_map(MountPoint::own_volume).peekable();
    if own.peek().is_none() {
        return;
    }
    let Ok(entries) = registry.list() else { return };
    let (store, users) = (VolumeStore::new(&registry.places().data), users(&entries));
    for name in own {
        // It can be removed later, as any volume.
        let _ = store.remove(name, users.get(name).map_or(&[][..], Vec::as_slice));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn places(data: &Path) -> Places {
        Places { data: data.to_owned(), state: data.join("state"), templates: None }
    }

    fn bind(source: &Path, target: &str, make: bool) -> MountPoint {
        let kind = MountKind::Bind { source: source.to_owned(), make };
        MountPoint::new(Path::new(target), false, kind).unwrap()
    }

    #[test]
    fn places_are_made_plain_and_the_root_is_none() {
        let tmpfs = || MountKind::Tmpfs { options: Vec::new() };
        let target =
            |path: &str| MountPoint::new(Path::new(path), false, tmpfs()).map(|m| m.target);
        assert_eq!(target("/a/./b/../c//").unwrap(), Path::new("/a/c"));
        for bad in ["/", "/a/..", "a", "", "/../.."] {
            assert!(matches!(target(bad), Err(MountError::Target(_))), "{bad}");
        }
    }

    #[test]
    fn outer_mounts_come_first_and_replace_what_was_there() {
        let data = tempfile::tempdir().unwrap();
        let [inner, outer] = [bind(data.path(), "/x/y", false), bind(data.path(), "/x", false)];
        let made = Mounted::prepare(&places(data.path()), &[inner.clone(), outer]).unwrap();
        let targets: Vec<_> = made.mounts.iter().map(|m| m.destination().clone()).collect();
        assert_eq!(targets, [Path::new("/x"), Path::new("/x/y")]);
        assert_eq!(made.shares.len(), 2);
        let mut spec: Spec = serde_json::from_value(json!({
            "ociVersion": "1.2.0",
            "mounts": [{"destination": "/x/y", "type": "tmpfs"}, {"destination": "/proc", "type": "proc"}],
        }))
        .unwrap();
        made.add_to(&mut spec);
        assert_eq!(spec.mounts().as_ref().unwrap().len(), 3);
        assert!(matches!(check(&[inner.clone(), inner]), Err(MountError::Duplicate(_))));
    }

    #[test]
    fn what_is_not_there_is_made_or_refused() {
        let data = tempfile::tempdir().unwrap();
        let missing = data.path().join("a/b");
        let with = |make| Mounted::prepare(&places(data.path()), &[bind(&missing, "/x", make)]);
        assert!(matches!(with(false), Err(MountError::Source { .. })));
        assert!(!missing.exists());
        with(true).unwrap();
        assert!(missing.is_dir());
        let socket = data.path().join("s");
        let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let refused = Mounted::prepare(&places(data.path()), &[bind(&socket, "/s", true)]);
        assert!(matches!(refused, Err(MountError::Unsupported { .. })));
    }

    #[test]
    fn an_empty_volume_is_filled_once_and_an_images_own_goes_with_its_container() {
        let data = tempfile::tempdir().unwrap();
        let image: ImageConfiguration = serde_json::from_value(json!({
            "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []},
            "history": [], "config": {"Volumes": {"/data": {}, "/other/": {}}},
        }))
        .unwrap();
        let mut mounts = vec![bind(data.path(), "/other", false)];
        add_declared(&mut mounts, &image).unwrap();
        assert_eq!(mounts.len(), 2);
        let before = mounts.clone();
        add_declared(&mut mounts, &image).unwrap();
        assert_eq!(mounts, before);

        let fills = |made: &Mounted| {
            let options = made.mounts.iter().flat_map(|mount| mount.options().iter().flatten());
            options.filter(|option| *option == COPY_UP).count()
        };
        let made = Mounted::prepare(&places(data.path()), &mounts).unwrap();
        assert_eq!(fills(&made), 1);
        let volume = &VolumeStore::new(data.path()).list().unwrap()[0];
        assert!(volume.record.anonymous);
        fs::write(volume.mountpoint.join("x"), "").unwrap();
        drop(made);
        assert_eq!(fills(&Mounted::prepare(&places(data.path()), &mounts).unwrap()), 0);
        remove_own(&Registry::new(&places(data.path())), &mounts);
        assert!(VolumeStore::new(data.path()).list().unwrap().is_empty());
    }
}
