//! A guest before and after a snapshot: its agent lets go of the host that it has, and takes what
//! makes the restored guest another one. One request a file.
//!
//! A template, which has no containers, is told to [`become_template`] before its snapshot. A
//! restored guest is told to [`wake`] first of all, and to send its [`events`] on a new connection.

mod events;
mod hold;
mod template;
mod wake;
mod waking;

pub use events::events;
pub use hold::{Held, hold, release};
pub use template::become_template;
pub use wake::wake;
