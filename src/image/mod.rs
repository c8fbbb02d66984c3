//! Images: archives, the store, and flattening into one EROFS file.
//!
//! ```text
//! registry ─► pull ─► blobs ─┐
//! archive ────────────────────┴─► store::unpack ─► layer ─► tree ─► erofs ─► images/HEX/rootfs.erofs
//!  (files)                         (digests)     (entries) (names) (bytes)
//! ```
//!
//! All of an archive is hostile. Names from it reach the tree in memory and no file system of the
//! host; what it makes the host hold or do is counted in [`limits`].

pub mod archive;
pub mod changes;
pub mod commit;
mod compression;
pub mod digest;
pub mod erofs;
pub mod import;
pub mod layer;
pub mod limits;
pub mod pull;
pub mod push;
pub mod reference;
pub mod registry;
pub mod save;
pub mod store;
pub mod tar_stream;
pub mod tree;
pub mod verify;

#[cfg(test)]
pub(crate) mod testing;

pub use digest::Digest;
pub use pull::{PullError, Pulled, Puller};
pub use reference::{Reference, ReferenceError};
pub use store::{Image, LoadError, Loaded, Progress, Removed, Store, StoreError, Users};
pub use verify::{Verifier, VerifyError};
