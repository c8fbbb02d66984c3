//! The agent: PID 1 of a sandbox's guest.
fn main() {}
