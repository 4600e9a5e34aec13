//! Second-stage paging: how guest-physical memory becomes host-physical memory, and how the guest's own tables are walked.
//!
//! [`nested::NestedMmu`] builds the tables that the hardware walks under the guest's own, in AMD's format (that of long mode)
//! or Intel's (EPT).
//! [`walk`] is the guest page walker, needed wherever the hypervisor has to follow a guest's linear address: emulation of MMIO
//! and string I/O, and instruction lengths.
//!
//! Not here yet: shadow paging, which will be a second implementation of [`hv_core::mmu::Mmu`]; the dirty log.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod nested;
pub mod walk;

pub use nested::{Format, NestedMmu};
