//! Guest-state fields as Rust values: read from the VMCS at most once an exit, and written back before the next entry if they
//! were changed.

use crate::hw::Hardware;
use crate::vmcs::{Field, segment_fields};
use core::cell::Cell;
use hv_core::regs::SegReg;

/// Which cached field.
pub type Slot = usize;

/// RIP.
pub const RIP: Slot = 0;
/// RFLAGS.
pub const RFLAGS: Slot = 1;
/// Interruptibility state.
pub const INTERRUPTIBILITY: Slot = 2;
/// CR0.
pub const CR0: Slot = 3;
/// CR3.
pub const CR3: Slot = 4;
/// CR4.
pub const CR4: Slot = 5;
/// Base and limit of GDTR, then of IDTR.
const TABLES: Slot = 6;
/// Selector, base, limit and access rights of ES, then of the other segment registers in the manual's order.
const SEGMENTS: Slot = 10;
const SLOTS: usize = SEGMENTS + 8 * 4;

const FIELDS: [Field; SLOTS] = {
    let mut fields = [Field::GUEST_RIP; SLOTS];
    fields[RFLAGS] = Field::GUEST_RFLAGS;
    fields[INTERRUPTIBILITY] = Field::GUEST_INTERRUPTIBILITY;
    fields[CR0] = Field::GUEST_CR0;
    fields[CR3] = Field::GUEST_CR3;
    fields[CR4] = Field::GUEST_CR4;
    fields[TABLES] = Field::GUEST_GDTR_BASE;
    fields[TABLES + 1] = Field::GUEST_GDTR_LIMIT;
    fields[TABLES + 2] = Field::GUEST_IDTR_BASE;
    fields[TABLES + 3] = Field::GUEST_IDTR_LIMIT;
    let mut n = 0;
    while n < 8 {
        let [selector, base, limit, rights] = segment_fields(n);
        fields[SEGMENTS + 4 * n] = selector;
        fields[SEGMENTS + 4 * n + 1] = base;
        fields[SEGMENTS + 4 * n + 2] = limit;
        fields[SEGMENTS + 4 * n + 3] = rights;
        n += 1;
    }
    fields
};

/// Where a segment register is cached: its selector, then base, limit and access rights.
#[must_use]
pub const fn segment(reg: SegReg) -> Slot {
    SEGMENTS
        + 4 * match reg {
            SegReg::Es => 0,
            SegReg::Cs => 1,
            SegReg::Ss => 2,
            SegReg::Ds => 3,
            SegReg::Fs => 4,
            SegReg::Gs => 5,
            SegReg::Ldtr => 6,
            _ => 7,
        }
}

/// Where a descriptor-table register is cached: its base, then its limit.
#[must_use]
pub const fn table(reg: SegReg) -> Slot {
    match reg {
        SegReg::Idtr => TABLES + 2,
        _ => TABLES,
    }
}

/// The cached fields.
#[derive(Clone)]
pub struct Cache {
    values: [Cell<u64>; SLOTS],
    /// One bit a slot: the value is the VMCS's, or newer.
    known: Cell<u64>,
    /// One bit a slot: the value is newer than the VMCS's.
    changed: u64,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            values: [const { Cell::new(0) }; SLOTS],
            known: Cell::new(0),
            changed: 0,
        }
    }
}

impl Cache {
    /// The value of a field.
    #[inline(always)]
    pub fn get<H: Hardware>(&self, hw: &H, slot: Slot) -> u64 {
        let bit = 1 << slot;
        if self.known.get() & bit == 0 {
            self.values[slot].set(hw.read(FIELDS[slot]));
            self.known.set(self.known.get() | bit);
        }
        self.values[slot].get()
    }

    /// Changes a field.
    #[inline(always)]
    pub fn set(&mut self, slot: Slot, value: u64) {
        let bit = 1 << slot;
        self.values[slot].set(value);
        self.known.set(self.known.get() | bit);
        self.changed |= bit;
    }

    /// The value of any field, changes that are not written yet included.
    pub fn read<H: Hardware>(&self, hw: &H, field: Field) -> u64 {
        match FIELDS.iter().position(|&f| f == field) {
            Some(slot) => self.get(hw, slot),
            None => hw.read(field),
        }
    }

    /// Writes what has changed.
    #[inline(always)]
    pub fn write_back<H: Hardware>(&mut self, hw: &mut H) {
        while self.changed != 0 {
            let slot = self.changed.trailing_zeros() as usize;
            self.changed &= self.changed - 1;
            hw.write(FIELDS[slot], self.values[slot].get());
        }
    }

    /// The guest has run: nothing is known.
    #[inline(always)]
    pub fn forget(&mut self) {
        self.known.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeHardware;

    #[test]
    fn each_slot_is_a_field_of_its_own() {
        let mut fields = FIELDS.to_vec();
        fields.sort();
        fields.dedup();
        assert_eq!(fields.len(), SLOTS);
        assert_eq!(
            FIELDS[segment(SegReg::Tr) + 3],
            Field::GUEST_TR_ACCESS_RIGHTS
        );
        assert_eq!(FIELDS[segment(SegReg::Cs) + 1], Field::GUEST_CS_BASE);
        assert_eq!(FIELDS[table(SegReg::Idtr) + 1], Field::GUEST_IDTR_LIMIT);
    }

    #[test]
    fn a_field_is_read_once_and_written_only_if_changed() {
        let mut hw = FakeHardware::default();
        hw.write(Field::GUEST_RIP, 5);
        let before = hw.accesses();
        let mut c = Cache::default();
        assert_eq!((c.get(&hw, RIP), c.get(&hw, RIP)), (5, 5));
        assert_eq!(hw.accesses().0, before.0 + 1);
        c.write_back(&mut hw);
        assert_eq!(hw.accesses().1, before.1);
        c.set(RIP, 7);
        assert_eq!(c.get(&hw, RIP), 7);
        c.write_back(&mut hw);
        c.write_back(&mut hw);
        assert_eq!(hw.accesses(), (before.0 + 1, before.1 + 1));
        assert_eq!(hw.read(Field::GUEST_RIP), 7);
        hw.write(Field::GUEST_RIP, 9);
        c.forget();
        assert_eq!(c.get(&hw, RIP), 9);
    }
}
