//! A guest's network interface, with a socket in the place of a tap. The other side sends a frame.
#![no_main]

use std::os::fd::{AsRawFd, OwnedFd};

use ampoule::vmm::devices::virtio::mmio::SharedDevice;
use ampoule::vmm::devices::virtio::net::Net;
use ampoule_fuzz::guest::{self, Host};
use libfuzzer_sys::fuzz_target;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

#[derive(Default)]
struct Network(Option<OwnedFd>);

impl Host for Network {
    fn device(&mut self) -> SharedDevice {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::Datagram, None, flags).expect("a pair");
        self.0 = Some(ours);
        guest::shared(Net::on_socket(theirs).expect("a device"))
    }

    fn act(&mut self, bytes: &[u8]) {
        if let Some(socket) = &self.0 {
            // A full socket drops frames as a network does.
            let _ = send(socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL);
        }
    }

    fn rest(&mut self) {
        let mut frame = [0; 2048];
        while let Some(socket) = &self.0
            && recv(socket.as_raw_fd(), &mut frame, MsgFlags::empty()).is_ok()
        {}
    }
}

fuzz_target!(|input: &[u8]| guest::run(input, &mut Network::default()));
