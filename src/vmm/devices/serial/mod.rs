//! The serial port at 0x3f8, interrupt line 4: the guest's console.

mod escape;
mod input;
mod port;
mod state;

pub use input::Input;
pub use port::{Console, Port, offset};
pub use state::SerialState;
