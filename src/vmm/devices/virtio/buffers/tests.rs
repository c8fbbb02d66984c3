use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;

use proptest::prelude::*;
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::QueueOwnedT;

use super::*;
use crate::vmm::devices::virtio::testing::{
    Buffer, DATA, Driver, MEMORY, memory, readable, writable,
};

fn load(driver: &Driver, buffers: &mut Buffers, direction: Direction) -> Result<(), ChainError> {
    let mut queue = driver.queue(false);
    let chain = queue.iter(&driver.memory).unwrap().next().unwrap();
    buffers.load(chain, direction)
}

/// Offers the chain and loads it.
fn loaded(chain: &[Buffer]) -> (Driver, Result<Buffers, ChainError>) {
    let memory = memory();
    let mut driver = Driver::new(&memory, 0, 16);
    driver.offer(chain);
    let mut buffers = Buffers::new(&memory);
    let result = load(&driver, &mut buffers, Direction::Both).map(|()| buffers);
    (driver, result)
}

fn refused(chain: &[Buffer]) -> ChainError {
    loaded(chain).1.unwrap_err()
}

#[test]
fn a_header_may_be_spread_over_segments() {
    let (driver, buffers) =
        loaded(&[readable(DATA, 3), readable(DATA + 100, 4), readable(DATA + 200, 2)]);
    driver.write(DATA, b"abc");
    driver.write(DATA + 100, b"defg");
    driver.write(DATA + 200, b"hi");
    let mut segments = buffers.unwrap().readable;
    let mut header = [0; 5];
    assert!(segments.peek(&mut header));
    assert_eq!(&header, b"abcde");
    assert!(segments.read(&mut header));
    assert_eq!(&header, b"abcde");
    assert_eq!((segments.len(), segments.count()), (4, 2));
    assert!(!segments.read(&mut header), "only 4 bytes are left");
    assert!(segments.read(&mut header[..4]));
    assert_eq!(&header[..4], b"fghi");
    assert!(segments.is_empty());
}

#[test]
fn a_front_is_split_off_wherever_it_ends() {
    let chain = [writable(DATA, 3), writable(DATA + 100, 4), writable(DATA + 200, 2)];
    for n in 0..=9 {
        let (driver, buffers) = loaded(&chain);
        let mut rest = buffers.unwrap().writable;
        let mut front = Segments::new(&driver.memory);
        assert!(!rest.split_front(10, &mut front));
        assert_eq!((rest.len(), front.len()), (9, 0));
        assert!(rest.split_front(n, &mut front));
        assert_eq!((front.len(), rest.len()), (n, 9 - n));
        assert!(front.write(&b"123456789"[..n]));
        assert!(rest.write(&b"123456789"[n..]));
        assert_eq!(driver.read(DATA, 3), b"123");
        assert_eq!(driver.read(DATA + 100, 4), b"4567");
        assert_eq!(driver.read(DATA + 200, 2), b"89");
    }
}

#[test]
fn a_list_is_cut_wherever_it_is_to_end() {
    for n in 0..=10 {
        let (driver, buffers) = loaded(&[readable(DATA, 4), readable(DATA + 100, 5)]);
        driver.write(DATA, b"abcd");
        driver.write(DATA + 100, b"efghi");
        let mut segments = buffers.unwrap().readable;
        segments.truncate(n);
        let mut bytes = vec![0; n.min(9)];
        assert_eq!(segments.len(), bytes.len());
        assert!(segments.read(&mut bytes));
        assert_eq!(bytes, b"abcdefghi"[..n.min(9)]);
    }
}

#[test]
fn the_last_byte_is_written_wherever_it_is() {
    for lens in [&[5u32, 4][..], &[9][..], &[8, 1][..]] {
        let mut at = DATA;
        let chain: Vec<_> = lens
            .iter()
            .map(|&len| {
                let buffer = writable(at, len);
                at += u64::from(len);
                buffer
            })
            .collect();
        let (driver, buffers) = loaded(&chain);
        let mut segments = buffers.unwrap().writable;
        assert!(segments.reserve_last());
        assert_eq!(segments.len(), 8);
        assert!(!segments.write(b"123456789"));
        assert!(segments.write(b"12345678"));
        segments.write_reserved(b'!');
        assert_eq!(driver.read(DATA, 10), b"12345678!\0", "{lens:?}");
    }
}

#[test]
fn an_empty_part_has_no_last_byte() {
    let (_, buffers) = loaded(&[readable(DATA, 1)]);
    let mut segments = buffers.unwrap().writable;
    assert!(!segments.reserve_last());
    segments.write_reserved(1);
}

#[test]
fn bytes_can_be_written_ahead() {
    let (driver, buffers) = loaded(&[writable(DATA, 3), writable(DATA + 100, 3)]);
    let mut segments = buffers.unwrap().writable;
    assert!(segments.write_at(2, b"xy"));
    assert!(segments.write_at(3, b"z"));
    assert!(segments.write_at(6, b""));
    assert!(!segments.write_at(5, b"ab"));
    assert!(!segments.write_at(7, b""));
    assert_eq!(segments.len(), 6);
    segments.consume(1);
    assert!(segments.write_at(0, b"w"));
    assert_eq!(driver.read(DATA, 4), b"\0wx\0");
    assert_eq!(driver.read(DATA + 100, 2), b"z\0");
}

#[test]
fn lying_chains_are_refused() {
    assert_eq!(refused(&[readable(DATA, 0)]), ChainError::ZeroLength);
    assert_eq!(refused(&[writable(DATA, 1), readable(DATA, 1)]), ChainError::ReadableAfterWritable);
    let end = u64::try_from(MEMORY).unwrap();
    for (address, len) in
        [(end, 1), (end - 1, 2), (u64::MAX, 1), (u64::MAX - 1, 2), (u64::MAX, 2), (0, u32::MAX)]
    {
        assert_eq!(
            refused(&[readable(address, len)]),
            ChainError::NotMemory { address, len },
            "{address:#x} {len}"
        );
    }
    assert!(loaded(&[readable(end - 1, 1)]).1.is_ok());
}

#[test]
fn a_queue_of_one_direction_takes_no_other() {
    let memory = memory();
    for (chain, direction) in
        [(readable(DATA, 4), Direction::Writable), (writable(DATA, 4), Direction::Readable)]
    {
        let mut driver = Driver::new(&memory, 0, 16);
        driver.offer(&[chain]);
        let mut buffers = Buffers::new(&memory);
        assert_eq!(load(&driver, &mut buffers, direction), Err(ChainError::WrongDirection));
    }
}

#[test]
fn chains_without_an_end_are_refused() {
    let memory = memory();
    let mut buffers = Buffers::new(&memory);
    // A descriptor that leads to itself, one that leads out of the table, and an indirect table
    // in an indirect table, of a broken length, and of none.
    let next = VRING_DESC_F_NEXT;
    let indirect = VRING_DESC_F_INDIRECT;
    for (len, flags, to) in
        [(8, next, 0), (8, next, 16), (16, indirect, 0), (15, indirect, 0), (0, indirect, 0)]
    {
        let mut driver = Driver::new(&memory, 0, 16);
        driver.descriptor(0, if flags == indirect { 0 } else { DATA }, len, flags, to);
        driver.offer_head(0);
        assert_eq!(load(&driver, &mut buffers, Direction::Both), Err(ChainError::Broken));
    }
}

#[test]
fn an_indirect_table_is_bounded_too() {
    let memory = memory();
    let mut driver = Driver::new(&memory, 0, 16);
    let chain = vec![readable(DATA, 1); MAX_CHAIN_SEGMENTS + 1];
    driver.offer_indirect(0x8000, &chain);
    let mut buffers = Buffers::new(&memory);
    assert_eq!(load(&driver, &mut buffers, Direction::Both), Err(ChainError::TooManySegments));

    let mut driver = Driver::new(&memory, 0, 16);
    driver.offer_indirect(0x8000, &chain[1..]);
    assert_eq!(load(&driver, &mut buffers, Direction::Both), Ok(()));
    assert_eq!(buffers.readable.count(), MAX_CHAIN_SEGMENTS);
}

#[test]
fn what_was_gathered_survives_a_bad_chain() {
    let memory = memory();
    let mut buffers = Buffers::new(&memory);
    let append = |buffers: &mut Buffers, chain: &[Buffer]| {
        let mut driver = Driver::new(&memory, 0, 16);
        driver.offer(chain);
        let mut queue = driver.queue(false);
        let chain = queue.iter(&memory).unwrap().next().unwrap();
        buffers.append(chain, Direction::Writable)
    };
    append(&mut buffers, &[writable(DATA, 10), writable(DATA, 20)]).unwrap();
    buffers.writable.consume(15);
    assert!(append(&mut buffers, &[writable(DATA, 5), writable(DATA, 0)]).is_err());
    assert_eq!((buffers.writable.len(), buffers.writable.count()), (15, 1));
    append(&mut buffers, &[writable(DATA, 5)]).unwrap();
    assert_eq!((buffers.writable.len(), buffers.writable.count()), (20, 2));
}

#[test]
fn lists_do_not_outgrow_a_system_call() {
    let memory = memory();
    let mut buffers = Buffers::new(&memory);
    let mut driver = Driver::new(&memory, 0, 16);
    driver.offer_indirect(0x8000, &[writable(DATA, 1); 250]);
    let mut fit = 0;
    let error = loop {
        let mut queue = driver.queue(false);
        let chain = queue.iter(&memory).unwrap().next().unwrap();
        match buffers.append(chain, Direction::Writable) {
            Ok(()) => fit += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((fit, error), (4, ChainError::TooManySegments));
    // One more range is the device's own; the kernel takes that many.
    let (mut to, from) = std::os::unix::net::UnixStream::pair().unwrap();
    to.write_all(&[7; 1001]).unwrap();
    assert_eq!(buffers.writable.receive(from.as_fd(), &mut [0]).unwrap(), 1001);
}

#[test]
fn a_buffer_may_cross_regions_but_not_holes() {
    let memory = GuestMemoryMmap::from_ranges(&[
        (GuestAddress(0), 0x2000),
        (GuestAddress(0x2000), 0x1000),
        (GuestAddress(0x4000), 0x1000),
    ])
    .unwrap();
    let mut buffers = Buffers::new(&memory);
    let mut driver = Driver::new(&memory, 0, 16);
    driver.offer(&[readable(0x1ffe, 4)]);
    load(&driver, &mut buffers, Direction::Both).unwrap();
    assert_eq!((buffers.readable.len(), buffers.readable.count()), (4, 2));

    let mut driver = Driver::new(&memory, 0, 16);
    driver.offer(&[readable(0x2ffe, 0x1004)]);
    assert_eq!(
        load(&driver, &mut buffers, Direction::Both),
        Err(ChainError::NotMemory { address: 0x2ffe, len: 0x1004 })
    );
    assert!(buffers.readable.is_empty());
}

#[test]
fn files_are_read_and_written_in_place() {
    let (driver, buffers) = loaded(&[
        readable(DATA, 3),
        readable(DATA + 16, 5),
        writable(DATA + 100, 2),
        writable(DATA + 200, 20),
    ]);
    driver.write(DATA, b"abc");
    driver.write(DATA + 16, b"defgh");
    let Buffers { mut readable, mut writable } = buffers.unwrap();
    let mut file = tempfile::tempfile().unwrap();
    assert_eq!(readable.write_file(file.as_fd(), 4).unwrap(), 8);
    assert!(readable.is_empty());
    let mut text = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut text).unwrap();
    assert_eq!(text, b"\0\0\0\0abcdefgh");

    assert_eq!(writable.read_file(file.as_fd(), 5).unwrap(), 7);
    assert_eq!(writable.len(), 15);
    assert_eq!(driver.read(DATA + 100, 2), b"bc");
    assert_eq!(driver.read(DATA + 200, 6), b"defgh\0");
    assert_eq!(writable.read_file(file.as_fd(), 12).unwrap(), 0, "the end of the file");
    let error = writable.read_file(file.as_fd(), u64::MAX).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}

prop_compose! {
    fn descriptor()(
        address in prop_oneof![any::<u64>(), 0..0x5_0000u64, Just(u64::MAX)],
        len in prop_oneof![any::<u32>(), 0..0x400u32],
        flags in prop_oneof![0..8u32, Just(VRING_DESC_F_NEXT), Just(VRING_DESC_F_WRITE | VRING_DESC_F_NEXT)],
        next in 0..18u16,
    ) -> (u64, u32, u32, u16) {
        (address, len, flags, next)
    }
}

proptest! {
    /// Whatever the table says: an error, or buffers that are within memory and within bounds.
    #[test]
    fn hostile_tables(
        table in prop::collection::vec(descriptor(), 16),
        indirect in prop::collection::vec(descriptor(), 16),
        head in 0..20u16,
    ) {
        let memory = memory();
        let mut driver = Driver::new(&memory, 0, 16);
        for (base, table) in [(0, &table), (0x8000, &indirect)] {
            for (slot, (address, len, flags, next)) in (0u64..).zip(table) {
                // Some of the tables should be found.
                let (address, len) = match flags & VRING_DESC_F_INDIRECT {
                    0 => (*address, *len),
                    _ if address % 2 == 0 => (0x8000, 256),
                    _ => (*address, *len),
                };
                driver.descriptor(base + 16 * slot, address, len, *flags, *next);
            }
        }
        driver.offer_head(head);
        let mut buffers = Buffers::new(&memory);
        if load(&driver, &mut buffers, Direction::Both).is_ok() {
            for part in [&buffers.readable, &buffers.writable] {
                prop_assert!(part.count() <= MAX_CHAIN_SEGMENTS);
                let sum: usize = part.slices().map(|slice| slice.len()).sum();
                prop_assert_eq!(sum, part.len());
                let start = memory.get_host_address(GuestAddress(0)).unwrap() as usize;
                for slice in part.slices() {
                    let at = slice.ptr_guard().as_ptr() as usize;
                    prop_assert!(at >= start && at + slice.len() <= start + MEMORY);
                }
            }
            let room = buffers.writable.len();
            let small = room.min(4096);
            prop_assert!(buffers.writable.write_at(room - small, &vec![0; small]));
        } else {
            prop_assert!(buffers.readable.is_empty() && buffers.writable.is_empty());
        }
    }

    /// A list of segments behaves like the bytes of its segments one after the other.
    #[test]
    fn segments_are_one_run_of_bytes(
        lens in prop::collection::vec(1..50u32, 1..16),
        steps in prop::collection::vec((0..4u8, 0..60usize), 0..20),
    ) {
        let mut at = DATA;
        let chain: Vec<_> = lens.iter().map(|&len| {
            let buffer = readable(at, len);
            at += u64::from(len) + 7;
            buffer
        }).collect();
        let (driver, buffers) = loaded(&chain);
        let mut segments = buffers.unwrap().readable;
        let mut model = Vec::new();
        for buffer in &chain {
            let bytes: Vec<u8> = (0..buffer.len).map(|i| (i * 31 + buffer.len).to_le_bytes()[0]).collect();
            driver.write(buffer.address, &bytes);
            model.extend_from_slice(&bytes);
        }
        for (step, n) in steps {
            let mut bytes = vec![0; n];
            match step {
                0 => {
                    let whole = segments.read(&mut bytes);
                    prop_assert_eq!(whole, n <= model.len());
                    if whole {
                        let front: Vec<u8> = model.drain(..n).collect();
                        prop_assert_eq!(&bytes, &front);
                    }
                }
                1 => {
                    segments.consume(n);
                    model.drain(..n.min(model.len()));
                }
                2 => {
                    let whole = segments.write_at(n, b"**");
                    prop_assert_eq!(whole, n + 2 <= model.len());
                    if whole {
                        model[n..n + 2].copy_from_slice(b"**");
                    }
                }
                _ => {
                    prop_assert_eq!(segments.reserve_last(), model.pop().is_some());
                }
            }
            prop_assert_eq!(segments.len(), model.len());
            let mut all = vec![0; model.len()];
            prop_assert!(segments.peek(&mut all));
            prop_assert_eq!(&all, &model);
        }
    }
}
