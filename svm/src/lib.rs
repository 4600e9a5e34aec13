//! The AMD-V backend: the virtual machine control block, permission maps, world switch and exit decoding.
//!
//! Everything but [`hw`] is safe code that builds and tests on any host. What the guest may do is decided in `hv-core`; this
//! crate encodes it ([`vcpu`]), and decodes why the guest was left ([`exit`]). Manual: AMD64 Architecture Programmer's Manual
//! volume 2, chapter 15, "Secure Virtual Machine" (APM below).
//!
//! Not used: decode assists, LBR virtualization, AVIC, VMCB clean bits, TSC ratio. Next-RIP saving is used where it exists.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

extern crate alloc;

pub mod exit;
#[allow(unsafe_code)]
pub mod hw;
pub mod permission;
pub mod vcpu;
pub mod vmcb;

pub use vcpu::SvmVcpu;

/// What this CPU's AMD-V can do (CPUID 8000_000Ah; APM vol 3 E.4.9, "Function 8000_000Ah—SVM Features").
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// Nested paging.
    pub nested_paging: bool,
    /// The VMCB tells the next RIP.
    pub next_rip: bool,
    /// TLB_CONTROL 3 flushes one ASID.
    pub flush_by_asid: bool,
    /// How many ASIDs there are, ASID 0 (the host's) included.
    pub asids: u32,
    /// Whether the CPU has XSAVE, so that XCR0 exists.
    pub xsave: bool,
    /// Quirk of QEMU's software emulation (7.2): requests of its main loop are lost, and an open window hangs, when they come
    /// after an interrupt injected by EVENTINJ and before the next exit. Interrupts are injected as virtual ones there. Not
    /// elsewhere: Bochs 2.7 does not deliver a virtual interrupt to a guest whose interrupt flag is set at VMRUN.
    pub inject_virtual: bool,
}
