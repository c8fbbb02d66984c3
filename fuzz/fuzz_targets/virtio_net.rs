//! A guest's network interface, of one or two pairs of queues, with a socket in the place of a tap, or with
//! a stream of frames. The other side sends a frame, or a piece of the stream.
#![no_main]

use std::os::fd::{AsRawFd, OwnedFd};

use ampoule::vmm::devices::virtio::mmio::SharedDevice;
use ampoule::vmm::devices::virtio::net::{Net, Wire};
use ampoule_fuzz::guest::{self, Host};
use libfuzzer_sys::fuzz_target;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

struct Network {
    socket: Option<OwnedFd>,
    stream: bool,
    pairs: u8,
}

impl Host for Network {
    fn device(&mut self) -> SharedDevice {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let kind = if self.stream { SockType::Stream } else { SockType::Datagram };
        let (ours, theirs) = socketpair(AddressFamily::Unix, kind, None, flags).expect("a pair");
        self.socket = Some(ours);
        let wire =
            if self.stream { Wire::Stream(theirs) } else { Wire::Tap(vec![theirs.into()]) };
        guest::shared(Net::on_wire(wire, self.pairs).expect("a device"))
    }

    fn act(&mut self, bytes: &[u8]) {
        if let Some(socket) = &self.socket {
            // A full socket drops frames as a network does; and nothing is the end of a stream.
            let _ = send(socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL);
            if bytes.is_empty() && self.stream {
                self.socket = None;
            }
        }
    }

    fn rest(&mut self) {
        let mut frame = [0; 2048];
        while let Some(socket) = &self.socket
            && recv(socket.as_raw_fd(), &mut frame, MsgFlags::empty()).is_ok_and(|len| len > 0)
        {}
    }
}

fuzz_target!(|input: &[u8]| {
    let (kind, program) = ampoule_fuzz::host::choose(input, 4);
    let (stream, pairs) = (kind & 1 != 0, kind / 2 + 1);
    let pairs = u8::try_from(pairs).expect("one or two");
    guest::run(program, &mut Network { socket: None, stream, pairs });
});
