//! What is written down of a sandbox, for other commands to read.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::about::Contained;
use super::mounts::MountPoint;
use super::network::OnNetwork;
use super::registry::{is_id, is_valid_name};

/// Version of the state file; another one is refused.
const VERSION: u32 = 1;

/// Largest state file that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// Why a state file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// the file could not be read or written
    #[error("cannot {what} the sandbox's state {}", path.display())]
    File {
        /// read or write
        what: &'static str,
        /// the state file
        path: PathBuf,
        /// why
        #[source]
        source: io::Error,
    },
    /// it is not a state file
    #[error("the sandbox's state {} is damaged", path.display())]
    Malformed {
        /// the state file
        path: PathBuf,
        /// why
        #[source]
        source: serde_json::Error,
    },
    /// it names what no sandbox has
    #[error("the sandbox's state {} is damaged: its {what} is not valid", path.display())]
    Contents {
        /// the state file
        path: PathBuf,
        /// which field
        what: &'static str,
    },
    /// it was written by another ampoule
    #[error("the sandbox's state {} has version {version}, this ampoule reads {VERSION}", path.display())]
    Version {
        /// the state file
        path: PathBuf,
        /// its version
        version: u32,
    },
}

impl StateError {
    /// Whether there is no state: a container that is being made, or whose keeper was killed before it was
    /// written.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether what is there is not to be trusted.
    pub fn is_worthless(&self) -> bool {
        matches!(self, Self::Malformed { .. } | Self::Contents { .. })
    }
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It was made, and not started yet.
    Created,
    /// Its program runs.
    Running,
    /// All its processes stand still.
    Paused,
    /// It has ended, and its keeper will start it again.
    Restarting,
    /// It has ended; only its record is left.
    Exited,
}

impl Status {
    /// docker's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
        }
    }

    /// There is a program, be it that it stands still.
    pub fn is_running(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

/// The sandbox of another container, in which a container's program runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// Id of the container whose sandbox it is.
    pub sandbox: String,
    /// What its agent calls this container.
    pub container: String,
    /// Memory of the machine in MiB.
    pub memory_mib: u32,
    /// Its vCPUs.
    pub vcpus: u8,
}

/// A container's state file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    version: u32,
    /// Id: 64 hexadecimal digits.
    pub id: String,
    /// Name, unique among the containers. The links of names tell which it is: a container may have been
    /// renamed since this was written.
    pub name: String,
    /// Image as the user named it.
    pub image: String,
    /// File that holds the image's file system, for what is forked off this sandbox.
    #[serde(default)]
    pub rootfs: PathBuf,
    /// Program and arguments of the container.
    pub command: Vec<String>,
    /// Where it is in its life.
    pub status: Status,
    /// When it was made.
    pub created: Timestamp,
    /// When its program was started.
    pub started: Option<Timestamp>,
    /// When its program ended.
    pub finished: Option<Timestamp>,
    /// Exit code of its program.
    pub exit_code: Option<i32>,
    /// It was killed for want of memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// Why it ended, where that was not its program's doing.
    #[serde(default)]
    pub error: Option<String>,
    /// Its program has a terminal.
    pub terminal: bool,
    /// The record goes when the container ends.
    pub remove: bool,
    /// What it has mounted beside its root file system.
    #[serde(default)]
    pub mounts: Vec<MountPoint>,
    /// What it writes to its root file system is on a disk.
    #[serde(default)]
    pub layer: bool,
    /// Networks of ampoule's own that it is on while it runs.
    #[serde(default)]
    pub networks: Vec<OnNetwork>,
    /// Whose sandbox it is in while it runs, where it has none of its own.
    #[serde(default)]
    pub guest: Option<Guest>,
    /// Containers that share its sandbox.
    #[serde(default)]
    pub joined: Vec<Contained>,
    /// Pid of its first process, as the guest counts.
    #[serde(default)]
    pub init: Option<i32>,
    /// How often its keeper has started it again.
    #[serde(default)]
    pub restarts: u32,
    /// Pid of the keeper; none where there is none.
    pub keeper: Option<i32>,
    /// Pid of the monitor, a child of the keeper.
    pub monitor: Option<i32>,
}

impl State {
    /// The state of a container that nobody has started.
    pub fn new(id: String, name: String, image: String, command: Vec<String>) -> Self {
        Self {
            version: VERSION,
            id,
            name,
            image,
            rootfs: PathBuf::new(),
            command,
            status: Status::Created,
            created: Timestamp::now(),
            started: None,
            finished: None,
            exit_code: None,
            oom_killed: false,
            error: None,
            terminal: false,
            remove: false,
            mounts: Vec::new(),
            layer: false,
            networks: Vec::new(),
            guest: None,
            joined: Vec::new(),
            init: None,
            restarts: 0,
            keeper: None,
            monitor: None,
        }
    }

    /// Reads the state file at `path`.
    pub fn read(path: &Path) -> Result<Self, StateError> {
        let failed = |source| StateError::File { what: "read", path: path.to_owned(), source };
        if fs::metadata(path).map_err(failed)?.len() > LIMIT {
            return Err(failed(io::ErrorKind::FileTooLarge.into()));
        }
        let state: Self = serde_json::from_slice(&fs::read(path).map_err(failed)?)
            .map_err(|source| StateError::Malformed { path: path.to_owned(), source })?;
        if state.version != VERSION {
            return Err(StateError::Version { path: path.to_owned(), version: state.version });
        }
        match state.invalid(path) {
            Some(what) => Err(StateError::Contents { path: path.to_owned(), what }),
            None => Ok(state),
        }
    }

    /// What others act on is looked at once, here: ids and names become paths, pids get signals.
    fn invalid(&self, path: &Path) -> Option<&'static str> {
        let folder = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        if !is_id(&self.id) || folder != Some(&self.id) {
            return Some("id");
        }
        if !is_valid_name(&self.name) {
            return Some("name");
        }
        if [self.keeper, self.monitor].iter().flatten().any(|pid| *pid <= 1) {
            return Some("pid");
        }
        let valid = |guest: &Guest| is_id(&guest.sandbox) && is_valid_name(&guest.container);
        if !self.guest.as_ref().is_none_or(valid) {
            return Some("guest");
        }
        None
    }

    /// Writes the state file at `path`; a reader sees the old one or the new one, whole.
    pub fn write(&self, path: &Path) -> Result<(), StateError> {
        let failed = |source| StateError::File { what: "write", path: path.to_owned(), source };
        let bytes = serde_json::to_vec(self)
            .map_err(|source| StateError::Malformed { path: path.to_owned(), source })?;
        replace(path, &bytes).map_err(failed)
    }

    /// First 12 digits of the id, as people see it.
    pub fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }
}

/// Writes a file; a reader sees the old one or the new one, whole.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("json.new");
    let written = fs::File::create(&fresh).and_then(|mut file| file.write_all(bytes));
    if let Err(error) = written.and_then(|()| fs::rename(&fresh, path)) {
        // A full disk leaves the old one, and nothing half.
        let _ = fs::remove_file(&fresh);
        return Err(error);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The state file of a sandbox, in a folder that its id names.
    fn file() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a".repeat(64));
        fs::create_dir(&folder).unwrap();
        (dir, folder.join("state.json"))
    }

    fn state() -> State {
        State::new("a".repeat(64), "n".into(), "i".into(), vec!["sh".into()])
    }

    fn guest(sandbox: &str, container: &str) -> Guest {
        let (sandbox, container) = (sandbox.into(), container.into());
        Guest { sandbox, container, memory_mib: 512, vcpus: 1 }
    }

    #[test]
    fn what_is_written_is_read() {
        let (_dir, path) = file();
        let mut state = state();
        state.exit_code = Some(3);
        state.guest = Some(guest(&"b".repeat(64), "join-1"));
        state.write(&path).unwrap();
        assert_eq!(State::read(&path).unwrap(), state);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn another_version_is_refused_and_kept() {
        let (_dir, path) = file();
        let mut state = state();
        state.version = VERSION + 1;
        state.write(&path).unwrap();
        let error = State::read(&path).unwrap_err();
        assert!(matches!(error, StateError::Version { .. }) && !error.is_worthless());
    }

    #[test]
    fn what_would_become_a_path_or_get_a_signal_is_checked() {
        let (_dir, path) = file();
        let spoiled: [fn(&mut State); 7] = [
            |state| state.id = "../../../../x".into(),
            |state| state.id = "b".repeat(64),
            |state| state.name = "../x".into(),
            |state| state.keeper = Some(-1),
            |state| state.monitor = Some(1),
            |state| state.guest = Some(guest("../../x", "join-1")),
            |state| state.guest = Some(guest(&"a".repeat(64), "../x")),
        ];
        for spoil in spoiled {
            let mut state = state();
            spoil(&mut state);
            state.write(&path).unwrap();
            assert!(matches!(State::read(&path), Err(StateError::Contents { .. })));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..99)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("state.json");
            fs::write(&path, bytes).unwrap();
            prop_assert!(State::read(&path).is_err());
        }
    }
}
