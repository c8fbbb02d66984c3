//! Credit: how much each side may send (virtio 1.2, 5.10.6.3). Counters are modulo 2³².

/// Bytes from the guest that the host holds for one connection at most.
pub const BUFFER: u32 = 128 * 1024;

/// Unreported free space at which the guest is told without having asked.
const REPORT_AT: u32 = BUFFER / 4;

/// A guest that does not keep to the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CreditError {
    /// more than the host said it could hold
    #[error("{len} bytes were sent where {free} are free")]
    Overrun {
        /// bytes of the packet
        len: u32,
        /// bytes that the host could have held
        free: u32,
    },
    /// the guest cannot have passed on what it was never sent
    #[error("{claimed} bytes are acknowledged where {outstanding} are outstanding")]
    Unsent {
        /// bytes that the guest claims to have passed on since it last said so
        claimed: u32,
        /// bytes that it can have passed on
        outstanding: u32,
    },
}

/// What the guest sent, and what became of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct FromGuest {
    received: u32,
    forwarded: u32,
    reported: u32,
}

impl FromGuest {
    /// Bytes that were received and not passed on, at most [`BUFFER`].
    pub fn held(&self) -> u32 {
        self.received.wrapping_sub(self.forwarded)
    }

    /// Accounts for `len` bytes of payload, if the guest may send them.
    pub fn receive(&mut self, len: u32) -> Result<(), CreditError> {
        let free = BUFFER.saturating_sub(self.held());
        if len > free {
            return Err(CreditError::Overrun { len, free });
        }
        self.received = self.received.wrapping_add(len);
        Ok(())
    }

    /// Accounts for bytes that were passed on, at most those that are held.
    pub fn forward(&mut self, len: u32) {
        self.forwarded = self.forwarded.wrapping_add(len.min(self.held()));
    }

    /// Accounts for everything that is held, as if it were passed on.
    pub fn forward_all(&mut self) {
        self.forwarded = self.received;
    }

    /// Whether the guest should hear of the space that has become free.
    pub fn report_is_due(&self) -> bool {
        self.forwarded.wrapping_sub(self.reported) >= REPORT_AT
    }

    /// The counter for the header of a packet that is being sent.
    pub fn report(&mut self) -> u32 {
        self.reported = self.forwarded;
        self.forwarded
    }
}

/// What the guest was sent, and what it can take.
#[derive(Debug, Clone, Copy, Default)]
pub struct ToGuest {
    sent: u32,
    acknowledged: u32,
    capacity: u32,
}

impl ToGuest {
    /// Bytes that the guest was sent and has not passed on to its reader, as far as it said.
    pub fn outstanding(&self) -> u32 {
        self.sent.wrapping_sub(self.acknowledged)
    }

    /// Bytes that may be sent now.
    pub fn credit(&self) -> u32 {
        self.capacity.saturating_sub(self.outstanding())
    }

    /// Accounts for payload that was sent.
    pub fn send(&mut self, len: u32) {
        self.sent = self.sent.wrapping_add(len);
    }

    /// Takes in what a packet's header says.
    ///
    /// A driver with several threads may queue its packets in another order than it read its
    /// counter in: one that is behind the last is old news, not a lie.
    pub fn hear(&mut self, buf_alloc: u32, fwd_cnt: u32) -> Result<(), CreditError> {
        let claimed = fwd_cnt.wrapping_sub(self.acknowledged);
        let outstanding = self.outstanding();
        let old_news = claimed > u32::MAX / 2;
        if !old_news {
            if claimed > outstanding {
                return Err(CreditError::Unsent { claimed, outstanding });
            }
            self.acknowledged = fwd_cnt;
        }
        self.capacity = buf_alloc;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_may_fill_the_buffer_and_no_more() {
        let mut credit = FromGuest::default();
        credit.receive(BUFFER).unwrap();
        assert_eq!(credit.receive(1), Err(CreditError::Overrun { len: 1, free: 0 }));
        credit.forward(10);
        assert_eq!(credit.receive(11), Err(CreditError::Overrun { len: 11, free: 10 }));
        credit.receive(10).unwrap();
        assert_eq!(credit.held(), BUFFER);
    }

    #[test]
    fn counters_wrap() {
        let near = u32::MAX - 5;
        let mut from = FromGuest { received: near, forwarded: near, reported: near };
        from.receive(BUFFER).unwrap();
        from.forward(BUFFER);
        assert_eq!(from.held(), 0);
        assert!(from.report_is_due());
        assert_eq!(from.report(), near.wrapping_add(BUFFER));
        assert!(!from.report_is_due());

        let mut to = ToGuest { sent: near, acknowledged: near, capacity: 100 };
        to.send(60);
        assert_eq!(to.credit(), 40);
        to.hear(100, near.wrapping_add(60)).unwrap();
        assert_eq!(to.credit(), 100);
    }

    #[test]
    fn old_news_do_not_shrink_the_credit() {
        let mut to = ToGuest::default();
        to.hear(100, 0).unwrap();
        to.send(80);
        to.hear(100, 50).unwrap();
        to.hear(100, 20).unwrap();
        assert_eq!(to.credit(), 70);
    }

    #[test]
    fn what_was_not_sent_cannot_be_acknowledged() {
        let mut to = ToGuest::default();
        to.send(10);
        assert_eq!(to.hear(1, 11), Err(CreditError::Unsent { claimed: 11, outstanding: 10 }));
    }

    #[test]
    fn a_buffer_that_shrinks_below_what_is_in_it_gives_no_credit() {
        let mut to = ToGuest::default();
        to.hear(100, 0).unwrap();
        to.send(80);
        to.hear(10, 0).unwrap();
        assert_eq!(to.credit(), 0);
    }
}
