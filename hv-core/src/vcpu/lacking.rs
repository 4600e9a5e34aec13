//! What the emulator lacks. The guest gets #UD, as for any instruction that its CPU does not have, and the log one line a place: neither
//! a guest nor a program in it ends a virtual machine by an instruction.
//!
//! What still ends one ([`Stop::Fatal`](super::Stop::Fatal)) is not an instruction's doing: an entry that the CPU refuses, an exit for a
//! reason or without a length that it was not asked for, and a machine check of the host.

use super::Vcpu;
use crate::cpu::VcpuBackend;
use crate::emulate::EmuFault;
use crate::mmu::Mmu;
use crate::regs::SegReg;
use crate::time::Clock;

/// The most places that are logged. A guest could make any number of them.
const PLACES: usize = 32;

/// The places that have been logged: linear addresses of instructions.
#[derive(Default)]
pub(super) struct Lacking {
    places: [u64; PLACES],
    used: usize,
}

impl Lacking {
    /// Whether a line about `place` is due: the first time, as long as there is room.
    fn is_new(&mut self, place: u64) -> bool {
        let (known, free) = self.places.split_at_mut(self.used);
        match free.first_mut() {
            Some(slot) if !known.contains(&place) => {
                *slot = place;
                self.used += 1;
                true
            }
            _ => false,
        }
    }
}

impl<B: VcpuBackend, M: Mmu, C: Clock> Vcpu<B, M, C> {
    /// What the guest gets for `fault`, met by the instruction at `rip`: #UD, if the emulator does not know how to go on.
    pub(super) fn or_undefined(&mut self, rip: u64, fault: EmuFault) -> EmuFault {
        let EmuFault::Unsupported(what) = fault else {
            return fault;
        };
        let cs = self.cpu.segment(SegReg::Cs);
        self.stats.lacking += 1;
        if self.lacking.is_new(cs.base.wrapping_add(rip)) {
            log::warn!(
                "VM {}: the emulator cannot execute {what} at {:#x}:{rip:#x}, CPL {}: #UD for the guest",
                self.vm.number,
                cs.selector,
                self.cpu.cpl()
            );
        }
        EmuFault::UD
    }
}

#[cfg(test)]
mod tests {
    use super::{Lacking, PLACES};

    #[test]
    fn a_place_is_logged_once_and_only_so_many_are() {
        let mut lacking = Lacking::default();
        assert!(lacking.is_new(0));
        assert!(!lacking.is_new(0));
        let lines = (1..1000).filter(|&place| lacking.is_new(place)).count();
        assert_eq!(lines, PLACES - 1);
    }
}
