//! The messages.
//!
//! Unknown fields are ignored, so that a field can be added without a new version; unknown
//! requests are answered with [`ErrorKind::Unsupported`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::{LinuxResources, Process, Spec};
use serde::{Deserialize, Serialize};

pub use crate::network::{Cidr, Interface, Neighbour, NetworkNamespace, Pod, Route};

/// First message of either side on the ready and on every RPC connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::VERSION`] of the sender.
    pub version: u32,
    /// Guest's `CLOCK_MONOTONIC` in microseconds when its agent was entered; 0 from the host.
    #[serde(default)]
    pub entered_us: u64,
    /// Guest's `CLOCK_MONOTONIC` in microseconds when this was sent; 0 from the host.
    #[serde(default)]
    pub ready_us: u64,
}

/// First (and only framed) message on a stream connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamHello {
    /// The name that the request's [`Stdio`] gives this stream. The connection may come before or
    /// after that request: the agent pairs them.
    pub token: String,
}

/// Names of a process's streams; `None` is `/dev/null`.
///
/// Tokens are chosen by the host and used once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stdio {
    /// Host → process.
    pub stdin: Option<String>,
    /// Process → host.
    pub stdout: Option<String>,
    /// Process → host.
    pub stderr: Option<String>,
    /// Both ways, in place of the other three, where the process has a terminal
    /// (`process.terminal` of the spec).
    pub terminal: Option<String>,
}

/// Where a container's root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum RootfsSource {
    /// A block device of the guest, found by its virtio serial number (`/sys/block/*/serial`).
    Block {
        /// Serial number that the host gave the disk (at most 20 bytes).
        serial: String,
        /// File system on it: `erofs` or `ext4`.
        fstype: String,
        /// How long it is, in sectors of 512 bytes, where it was plugged in while the guest ran: then it
        /// is looked for anew, and waited for until the guest's kernel has taken that in.
        #[serde(default)]
        sectors: Option<u64>,
        /// Options to mount it with, in the words of `mounts[].options` of the specification; those that
        /// are a file system's own included. Whether it is mounted read-only is for
        /// [`Rootfs::writable`] to say.
        #[serde(default)]
        options: Vec<String>,
    },
    /// A directory that the guest has already, such as one on a shared file system.
    Directory {
        /// Absolute path in the agent's own mount namespace.
        path: PathBuf,
    },
    /// A directory of a shared file system (virtio-fs), which the agent mounts below
    /// [`crate::SHARES`] when it is first asked for.
    Share {
        /// Tag that the host gave the device: 1 to 36 of `[A-Za-z0-9_.-]`, not starting with `.`
        /// or `-`.
        tag: String,
        /// Path below the share's own root; no `..`, and no symbolic link leads out of the share.
        /// Empty: the root itself.
        path: PathBuf,
    },
}

/// What takes the writes to a root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum WritableLayer {
    /// None: the container sees the source itself, read-only.
    None,
    /// The source itself: of a [`RootfsSource::Block`], an `ext4` that no other container has.
    /// `root.readonly` of the spec still holds.
    Source,
    /// An overlay whose upper directory is on a tmpfs.
    Tmpfs {
        /// Size limit in bytes; the guest's default (half its memory) where absent.
        size: Option<u64>,
    },
    /// An overlay whose upper directory is on a disk: what is synced lasts longer than the guest.
    Disk {
        /// Serial number that the host gave the disk, on which there is an `ext4` that no other container
        /// has.
        serial: String,
        /// As in [`RootfsSource::Block`].
        #[serde(default)]
        sectors: Option<u64>,
    },
}

/// A container's root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rootfs {
    /// What is mounted.
    pub source: RootfsSource,
    /// What takes the writes.
    pub writable: WritableLayer,
}

/// The user that a container's process runs as, where the host could not resolve it: the agent
/// looks names up in the root file system's own `/etc/passwd` and `/etc/group`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserName {
    /// `user`, `uid`, `user:group`, `uid:gid` and the mixtures, as in an image's `Config.User`.
    pub user: String,
    /// Further groups, by name or number.
    #[serde(default)]
    pub groups: Vec<String>,
}

/// A new container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Create {
    /// Name of the container inside the sandbox: 1 to 64 of `[A-Za-z0-9_.-]`, not starting with
    /// `.` or `-`.
    pub container: String,
    /// The OCI `config.json`. `root.path` is ignored, the root file system is [`Create::rootfs`].
    ///
    /// Sources of bind mounts are paths of the guest; those below [`crate::SHARES`]`/TAG` are paths
    /// of the share TAG, under the rules of [`RootfsSource::Share`].
    pub spec: Box<Spec>,
    /// What hooks that run in the guest are told about the container.
    #[serde(default)]
    pub identity: HookState,
    /// Its root file system.
    pub rootfs: Rootfs,
    /// Disks that it has as devices, at most [`Create::MAX_BLOCK_DEVICES`]: what they are numbered in the
    /// guest, the host does not know.
    #[serde(default)]
    pub block_devices: Vec<BlockDevice>,
    /// Replaces the spec's uid, gid and additional groups where given.
    #[serde(default)]
    pub user: Option<UserName>,
    /// Small files that are the container's own, at most [`Create::MAX_FILES`]. The agent writes each to
    /// [`Create::file`], from where the spec's mounts take it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<SmallFile>,
    /// The [first](Interface::is_first) interface will be added ([`Request::Network`]), to a network namespace
    /// that it has for itself: the agent may have made both ready.
    #[serde(default)]
    pub networked: bool,
    /// Streams of its first process.
    #[serde(default)]
    pub stdio: Stdio,
}

/// A file that a container gets from its host, such as the one with its name servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmallFile {
    /// Its name: 1 to 64 of `[A-Za-z0-9_.-]`, not starting with `.` or `-`.
    pub name: String,
    /// What is in it.
    pub contents: String,
}

impl Create {
    /// Most files that a container gets.
    pub const MAX_FILES: usize = 8;

    /// Where the agent writes a file of a container.
    pub fn file(container: &str, name: &str) -> PathBuf {
        [crate::FILES, container, name].iter().collect()
    }

    /// Most disks that a container has as devices.
    pub const MAX_BLOCK_DEVICES: usize = 32;
}

/// A disk of the guest that a container has as a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockDevice {
    /// Where the container finds it.
    pub path: PathBuf,
    /// Serial number that the host gave the disk (at most 20 bytes).
    pub serial: String,
    /// As in [`RootfsSource::Block`].
    #[serde(default)]
    pub sectors: Option<u64>,
    /// Permissions of the device node.
    pub mode: u32,
    /// Its owner, as the container counts users.
    #[serde(default)]
    pub uid: u32,
    /// Its group, as the container counts groups.
    #[serde(default)]
    pub gid: u32,
    /// The container may not write to it.
    #[serde(default)]
    pub read_only: bool,
}

/// What the host knows of a container and hooks want to: parts of the specification's state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookState {
    /// The container's ID as the caller of the runtime knows it; [`Create::container`] where empty.
    #[serde(default)]
    pub id: String,
    /// Path of the bundle on the host.
    #[serde(default)]
    pub bundle: PathBuf,
}

/// A further process in a running container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Exec {
    /// The container.
    pub container: String,
    /// Name of the new process, unique in the container; the first process is named `init`.
    pub process: String,
    /// The OCI process. Capabilities, environment and the rest are taken as they stand.
    pub spec: Box<Process>,
    /// Replaces the process's uid, gid and additional groups where given.
    #[serde(default)]
    pub user: Option<UserName>,
    /// Take capabilities, environment, user and limits of the container's first process where
    /// `spec` does not name its own (what `docker exec` does).
    #[serde(default)]
    pub inherit: bool,
    /// Its streams.
    #[serde(default)]
    pub stdio: Stdio,
}

/// Names one process of one container.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// The container.
    pub container: String,
    /// The process; `init` is the container's first.
    #[serde(default = "init")]
    pub process: String,
}

fn init() -> String {
    INIT.to_owned()
}

/// Name of a container's first process.
pub const INIT: &str = "init";

impl ProcessId {
    /// The first process of `container`.
    pub fn init(container: &str) -> Self {
        Self { container: container.to_owned(), process: init() }
    }
}

/// What a restored guest takes from its host: what no two guests may share, and what has become old
/// while the snapshot lay.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wake {
    /// Fresh random bytes for the kernel's pool, as hexadecimal digits: [`Wake::SEED_BYTES`] bytes.
    pub seed: String,
    /// The host's wall clock: nanoseconds since 1970.
    pub realtime_ns: u64,
    /// Machine id of the guest: 32 hexadecimal digits.
    pub machine_id: String,
    /// Boot id that containers see: a UUID in its usual form.
    pub boot_id: String,
    /// Host name of the guest, and of each container that is in it already.
    pub hostname: String,
}

impl Wake {
    /// Bytes of [`Wake::seed`].
    pub const SEED_BYTES: usize = 64;
}

impl std::fmt::Debug for Wake {
    /// Without the seed: what a log shows, others can read.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wake").field("hostname", &self.hostname).finish_non_exhaustive()
    }
}

/// What the host asks of the agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Make a container and its first process, which waits for [`Request::Start`].
    /// Answered with [`Reply::Created`].
    Create(Box<Create>),
    /// Make the namespaces of a pod ([`crate::network::POD_NAMESPACES`]), which its containers join:
    /// once, before the first of them. [`Reply::Done`].
    Pod(Box<Pod>),
    /// Move network devices of the machine to a namespace and set them up as interfaces there, beside
    /// those that it has already. All of them or none. [`Reply::Done`].
    Network {
        /// Whose.
        namespace: NetworkNamespace,
        /// Which, at most [`crate::network::MAX_INTERFACES`].
        interfaces: Vec<Interface>,
    },
    /// Take an interface out of a namespace: its device can be given away anew. [`Reply::Done`].
    RemoveInterface {
        /// Whose.
        namespace: NetworkNamespace,
        /// [`Interface::slot`] of its device.
        slot: u8,
        /// Its name.
        name: String,
    },
    /// Write files anew that a container has got with [`Create::files`]: it sees them at once. One that it has not
    /// got is refused. [`Reply::Done`].
    WriteFiles {
        /// The container.
        container: String,
        /// Which, and what is in them.
        files: Vec<SmallFile>,
    },
    /// Connect to a TCP port of the pod's loopback interface. [`Reply::Done`]; from there on the
    /// connection carries what is sent to and fro, with half-close. No request may follow on it.
    Forward {
        /// The port.
        port: u16,
    },
    /// Look at files of a container that has not ended, read or write them. But for [`Files::Look`], which is
    /// answered with [`Reply::Path`]: [`Reply::Done`], and from there on the connection carries an archive
    /// ([`crate::archive`]) or the like in chunks, and behind their end how it went: [`Reply::Done`] or
    /// [`Reply::Error`]. No request may follow on it.
    Files {
        /// The container.
        container: String,
        /// What of it.
        wanted: Files,
    },
    /// Let a created container's first process execute its program. [`Reply::Done`].
    Start(ProcessId),
    /// Run a further process at once. [`Reply::Created`].
    Exec(Box<Exec>),
    /// Send a signal. [`Reply::Done`].
    Kill {
        /// To which process.
        id: ProcessId,
        /// Signal number of Linux on x86_64, 1 to 64.
        signal: i32,
        /// To all processes of the container.
        #[serde(default)]
        all: bool,
    },
    /// Set a terminal's size. [`Reply::Done`].
    Resize {
        /// Of which process.
        id: ProcessId,
        /// Rows.
        rows: u16,
        /// Columns.
        columns: u16,
    },
    /// Answered with [`Reply::Exited`] once the process has ended and its output has been handed
    /// over whole; at once where that is so already.
    Wait(ProcessId),
    /// The processes of a container. [`Reply::Processes`].
    Processes {
        /// The container.
        container: String,
        /// What is known of each is asked for, too.
        #[serde(default)]
        table: bool,
    },
    /// Answered with [`Reply::OutOfMemory`] once a further process of a container was killed for want
    /// of memory, or the container has ended.
    AwaitOutOfMemory {
        /// The container.
        container: String,
        /// How many such kills are known already; those that were before the request where it is
        /// absent.
        #[serde(default)]
        after: Option<u64>,
    },
    /// Change the limits of a container. What the resources do not name stays as it is; device rules
    /// stay in any case. [`Reply::Done`].
    Update {
        /// The container.
        container: String,
        /// `linux.resources` of the specification.
        resources: Box<LinuxResources>,
    },
    /// Freeze all processes of a container. [`Reply::Done`] once they stand still.
    Pause {
        /// The container.
        container: String,
    },
    /// The end of [`Request::Pause`]. [`Reply::Done`].
    Resume {
        /// The container.
        container: String,
    },
    /// What a container uses. [`Reply::Stats`].
    Stats {
        /// The container.
        container: String,
    },
    /// Forget an ended container: kill what is left, unmount, remove its cgroup. [`Reply::Done`].
    Delete {
        /// The container.
        container: String,
    },
    /// Get ready for a snapshot that later guests are restored from: let go of the host, so that no
    /// connection is open but the one that this came on. [`Reply::Done`]; the host then closes that
    /// one too, and the agent waits for [`Request::Wake`].
    BecomeTemplate {
        /// Its guests' first containers are mostly [networked](Create::networked), and no pods'.
        #[serde(default)]
        networked: bool,
    },
    /// First request to a guest that was restored from a snapshot: take what makes it another guest
    /// than its twins, before anything else is asked of it. [`Reply::Done`].
    Wake(Box<Wake>),
    /// Make this the connection that carries [`Event`]s, in place of the one before. Not answered;
    /// no request may follow on it.
    Events,
    /// Before a snapshot of a guest with containers: from here on a stream whose connection breaks
    /// is not the process's loss, but waits for [`Request::Attach`] or [`Request::Release`].
    /// [`Reply::Done`].
    Hold,
    /// The end of [`Request::Hold`]: streams without a connection are let go of (input ends, output
    /// is thrown away). [`Reply::Done`].
    Release,
    /// Give a process whose streams wait new ones. [`Reply::Done`].
    Attach {
        /// Which process.
        id: ProcessId,
        /// Its streams.
        stdio: Stdio,
    },
    /// End the guest: kill every container, sync, reset the machine. Answered with
    /// [`Reply::Done`] before the reset.
    Shutdown,
    /// A request that this side does not know: what any other name is read as. Answered with
    /// [`ErrorKind::Unsupported`].
    #[serde(other)]
    Unknown,
}

/// What is done with files of a container. Paths are the container's own: all that it has mounted is seen, and
/// links lead where they do for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Files {
    /// Tell what is at a path.
    Look {
        /// The path.
        path: String,
        /// If it is a link, what that leads to.
        follow: bool,
    },
    /// Read a file with all that is below it: an archive, in which it is called `.`.
    Read {
        /// The path.
        path: String,
        /// If it is a link, what that leads to.
        follow: bool,
    },
    /// Write the files of an archive, which the host sends.
    Write {
        /// The directory that they go to.
        path: String,
    },
    /// Tell what the container has changed of its root file system: records of `A` (added), `C` (changed) or
    /// `D` (deleted), the path without a slash in front, and a NUL.
    Changes,
    /// Read what it has changed, as a layer of an image.
    Layer,
}

/// A file of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathInfo {
    /// It is a directory.
    pub directory: bool,
    /// Where a symbolic link leads.
    pub link: Option<String>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// The process's own exit code, or 128 + signal.
    pub code: i32,
    /// The kernel killed a process of the container because it was out of memory.
    #[serde(default)]
    pub oom_killed: bool,
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// It is done.
    Done,
    /// The process is there.
    Created {
        /// Its pid in the guest's outermost pid namespace.
        pid: i32,
    },
    /// It has ended.
    Exited(ExitStatus),
    /// Pids as the guest's outermost pid namespace counts them.
    Processes {
        /// The pids.
        pids: Vec<i32>,
        /// What is known of those that have not ended meanwhile, where it was asked for: of the first
        /// 4096.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        table: Vec<ProcessRow>,
    },
    /// Processes of the container were killed for want of memory.
    OutOfMemory {
        /// How many since it was made; absent where it has ended.
        kills: Option<u64>,
    },
    /// What the container uses.
    Stats(Box<Stats>),
    /// What is at a path.
    Path {
        /// Absent where nothing is.
        info: Option<PathInfo>,
    },
    /// It could not be done.
    Error(AgentError),
}

/// A process of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessRow {
    /// Its pid in the guest's outermost pid namespace.
    pub pid: i32,
    /// The same of its parent.
    pub parent: i32,
    /// Its effective user in the guest's outermost user namespace.
    pub uid: u32,
    /// Time since it was started, in milliseconds.
    pub age_ms: u64,
    /// Time that it has run on a processor, in milliseconds.
    pub cpu_ms: u64,
    /// Its controlling terminal, such as `pts/0`; empty where it has none.
    pub terminal: String,
    /// Its command line, arguments apart by spaces, or its name in brackets.
    pub command: String,
}

/// What a container uses, as its control group of version 2 counts it. What the guest's kernel does
/// not count is absent or 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// `cpu.stat`, every line: times in microseconds.
    pub cpu: BTreeMap<String, u64>,
    /// Memory.
    pub memory: MemoryStats,
    /// `pids.current`.
    pub pids: Usage,
    /// `io.stat`.
    pub io: Vec<IoStats>,
    /// `hugetlb.SIZE.*` by page size, such as `2MB`: usage in bytes.
    pub hugetlb: BTreeMap<String, Usage>,
    /// Pressure stall information by controller: `cpu`, `memory`, `io`.
    pub pressure: BTreeMap<String, Pressure>,
}

/// A number that is used of a number that may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Now.
    pub current: u64,
    /// At most until now, where that is counted.
    pub peak: Option<u64>,
    /// The limit; none where there is none.
    pub limit: Option<u64>,
    /// How often the limit was in the way.
    pub failures: u64,
}

/// Memory of a container, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryStats {
    /// `memory.current`, `.peak`, `.max`, and `max` of `memory.events`.
    pub usage: Usage,
    /// The same of `memory.swap`: without memory, as version 2 counts it.
    pub swap: Usage,
    /// `memory.stat`, every line.
    pub stat: BTreeMap<String, u64>,
}

/// What a container read from and wrote to one disk of the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IoStats {
    /// Major number of the disk.
    pub major: u32,
    /// Minor number of the disk.
    pub minor: u32,
    /// The line's numbers: `rbytes`, `wbytes`, `dbytes` (discarded) in bytes, `rios`, `wios`,
    /// `dios` in operations.
    pub counts: BTreeMap<String, u64>,
}

/// Time that tasks waited for a resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pressure {
    /// At least one task waited.
    pub some: PressureLine,
    /// All tasks waited.
    pub full: PressureLine,
}

/// A line of pressure stall information.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PressureLine {
    /// Share of the last 10 seconds, in hundredths of a percent.
    pub avg10: u32,
    /// Share of the last 60 seconds, in hundredths of a percent.
    pub avg60: u32,
    /// Share of the last 300 seconds, in hundredths of a percent.
    pub avg300: u32,
    /// In all, in microseconds.
    pub total: u64,
}

/// What the agent tells without being asked, on the ready connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A process of the container was killed for want of memory.
    OutOfMemory {
        /// The container.
        container: String,
    },
    /// The agent cannot go on, and why; the guest resets after this.
    Fatal {
        /// What happened.
        message: String,
    },
}

/// A failed request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct AgentError {
    /// What a program may act on.
    pub kind: ErrorKind,
    /// What a person reads: what happened, to what.
    pub message: String,
}

impl AgentError {
    /// An error of a kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// Kinds of failure that callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// No such container or process.
    NotFound,
    /// A container or process of that name is there already.
    AlreadyExists,
    /// Not in this state (not running, already started).
    WrongState,
    /// The request or the spec is not valid.
    InvalidArgument,
    /// The container's program was not found (a shell's 127).
    CommandNotFound,
    /// The container's program could not be executed (a shell's 126).
    CommandNotExecutable,
    /// The spec asks for something that a guest cannot honour.
    Unsupported,
    /// Anything else: the guest's kernel refused.
    Internal,
}
