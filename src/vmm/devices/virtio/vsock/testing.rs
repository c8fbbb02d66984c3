//! A guest with a vsock driver, for tests.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tempfile::TempDir;

use super::device::{QUEUE_SIZES, Vsock};
use super::packet::{HEADER_LEN, HOST_CID, Header, Op, Ports, Shutdown};
use crate::vmm::config::VsockConfig;
use crate::vmm::devices::virtio::testing::{DATA, Driver, interrupt, memory, readable, writable};
use crate::vmm::devices::virtio::{Activation, Interrupt, VirtioDevice};

pub const CID: u64 = 3;
pub const RX_BUFFER: u32 = 4096;
/// Where packets of the guest are built.
pub const TX_AT: u64 = 0x20_0000;
/// The guest's receive buffer for each connection.
pub const GUEST_BUFFER: u32 = 64 * 1024;

/// A guest's driver and the device.
pub struct Guest {
    pub vsock: Vsock,
    pub rx: Driver,
    pub tx: Driver,
    pub event: Driver,
    pub interrupt: Arc<Interrupt>,
    pub dir: TempDir,
}

impl Guest {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = VsockConfig {
            guest_cid: CID,
            uds_path: dir.path().join("v"),
            listener: None,
            ports: None,
        };
        let memory = memory();
        let mut guest = Self {
            vsock: Vsock::new(&config).unwrap(),
            rx: Driver::new(&memory, 0, QUEUE_SIZES[0]),
            tx: Driver::new(&memory, 0x4000, QUEUE_SIZES[1]),
            event: Driver::new(&memory, 0x8000, QUEUE_SIZES[2]),
            interrupt: interrupt(),
            dir,
        };
        guest.activate();
        guest
    }

    /// A guest whose receive queue is full of buffers.
    pub fn with_room() -> Self {
        let mut guest = Self::new();
        guest.give(usize::from(QUEUE_SIZES[0]));
        guest
    }

    pub fn activate(&mut self) {
        let drivers = [&self.rx, &self.tx, &self.event];
        let activation = Activation {
            memory: self.rx.memory.clone(),
            queues: drivers.map(|driver| driver.queue(true)).into(),
            features: 0,
            interrupt: Arc::clone(&self.interrupt),
        };
        self.vsock.activate(activation).unwrap();
    }

    /// Offers receive buffers.
    pub fn give(&mut self, n: usize) {
        for _ in 0..n {
            let at = self.rx.next_head();
            self.rx.offer(&[writable(DATA + u64::from(at) * u64::from(RX_BUFFER), RX_BUFFER)]);
        }
        self.vsock.process_rx();
    }

    /// Lets the device do all that it has to do.
    pub fn settle(&mut self) {
        loop {
            if has_events(&self.vsock) {
                self.vsock.process_backend();
            } else if self.vsock.rx_event().read().is_ok() {
                self.vsock.process_rx();
            } else if self.vsock.tx_event().read().is_ok() {
                self.vsock.process_tx();
            } else {
                return;
            }
        }
    }

    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.tx.write(TX_AT, bytes);
        self.tx.offer(&[readable(TX_AT, u32::try_from(bytes.len()).unwrap())]);
        self.vsock.process_tx();
        self.settle();
    }

    pub fn send(&mut self, ports: Ports, op: Op, change: impl FnOnce(&mut Header), payload: &[u8]) {
        let mut header = from_guest(ports, op);
        header.len = u32::try_from(payload.len()).unwrap();
        change(&mut header);
        self.send_raw(&[&header.encode(), payload].concat());
    }

    pub fn say(&mut self, ports: Ports, op: Op) {
        self.send(ports, op, |_| {}, &[]);
    }

    pub fn close(&mut self, ports: Ports, closed: Shutdown) {
        self.send(ports, Op::Shutdown, |header| header.flags = closed.flags(), &[]);
    }

    /// The packets that came, whose buffers are given back.
    pub fn packets(&mut self) -> Vec<(Header, Vec<u8>)> {
        self.settle();
        let used = self.rx.used();
        let read = |(head, len): &(u16, u32)| {
            let at = DATA + u64::from(*head) * u64::from(RX_BUFFER);
            let bytes = self.rx.read(at, usize::try_from(*len).unwrap());
            let header = Header::decode(bytes.first_chunk().unwrap());
            assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, CID));
            assert_eq!(header.len as usize, bytes.len() - HEADER_LEN);
            (header, bytes[HEADER_LEN..].to_vec())
        };
        let packets = used.iter().map(read).collect();
        self.give(used.len());
        packets
    }

    pub fn ops(&mut self) -> Vec<Op> {
        self.packets().iter().map(|(header, _)| Op::try_from(header.op).unwrap()).collect()
    }

    pub fn client(&self) -> UnixStream {
        let client = UnixStream::connect(self.dir.path().join("v")).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client
    }

    pub fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.dir.path().join(format!("v_{port}"))).unwrap()
    }

    /// A connection that a client made, accepted by the guest.
    pub fn called(&mut self) -> (Ports, UnixStream) {
        let mut client = self.client();
        client.write_all(b"CONNECT 52\n").unwrap();
        let packets = self.packets();
        let [(request, _)] = packets.as_slice() else { panic!("{packets:?}") };
        assert_eq!((request.op, request.dst_port), (Op::Request as u16, 52));
        let ports = Ports { host: request.src_port, guest: 52 };
        self.say(ports, Op::Response);
        let expected = format!("OK {}\n", ports.host);
        let mut line = vec![0; expected.len()];
        client.read_exact(&mut line).unwrap();
        assert_eq!(line, expected.as_bytes());
        (ports, client)
    }

    /// A connection that the guest made.
    pub fn connected(&mut self) -> (Ports, UnixStream) {
        let ports = Ports { host: 1024, guest: 70_000 };
        let listener = self.listen(ports.host);
        self.say(ports, Op::Request);
        assert_eq!(self.ops(), [Op::Response]);
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        (ports, stream)
    }
}

pub fn from_guest(ports: Ports, op: Op) -> Header {
    Header {
        src_cid: CID,
        dst_cid: HOST_CID,
        src_port: ports.guest,
        dst_port: ports.host,
        socket_type: 1,
        op: op as u16,
        buf_alloc: GUEST_BUFFER,
        ..Header::default()
    }
}

fn has_events(device: &Vsock) -> bool {
    // SAFETY: the descriptor is open for as long as the device is.
    let fd = unsafe { BorrowedFd::borrow_raw(device.backend().as_raw_fd()) };
    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
}

pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

pub fn read_to_end(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}
