//! The control fields as bits, with what Umbra asks of each and why (SDM vol 3C 25.6, "VM-Execution Control Fields"; 25.7,
//! "VM-Exit Control Fields"; 25.8, "VM-Entry Control Fields").
// The manuals' bit names are their own documentation.
#![allow(missing_docs)]

use bitflags::bitflags;

bitflags! {
    /// Pin-based VM-execution controls (table 25-5).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Pin: u32 {
        const EXTERNAL_INTERRUPT_EXITING = 1 << 0;
        const NMI_EXITING = 1 << 3;
        const VIRTUAL_NMIS = 1 << 5;
        const PREEMPTION_TIMER = 1 << 6;
        const POSTED_INTERRUPTS = 1 << 7;
        const _ = !0;
    }

    /// Primary processor-based VM-execution controls (table 25-6).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Primary: u32 {
        const INTERRUPT_WINDOW_EXITING = 1 << 2;
        const USE_TSC_OFFSETTING = 1 << 3;
        const HLT_EXITING = 1 << 7;
        const INVLPG_EXITING = 1 << 9;
        const MWAIT_EXITING = 1 << 10;
        const RDPMC_EXITING = 1 << 11;
        const RDTSC_EXITING = 1 << 12;
        const CR3_LOAD_EXITING = 1 << 15;
        const CR3_STORE_EXITING = 1 << 16;
        const CR8_LOAD_EXITING = 1 << 19;
        const CR8_STORE_EXITING = 1 << 20;
        const USE_TPR_SHADOW = 1 << 21;
        const NMI_WINDOW_EXITING = 1 << 22;
        const MOV_DR_EXITING = 1 << 23;
        const UNCONDITIONAL_IO_EXITING = 1 << 24;
        const USE_IO_BITMAPS = 1 << 25;
        const MONITOR_TRAP_FLAG = 1 << 27;
        const USE_MSR_BITMAPS = 1 << 28;
        const MONITOR_EXITING = 1 << 29;
        const PAUSE_EXITING = 1 << 30;
        const ACTIVATE_SECONDARY_CONTROLS = 1 << 31;
        const _ = !0;
    }

    /// Secondary processor-based VM-execution controls (table 25-7).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Secondary: u32 {
        const VIRTUALIZE_APIC_ACCESSES = 1 << 0;
        const ENABLE_EPT = 1 << 1;
        const DESCRIPTOR_TABLE_EXITING = 1 << 2;
        const ENABLE_RDTSCP = 1 << 3;
        const VIRTUALIZE_X2APIC = 1 << 4;
        const ENABLE_VPID = 1 << 5;
        const WBINVD_EXITING = 1 << 6;
        const UNRESTRICTED_GUEST = 1 << 7;
        const APIC_REGISTER_VIRTUALIZATION = 1 << 8;
        const VIRTUAL_INTERRUPT_DELIVERY = 1 << 9;
        const PAUSE_LOOP_EXITING = 1 << 10;
        const RDRAND_EXITING = 1 << 11;
        const ENABLE_INVPCID = 1 << 12;
        const ENABLE_VM_FUNCTIONS = 1 << 13;
        const VMCS_SHADOWING = 1 << 14;
        const ENCLS_EXITING = 1 << 15;
        const RDSEED_EXITING = 1 << 16;
        const ENABLE_PML = 1 << 17;
        const EPT_VIOLATION_VE = 1 << 18;
        const ENABLE_XSAVES = 1 << 20;
        const MODE_BASED_EXECUTE = 1 << 22;
        const USE_TSC_SCALING = 1 << 25;
        const _ = !0;
    }

    /// Primary VM-exit controls (table 25-13).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Exit: u32 {
        const SAVE_DEBUG_CONTROLS = 1 << 2;
        const HOST_ADDRESS_SPACE_SIZE = 1 << 9;
        const LOAD_PERF_GLOBAL_CTRL = 1 << 12;
        const ACKNOWLEDGE_INTERRUPT = 1 << 15;
        const SAVE_PAT = 1 << 18;
        const LOAD_PAT = 1 << 19;
        const SAVE_EFER = 1 << 20;
        const LOAD_EFER = 1 << 21;
        const SAVE_PREEMPTION_TIMER = 1 << 22;
        const _ = !0;
    }

    /// VM-entry controls (table 25-16).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Entry: u32 {
        const LOAD_DEBUG_CONTROLS = 1 << 2;
        const IA32E_MODE_GUEST = 1 << 9;
        const ENTRY_TO_SMM = 1 << 10;
        const DEACTIVATE_DUAL_MONITOR = 1 << 11;
        const LOAD_PERF_GLOBAL_CTRL = 1 << 13;
        const LOAD_PAT = 1 << 14;
        const LOAD_EFER = 1 << 15;
        const _ = !0;
    }
}

/// Host interrupts and NMIs are the host's. With virtual NMIs the CPU keeps account of the guest's own NMI blocking, and tells
/// when it ends.
pub const PIN_REQUIRED: Pin = Pin::EXTERNAL_INTERRUPT_EXITING
    .union(Pin::NMI_EXITING)
    .union(Pin::VIRTUAL_NMIS);
/// A deadline ends the guest's run without an interrupt of the host's.
pub const PIN_OPTIONAL: Pin = Pin::PREEMPTION_TIMER;

/// HLT: an idle guest gives the CPU back. MWAIT, MONITOR, RDPMC: the virtual CPU does not have them. I/O: every port is
/// emulated. MSRs: all but those that are switched with the guest. TSC: the guest's begins at 0.
pub const PRIMARY_REQUIRED: Primary = Primary::HLT_EXITING
    .union(Primary::MWAIT_EXITING)
    .union(Primary::MONITOR_EXITING)
    .union(Primary::RDPMC_EXITING)
    .union(Primary::USE_IO_BITMAPS)
    .union(Primary::USE_MSR_BITMAPS)
    .union(Primary::USE_TSC_OFFSETTING)
    .union(Primary::ACTIVATE_SECONDARY_CONTROLS);
/// The guest reads and lowers its task priority without an exit.
pub const PRIMARY_OPTIONAL: Primary = Primary::USE_TPR_SHADOW;
/// Without a TPR shadow, task priority (CR8) is read and written by exits.
pub const PRIMARY_CR8: Primary = Primary::CR8_LOAD_EXITING.union(Primary::CR8_STORE_EXITING);

/// Nested paging, unless all guests are to have shadow paging.
pub const SECONDARY_NESTED: Secondary = Secondary::ENABLE_EPT;
/// With nested paging: real mode and unpaged mode in hardware.
pub const SECONDARY_NESTED_OPTIONAL: Secondary = Secondary::UNRESTRICTED_GUEST;
/// Tagged TLB entries, which survive exits; WBINVD must not throw the host's caches away at a guest's wish.
pub const SECONDARY_OPTIONAL: Secondary = Secondary::ENABLE_VPID.union(Secondary::WBINVD_EXITING);

/// Shadow paging: the hardware's CR3 is not the guest's, and INVLPG concerns a shadow entry.
pub const PRIMARY_SHADOW: Primary = Primary::CR3_LOAD_EXITING
    .union(Primary::CR3_STORE_EXITING)
    .union(Primary::INVLPG_EXITING);

/// The host is a 64-bit program; DR7 and DEBUGCTL are the guest's.
pub const EXIT_REQUIRED: Exit = Exit::HOST_ADDRESS_SPACE_SIZE.union(Exit::SAVE_DEBUG_CONTROLS);
/// The host's EFER and PAT come back by themselves. The guest's need not be saved: it writes them by exits only.
pub const EXIT_OPTIONAL: Exit = Exit::LOAD_EFER.union(Exit::LOAD_PAT);

/// DR7 and DEBUGCTL are the guest's.
pub const ENTRY_REQUIRED: Entry = Entry::LOAD_DEBUG_CONTROLS;
/// The guest's EFER and PAT are loaded by the entry itself.
pub const ENTRY_OPTIONAL: Entry = Entry::LOAD_EFER.union(Entry::LOAD_PAT);
