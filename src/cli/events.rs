//! `ampoule events`: what happens to containers.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use inotify::{Inotify, WatchMask};
use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::arguments::{Filters, moment};
use super::format::Format;
use super::{Failure, Global};
use crate::sandbox::events::{Event, EventReader};

/// Print what happens to containers as it happens
///
/// Without --since what is to come. `die` tells the exit code, as `exec_die` does of a program of `exec`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule events --since 10m --filter event=die\n  \
    ampoule events --format json\n  ampoule events --format '{{.Action}} {{.Actor.Attributes.name}}'")]
pub struct Args {
    /// Begin with what happened at this time (2026-01-02T15:04:05Z, Unix seconds) or so long ago (10m)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// End with this time; one that is past ends the command
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Timestamp>,
    /// Only what matches: container=, event=, image=
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
    /// How to show them: text, json (an object a line), or a template such as {{.Action}}
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let filters = Filters::parse(&args.filters, &["container", "event", "image"])?;
    let places = global.places();
    std::fs::create_dir_all(&places.state)
        .map_err(|error| format!("cannot create {}: {error}", places.state.display()))?;
    let mut events = EventReader::open(&places)
        .map_err(|error| format!("cannot read {}: {error}", places.events().display()))?;
    let since = args.since.unwrap_or_else(Timestamp::now);
    let inotify = Inotify::init()?;
    // Of the folder: the file may be set aside.
    inotify
        .watches()
        .add(&places.state, WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO)?;
    loop {
        while let Some(event) = events.read()? {
            let time = Timestamp::from_nanosecond(event.time_nano.into()).unwrap_or(Timestamp::MIN);
            if args.until.is_some_and(|until| time > until) {
                return Ok(ExitCode::SUCCESS);
            }
            if time >= since && is_wanted(&event, &filters) {
                print(&event, time, &args.format)?;
            }
        }
        let left = match args.until {
            Some(until) => {
                let left = until.duration_since(Timestamp::now());
                if left.is_negative() {
                    return Ok(ExitCode::SUCCESS);
                }
                // Rounded up: the end is to be over then.
                PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        let mut fds = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, left)? > 0 {
            nix::unistd::read(&inotify, &mut [0u8; 4096])?;
        }
    }
}

fn is_wanted(event: &Event, filters: &Filters) -> bool {
    let name = event.actor.attributes.get("name");
    filters.all("container", |wanted| {
        name.is_some_and(|name| name == wanted) || wanted.len() >= 4 && event.id.starts_with(wanted)
    }) && filters.all("event", |wanted| event.action == wanted || event.word() == wanted)
        && filters.all("image", |wanted| event.from == wanted)
}

fn print(event: &Event, time: Timestamp, format: &Format) -> Result<(), Failure> {
    let line = match format.one(event)? {
        Some(line) => line,
        None => text(event, time),
    };
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// One line, whatever a command line has in it.
fn text(event: &Event, time: Timestamp) -> String {
    let attributes = event.actor.attributes.iter().map(|(key, value)| format!("{key}={value}"));
    let attributes = attributes.collect::<Vec<_>>().join(", ");
    let line = format!("{time} {} {} {} ({attributes})", event.kind, event.action, event.id);
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
