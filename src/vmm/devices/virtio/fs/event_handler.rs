//! The file system device's events: none on the device thread, as its worker waits for the driver's
//! notifications itself. Fuzz targets have one thread, which is told of them.

use event_manager::{EventOps, Events, MutEventSubscriber};

use super::device::Fs;

#[cfg(not(fuzzing))]
impl MutEventSubscriber for Fs {
    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {}

    fn init(&mut self, _ops: &mut EventOps<'_>) {}
}

#[cfg(fuzzing)]
impl MutEventSubscriber for Fs {
    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        self.worker.serve();
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        for event in self.queue_events.iter().chain([self.worker.wake()]) {
            ops.add(Events::new(event, vmm_sys_util::epoll::EventSet::IN)).expect("an event");
        }
    }
}
