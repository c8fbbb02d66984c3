//! What can go wrong with a balloon.

use std::io;

use crate::vmm::devices::virtio::buffers::ChainError;

/// A balloon that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BalloonError {
    /// the host is out of eventfds
    #[error("no eventfd for a balloon device")]
    EventFd(#[source] io::Error),
}

/// A request of which nothing, or not all, is given back.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    /// not a whole number of frames, or too many
    #[error("{0} bytes are no list of page frames")]
    List(usize),
    /// frames that the guest does not have
    #[error("{count} page frames from {first:#x} on are not guest memory")]
    Frames {
        first: u32,
        count: u32,
        #[source]
        source: ChainError,
    },
    /// a reported range that begins or ends within a page
    #[error("a reported range is not of whole pages")]
    NotPages,
    /// the host failed
    #[error("the host does not take the memory back")]
    Host(#[source] io::Error),
}
