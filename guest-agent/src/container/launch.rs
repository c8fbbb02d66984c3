//! Runs a setup stage up to the point where its process waits for the start.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio as CommandStdio};
use std::sync::Arc;

use super::process::Process;
use super::stdio::Stdio;
use crate::Agent;
use crate::cgroup::Cgroup;
use crate::error::{Doing, Error, Result};
use crate::setup::{Job, Order, Report, channel};

/// What is launched.
pub struct Launch<'a> {
    /// The setup stage's work.
    pub job: Job,
    /// The requests that say what is set up: see [`Job`].
    pub requests: &'a [&'a [u8]],
    /// Where the process belongs.
    pub cgroup: &'a Cgroup,
    /// The process whose namespaces it joins.
    pub join: Option<&'a OwnedFd>,
    /// The network namespace that a new container has in place of one that it makes.
    pub network: Option<File>,
    /// Its stdio.
    pub stdio: Stdio,
}

/// A process that waits for its start.
pub struct Launched {
    /// The process.
    pub process: Arc<Process>,
    /// The way to start it.
    pub control: UnixStream,
    /// The upper and the lower directory of its container's root, where it has made that.
    pub layer: Option<[OwnedFd; 2]>,
}

/// Starts the setup stage and returns the process that it made.
///
/// `on_exit` is called from the agent's main loop when that process has ended.
pub fn launch(
    agent: &'static Agent,
    launch: Launch<'_>,
    on_exit: impl FnOnce(&Process, i32) + Send + 'static,
) -> Result<Launched> {
    let procs = launch.cgroup.procs()?;
    let mut descriptors: Vec<BorrowedFd<'_>> = vec![procs.as_fd()];
    descriptors.extend(launch.join.map(AsFd::as_fd));
    descriptors.extend(launch.network.as_ref().map(AsFd::as_fd));
    descriptors.extend(launch.stdio.process_side.iter().map(AsFd::as_fd));

    let control = spawn(agent)?;
    channel::send(&control, &launch.job, &descriptors)?;
    for request in launch.requests {
        channel::send_body(&control, request)?;
    }
    let process = match receive(&control)?.0 {
        Report::Process(pid) => Arc::new(Process::new(pid)?),
        report => return Err(unexpected(report)),
    };
    let watched = process.clone();
    agent.reaper.watch(process.pid(), move |code| on_exit(&watched, code));
    // From here on the process is ours: whatever fails must not leave it behind.
    let finished = channel::order(&control, Order::LetGo)
        .and_then(|()| finish(agent, &control, launch.stdio, &process));
    match finished {
        Ok(layer) => Ok(Launched { process, control, layer }),
        Err(e) => {
            drop(control);
            process.end(&agent.streams);
            Err(e)
        }
    }
}

fn finish(
    agent: &'static Agent,
    control: &UnixStream,
    stdio: Stdio,
    process: &Arc<Process>,
) -> Result<Option<[OwnedFd; 2]>> {
    match receive(control)? {
        (Report::Ready { terminal }, descriptors) => {
            let mut descriptors = descriptors.into_iter();
            if let Some(master) = terminal.then(|| descriptors.next()).flatten() {
                process.set_terminal(master);
            }
            stdio.attach(agent, process)?;
            Ok(descriptors.collect::<Vec<_>>().try_into().ok())
        }
        (report, _) => Err(unexpected(report)),
    }
}

/// Tells a process that waits to execute its program, and sees whether it can.
pub fn start(control: &UnixStream) -> Result<()> {
    channel::order(control, Order::Start)?;
    // The descriptor is close-on-exec: its end is the success.
    match channel::receive::<Report>(control)? {
        None => Ok(()),
        Some((report, _)) => Err(unexpected(report)),
    }
}

fn receive(control: &UnixStream) -> Result<(Report, Vec<OwnedFd>)> {
    match channel::receive(control)? {
        Some(message) => Ok(message),
        None => Err(Error::system("set up the process", std::io::ErrorKind::UnexpectedEof)),
    }
}

fn unexpected(report: Report) -> Error {
    match report {
        Report::Failed(error) => Error::Reported(error),
        report => Error::Invalid(format!("the setup stage reported {report:?} out of turn")),
    }
}

/// The stage's exit is collected by the reaper like every child's.
fn spawn(agent: &Agent) -> Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair().doing(|| "make a socket pair")?;
    Command::new(&agent.program)
        .arg(crate::setup::ARGUMENT)
        .env_clear()
        .stdin(CommandStdio::from(OwnedFd::from(theirs)))
        .spawn()
        .doing(|| format!("run {} {}", agent.program.display(), crate::setup::ARGUMENT))?;
    Ok(ours)
}
