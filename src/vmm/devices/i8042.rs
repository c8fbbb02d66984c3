//! As much of a keyboard controller as a restart takes.
//!
//! Not vm-superio's: that one answers every read with 0, so that a driver waits out its timeouts
//! for a controller that never has an answer. Here the status says "output full, input empty":
//! Linux finds within a millisecond that the output never empties, concludes that there is no
//! controller, and still sends the reset command without waiting.

/// Data port.
pub const DATA: u16 = 0x60;
/// Status (read) and command (write) port.
pub const COMMAND: u16 = 0x64;

/// All bits but "input buffer full".
const STATUS: u8 = 0xfd;
/// Pulses the processor's reset line.
const RESET: u8 = 0xfe;

/// What a read from `port` gives.
pub fn read(port: u16) -> u8 {
    if port == COMMAND { STATUS } else { 0xff }
}

/// Whether writing `value` to `port` restarts the machine.
pub fn is_reset(port: u16, value: u8) -> bool {
    port == COMMAND && value == RESET
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_command_resets() {
        assert!(is_reset(COMMAND, 0xfe));
        assert!(!is_reset(DATA, 0xfe));
        assert!(!is_reset(COMMAND, 0xff));
    }

    #[test]
    fn the_input_buffer_is_never_full() {
        assert_eq!(read(COMMAND) & 2, 0);
    }
}
