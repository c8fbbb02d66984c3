//! The network device's events: the driver's notifications, and the tap's.

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;

use super::device::Net;
use crate::vmm::devices::virtio::is_event_of;
use std::os::fd::AsRawFd;

impl Net {
    /// The tap, edge-triggered in both directions.
    fn tap_events(&self) -> Option<Events> {
        let events = EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED;
        self.tap.as_ref().map(|tap| Events::new(tap, events))
    }

    fn transmit_or_wait(&mut self, ops: &EventOps<'_>) {
        // A tap wakes those who found it full only if they polled it then. Registering anew polls
        // it; if it has room by now, that is an event at once.
        if self.transmit()
            && let Some(events) = self.tap_events()
            && let Err(error) = ops.modify(events)
        {
            log::error!("network device cannot wait for its tap: {error}");
        }
    }
}

impl MutEventSubscriber for Net {
    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        // Nothing to read from an eventfd means that somebody else did; the queue says what there
        // is to do.
        if self.tap.as_ref().is_some_and(|tap| events.fd() == tap.as_raw_fd()) {
            if events.event_set().contains(EventSet::IN) {
                self.tap_readable();
            }
            if events.event_set().contains(EventSet::OUT) {
                self.transmit_or_wait(ops);
            }
        } else if is_event_of(events.fd(), self.rx_event()) {
            let _ = self.rx_event().read();
            self.receive();
        } else if is_event_of(events.fd(), self.tx_event()) {
            let _ = self.tx_event().read();
            self.transmit_or_wait(ops);
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        let [rx, tx] = &self.queue_events;
        let queues = [Events::new(rx, EventSet::IN), Events::new(tx, EventSet::IN)];
        for source in queues.into_iter().chain(self.tap_events()) {
            if let Err(error) = ops.add(source) {
                log::error!("network device without an event source: {error}");
            }
        }
    }
}
