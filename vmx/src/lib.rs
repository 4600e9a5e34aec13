//! The Intel VT-x backend: the virtual-machine control structure, world switch, entry checks and exit decoding.
//!
//! To VMX what `svm` is to AMD-V, with files of the same names. Everything but [`hw`] is safe code that builds and tests on any
//! host. What the guest may do is decided in `hv-core`; this crate encodes it ([`vcpu`]), and decodes why the guest was left
//! ([`exit`]). Manual: Intel 64 and IA-32 Architectures Software Developer's Manual (SDM), volume 3C, "Virtual Machine
//! Extensions".
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

extern crate alloc;

pub mod capabilities;
pub mod check;
pub mod controls;
pub mod formats;
pub mod instruction_error;
pub mod reason;
pub mod vmcs;
