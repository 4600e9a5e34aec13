//! Second-stage paging: how guest-physical memory becomes host-physical memory, and how the guest's own tables are walked.
//!
//! [`nested::NestedMmu`] builds the tables that the hardware walks under the guest's own, in AMD's format (that of long mode)
//! or Intel's (EPT).
//! [`walk`] is the guest page walker, needed wherever the hypervisor has to follow a guest's linear address: emulation of MMIO
//! and string I/O, and instruction lengths.
//!
//! [`shadow::ShadowMmu`] needs no second stage: it makes the tables that the hardware walks from the guest's own. It learns of what
//! Umbra itself writes to those through [`watch::WatchedMemory`].
//!
//! Not here yet: the dirty log.
#![cfg_attr(not(any(test, feature = "testing")), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod fence;
mod map;
pub mod nested;
pub mod paging;
#[cfg(any(test, feature = "testing"))]
mod reference;
mod room;
pub mod shadow;
#[cfg(test)]
mod shared_frames;
mod views;
pub mod walk;
pub mod watch;

pub use nested::{Format, NestedMmu};
pub use paging::Paging;
pub use shadow::{Algorithm, ShadowMmu};
pub use watch::WatchedMemory;
