//! What can go wrong with a block device.

use std::io;
use std::path::PathBuf;

/// A block device that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// the file does not exist, may not be opened, …
    #[error("disk {path}: cannot be opened {}", if *read_only { "for reading" } else { "for writing" })]
    Open {
        /// the disk
        path: PathBuf,
        /// how it was to be opened
        read_only: bool,
        /// why it failed
        #[source]
        source: io::Error,
    },
    /// a directory, a pipe, a character device, …
    #[error("disk {path}: is neither a file nor a block device")]
    NotADisk {
        /// the disk
        path: PathBuf,
    },
    /// somebody writes to it
    #[error(
        "disk {path}: is in use by another process, which {}",
        if *read_only { "writes to it" } else { "has it open as a disk" }
    )]
    InUse {
        /// the disk
        path: PathBuf,
        /// how it was to be opened
        read_only: bool,
    },
    /// the size, type or lock cannot be determined
    #[error("disk {path}: {what} failed")]
    Inspect {
        /// the disk
        path: PathBuf,
        /// what was attempted
        what: &'static str,
        /// why it failed
        #[source]
        source: io::Error,
    },
    /// nothing to offer
    #[error("disk {path}: is empty")]
    Empty {
        /// the disk
        path: PathBuf,
    },
    /// the serial number does not fit into the field that it is read from
    #[error("disk {path}: serial number {serial:?} is not 1 to 20 printable ASCII characters")]
    Serial {
        /// the disk
        path: PathBuf,
        /// the serial number
        serial: String,
    },
    /// the host is out of descriptors
    #[error("no descriptor for a block device")]
    Descriptor(#[source] io::Error),
}

/// A request that is answered with an error status.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    /// sectors beyond the disk's end
    #[error("{bytes} bytes at sector {sector} are not within the disk")]
    OutOfRange { sector: u64, bytes: u64 },
    /// not whole sectors
    #[error("{0} bytes are not a multiple of a sector")]
    Unaligned(usize),
    /// a write to a disk that is offered as read-only
    #[error("the disk is read-only")]
    ReadOnly,
    /// a discard or write-zeroes list that breaks the limits of the configuration space
    #[error("a range list of {0} bytes is not within the limits")]
    Ranges(usize),
    /// more sectors in one range than the configuration space allows
    #[error("a range of {0} sectors is above the limit")]
    RangeTooLong(u32),
    /// no room for the 20 bytes of the serial number
    #[error("{0} bytes are no room for the serial number")]
    IdTooShort(usize),
    /// a type or flag that was not offered
    #[error("request type {0} or one of its flags is not offered")]
    Unsupported(u32),
    /// the host's file system does not do this
    #[error("the host's file does not support the operation")]
    HostUnsupported,
    /// the host failed
    #[error("the host failed")]
    Host(#[source] io::Error),
}
