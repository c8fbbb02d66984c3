//! How mounts are asked for: `-v`, `--mount`, `--tmpfs`, in docker's words.

use std::path::{Path, PathBuf};

use crate::sandbox::mounts::{MountKind, MountPoint};
use crate::volume::{self, random_name};

/// What a file system in memory has unless an option says otherwise (docker's).
const TMPFS: [&str; 3] = ["nosuid", "nodev", "noexec"];

/// Options of `--tmpfs` without a value.
const TMPFS_FLAGS: [&str; 21] = [
    "ro",
    "rw",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "exec",
    "noexec",
    "sync",
    "async",
    "dirsync",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "mand",
    "nomand",
];

/// Options of `--tmpfs` with a value.
const TMPFS_KEYS: [&str; 6] = ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks"];

/// Why propagation is refused.
const NO_PROPAGATION: &str =
    "the guest has mounts of its own: none is propagated to or from the host";

/// A mount of `-v [SOURCE:]TARGET[:OPTIONS]`.
pub fn volume(text: &str) -> Result<MountPoint, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => return Err("it is to be [SOURCE:]TARGET[:OPTIONS]".into()),
    };
    let (mut read_only, mut copy) = (false, true);
    for option in options.split(',').filter(|_| !options.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            "nocopy" => copy = false,
            // The host's labels are for the host's processes; and files are as consistent as can be.
            "z" | "Z" | "consistent" | "cached" | "delegated" | "private" | "rprivate" => {}
            "shared" | "rshared" | "slave" | "rslave" => {
                return Err(format!("{option}: {NO_PROPAGATION}"));
            }
            _ => return Err(format!("unknown option {option:?}")),
        }
    }
    let kind = match source {
        None => named(None, copy)?,
        Some("") => return Err("its source is empty".into()),
        Some(source) => match host_path(source) {
            Some(source) => MountKind::Bind { source, make: true },
            None => named(Some(source), copy)?,
        },
    };
    MountPoint::new(Path::new(target), read_only, kind).map_err(|error| error.to_string())
}

/// A path of the host, where it is one: names of volumes have no slash.
fn host_path(source: &str) -> Option<PathBuf> {
    let is_path = source.starts_with('/')
        || source == "."
        || source == ".."
        || source.starts_with("./")
        || source.starts_with("../");
    is_path.then(|| absolute(Path::new(source)))
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn named(name: Option<&str>, copy: bool) -> Result<MountKind, String> {
    let anonymous = name.is_none();
    let name = match name {
        Some(name) => name.to_owned(),
        None => random_name().map_err(|error| error.to_string())?,
    };
    if !volume::is_valid_name(&name) {
        return Err(volume::VolumeError::InvalidName(name).to_string());
    }
    Ok(MountKind::Volume { name, copy, anonymous })
}

/// What the fields of `--mount` say.
#[derive(Default)]
struct Fields {
    kind: Option<String>,
    source: Option<String>,
    target: Option<String>,
    read_only: bool,
    no_copy: bool,
    tmpfs: Vec<String>,
    /// Which fields of which kind there are.
    of_kind: Vec<(&'static str, String)>,
}

/// A mount of `--mount type=bind|volume|tmpfs,source=…,target=…`.
pub fn mount(text: &str) -> Result<MountPoint, String> {
    let mut fields = Fields::default();
    for field in text.split(',') {
        fields.take(field)?;
    }
    let Fields { kind, source, target, read_only, no_copy, mut tmpfs, of_kind } = fields;
    let kind = kind.as_deref().unwrap_or("volume");
    if let Some((_, field)) = of_kind.iter().find(|(of, _)| *of != kind) {
        return Err(format!("{field} is not for a mount of type {kind}"));
    }
    let target = target.ok_or("it has no target")?;
    let kind = match (kind, source) {
        ("bind", Some(source)) => {
            MountKind::Bind { source: absolute(Path::new(&source)), make: false }
        }
        ("bind", None) => return Err("a bind mount has a source".into()),
        ("volume", source) => named(source.as_deref().filter(|name| !name.is_empty()), !no_copy)?,
        ("tmpfs", None) => {
            let mut options: Vec<String> = TMPFS.map(str::to_owned).into();
            options.append(&mut tmpfs);
            MountKind::Tmpfs { options }
        }
        ("tmpfs", Some(_)) => return Err("a tmpfs has no source".into()),
        (other, _) => return Err(format!("type {other:?}: it is bind, volume or tmpfs")),
    };
    MountPoint::new(Path::new(&target), read_only, kind).map_err(|error| error.to_string())
}

impl Fields {
    fn take(&mut self, field: &str) -> Result<(), String> {
        let (key, value) = field.split_once('=').map_or((field, None), |(k, v)| (k, Some(v)));
        let valued = || value.map(str::to_owned).ok_or_else(|| format!("{key} needs a value"));
        match key {
            "type" => self.kind = Some(valued()?),
            "source" | "src" => self.source = Some(valued()?),
            "target" | "dst" | "destination" => self.target = Some(valued()?),
            "readonly" | "ro" => self.read_only = switch(key, value)?,
            "volume-nocopy" => {
                self.no_copy = switch(key, value)?;
                self.of_kind.push(("volume", key.into()));
            }
            "tmpfs-size" => {
                let bytes = super::size(&valued()?)?;
                self.tmpfs.push(format!("size={bytes}"));
                self.of_kind.push(("tmpfs", key.into()));
            }
            "tmpfs-mode" => {
                let mode = valued()?;
                let octal = u32::from_str_radix(&mode, 8).ok().filter(|mode| *mode <= 0o7777);
                let octal = octal.ok_or_else(|| format!("{mode:?} is no mode"))?;
                self.tmpfs.push(format!("mode={octal:o}"));
                self.of_kind.push(("tmpfs", key.into()));
            }
            "consistency" => drop(valued()?),
            "bind-propagation" => match valued()?.as_str() {
                "private" | "rprivate" => self.of_kind.push(("bind", key.into())),
                other => return Err(format!("bind-propagation={other}: {NO_PROPAGATION}")),
            },
            "bind-nonrecursive" | "bind-recursive" => {
                return Err(format!("{key}: what is mounted below the source comes with it"));
            }
            "volume-driver" if value == Some("local") => {}
            "volume-driver" | "volume-opt" | "volume-label" | "volume-subpath" => {
                return Err(format!(
                    "{key}: volumes are directories that ampoule keeps (ampoule volume create)"
                ));
            }
            _ => return Err(format!("unknown field {key:?}")),
        }
        Ok(())
    }
}

fn switch(key: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => Err(format!("{key}={other}: it is true or false")),
    }
}

/// A mount of `--tmpfs TARGET[:OPTIONS]`.
pub fn tmpfs(text: &str) -> Result<MountPoint, String> {
    let (target, own) = text.split_once(':').unwrap_or((text, ""));
    let mut options: Vec<String> = TMPFS.map(str::to_owned).into();
    for option in own.split(',').filter(|_| !own.is_empty()) {
        let known = match option.split_once('=') {
            Some((key, value)) => TMPFS_KEYS.contains(&key) && !value.is_empty(),
            None => TMPFS_FLAGS.contains(&option),
        };
        if !known {
            return Err(format!("unknown option {option:?} of a tmpfs"));
        }
        options.push(option.to_owned());
    }
    let kind = MountKind::Tmpfs { options };
    MountPoint::new(Path::new(target), false, kind).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bind(source: &str, make: bool) -> MountKind {
        MountKind::Bind { source: source.into(), make }
    }

    fn named(name: &str, copy: bool) -> MountKind {
        MountKind::Volume { name: name.into(), copy, anonymous: false }
    }

    fn point(target: &str, read_only: bool, kind: MountKind) -> MountPoint {
        MountPoint { target: target.into(), read_only, kind }
    }

    #[test]
    fn volumes_are_dockers() {
        let here = std::env::current_dir().unwrap();
        for (text, expected) in [
            ("/a:/b", point("/b", false, bind("/a", true))),
            ("/a:/b:ro", point("/b", true, bind("/a", true))),
            ("/a:/b/../c:ro,rw,z", point("/c", false, bind("/a", true))),
            ("./x:/b", point("/b", false, bind(here.join("x").to_str().unwrap(), true))),
            ("data:/b", point("/b", false, named("data", true))),
            ("data:/b:nocopy,ro", point("/b", true, named("data", false))),
        ] {
            assert_eq!(volume(text).unwrap(), expected, "{text}");
        }
        let anonymous = volume("/data").unwrap();
        assert_eq!(anonymous.own_volume().map(str::len), Some(64));
        for (bad, word) in [
            ("", "absolute"),
            ("a/b:/c", "volume name"),
            ("/a:b", "absolute"),
            ("/a:/", "not /"),
            (":/b", "empty"),
            ("/a:/b:ro:x", "SOURCE"),
            ("/a:/b:rshared", "propagated"),
            ("/a:/b:quick", "quick"),
        ] {
            let error = volume(bad).unwrap_err();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }

    #[test]
    fn mounts_are_dockers() {
        let tmpfs = |options: &[&str]| MountKind::Tmpfs {
            options: TMPFS.iter().chain(options).map(|&option| option.to_owned()).collect(),
        };
        for (text, expected) in [
            ("type=bind,source=/a,target=/b", point("/b", false, bind("/a", false))),
            ("type=bind,src=/a,dst=/b,readonly", point("/b", true, bind("/a", false))),
            ("type=bind,src=/a,dst=/b,ro=false", point("/b", false, bind("/a", false))),
            ("source=data,destination=/b", point("/b", false, named("data", true))),
            ("type=volume,src=data,dst=/b,volume-nocopy", point("/b", false, named("data", false))),
            (
                "type=tmpfs,dst=/b,tmpfs-size=1m,tmpfs-mode=1770",
                point("/b", false, tmpfs(&["size=1048576", "mode=1770"])),
            ),
        ] {
            assert_eq!(mount(text).unwrap(), expected, "{text}");
        }
        assert!(mount("dst=/b").unwrap().own_volume().is_some());
        for (bad, word) in [
            ("type=bind,dst=/b", "source"),
            ("type=bind,src=/a", "target"),
            ("type=npipe,src=/a,dst=/b", "npipe"),
            ("type=tmpfs,src=/a,dst=/b", "no source"),
            ("type=bind,src=/a,dst=/b,tmpfs-size=1m", "tmpfs-size"),
            ("type=bind,src=/a,dst=/b,bind-propagation=rshared", "propagated"),
            ("type=tmpfs,dst=/b,tmpfs-mode=9", "mode"),
            ("type=bind,src=/a,dst=/b,ro=maybe", "maybe"),
            ("src=data,dst=/b,volume-opt=type=nfs", "volume-opt"),
            ("src=data,dst=/b,colour=red", "colour"),
            ("src,dst=/b", "value"),
        ] {
            let error = mount(bad).unwrap_err();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }

    #[test]
    fn a_tmpfs_takes_its_own_options_alone() {
        let made = tmpfs("/run:size=64m,exec,mode=755").unwrap();
        let MountKind::Tmpfs { options } = made.kind else { panic!("{made:?}") };
        assert_eq!(options, ["nosuid", "nodev", "noexec", "size=64m", "exec", "mode=755"]);
        for bad in ["run", "/run:bind", "/run:size", "/run:mode=", "/run:,", "/run:tmpcopyup"] {
            assert!(tmpfs(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_is_at_a_plain_place(text in "[a-z/.:,=]{0,40}") {
            for mount in [volume(&text), mount(&text), tmpfs(&text)].into_iter().flatten() {
                prop_assert!(mount.target.is_absolute());
                prop_assert!(mount.target.components().count() > 1);
                prop_assert!(!mount.target.components().any(|part| part.as_os_str() == ".."));
                if let MountKind::Volume { name, .. } = &mount.kind {
                    prop_assert!(volume::is_valid_name(name));
                }
                if let MountKind::Bind { source, .. } = &mount.kind {
                    prop_assert!(source.is_absolute());
                }
            }
        }
    }
}
