//! Frames from the guest (virtio 1.2, 5.1.6.2).

use std::time::Duration;

use super::backend::{Backend, SendError};
use super::header::{self, Header};
use super::metrics::NetMetrics;
use super::offload::Features;
use crate::vmm::devices::virtio::buffers::{Buffers, Direction, Segments};
use crate::vmm::devices::virtio::ring::{Drained, Handled, Ring, RingError};
use crate::vmm::devices::virtio::{Interrupt, QueuePosition};
use crate::vmm::rate::Limiter;

/// Why [`Tx::transmit`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// All; the driver will notify of the next frame.
    All,
    /// There is no room for more now. The frame stays in the queue.
    Full,
    /// There may be frames, which have to wait so long for the rate limit.
    Limited(Duration),
    /// A batch is done, and there may be more: come back without a notification.
    More,
}

/// The transmit queue at work.
#[derive(Debug)]
pub struct Tx {
    ring: Ring,
    buffers: Buffers,
    features: Features,
}

impl Tx {
    /// Works on `ring`, whose chains' buffers go to `buffers`.
    pub fn new(ring: Ring, buffers: Buffers, features: Features) -> Self {
        Self { ring, buffers, features }
    }

    /// How far it is.
    pub fn position(&self) -> QueuePosition {
        self.ring.position()
    }

    /// Sends frames until the queue is empty, there is no room for more, or it is somebody else's turn.
    /// Without anything to send them to they are lost, as on a cable that leads nowhere.
    pub fn transmit(
        &mut self,
        mut to: Option<&mut Backend>,
        limiter: &mut Limiter,
        interrupt: &Interrupt,
        metrics: &NetMetrics,
    ) -> Result<Sent, RingError> {
        let features = self.features;
        let mut wait = None;
        let drained =
            self.ring.drain(&mut self.buffers, Direction::Readable, interrupt, |frame| {
                match (frame, to.as_deref_mut()) {
                    (Ok(buffers), Some(to)) => {
                        wait = limiter.wait();
                        if wait.is_some() {
                            metrics.tx_throttled.add(1);
                            return Handled::Later;
                        }
                        send(&buffers.readable, to, limiter, features, metrics)
                    }
                    (Ok(_), None) => Handled::Used(0),
                    (Err(_), _) => {
                        metrics.malformed.add(1);
                        Handled::Used(0)
                    }
                }
            })?;
        let flushed = to.is_none_or(Backend::flush);
        Ok(match (drained, wait) {
            (Drained::More, _) => Sent::More,
            (Drained::Blocked, Some(wait)) if flushed => Sent::Limited(wait),
            (Drained::Empty, _) if flushed => Sent::All,
            _ => Sent::Full,
        })
    }
}

/// Sends or drops one frame, header included.
fn send(
    frame: &Segments,
    to: &mut Backend,
    limiter: &mut Limiter,
    features: Features,
    metrics: &NetMetrics,
) -> Handled {
    const DONE: Handled = Handled::Used(0);
    let mut bytes = [0; header::LEN];
    let lengths = header::MIN_FRAME..=header::MAX_FRAME;
    let len = frame.len().checked_sub(header::LEN).filter(|len| lengths.contains(len));
    let Some(len) = len.filter(|_| frame.peek(&mut bytes)) else {
        metrics.tx_bad_length.add(1);
        return DONE;
    };
    let header = Header::parse(bytes);
    if !header.allowed(features) {
        metrics.tx_bad_header.add(1);
        return DONE;
    }
    match to.send(frame, &header) {
        Ok(()) => {
            limiter.charge(len);
            metrics.tx_frames.add(1);
            metrics.tx_bytes.add_bytes(frame.len());
        }
        Err(SendError::Full) => {
            metrics.tx_blocked.add(1);
            return Handled::Later;
        }
        Err(SendError::Header) => {
            metrics.tx_bad_header.add(1);
        }
        Err(SendError::Host) => {
            metrics.tx_host_errors.add(1);
        }
    }
    DONE
}

#[cfg(test)]
mod tests;
