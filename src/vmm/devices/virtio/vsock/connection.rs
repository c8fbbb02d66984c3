//! One stream connection (virtio 1.2, 5.10.6.4 and 5.10.6.5) between the guest and a stream of the
//! host, as a machine that knows no sockets, no queues and no clock: it is told what the guest
//! sent, what the stream does and that time is up, and says what to send and what to do.
//!
//! ```text
//!   the guest's REQUEST             a client's CONNECT
//!           │                               │
//!       Answering                        Calling
//!           │ RESPONSE sent                 │ REQUEST sent
//!           │                             Called ── RST, time is up, client gone ──▶ end
//!           │                               │ RESPONSE
//!           └───────▶ Established ◀─────────┘
//!                         │      │
//!               guest RST │      │ guest closed both directions and
//!                         ▼      │ the stream has all that it sent
//!                     Draining   └──▶ end (RST to the guest)
//!                         │ the stream has all that the guest sent
//!                         ▼
//!                        end
//! ```
//!
//! Each direction closes alone, and never before everything that was sent in it has arrived:
//!
//! * The stream's end of file is read behind its last byte, and only then announced to the guest
//!   (`SHUTDOWN`, send). The connection is *not* reset while the guest may have unread bytes: a
//!   Linux guest throws these away when it sees the reset.
//! * A guest that closes, even with a reset, leaves behind what the stream has not taken yet. It is
//!   still delivered, for as long as somebody holds the other end of the stream.
//!
//! What the guest does against the rules is a [`Violation`], and the end of the connection.

use std::time::Duration;

use super::credit::{BUFFER, CreditError, FromGuest, ToGuest};
use super::packet::{Header, MAX_PAYLOAD, Op, Shutdown};

/// A packet that the guest must not send on this connection, now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// the credit rules are broken
    #[error("the credit is not kept to")]
    Credit(#[from] CreditError),
    /// the packet makes no sense in this state
    #[error("{op:?} in state {state:?}")]
    Unexpected {
        /// the packet
        op: Op,
        /// the state
        state: State,
    },
    /// payload after the guest said that it has no more
    #[error("data after its end")]
    AfterEnd,
}

/// See the module's picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The host wants to connect; the guest does not know yet.
    Calling,
    /// The guest was asked and has not answered.
    Called,
    /// The guest connected, and was not answered yet.
    Answering,
    /// Both sides may send.
    Established,
    /// The guest has no such connection any more; its last bytes are on their way to the stream.
    Draining,
}

/// What a packet from the guest demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing more.
    Done,
    /// The guest accepts the call: tell the client.
    Accepted,
    /// The payload goes to the stream. [`Connection::forwarded`] says when it is there.
    Deliver,
    /// The payload is for nobody.
    Discard,
    /// The packet is answered with a reset, and has no other effect.
    Refuse,
}

/// A packet for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// May the host connect?
    Request,
    /// The guest is connected.
    Response,
    /// These directions are closed.
    Shutdown(Shutdown),
    /// What there is to read from the stream, and not more than `max` bytes of it.
    Data {
        /// above 0
        max: u32,
    },
    /// How much the guest may send.
    CreditUpdate,
    /// How much may the host send?
    CreditRequest,
}

impl Output {
    /// The packet's operation.
    pub fn op(self) -> Op {
        match self {
            Self::Request => Op::Request,
            Self::Response => Op::Response,
            Self::Shutdown(_) => Op::Shutdown,
            Self::Data { .. } => Op::Data,
            Self::CreditUpdate => Op::CreditUpdate,
            Self::CreditRequest => Op::CreditRequest,
        }
    }
}

/// How a connection ends: it is forgotten and its stream closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The guest knows.
    Quiet,
    /// The guest is told.
    Reset,
}

/// What a connection waits for that the guest may never do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The guest's answer to a request.
    Answer,
    /// The guest, which has everything and cannot send anything any more, closes.
    Close,
}

impl Wait {
    /// How long the guest gets.
    pub fn limit(self) -> Duration {
        match self {
            // A guest's kernel answers at once; one that is short of CPU time later.
            Self::Answer => Duration::from_secs(10),
            // As long as Linux waits for the host in the same place.
            Self::Close => Duration::from_secs(8),
        }
    }
}

/// A connection. See the module.
#[derive(Debug)]
pub struct Connection {
    state: State,
    from_guest: FromGuest,
    to_guest: ToGuest,
    /// What the guest has closed.
    guest_closed: Shutdown,
    /// What the stream has closed, from the guest's point of view: with `SEND` no more comes from
    /// it, with `RECEIVE` it takes no more.
    host_closed: Shutdown,
    /// What the guest was told of `host_closed`.
    announced: Shutdown,
    /// The stream may have something to read.
    readable: bool,
    /// The guest was asked for credit and has not given any.
    asked_for_credit: bool,
    /// The guest asked how much it may send.
    owes_credit: bool,
    timed_out: bool,
}

impl Connection {
    /// A connection that the host wants.
    pub fn to_guest() -> Self {
        Self::new(State::Calling)
    }

    /// A connection that the guest wants and the host grants.
    ///
    /// # Errors
    /// The request acknowledges bytes that were never sent.
    pub fn from_guest(request: &Header) -> Result<Self, Violation> {
        let mut connection = Self::new(State::Answering);
        connection.to_guest.hear(request.buf_alloc, request.fwd_cnt)?;
        Ok(connection)
    }

    fn new(state: State) -> Self {
        Self {
            state,
            from_guest: FromGuest::default(),
            to_guest: ToGuest::default(),
            guest_closed: Shutdown::default(),
            host_closed: Shutdown::default(),
            announced: Shutdown::default(),
            readable: true,
            asked_for_credit: false,
            owes_credit: false,
            timed_out: false,
        }
    }

    /// The guest sent a packet; its payload, if it has one, is `header.len` bytes.
    pub fn packet(&mut self, op: Op, header: &Header) -> Result<Verdict, Violation> {
        use State::{Answering, Called, Draining, Established};
        match (op, self.state) {
            (Op::Reset, _) => {
                self.state = Draining;
                return Ok(Verdict::Done);
            }
            (_, Draining) => return Ok(Verdict::Refuse),
            _ => {}
        }
        self.to_guest.hear(header.buf_alloc, header.fwd_cnt)?;
        if self.to_guest.credit() > 0 {
            self.asked_for_credit = false;
        }
        match (op, self.state) {
            (Op::Response, Called) => {
                self.state = Established;
                return Ok(Verdict::Accepted);
            }
            (Op::Data, Established) => return self.data(header.len),
            (Op::Shutdown, Answering | Established) => {
                self.guest_closed.add(Shutdown::from_flags(header.flags));
                self.close_what_is_useless();
            }
            (Op::CreditRequest, Answering | Established) => self.owes_credit = true,
            (Op::CreditUpdate, Answering | Established) => {}
            (op, state) => return Err(Violation::Unexpected { op, state }),
        }
        Ok(Verdict::Done)
    }

    fn data(&mut self, len: u32) -> Result<Verdict, Violation> {
        if self.guest_closed.contains(Shutdown::SEND) {
            return Err(Violation::AfterEnd);
        }
        self.from_guest.receive(len)?;
        if self.host_closed.contains(Shutdown::RECEIVE) {
            self.from_guest.forward_all();
            return Ok(Verdict::Discard);
        }
        Ok(Verdict::Deliver)
    }

    /// The stream took `len` bytes of what the guest sent.
    pub fn forwarded(&mut self, len: u32) {
        self.from_guest.forward(len);
    }

    /// Bytes of the guest that the stream has yet to take, at most [`BUFFER`].
    pub fn held(&self) -> u32 {
        self.from_guest.held()
    }

    /// The stream has, or may have, something to read.
    pub fn stream_readable(&mut self) {
        self.readable = true;
    }

    /// The stream has nothing to read now.
    pub fn stream_empty(&mut self) {
        self.readable = false;
    }

    /// Everything was read from the stream, and nothing more will come.
    pub fn stream_ended(&mut self) {
        self.readable = false;
        self.host_closed.add(Shutdown::SEND);
    }

    /// Nobody reads from the stream any more. What the guest sends, or has sent, is for nobody.
    pub fn stream_gone(&mut self) {
        self.host_closed.add(Shutdown::RECEIVE);
        self.from_guest.forward_all();
        self.close_what_is_useless();
    }

    /// Time is up for what [`Connection::wait`] said.
    pub fn time_is_up(&mut self) {
        self.timed_out = true;
    }

    /// Where the guest takes nothing any more, the end of the stream will never be read, and where
    /// the stream takes nothing either, need not be.
    fn close_what_is_useless(&mut self) {
        if self.guest_closed.contains(Shutdown::RECEIVE)
            && self.host_closed.contains(Shutdown::RECEIVE)
        {
            self.host_closed.add(Shutdown::SEND);
        }
    }

    /// The next packet for the guest. [`Connection::sent`] says that it is under way.
    pub fn next(&self) -> Option<Output> {
        match self.state {
            State::Calling => Some(Output::Request),
            State::Answering => Some(Output::Response),
            State::Called | State::Draining => None,
            State::Established => self.next_established(),
        }
    }

    fn next_established(&self) -> Option<Output> {
        if self.host_closed != self.announced {
            return Some(Output::Shutdown(self.host_closed));
        }
        let nobody_reads = self.guest_closed.contains(Shutdown::RECEIVE);
        if self.readable && !nobody_reads && !self.host_closed.contains(Shutdown::SEND) {
            let credit = self.to_guest.credit();
            if credit > 0 {
                return Some(Output::Data { max: credit.min(MAX_PAYLOAD) });
            }
            if !self.asked_for_credit {
                return Some(Output::CreditRequest);
            }
        }
        let more_may_come = !self.guest_closed.contains(Shutdown::SEND);
        if self.owes_credit || more_may_come && self.from_guest.report_is_due() {
            return Some(Output::CreditUpdate);
        }
        None
    }

    /// `output` is being sent, with `len` bytes of payload. Puts into `header` what every packet
    /// says about credit.
    pub fn sent(&mut self, output: Output, len: u32, header: &mut Header) {
        match output {
            Output::Request => self.state = State::Called,
            Output::Response => self.state = State::Established,
            Output::Shutdown(closed) => {
                self.announced = closed;
                header.flags = closed.flags();
            }
            Output::Data { .. } => {
                self.to_guest.send(len);
                header.len = len;
            }
            Output::CreditRequest => self.asked_for_credit = true,
            Output::CreditUpdate => {}
        }
        header.buf_alloc = BUFFER;
        header.fwd_cnt = self.from_guest.report();
        self.owes_credit = false;
    }

    /// Whether the guest will send no more, and the stream has it all.
    pub fn stream_is_complete(&self) -> bool {
        self.held() == 0
            && (self.guest_closed.contains(Shutdown::SEND) || self.state == State::Draining)
    }

    /// Whether the guest takes no more.
    pub fn guest_takes_no_more(&self) -> bool {
        self.guest_closed.contains(Shutdown::RECEIVE) || self.state == State::Draining
    }

    /// Whether, and how, the connection has ended.
    pub fn end(&self) -> Option<End> {
        let gone = self.host_closed.contains(Shutdown::RECEIVE);
        match self.state {
            State::Draining => (self.held() == 0).then_some(End::Quiet),
            State::Calling => gone.then_some(End::Quiet),
            State::Called => (gone || self.timed_out).then_some(End::Reset),
            State::Answering | State::Established => {
                let closed = self.guest_closed == Shutdown::BOTH && self.held() == 0;
                (closed || self.timed_out).then_some(End::Reset)
            }
        }
    }

    /// What the connection waits for with a time limit.
    pub fn wait(&self) -> Option<Wait> {
        match self.state {
            State::Called => Some(Wait::Answer),
            State::Established => {
                let has_everything = self.to_guest.outstanding() == 0;
                let closes = self.announced == Shutdown::BOTH && has_everything;
                closes.then_some(Wait::Close)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
