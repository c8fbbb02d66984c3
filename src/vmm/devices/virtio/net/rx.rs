//! Frames to the guest (virtio 1.2, 5.1.6.3 and 5.1.6.4).
//!
//! A frame is read straight into the guest's buffers, so there have to be enough of them before its
//! length is known. With mergeable buffers they are gathered until the longest frame fits, and what
//! a frame does not need stays gathered for the next one.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;

use super::backend::Backend;
use super::header;
use super::metrics::NetMetrics;
use super::offload::Features;
use crate::vmm::devices::virtio::buffers::{Buffers, Direction, MAX_CHAIN_SEGMENTS, MAX_SEGMENTS};
use crate::vmm::devices::virtio::ring::{BATCH, Ring, RingError};
use crate::vmm::devices::virtio::{Interrupt, QueuePosition};
use crate::vmm::rate::Limiter;

/// Bytes that are gathered for a frame with mergeable buffers.
const LONGEST: usize = header::LEN + header::MAX_FRAME;

/// Why [`Rx::receive`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// There are no more frames; the next one is an event.
    Nothing,
    /// There may be frames, which have to wait so long for the rate limit.
    Limited(Duration),
    /// There may be frames and the guest has too few buffers; it will notify of more.
    NoBuffers,
    /// [`BATCH`] frames are done, and there may be more: come back without an event.
    More,
}

/// The receive queue at work.
#[derive(Debug)]
pub struct Rx {
    ring: Ring,
    /// The gathered chains' buffers, one after the other.
    buffers: Buffers,
    /// The gathered chains, in order.
    chains: VecDeque<Chain>,
    mergeable: bool,
}

#[derive(Debug, Clone, Copy)]
struct Chain {
    head: u16,
    len: usize,
}

impl Rx {
    /// Works on `ring`, whose chains' buffers go to `buffers`.
    pub fn new(ring: Ring, buffers: Buffers, features: Features) -> Self {
        let mergeable = features.has(VIRTIO_NET_F_MRG_RXBUF);
        Self { ring, buffers, chains: VecDeque::new(), mergeable }
    }

    /// How far it is: gathered chains are to be taken out of the ring anew.
    pub fn position(&self) -> QueuePosition {
        let position = self.ring.position();
        // No more than the ring has entries, whose number is 16 bits.
        let gathered = u16::try_from(self.chains.len()).unwrap_or_default();
        QueuePosition { next_avail: position.next_avail.wrapping_sub(gathered), ..position }
    }

    /// Moves frames to the guest until there are no more or it has no room, then interrupts once.
    pub fn receive(
        &mut self,
        from: &mut Backend,
        limiter: &mut Limiter,
        interrupt: &Interrupt,
        metrics: &NetMetrics,
    ) -> Result<Received, RingError> {
        let received = self.receive_batch(from, limiter, metrics)?;
        self.ring.signal(interrupt)?;
        Ok(received)
    }

    fn receive_batch(
        &mut self,
        from: &mut Backend,
        limiter: &mut Limiter,
        metrics: &NetMetrics,
    ) -> Result<Received, RingError> {
        self.ring.disable_notification()?;
        for _ in 0..BATCH {
            if let Some(wait) = limiter.wait() {
                metrics.rx_throttled.add(1);
                return Ok(Received::Limited(wait));
            }
            if !self.gather_or_ask(metrics)? {
                metrics.rx_no_buffers.add(1);
                return Ok(Received::NoBuffers);
            }
            let room = self.buffers.writable.len();
            match from.receive(&mut self.buffers.writable) {
                Ok(len) if len > room => {
                    metrics.rx_oversize.add(1);
                }
                Ok(len) if len < header::LEN + header::MIN_FRAME => {
                    metrics.rx_runts.add(1);
                }
                Ok(len) => {
                    limiter.charge(len - header::LEN);
                    self.deliver(len, metrics)?;
                }
                Err(error) => {
                    // An interface that is down or gone stays quiet until its next event.
                    if error.kind() != io::ErrorKind::WouldBlock {
                        metrics.rx_host_errors.add(1);
                    }
                    return Ok(Received::Nothing);
                }
            }
        }
        Ok(Received::More)
    }

    /// Gathers buffers for a frame; if there are too few, asks for a notification of more.
    fn gather_or_ask(&mut self, metrics: &NetMetrics) -> Result<bool, RingError> {
        loop {
            if self.gather(metrics)? {
                return Ok(true);
            }
            if !self.ring.enable_notification()? {
                return Ok(false);
            }
            // More came in between.
            self.ring.disable_notification()?;
        }
    }

    fn gather(&mut self, metrics: &NetMetrics) -> Result<bool, RingError> {
        // Chains that are no buffers are given back at once, and must not keep us here.
        let mut left = BATCH;
        while !self.enough() && left > 0 {
            left -= 1;
            let Some(chain) = self.ring.pop()? else {
                return Ok(false);
            };
            let head = chain.head_index();
            let before = self.buffers.writable.len();
            if self.buffers.append(chain, Direction::Writable).is_ok() {
                let len = self.buffers.writable.len() - before;
                self.chains.push_back(Chain { head, len });
            } else {
                metrics.malformed.add(1);
                self.ring.push_used(head, 0)?;
                self.ring.publish()?;
            }
        }
        Ok(self.enough())
    }

    fn enough(&self) -> bool {
        if !self.mergeable {
            // A driver has to offer buffers that take any frame it agreed to (5.1.6.3.1).
            return !self.chains.is_empty();
        }
        let all_there_will_be = self.chains.len() >= usize::from(self.ring.size());
        let list_full = self.buffers.writable.count() + MAX_CHAIN_SEGMENTS > MAX_SEGMENTS;
        self.buffers.writable.len() >= LONGEST || all_there_will_be || list_full
    }

    /// Gives the guest the first chains, which hold a frame of `len` bytes, header included.
    fn deliver(&mut self, len: usize, metrics: &NetMetrics) -> Result<(), RingError> {
        let mut count: u16 = 0;
        let mut left = len;
        let mut used = 0;
        while left > 0 {
            let Some(chain) = self.chains.get(usize::from(count)) else {
                break;
            };
            let written = left.min(chain.len);
            // A chain is shorter than 4 GiB.
            self.ring.push_used(chain.head, u32::try_from(written).unwrap_or(u32::MAX))?;
            left -= written;
            used += chain.len;
            count += 1;
        }
        // It is 1 also where the driver did not ask for mergeable buffers (5.1.6.4.1). The frame,
        // and so the room, is longer than a header.
        let _ = self.buffers.writable.write_at(header::NUM_BUFFERS, &count.to_le_bytes());
        self.buffers.writable.consume(used);
        self.chains.drain(..usize::from(count));
        // One step for all buffers of the frame: the driver takes the first as leave to take the
        // others.
        self.ring.publish()?;
        metrics.rx_frames.add(1);
        metrics.rx_bytes.add_bytes(len);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
