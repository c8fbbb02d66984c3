//! What a monitor, which a guest may have taken over, says to its keeper; and what others say to it.
#![no_main]

use ampoule::monitor::channel::Channel;
use ampoule::monitor::control::{MonitorConfig, MonitorEvent, MonitorRequest};
use ampoule_fuzz::host::choose;
use libfuzzer_sys::fuzz_target;
use nix::sys::socket::{MsgFlags, send};
use std::os::fd::AsRawFd;

fuzz_target!(|input: &[u8]| {
    let (kind, bytes) = choose(input, 3);
    let (ours, theirs) = Channel::pair().expect("a pair of sockets");
    if send(theirs.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT).is_err() {
        return;
    }
    drop(theirs);
    match kind {
        0 => {
            if let Ok(Some(MonitorEvent::Ended { cause, .. })) = ours.receive() {
                cause.describe();
            }
        }
        1 => drop(ours.receive::<MonitorRequest>()),
        _ => {
            if let Ok(Some((config, _))) = ours.receive_with::<MonitorConfig>(5)
                && let ampoule::monitor::control::Start::Boot(machine) = config.machine
            {
                let _ = machine.validate();
            }
        }
    }
});
