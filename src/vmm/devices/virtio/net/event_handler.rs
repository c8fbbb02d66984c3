//! The network device's events: the driver's notifications, and the tap's.

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;

use super::device::Net;
use super::tap::Tap;
use crate::vmm::devices::virtio::is_event_of;
use std::os::fd::AsRawFd;

impl Net {
    /// The tap, edge-triggered in both directions.
    fn tap_events(&self) -> Option<Events> {
        self.tap.as_ref().map(events_of)
    }

    /// Looks after the tap that there is now, and after no other.
    fn watch_tap(&mut self, ops: &mut EventOps<'_>) {
        if let Some(tap) = self.retired.take()
            && let Err(error) = ops.remove(events_of(&tap))
        {
            log::debug!("network device: a tap's events: {error}");
        }
        let Some(events) = self.tap_events().filter(|_| !self.watched) else {
            return;
        };
        match ops.add(events) {
            Ok(()) => self.watched = true,
            Err(error) => log::error!("network device without its tap's events: {error}"),
        }
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

fn events_of(tap: &Tap) -> Events {
    Events::new(tap, EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED)
}

impl MutEventSubscriber for Net {
    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        self.watch_tap(ops);
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
        for source in [Events::new(rx, EventSet::IN), Events::new(tx, EventSet::IN)] {
            if let Err(error) = ops.add(source) {
                log::error!("network device without an event source: {error}");
            }
        }
        self.watch_tap(ops);
    }
}
