//! A guest's entropy device.
#![no_main]

use ampoule::vmm::devices::virtio::mmio::SharedDevice;
use ampoule::vmm::devices::virtio::rng::Rng;
use ampoule_fuzz::guest::{self, Host};
use libfuzzer_sys::fuzz_target;

struct Entropy;

impl Host for Entropy {
    fn device(&mut self) -> SharedDevice {
        guest::shared(Rng::new().expect("a device"))
    }
}

fuzz_target!(|input: &[u8]| guest::run(input, &mut Entropy));
