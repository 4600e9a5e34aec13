//! The host's physical memory, as numbers: which ranges are free ([`Ranges`]), what a VM needs before it may start ([`Demand`]), where the RAM of a guest is that
//! comes and goes ([`Chunks`]), and how Umbra itself maps it ([`tables`]).
//!
//! Nothing here touches memory; `boot` does. So all of it is tested on any machine.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod chunks;
mod demand;
mod ranges;
pub mod tables;

pub use chunks::{CHUNK, Chunks, Found, Pinning};
pub use demand::{Demand, Lack};
pub use ranges::{Range, Ranges};

/// A mebibyte.
pub const MIB: u64 = 1 << 20;
/// A page.
pub const PAGE: u64 = 4096;
