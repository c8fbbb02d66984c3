//! What a running sandbox takes of the host: memory and time of its two processes.
//!
//! Memory is told as the kernel tells it, by `/proc/PID/smaps`: of a page that several processes
//! have mapped, each has its proportional share, so that the shares of all sandboxes add up to what
//! is really taken. Guest memory is told from the monitor's own by the mark that the monitor gives
//! it: it is what may be written and is no part of a core dump (`dd`).

use std::fs;
use std::io;
use std::iter::Sum;
use std::ops::Add;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ampoule_protocol::message::{Reply, Request};
use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

use super::registry::{Entry, Folder, InGuest};
use super::state::Guest;
use crate::agent::Client;

/// How long an agent may take for an answer.
const GUEST_TIME: Duration = Duration::from_secs(2);

/// Why it is not known what a sandbox takes.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// another user's, or one that may not be looked into
    #[error("cannot read {}", path.display())]
    Read {
        /// the file
        path: PathBuf,
        /// why
        #[source]
        source: io::Error,
    },
    /// not as the kernel writes it
    #[error("{} is not understood: {what}", path.display())]
    Malformed {
        /// the file
        path: PathBuf,
        /// what is missing or wrong
        what: &'static str,
    },
}

/// Memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Memory {
    /// Proportional share.
    pub pss: u64,
    /// What no other process has mapped.
    pub private: u64,
    /// What others have mapped too, in full.
    pub shared: u64,
    /// Proportional share of what is swapped out.
    pub swap: u64,
}

impl Add for Memory {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            pss: self.pss.saturating_add(other.pss),
            private: self.private.saturating_add(other.private),
            shared: self.shared.saturating_add(other.shared),
            swap: self.swap.saturating_add(other.swap),
        }
    }
}

impl Sum for Memory {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), Add::add)
    }
}

/// What a sandbox takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Guest memory.
    pub guest: Memory,
    /// Everything else of the monitor.
    pub monitor: Memory,
    /// The keeper.
    pub keeper: Memory,
    /// Size of the guest's memory in bytes, touched or not.
    pub guest_size: u64,
    /// Threads of both processes.
    pub threads: u64,
    /// CPU time of both processes since they were started.
    pub cpu: Duration,
}

impl Usage {
    /// What a sandbox takes in all, in bytes of memory.
    pub fn total(&self) -> Memory {
        [self.guest, self.monitor, self.keeper].into_iter().sum()
    }
}

/// Looks at a sandbox; none where it does not run, or ends meanwhile.
///
/// # Errors
/// Files of `/proc` that may not be read: root may read all, others not even their own monitors'.
pub fn usage(entry: &Entry) -> Result<Option<Usage>, StatsError> {
    if let (Some(guest), Some(keeper)) = (&entry.state.guest, entry.state.keeper) {
        return usage_in(entry, guest, keeper);
    }
    match (entry.state.keeper, entry.state.monitor) {
        (Some(keeper), Some(monitor)) if entry.folder.is_kept() => {
            usage_of(&entry.folder, keeper, monitor)
        }
        _ => Ok(None),
    }
}

/// What a container takes that is in another's sandbox, by the account of the guest: it is a part of what that
/// one's machine takes. None where the guest does not tell.
fn usage_in(entry: &Entry, guest: &Guest, keeper: i32) -> Result<Option<Usage>, StatsError> {
    let (Some(stat), Some(memory)) =
        (read(keeper, "stat", parse_stat)?, read(keeper, "smaps_rollup", parse_smaps)?)
    else {
        return Ok(None);
    };
    if !entry.folder.is_kept() {
        return Ok(None);
    }
    let InGuest { vsock, container } = entry.in_guest();
    let mut agent = Client::open(&vsock, GUEST_TIME).ok();
    let told = agent.as_mut().and_then(|agent| agent.ask(&Request::Stats { container }).ok());
    let Some(Reply::Stats(stats)) = told else { return Ok(None) };
    let used = stats.memory.usage.current;
    let ran = stats.cpu.get("usage_usec").copied().unwrap_or(0);
    Ok(Some(Usage {
        guest: Memory { pss: used, private: used, ..Memory::default() },
        monitor: Memory::default(),
        keeper: memory.own,
        guest_size: u64::from(guest.memory_mib) << 20,
        threads: stat.threads.saturating_add(stats.pids.current),
        cpu: time(stat.ticks).saturating_add(Duration::from_micros(ran)),
    }))
}

/// The same of a sandbox that is kept in this folder, by these two processes.
///
/// # Errors
/// The same.
pub fn usage_of(folder: &Folder, keeper: i32, monitor: i32) -> Result<Option<Usage>, StatsError> {
    let (Some(keeper_stat), Some(monitor_stat)) =
        (read(keeper, "stat", parse_stat)?, read(monitor, "stat", parse_stat)?)
    else {
        return Ok(None);
    };
    let (Some(keeper_memory), Some(monitor_memory)) =
        (read(keeper, "smaps_rollup", parse_smaps)?, read(monitor, "smaps", parse_smaps)?)
    else {
        return Ok(None);
    };
    // A pid may have become another process's. The keeper is the one meant if it still holds its
    // folder, and the monitor is if it is the keeper's child.
    if monitor_stat.parent != keeper || !folder.is_kept() {
        return Ok(None);
    }
    Ok(Some(Usage {
        guest: monitor_memory.guest,
        monitor: monitor_memory.own,
        keeper: keeper_memory.own,
        guest_size: monitor_memory.guest_size,
        threads: keeper_stat.threads.saturating_add(monitor_stat.threads),
        cpu: time(keeper_stat.ticks.saturating_add(monitor_stat.ticks)),
    }))
}

/// Reads a file of a process; none where the process is gone.
fn read<T>(
    pid: i32,
    name: &str,
    parse: impl Fn(&[u8]) -> Result<T, &'static str>,
) -> Result<Option<T>, StatsError> {
    let path = Path::new("/proc").join(pid.to_string()).join(name);
    match fs::read(&path) {
        // What a process has mapped reads as nothing while it ends.
        Ok(bytes) if bytes.is_empty() => Ok(None),
        Ok(bytes) => parse(&bytes).map(Some).map_err(|what| StatsError::Malformed { path, what }),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH) => Ok(None),
            _ => Err(StatsError::Read { path, source: error }),
        },
    }
}

fn time(ticks: u64) -> Duration {
    // The kernel's interface is fixed to 100 a second on the one architecture there is.
    let second = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    let second = second.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(100);
    let whole = Duration::from_secs(ticks / u64::from(second));
    // Less than a second's ticks.
    let rest = u32::try_from(ticks % u64::from(second)).unwrap_or(0);
    whole + Duration::from_secs(1) * rest / second
}

/// What is of interest in `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: i32,
    /// CPU time in user and kernel mode, in clock ticks.
    ticks: u64,
    threads: u64,
}

/// Takes `/proc/PID/stat` apart.
fn parse_stat(bytes: &[u8]) -> Result<Stat, &'static str> {
    let text = str::from_utf8(bytes).map_err(|_| "it is not text")?;
    // The program's name, in parentheses, may hold anything.
    let (_, fields) = text.rsplit_once(')').ok_or("it has no name")?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    // Counted from the field after the name, which proc(5) calls the third.
    let field = |number: usize| fields.get(number - 3).ok_or("it is too short");
    let number = |at| field(at)?.parse::<u64>().map_err(|_| "a field is not a number");
    Ok(Stat {
        parent: field(4)?.parse().map_err(|_| "its parent is not a pid")?,
        ticks: number(14)?.saturating_add(number(15)?),
        threads: number(20)?,
    })
}

/// What a process has mapped, as far as it takes memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Mapped {
    guest: Memory,
    guest_size: u64,
    /// All that is not guest memory.
    own: Memory,
}

/// A mapping while its lines are read.
#[derive(Debug, Default)]
struct Mapping {
    writable: bool,
    not_dumped: bool,
    size: u64,
    memory: Memory,
}

/// Takes `/proc/PID/smaps` apart, or its sum, `smaps_rollup`, in which no guest memory can be told.
fn parse_smaps(bytes: &[u8]) -> Result<Mapped, &'static str> {
    let mut mapped = Mapped::default();
    let mut mapping: Option<Mapping> = None;
    for line in bytes.split(|byte| *byte == b'\n') {
        let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        let Some(first) = words.next() else {
            continue;
        };
        let Some(key) = first.strip_suffix(b":") else {
            // A new mapping: its addresses, then its permissions.
            mapped.add(mapping.take());
            let writable = words.next().is_some_and(|permissions| permissions.contains(&b'w'));
            mapping = Some(Mapping { writable, ..Mapping::default() });
            continue;
        };
        let mapping = mapping.as_mut().ok_or("a line belongs to no mapping")?;
        let target = match key {
            b"VmFlags" => {
                mapping.not_dumped = words.any(|flag| flag == b"dd");
                continue;
            }
            b"Size" => &mut mapping.size,
            b"Pss" => &mut mapping.memory.pss,
            b"SwapPss" => &mut mapping.memory.swap,
            b"Private_Clean" | b"Private_Dirty" => &mut mapping.memory.private,
            b"Shared_Clean" | b"Shared_Dirty" => &mut mapping.memory.shared,
            _ => continue,
        };
        *target = target.saturating_add(kib(words.next().unwrap_or_default())?);
    }
    mapped.add(mapping);
    Ok(mapped)
}

impl Mapped {
    fn add(&mut self, mapping: Option<Mapping>) {
        let Some(mapping) = mapping else {
            return;
        };
        // The kernel's own page in every process is not dumped either, nor can it be written.
        if mapping.writable && mapping.not_dumped {
            self.guest = self.guest + mapping.memory;
            self.guest_size = self.guest_size.saturating_add(mapping.size);
        } else {
            self.own = self.own + mapping.memory;
        }
    }
}

/// Bytes of a number of KiB.
fn kib(word: &[u8]) -> Result<u64, &'static str> {
    let number = str::from_utf8(word).ok().and_then(|word| word.parse::<u64>().ok());
    number.map(|n| n.saturating_mul(1024)).ok_or("a size is not a number")
}

#[cfg(test)]
mod tests;
