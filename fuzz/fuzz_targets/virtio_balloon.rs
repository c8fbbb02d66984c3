//! A guest's balloon. The other side asks for a size: four bytes, the pages.
#![no_main]

use std::sync::{Arc, Mutex};

use ampoule::vmm::devices::virtio::balloon::Balloon;
use ampoule::vmm::devices::virtio::mmio::SharedDevice;
use ampoule_fuzz::guest::{self, Host};
use libfuzzer_sys::fuzz_target;

#[derive(Default)]
struct Pressure(Option<Arc<Mutex<Balloon>>>);

impl Host for Pressure {
    fn device(&mut self) -> SharedDevice {
        let balloon = Arc::new(Mutex::new(Balloon::new().expect("a device")));
        self.0 = Some(balloon.clone());
        balloon
    }

    fn act(&mut self, bytes: &[u8]) {
        if let (Some(balloon), Some(pages)) = (&self.0, bytes.first_chunk()) {
            balloon.lock().expect("the device").set_target(u32::from_le_bytes(*pages));
        }
    }
}

fuzz_target!(|input: &[u8]| guest::run(input, &mut Pressure::default()));
