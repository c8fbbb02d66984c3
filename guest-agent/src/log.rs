//! The agent's log: standard error, which is the kernel's log in a guest.

use std::io::Write;

/// Writes one line, with one write: each is a record of the kernel's log. A log that cannot be
/// written has nobody to tell.
pub fn line(message: &str) {
    let _ = std::io::stderr().write_all(format!("ampoule-agent: {message}\n").as_bytes());
}
