//! `ampoule logs`: what a detached container has written.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args as ClapArgs;
use inotify::{Inotify, WatchMask};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Failure, Global};
use crate::process::Process;
use crate::sandbox::log::{LogStream, read_entry};
use crate::sandbox::{Entry, Registry};

/// Print the output of a detached container
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Go on until the container ends
    #[arg(short, long)]
    follow: bool,
    /// Print the time of each line before it
    #[arg(short, long)]
    timestamps: bool,
    /// Container, by name or id
    container: String,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let places = global.places();
    let entry = Registry::new(&places).find(&args.container)?;
    let path = places.log(&entry.state.id);
    let file = File::open(&path).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            let name = &entry.state.name;
            return format!("container {name} has no log: it was not started with --detach");
        }
        format!("cannot read the log {}: {error}", path.display())
    })?;
    let mut log = BufReader::new(file);
    // Watched before the first read, so that nothing is written unseen in between.
    let watch = args.follow.then(|| Watch::of(&path, &entry)).transpose()?;
    loop {
        let ended = watch.as_ref().map_or(Ok(true), Watch::ended)?;
        while let Some(entry) = read_entry(&mut log)? {
            let stamp = if args.timestamps { format!("{} ", entry.time) } else { String::new() };
            let line = format!("{stamp}{}", entry.log);
            match entry.stream {
                LogStream::Stdout => io::stdout().write_all(line.as_bytes())?,
                LogStream::Stderr => io::stderr().write_all(line.as_bytes())?,
            }
        }
        io::stdout().flush()?;
        match &watch {
            Some(watch) if !ended => watch.wait()?,
            _ => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// Wakes when the log grows, and when the container's keeper ends.
struct Watch {
    inotify: Inotify,
    /// `None` where it has ended already.
    keeper: Option<Process>,
}

impl Watch {
    fn of(log: &Path, entry: &Entry) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        inotify.watches().add(log, WatchMask::MODIFY)?;
        let keeper = Process::of(entry.state.keeper).ok().filter(|_| entry.folder.is_kept());
        Ok(Self { inotify, keeper })
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
