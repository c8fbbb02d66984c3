//! Mount options, as `mounts[].options` of the specification has them: a pure parser.

use nix::mount::MsFlags;

/// Longest data string that the kernel takes (one page).
const MAX_DATA: usize = 4095;

/// What a list of options means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Flags of the mount.
    pub flags: MsFlags,
    /// Propagation changes, to be made one by one after the mount.
    pub propagation: Vec<MsFlags>,
    /// What the file system itself is to know.
    pub data: String,
}

/// Why a list of options is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// the specification has it, the agent does not
    #[error("mount option {0:?} is not supported")]
    Unsupported(String),
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

/// Options of the specification that would need more than `mount(2)`.
fn is_unsupported(option: &str) -> bool {
    const RECURSIVE: [&str; 18] = [
        "rro",
        "rrw",
        "rnosuid",
        "rsuid",
        "rnodev",
        "rdev",
        "rnoexec",
        "rexec",
        "rnodiratime",
        "rdiratime",
        "rrelatime",
        "rnorelatime",
        "rnoatime",
        "ratime",
        "rstrictatime",
        "rnostrictatime",
        "rnosymfollow",
        "rsymfollow",
    ];
    RECURSIVE.contains(&option) || matches!(option, "idmap" | "ridmap" | "tmpcopyup")
}

/// Sorts options into flags, propagation and the file system's own.
pub fn parse(options: &[String]) -> Result<Options, OptionsError> {
    let mut parsed =
        Options { flags: MsFlags::empty(), propagation: Vec::new(), data: String::new() };
    for option in options {
        if let Some((set, flags)) = flag(option) {
            parsed.flags.set(flags, set);
        } else if let Some(flags) = propagation(option) {
            parsed.propagation.push(flags);
        } else if is_unsupported(option) {
            return Err(OptionsError::Unsupported(option.clone()));
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
    }

    #[test]
    fn the_last_of_opposites_wins() {
        assert_eq!(parsed("ro rw").unwrap().flags, MsFlags::empty());
        assert_eq!(parsed("rw ro").unwrap().flags, MsFlags::MS_RDONLY);
    }

    #[test]
    fn what_is_not_done_is_refused() {
        for option in ["idmap", "rro", "tmpcopyup"] {
            assert_eq!(parsed(option), Err(OptionsError::Unsupported(option.to_owned())));
        }
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
