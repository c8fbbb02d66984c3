//! Serves requests: a thread for each connection, since a `Wait` must not hold up the others.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use ampoule_protocol::VERSION;
use ampoule_protocol::frame::{self, FrameError};
use ampoule_protocol::message::{AgentError, ErrorKind, Files, Hello, Reply, Request};

use crate::error::Result;
use crate::transport::{Connection, Listener};
use crate::{
    Agent, archive, container, forward, log, network, pod, random, shutdown, snapshot, thread,
};

/// Connections at once. Each waiting client of the host has one.
const MAX_CONNECTIONS: usize = 512;

static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);

/// Takes connections for ever; returns where the listening socket fails.
pub fn serve(agent: &'static Agent, listener: &Listener) -> io::Error {
    loop {
        let connection = match listener.accept() {
            Ok(connection) => connection,
            Err(e) => return e,
        };
        if CONNECTIONS.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
            CONNECTIONS.fetch_sub(1, Ordering::Relaxed);
            log::line("too many connections: one was refused");
            continue;
        }
        let started = thread::spawn("request", move || {
            if let Err(e) = converse(agent, connection) {
                log::line(&format!("a connection failed: {e}"));
            }
            CONNECTIONS.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(e) = started {
            // The containers may have taken all the tasks there are: the host sees a closed
            // connection, the sandbox goes on.
            CONNECTIONS.fetch_sub(1, Ordering::Relaxed);
            log::line(&format!("no thread for a connection: {e}"));
        }
    }
}

/// One connection, from hello to end.
fn converse(agent: &'static Agent, connection: Connection) -> std::result::Result<(), FrameError> {
    let (mut from, mut to) = (&connection, &connection);
    let hello: Hello = frame::read(&mut from)?;
    frame::write(&mut to, &Hello { version: VERSION, entered_us: 0, ready_us: 0 })?;
    if hello.version != VERSION {
        let message = format!("protocol version {}, the agent's is {VERSION}", hello.version);
        let error = AgentError::new(ErrorKind::Unsupported, message);
        return frame::write(&mut to, &Reply::Error(error));
    }
    loop {
        let body = match frame::read_bytes(&mut from) {
            Err(FrameError::Closed) => return Ok(()),
            body => body?,
        };
        let request = match frame::parse::<Request>(&body) {
            Ok(Request::Events) => {
                return snapshot::events(agent, connection)
                    .map_err(|e| FrameError::Io(io::Error::other(e)));
            }
            Ok(Request::Forward { port }) => return forward::serve(port, &connection),
            Ok(Request::Files { container, wanted }) if !matches!(wanted, Files::Look { .. }) => {
                return archive::serve(agent, &container, &wanted, &connection);
            }
            request => request,
        };
        let afterwards = request.as_ref().map_or(Afterwards::Nothing, Afterwards::of);
        let reply = match request {
            Ok(Request::AwaitOutOfMemory { container, after }) => {
                container::await_oom_kill(agent, &container, after, &connection)
                    .map(|kills| Reply::OutOfMemory { kills })
                    .unwrap_or_else(|e| Reply::Error(e.into()))
            }
            Ok(request) => answer(agent, request, body).unwrap_or_else(|e| Reply::Error(e.into())),
            Err(e) => Reply::Error(AgentError::new(ErrorKind::InvalidArgument, describe(&e))),
        };
        frame::write(&mut to, &reply)?;
        match afterwards {
            Afterwards::LetGoOfHost if reply == Reply::Done => {
                agent.host.let_go(&agent.watcher);
            }
            Afterwards::End => {
                connection.wait_for_end(shutdown::REPLY_DEADLINE);
                shutdown::end(agent.ending);
            }
            Afterwards::LetGoOfHost | Afterwards::Nothing => {}
        }
    }
}

/// What a request leaves to do when it has been answered.
#[derive(Debug, Clone, Copy)]
enum Afterwards {
    Nothing,
    LetGoOfHost,
    End,
}

impl Afterwards {
    fn of(request: &Request) -> Self {
        match request {
            Request::BecomeTemplate { .. } => Self::LetGoOfHost,
            Request::Shutdown => Self::End,
            _ => Self::Nothing,
        }
    }
}

fn describe(error: &FrameError) -> String {
    match error {
        FrameError::Malformed(e) => format!("malformed request: {e}"),
        other => other.to_string(),
    }
}

/// `body` is the request as it came: a setup stage reads it again.
fn answer(agent: &'static Agent, request: Request, mut body: Vec<u8>) -> Result<Reply> {
    match request {
        Request::Create(create) => {
            container::create(agent, *create, body).map(|pid| Reply::Created { pid })
        }
        Request::Pod(pod) => pod::create(agent, &pod).map(|()| Reply::Done),
        Request::Network { namespace, interfaces } => {
            network::add(agent, &namespace, &interfaces).map(|()| Reply::Done)
        }
        Request::RemoveInterface { namespace, slot, name } => {
            network::remove(agent, &namespace, slot, &name).map(|()| Reply::Done)
        }
        Request::WriteFiles { container, files } => {
            container::rewrite(agent, &container, &files).map(|()| Reply::Done)
        }
        Request::Start(id) => container::start(agent, &id).map(|()| Reply::Done),
        Request::Exec(exec) => {
            container::exec(agent, *exec, &body).map(|pid| Reply::Created { pid })
        }
        Request::Kill { id, signal, all } => {
            container::kill(agent, &id, signal, all).map(|()| Reply::Done)
        }
        Request::Resize { id, rows, columns } => {
            container::resize(agent, &id, rows, columns).map(|()| Reply::Done)
        }
        Request::Wait(id) => container::wait(agent, &id).map(Reply::Exited),
        Request::Processes { container, table } => container::processes(agent, &container, table)
            .map(|(pids, table)| Reply::Processes { pids, table }),
        Request::Update { container, resources } => {
            container::update(agent, &container, &resources).map(|()| Reply::Done)
        }
        Request::Pause { container } => container::pause(agent, &container).map(|()| Reply::Done),
        Request::Resume { container } => container::resume(agent, &container).map(|()| Reply::Done),
        Request::Stats { container } => {
            container::stats(agent, &container).map(|stats| Reply::Stats(Box::new(stats)))
        }
        Request::Delete { container } => container::delete(agent, &container).map(|()| Reply::Done),
        Request::Shutdown => {
            shutdown::prepare(agent);
            Ok(Reply::Done)
        }
        Request::BecomeTemplate { networked } => {
            snapshot::become_template(agent, networked).map(|()| Reply::Done)
        }
        Request::Wake(wake) => {
            // The seed is in it.
            random::wipe(&mut body);
            snapshot::wake(agent, *wake).map(|()| Reply::Done)
        }
        Request::Hold => {
            snapshot::hold(agent);
            Ok(Reply::Done)
        }
        Request::Release => {
            snapshot::release(agent);
            Ok(Reply::Done)
        }
        Request::Attach { id, stdio } => {
            container::attach(agent, &id, &stdio).map(|()| Reply::Done)
        }
        Request::Files { container, wanted: Files::Look { path, follow } } => {
            archive::look(agent, &container, &path, follow).map(|info| Reply::Path { info })
        }
        Request::Events
        | Request::Files { .. }
        | Request::Forward { .. }
        | Request::AwaitOutOfMemory { .. }
        | Request::Unknown => {
            Err(AgentError::new(ErrorKind::Unsupported, "the agent does not know the request")
                .into())
        }
    }
}
