//! The machine's devices.

pub mod bus;
pub mod i8042;
pub mod list;
pub mod serial;
pub mod thread;
pub mod virtio;
