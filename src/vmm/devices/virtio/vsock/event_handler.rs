//! The vsock device's events: the driver's notifications, and those of all sockets, which are
//! behind one descriptor.

use std::os::fd::AsRawFd;

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;

use super::device::Vsock;
use crate::vmm::devices::virtio::is_event_of;

impl MutEventSubscriber for Vsock {
    fn process(&mut self, events: Events, _ops: &mut EventOps<'_>) {
        let fd = events.fd();
        // Nothing to read from an eventfd means that somebody else did; the queue says what there
        // is to do.
        if fd == self.backend().as_raw_fd() {
            self.process_backend();
        } else if is_event_of(fd, self.rx_event()) {
            let _ = self.rx_event().read();
            self.process_rx();
        } else if is_event_of(fd, self.tx_event()) {
            let _ = self.tx_event().read();
            self.process_tx();
        } else if is_event_of(fd, self.event_event()) {
            let _ = self.event_event().read();
            self.process_event_queue();
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        let sources = [
            Events::new(self.rx_event(), EventSet::IN),
            Events::new(self.tx_event(), EventSet::IN),
            Events::new(self.event_event(), EventSet::IN),
            Events::new(self.backend(), EventSet::IN),
        ];
        for source in sources {
            if let Err(error) = ops.add(source) {
                log::error!("vsock device without an event source: {error}");
            }
        }
    }
}
