//! What a guest's agent says to the host, from the answer to `CONNECT` on: the first byte says what
//! it was asked.
#![no_main]

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Once;
use std::time::Duration;

use ampoule::agent::message::{ProcessId, Request};
use ampoule::agent::{Client, ClientError, Events, ReadyListener};
use ampoule_fuzz::host::{choose, folder, ignore_broken_pipes};
use libfuzzer_sys::fuzz_target;

const TIME: Duration = Duration::from_secs(5);

/// More than a socket takes at once would keep this one thread waiting.
const MOST: usize = 64 << 10;

fn say(mut socket: UnixStream, bytes: &[u8]) -> UnixStream {
    socket.write_all(bytes).expect("room in a socket");
    socket.shutdown(Shutdown::Write).expect("a socket");
    socket
}

fn answers(kind: u8, bytes: &[u8]) -> Result<(), ClientError> {
    let folder = folder();
    let path = folder.path().join("v");
    let listener = UnixListener::bind(&path).expect("a listener");
    let mut opening = Client::begin(&path, TIME)?;
    opening.send(&Request::Wait(ProcessId::init("c")))?;
    let (agent, _) = listener.accept().expect("a connection");
    let _agent = say(agent, bytes);
    let mut client = opening.finish()?;
    if kind == 4 {
        return told(client.into_events());
    }
    loop {
        match kind {
            0 => {
                let text = ampoule::oci::fuzzing::printed(client.receive()?);
                // A guest does not decide how much that is.
                assert!(text.len() <= 64 << 20);
                assert!(!text.contains('\x1b'));
            }
            1 => client.receive_done()?,
            2 => drop(client.receive_created()?),
            _ => {
                let status = client.receive_exited()?;
                assert!((0..256).contains(&status.code));
            }
        }
    }
}

fn ready(bytes: &[u8]) -> Result<(), ClientError> {
    let folder = folder();
    let path = folder.path().join("v");
    let listener = ReadyListener::bind(&path).expect("a listener");
    let agent = UnixStream::connect(ReadyListener::path(&path)).expect("a listener");
    let _agent = say(agent, bytes);
    let ready = listener.accept()?;
    told(ready.events)
}

/// Takes events to their end.
fn told(mut events: Events) -> Result<(), ClientError> {
    loop {
        if events.event()?.is_none() {
            // Not whole yet.
            std::thread::yield_now();
        }
    }
}

fuzz_target!(|input: &[u8]| {
    static INIT: Once = Once::new();
    INIT.call_once(ignore_broken_pipes);
    let (kind, bytes) = choose(&input[..input.len().min(MOST)], 6);
    let ended = if kind == 5 { ready(bytes) } else { answers(kind, bytes) };
    assert!(ended.is_err(), "a conversation ends where its bytes do");
});
