//! Mount options, as `mounts[].options` of the specification has them: a pure parser.

use nix::mount::MsFlags;

use super::trees::Attributes;

/// Longest data string that the kernel takes (one page).
const MAX_DATA: usize = 4095;

/// What a list of options means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Flags of a new mount.
    pub flags: MsFlags,
    /// The same as changes of a mount that is there; what no option names is left alone.
    pub attributes: Attributes,
    /// Changes of the mount and of all below it.
    pub recursive: Attributes,
    /// Propagation changes, to be made one by one after the mount.
    pub propagation: Vec<MsFlags>,
    /// Whether ids are mapped.
    pub ids: Ids,
    /// A tmpfs begins with what is in the directory that it is mounted on.
    pub copy_up: bool,
    /// What the file system itself is to know.
    pub data: String,
}

/// Which mounts get mapped ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ids {
    /// None.
    #[default]
    Unmapped,
    /// The one.
    Mapped,
    /// It and all below it.
    MappedRecursively,
}

/// Why a list of options is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// it would end the data string or become two options
    #[error("mount option {0:?} has a comma or a NUL in it")]
    Malformed(String),
    /// the data is more than the kernel takes
    #[error("mount options of {0} bytes")]
    TooLong(usize),
}

/// Flags that an option sets, or clears.
fn flag(option: &str) -> Option<(bool, MsFlags)> {
    let set = |flags| Some((true, flags));
    let clear = |flags| Some((false, flags));
    match option {
        "defaults" => set(MsFlags::empty()),
        "ro" => set(MsFlags::MS_RDONLY),
        "rw" => clear(MsFlags::MS_RDONLY),
        "nosuid" => set(MsFlags::MS_NOSUID),
        "suid" => clear(MsFlags::MS_NOSUID),
        "nodev" => set(MsFlags::MS_NODEV),
        "dev" => clear(MsFlags::MS_NODEV),
        "noexec" => set(MsFlags::MS_NOEXEC),
        "exec" => clear(MsFlags::MS_NOEXEC),
        "sync" => set(MsFlags::MS_SYNCHRONOUS),
        "async" => clear(MsFlags::MS_SYNCHRONOUS),
        "dirsync" => set(MsFlags::MS_DIRSYNC),
        "remount" => set(MsFlags::MS_REMOUNT),
        "mand" => set(MsFlags::MS_MANDLOCK),
        "nomand" => clear(MsFlags::MS_MANDLOCK),
        "noatime" => set(MsFlags::MS_NOATIME),
        "atime" => clear(MsFlags::MS_NOATIME),
        "nodiratime" => set(MsFlags::MS_NODIRATIME),
        "diratime" => clear(MsFlags::MS_NODIRATIME),
        "relatime" => set(MsFlags::MS_RELATIME),
        "norelatime" => clear(MsFlags::MS_RELATIME),
        "strictatime" => set(MsFlags::MS_STRICTATIME),
        "nostrictatime" => clear(MsFlags::MS_STRICTATIME),
        "lazytime" => set(MsFlags::MS_LAZYTIME),
        "nolazytime" => clear(MsFlags::MS_LAZYTIME),
        "iversion" => set(MsFlags::MS_I_VERSION),
        "noiversion" => clear(MsFlags::MS_I_VERSION),
        "silent" => set(MsFlags::MS_SILENT),
        "loud" => clear(MsFlags::MS_SILENT),
        "bind" => set(MsFlags::MS_BIND),
        "rbind" => set(MsFlags::MS_BIND.union(MsFlags::MS_REC)),
        // Needs LOOKUP_FOLLOW to be off at each use of the mount.
        "nosymfollow" => set(MsFlags::from_bits_retain(libc::MS_NOSYMFOLLOW)),
        "symfollow" => clear(MsFlags::from_bits_retain(libc::MS_NOSYMFOLLOW)),
        _ => None,
    }
}

/// What an option changes of a mount, apart from its file system.
fn attributes(option: &str) -> Option<Attributes> {
    let set = |set| Some(Attributes { set, clear: 0 });
    let clear = |clear| Some(Attributes { set: 0, clear });
    // One of three: whichever is set takes the others' place.
    let atime = |set| Some(Attributes { set, clear: libc::MOUNT_ATTR__ATIME });
    match option {
        "ro" => set(libc::MOUNT_ATTR_RDONLY),
        "rw" => clear(libc::MOUNT_ATTR_RDONLY),
        "nosuid" => set(libc::MOUNT_ATTR_NOSUID),
        "suid" => clear(libc::MOUNT_ATTR_NOSUID),
        "nodev" => set(libc::MOUNT_ATTR_NODEV),
        "dev" => clear(libc::MOUNT_ATTR_NODEV),
        "noexec" => set(libc::MOUNT_ATTR_NOEXEC),
        "exec" => clear(libc::MOUNT_ATTR_NOEXEC),
        "nodiratime" => set(libc::MOUNT_ATTR_NODIRATIME),
        "diratime" => clear(libc::MOUNT_ATTR_NODIRATIME),
        "nosymfollow" => set(libc::MOUNT_ATTR_NOSYMFOLLOW),
        "symfollow" => clear(libc::MOUNT_ATTR_NOSYMFOLLOW),
        "noatime" => atime(libc::MOUNT_ATTR_NOATIME),
        "strictatime" => atime(libc::MOUNT_ATTR_STRICTATIME),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => atime(libc::MOUNT_ATTR_RELATIME),
        _ => None,
    }
}

/// The flags of a propagation type.
pub fn propagation(option: &str) -> Option<MsFlags> {
    Some(match option {
        "private" => MsFlags::MS_PRIVATE,
        "rprivate" => MsFlags::MS_PRIVATE.union(MsFlags::MS_REC),
        "shared" => MsFlags::MS_SHARED,
        "rshared" => MsFlags::MS_SHARED.union(MsFlags::MS_REC),
        "slave" => MsFlags::MS_SLAVE,
        "rslave" => MsFlags::MS_SLAVE.union(MsFlags::MS_REC),
        "unbindable" => MsFlags::MS_UNBINDABLE,
        "runbindable" => MsFlags::MS_UNBINDABLE.union(MsFlags::MS_REC),
        _ => return None,
    })
}

/// Sorts options into flags, attributes, propagation and the file system's own.
pub fn parse(options: &[String]) -> Result<Options, OptionsError> {
    let mut parsed = Options {
        flags: MsFlags::empty(),
        attributes: Attributes::default(),
        recursive: Attributes::default(),
        propagation: Vec::new(),
        ids: Ids::default(),
        copy_up: false,
        data: String::new(),
    };
    for option in options {
        if let Some((set, flags)) = flag(option) {
            parsed.flags.set(flags, set);
            parsed.attributes = parsed.attributes.then(attributes(option).unwrap_or_default());
        } else if let Some(flags) = propagation(option) {
            parsed.propagation.push(flags);
        } else if let Some(further) = option.strip_prefix('r').and_then(attributes) {
            parsed.recursive = parsed.recursive.then(further);
        } else if option == "idmap" {
            parsed.ids = Ids::Mapped;
        } else if option == "ridmap" {
            parsed.ids = Ids::MappedRecursively;
        } else if option == "tmpcopyup" {
            parsed.copy_up = true;
        } else if option.contains([',', '\0']) {
            return Err(OptionsError::Malformed(option.clone()));
        } else if !option.is_empty() {
            if !parsed.data.is_empty() {
                parsed.data.push(',');
            }
            parsed.data.push_str(option);
        }
    }
    if parsed.data.len() > MAX_DATA {
        return Err(OptionsError::TooLong(parsed.data.len()));
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ampoule_protocol::features::MOUNT_OPTIONS;
    use proptest::prelude::*;

    fn parsed(list: &str) -> Result<Options, OptionsError> {
        parse(&list.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn flags_propagation_and_data_are_told_apart() {
        let options = parsed("nosuid strictatime mode=755 size=65536k rslave").unwrap();
        assert_eq!(options.flags, MsFlags::MS_NOSUID | MsFlags::MS_STRICTATIME);
        assert_eq!(options.data, "mode=755,size=65536k");
        assert_eq!(options.propagation, [MsFlags::MS_SLAVE | MsFlags::MS_REC]);
        assert!(options.recursive.is_empty());
    }

    #[test]
    fn the_last_of_opposites_wins() {
        assert_eq!(parsed("ro rw").unwrap().flags, MsFlags::empty());
        assert_eq!(parsed("rw ro").unwrap().flags, MsFlags::MS_RDONLY);
        assert_eq!(parsed("rw ro").unwrap().attributes.set, libc::MOUNT_ATTR_RDONLY);
    }

    #[test]
    fn the_host_tells_of_all_options_and_no_others() {
        let is_known = |option: &str| {
            let options = parse(&[option.to_owned()]).unwrap();
            options.data.is_empty()
        };
        for option in MOUNT_OPTIONS.iter().copied() {
            assert!(is_known(option), "{option}");
            let recursive = format!("r{option}");
            assert_eq!(is_known(&recursive), MOUNT_OPTIONS.contains(&&*recursive), "{recursive}");
            let opposite = format!("no{option}");
            assert_eq!(is_known(&opposite), MOUNT_OPTIONS.contains(&&*opposite), "{opposite}");
        }
    }

    #[test]
    fn recursive_options_are_not_taken_for_others() {
        for option in ["rro", "rnosuid", "rnodev", "rnoexec", "rnoatime", "rrelatime"] {
            let options = parsed(option).unwrap();
            assert!(!options.recursive.is_empty() && options.flags.is_empty(), "{option}");
            assert_eq!(options.data, "", "{option}");
        }
        for option in ["ro", "rw", "relatime", "remount", "rbind", "rshared"] {
            assert!(parsed(option).unwrap().recursive.is_empty(), "{option}");
        }
        let atime = parsed("rnoatime rstrictatime").unwrap().recursive;
        assert_eq!(
            (atime.set, atime.clear),
            (libc::MOUNT_ATTR_STRICTATIME, libc::MOUNT_ATTR__ATIME)
        );
    }

    #[test]
    fn mapped_ids_and_copies_are_no_data() {
        assert_eq!(parsed("rbind idmap").unwrap().ids, Ids::Mapped);
        assert_eq!(parsed("rbind ridmap").unwrap().ids, Ids::MappedRecursively);
        let options = parsed("tmpcopyup size=1m").unwrap();
        assert_eq!((options.copy_up, options.data.as_str()), (true, "size=1m"));
    }

    #[test]
    fn what_is_no_option_is_refused() {
        assert!(matches!(parse(&["size=1,ro".to_owned()]), Err(OptionsError::Malformed(_))));
        assert!(matches!(parse(&["x".repeat(5000)]), Err(OptionsError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn data_never_becomes_more_options(options in prop::collection::vec(".{0,20}", 0..8)) {
            if let Ok(parsed) = parse(&options) {
                let parts = parsed.data.split(',').filter(|part| !part.is_empty()).count();
                prop_assert!(parts <= options.len());
            }
        }
    }
}
