//! The block device's events: the driver's notifications, and the rate limit's timer.

use std::os::fd::AsRawFd;

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;

use super::device::Block;
use crate::vmm::devices::virtio::is_event_of;

impl MutEventSubscriber for Block {
    fn process(&mut self, events: Events, _ops: &mut EventOps<'_>) {
        if let Some(event) = self.queue_events.iter().find(|event| is_event_of(events.fd(), event))
        {
            // Nothing to read means that somebody else did; the queue says what there is to do.
            let _ = event.read();
            self.process_queue();
        } else if events.fd() == self.timer.as_raw_fd() {
            self.timer.expired();
            self.process_queue();
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        let timer = Events::new(&self.timer, EventSet::IN | EventSet::EDGE_TRIGGERED);
        let queues = self.queue_events.iter().map(|event| Events::new(event, EventSet::IN));
        for source in queues.chain([timer]) {
            if let Err(error) = ops.add(source) {
                log::error!("block device without an event source: {error}");
            }
        }
    }
}
