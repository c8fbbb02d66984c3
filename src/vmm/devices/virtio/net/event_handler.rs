//! The network device's events: the driver's notifications, those of taps or a socket, and the rate
//! limits' timer.

use std::os::fd::AsRawFd;

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::backend::Backend;
use super::device::{Net, Role};
use crate::vmm::devices::virtio::is_event_of;

impl Net {
    /// Looks after the links that there are now, and after no others.
    fn watch_links(&mut self, ops: &mut EventOps<'_>) {
        for backend in self.retired.drain(..) {
            if let Err(error) = ops.remove(events_of(&backend)) {
                log::debug!("network device: a tap's events: {error}");
            }
        }
        for link in self.links.iter_mut().filter(|link| !link.watched) {
            match ops.add(events_of(&link.backend)) {
                Ok(()) => link.watched = true,
                Err(error) => log::error!("network device without its tap's events: {error}"),
            }
        }
    }

    fn transmit_or_wait(&mut self, pair: usize, ops: &EventOps<'_>) {
        // A tap wakes those who found it full only if they polled it then. Registering anew polls
        // it; if it has room by now, that is an event at once.
        if let Some(full) = self.transmit(pair)
            && let Some(link) = self.links.get(full)
            && let Err(error) = ops.modify(events_of(&link.backend))
        {
            log::error!("network device cannot wait for its tap: {error}");
        }
    }

    fn link_event(&mut self, link: usize, set: EventSet, ops: &EventOps<'_>) {
        // The other end of a socket is gone: reading tells.
        if set.intersects(EventSet::IN | EventSet::HANG_UP | EventSet::ERROR) {
            self.link_readable(link);
        }
        if set.contains(EventSet::OUT) {
            self.senders_of(link).for_each(|pair| self.transmit_or_wait(pair, ops));
        }
    }

    fn queue_event(&mut self, queue: usize, ops: &EventOps<'_>) {
        match self.role(queue) {
            Role::Receive(pair) => self.receive(pair),
            Role::Transmit(pair) => self.transmit_or_wait(pair, ops),
            Role::Control => self.answer(),
        }
    }
}

fn events_of(backend: &Backend) -> Events {
    Events::new(backend, EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED)
}

impl MutEventSubscriber for Net {
    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        self.watch_links(ops);
        let fd = events.fd();
        if let Some(queue) = self.queue_events.iter().position(|event| is_event_of(fd, event)) {
            // Nothing to read from an eventfd means that somebody else did; the queue says what there
            // is to do.
            let _ = self.queue_events.get(queue).map(EventFd::read);
            self.queue_event(queue, ops);
        } else if fd == self.timer.as_raw_fd() {
            self.timer.expired();
            self.all_pairs().for_each(|pair| {
                self.receive(pair);
                self.transmit_or_wait(pair, ops);
            });
        } else if let Some(link) = self.links.iter().position(|link| link.backend.as_raw_fd() == fd)
        {
            self.link_event(link, events.event_set(), ops);
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        let timer = Events::new(&self.timer, EventSet::IN | EventSet::EDGE_TRIGGERED);
        let queues = self.queue_events.iter().map(|event| Events::new(event, EventSet::IN));
        for source in queues.chain([timer]) {
            if let Err(error) = ops.add(source) {
                log::error!("network device without an event source: {error}");
            }
        }
        self.watch_links(ops);
    }
}
