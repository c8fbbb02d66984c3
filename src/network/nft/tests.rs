//! Messages that are well-formed, and what the kernel makes of them, as nft(8) shows it.

use proptest::prelude::*;

use super::attributes::{self, Attributes};
use super::expression::{Base, Comparison, Meta};
use super::*;
use crate::network::testing::Namespace;

const TABLE: Table = Table { family: Family::Inet, name: "test" };
const NUMBERS: Set = Set {
    name: "numbers",
    key: &[Kind::Protocol, Kind::Port],
    data: Some(&[Kind::Address4, Kind::Port]),
    interval: false,
};

#[derive(Debug, Clone)]
enum Tree {
    Leaf(u16, Vec<u8>),
    Branch(u16, Vec<Tree>),
}

fn trees() -> impl Strategy<Value = Tree> {
    let leaf = (0..0x3fffu16, proptest::collection::vec(any::<u8>(), 0..40))
        .prop_map(|(kind, value)| Tree::Leaf(kind, value));
    leaf.prop_recursive(4, 64, 6, |inner| {
        (0..0x3fffu16, proptest::collection::vec(inner, 0..6))
            .prop_map(|(kind, trees)| Tree::Branch(kind, trees))
    })
}

fn write(trees: &[Tree], to: &mut Attributes) {
    for tree in trees {
        match tree {
            Tree::Leaf(kind, value) => to.put(*kind, value),
            Tree::Branch(kind, trees) => to.nest(*kind, |to| write(trees, to)),
        }
    }
}

fn check(trees: &[Tree], bytes: &[u8]) {
    assert!(bytes.len().is_multiple_of(4));
    let read: Vec<_> = attributes::read(bytes).collect();
    assert_eq!(read.len(), trees.len());
    for (tree, (kind, value)) in trees.iter().zip(read) {
        match tree {
            Tree::Leaf(of, bytes) => assert_eq!((*of, &bytes[..]), (kind, value)),
            Tree::Branch(of, trees) => {
                assert_eq!(*of, kind);
                check(trees, value);
            }
        }
    }
}

proptest! {
    #[test]
    fn attributes_are_read_as_they_are_written(trees in proptest::collection::vec(trees(), 0..6)) {
        let mut written = Attributes::default();
        write(&trees, &mut written);
        check(&trees, written.bytes().unwrap());
    }

    #[test]
    fn any_bytes_are_attributes_or_none(bytes: Vec<u8>) {
        for (_, value) in attributes::read(&bytes) {
            prop_assert!(value.len() + 4 <= bytes.len());
            let _ = attributes::read(value).count();
        }
    }

    /// Whatever an element is, its message is as long as it says, and so are its attributes.
    #[test]
    fn messages_are_as_long_as_they_say(key: Vec<u8>, data: Vec<u8>, comment in ".{0,40}") {
        let mut batch = Batch::default();
        let element = Element {
            comment: Some(comment),
            ..Element::with(key.clone(), Data::Value(data.clone()))
        };
        batch.add_element(TABLE, "numbers", &element);
        batch.add_chain(TABLE, Chain { name: "chain", hook: None });
        let bytes = batch.bytes().unwrap();
        let mut rest = &bytes[..];
        let mut kinds = Vec::new();
        while !rest.is_empty() {
            let length = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
            assert!(length >= 20 && length.is_multiple_of(4));
            kinds.push((u16::from_ne_bytes(rest[4..6].try_into().unwrap()), rest[6] & 4 != 0));
            if kinds.len() == 2 {
                let list = attributes::find(&rest[20..length], 3).unwrap();
                let (_, element) = attributes::read(list).next().unwrap();
                let value = |kind| Data::value(attributes::find(element, kind).unwrap()).unwrap();
                prop_assert_eq!((value(1), value(2)), (&key[..], &data[..]));
            }
            rest = &rest[length..];
        }
        // What is before the end is acknowledged.
        prop_assert_eq!(kinds, [(0x10, false), (0xa0c, false), (0xa03, true), (0x11, false)]);
    }
}

#[test]
fn what_is_too_long_for_its_length_is_refused() {
    let mut batch = Batch::default();
    batch.add_element(TABLE, "numbers", &Element::new(vec![0; 70_000]));
    assert!(matches!(batch.bytes(), Err(NftError::TooLong)));
}

fn filled() -> Batch {
    let mut batch = Batch::default();
    batch.add_table(TABLE);
    batch.add_set(TABLE, NUMBERS);
    batch.add_chain(
        TABLE,
        Chain { name: "in", hook: Some(Hook { kind: "filter", number: 1, priority: -7 }) },
    );
    batch.add_chain(TABLE, Chain { name: "other", hook: None });
    batch
}

#[test]
fn the_kernel_has_what_it_was_asked_for() {
    let Some(namespace) = Namespace::possible(&["nft", "nsenter"]) else { return };
    let mut socket = namespace.within(|| Socket::open().unwrap());
    assert!(!socket.has_chain(TABLE, "in").unwrap());
    assert_eq!(socket.elements(TABLE, "numbers").unwrap(), []);
    let mut batch = filled();
    let element = Element {
        comment: Some("whose".into()),
        ..Element::with(
            vec![6, 0, 0, 0, 0, 80, 0, 0],
            Data::Value(vec![10, 0, 0, 1, 31, 144, 0, 0]),
        )
    };
    batch.add_new_element(TABLE, "numbers", &element);
    batch.add_rule(
        TABLE,
        "in",
        &[
            Expression::Meta(Meta::Iifname, Register::FIRST),
            Expression::Compare(
                Register::FIRST,
                Comparison::Is,
                b"eth0\0\0\0\0\0\0\0\0\0\0\0\0".into(),
            ),
            Expression::Payload(Base::Network, 12, 4, Register::FIRST),
            Expression::Verdict(Verdict::Jump("other".into())),
        ],
    );
    socket.commit(&batch).unwrap();
    assert!(socket.has_chain(TABLE, "in").unwrap());
    assert_eq!(socket.elements(TABLE, "numbers").unwrap(), std::slice::from_ref(&element));
    let shown = namespace.run("nft list ruleset");
    for text in [
        "type filter hook input priority filter - 7; policy accept;",
        "type inet_proto . inet_service : ipv4_addr . inet_service",
        "elements = { tcp . 80 comment \"whose\" : 10.0.0.1 . 8080 }",
        "iifname \"eth0\"",
        "jump other",
    ] {
        assert!(shown.contains(text), "{text} is not in {shown}");
    }

    let mut batch = Batch::default();
    batch.delete_element(TABLE, "numbers", &element);
    batch.flush_chain(TABLE, "in");
    batch.delete_chain(TABLE, "other");
    socket.commit(&batch).unwrap();
    assert_eq!(socket.elements(TABLE, "numbers").unwrap(), []);
    assert!(!socket.has_chain(TABLE, "other").unwrap());
    let mut batch = Batch::default();
    batch.delete_table(TABLE);
    socket.commit(&batch).unwrap();
    assert_eq!(namespace.run("nft list ruleset"), "");
}

#[test]
fn of_a_batch_all_is_done_or_nothing() {
    let Some(namespace) = Namespace::possible(&["nft", "nsenter"]) else { return };
    let mut socket = namespace.within(|| Socket::open().unwrap());
    let mut batch = filled();
    batch.add_rule(TABLE, "missing", &[]);
    batch.add_element(TABLE, "numbers", &Element::new(vec![0; 3]));
    let error = socket.commit(&batch).unwrap_err();
    assert_eq!(error.refusal(), Some((4, libc::ENOENT)));
    assert_eq!(error.to_string(), "the kernel refuses to add a rule of chain missing");
    assert_eq!(namespace.run("nft list ruleset"), "");
    // What was left unread of that does not matter to what follows.
    socket.commit(&filled()).unwrap();
    let mut exclusive = Batch::default();
    let element = Element::with(vec![6, 0, 0, 0, 0, 80, 0, 0], Data::Value(vec![0; 8]));
    exclusive.add_new_element(TABLE, "numbers", &element);
    socket.commit(&exclusive).unwrap();
    assert_eq!(socket.commit(&exclusive).unwrap_err().refusal(), Some((0, libc::EEXIST)));
    let mut more = Batch::default();
    // Longer than what a socket sends by default, and than what is read at once.
    for port in 1..5000u16 {
        let [high, low] = port.to_be_bytes();
        let key = vec![17, 0, 0, 0, high, low, 0, 0];
        more.add_new_element(TABLE, "numbers", &Element::with(key, Data::Value(vec![1; 8])));
    }
    socket.commit(&more).unwrap();
    assert_eq!(socket.elements(TABLE, "numbers").unwrap().len(), 5000);
}

/// Whether something was told that is still to be heard.
fn is_told(events: &Events) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
}

#[test]
fn tables_that_go_are_heard_of_and_elements_wake_nobody() {
    let Some(namespace) = Namespace::possible(&["nft", "nsenter"]) else { return };
    let mut socket = namespace.within(|| Socket::open().unwrap());
    socket.commit(&filled()).unwrap();
    let mut events = namespace.within(|| Events::open().unwrap());
    let element = Element::with(vec![6, 0, 0, 0, 0, 80, 0, 0], Data::Value(vec![0; 8]));
    let mut add = Batch::default();
    add.add_new_element(TABLE, "numbers", &element);
    let mut delete = Batch::default();
    delete.delete_element(TABLE, "numbers", &element);
    for batch in [&add, &delete, &add] {
        socket.commit(batch).unwrap();
        assert!(!is_told(&events));
    }
    // What wakes for nothing.
    namespace.run(
        "nft add chain inet test further; nft add table inet other; nft delete table inet other",
    );
    assert!(is_told(&events));
    assert_eq!(events.heard("test").unwrap(), Heard::Nothing);
    assert!(!is_told(&events));
    for end in ["nft flush ruleset", "nft delete table inet test"] {
        socket.commit(&filled()).unwrap();
        namespace.run(end);
        assert_eq!(events.heard("test").unwrap(), Heard::Gone, "{end}");
        assert_eq!(events.heard("test").unwrap(), Heard::Nothing);
    }
}

#[test]
fn more_than_there_is_room_for_is_told_as_such() {
    let Some(namespace) = Namespace::possible(&["nft", "nsenter"]) else { return };
    let mut socket = namespace.within(|| Socket::open().unwrap());
    let mut events = namespace.within(|| Events::open().unwrap());
    let other = Table { name: "other", ..TABLE };
    // More than the few hundred KiB that a socket has room for by default.
    for _ in 0..2000 {
        for add in [true, false] {
            let mut batch = Batch::default();
            if add {
                batch.add_table(other)
            } else {
                batch.delete_table(other)
            }
            socket.commit(&batch).unwrap();
        }
    }
    assert_eq!(events.heard("test").unwrap(), Heard::Overrun);
    assert_eq!(events.heard("test").unwrap(), Heard::Nothing);
}
