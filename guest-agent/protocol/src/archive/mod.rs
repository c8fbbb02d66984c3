//! Files on their way between host and guest: tar archives, in chunks.
//!
//! * [`chunks`]: the archive as a part of a connection that goes on behind it
//! * [`entry`]: one entry of an archive, and its writing
//! * [`pack`]: a tree of files becomes an archive
//! * [`place`]: entries become files below a directory, which nothing leads out of
//! * [`walk`]: a tree of files, one after another
//!
//! Both sides are on the giving and on the taking end. The guest's files are changed by its containers while
//! they are looked at, and to the host all that comes from a guest is hostile: everything is looked up and made
//! by descriptor.

pub mod chunks;
pub mod entry;
pub mod pack;
pub mod place;
pub mod walk;

/// Places that a sandbox makes in a root file system to mount something there: no change that a container has
/// made.
pub const MOUNT_POINTS: [&str; 10] = [
    "/dev",
    "/dev/console",
    "/dev/pts",
    "/dev/shm",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/mtab",
    "/etc/resolv.conf",
    "/proc",
    "/sys",
];

pub use chunks::{ChunkReader, ChunkWriter};
pub use entry::{Entry, Extended, Kind};
pub use pack::{Contents, Owners, PackError, Packer};
pub use place::{Place, PlaceError, Rules};
pub use walk::WalkError;
