//! What a keeper and its monitor say to each other.

use serde::{Deserialize, Serialize};

use crate::vmm::config::MachineConfig;

/// The keeper's first message.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MonitorConfig {
    /// The machine.
    pub machine: MachineConfig,
}

/// What the keeper asks of a running monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum MonitorRequest {
    /// Answered with [`MonitorEvent::Timings`].
    Timings,
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
    /// The machine could not be made.
    Failed {
        /// Why.
        message: String,
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
