//! The signals that a keeper passes on to its container's program.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What docker's `--sig-proxy` passes on, as far as it makes sense between two kernels.
const PASSED_ON: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// Signals as events: blocked for the whole process, read from a descriptor.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks them. To be called before the process has a second thread, which inherits that.
    pub fn block() -> io::Result<Self> {
        let mask: SigSet = PASSED_ON.into_iter().collect();
        mask.thread_block()?;
        Self::of(&mask)
    }

    /// None: they do to this process what they do to any.
    pub fn none() -> io::Result<Self> {
        Self::of(&SigSet::empty())
    }

    fn of(mask: &SigSet) -> io::Result<Self> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self { fd: SignalFd::with_flags(mask, flags)? })
    }

    /// The next one that has arrived.
    pub fn next(&self) -> io::Result<Option<Signal>> {
        let Some(info) = self.fd.read_signal()? else {
            return Ok(None);
        };
        let number = i32::try_from(info.ssi_signo).map_err(io::Error::other)?;
        Ok(Some(Signal::try_from(number)?))
    }
}

impl AsFd for Signals {
    /// Readable when one has arrived.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A signal by number or name, with or without SIG.
pub fn parse(text: &str) -> Result<Signal, String> {
    let unknown = |_| format!("unknown signal {text:?}");
    if let Ok(number) = text.parse::<i32>() {
        return Signal::try_from(number).map_err(unknown);
    }
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    name.parse().map_err(unknown)
}

/// So many requests to end in a row, and a program that does not heed them is not waited for
/// (docker's number).
const REQUESTS: u32 = 3;

/// Requests further apart than this are not in a row: a program may live with an interrupt now and
/// then.
const IN_A_ROW: Duration = Duration::from_secs(10);

/// A caller's patience with a program that is deaf to requests to end.
#[derive(Debug, Default)]
pub struct Patience {
    asked: u32,
    last: Option<Instant>,
}

impl Patience {
    /// Whether it is over with this signal.
    pub fn is_over(&mut self, signal: Signal, now: Instant) -> bool {
        if !matches!(signal, Signal::SIGINT | Signal::SIGTERM) {
            return false;
        }
        let in_a_row = self.last.is_some_and(|last| now.duration_since(last) <= IN_A_ROW);
        self.asked = if in_a_row { self.asked + 1 } else { 1 };
        self.last = Some(now);
        self.asked >= REQUESTS
    }
}

/// Whether the signal asks a program to end.
pub fn ends(signal: Signal) -> bool {
    matches!(signal, Signal::SIGHUP | Signal::SIGINT | Signal::SIGQUIT | Signal::SIGTERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends_with_three_requests_in_a_row() {
        let mut patience = Patience::default();
        let start = Instant::now();
        let mut ask =
            |signal, seconds| patience.is_over(signal, start + Duration::from_secs(seconds));
        assert!(!ask(Signal::SIGINT, 0));
        assert!(!ask(Signal::SIGINT, 20));
        assert!(!ask(Signal::SIGTERM, 25));
        assert!(!ask(Signal::SIGUSR1, 26));
        assert!(ask(Signal::SIGINT, 30));
    }

    #[test]
    fn signals_go_by_name_and_number() {
        for text in ["15", "TERM", "term", "SIGTERM"] {
            assert_eq!(parse(text), Ok(Signal::SIGTERM));
        }
        assert!(parse("SIGNOPE").is_err() && parse("0").is_err());
    }
}
