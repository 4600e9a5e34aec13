//! The CPUID leaves (TLFS, "Microsoft Hypervisor CPUID Leaves").

use crate::cpuid::{CpuidResult, signature};
use crate::machine::Topology;
use alloc::vec::Vec;

/// The first leaf. Windows looks nowhere else.
pub const BASE: u32 = 0x4000_0000;
/// The last leaf. 4000_000Ah would be nested virtualization, with which Windows does not start here.
const LAST: u32 = BASE + 5;

/// Leaf 4000_0003h EAX: what the guest may use.
mod privilege {
    pub const TIME_REF_COUNT: u32 = 1 << 1;
    pub const SYNIC: u32 = 1 << 2;
    pub const TIMERS: u32 = 1 << 3;
    /// EOI, ICR, TPR and the VP assist page.
    pub const APIC: u32 = 1 << 4;
    /// Guest OS identity and hypercall page. Without this and the next one, no system uses anything of the interface.
    pub const HYPERCALL: u32 = 1 << 5;
    pub const VP_INDEX: u32 = 1 << 6;
    pub const REFERENCE_TSC: u32 = 1 << 9;
    pub const GUEST_IDLE: u32 = 1 << 10;
    pub const FREQUENCIES: u32 = 1 << 11;
}

/// Leaf 4000_0003h EDX: what there is besides.
mod feature {
    /// Parameters of hypercalls in XMM registers.
    pub const XMM_INPUT: u32 = 1 << 4;
    pub const FREQUENCIES: u32 = 1 << 8;
    pub const CRASH: u32 = 1 << 10;
    pub const DIRECT_TIMERS: u32 = 1 << 19;
}

/// Leaf 4000_0004h EAX: what the guest had better do.
mod hint {
    /// Flush other CPUs by hypercalls.
    pub const REMOTE_FLUSH: u32 = 1 << 2;
    /// Use the registers for the local APIC, whose page costs the emulation of an instruction.
    pub const APIC: u32 = 1 << 3;
    /// Time does not pass evenly here: no watchdogs.
    pub const RELAXED_TIMING: u32 = 1 << 5;
    /// Let no interrupt end by itself: it has to leave the guest for that.
    pub const NO_AUTO_EOI: u32 = 1 << 9;
    /// Interrupt other CPUs by hypercalls.
    pub const CLUSTER_IPI: u32 = 1 << 10;
    /// The same for sets of CPUs.
    pub const EX_MASKS: u32 = 1 << 11;
}

/// Leaf 4000_0004h EBX: spin for ever, tell nobody; or so often before the hypervisor is told, as others have it.
const NEVER_NOTIFY: u32 = u32::MAX;
const SPINS: u32 = 2047;

/// The leaves from 4000_0000h on, for virtual CPUs that are arranged so.
#[must_use]
pub fn leaves(topology: Topology) -> Vec<CpuidResult> {
    let (several, spins) = match topology.cores() {
        0 | 1 => (0, NEVER_NOTIFY),
        _ => (
            hint::REMOTE_FLUSH | hint::CLUSTER_IPI | hint::EX_MASKS,
            SPINS,
        ),
    };
    let only = |eax| CpuidResult {
        eax,
        ..CpuidResult::default()
    };
    alloc::vec![
        // Linux looks for this name, Windows for the next leaf.
        signature(LAST, *b"Microsoft Hv"),
        only(u32::from_le_bytes(*b"Hv#1")),
        // The version, by which nobody decides anything.
        CpuidResult::default(),
        CpuidResult {
            eax: privilege::TIME_REF_COUNT
                | privilege::SYNIC
                | privilege::TIMERS
                | privilege::APIC
                | privilege::HYPERCALL
                | privilege::VP_INDEX
                | privilege::REFERENCE_TSC
                | privilege::GUEST_IDLE
                | privilege::FREQUENCIES,
            // Rights of a root partition, and messages and events between partitions: none.
            ebx: 0,
            ecx: 0,
            edx: feature::XMM_INPUT
                | feature::FREQUENCIES
                | feature::CRASH
                | feature::DIRECT_TIMERS,
        },
        CpuidResult {
            eax: hint::APIC | hint::RELAXED_TIMING | hint::NO_AUTO_EOI | several,
            ebx: spins,
            ..CpuidResult::default()
        },
        only(topology.cores()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_has_what_makes_the_interface_and_nothing_of_a_root_partition() {
        for cpus in [1, 32] {
            let l = leaves(Topology::new(cpus));
            assert_eq!(l.len(), 6);
            assert_eq!(l[0].eax, 0x4000_0005, "no leaf 4000_000Ah");
            assert_eq!(l[1].eax, 0x3123_7648);
            assert_eq!(l[3].eax & 0x60, 0x60, "the two mandatory privileges");
            assert_eq!(l[3].ebx & 0x314f, 0, "root rights");
            assert_eq!(l[5].eax, cpus);
        }
    }
}
