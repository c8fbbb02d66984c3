//! The block device's events: the driver's notifications.

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
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        for event in &self.queue_events {
            if let Err(error) = ops.add(Events::new(event, EventSet::IN)) {
                log::error!("block device without notifications: {error}");
            }
        }
    }
}
