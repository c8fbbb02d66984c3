//! The file system device's events: none on the device thread, as its worker waits for the driver's
//! notifications itself.

use event_manager::{EventOps, Events, MutEventSubscriber};

use super::device::Fs;

impl MutEventSubscriber for Fs {
    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {}

    fn init(&mut self, _ops: &mut EventOps<'_>) {}
}
