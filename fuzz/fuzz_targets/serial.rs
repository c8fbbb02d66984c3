//! The serial port's registers, and what the console makes of the guest's text: each two bytes are a
//! register (read where the eighth bit is set) and a value.
#![no_main]

use ampoule::vmm::config::SerialMode;
use ampoule::vmm::devices::serial::{Port, SerialState};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|accesses: &[u8]| {
    let (mut port, console) =
        Port::new(SerialMode::Off, &SerialState::default()).expect("a serial port");
    for [register, value] in accesses.as_chunks().0 {
        if register & 0x80 != 0 {
            port.read(register & 7);
        } else {
            let _ = port.write(register & 7, *value);
        }
    }
    assert!(console.tail().len() <= 3 * (64 << 10));
    let state = port.save();
    drop(Port::new(SerialMode::Off, &state).expect("its own state"));
});
