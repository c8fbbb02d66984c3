//! The line by which a client of the vsock socket says which port it wants.
#![no_main]

use ampoule::vmm::devices::virtio::vsock::{Handshake, parse_handshake};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = parse_handshake(bytes);
    if let Handshake::Connect { port, len } = whole {
        assert_eq!(bytes[len - 1], b'\n');
        let line = String::from_utf8(bytes[..len].to_vec()).expect("a line of text");
        let digits = line.trim_start_matches("CONNECT ").trim_end();
        assert_eq!(digits.parse::<u32>().expect("a number"), port);
    }
    // What comes in pieces means the same in the end, and nothing before.
    for end in 0..bytes.len() {
        let part = parse_handshake(&bytes[..end]);
        assert!(part == whole || part == Handshake::Incomplete);
    }
});
