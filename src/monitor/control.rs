//! What a monitor and those who deal with it say to each other: its keeper, and other commands over
//! the control socket of a sandbox, or of `ampoule vm run`.

use serde::{Deserialize, Serialize};

use crate::vmm::config::{Export, FsConfig, MachineConfig};
use crate::vmm::devices::virtio::Counts;
use crate::vmm::rate::RateLimiter;
use crate::vmm::snapshot::state::Plugs;

/// The keeper's first message. With it come descriptors, in this order, as far as they are there: a
/// user namespace, the top of a share that is [`Export::Given`], the vsock device's listening socket, the
/// way to the host's ports, the control socket, the snapshot's state and memory, the pages that starts from
/// it touch.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MonitorConfig {
    /// The machine.
    pub machine: Start,
    /// The vsock device's socket listens already, and is handed over.
    pub vsock: bool,
    /// A socket that connections to the host's ports are asked for at is handed over.
    pub ports: bool,
    /// A socket that other commands connect to is handed over.
    pub control: bool,
    /// What the monitor gives up; without it, it keeps all of its caller's rights.
    pub jail: Option<Jailed>,
    /// Whether its threads may make but few system calls.
    pub seccomp: bool,
}

/// What a monitor gives up, as far as that has to be told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jailed {
    /// Who it becomes.
    pub identity: Identity,
    /// A user namespace in which it serves files is handed over.
    pub user_namespace: bool,
}

/// Who a monitor becomes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// The user who started it, in a user namespace that it was born into.
    #[default]
    Own,
    /// A user and group that no other process has.
    Unique(u32),
}

/// How a machine comes to life.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// From its kernel on.
    Boot(MachineConfig),
    /// From a snapshot, which is handed over, with these things plugged in.
    Restore(Plugs, TouchedPages),
}

impl Start {
    /// The directories that the machine is to serve, and slots for some.
    pub fn shares(&self) -> &[FsConfig] {
        match self {
            Self::Boot(config) => &config.shares,
            Self::Restore(plugs, _) => &plugs.shares,
        }
    }

    /// The share whose top is handed over; there is at most one.
    pub fn given_share(&mut self) -> Option<&mut FsConfig> {
        let shares = match self {
            Self::Boot(config) => &mut config.shares,
            Self::Restore(plugs, _) => &mut plugs.shares,
        };
        shares.iter_mut().find(|share| share.export == Some(Export::Given))
    }

    /// Whether the machine serves files of the host.
    pub fn serves_files(&self) -> bool {
        self.shares().iter().any(|share| share.export.is_some())
    }
}

/// What a restored machine does about the pages that starts touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TouchedPages {
    /// Nothing: it is not the start of a template.
    Ignored,
    /// They will be asked for: [`MonitorRequest::Touched`].
    Watched,
    /// They are known, and what is known is handed over.
    Known,
}

/// What is asked of a running monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum MonitorRequest {
    /// Answered with [`MonitorEvent::Timings`].
    Timings,
    /// Answered with [`MonitorEvent::Metrics`].
    Metrics,
    /// Write the pages that the guest has touched to an empty file whose descriptor comes with this.
    /// [`MonitorEvent::Done`].
    Touched,
    /// Stop the machine until [`MonitorRequest::Resume`]. [`MonitorEvent::Done`].
    Pause,
    /// Let a paused machine go on. [`MonitorEvent::Done`].
    Resume,
    /// Write the machine down, to two empty files whose descriptors come with this: its state and
    /// its memory. A machine that runs is paused meanwhile. [`MonitorEvent::Done`].
    Snapshot {
        /// So that the memory can be verified later.
        checksum: bool,
    },
    /// Plug in a network interface, whose descriptors come with this: a tap's queues, or a socket. Of
    /// the keeper alone, as all that follow. [`MonitorEvent::Done`].
    PlugNet {
        /// Into which of the machine's network devices.
        slot: u8,
        /// The device's address from now on.
        mac: Option<[u8; 6]>,
        /// What the descriptors are.
        backend: NicKind,
        /// How many frames the guest gets in a time.
        rx_rate_limiter: RateLimiter,
        /// How many it sends in a time.
        tx_rate_limiter: RateLimiter,
    },
    /// Take a network interface out. [`MonitorEvent::Done`].
    UnplugNet {
        /// Of which network device.
        slot: u8,
    },
    /// Plug in a disk, whose file's or block device's descriptor comes with this. [`MonitorEvent::Done`]
    /// when the guest has been told of its capacity, which it may need a moment to take in.
    PlugDisk {
        /// Into which of the machine's disks.
        slot: u8,
        /// How long it is, in bytes.
        bytes: u64,
        /// Refuse writes.
        read_only: bool,
        /// Its serial number, at most 20 bytes.
        serial: Option<String>,
        /// How much it does in a time.
        rate_limiter: RateLimiter,
    },
    /// Take a disk out; the guest is to have let go of it. [`MonitorEvent::Done`].
    UnplugDisk {
        /// Which of the machine's disks.
        slot: u8,
    },
}

/// Where the frames of a network interface go that is plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NicKind {
    /// To a tap interface, of which each queue is a descriptor.
    Tap,
    /// To a Unix stream socket.
    Stream,
}

/// What the monitor tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum MonitorEvent {
    /// When the machine started. `CLOCK_MONOTONIC` in microseconds.
    Timings {
        /// When the monitor's `main` was entered.
        entered_us: u64,
        /// When the first vCPU went into KVM_RUN for the first time.
        first_run_us: u64,
    },
    /// What the machine's devices have counted, in their order.
    Metrics {
        /// Each device's counts.
        devices: Vec<Counts>,
    },
    /// What was asked for is done.
    Done,
    /// What was asked for cannot be done; the machine is as it was.
    Refused {
        /// Why.
        message: String,
    },
    /// The machine could not be made.
    Failed {
        /// Why.
        message: String,
        /// The snapshot is the reason: another one, or none, may do.
        snapshot: bool,
    },
    /// A thread made a system call that it may not make; the last message.
    Violation {
        /// Its number.
        syscall: i32,
        /// What the thread does.
        thread: String,
    },
    /// The machine has ended; the last message.
    Ended {
        /// How.
        cause: Cause,
        /// The last of what the guest wrote to its console.
        console: String,
    },
}

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum Cause {
    /// The guest switched itself off or reset.
    Reset,
    /// The guest's kernel panicked.
    Panic {
        /// The kernel's message.
        message: String,
    },
    /// The keeper asked for it, or is gone.
    Stopped,
    /// KVM or the host refused to go on.
    Failed {
        /// Why.
        message: String,
    },
}

impl Cause {
    /// What a person reads.
    pub fn describe(&self) -> String {
        match self {
            Self::Reset => "the guest reset itself".into(),
            Self::Panic { message } => format!("the guest's kernel panicked: {message}"),
            Self::Stopped => "the machine was stopped".into(),
            Self::Failed { message } => message.clone(),
        }
    }
}
