//! The entropy device's one event: its queue's kick.

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;

use super::Rng;

impl MutEventSubscriber for Rng {
    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::new(self.kick(), EventSet::IN)) {
            log::error!("entropy device: {error}");
        }
    }

    fn process(&mut self, _: Events, _: &mut EventOps) {
        // How often the driver has kicked is of no interest.
        let _ = self.kick().read();
        self.serve();
    }
}
