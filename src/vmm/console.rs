//! What the guest last said on its serial port, and what that means for the machine.
//!
//! Guests have no ACPI, so Linux cannot switch the machine off: it says so and halts. The kernel
//! prints these lines, and why it died, at its most urgent level, to a console that is always
//! there.

use std::collections::VecDeque;

/// Bytes of output that are kept.
pub const RING_SIZE: usize = 64 * 1024;

/// Longest line that is understood; the rest of a longer one is passed over.
const LINE_MAX: usize = 1024;

const PANIC: &str = "Kernel panic - not syncing: ";
const END_OF_PANIC: &str = "---[ end Kernel panic";
const HALTED: [&str; 3] = [
    "reboot: Power down",
    "reboot: System halted",
    "reboot: Power off not available: System halted instead",
];

/// `reboot: Restarting system`, or `… with command '…'`.
const RESTARTING: &str = "reboot: Restarting system";

/// What a line of the guest's output means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The guest has switched itself off as well as it can.
    PoweredOff,
    /// The guest's kernel is about to reset the machine.
    Restarting,
    /// The guest's kernel has died for this reason and is about to restart, or to hang.
    Panicked(String),
    /// The guest's kernel has said all about its death and hangs.
    PanicEnded,
}

/// Recognises [`Event`]s in a stream of bytes.
#[derive(Debug, Default)]
pub struct Scanner {
    line: Vec<u8>,
}

impl Scanner {
    /// Begins a line, whatever stands before: a kernel's message follows what a program has left
    /// without an end.
    pub fn begin_line(&mut self) {
        self.line.clear();
    }

    /// Takes the next byte; tells what the line that it ends means.
    pub fn push(&mut self, byte: u8) -> Option<Event> {
        if byte != b'\n' && byte != b'\r' {
            if self.line.len() < LINE_MAX {
                self.line.push(byte);
            }
            return None;
        }
        let event = understand(&String::from_utf8_lossy(&self.line));
        self.line.clear();
        event
    }
}

fn understand(line: &str) -> Option<Event> {
    let text = without_prefixes(line);
    if HALTED.contains(&text) {
        return Some(Event::PoweredOff);
    }
    if text.starts_with(RESTARTING) {
        return Some(Event::Restarting);
    }
    if text.starts_with(END_OF_PANIC) {
        return Some(Event::PanicEnded);
    }
    text.strip_prefix(PANIC).map(|reason| Event::Panicked(reason.trim_end().to_owned()))
}

/// A line without what printk may put before it: `<0>`, `[    1.234567]`, `[    T1]`.
fn without_prefixes(line: &str) -> &str {
    let mut text = line.trim_start();
    while let Some(close) = match text.as_bytes().first() {
        Some(b'[') => text.find(']'),
        Some(b'<') => text.find('>'),
        _ => None,
    } {
        text = text.get(close + 1..).unwrap_or_default().trim_start();
    }
    text.trim_end()
}

/// The last [`RING_SIZE`] bytes of output.
#[derive(Debug, Default)]
pub struct Ring {
    bytes: VecDeque<u8>,
}

impl Ring {
    /// Keeps `byte`, and forgets the oldest when full.
    pub fn push(&mut self, byte: u8) {
        if self.bytes.len() == RING_SIZE {
            self.bytes.pop_front();
        }
        self.bytes.push_back(byte);
    }

    /// What is kept, bytes that are no UTF-8 replaced.
    pub fn text(&self) -> String {
        let (old, new) = self.bytes.as_slices();
        String::from_utf8_lossy(&[old, new].concat()).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events(text: &str) -> Vec<Event> {
        let mut scanner = Scanner::default();
        text.bytes().filter_map(|byte| scanner.push(byte)).collect()
    }

    #[test]
    fn power_off_is_seen_with_and_without_a_time() {
        for line in HALTED {
            assert_eq!(events(&format!("{line}\r\n")), [Event::PoweredOff]);
            assert_eq!(events(&format!("[    1.234567] {line}\n")), [Event::PoweredOff]);
            assert_eq!(events(&format!("[    1.234567][    T1] {line}\n")), [Event::PoweredOff]);
        }
    }

    #[test]
    fn restarting_is_not_power_off() {
        for line in ["Restarting system", "Restarting system with command 'kexec'"] {
            assert_eq!(events(&format!("[    1.0] reboot: {line}\n")), [Event::Restarting]);
        }
        assert_eq!(events("say reboot: Power down\n"), []);
        assert_eq!(events("reboot: Power down"), []);
    }

    #[test]
    fn a_message_behind_a_programs_unended_line_counts_where_it_begins() {
        let mut scanner = Scanner::default();
        let push = |scanner: &mut Scanner, text: &str| {
            text.bytes().fold(None, |said, byte| scanner.push(byte).or(said))
        };
        assert_eq!(push(&mut scanner, "$ "), None);
        scanner.begin_line();
        assert_eq!(push(&mut scanner, "reboot: Power down\n"), Some(Event::PoweredOff));
    }

    #[test]
    fn a_panic_has_its_reason() {
        let text = "[    0.9] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n\
                    [    0.9] CPU: 0 PID: 1 Comm: swapper/0\r\n\
                    [    0.9] ---[ end Kernel panic - not syncing: VFS: Unable to mount ]---\r\n";
        assert_eq!(
            events(text),
            [Event::Panicked("VFS: Unable to mount root fs".into()), Event::PanicEnded]
        );
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let mut scanner = Scanner::default();
        for _ in 0..10 * LINE_MAX {
            assert_eq!(scanner.push(b'['), None);
        }
        assert_eq!(scanner.line.len(), LINE_MAX);
        assert_eq!(scanner.push(b'\n'), None);
    }

    #[test]
    fn the_ring_keeps_the_end() {
        let mut ring = Ring::default();
        for i in 0..RING_SIZE + 3 {
            ring.push(if i < 3 { b'a' } else { b'b' });
        }
        assert_eq!(ring.text(), "b".repeat(RING_SIZE));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes: Vec<u8>) {
            let mut scanner = Scanner::default();
            for byte in bytes {
                scanner.push(byte);
            }
        }
    }
}
