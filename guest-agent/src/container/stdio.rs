//! The descriptors of a process's stdio and their relays.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ampoule_protocol::message;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use super::process::Process;
use crate::error::{Doing, Error, Result};
use crate::transport::Connection;
use crate::{Agent, log, relay, thread};

/// Stdio that was made but has no process yet.
#[derive(Debug)]
pub struct Stdio {
    /// The process's stdin, stdout and stderr; none where it gets a terminal.
    pub process_side: Vec<OwnedFd>,
    agent_side: Vec<(String, Side)>,
}

#[derive(Debug)]
enum Side {
    Input(OwnedFd),
    Output(OwnedFd),
    Terminal,
}

impl Stdio {
    /// Makes the pipes.
    ///
    /// # Errors
    /// Streams and `process.terminal` contradict each other.
    pub fn new(streams: &message::Stdio, terminal: bool) -> Result<Self> {
        let mut stdio = Self { process_side: Vec::new(), agent_side: Vec::new() };
        match (&streams.terminal, terminal) {
            (Some(token), true) => {
                if streams.stdin.is_some() || streams.stdout.is_some() || streams.stderr.is_some() {
                    return Err(Error::Invalid("a terminal takes the place of the pipes".into()));
                }
                stdio.agent_side.push((token.clone(), Side::Terminal));
            }
            (None, true) => return Err(Error::Invalid("a terminal needs a stream".into())),
            (Some(_), false) => {
                return Err(Error::Invalid("a terminal stream without process.terminal".into()));
            }
            (None, false) => {
                stdio.add_input(streams.stdin.as_ref())?;
                stdio.add_output(streams.stdout.as_ref())?;
                stdio.add_output(streams.stderr.as_ref())?;
            }
        }
        Ok(stdio)
    }

    fn add_input(&mut self, token: Option<&String>) -> Result<()> {
        let Some(token) = token else {
            return self.add_null();
        };
        let (read, write) = pipe()?;
        self.process_side.push(read);
        self.agent_side.push((token.clone(), Side::Input(write)));
        Ok(())
    }

    fn add_output(&mut self, token: Option<&String>) -> Result<()> {
        let Some(token) = token else {
            return self.add_null();
        };
        let (read, write) = pipe()?;
        self.process_side.push(write);
        self.agent_side.push((token.clone(), Side::Output(read)));
        Ok(())
    }

    /// The agent's own: the container's `/dev/null` is whatever its image makes of it.
    fn add_null(&mut self) -> Result<()> {
        let null = OpenOptions::new().read(true).write(true).open("/dev/null");
        self.process_side.push(null.doing(|| "open /dev/null")?.into());
        Ok(())
    }

    /// Relays the streams from the moment that their connections are there.
    pub fn attach(self, agent: &'static Agent, process: &Arc<Process>) -> Result<()> {
        // The process has these now: the pipes' ends would not be seen while they are open here.
        drop(self.process_side);
        for (token, side) in self.agent_side {
            attach_one(agent, process, &token, side)?;
            process.add_token(&token);
        }
        Ok(())
    }
}

fn attach_one(
    agent: &'static Agent,
    process: &Arc<Process>,
    token: &str,
    side: Side,
) -> Result<()> {
    let owner = process.clone();
    match side {
        Side::Input(pipe) => agent.streams.expect(token, move |connection| {
            let (process, stream) = (owner.clone(), adopt(&owner, connection));
            start(move || relay::input(&stream, pipe, process.ended()));
        }),
        Side::Output(pipe) => {
            let open = process.open_output();
            agent.streams.expect(token, move |connection| {
                let (process, stream) = (owner.clone(), adopt(&owner, connection));
                start(move || {
                    relay::output(pipe, &stream, process.ended());
                    drop(open);
                });
            })
        }
        Side::Terminal => {
            let Some(master) = process.terminal().cloned() else {
                return Err(Error::Invalid("the setup stage gave no terminal".into()));
            };
            let open = process.open_output();
            agent.streams.expect(token, move |connection| {
                let (process, stream) = (owner.clone(), adopt(&owner, connection));
                let input = (process.clone(), stream.clone(), master.clone());
                start(move || {
                    relay::terminal_output(&master, &stream, process.ended());
                    drop(open);
                });
                start(move || relay::terminal_input(&input.1, &input.2, input.0.ended()));
            })
        }
    }
}

fn adopt(process: &Process, connection: Connection) -> Arc<Connection> {
    let connection = Arc::new(connection);
    process.add_connection(&connection);
    connection
}

fn start(relay: impl FnOnce() + Send + 'static) {
    // The stream then ends without its bytes: the host sees that, and the log says why.
    if let Err(e) = thread::spawn("relay", relay) {
        log::line(&format!("cannot start a relay: {e}"));
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe2(OFlag::O_CLOEXEC).doing(|| "make a pipe")
}
