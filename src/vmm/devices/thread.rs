//! The one thread that does the work of all devices.

use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::epoll::EventSet;

use super::serial::Input;
use super::virtio::mmio::SharedDevice;
use crate::vmm::exit::{Ending, RunError};

/// What the device thread serves.
pub struct DeviceThread {
    /// The virtio devices.
    pub devices: Vec<SharedDevice>,
    /// The serial port's input, if it has any.
    pub input: Option<Input>,
}

impl std::fmt::Debug for DeviceThread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceThread")
            .field("devices", &self.devices.len())
            .field("input", &self.input)
            .finish()
    }
}

impl DeviceThread {
    /// Serves until the machine ends.
    pub fn run(self, ending: &Ending) {
        if let Err(error) = self.serve(ending) {
            ending.end(Err(RunError::Events(error)));
        }
    }

    fn serve(self, ending: &Ending) -> Result<(), event_manager::Error> {
        let mut manager = EventManager::<Box<dyn MutEventSubscriber>>::new()?;
        manager.add_subscriber(Box::new(EndWatch(ending.event())));
        if let Some(input) = self.input {
            manager.add_subscriber(Box::new(input));
        }
        for device in self.devices {
            manager.add_subscriber(Box::new(device));
        }
        while !ending.ended() {
            match manager.run() {
                Ok(_) => {}
                Err(event_manager::Error::Epoll(e)) if e.errno() == libc::EINTR => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Wakes the thread when the machine has ended.
struct EndWatch(std::os::fd::RawFd);

impl MutEventSubscriber for EndWatch {
    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::new_raw(self.0, EventSet::IN)) {
            log::error!("the device thread will not see the machine's end: {error}");
        }
    }

    fn process(&mut self, _: Events, _: &mut EventOps) {}
}
