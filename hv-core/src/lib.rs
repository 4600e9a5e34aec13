//! The vendor-free bottom of Umbra.
//!
//! Everything that Intel VT-x and AMD-V have in common lives here, as safe code that builds and tests on any host:
//! addresses and registers ([`addr`], [`regs`]), the exit record that a backend hands over ([`exit`]), the traits between
//! the parts ([`backend`], [`device`], [`mem`], [`irq`], [`mmu`]), what the CPUs have to flush ([`flush`]), the event queue ([`event`]), the run loop ([`vcpu`]),
//! the instruction emulator ([`emulate`]), the CPUID and MSR policies ([`cpuid`], [`msr`]), the buses ([`bus`]), locks in their order ([`lock`]), the one
//! description of the virtual PC ([`machine`]), paravirtual clock and end of interrupt ([`pvclock`], [`pveoi`], [`pvsteal`], [`hypercall`]), Microsoft's
//! interface ([`hyperv`]) and which of them a guest has ([`interface`]), statistics
//! ([`stats`]), sentences that need no memory ([`sentence`]), recordings of exits for tests ([`record`]), what a debugger sees ([`debug`]), traces of exits ([`trace`]), what network cards
//! leave to others ([`offload`], [`checksum`]), and the place where the CPU executes single instructions ([`scratch`]).
//!
//! Not here yet: snapshots.
//!
//! The switch in [`vcpu`] is the table of contents of the hypervisor: one line per exit reason.
#![cfg_attr(not(any(test, feature = "testing")), no_std)]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;

pub mod addr;
pub mod backend;
pub mod bus;
pub mod checksum;
pub mod counts;
pub mod cpu;
pub mod cpuid;
pub mod debug;
pub mod device;
pub mod emulate;
pub mod event;
pub mod exit;
pub mod flush;
pub mod fx;
pub mod hypercall;
pub mod hyperv;
pub mod interface;
pub mod irq;
pub mod kick;
pub mod lock;
pub mod machine;
pub mod mem;
pub mod mmu;
pub mod msr;
pub mod offload;
pub mod pvclock;
pub mod pveoi;
pub mod pvsteal;
pub mod record;
pub mod regs;
pub mod sched;
pub mod scratch;
pub mod sentence;
pub mod speculation;
pub mod stats;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod time;
pub mod trace;
pub mod trail;
pub mod vcpu;
pub mod vm;

pub use addr::{Gpa, Gva, Hpa};
pub use time::VmTime;
