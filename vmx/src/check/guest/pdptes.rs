//! SDM vol 3C 27.3.1.6, "Checks on Guest Page-Directory-Pointer-Table Entries".
//!
//! Without EPT the entry loads them from memory: those are not checked.

use crate::check::{Checked, Vmcs, rules};
use crate::controls::Secondary;
use crate::vmcs::Field as F;
use hv_core::regs::{Cr0, Cr4};

rules! { "SDM vol 3C 27.3.1.6, \"Checks on Guest Page-Directory-Pointer-Table Entries\"":
    RESERVED = "Reserved bits of a present page-directory-pointer-table entry must be 0.";
}

pub(in crate::check) fn check(v: &Vmcs) -> Checked {
    const PRESENT: u64 = 1 << 0;
    // Bits 2:1 and 8:5 (SDM vol 3A 4.4.1, "PDPTE Registers").
    const RESERVED_BITS: u64 = 0b1_1110_0110;
    let paging = Cr0::from_bits_retain(v.get(F::GUEST_CR0)).contains(Cr0::PG);
    let pae = Cr4::from_bits_retain(v.get(F::GUEST_CR4)).contains(Cr4::PAE);
    if !paging || !pae || v.ia32e() || !v.secondary.contains(Secondary::ENABLE_EPT) {
        return Ok(());
    }
    for field in [
        F::GUEST_PDPTE0,
        F::GUEST_PDPTE1,
        F::GUEST_PDPTE2,
        F::GUEST_PDPTE3,
    ] {
        let entry = v.get(field);
        v.require(
            entry & PRESENT == 0 || entry & RESERVED_BITS == 0 && v.physical(entry),
            RESERVED,
            &[field],
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::testing::{Table, long_mode, pae};

    fn reserved_bits_of_present_entries_are_refused() -> Table {
        Table::default()
            .broken(RESERVED, pae, |c| c.raise(F::GUEST_PDPTE0, 1u64 << 1))
            .broken(RESERVED, pae, |c| c.raise(F::GUEST_PDPTE1, 1u64 << 8))
            .broken(RESERVED, pae, |c| c.raise(F::GUEST_PDPTE3, 1u64 << 39))
            .broken(RESERVED, pae, |c| c.raise(F::GUEST_PDPTE3, 1u64 << 63))
            .broken(RESERVED, pae, |c| c.set(F::GUEST_PDPTE2, 0x1021))
            // PWT, PCD and the bits for software.
            .kept(pae, |c| c.raise(F::GUEST_PDPTE0, 0xe18u64))
    }

    #[test]
    fn each_rule_is_found_broken() {
        Table::cover(&[reserved_bits_of_present_entries_are_refused], RULES);
    }

    #[test]
    fn without_pae_paging_or_ept_the_fields_are_not_looked_at() {
        Table::default()
            .kept(long_mode, |_| {})
            .kept(pae, |c| {
                c.clear(F::GUEST_CR0, Cr0::PG.bits());
                c.set(F::GUEST_PDPTE0, !0);
            })
            .kept(pae, |c| {
                c.clear_secondary(Secondary::ENABLE_EPT | Secondary::UNRESTRICTED_GUEST);
                c.set(F::GUEST_PDPTE0, !0);
            });
    }
}
