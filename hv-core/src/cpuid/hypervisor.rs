//! The leaves of hypervisors: who is there, and what of KVM's interface.

use super::CpuidResult;
use crate::interface::Interfaces;
use crate::machine::Topology;
use crate::{hypercall, hyperv, pvclock, pveoi, pvsteal};
use alloc::vec::Vec;

/// What KVM's interface has for the CPUs of one guest among each other.
const SEVERAL_CPUS: u32 = pvsteal::FEATURE
    | pvsteal::FEATURE_TLB_FLUSH
    | hypercall::FEATURE_UNHALT
    | hypercall::FEATURE_SEND_IPI
    | hypercall::FEATURE_YIELD;
/// Leaves of the hypervisor range that are answered.
pub(super) const HYPERVISOR: u32 = 0x4000_0000;
/// Where KVM's begin if Microsoft's are there too. Windows looks only at the first leaves; Linux takes what comes last.
pub(super) const SECOND: u32 = 0x4000_0100;

/// The leaves from [`HYPERVISOR`] on.
pub(super) fn hypervisor(interfaces: Interfaces, topology: Topology) -> Vec<CpuidResult> {
    let mut leaves = match interfaces.contains(Interfaces::HYPERV) {
        true => hyperv::leaves(topology),
        false => Vec::new(),
    };
    if interfaces.contains(Interfaces::KVM) {
        let base = match leaves.is_empty() {
            true => HYPERVISOR,
            false => SECOND,
        };
        leaves.resize((base - HYPERVISOR) as usize, CpuidResult::default());
        leaves.extend(kvm(base, topology));
    }
    if leaves.is_empty() {
        // No more than that this is a virtual machine, and whose.
        leaves.push(signature(HYPERVISOR, *b"UmbraUmbraUm"));
    }
    leaves
}

/// The first leaf of an interface whose last one is `last`.
pub(crate) fn signature(last: u32, name: [u8; 12]) -> CpuidResult {
    let [b, c, d] = [0, 4, 8].map(|at| {
        let mut word = [0; 4];
        word.copy_from_slice(&name[at..at + 4]);
        u32::from_le_bytes(word)
    });
    CpuidResult {
        eax: last,
        ebx: b,
        ecx: c,
        edx: d,
    }
}

/// The leaves of KVM's interface, the first of which is `base`.
fn kvm(base: u32, topology: Topology) -> [CpuidResult; 2] {
    let several = match topology.cores() {
        0 | 1 => 0,
        _ => SEVERAL_CPUS,
    };
    [
        // KVM's signature goes with the paravirtual clock: guests look for it under this name only.
        signature(base + 1, *b"KVMKVMKVM\0\0\0"),
        CpuidResult {
            eax: pvclock::FEATURE_NOP_IO_DELAY
                | pvclock::FEATURE_CLOCKSOURCE2
                | pveoi::FEATURE
                | pvclock::FEATURE_STABLE
                | several,
            ..CpuidResult::default()
        },
    ]
}
