//! A keeper in a process of its own: how `ampoule run -d` hands a container over and returns.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::error::SandboxError;
use super::fork::{Fork, Frozen};
use super::keeper::{self, Source, Wanted};
use super::keeper_socket::{self, Sockets};
use super::log::Log;
use super::options::Options;
use super::outlet::{self, Outlet};
use super::places::Places;
use super::registry::Kept;
use super::streams::Ends;
use crate::clock::now_us;
use crate::monitor::channel::{Channel, ChannelError};
use crate::report::chain;

/// What the keeper is to do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Job {
    places: Places,
    what: What,
}

/// Which container a keeper is for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A new container; sockets for its streams may come as descriptors.
    Run(Box<Options>),
    /// A container that nobody keeps; as above.
    Start(String),
    /// A clone; the guest's state and memory come as descriptors.
    Fork(Box<Fork>),
}

/// Most descriptors that come along: a fork's state, memory and disk, or output, errors and input.
const DESCRIPTORS: usize = 3;

/// What it tells the command that started it: how that went, and, to one that is still there, the end.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
enum Answer {
    Started { id: String },
    Failed { status: u8, message: String },
    Ended { code: u8 },
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
    hand_over(places, What::Run(Box::new(options.clone())), &[]).map(|(id, _)| id)
}

/// Starts a keeper for the container with this id, that nobody keeps, and waits until its program runs.
pub fn restart(places: &Places, id: &str) -> Result<(), DetachError> {
    hand_over(places, What::Start(id.to_owned()), &[]).map(drop)
}

/// Starts a keeper for this fork and waits until it runs: its id.
pub fn fork(places: &Places, fork: &Fork, frozen: &Frozen) -> Result<String, DetachError> {
    let mut guest = vec![frozen.state.as_fd(), frozen.memory.as_fd()];
    guest.extend(frozen.layer.as_ref().map(AsFd::as_fd));
    hand_over(places, What::Fork(Box::new(fork.clone())), &guest).map(|(id, _)| id)
}

/// A container that was started with somebody attached to it.
#[derive(Debug)]
pub struct Fronted {
    /// Its id.
    pub id: String,
    /// Its streams.
    pub near: outlet::Attachment,
    /// Who keeps it.
    pub keeper: Told,
}

/// What a keeper tells the command that started it.
#[derive(Debug)]
pub struct Told(Channel);

impl Told {
    /// Waits for the container's last end: its exit code; none where its keeper went without a word.
    pub fn outcome(self) -> Result<Option<u8>, DetachError> {
        match self.0.receive() {
            Ok(Some(Answer::Ended { code })) => Ok(Some(code)),
            Ok(Some(Answer::Failed { status, message })) => {
                Err(DetachError::Keeper { status, message })
            }
            _ => Ok(None),
        }
    }
}

/// Starts a keeper for a container and waits until its program runs, whose streams are the caller's from the
/// first byte on.
pub fn front(places: &Places, what: What) -> Result<Fronted, DetachError> {
    let Sockets { near, far } = keeper_socket::sockets(true).map_err(DetachError::Gone)?;
    let far: Vec<_> = far.iter().map(AsFd::as_fd).collect();
    let (id, channel) = hand_over(places, what, &far)?;
    Ok(Fronted { id, near, keeper: Told(channel) })
}

fn hand_over(
    places: &Places,
    what: What,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(String, Channel), DetachError> {
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
    let job = Job { places: places.clone(), what };
    let gone = |error| DetachError::Gone(io::Error::other(error));
    channel.send_with(&job, descriptors).map_err(gone)?;
    match channel.receive().map_err(gone)? {
        Some(Answer::Started { id }) => Ok((id, channel)),
        Some(Answer::Failed { status, message }) => {
            // Its last word: it ends now, everything cleared away.
            child.wait().map_err(DetachError::Gone)?;
            Err(DetachError::Keeper { status, message })
        }
        None => Err(DetachError::Gone(io::ErrorKind::UnexpectedEof.into())),
        Some(Answer::Ended { .. }) => Err(DetachError::Gone(io::ErrorKind::InvalidData.into())),
    }
}

/// The keeper's life: takes its job from standard input.
pub fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let command_us = now_us();
    let channel = Channel::from_stdin()?;
    let (job, mut descriptors): (Job, Vec<OwnedFd>) = channel
        .receive_with(DESCRIPTORS)?
        .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    let run = || -> Result<u8, SandboxError> {
        let attached = match job.what {
            What::Fork(_) => None,
            What::Run(_) | What::Start(_) => keeper_socket::attachment(&mut descriptors),
        };
        let ends = |kept: &Kept, options: &Options| {
            let log = Log::open(&kept.folder.log(), options.log)
                .map_err(SandboxError::host("cannot open the container's log"))?;
            let outlet = Outlet::new(Some(log), options.interactive);
            if let Some(attached) = attached {
                outlet.attach(attached).map_err(SandboxError::host("cannot attach"))?;
            }
            Ok(Ends::Kept(outlet))
        };
        let started = |state: &super::State| {
            // The command may have been killed meanwhile, or have gone long ago; the container runs all
            // the same.
            let _ = channel.send(&Answer::Started { id: state.id.clone() });
        };
        let places = &job.places;
        let job_of = |wanted| keeper::Job { places, wanted, command_us, timings: false };
        match job.what {
            What::Run(options) => {
                let image = options.open_image(places)?;
                let job = job_of(Wanted::new(&image, *options)?);
                keeper::run(job, Source::Image(&image), ends, started)
            }
            What::Start(id) => {
                let wanted = Wanted::again(places, &id)?;
                let image = wanted.open_image(places)?;
                keeper::run(job_of(wanted), Source::Image(&image), ends, started)
            }
            What::Fork(fork) => {
                let mut files = descriptors.into_iter().map(File::from);
                let (Some(state), Some(memory), layer) = (files.next(), files.next(), files.next())
                else {
                    return Err(ChannelError::Descriptors(0).into());
                };
                let frozen = Frozen { state, memory, layer };
                let options = Box::new(fork.options.clone());
                let wanted = Wanted::New { image: fork.image.clone(), options };
                keeper::run(job_of(wanted), Source::Fork(&fork, frozen), ends, started)
            }
        }
        .map(|outcome| outcome.code)
    };
    let answer = match run() {
        Ok(code) => Answer::Ended { code },
        Err(error) => Answer::Failed { status: error.exit_status(), message: chain(&error) },
    };
    // Seldom heard where the container had started: then its state tells.
    let _ = channel.send(&answer);
    Ok(())
}
