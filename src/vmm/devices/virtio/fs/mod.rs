//! File system device (virtio 1.2, 5.11): directories of the host as a file system of the guest.
//!
//! The driver's messages are those of FUSE; fuse-backend-rs decodes them and does what they ask for.
//! Around it, from the host's kernel to the guest's messages:
//!
//! * [`export`]: the one directory that is served, a mount of its own that has no way out of it:
//!   neither `..` nor a mount point below it leads to anything else, and what is shared read-only
//!   cannot be written through it, as the kernel sees to that
//! * [`source`]: that directory, or nothing, as a device has it
//! * [`guard`]: every operation's arguments, checked in one place
//! * [`nodes`]: the guest's numbers for files, and which share each leads to
//! * [`share`]: one mount of what is served, and fuse-backend-rs on it
//! * [`listing`]: directories, with the names that fuse-backend-rs leaves out
//! * [`local`]: file systems of the host that hold what was written to them at once
//! * [`budget`]: how many descriptors a guest may make the process hold
//! * [`copy`]: a request's descriptors, as they were when they were checked
//! * [`session`]: messages, from the queue to an answer
//! * [`worker`]: the thread that does all of this: the host's file systems may take their time
//!
//! Locks (POSIX and flock) are the guest's own: they hold among its processes, and the host does not
//! see them. Data goes to the host with each write; what the guest has cached is looked at again when
//! a file is opened, and names and attributes after a second.

mod budget;
mod copy;
mod device;
mod error;
mod event_handler;
mod export;
mod guard;
mod listing;
mod local;
mod metrics;
mod nodes;
mod session;
mod share;
mod source;
#[cfg(test)]
mod tests;
mod worker;

pub use device::Fs;
pub use error::FsError;
pub use export::{clone_share, entry_name, is_directory, mount_point, open, open_here, own_mounts};
pub use metrics::FsMetrics;
