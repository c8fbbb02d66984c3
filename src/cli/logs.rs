//! `ampoule logs`: what a container has written.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args as ClapArgs;
use inotify::{Inotify, WatchMask};
use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::arguments::moment;
use super::{Failure, Global};
use crate::process::Process;
use crate::sandbox::log::{Entry, LogStream, Reader};
use crate::sandbox::{Registry, lifecycle};

/// Print the output of a container
///
/// Containers that are removed when they end (--rm) have a log only where they are detached.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  ampoule logs -f --tail 10 web\n  ampoule logs --since 10m -t web"
)]
pub struct Args {
    /// Go on until the container ends
    #[arg(short, long)]
    follow: bool,
    /// Print the time of each line before it
    #[arg(short, long)]
    timestamps: bool,
    /// Only the last lines, so many; "all" for all
    #[arg(short = 'n', long, value_name = "N", default_value = "all", value_parser = tail)]
    tail: Tail,
    /// Only what was written since this time (2026-01-02T15:04:05Z, Unix seconds) or so long ago (10m)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// Only what was written until then
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Timestamp>,
    /// Container, by name or id
    container: String,
}

/// How many lines of what is there are wanted; none: all.
#[derive(Debug, Clone, Copy)]
struct Tail(Option<usize>);

fn tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" => Ok(Tail(None)),
        // docker's: whatever is below zero is all.
        _ if text.starts_with('-') && text[1..].parse::<u64>().is_ok() => Ok(Tail(None)),
        _ => text.parse().map(|lines| Tail(Some(lines))).map_err(|_| "not a number".to_owned()),
    }
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let entry = Registry::new(&global.places()).find(&args.container)?;
    let path = entry.folder.log();
    // Watched before the first read, so that nothing is written unseen in between.
    let watch = args.follow.then(|| Watch::of(&entry)).transpose()?;
    let mut log = Reader::open(&path).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            let name = &entry.state.name;
            return format!(
                "container {name} has no log: it has not run, or was started with --rm"
            );
        }
        format!("cannot read the log {}: {error}", path.display())
    })?;
    let since = |line: &Entry| args.since.is_none_or(|since| line.time >= since);
    if let Tail(Some(lines)) = args.tail {
        // What is there: its size is bounded, and so is what is kept of it here.
        let mut last = VecDeque::new();
        while let Some(line) = log.read()? {
            if lines > 0 && since(&line) && args.until.is_none_or(|until| line.time <= until) {
                if last.len() == lines {
                    last.pop_front();
                }
                last.push_back(line);
            }
        }
        last.iter().try_for_each(|line| print(line, args.timestamps))?;
    }
    loop {
        let ended = watch.as_ref().map_or(Ok(true), Watch::ended)?;
        while let Some(line) = log.read()? {
            if args.until.is_some_and(|until| line.time > until) {
                return Ok(ExitCode::SUCCESS);
            }
            if since(&line) {
                print(&line, args.timestamps)?;
            }
        }
        io::stdout().flush()?;
        match &watch {
            Some(watch) if !ended => watch.wait()?,
            _ => return Ok(ExitCode::SUCCESS),
        }
    }
}

fn print(entry: &Entry, timestamps: bool) -> io::Result<()> {
    let stamp = if timestamps { format!("{} ", entry.time) } else { String::new() };
    let line = format!("{stamp}{}", entry.log);
    match entry.stream {
        LogStream::Stdout => io::stdout().write_all(line.as_bytes()),
        LogStream::Stderr => io::stderr().write_all(line.as_bytes()),
    }
}

/// Wakes when the log grows, and when the container's keeper ends.
struct Watch {
    inotify: Inotify,
    /// `None` where it has ended already.
    keeper: Option<Process>,
}

impl Watch {
    fn of(entry: &crate::sandbox::Entry) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        // Of the folder: the file may be set aside.
        let changes = WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO;
        inotify.watches().add(entry.folder.container(), changes)?;
        Ok(Self { inotify, keeper: lifecycle::keeper(entry) })
    }

    /// Whether nothing more will be written.
    fn ended(&self) -> io::Result<bool> {
        self.keeper.as_ref().map_or(Ok(true), |keeper| keeper.ends_within(Some(Duration::ZERO)))
    }

    fn wait(&self) -> io::Result<()> {
        let Some(keeper) = &self.keeper else { return Ok(()) };
        let mut fds = [
            PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN),
            PollFd::new(keeper.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut fds, PollTimeout::NONE)?;
        if fds[0].any() == Some(true) {
            // The events say nothing but that it is time to look.
            nix::unistd::read(&self.inotify, &mut [0u8; 4096])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_dockers() {
        assert_eq!(tail("all").unwrap().0, None);
        assert_eq!(tail("-1").unwrap().0, None);
        assert_eq!(tail("3").unwrap().0, Some(3));
        assert!(tail("x").is_err() && tail("-x").is_err());
    }
}
