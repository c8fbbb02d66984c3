//! A keeper in a process of its own: how `ampoule run -d` hands a container over and returns.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::SandboxError;
use super::keeper;
use super::log::Log;
use super::options::Options;
use super::places::Places;
use super::streams::Ends;
use crate::clock::now_us;
use crate::image::Store;
use crate::monitor::channel::Channel;
use crate::report::chain;

/// What the keeper is to do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Job {
    places: Places,
    options: Options,
}

/// What it tells the command that started it; once.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
enum Answer {
    Started { id: String },
    Failed { status: u8, message: String },
}

/// Why a container could not be detached.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// the keeper's own failure, in its words
    #[error("{message}")]
    Keeper {
        /// exit status for the command
        status: u8,
        /// what happened
        message: String,
    },
    /// there is no keeper, or it went without a word
    #[error("the container's keeper could not be started, or died at once")]
    Gone(#[source] io::Error),
}

impl DetachError {
    /// The keeper's exit status, 125 where there was none.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Keeper { status, .. } => *status,
            Self::Gone(_) => 125,
        }
    }
}

/// Starts a keeper for this container and waits until its program runs: the container's id.
pub fn start(places: &Places, options: &Options) -> Result<String, DetachError> {
    let (channel, theirs) = Channel::pair().map_err(DetachError::Gone)?;
    let mut child = Command::new("/proc/self/exe")
        .arg0("ampoule")
        .arg("keeper")
        .stdin(theirs)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        .process_group(0)
        .spawn()
        .map_err(DetachError::Gone)?;
    let job = Job { places: places.clone(), options: options.clone() };
    let gone = |error| DetachError::Gone(io::Error::other(error));
    channel.send(&job).map_err(gone)?;
    match channel.receive().map_err(gone)? {
        Some(Answer::Started { id }) => Ok(id),
        Some(Answer::Failed { status, message }) => {
            // Its last word: it ends now, everything cleared away.
            child.wait().map_err(DetachError::Gone)?;
            Err(DetachError::Keeper { status, message })
        }
        None => Err(DetachError::Gone(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// The keeper's life: takes its job from standard input.
pub fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let command_us = now_us();
    let channel = Channel::from_stdin()?;
    let job: Job =
        channel.receive()?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    let run = || -> Result<(), SandboxError> {
        let image = Store::open(&job.places.data)?.get(&job.options.image)?;
        let ends = |state: &super::State| {
            let log = Log::create(&job.places.log(&state.id))
                .map_err(SandboxError::host("cannot create the container's log"))?;
            Ok(Ends::Log(Arc::new(log)))
        };
        let started = |state: &super::State| {
            // The command may have been killed meanwhile; the container runs all the same.
            let _ = channel.send(&Answer::Started { id: state.id.clone() });
        };
        let (places, options) = (&job.places, &job.options);
        let kept = keeper::Job { places, image: &image, options, command_us, timings: false };
        keeper::run(&kept, ends, started).map(drop)
    };
    if let Err(error) = run() {
        let (status, message) = (error.exit_status(), chain(&error));
        // Not heard where the container had started: then its state tells.
        let _ = channel.send(&Answer::Failed { status, message });
    }
    Ok(())
}
