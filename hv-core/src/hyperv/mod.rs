//! Microsoft's interface to a hypervisor, which Windows needs for a good clock and Linux knows too: CPUID leaves 4000_0000h to
//! 4000_0005h, model-specific registers from 4000_0000h on, pages that lie over guest memory, and hypercalls.
//!
//! The rules are those of the Hypervisor Top-Level Functional Specification (TLFS) and of "Requirements for Implementing the Microsoft
//! Hypervisor Interface". A [`Partition`] is what the CPUs of a virtual machine share of it, a [`Processor`] what one of them has; the run loop
//! (`vcpu/hyperv.rs`) knows when it is asked.
//!
//! There are: guest OS identity, the hypercall page, VP indices, the reference counter, the reference TSC page, and frequencies; the VP assist
//! page, in which the guest ends an interrupt without an exit, and registers for the local APIC; synthetic timers, with the synthetic interrupt
//! controller that has their messages; [hypercalls](hypercall) with which CPUs flush others, interrupt them, and say that they wait long; and
//! crash registers, by which a system tells that it has failed.
//!
//! There are not: VMBus and its messages and events, nested virtualization (no leaf 4000_000Ah), hypercall parameters in XMM registers,
//! idle states, statistics, the debugger.

mod crash;
pub mod hypercall;
mod leaves;
mod overlay;
mod partition;
mod processor;
mod reference;
mod synic;
mod timer;

pub use self::crash::{Crash, VALUES as CRASH_VALUES};
pub use self::leaves::leaves;
pub use self::overlay::{Overlays, Slot};
pub use self::partition::{Moment, Partition, placed};
pub use self::processor::Processor;
pub use self::reference::Reference;
pub use self::synic::Synic;
pub use self::timer::{Expired, Timers};

/// Register numbers (TLFS appendix, "MSRs"; here without the prefix HV_X64_MSR).
#[allow(missing_docs)]
pub mod msr {
    pub const GUEST_OS_ID: u32 = 0x4000_0000;
    pub const HYPERCALL: u32 = 0x4000_0001;
    pub const VP_INDEX: u32 = 0x4000_0002;
    pub const TIME_REF_COUNT: u32 = 0x4000_0020;
    pub const REFERENCE_TSC: u32 = 0x4000_0021;
    pub const TSC_FREQUENCY: u32 = 0x4000_0022;
    pub const APIC_FREQUENCY: u32 = 0x4000_0023;
    pub const EOI: u32 = 0x4000_0070;
    pub const ICR: u32 = 0x4000_0071;
    pub const TPR: u32 = 0x4000_0072;
    pub const VP_ASSIST_PAGE: u32 = 0x4000_0073;
    pub const SCONTROL: u32 = 0x4000_0080;
    pub const SVERSION: u32 = 0x4000_0081;
    pub const SIEFP: u32 = 0x4000_0082;
    pub const SIMP: u32 = 0x4000_0083;
    pub const EOM: u32 = 0x4000_0084;
    pub const SINT0: u32 = 0x4000_0090;
    pub const SINT15: u32 = 0x4000_009f;
    pub const STIMER0_CONFIG: u32 = 0x4000_00b0;
    pub const STIMER3_COUNT: u32 = 0x4000_00b7;
    pub const GUEST_IDLE: u32 = 0x4000_00f0;
    pub const CRASH_P0: u32 = 0x4000_0100;
    pub const CRASH_P4: u32 = 0x4000_0104;
    pub const CRASH_CTL: u32 = 0x4000_0105;
    /// The first and last that are the interface's.
    pub const FIRST: u32 = GUEST_OS_ID;
    pub const LAST: u32 = CRASH_CTL;
}
