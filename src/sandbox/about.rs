//! What is told of a sandbox that is known by no name of ampoule's own: those of pods, and of `ampoule-oci`.
//! Its keeper writes it down beside its sockets, for `ampoule metrics` to read.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::registry::Folder;

/// Version of the file; another one is not read.
const VERSION: u32 = 1;

/// Largest file that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    version: u32,
    /// Who keeps it.
    pub by: By,
    /// Its id, as its callers know it.
    pub id: String,
    /// The pod, where it is one.
    #[serde(default)]
    pub pod: Option<Pod>,
    /// Pid of the keeper.
    pub keeper: i32,
    /// Pid of the monitor.
    pub monitor: i32,
    /// Its containers.
    pub containers: Vec<Contained>,
    /// When what happened in its start.
    pub moments: Moments,
}

/// Who keeps a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// `containerd-shim-ampoule-v2`
    Shim,
    /// `ampoule-oci`
    Oci,
}

impl By {
    /// One word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shim => "containerd",
            Self::Oci => "oci",
        }
    }
}

/// A pod, in Kubernetes' words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its unique id.
    pub uid: String,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contained {
    /// Its id.
    pub id: String,
    /// Its name in its pod; its id, where it has none.
    pub name: String,
    /// Its name in the guest.
    pub guest: String,
}

/// When what happened in a start, in microseconds of `CLOCK_MONOTONIC`; 0 for what did not, or is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Moments {
    /// The keeper was started.
    pub called_us: u64,
    /// It could be asked for a container.
    pub served_us: u64,
    /// It was.
    pub create_us: u64,
    /// The monitor was started.
    pub monitor_us: u64,
    /// First KVM_RUN.
    pub first_run_us: u64,
    /// The agent was awake, and its machine ready for containers.
    pub ready_us: u64,
    /// The network was joined.
    pub joined_us: u64,
    /// The first container was made.
    pub created_us: u64,
    /// The guest was restored from a template.
    pub warm: bool,
}

impl Moments {
    /// What happened from which moment to which: those of which both are known, in order.
    pub fn phases(&self) -> Vec<(&'static str, u64, u64)> {
        let guest = if self.warm { "agent awake" } else { "guest booted" };
        let machine = if self.warm { "machine restored" } else { "machine made" };
        let moments = [
            ("", self.called_us),
            ("shim started", self.served_us),
            ("asked for a container", self.create_us),
            ("monitor started", self.monitor_us),
            (machine, self.first_run_us),
            (guest, self.ready_us),
            ("network joined", self.joined_us),
            ("container created", self.created_us),
        ];
        let known: Vec<_> = moments.into_iter().filter(|(_, at)| *at > 0).collect();
        let pairs = known.iter().zip(known.iter().skip(1));
        let ordered = pairs.filter(|((_, from), (_, to))| from <= to);
        ordered.map(|((_, from), (name, to))| (*name, *from, *to)).collect()
    }
}

impl About {
    /// A sandbox that is kept by this process.
    pub fn new(by: By, id: &str, monitor: i32) -> Self {
        Self {
            version: VERSION,
            by,
            id: id.to_owned(),
            pod: None,
            keeper: i32::try_from(std::process::id()).unwrap_or(-1),
            monitor,
            containers: Vec::new(),
            moments: Moments::default(),
        }
    }

    /// Reads what is told; none where nothing is, or not by this ampoule.
    pub fn read(folder: &Folder) -> Option<Self> {
        let mut bytes = Vec::new();
        File::open(folder.about()).ok()?.take(LIMIT).read_to_end(&mut bytes).ok()?;
        let about: Self = serde_json::from_slice(&bytes).ok()?;
        (about.version == VERSION).then_some(about)
    }

    /// Writes it down, in one step: a reader has the one before, or this.
    pub fn write(&self, folder: &Folder) -> io::Result<()> {
        let path = folder.about();
        let new = path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(&new, &path)
    }
}

/// What is told of a sandbox that this process keeps, kept up to date.
#[derive(Debug)]
pub struct Told {
    folder: Folder,
    about: Mutex<About>,
}

impl Told {
    /// Tells this. What cannot be written is not read, and nobody fails for it.
    pub fn new(folder: Folder, about: About) -> Self {
        let _ = about.write(&folder);
        Self { folder, about: Mutex::new(about) }
    }

    /// The sandbox's folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// What is told now.
    pub fn about(&self) -> About {
        self.about.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells something else from now on.
    pub fn change(&self, change: impl FnOnce(&mut About)) {
        let mut about = self.about.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut about);
        let _ = about.write(&self.folder);
    }

    /// Where its metrics are read.
    pub fn socket(&self) -> PathBuf {
        self.folder.metrics()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_read_and_what_another_has_written_is_not() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder { path: place.path().to_owned(), record: place.path().to_owned() };
        assert_eq!(About::read(&folder), None);
        let told = Told::new(folder.clone(), About::new(By::Shim, "id", 7));
        let container = Contained { id: "c".into(), name: "web".into(), guest: "c0".into() };
        told.change(|about| about.containers.push(container));
        assert_eq!(About::read(&folder).unwrap(), told.about());
        for text in ["", "{}", "null", "{\"version\": 2}"] {
            fs::write(folder.about(), text).unwrap();
            assert_eq!(About::read(&folder), None, "{text}");
        }
    }

    #[test]
    fn phases_are_those_whose_moments_are_known() {
        let moments = Moments {
            create_us: 5,
            first_run_us: 9,
            ready_us: 12,
            joined_us: 11,
            warm: true,
            ..Moments::default()
        };
        assert_eq!(moments.phases(), [("machine restored", 5, 9), ("agent awake", 9, 12)]);
        assert!(Moments::default().phases().is_empty());
    }
}
