//! The descriptors of a process's stdio and their relays.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use ampoule_protocol::message;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use super::line::{Line, Lost, Role};
use super::process::Process;
use crate::error::{Doing, Error, Result};
use crate::relay::{End, Remainder};
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
    Output(Role, OwnedFd),
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
                stdio.add_output(Role::Stdout, streams.stdout.as_ref())?;
                stdio.add_output(Role::Stderr, streams.stderr.as_ref())?;
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

    fn add_output(&mut self, role: Role, token: Option<&String>) -> Result<()> {
        let Some(token) = token else {
            return self.add_null();
        };
        let (read, write) = pipe()?;
        self.process_side.push(write);
        self.agent_side.push((token.clone(), Side::Output(role, read)));
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
            let line = side.line(agent, process)?;
            line.expect(&agent.streams, &token)?;
            process.add_line(line);
        }
        Ok(())
    }
}

impl Side {
    /// The stream, which relays from its first connection on.
    fn line(self, agent: &'static Agent, process: &Arc<Process>) -> Result<Arc<Line>> {
        let process = process.clone();
        Ok(match self {
            Self::Input(pipe) => with_relays(Role::Stdin, move |line, stream| {
                start(move || relay_input(agent, &process, &line, stream, pipe));
            }),
            Self::Output(role, pipe) => {
                let open = process.open_output();
                with_relays(role, move |line, stream| {
                    start(move || {
                        relay_output(agent, &process, &line, stream, &pipe);
                        drop(open);
                    });
                })
            }
            Self::Terminal => {
                let Some(master) = process.terminal().cloned() else {
                    return Err(Error::Invalid("the setup stage gave no terminal".into()));
                };
                let open = process.open_output();
                with_relays(Role::Terminal, move |line, stream| {
                    let input = (process.clone(), line.clone(), stream.clone(), master.clone());
                    start(move || {
                        relay_terminal_output(agent, &process, &line, stream, &master);
                        drop(open);
                    });
                    start(move || relay_terminal_input(&input.0, &input.1, input.2, &input.3));
                })
            }
        })
    }
}

/// A line whose first connection is handed to `relays`.
fn with_relays(
    role: Role,
    relays: impl FnOnce(Arc<Line>, Arc<Connection>) + Send + 'static,
) -> Arc<Line> {
    Arc::new_cyclic(|line: &Weak<Line>| {
        let line = line.clone();
        let first = move |stream| {
            if let Some(line) = line.upgrade() {
                relays(line, stream);
            }
        };
        Line::new(role, Box::new(first))
    })
}

fn relay_input(
    agent: &Agent,
    process: &Process,
    line: &Line,
    mut stream: Arc<Connection>,
    pipe: OwnedFd,
) {
    while relay::input(&stream, &pipe, process.ended()) == End::Lost {
        match line.lost(&stream, || agent.held.is()) {
            Lost::Another(next) => stream = next,
            // Closing the pipe is the end of the input.
            Lost::LetGo | Lost::Close => break,
        }
    }
    stream.end();
    line.over();
}

fn relay_output(
    agent: &Agent,
    process: &Process,
    line: &Line,
    mut stream: Arc<Connection>,
    pipe: &OwnedFd,
) {
    while relay::output(pipe, &stream, process.ended()) == End::Lost {
        match line.lost(&stream, || agent.held.is()) {
            Lost::Another(next) => stream = next,
            Lost::LetGo => {
                relay::discard(pipe, process.ended());
                break;
            }
            Lost::Close => break,
        }
    }
    stream.end_output();
    line.over();
}

fn relay_terminal_output(
    agent: &Agent,
    process: &Process,
    line: &Line,
    mut stream: Arc<Connection>,
    master: &OwnedFd,
) {
    let mut remainder = Remainder::default();
    while relay::terminal_output(master, &stream, process.ended(), &mut remainder) == End::Lost {
        match line.lost(&stream, || agent.held.is()) {
            Lost::Another(next) => stream = next,
            // The terminal is there as long as its process, which is not to wait for who would read.
            Lost::LetGo | Lost::Close => {
                relay::discard(master, process.ended());
                break;
            }
        }
    }
    stream.end_output();
    line.over();
}

/// The other relay of a terminal says when its connection is lost.
fn relay_terminal_input(
    process: &Process,
    line: &Line,
    mut stream: Arc<Connection>,
    master: &OwnedFd,
) {
    while relay::terminal_input(&stream, master, process.ended()) == End::Lost {
        match line.another(&stream) {
            Lost::Another(next) => stream = next,
            Lost::LetGo | Lost::Close => break,
        }
    }
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
