//! The balloon's events: the driver's notifications.

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;

use super::device::Balloon;
use crate::vmm::devices::virtio::is_event_of;

impl MutEventSubscriber for Balloon {
    fn process(&mut self, events: Events, _ops: &mut EventOps<'_>) {
        let queue = self.queue_events.iter().position(|event| is_event_of(events.fd(), event));
        if let Some((queue, event)) = queue.and_then(|q| Some((q, self.queue_events.get(q)?))) {
            // Nothing to read means that somebody else did; the queue says what there is to do.
            let _ = event.read();
            self.process_queue(queue);
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        for event in &self.queue_events {
            if let Err(error) = ops.add(Events::new(event, EventSet::IN)) {
                log::error!("balloon without notifications: {error}");
            }
        }
    }
}
