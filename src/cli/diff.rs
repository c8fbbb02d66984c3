//! `ampoule diff`: what a container has changed of its root file system.

use std::io::{self, Write};
use std::process::ExitCode;

use ampoule_protocol::message::Files;
use clap::Args as ClapArgs;

use super::{Failure, Global};
use crate::image::limits::{Budget, Limits};
use crate::sandbox::archive::{Purpose, changes, visit};

/// List what a container has added (A), changed (C) and deleted (D) in its root file system
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  ampoule diff web")]
pub struct Args {
    /// Container, by name or id
    container: String,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let places = global.places();
    let mut budget = Budget::new(Limits::default(), &places.state);
    let changes = visit(&places, &args.container, Purpose::Read, |guest, _| {
        guest.read(Files::Changes, |from| changes::take(from, &mut budget))
    })?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    for (path, change) in changes {
        // A name may hold what a terminal would obey.
        let path: Vec<u8> = path
            .into_iter()
            .map(|byte| if byte.is_ascii_control() { b'?' } else { byte })
            .collect();
        write!(out, "{} ", change.letter())?;
        out.write_all(&path)?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
