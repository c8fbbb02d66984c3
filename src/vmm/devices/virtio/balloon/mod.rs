//! Memory balloon (virtio 1.2, 5.5): guest memory goes back to the host.
//!
//! It goes back in two ways. Free page reporting needs nobody's request: the driver names blocks as
//! they become free in the guest, and uses them again whenever it likes. Inflating answers
//! [`Balloon::set_target`]: the driver allocates pages and leaves them alone until they are
//! deflated.
//!
//! Either way the pages are dropped with `MADV_DONTNEED`. Of anonymous memory, the next access gets
//! zeroes. Of memory that is a private mapping of a file, it gets what the file holds: the driver
//! has to treat such pages as uninitialized (5.5.6.7; `VIRTIO_BALLOON_F_PAGE_POISON`, which promises
//! a content, is not offered), and they were the same guest's before. Mapping fresh anonymous memory
//! over them would give zeroes, but costs no less memory: a page that is only read is then shared
//! with nobody, and every block splits a mapping, of which a process may have only so many.
//!
//! Queues are numbered without gaps, as drivers and other devices do: the reporting queue comes next
//! to the deflate queue, for neither statistics nor hints are offered.

mod device;
mod error;
mod event_handler;
mod metrics;
mod pages;
#[cfg(test)]
mod tests;

pub use device::{Balloon, Sizes};
pub use error::BalloonError;
pub use metrics::BalloonMetrics;
