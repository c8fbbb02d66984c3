//! `ampoule-oci kill`: a signal for a container's process, or for all of them.

use std::process::ExitCode;
use std::time::Duration;

use ampoule_protocol::message::{ProcessId, Request};
use nix::sys::signal::Signal;

use super::error::host;
use super::record::{Record, Status};
use super::{Global, OciError, guest};
use crate::sandbox::CONTAINER;

/// How long a guest may take to pass a signal on.
const SIGNAL_TIME: Duration = Duration::from_secs(10);

/// Send a signal to a container's process
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Send it to all processes of the container
    #[arg(short, long)]
    all: bool,
    /// Id of the container
    id: String,
    /// Name or number of the signal
    #[arg(default_value = "SIGTERM", value_parser = signal)]
    signal: i32,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, OciError> {
    let (held, record) = global.store().hold(&args.id)?;
    if record.status == Status::Stopped {
        // What --all is for: an ended container whose processes may have been left behind.
        return if args.all { Ok(ExitCode::SUCCESS) } else { Err(OciError::NotRunning) };
    }
    let keeper = held.folder.keeper_process();
    let killed = kill(&record, args.signal, args.all);
    if let (Err(OciError::NotRunning), Some(keeper)) = (&killed, keeper) {
        // Its program has just ended: who asks next is to hear the same of `state`.
        keeper.ends_within(Some(SIGNAL_TIME)).map_err(host("wait for the container's end"))?;
    }
    killed.map(|()| ExitCode::SUCCESS)
}

/// Sends a signal to a container that has a keeper.
pub fn kill(record: &Record, signal: i32, all: bool) -> Result<(), OciError> {
    let id = ProcessId::init(CONTAINER);
    let request = Request::Kill { id, signal, all };
    guest::call(record, &request, SIGNAL_TIME)
}

/// A signal's number, or its name with or without SIG, real-time ones as `RTMIN+N`.
pub fn signal(text: &str) -> Result<i32, String> {
    let unknown = || format!("unknown signal {text:?}");
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |base: i32, offset: &str| offset.parse::<i32>().ok().map(|n| base + n);
    let number = match name {
        "RTMIN" => Some(34),
        "RTMAX" => Some(64),
        _ if name.starts_with("RTMIN+") => real_time(34, &name[6..]),
        _ if name.starts_with("RTMAX-") => real_time(64, &format!("-{}", &name[6..])),
        _ => format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as i32),
    };
    number.filter(|number| (1..=64).contains(number)).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::signal;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGTERM", 15),
            ("sigusr1", 10),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
        ] {
            assert_eq!(signal(text), Ok(number), "{text}");
        }
        for text in ["0", "65", "-1", "SIG", "NONE", "RTMIN+99", ""] {
            assert!(signal(text).is_err(), "{text}");
        }
    }
}
