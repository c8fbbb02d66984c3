use std::io::{Read, Write};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use proptest::prelude::*;
use virtio_bindings::virtio_net::{VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::vmm::devices::virtio::testing::{DATA, memory};

struct Machine {
    memory: GuestMemoryMmap,
    stream: Stream,
    peer: UnixStream,
}

fn machine() -> Machine {
    let (ours, peer) = UnixStream::pair().unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    Machine { memory: memory(), stream: Stream::new(ours.into()), peer }
}

impl Machine {
    /// Room for a frame, in two pieces.
    fn room(&self, len: u32) -> Segments {
        let mut room = Segments::new(&self.memory);
        room.append(GuestAddress(DATA), 20).unwrap();
        room.append(GuestAddress(DATA + 20), len - 20).unwrap();
        room
    }

    fn receive(&mut self) -> io::Result<Vec<u8>> {
        let room = self.room(0x1_1000);
        self.memory.write_slice(&[0xee; 32], GuestAddress(DATA)).unwrap();
        let len = self.stream.receive(&room)?;
        let mut frame = vec![0; len];
        assert!(room.peek(&mut frame));
        assert_eq!(frame[..header::LEN], [0; header::LEN]);
        Ok(frame.split_off(header::LEN))
    }

    fn send(&mut self, header: [u8; header::LEN], frame: &[u8]) -> Result<(), SendError> {
        let at = GuestAddress(DATA + 0x2_0000);
        self.memory.write_slice(&[&header, frame].concat(), at).unwrap();
        let mut list = Segments::new(&self.memory);
        list.append(at, u32::try_from(header::LEN + frame.len()).unwrap()).unwrap();
        self.stream.send(&list, &Header::parse(header))
    }

    fn peer_receives(&mut self) -> Vec<u8> {
        let mut len = [0; PREFIX];
        self.peer.read_exact(&mut len).unwrap();
        let mut frame = vec![0; usize::try_from(u32::from_be_bytes(len)).unwrap()];
        self.peer.read_exact(&mut frame).unwrap();
        frame
    }
}

fn on_wire(frames: &[Vec<u8>]) -> Vec<u8> {
    frames.iter().flat_map(|frame| [&prefix(frame.len())[..], frame].concat()).collect()
}

fn is_dry(result: &io::Result<Vec<u8>>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

#[test]
fn the_longest_frame_and_the_empty_one_pass() {
    let mut m = machine();
    let frames = [vec![7; header::MAX_FRAME], vec![], vec![8; header::MAX_FRAME], vec![9; 60]];
    let bytes = on_wire(&frames);
    let mut peer = m.peer.try_clone().unwrap();
    let writer = std::thread::spawn(move || peer.write_all(&bytes).unwrap());
    for frame in &frames {
        loop {
            match m.receive() {
                Ok(got) => break assert_eq!(got, *frame),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            std::thread::yield_now();
        }
    }
    writer.join().unwrap();
    assert!(is_dry(&m.receive()));
    assert!(!m.stream.has_ended());
}

#[test]
fn a_length_of_no_frame_ends_the_link() {
    for len in [header::MAX_FRAME + 1, 0x7fff_ffff, 0xffff_ffff] {
        let mut m = machine();
        m.peer.write_all(&on_wire(&[vec![1; 60]])).unwrap();
        m.peer.write_all(&prefix(len)).unwrap();
        assert_eq!(m.receive().unwrap(), [1; 60], "what came before is a frame");
        assert!(m.receive().is_err());
        assert!(m.stream.has_ended());
        assert!(m.receive().is_err());
        assert!(matches!(m.send([0; header::LEN], &[0; 60]), Err(SendError::Host)));
    }
}

#[test]
fn the_other_end_going_ends_the_link() {
    let mut m = machine();
    m.peer.write_all(&on_wire(&[vec![1; 60]])).unwrap();
    m.peer.write_all(&[0, 0, 0, 60, 1]).unwrap();
    drop(m.peer);
    m.peer = UnixStream::pair().unwrap().0;
    assert_eq!(m.receive().unwrap(), [1; 60]);
    assert!(is_dry(&m.receive()), "half a frame is none");
    assert!(m.stream.has_ended());
    assert!(matches!(m.send([0; header::LEN], &[0; 60]), Err(SendError::Host)));

    let mut m = machine();
    m.peer.shutdown(std::net::Shutdown::Both).unwrap();
    m.send([0; header::LEN], &[0; 60]).unwrap();
    assert!(m.stream.flush(), "what goes nowhere need not be waited for");
    assert!(m.stream.has_ended());
}

#[test]
fn a_frame_without_room_is_cut_and_the_next_one_is_whole() {
    let mut m = machine();
    m.peer.write_all(&on_wire(&[vec![1; 200], vec![2; 60]])).unwrap();
    let small = m.room(100);
    assert_eq!(m.stream.receive(&small).unwrap(), header::LEN + 200);
    assert_eq!(m.receive().unwrap(), [2; 60]);
}

#[test]
fn frames_are_gathered_and_wait_for_room() {
    let mut m = machine();
    setsockopt(&m.stream.socket, sockopt::SndBuf, &4096).unwrap();
    let frame = |i: u32| [&i.to_be_bytes()[..], &[0x5a; 1500]].concat();
    let mut sent = 0;
    while m.send([0; header::LEN], &frame(sent)).is_ok() {
        sent += 1;
    }
    assert!(usize::try_from(sent).unwrap() * 1508 >= GATHERED, "{sent}");
    assert!(m.stream.outbox.capacity() <= 2 * OUTBOX);
    assert!(!m.stream.flush());
    for i in 0..sent {
        // Reading makes room, of which an event would tell.
        if i % 2 == 0 {
            let _ = m.stream.flush();
        }
        assert_eq!(m.peer_receives(), frame(i));
    }
    assert!(m.stream.flush());
    m.send([0; header::LEN], &frame(sent)).unwrap();
}

fn header_of(gso: u32, size: u16, start: u16, offset: u16) -> [u8; header::LEN] {
    let mut header = [0; header::LEN];
    header[0] = u8::try_from(VIRTIO_NET_HDR_F_NEEDS_CSUM).unwrap();
    header[1] = u8::try_from(gso).unwrap();
    header[4..6].copy_from_slice(&size.to_le_bytes());
    header[6..8].copy_from_slice(&start.to_le_bytes());
    header[8..10].copy_from_slice(&offset.to_le_bytes());
    header
}

#[test]
fn checksums_are_completed() {
    let mut m = machine();
    let frame = [1; 60];
    m.send(header_of(0, 0, 34, 16), &frame).unwrap();
    assert!(m.stream.flush());
    let mut expected = frame;
    checksum::complete(&mut expected, 34, 16).unwrap();
    assert_eq!(m.peer_receives(), expected);
    for (start, offset) in [(60, 0), (34, 25), (u16::MAX, u16::MAX)] {
        let refused = m.send(header_of(0, 0, start, offset), &frame);
        assert!(matches!(refused, Err(SendError::Header)));
    }
    assert_eq!(m.stream.waiting(), 0);
}

#[test]
fn long_frames_are_cut_into_a_bounded_number() {
    let mut m = machine();
    let mut frame = vec![0; 54 + 60_000];
    frame[12..15].copy_from_slice(&[8, 0, 0x45]);
    frame[23] = 6;
    frame[46] = 0x50;
    let header = |size| header_of(VIRTIO_NET_HDR_GSO_TCPV4, size, 34, 16);
    assert!(matches!(m.send(header(1), &frame), Err(SendError::Header)));
    assert_eq!(m.stream.waiting(), 0, "nothing of it is sent");
    m.send(header(1460), &frame).unwrap();
    let peer = m.peer.try_clone().unwrap();
    let reader = std::thread::spawn(move || {
        let mut m = Machine { peer, ..machine() };
        (0..42).map(|_| m.peer_receives().len()).sum::<usize>()
    });
    while !m.stream.flush() {
        std::thread::yield_now();
    }
    assert_eq!(reader.join().unwrap(), 42 * 54 + 60_000);
    m.send(header(40), &frame).unwrap();
    frame[46] = 0xf0;
    frame[23] = 17;
    assert!(matches!(m.send(header(1460), &frame), Err(SendError::Header)));
}

proptest! {
    /// However the bytes come in, the frames are those that were sent.
    #[test]
    fn frames_are_put_together(
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 1..20),
        cuts in prop::collection::vec(1usize..5000, 1..40),
    ) {
        let mut m = machine();
        let bytes = on_wire(&frames);
        let mut rest = &bytes[..];
        let mut got = Vec::new();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            m.peer.write_all(now).unwrap();
            rest = later;
            while let Ok(frame) = m.receive() {
                got.push(frame);
            }
        }
        prop_assert_eq!(got, frames);
    }

    #[test]
    fn anything_can_come(bytes in prop::collection::vec(any::<u8>(), 0..4000)) {
        let mut m = machine();
        m.peer.write_all(&bytes).unwrap();
        while m.receive().is_ok() {}
        prop_assert!(m.stream.inbox.from <= m.stream.inbox.to);
    }

    #[test]
    fn any_header_is_done_or_refused(
        header in any::<[u8; header::LEN]>(),
        frame in prop::collection::vec(any::<u8>(), 14..300),
    ) {
        let mut m = machine();
        let before = m.stream.waiting();
        match m.send(header, &frame) {
            Ok(()) => prop_assert!(m.stream.waiting() >= before + PREFIX + frame.len()),
            Err(_) => prop_assert_eq!(m.stream.waiting(), before),
        }
    }
}
