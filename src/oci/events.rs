//! `ampoule-oci events`: what a container uses, and that it lacks memory, one JSON object a line.

use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ampoule_protocol::message::{Reply, Request, Stats};
use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::error::host;
use super::record::{Record, Status};
use super::stats::Event;
use super::{Global, OciError, guest, table};
use crate::agent::{Client, ClientError, EXCHANGE_TIME};
use crate::process::Process;
use crate::report::chain;
use crate::sandbox::CONTAINER;
use crate::sandbox::monitored::wait;

/// Shortest time between two lines that tell of want of memory: a guest does not decide how many
/// there are.
const OOM_PAUSE: Duration = Duration::from_secs(1);

/// Print what a container uses, and when it lacks memory
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Time from one line to the next, such as 5s or 500ms
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    interval: Duration,
    /// Print what it uses now, and end
    #[arg(long)]
    stats: bool,
    /// Id of the container
    id: String,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, OciError> {
    let folder = global.store().folder(&args.id)?;
    let record = global.store().find(&args.id)?;
    if args.interval.is_zero() {
        return Err(OciError::Usage("duration interval must be greater than 0".into()));
    }
    let not_running = || OciError::Usage(format!("container with id {} is not running", args.id));
    if record.status == Status::Stopped {
        return Err(not_running());
    }
    if args.stats {
        print(&Event::stats(&args.id, stats(&record)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    // The handle is on the container's keeper if that still lives when the handle is there.
    let keeper =
        Process::of(record.pid).ok().filter(|_| folder.is_kept()).ok_or_else(not_running)?;
    follow(args, global, &record, &keeper)
}

/// Until the container ends.
fn follow(
    args: &Args,
    global: &Global,
    record: &Record,
    keeper: &Process,
) -> Result<ExitCode, OciError> {
    let mut next = Instant::now() + args.interval;
    let mut memory = MemoryWatch::new(record);
    loop {
        let now = Instant::now();
        memory.ask_at(now);
        let until = memory.asks_at().map_or(next, |asks| asks.min(next));
        let left = until.saturating_duration_since(now);
        // In whole milliseconds, and not before the time.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1));
        let mut fds = vec![PollFd::new(keeper.as_fd(), PollFlags::POLLIN)];
        fds.extend(memory.awaited().map(|client| PollFd::new(client.as_fd(), PollFlags::POLLIN)));
        match wait(&mut fds, timeout.unwrap_or(PollTimeout::MAX))? {
            Some(0) => return Ok(ExitCode::SUCCESS),
            Some(_) if memory.take() => print(&Event::oom(&args.id))?,
            Some(_) => {}
            None if Instant::now() >= next => {
                next += args.interval;
                match stats(record) {
                    Ok(stats) => print(&Event::stats(&args.id, stats))?,
                    // It has ended in this moment: its keeper follows.
                    Err(OciError::NotRunning) => {}
                    Err(error) => global.log().warn(&chain(&error)),
                }
                // What was missed while the guest did not answer is not made up for.
                next = next.max(Instant::now());
            }
            None => {}
        }
    }
}

fn stats(record: &Record) -> Result<Stats, OciError> {
    let request = Request::Stats { container: CONTAINER.to_owned() };
    match guest::ask(record, &request, EXCHANGE_TIME)? {
        Reply::Stats(stats) => Ok(*stats),
        _ => Err(ClientError::UnexpectedReply.into()),
    }
}

fn print(event: &Event<'_>) -> Result<(), OciError> {
    let line =
        serde_json::to_string(event).map_err(std::io::Error::other).map_err(host("write JSON"))?;
    table::print(&(line + "\n")).map(drop)
}

/// The wait for processes that are killed for want of memory.
struct MemoryWatch {
    /// None where the guest cannot tell, or does not any more.
    client: Option<Client>,
    /// As the guest told it last.
    kills: Option<u64>,
    /// When to ask next; none while an answer is awaited.
    asks_at: Option<Instant>,
}

impl MemoryWatch {
    fn new(record: &Record) -> Self {
        let client = guest::connect(record, EXCHANGE_TIME).ok();
        let asks_at = client.is_some().then(Instant::now);
        Self { client, kills: None, asks_at }
    }

    fn asks_at(&self) -> Option<Instant> {
        self.asks_at
    }

    /// Asks, where it is time to.
    fn ask_at(&mut self, now: Instant) {
        let Some(client) =
            self.client.as_mut().filter(|_| self.asks_at.is_some_and(|at| at <= now))
        else {
            return;
        };
        self.asks_at = None;
        let container = CONTAINER.to_owned();
        if client.send(&Request::AwaitOutOfMemory { container, after: self.kills }).is_err() {
            self.client = None;
        }
    }

    /// The connection on which an answer is awaited.
    fn awaited(&self) -> Option<&Client> {
        self.client.as_ref().filter(|_| self.asks_at.is_none())
    }

    /// Takes the answer: whether there were further kills.
    fn take(&mut self) -> bool {
        let reply = self.client.as_mut().map(Client::receive);
        match reply {
            Some(Ok(Reply::OutOfMemory { kills: Some(kills) }))
                if self.kills.is_none_or(|before| kills > before) =>
            {
                self.kills = Some(kills);
                self.asks_at = Some(Instant::now() + OOM_PAUSE);
                true
            }
            // The container has ended, or its guest cannot tell.
            _ => {
                self.client = None;
                self.asks_at = None;
                false
            }
        }
    }
}

/// A time in Go's words, such as `1m30s`, `1.5s` or `100ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration, such as 5s or 1m30s");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let scale = match &rest[..unit] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        seconds += number * scale;
        rest = &rest[unit..];
    }
    match Duration::try_from_secs_f64(seconds) {
        // What a clock can be asked for.
        Ok(time) if !text.is_empty() && time <= Duration::from_secs(365 * 86_400) => Ok(time),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_gos() {
        for (text, millis) in [
            ("5s", 5000),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("1.5s", 1500),
            ("0", 0),
            ("1h", 3_600_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "-5s", "5x", "1e9h", "99999999999h", "5s5", "..s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken_without_panic(text in "[0-9.smhnuµ]{0,12}|.{0,20}") {
            let _ = duration(&text);
        }
    }
}
