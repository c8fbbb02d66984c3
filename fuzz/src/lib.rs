//! What the fuzz targets share.
//!
//! * [`guest`]: a guest's side of a virtio device, through the registers that a guest has
//! * [`host`]: files in memory, and a folder of a target's own
//! * [`tar`]: archives whose checksums are right, so that what is behind them is reached

pub mod guest;
pub mod host;
pub mod tar;
