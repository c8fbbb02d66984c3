//! The control queue (virtio 1.2, 5.1.6.5): how many pairs of queues the driver uses. All else is refused.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_ERR, VIRTIO_NET_OK,
};

use super::metrics::NetMetrics;
use crate::vmm::devices::virtio::buffers::{Buffers, Direction};
use crate::vmm::devices::virtio::ring::{Drained, Handled, Ring, RingError};
use crate::vmm::devices::virtio::{Interrupt, QueuePosition};

/// Class, command, and the number of pairs.
const REQUEST: usize = 4;

/// The control queue at work.
#[derive(Debug)]
pub struct Control {
    ring: Ring,
    buffers: Buffers,
}

impl Control {
    /// Works on `ring`, whose chains' buffers go to `buffers`.
    pub fn new(ring: Ring, buffers: Buffers) -> Self {
        Self { ring, buffers }
    }

    /// How far it is.
    pub fn position(&self) -> QueuePosition {
        self.ring.position()
    }

    /// Answers what is asked. `pairs`: how many there are in use, which is what may be changed, up to `most`.
    pub fn answer(
        &mut self,
        pairs: &mut u16,
        most: u16,
        interrupt: &Interrupt,
        metrics: &NetMetrics,
    ) -> Result<Drained, RingError> {
        self.ring.drain(&mut self.buffers, Direction::Both, interrupt, |request| {
            let Ok(Buffers { readable, writable }) = request else {
                metrics.malformed.add(1);
                return Handled::Used(0);
            };
            let mut bytes = [0; REQUEST];
            let whole = readable.len() == REQUEST && readable.peek(&mut bytes);
            let wanted = whole.then(|| pairs_of(bytes)).flatten();
            let answer = match wanted.filter(|wanted| (1..=most).contains(wanted)) {
                Some(wanted) if !writable.is_empty() => {
                    *pairs = wanted;
                    VIRTIO_NET_OK
                }
                _ => {
                    metrics.refused.add(1);
                    VIRTIO_NET_ERR
                }
            };
            let written = writable.write(&[u8::try_from(answer).unwrap_or(u8::MAX)]);
            Handled::Used(u32::from(written))
        })
    }
}

/// What a request for some number of pairs asks for.
fn pairs_of([class, command, low, high]: [u8; REQUEST]) -> Option<u16> {
    let known = u32::from(class) == VIRTIO_NET_CTRL_MQ
        && u32::from(command) == VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET;
    known.then_some(u16::from_le_bytes([low, high]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::devices::virtio::testing::{
        DATA, Driver, interrupt, memory, raised, readable, writable,
    };

    #[test]
    fn the_number_of_pairs_is_set_and_all_else_is_refused() {
        let memory = memory();
        let mut driver = Driver::new(&memory, 0, 64);
        let ring = Ring::new(driver.queue(true), memory.clone());
        let mut control = Control::new(ring, Buffers::new(&memory));
        let (interrupt, metrics) = (interrupt(), NetMetrics::default());
        let mut pairs = 1;
        let mut ask = |request: &[u8], room: u32| {
            driver.write(DATA, request);
            driver.write(DATA + 0x100, &[0xee]);
            let len = u32::try_from(request.len()).unwrap();
            let mut chain = vec![readable(DATA, len)];
            if room > 0 {
                chain.push(writable(DATA + 0x100, room));
            }
            driver.offer(&chain);
            let drained = control.answer(&mut pairs, 4, &interrupt, &metrics).unwrap();
            assert_eq!(drained, Drained::Empty);
            (driver.used()[0].1, driver.read(DATA + 0x100, 1)[0], pairs)
        };
        assert_eq!(ask(&[4, 0, 3, 0], 1), (1, 0, 3));
        for request in [
            &[4, 0, 0, 0][..],
            &[4, 0, 5, 0],
            &[4, 0, 1, 1],
            &[4, 1, 1, 0],
            &[0, 0, 1, 0],
            &[4, 0, 1],
            &[4, 0, 1, 0, 0],
            &[4],
        ] {
            assert_eq!(ask(request, 1), (1, 1, 3), "{request:?}");
        }
        // Who cannot be answered changes nothing.
        assert_eq!(ask(&[4, 0, 1, 0], 0), (0, 0xee, 3));
        assert_eq!(ask(&[4, 0, 1, 0], 8), (1, 0, 1));
        assert!(raised(&interrupt) > 0);
        assert_eq!(metrics.refused.get(), 9);
    }
}
