//! The AMD-V backend: the virtual machine control block, permission maps, world switch and exit decoding.
//!
//! Everything but [`hw`] is safe code that builds and tests on any host. What the guest may do is decided in `hv-core`; this
//! crate encodes it ([`vcpu`]), and decodes why the guest was left ([`exit`]). Manual: AMD64 Architecture Programmer's Manual
//! volume 2, chapter 15, "Secure Virtual Machine" (APM below).
//!
//! Not used: decode assists, LBR virtualization, AVIC, VMCB clean bits, TSC ratio. Next-RIP saving and flushes by ASID are used
//! where they exist.
//!
//! # QEMU 7.2
//!
//! * The guest's INTERRUPT_SHADOW is not loaded by VMRUN, but the host's shadow of an STI right before VMRUN becomes the guest's.
//!   [`hw`] has such an STI if, and only if, the guest is in a shadow; elsewhere it does nothing.
//! * See [`Quirks::inject_virtual`].
//! * Before 7.2.16 and 9.1.2: see [`Quirks::identity_map`]. A hardware task switch of a guest that has paging off loads CR3 from the
//!   task-state segment all the same.
//! * Before 8.0, CMPXCHG8B and CMPXCHG16B take all flags but ZF from a stale operation (`helper_cmpxchg8b` in `target/i386/tcg/mem_helper.c`;
//!   the translator stores none before it). Behind VMRUN or IRET, and another instruction that sets flags, they are the bits of that
//!   one's operand: part of an address, or of a packet. If the guest is left before the next instruction that sets flags, the control
//!   block gets them, with VM or DF, and VMRUN loads them: 32-bit Linux died of it once in a few hundred runs. Where bits show it
//!   that no CPU sets, system flags are taken back to what they were at the entry ([`vcpu`]). Without Umbra an interrupt there pushes
//!   the same.
//! * There is no INT1: it raises #UD. Later versions have it, and stop the whole machine for it unless it is intercepted.
//!
//! # Bochs 2.7
//!
//! The only emulator with next-RIP saving. Where it departs from the manual, as its source has it and as far as it concerns us:
//!
//! * VMRUN loads the guest's RFLAGS before it counts as in the guest (`SvmEnterLoadCheckGuestState` in `cpu/svm.cc`), so that the
//!   masks of pending events are computed as on the host (`handleInterruptMaskChange` in `cpu/flag_ctrl_pro.cc`). A guest that is
//!   entered with IF clear is not left for a host interrupt, in spite of V_INTR_MASKING, until it changes IF: `boot` lets host
//!   interrupts in after other exits too. And a virtual interrupt is not taken by a guest that is entered with IF set, until it
//!   changes IF: interrupts are injected by EVENTINJ, and a window is asked for where IF is clear or the injected interrupt
//!   clears it.
//! * The whole TLB is flushed at every VMRUN and #VMEXIT (`handleCpuContextChange` in `cpu/proc_ctrl.cc`), whatever ASID and
//!   TLB_CONTROL say. A flush that is missing shows neither there nor in QEMU.
//! * VMRUN does not load CR2 (`SvmEnterLoadCheckGuestState`): whoever writes the guest's CR2 writes the CPU's too.
//! * Bochs ends itself at an exit from virtual-8086 mode ("VM is set in long mode !"): `SvmExitLoadHostState` in
//!   `cpu/svm.cc` sets the host's RFLAGS while the CPU still counts as in that mode; its source was mended in October 2025. With
//!   `panic: action=fatal, cpu0=report` in its configuration it goes on, and rightly: kvm-unit-tests' `taskswitch2` then passes whole.
//! * See [`Quirks::stale_vectoring`]; at a task switch [`exit`] looks whether there is an error code.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

extern crate alloc;

pub mod asid;
pub mod exit;
#[allow(unsafe_code)]
pub mod hw;
pub mod permission;
pub mod probe;
mod quirks;
pub mod vcpu;
pub mod vmcb;

pub use quirks::Quirks;
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
    /// VMRUN and #VMEXIT switch SPEC_CTRL.
    pub v_spec_ctrl: bool,
    /// Whether the CPU has XSAVE, so that XCR0 exists.
    pub xsave: bool,
    /// What it does otherwise than the manual.
    pub quirks: Quirks,
}
