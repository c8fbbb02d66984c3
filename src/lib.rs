//! ampoule: every OCI container in its own microVM.
//!
//! The map of the crate; arrows between modules go down only:
//!
//! * [`cli`]: the `ampoule` command, one verb per file
//! * [`oci`]: the OCI runtime command line, `ampoule-oci`, one verb per file
//! * [`shim`]: `containerd-shim-ampoule-v2`, containerd's way to a sandbox, one task method per file
//! * [`front`]: which of the three a program is, by the name that it was called by
//! * [`system`]: ampoule and containerd's configuration put on a host, and taken off it
//! * [`metrics`]: what sandboxes count and take, for Prometheus
//! * [`bench`]: how quickly sandboxes start, and what they are compared with
//! * [`sandbox`]: a microVM and everything the host keeps for it
//! * [`network`]: networks of ampoule's own, and those of namespaces, joined to a guest
//! * [`volume`]: directories that outlive the containers that have them
//! * [`build`]: images from Dockerfiles, their steps in sandboxes
//! * [`image`]: registries, archives, the image store, flattening into EROFS
//! * [`agent`]: host side of the agent protocol; everything it reads is hostile
//! * [`monitor`]: the process that is the VMM of one sandbox
//! * [`vmm`]: the machine; knows nothing of containers and could be used alone
//! * [`report`], [`terminal`], [`detach_keys`], [`clock`], [`socket_file`], [`mounts`], [`process`]: how an error
//!   is told; the caller's terminal, and the keys that let go of it; when something happened; sockets with a
//!   path; mounts without one; a handle on another process

pub mod agent;
pub mod bench;
pub mod build;
pub mod cli;
pub mod clock;
pub mod detach_keys;
pub mod front;
pub mod image;
pub mod metrics;
pub mod monitor;
pub mod mounts;
pub mod network;
pub mod oci;
pub mod process;
mod random;
pub mod report;
pub mod sandbox;
pub mod shim;
pub mod socket_file;
pub mod system;
pub mod terminal;
pub mod vmm;
pub mod volume;

pub use front::main;
