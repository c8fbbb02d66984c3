//! What the agent reads: the greeting and requests of a host, or the first message of a stream.
#![no_main]

use ampoule_protocol::frame::{self, FrameError};
use ampoule_protocol::message::{Hello, Request, StreamHello};
use libfuzzer_sys::fuzz_target;

fn requests(mut from: &[u8]) -> Result<(), FrameError> {
    let _: Hello = frame::read(&mut from)?;
    loop {
        let body = frame::read_bytes(&mut from)?;
        // What is no request is answered, and the next one read.
        if let Ok(request) = frame::parse::<Request>(&body) {
            let sent = frame::encode(&request).expect("what was read");
            let again: Request = frame::read(&mut sent.as_slice()).expect("what was sent");
            let json = |request| serde_json::to_value(request).expect("a request");
            assert_eq!(json(&request), json(&again));
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let (kind, mut bytes) = ampoule_fuzz::host::choose(input, 2);
    if kind == 0 {
        let _ = requests(bytes);
    } else {
        let _ = frame::read::<StreamHello>(&mut bytes);
    }
});
