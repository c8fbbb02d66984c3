use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

fn header(buf_alloc: u32, fwd_cnt: u32) -> Header {
    Header { buf_alloc, fwd_cnt, ..Header::default() }
}

fn data(len: u32) -> Header {
    Header { len, buf_alloc: 1000, ..Header::default() }
}

fn shutdown(closed: Shutdown) -> Header {
    Header { flags: closed.flags(), buf_alloc: 1000, ..Header::default() }
}

fn send_next(connection: &mut Connection) -> Option<(Output, Header)> {
    let output = connection.next()?;
    let mut header = Header::default();
    connection.sent(output, 0, &mut header);
    Some((output, header))
}

/// A connection that the guest made, answered, with nothing to read from the stream.
fn established() -> Connection {
    let mut connection = Connection::from_guest(&header(1000, 0)).unwrap();
    assert_eq!(send_next(&mut connection).unwrap().0, Output::Response);
    connection.stream_empty();
    assert_eq!(connection.next(), None);
    connection
}

#[test]
fn a_call_is_accepted() {
    let mut connection = Connection::to_guest();
    let (output, sent) = send_next(&mut connection).unwrap();
    assert_eq!((output, sent.buf_alloc), (Output::Request, BUFFER));
    assert_eq!(connection.wait(), Some(Wait::Answer));
    assert_eq!(connection.next(), None, "nothing is read before the answer");
    assert_eq!(connection.packet(Op::Response, &header(10, 0)), Ok(Verdict::Accepted));
    assert_eq!(connection.wait(), None);
    assert_eq!(connection.next(), Some(Output::Data { max: 10 }));
}

#[test]
fn a_call_is_refused_or_given_up() {
    let mut refused = Connection::to_guest();
    send_next(&mut refused);
    assert_eq!(refused.packet(Op::Reset, &header(0, 0)), Ok(Verdict::Done));
    assert_eq!(refused.end(), Some(End::Quiet));

    let mut ignored = Connection::to_guest();
    send_next(&mut ignored);
    ignored.time_is_up();
    assert_eq!(ignored.end(), Some(End::Reset));

    let mut abandoned = Connection::to_guest();
    abandoned.stream_gone();
    assert_eq!(abandoned.end(), Some(End::Quiet), "the guest was never asked");
    let mut abandoned = Connection::to_guest();
    send_next(&mut abandoned);
    abandoned.stream_gone();
    assert_eq!(abandoned.end(), Some(End::Reset));
}

#[test]
fn the_guest_is_asked_for_credit_once() {
    let mut connection = established();
    connection.stream_readable();
    let mut packet = Header::default();
    connection.sent(Output::Data { max: 1000 }, 1000, &mut packet);
    assert_eq!(packet.len, 1000);
    assert_eq!(send_next(&mut connection).unwrap().0, Output::CreditRequest);
    assert_eq!(connection.next(), None);
    connection.packet(Op::CreditUpdate, &header(1000, 0)).unwrap();
    assert_eq!(connection.next(), None, "no credit came with that");
    connection.packet(Op::CreditUpdate, &header(1000, 400)).unwrap();
    assert_eq!(connection.next(), Some(Output::Data { max: 400 }));
}

#[test]
fn the_guest_hears_of_free_space() {
    let mut connection = established();
    connection.packet(Op::Data, &data(BUFFER)).unwrap();
    connection.forwarded(BUFFER / 4 - 1);
    assert_eq!(connection.next(), None);
    connection.forwarded(1);
    let (output, sent) = send_next(&mut connection).unwrap();
    assert_eq!((output, sent.fwd_cnt), (Output::CreditUpdate, BUFFER / 4));
    assert_eq!(connection.next(), None);
    connection.packet(Op::CreditRequest, &header(1000, 0)).unwrap();
    assert_eq!(send_next(&mut connection).unwrap().0, Output::CreditUpdate);
}

#[test]
fn a_guest_that_closes_waits_for_its_bytes_to_arrive() {
    let mut connection = established();
    connection.packet(Op::Data, &data(10)).unwrap();
    connection.packet(Op::Shutdown, &shutdown(Shutdown::BOTH)).unwrap();
    assert!(!connection.stream_is_complete());
    assert_eq!(connection.end(), None);
    connection.forwarded(10);
    assert!(connection.stream_is_complete());
    assert_eq!(connection.end(), Some(End::Reset));
}

#[test]
fn bytes_outlive_a_reset() {
    let mut connection = established();
    connection.packet(Op::Data, &data(10)).unwrap();
    connection.packet(Op::Reset, &header(0, 0)).unwrap();
    assert_eq!(connection.end(), None);
    assert_eq!(connection.packet(Op::Data, &data(1)), Ok(Verdict::Refuse));
    connection.forwarded(10);
    assert_eq!(connection.end(), Some(End::Quiet));
}

#[test]
fn half_closed_connections_go_on() {
    let mut connection = established();
    connection.packet(Op::Shutdown, &shutdown(Shutdown::SEND)).unwrap();
    assert!(connection.stream_is_complete());
    assert_eq!(connection.end(), None);
    connection.stream_readable();
    assert_eq!(connection.next(), Some(Output::Data { max: 1000 }));
    assert_eq!(connection.packet(Op::Data, &data(1)), Err(Violation::AfterEnd));

    let mut connection = established();
    connection.stream_ended();
    assert_eq!(send_next(&mut connection).unwrap().0, Output::Shutdown(Shutdown::SEND));
    assert_eq!(connection.packet(Op::Data, &data(1)), Ok(Verdict::Deliver));
    assert_eq!(connection.next(), None);
}

#[test]
fn a_stream_that_is_gone_takes_nothing() {
    let mut connection = established();
    connection.packet(Op::Data, &data(10)).unwrap();
    connection.stream_gone();
    assert_eq!(connection.held(), 0);
    assert_eq!(send_next(&mut connection).unwrap().0, Output::Shutdown(Shutdown::RECEIVE));
    assert_eq!(connection.packet(Op::Data, &data(10)), Ok(Verdict::Discard));
    connection.stream_ended();
    assert_eq!(send_next(&mut connection).unwrap().0, Output::Shutdown(Shutdown::BOTH));
    assert_eq!(connection.wait(), Some(Wait::Close));
    connection.time_is_up();
    assert_eq!(connection.end(), Some(End::Reset));
}

#[test]
fn a_guest_with_unread_bytes_may_take_its_time() {
    let mut connection = established();
    connection.stream_readable();
    connection.sent(Output::Data { max: 1000 }, 5, &mut Header::default());
    connection.stream_ended();
    connection.stream_gone();
    send_next(&mut connection).unwrap();
    assert_eq!(connection.wait(), None);
    connection.packet(Op::CreditUpdate, &header(1000, 5)).unwrap();
    assert_eq!(connection.wait(), Some(Wait::Close));
}

#[test]
fn nonsense_is_a_violation() {
    let cases = [(Op::Request, State::Established), (Op::Response, State::Established)];
    for (op, state) in cases {
        let violation = Violation::Unexpected { op, state };
        assert_eq!(established().packet(op, &header(1, 0)), Err(violation));
    }
    let overrun = established().packet(Op::Data, &data(BUFFER + 1));
    assert!(matches!(overrun, Err(Violation::Credit(CreditError::Overrun { .. }))));
    let unsent = established().packet(Op::CreditUpdate, &header(1, 1));
    assert!(matches!(unsent, Err(Violation::Credit(CreditError::Unsent { .. }))));
    let early = Connection::from_guest(&header(1, 0)).unwrap().packet(Op::Data, &data(1));
    assert!(matches!(early, Err(Violation::Unexpected { .. })));
    assert!(Connection::from_guest(&header(1, 1)).is_err());
}

/// A guest that keeps to the rules and a client, with a connection between them. Both sides send
/// the same endless pattern, each its own number of bytes of it.
struct World {
    connection: Connection,
    buf_alloc: u32,
    guest: Guest,
    /// What the client wrote and the connection did not read.
    unread: VecDeque<u8>,
    client_wrote: usize,
    client_ended: bool,
    /// What the client's socket takes now, and what did not fit.
    socket_room: usize,
    backlog: VecDeque<u8>,
    client_got: usize,
}

#[derive(Default)]
struct Guest {
    wrote: usize,
    host_alloc: u32,
    host_fwd: u32,
    sent: u32,
    unread: VecDeque<u8>,
    forwarded: u32,
    got: usize,
    saw_end: bool,
}

#[derive(Debug, Clone)]
enum Step {
    GuestWrites(usize),
    GuestReads(usize),
    GuestAsks,
    ClientWrites(usize),
    ClientTakes(usize),
    PacketToGuest(usize),
}

fn pattern(at: usize, len: usize) -> Vec<u8> {
    (at..at + len).map(|i| u8::try_from(i % 251).unwrap()).collect()
}

/// Takes bytes out of `from`, which must be the next of the pattern.
fn take(from: &mut VecDeque<u8>, n: usize, got: &mut usize) {
    assert!(from.drain(..n).eq(pattern(*got, n)), "not what was sent");
    *got += n;
}

impl World {
    fn new(buf_alloc: u32) -> Self {
        let connection = Connection::from_guest(&header(buf_alloc, 0)).unwrap();
        Self {
            connection,
            buf_alloc,
            guest: Guest::default(),
            unread: VecDeque::new(),
            client_wrote: 0,
            client_ended: false,
            socket_room: 0,
            backlog: VecDeque::new(),
            client_got: 0,
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::GuestWrites(n) => self.guest_writes(n),
            Step::GuestReads(n) => self.guest_reads(n),
            Step::GuestAsks => self.guest_says(Op::CreditRequest, 0),
            Step::ClientWrites(n) => {
                self.unread.extend(pattern(self.client_wrote, n));
                self.client_wrote += n;
                self.connection.stream_readable();
            }
            Step::ClientTakes(n) => self.client_takes(n),
            Step::PacketToGuest(room) => self.packet_to_guest(room),
        }
        assert!(self.connection.held() <= BUFFER);
        assert_eq!(self.connection.held() as usize, self.backlog.len());
    }

    fn guest_says(&mut self, op: Op, len: u32) {
        if self.guest.host_alloc == 0 {
            return; // not connected yet
        }
        let mut header = header(self.buf_alloc, self.guest.forwarded);
        header.len = len;
        let expected = if op == Op::Data { Verdict::Deliver } else { Verdict::Done };
        assert_eq!(self.connection.packet(op, &header), Ok(expected));
    }

    fn guest_writes(&mut self, n: usize) {
        let in_flight = self.guest.sent.wrapping_sub(self.guest.host_fwd);
        let credit = self.guest.host_alloc - in_flight;
        let len = u32::try_from(n).unwrap().min(credit);
        self.guest_says(Op::Data, len);
        self.guest.sent = self.guest.sent.wrapping_add(len);
        self.backlog.extend(pattern(self.guest.wrote, len as usize));
        self.guest.wrote += len as usize;
        self.client_takes(0);
    }

    fn guest_reads(&mut self, n: usize) {
        let n = n.min(self.guest.unread.len());
        take(&mut self.guest.unread, n, &mut self.guest.got);
        self.guest.forwarded += u32::try_from(n).unwrap();
        self.guest_says(Op::CreditUpdate, 0);
    }

    fn client_takes(&mut self, more_room: usize) {
        self.socket_room += more_room;
        let n = self.socket_room.min(self.backlog.len());
        self.socket_room -= n;
        take(&mut self.backlog, n, &mut self.client_got);
        self.connection.forwarded(u32::try_from(n).unwrap());
    }

    fn packet_to_guest(&mut self, room: usize) {
        let Some(output) = self.connection.next() else {
            return;
        };
        let mut header = Header::default();
        let mut len = 0;
        if let Output::Data { max } = output {
            assert!(max > 0 && max <= MAX_PAYLOAD);
            let n = room.min(max as usize).min(self.unread.len());
            if n == 0 {
                if self.client_ended {
                    self.connection.stream_ended();
                } else {
                    self.connection.stream_empty();
                }
                return;
            }
            self.guest.unread.extend(self.unread.drain(..n));
            assert!(self.guest.unread.len() <= self.buf_alloc as usize, "beyond the credit");
            len = u32::try_from(n).unwrap();
        }
        self.connection.sent(output, len, &mut header);
        self.guest.host_alloc = header.buf_alloc;
        self.guest.host_fwd = header.fwd_cnt;
        match output {
            Output::Shutdown(closed) => self.guest.saw_end = closed.contains(Shutdown::SEND),
            Output::CreditRequest => self.guest_says(Op::CreditUpdate, 0),
            _ => {}
        }
    }

    /// Both end what they have to say, and go on until nothing happens any more.
    fn finish(&mut self) {
        self.client_ended = true;
        self.connection.stream_readable();
        while !self.guest.saw_end {
            self.packet_to_guest(777);
            self.guest_reads(500);
            self.client_takes(1000);
        }
        let closed = shutdown(Shutdown::BOTH);
        let closed = Header { fwd_cnt: self.guest.forwarded, ..closed };
        self.connection.packet(Op::Shutdown, &closed).unwrap();
        let rest = self.guest.unread.len();
        take(&mut self.guest.unread, rest, &mut self.guest.got);
        self.client_takes(usize::MAX / 2);
        assert_eq!(self.connection.end(), Some(End::Reset));
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..60_000usize).prop_map(Step::GuestWrites),
        (0..2000usize).prop_map(Step::GuestReads),
        Just(Step::GuestAsks),
        (0..1000usize).prop_map(Step::ClientWrites),
        (0..50_000usize).prop_map(Step::ClientTakes),
        (1..4000usize).prop_map(Step::PacketToGuest),
    ]
}

fn hostile_header() -> impl Strategy<Value = Header> {
    let counter = prop_oneof![Just(0u32), 0..2000u32, any::<u32>()];
    let len = prop_oneof![0..2000u32, Just(BUFFER), Just(BUFFER + 1), any::<u32>()];
    (len, 0..8u32, counter.clone(), counter).prop_map(|(len, flags, buf_alloc, fwd_cnt)| Header {
        len,
        flags,
        buf_alloc,
        fwd_cnt,
        ..Header::default()
    })
}

proptest! {
    #[test]
    fn everything_arrives_in_order(
        buf_alloc in 50..3000u32,
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut world = World::new(buf_alloc);
        for step in &steps {
            world.step(step);
        }
        world.finish();
        prop_assert_eq!(world.client_got, world.guest.wrote);
        prop_assert_eq!(world.guest.got, world.client_wrote);
    }

    #[test]
    fn hostile_guests_get_no_more_than_their_due(
        from_guest: bool,
        steps in prop::collection::vec((0..12u16, hostile_header(), 0..200_000u32), 0..100),
    ) {
        let request = Header { buf_alloc: 100, ..Header::default() };
        let mut connection = if from_guest {
            Connection::from_guest(&request).unwrap()
        } else {
            Connection::to_guest()
        };
        for (what, header, n) in steps {
            match (Op::try_from(what), what) {
                (Ok(op), _) => if connection.packet(op, &header).is_err() {
                    return Ok(());
                },
                (Err(_), 0) => connection.stream_readable(),
                (Err(_), 8) => connection.forwarded(n),
                (Err(_), 9) => connection.stream_ended(),
                (Err(_), 10) => connection.stream_gone(),
                _ => connection.stream_empty(),
            }
            if let Some(output) = connection.next() {
                let max = if let Output::Data { max } = output { max } else { 0 };
                prop_assert!(max <= MAX_PAYLOAD);
                connection.sent(output, max.min(n), &mut Header::default());
            }
            prop_assert!(connection.held() <= BUFFER);
            let _ = (connection.wait(), connection.end());
        }
    }
}
