//! SDM vol 3C 27.3.1.3, "Checks on Guest Descriptor-Table Registers".

use crate::check::{Checked, Vmcs, rules, within};
use crate::vmcs::Field as F;

rules! { "SDM vol 3C 27.3.1.3, \"Checks on Guest Descriptor-Table Registers\"":
    BASES = "The bases of GDTR and IDTR must be canonical.";
    LIMITS = "The limits of GDTR and IDTR must have 16 bits.";
}

pub(in crate::check) fn check(v: &Vmcs) -> Checked {
    v.require_canonical(BASES, &[F::GUEST_GDTR_BASE, F::GUEST_IDTR_BASE])?;
    for field in [F::GUEST_GDTR_LIMIT, F::GUEST_IDTR_LIMIT] {
        v.require(within(v.get(field), 16), LIMITS, &[field])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::testing::{Table, long_mode, real_mode};

    fn cases() -> Table {
        Table::default()
            .broken(BASES, long_mode, |c| c.set(F::GUEST_GDTR_BASE, 1 << 47))
            .broken(BASES, real_mode, |c| c.set(F::GUEST_IDTR_BASE, 1 << 63))
            .broken(LIMITS, long_mode, |c| c.set(F::GUEST_GDTR_LIMIT, 0x1_0000))
            .broken(LIMITS, real_mode, |c| {
                c.set(F::GUEST_IDTR_LIMIT, 0xffff_ffff)
            })
            .kept(long_mode, |c| {
                c.set(F::GUEST_GDTR_BASE, 0xffff_8000_0000_0000);
                c.set(F::GUEST_IDTR_LIMIT, 0xffff);
            })
    }

    #[test]
    fn each_rule_is_found_broken() {
        Table::cover(&[cases], RULES);
    }
}
