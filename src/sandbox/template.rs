//! Templates: snapshots of booted sandboxes whose agent is ready and which have no container yet.
//!
//! ```text
//! <templates>/<key>/        state · memory · template.json; made with one rename(2)
//!                           touched; added by the first start that is restored from it
//! <templates>/<key>.lock    held by whoever makes that one
//! <templates>/new-<key>/    one that is being made
//! ```
//!
//! The key is made of everything that a template depends on: this program, the kernel, the
//! initramfs (each by the identity of its file, so that nothing is read), the machine's size, and
//! the processor. What a killed maker leaves is cleared away by the next.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ampoule_protocol::message::Request;
use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::container::{self, CONTAINER};
use super::error::SandboxError;
use super::guest::GuestFiles;
use super::launch::{GUEST_CID, IMAGE_DISK, LAYER_DISK, SHARE};
use super::monitored::{Monitored, wait};
use super::options::Options;
use super::shape::{Shape, Slots};
use super::spec;
use crate::agent::{Client, ClientError, EXCHANGE_TIME, ReadyListener};
use crate::monitor::control::{MonitorRequest, Start};
use crate::report::chain;
use crate::vmm::config::{DiskConfig, FsConfig, MachineConfig, NetConfig, SerialMode, VsockConfig};
use crate::vmm::host::{Host, Opened};
use crate::vmm::snapshot::format;
use nix::poll::{PollFd, PollFlags, PollTimeout};

const STATE: &str = "state";
const MEMORY: &str = "memory";
const TOUCHED: &str = "touched";
const ABOUT: &str = "template.json";
/// How the folders of templates that are being made begin.
const NEW: &str = "new-";

/// Largest `template.json` that is read, in bytes.
const ABOUT_LIMIT: u64 = 64 << 10;

/// How long an agent may take to let go of its host.
const LET_GO_TIME: Duration = Duration::from_secs(30);

/// Why a template could not be had.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// a file or folder could not be worked with
    #[error("cannot {what} {}{}", path.display(), hint(source))]
    File {
        /// what was attempted
        what: &'static str,
        /// on what
        path: PathBuf,
        /// why it failed
        #[source]
        source: io::Error,
    },
    /// the machine that is to become one
    #[error("cannot boot the sandbox that the template is made of")]
    Sandbox(#[source] Box<SandboxError>),
    /// there is none of that key
    #[error("no such template: {0}")]
    NotFound(String),
    /// a beginning that several keys share
    #[error("{0:?} is the beginning of several templates' keys: give more of it")]
    Ambiguous(String),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": no room for a template (choose another folder with --templates)"
        }
        _ => "",
    }
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TemplateError {
    let path = path.to_owned();
    move |source| TemplateError::File { what, path, source }
}

/// A template, open: it can be restored also when it is deleted meanwhile.
#[derive(Debug)]
pub struct Template {
    /// Everything but the memory.
    pub state: File,
    /// The memory.
    pub memory: File,
    /// The pages that a start touches; not known until there was one.
    pub touched: Option<File>,
    folder: PathBuf,
}

impl Template {
    /// Adds the pages that a start from it has touched: `write` puts them into a file.
    ///
    /// Whoever is first is heard; a template that is gone needs none.
    pub fn add_touched<E>(&self, write: impl FnOnce(&File) -> Result<(), E>) -> Result<(), E> {
        let Ok(new) = tempfile::NamedTempFile::new_in(&self.folder) else { return Ok(()) };
        write(new.as_file())?;
        let _ = new.persist_noclobber(self.folder.join(TOUCHED));
        Ok(())
    }
}

/// What is known of a template, in its folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Its key.
    pub key: String,
    /// Guest kernel.
    pub kernel: PathBuf,
    /// vCPUs.
    pub vcpus: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// When it was made.
    pub created: Timestamp,
    /// The memory's file, as it was when the template was made.
    memory: Identity,
    /// What it depends on.
    parts: Vec<(PathBuf, Identity)>,
}

impl About {
    /// Whether what it was made of is still there, unchanged: otherwise nothing will use it again.
    pub fn is_current(&self) -> bool {
        self.parts
            .iter()
            .all(|(path, identity)| Identity::of(path).is_ok_and(|now| now == *identity))
    }
}

/// A file's identity: another one, or a changed one, has another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::from(&fs::metadata(path)?))
    }
}

impl From<&fs::Metadata> for Identity {
    fn from(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The machine of a sandbox, with empty slots for what differs between sandboxes.
pub fn machine(guest: &GuestFiles, shape: &Shape, vsock: &Path) -> MachineConfig {
    MachineConfig {
        kernel: guest.kernel.clone(),
        initrd: Some(guest.initramfs.clone()),
        cmdline: hash_tables(shape.memory_mib),
        vcpus: shape.vcpus,
        memory_mib: shape.memory_mib,
        serial: SerialMode::Off,
        disks: disk_slots(shape.slots),
        nets: vec![NetConfig::default(); usize::from(shape.slots.nets)],
        vsock: Some(VsockConfig {
            guest_cid: GUEST_CID,
            uds_path: vsock.to_owned(),
            listener: None,
            ports: None,
        }),
        rng: true,
        balloon: true,
        shares: vec![FsConfig { tag: SHARE.into(), export: None, opened: Opened::default() }],
        host: Host::default(),
    }
}

/// The first slots of a container's machine are for its image and its writable layer, which are there from the
/// start. Those behind them, and a pod's, are for what comes later, which may be written to.
fn disk_slots(slots: Slots) -> Vec<DiskConfig> {
    let slot = |read_only, serial: Option<&str>| DiskConfig {
        path: None,
        read_only,
        serial: serial.map(str::to_owned),
        ..DiskConfig::default()
    };
    let first = match slots {
        Slots::POD => Vec::new(),
        _ => vec![slot(true, Some(IMAGE_DISK)), slot(false, Some(LAYER_DISK))],
    };
    let later = std::iter::repeat_with(|| slot(false, None));
    first.into_iter().chain(later).take(slots.disks.into()).collect()
}

/// An eighth of what Linux takes for a machine of this size, and less for TCP: a start puts hundreds of
/// names and inodes into these tables, nearly each into a page of its own that no other sandbox shares.
fn hash_tables(mib: u32) -> String {
    let (names, inodes) = (u64::from(mib) * 16, u64::from(mib) * 8);
    format!(
        "dhash_entries={names} ihash_entries={inodes} thash_entries={inodes} tcpmhash_entries=512"
    )
}

/// All templates of one folder.
#[derive(Debug, Clone)]
pub struct Templates {
    folder: PathBuf,
}

/// A template that is wanted: what its key is made of.
#[derive(Debug)]
struct Wanted<'a> {
    shape: &'a Shape,
    guest: GuestFiles,
    parts: Vec<(PathBuf, Identity)>,
    key: String,
}

impl Templates {
    /// The templates in `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The template for a machine of this shape; made now if there is none. Who makes it
    /// keeps others that want the same one waiting.
    pub fn get(&self, shape: &Shape) -> Result<Template, SandboxError> {
        let wanted = Wanted::new(shape)?;
        if let Some(template) = self.open(&wanted.key) {
            return Ok(template);
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(file("create", &self.folder))?;
        let _held = self.lock(&wanted.key, FlockArg::LockExclusive)?;
        // Somebody may have made it while this one waited.
        if let Some(template) = self.open(&wanted.key) {
            return Ok(template);
        }
        // This one's own remainder too, whose lock is held already.
        let _ = fs::remove_dir_all(self.folder.join(format!("{NEW}{}", wanted.key)));
        self.sweep();
        self.build(&wanted)?;
        self.open(&wanted.key).ok_or_else(|| TemplateError::NotFound(wanted.key.clone()).into())
    }

    /// Begins a sandbox of this shape from its template, or, where that cannot be had or restored,
    /// without one: `warn` is told why.
    pub fn begin<T>(
        &self,
        shape: &Shape,
        mut warn: impl FnMut(String),
        mut begin: impl FnMut(Option<&Template>) -> Result<T, SandboxError>,
    ) -> Result<T, SandboxError> {
        let template = match self.get(shape) {
            Ok(template) => Some(template),
            // Would be in the way of a boot, too, which tells it.
            Err(SandboxError::GuestFiles(_)) => None,
            Err(error) => {
                warn(format!("{}: the sandbox is booted instead", chain(&error)));
                None
            }
        };
        match begin(template.as_ref()) {
            Err(SandboxError::Template(reason)) => {
                warn(format!("{reason}: the sandbox is booted instead"));
                // Another start may have been faster.
                let _ = Self::key(shape).and_then(|key| Ok(self.remove(&key)?));
                begin(None)
            }
            begun => begun,
        }
    }

    /// The key of the template that [`Templates::get`] gives.
    pub fn key(shape: &Shape) -> Result<String, SandboxError> {
        Ok(Wanted::new(shape)?.key)
    }

    /// Opens a template; none that is not there, or whose memory is not what was written.
    fn open(&self, key: &str) -> Option<Template> {
        let folder = self.folder.join(key);
        let about = read_about(&folder)?;
        let state = File::open(folder.join(STATE)).ok()?;
        let memory = File::open(folder.join(MEMORY)).ok()?;
        let identity = Identity::from(&memory.metadata().ok()?);
        if identity != about.memory {
            // Nobody but its maker writes to it: whatever this is, it is not the template.
            let _ = fs::remove_dir_all(&folder);
            return None;
        }
        let touched = File::open(folder.join(TOUCHED)).ok();
        Some(Template { state, memory, touched, folder })
    }

    fn build(&self, wanted: &Wanted<'_>) -> Result<(), SandboxError> {
        let path = &self.folder.join(format!("{NEW}{}", wanted.key));
        fs::DirBuilder::new().mode(0o700).create(path).map_err(file("create", path))?;
        let built = self.fill(wanted, path);
        if built.is_err() {
            let _ = fs::remove_dir_all(path);
        }
        built
    }

    /// Fills the folder of a new template, and puts it in its place.
    fn fill(&self, wanted: &Wanted<'_>, path: &Path) -> Result<(), SandboxError> {
        snapshot(wanted, path)?;
        let parts = wanted.parts.clone();
        let memory = Identity::of(&path.join(MEMORY)).map_err(file("look at", path))?;
        let about = About {
            key: wanted.key.clone(),
            kernel: wanted.guest.kernel.clone(),
            vcpus: wanted.shape.vcpus,
            memory_mib: wanted.shape.memory_mib,
            created: Timestamp::now(),
            memory,
            parts,
        };
        let json = serde_json::to_vec(&about).map_err(io::Error::other);
        json.and_then(|json| fs::write(path.join(ABOUT), json)).map_err(file("write to", path))?;
        let target = self.folder.join(&wanted.key);
        // A remainder that could not be opened.
        let _ = fs::remove_dir_all(&target);
        File::open(path)
            .and_then(|folder| folder.sync_all())
            .and_then(|()| fs::rename(path, &target))
            .map_err(file("put in its place", &target))?;
        Ok(())
    }

    /// Takes the lock that the maker of a template holds.
    fn lock(&self, key: &str, how: FlockArg) -> Result<Flock<File>, TemplateError> {
        let path = self.folder.join(format!("{key}.lock"));
        loop {
            let lock = File::create(&path).map_err(file("create", &path))?;
            let held =
                Flock::lock(lock, how).map_err(|(_, errno)| file("lock", &path)(errno.into()))?;
            let ours = held.metadata().map_err(file("look at", &path))?;
            // Whoever removes a template removes its lock: one that is no longer there locks nothing.
            if fs::metadata(&path)
                .is_ok_and(|now| (now.dev(), now.ino()) == (ours.dev(), ours.ino()))
            {
                return Ok(held);
            }
        }
    }

    /// Clears away what killed makers have left: the new templates that nobody is making.
    fn sweep(&self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(key) = name.to_str().and_then(|name| name.strip_prefix(NEW)) else { continue };
            if let Ok(_held) = self.lock(key, FlockArg::LockExclusiveNonblock) {
                let _ = fs::remove_dir_all(entry.path());
                let _ = fs::remove_file(self.folder.join(format!("{key}.lock")));
            }
        }
    }

    /// Every template, oldest first.
    pub fn list(&self) -> Result<Vec<About>, TemplateError> {
        let read = match fs::read_dir(&self.folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(file("read", &self.folder))?,
        };
        let mut all: Vec<About> = read
            .flatten()
            .filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(NEW.as_bytes()))
            .filter_map(|entry| read_about(&entry.path()))
            .collect();
        all.sort_by_key(|about| about.created);
        Ok(all)
    }

    /// Bytes that a template occupies.
    pub fn occupied(&self, key: &str) -> u64 {
        let folder = self.folder.join(key);
        let bytes = |name| fs::metadata(folder.join(name)).map_or(0, |m| m.blocks() * 512);
        [STATE, MEMORY, TOUCHED, ABOUT].into_iter().map(bytes).sum()
    }

    /// Removes the template of a key, or of a key's unambiguous beginning. Sandboxes that were
    /// restored from it go on.
    pub fn remove(&self, wanted: &str) -> Result<String, TemplateError> {
        let mut found = None;
        for about in self.list()?.into_iter().filter(|about| about.key.starts_with(wanted)) {
            if found.replace(about.key).is_some() {
                return Err(TemplateError::Ambiguous(wanted.to_owned()));
            }
        }
        let key = found
            .filter(|_| !wanted.is_empty())
            .ok_or_else(|| TemplateError::NotFound(wanted.to_owned()))?;
        let folder = self.folder.join(&key);
        fs::remove_dir_all(&folder).map_err(file("remove", &folder))?;
        let _ = fs::remove_file(self.folder.join(format!("{key}.lock")));
        Ok(key)
    }

    /// Removes the templates that nothing will use again, or all, and what killed makers have left.
    pub fn prune(&self, all: bool) -> Result<Vec<String>, TemplateError> {
        self.sweep();
        let gone = self.list()?.into_iter().filter(|about| all || !about.is_current());
        gone.map(|about| self.remove(&about.key)).collect()
    }
}

impl<'a> Wanted<'a> {
    fn new(shape: &'a Shape) -> Result<Self, SandboxError> {
        let guest = GuestFiles::find(shape.kernel.as_deref())?;
        let program = PathBuf::from("/proc/self/exe");
        let mut parts = Vec::with_capacity(3);
        for path in [&guest.kernel, &guest.initramfs, &program] {
            let identity = Identity::of(path).map_err(file("look at", path))?;
            parts.push((fs::canonicalize(path).unwrap_or_else(|_| path.clone()), identity));
        }
        let machine = machine(&guest, shape, Path::new(""));
        let facts = (format::VERSION, &parts, &machine, processor());
        let facts = serde_json::to_vec(&facts).map_err(io::Error::other);
        let digest = Sha256::digest(facts.map_err(file("describe", &guest.kernel))?);
        let key = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { shape, guest, parts, key })
    }
}

/// Family, model and stepping of the processor, and its name.
fn processor() -> Vec<u32> {
    let leaves = [0, 1, 0x8000_0002, 0x8000_0003, 0x8000_0004];
    let words = leaves.map(|leaf| {
        let leaf = std::arch::x86_64::__cpuid(leaf);
        [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]
    });
    let [_, features, ..] = words;
    // All but the second leaf's ebx, which has the number of the processor that this runs on.
    let [name @ .., _] = [words[0], words[2], words[3], words[4], [0; 4]];
    let [version, ..] = features;
    name.into_iter().flatten().chain([version]).collect()
}

fn read_about(folder: &Path) -> Option<About> {
    let path = folder.join(ABOUT);
    if fs::metadata(&path).ok()?.len() > ABOUT_LIMIT {
        return None;
    }
    let about: About = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    // The key becomes a path.
    (folder.file_name()?.to_str()? == about.key).then_some(about)
}

/// Boots a sandbox in `folder`, has its agent let go of this host, and writes it down.
fn snapshot(wanted: &Wanted<'_>, folder: &Path) -> Result<(), SandboxError> {
    let boxed = |error| TemplateError::Sandbox(Box::new(error));
    // Not in the folder of the templates, whose file system may have no sockets.
    let sockets = tempfile::tempdir().map_err(SandboxError::host("cannot make a folder"))?;
    let vsock = sockets.path().join("vsock.sock");
    let create = |name| {
        let path = folder.join(name);
        File::create(&path).map_err(file("create", &path))
    };
    let (state, memory) = (create(STATE)?, create(MEMORY)?);
    let listener = ReadyListener::bind(&vsock)
        .map_err(SandboxError::host("cannot listen for the guest's agent"))?;
    let start = Start::Boot(machine(&wanted.guest, wanted.shape, &vsock));
    let control = sockets.path().join("control.sock");
    let id = format!("template-{}", std::process::id());
    let mut guest =
        Monitored::start(&id, Some(wanted.shape.size().into()), start, &vsock, &control, &[])
            .map_err(boxed)?;
    let ready = guest.await_ready(listener, None).map_err(boxed)?;
    let mut client =
        Client::open(&vsock, EXCHANGE_TIME).map_err(|e| boxed(guest.or_its_death(e)))?;
    rehearse(&mut client).map_err(|e| boxed(guest.or_its_death(e)))?;
    let networked = wanted.shape.slots == Slots::CONTAINER;
    client
        .call(&Request::BecomeTemplate { networked })
        .map_err(|e| boxed(guest.or_its_death(e)))?;
    // Both ends of both connections are gone before the snapshot: a guest that believes in one would
    // first have to be told that it is not there.
    client.end_requests().map_err(|e| boxed(guest.or_its_death(e)))?;
    await_end(&client)?;
    await_end(&ready.events)?;
    let request = MonitorRequest::Snapshot { checksum: false };
    guest.ask(request, &[state.as_fd(), memory.as_fd()]).map_err(boxed)?;
    guest.end()?;
    for (written, name) in [(state, STATE), (memory, MEMORY)] {
        written.sync_all().map_err(file("write", &folder.join(name)))?;
    }
    Ok(())
}

/// Has a container made that is never started. What the kernel makes once for all containers (the
/// pages of BPF programs, room for counters: 6 MiB, and much that is small) is then in the template,
/// which all sandboxes share, and no start waits for it.
fn rehearse(client: &mut Client) -> Result<(), SandboxError> {
    let command = vec!["/init".to_owned()];
    let options = Options { command, ..Options::default() };
    let made = spec::container("template", &ImageConfiguration::default(), &options)?;
    client.send(&Request::Create(Box::new(container::rehearsal(made))))?;
    match client.receive_created() {
        // Nothing is lost but time, later; and nothing of it is left.
        Err(ClientError::Agent(_)) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(client.call(&Request::Delete { container: CONTAINER.to_owned() })?),
    }
}

/// Waits until the agent has closed this connection.
fn await_end(connection: &impl AsFd) -> Result<(), SandboxError> {
    let mut fds = [PollFd::new(connection.as_fd(), PollFlags::POLLIN)];
    let patience = PollTimeout::try_from(LET_GO_TIME).unwrap_or(PollTimeout::MAX);
    match wait(&mut fds, patience)? {
        Some(_) => Ok(()),
        None => Err(SandboxError::host("the guest's agent does not let go of its host")(
            Errno::ETIMEDOUT.into(),
        )),
    }
}
