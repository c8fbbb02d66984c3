use super::*;
use crate::vmm::devices::virtio::testing::{DATA, Driver, interrupt, memory, raised, readable};

fn ring(event_idx: bool) -> (Driver, Ring) {
    let memory = memory();
    let driver = Driver::new(&memory, 0, 8);
    let ring = Ring::new(driver.queue(event_idx), memory);
    (driver, ring)
}

#[test]
fn used_chains_appear_in_one_step() {
    let (mut driver, mut ring) = ring(false);
    for _ in 0..3 {
        driver.offer(&[readable(DATA, 1)]);
        let head = ring.pop().unwrap().unwrap().head_index();
        ring.push_used(head, 7).unwrap();
        assert!(driver.used().is_empty());
    }
    assert!(ring.pop().unwrap().is_none());
    ring.publish().unwrap();
    assert_eq!(driver.used(), [(0, 7), (1, 7), (2, 7)]);
}

#[test]
fn rings_wrap_around() {
    let (mut driver, mut ring) = ring(true);
    for round in 0..70_000u32 {
        let head = driver.offer(&[readable(DATA, 1)]);
        let popped = ring.pop().unwrap().unwrap().head_index();
        assert_eq!(popped, head);
        ring.push_used(popped, round).unwrap();
        ring.publish().unwrap();
        assert_eq!(driver.used(), [(head, round)]);
    }
}

#[test]
fn the_driver_is_interrupted_only_where_it_asked() {
    let (mut driver, mut ring) = ring(true);
    let interrupt = interrupt();
    let mut use_up = |driver: &mut Driver, count| {
        for _ in 0..count {
            driver.offer(&[readable(DATA, 1)]);
            let head = ring.pop().unwrap().unwrap().head_index();
            ring.push_used(head, 0).unwrap();
        }
        ring.signal(&interrupt).unwrap();
        raised(&interrupt)
    };
    driver.set_used_event(2);
    assert_eq!(use_up(&mut driver, 2), 0);
    assert_eq!(use_up(&mut driver, 0), 0, "nothing new");
    assert_eq!(use_up(&mut driver, 3), 1, "chain 2 is among those used");
    assert_eq!(use_up(&mut driver, 3), 0, "the wish was for one interrupt");
    driver.set_used_event(8);
    assert_eq!(use_up(&mut driver, 1), 1);
}

#[test]
fn without_event_idx_the_flag_decides() {
    let (mut driver, mut ring) = ring(false);
    let interrupt = interrupt();
    for (flags, interrupts) in [(0, 1), (1, 0)] {
        driver.set_flags(flags);
        driver.offer(&[readable(DATA, 1)]);
        let head = ring.pop().unwrap().unwrap().head_index();
        ring.push_used(head, 0).unwrap();
        ring.signal(&interrupt).unwrap();
        assert_eq!(raised(&interrupt), interrupts);
    }
}

#[test]
fn chains_that_come_while_draining_are_not_lost() {
    for event_idx in [false, true] {
        let (mut driver, mut ring) = ring(event_idx);
        let mut buffers = Buffers::new(&driver.memory);
        let interrupt = interrupt();
        driver.offer(&[readable(DATA, 1)]);
        let mut handled = 0;
        let drained = ring
            .drain(&mut buffers, Direction::Readable, &interrupt, |chain| {
                assert!(chain.is_ok());
                handled += 1;
                if handled < 20 {
                    driver.offer(&[readable(DATA, 1)]);
                }
                Handled::Used(0)
            })
            .unwrap();
        assert_eq!((handled, drained), (20, Drained::Empty));
        assert_eq!(raised(&interrupt), 1);
    }
}

#[test]
fn a_driver_that_never_stops_is_interrupted_and_asked_back() {
    let (mut driver, mut ring) = ring(true);
    let mut buffers = Buffers::new(&driver.memory);
    let interrupt = interrupt();
    driver.offer(&[readable(DATA, 1)]);
    let mut handled = 0;
    let drained = ring
        .drain(&mut buffers, Direction::Readable, &interrupt, |_| {
            handled += 1;
            driver.offer(&[readable(DATA, 1)]);
            Handled::Used(0)
        })
        .unwrap();
    assert_eq!((handled, drained), (BATCH, Drained::More));
}

#[test]
fn a_chain_that_has_to_wait_stays_first() {
    let (mut driver, mut ring) = ring(true);
    let mut buffers = Buffers::new(&driver.memory);
    let interrupt = interrupt();
    for _ in 0..3 {
        driver.offer(&[readable(DATA, 1)]);
    }
    let mut left = 1;
    let drained = ring.drain(&mut buffers, Direction::Readable, &interrupt, |_| {
        left -= 1;
        if left < 0 { Handled::Later } else { Handled::Used(0) }
    });
    assert_eq!(drained.unwrap(), Drained::Blocked);
    assert_eq!(driver.used(), [(0, 0)]);
    let drained = ring.drain(&mut buffers, Direction::Readable, &interrupt, |_| Handled::Used(0));
    assert_eq!(drained.unwrap(), Drained::Empty);
    assert_eq!(driver.used(), [(1, 0), (2, 0)]);
}

#[test]
fn broken_rings_are_told_apart_from_empty_ones() {
    let (driver, mut ring1) = ring(true);
    driver.set_available(9);
    assert!(matches!(ring1.pop(), Err(RingError::Available(_))));

    let (mut driver, mut ring) = ring(true);
    driver.offer_head(8);
    assert!(matches!(ring.pop(), Err(RingError::Head { head: 8, size: 8 })));
}

#[test]
fn malformed_chains_are_handed_on_as_such() {
    let (mut driver, mut ring) = ring(true);
    let mut buffers = Buffers::new(&driver.memory);
    driver.offer(&[readable(DATA, 0)]);
    driver.offer(&[readable(DATA, 5)]);
    let mut seen = Vec::new();
    ring.drain(&mut buffers, Direction::Readable, &interrupt(), |chain| {
        seen.push(chain.map(|buffers| buffers.readable.len()));
        Handled::Used(0)
    })
    .unwrap();
    assert_eq!(seen, [Err(ChainError::ZeroLength), Ok(5)]);
    assert_eq!(driver.used(), [(0, 0), (1, 0)]);
}
