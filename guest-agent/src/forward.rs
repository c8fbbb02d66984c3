//! `Forward`: a connection of the host's to a port of the pod's loopback interface, as `kubectl
//! port-forward` wants one.

use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpStream};

use ampoule_protocol::frame::{self, FrameError};
use ampoule_protocol::message::Reply;
use nix::sched::{CloneFlags, setns};

use crate::error::{Doing, Error, Result};
use crate::transport::Connection;
use crate::{pod, thread};

/// Answers the request, and carries bytes both ways until both sides have ended.
pub fn serve(port: u16, connection: &Connection) -> std::result::Result<(), FrameError> {
    match connect(port) {
        Ok(service) => {
            frame::write(&mut &*connection, &Reply::Done)?;
            relay(connection, &service);
            Ok(())
        }
        Err(e) => frame::write(&mut &*connection, &Reply::Error(e.into())),
    }
}

/// Connects to whoever listens there.
///
/// # Errors
/// [`Error::WrongState`] where nobody does.
fn connect(port: u16) -> Result<TcpStream> {
    let namespace = pod::open("net")?;
    let connected = thread::run("forward", || {
        setns(&namespace, CloneFlags::CLONE_NEWNET).doing(|| "enter the pod's network")?;
        TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .or_else(|_| TcpStream::connect((Ipv6Addr::LOCALHOST, port)))
            .map_err(|e| Error::WrongState(format!("cannot connect to port {port}: {e}")))
    });
    connected.doing(|| "start a thread")?
}

fn relay(connection: &Connection, service: &TcpStream) {
    std::thread::scope(|scope| {
        let back = || {
            copy(&mut &*service, &mut &*connection);
            connection.end_output();
        };
        let builder = std::thread::Builder::new().name("forward".into()).stack_size(thread::STACK);
        if builder.spawn_scoped(scope, back).is_ok() {
            copy(&mut &*connection, &mut &*service);
            let _ = service.shutdown(Shutdown::Write);
        } else {
            connection.end();
        }
    });
}

/// Whichever side failed: both see the end.
fn copy(from: &mut dyn io::Read, to: &mut dyn Write) {
    let mut chunk = vec![0; 16 << 10];
    loop {
        match from.read(&mut chunk) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Ok(n @ 1..) if chunk.get(..n).is_some_and(|bytes| to.write_all(bytes).is_ok()) => {}
            _ => return,
        }
    }
}
