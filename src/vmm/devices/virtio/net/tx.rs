//! Frames from the guest to the tap (virtio 1.2, 5.1.6.2).

use std::io;
use std::os::fd::BorrowedFd;

use super::header::{self, Header};
use super::metrics::NetMetrics;
use super::offload::Features;
use crate::vmm::devices::virtio::buffers::{Buffers, Direction, Segments};
use crate::vmm::devices::virtio::ring::{Drained, Handled, Ring, RingError};
use crate::vmm::devices::virtio::{Interrupt, QueuePosition};

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

    /// Sends frames until the queue is empty, the tap is full ([`Drained::Blocked`]: the frame
    /// stays in the queue), or it is somebody else's turn. Without a tap they are lost, as on a
    /// cable that leads nowhere.
    pub fn transmit(
        &mut self,
        tap: Option<BorrowedFd<'_>>,
        interrupt: &Interrupt,
        metrics: &NetMetrics,
    ) -> Result<Drained, RingError> {
        let features = self.features;
        self.ring.drain(&mut self.buffers, Direction::Readable, interrupt, |frame| match frame {
            Ok(buffers) => send(&buffers.readable, tap, features, metrics),
            Err(_) => {
                metrics.malformed.add(1);
                Handled::Used(0)
            }
        })
    }
}

/// Sends or drops one frame, header included.
fn send(
    frame: &Segments,
    tap: Option<BorrowedFd<'_>>,
    features: Features,
    metrics: &NetMetrics,
) -> Handled {
    const DONE: Handled = Handled::Used(0);
    let Some(tap) = tap else {
        return DONE;
    };
    let mut bytes = [0; header::LEN];
    let lengths = header::MIN_FRAME..=header::MAX_FRAME;
    let fits = frame.len().checked_sub(header::LEN).is_some_and(|len| lengths.contains(&len));
    if !fits || !frame.peek(&mut bytes) {
        metrics.tx_bad_length.add(1);
        return DONE;
    }
    if !Header::parse(bytes).allowed(features) {
        metrics.tx_bad_header.add(1);
        return DONE;
    }
    match frame.send(tap) {
        Ok(_) => {
            metrics.tx_frames.add(1);
            metrics.tx_bytes.add_bytes(frame.len());
        }
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock => {
                metrics.tx_blocked.add(1);
                return Handled::Later;
            }
            // The kernel's word for offsets and sizes that do not fit the frame.
            io::ErrorKind::InvalidInput => {
                metrics.tx_bad_header.add(1);
            }
            // The interface is down or gone, or there is no memory: a wire loses frames too.
            _ => {
                metrics.tx_host_errors.add(1);
            }
        },
    }
    DONE
}

#[cfg(test)]
mod tests;
