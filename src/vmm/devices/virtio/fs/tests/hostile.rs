//! A driver that breaks the rules.

use proptest::prelude::*;

use super::*;
use crate::vmm::devices::virtio::testing::{MEMORY, readable, writable};

#[test]
fn messages_that_make_no_sense_are_answered_or_given_back() {
    let folder = folder();
    let Some(mut client) = Client::mounted(directory(folder.path(), false)) else { return };
    let header =
        |len: u32, opcode| [words(&[len, opcode]), longs(&[9, ROOT]), words(&[0; 4])].concat();
    let error = |errno: i32| [words(&[16, errno.wrapping_neg().cast_unsigned()]), longs(&[9])];
    let invalid = error(libc::EINVAL).concat();
    // No header, half a header: there is nothing to answer to.
    assert!(client.exchange(&[], ROOM).is_empty());
    assert!(client.exchange(&header(40, GETATTR)[..39], ROOM).is_empty());
    // Lengths that lie.
    for len in [0, 39, 41, 1 << 20, u32::MAX] {
        assert_eq!(client.exchange(&header(len, GETATTR), ROOM), invalid, "{len}");
    }
    // Bodies that end too early, and strings that do not end.
    for opcode in [GETATTR, SETATTR, OPEN, READ, WRITE, INIT, READDIR, RENAME, LINK, LOOKUP] {
        assert_eq!(client.exchange(&header(40, opcode), ROOM), invalid, "{opcode}");
    }
    let endless = [header(44, LOOKUP), b"file".to_vec()].concat();
    assert_eq!(client.exchange(&endless, ROOM), invalid);
    // No room for an answer, or for all of it.
    for room in [0, 1, 15] {
        assert!(client.exchange(&[header(56, GETATTR), longs(&[0, 0])].concat(), room).is_empty());
    }
    assert_eq!(client.exchange(&[header(56, GETATTR), longs(&[0, 0])].concat(), 17), invalid);
    // Nobody waits for an answer to these.
    assert!(client.exchange(&header(40, FORGET), ROOM).is_empty());
    for opcode in [0, 7, 31, 32, 40, 47, 50, 51, 4096, u32::MAX] {
        let answer = client.send(opcode, ROOT, &[0; 64]);
        assert!(matches!(answer, Err(libc::ENOSYS)), "{opcode}: {answer:?}");
    }
    assert!(client.answers());
    assert!(client.fs.metrics().malformed.get() > 10);
}

#[test]
fn more_than_a_message_can_hold_is_refused() {
    let folder = folder();
    let Some(mut client) = Client::mounted(directory(folder.path(), false)) else { return };
    let whole = u32::try_from(MEMORY).unwrap();
    // The same memory many times over, in either direction.
    client.driver.write(0x1_0000, &[words(&[56, GETATTR]), longs(&[9, ROOT])].concat());
    let many = [readable(0x1_0000, whole - 0x1_0000)].repeat(16);
    assert_eq!(client.offer(&[many.as_slice(), &[writable(0x2_0000, ROOM)]].concat()), 16);
    let many = [writable(0x2_0000, whole - 0x2_0000)].repeat(16);
    assert_eq!(client.offer(&[&[readable(0x1_0000, 56)], many.as_slice()].concat()), 16);
    // Not the guest's memory, an empty buffer, a writable one before a readable one.
    assert_eq!(client.offer(&[readable(u64::from(whole) - 8, 56)]), 0);
    assert_eq!(client.offer(&[readable(0x1_0000, 56), writable(0x2_0000, 0)]), 0);
    assert_eq!(client.offer(&[writable(0x2_0000, ROOM), readable(0x1_0000, 56)]), 0);
    // A chain that leads back to itself.
    let head = client.driver.next_head();
    let at = client.driver.table() + 16 * u64::from(head);
    client.driver.offer(&[readable(0x1_0000, 56)]);
    client.driver.descriptor(at, 0x1_0000, 56, 1, head);
    client.kick();
    assert_eq!(client.wait(), 0);
    // A file is read into as much room as there is, and no further.
    let node = client.lookup(ROOT, "file");
    let handle = client.open(node, libc::O_RDONLY);
    assert!(client.read(node, handle, u32::MAX).is_err());
    assert!(client.answers());
}

#[test]
fn a_broken_ring_stops_the_device_until_it_is_reset() {
    let folder = folder();
    let Some(mut client) = Client::mounted(directory(folder.path(), false)) else { return };
    client.driver.offer_head(64);
    client.kick();
    while !client.interrupt.waits_for_reset() {
        assert!(client.wait_for_interrupt(10_000));
    }
    assert!(client.fs.positions().is_none());
    assert_eq!(client.fs.metrics().stopped.get(), 1);
    client.fs.reset();
    client.activate();
    // What the old driver knew is gone: the new one has to begin at the beginning.
    assert_eq!(client.send(GETATTR, ROOT, &longs(&[0, 0])), Err(libc::EBADF));
    client.init().unwrap();
    assert!(client.answers());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_is_sent_the_next_message_is_answered(
        messages in prop::collection::vec(
            (0..60u32, prop_oneof![Just(ROOT), any::<u64>()], prop::collection::vec(any::<u8>(), 0..120)),
            1..8,
        ),
        room in 0..300u32,
    ) {
        let folder = folder();
        let Some(mut client) = Client::mounted(directory(folder.path(), true)) else { return Ok(()) };
        for (opcode, node, body) in messages {
            let len = u32::try_from(40 + body.len()).unwrap();
            let header = [words(&[len, opcode]), longs(&[1, node]), words(&[0; 4])].concat();
            client.exchange(&[header, body].concat(), room);
        }
        client.init().unwrap();
        prop_assert!(client.answers());
    }
}
