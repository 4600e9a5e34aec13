//! The paravirtual end of interrupt: a bit in guest memory that saves the guest the exit of telling its local APIC.
//!
//! KVM's interface (Linux Documentation/virt/kvm/x86, "KVM-specific MSRs", MSR_KVM_EOI_EN) and Microsoft's (TLFS, "EOI Assist") mean the
//! same: the guest names a 32-bit word, by a register of one or the other. When we inject an interrupt whose end nobody waits for (edge-triggered, nothing else requested or in service), we set bit 0
//! there. A guest that finds the bit set clears it instead of writing EOI. At the next exit the bit is taken back: cleared by the
//! guest, the interrupt has ended; still set, the guest will write EOI as always.

use crate::Gpa;
use crate::mem::GuestMemory;

/// MSR_KVM_EOI_EN: the physical address of the word, bit 0 enables it.
pub const MSR: u32 = 0x4b56_4d04;
/// KVM_FEATURE_PV_EOI.
pub const FEATURE: u32 = 1 << 6;

/// The state of one virtual CPU's word.
#[derive(Clone, Copy, Debug, Default)]
pub struct PvEoi {
    /// MSR_KVM_EOI_EN.
    value: u64,
    word: Option<Gpa>,
    offered: bool,
}

impl PvEoi {
    /// RDMSR.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.value
    }

    /// WRMSR. False: reserved bits are set.
    pub fn write(&mut self, value: u64) -> bool {
        let valid = value & 2 == 0;
        if valid {
            self.place((value & 1 != 0).then_some(Gpa(value & !3)));
            self.value = value;
        }
        valid
    }

    /// The word is there from now on, or nowhere.
    pub fn place(&mut self, word: Option<Gpa>) {
        self.word = word;
        self.offered = false;
    }

    /// Whether the guest takes part.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.word.is_some()
    }

    /// Offers the guest to end the interrupt that is being injected without an exit.
    pub fn offer(&mut self, mem: &dyn GuestMemory) {
        let word = self.word;
        self.offered = word.is_some_and(|word| mem.write_value(word, 4, 1).is_ok());
    }

    /// Whether an offer is out: [`PvEoi::take_back`] is due at the next exit.
    #[must_use]
    pub fn offered(&self) -> bool {
        self.offered
    }

    /// Takes the offer back. True: the guest has used it, so the interrupt has ended.
    pub fn take_back(&mut self, mem: &dyn GuestMemory) -> bool {
        self.offered = false;
        let Some(word) = self.word else {
            return false;
        };
        match mem.read_u32(word) {
            Ok(value) if value & 1 == 0 => true,
            _ => {
                let _ = mem.write_value(word, 4, 0);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::VecMemory;

    #[test]
    fn offer_is_used_only_if_the_guest_cleared_the_bit() {
        let m = VecMemory::new(0x1000);
        let mut e = PvEoi::default();
        assert!(e.write(0x101));
        e.offer(&m);
        assert!(e.offered());
        assert_eq!(m.read_u32(Gpa(0x100)), Ok(1));
        assert!(!e.take_back(&m), "the guest has not used it");
        assert_eq!(m.read_u32(Gpa(0x100)), Ok(0), "and must not use it later");
        e.offer(&m);
        m.write(Gpa(0x100), &[0]).unwrap();
        assert!(e.take_back(&m));
        assert!(!e.offered());
    }

    #[test]
    fn word_outside_ram_is_never_offered() {
        let mut e = PvEoi::default();
        assert!(!e.write(3));
        assert!(e.write(u64::MAX - 2));
        e.offer(&VecMemory::new(16));
        assert!(!e.offered());
    }
}
