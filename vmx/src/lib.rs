//! The Intel VT-x backend: the virtual-machine control structure, world switch, entry checks and exit decoding.
//!
//! To VMX what `svm` is to AMD-V, with files of the same names. Everything but [`hw`] is safe code that builds and tests on any
//! host. What the guest may do is decided in `hv-core`; this crate encodes it ([`vcpu`]), and decodes why the guest was left
//! ([`exit`]). Manual: Intel 64 and IA-32 Architectures Software Developer's Manual (SDM), volume 3C, "Virtual Machine
//! Extensions".
//!
//! Not used: virtual interrupt delivery and posted interrupts, page-modification logging, VMCS shadowing, VM functions, TSC
//! scaling, the monitor trap flag.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

extern crate alloc;

pub mod bitmap;
pub mod cache;
pub mod capabilities;
pub mod check;
pub mod controls;
pub mod event;
pub mod exit;
pub mod formats;
#[allow(unsafe_code)]
pub mod hw;
pub mod instruction_error;
pub mod msr_area;
pub mod reason;
pub mod segment;
#[cfg(test)]
mod testing;
pub mod vcpu;
pub mod virtual_apic;
pub mod vmcs;

pub use vcpu::VmxVcpu;
