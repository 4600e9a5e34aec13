//! SDM vol 3C 27.3.1.4, "Checks on Guest RIP, RFLAGS, and SSP".

use crate::check::{Checked, Vmcs, rules, within};
use crate::formats::{AccessRights, event_type};
use crate::vmcs::Field as F;
use hv_core::regs::{Cr0, Rflags};

rules! { "SDM vol 3C 27.3.1.4, \"Checks on Guest RIP, RFLAGS, and SSP\"":
    RIP_32 = "Outside 64-bit mode, RIP must have 32 bits.";
    RIP_64 = "In 64-bit mode, the bits of RIP beyond the linear-address width must be equal.";
    RFLAGS_RESERVED = "Reserved bits of RFLAGS must be 0, and bit 1 must be 1.";
    VM = "RFLAGS.VM must be 0 in IA-32e mode and in real mode.";
    INTERRUPT_IF = "An external interrupt can only be injected with RFLAGS.IF.";
}

const RFLAGS_RESERVED_BITS: u64 = !0x3f_ffff | 1 << 15 | 1 << 5 | 1 << 3;

pub(in crate::check) fn check(v: &Vmcs) -> Checked {
    check_state(v)?;
    let injects = v.injected().map(|event| event.kind());
    v.require(
        injects != Some(event_type::EXTERNAL_INTERRUPT)
            || Rflags::from_bits_retain(v.get(F::GUEST_RFLAGS)).contains(Rflags::IF),
        INTERRUPT_IF,
        &[F::GUEST_RFLAGS, F::ENTRY_INTERRUPTION_INFO],
    )
}

/// The rules that depend on the guest's registers alone.
pub(super) fn check_state(v: &Vmcs) -> Checked {
    let rip = v.get(F::GUEST_RIP);
    let rflags = Rflags::from_bits_retain(v.get(F::GUEST_RFLAGS));
    let cs = AccessRights::from_bits_retain(v.get(F::GUEST_CS_ACCESS_RIGHTS) as u32);
    let fields = [F::GUEST_RIP, F::GUEST_CS_ACCESS_RIGHTS, F::ENTRY_CONTROLS];
    if v.ia32e() && cs.contains(AccessRights::L) {
        // A guest can run up to the end of the canonical addresses: not "canonical", as bit N - 1 is not looked at.
        let high = rip as i64 >> v.capabilities.linear_bits();
        v.require(high == 0 || high == -1, RIP_64, &fields)?;
    } else {
        v.require(within(rip, 32), RIP_32, &fields)?;
    }
    v.require(
        rflags.bits() & RFLAGS_RESERVED_BITS == 0 && rflags.contains(Rflags::ONE),
        RFLAGS_RESERVED,
        &[F::GUEST_RFLAGS],
    )?;
    let protected = Cr0::from_bits_retain(v.get(F::GUEST_CR0)).contains(Cr0::PE);
    v.require(
        !rflags.contains(Rflags::VM) || protected && !v.ia32e(),
        VM,
        &[F::GUEST_RFLAGS, F::GUEST_CR0, F::ENTRY_CONTROLS],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::testing::{
        CODE_32, Case, Table, long_mode, pae, real_mode, unpaged, virtual_8086,
    };

    fn rip() -> Table {
        let compatibility = |c: &mut Case| {
            c.set(F::GUEST_CS_ACCESS_RIGHTS, CODE_32 | 3 << 5);
        };
        Table::default()
            .broken(RIP_32, pae, |c| c.set(F::GUEST_RIP, 1 << 32))
            .broken(RIP_32, real_mode, |c| c.set(F::GUEST_RIP, !0))
            .broken(RIP_32, long_mode, compatibility)
            .kept(long_mode, |c| {
                compatibility(c);
                c.set(F::GUEST_RIP, 0xffff_ffff);
            })
            // L means nothing outside IA-32e mode.
            .broken(RIP_32, pae, |c| {
                c.raise(F::GUEST_CS_ACCESS_RIGHTS, AccessRights::L.bits());
                c.set(F::GUEST_RIP, 1 << 32);
            })
            .broken(RIP_64, long_mode, |c| c.set(F::GUEST_RIP, 1 << 48))
            .broken(RIP_64, long_mode, |c| c.set(F::GUEST_RIP, !(1 << 63)))
            .kept(long_mode, |c| c.set(F::GUEST_RIP, !0))
            .kept(long_mode, |c| c.set(F::GUEST_RIP, 1 << 47))
    }

    fn rflags() -> Table {
        let mut table = Table::default()
            .broken(RFLAGS_RESERVED, pae, |c| {
                c.clear(F::GUEST_RFLAGS, Rflags::ONE.bits());
            })
            .kept(pae, |c| {
                c.set(F::GUEST_RFLAGS, 0x3f_7fd7 & !Rflags::VM.bits());
            })
            .broken(VM, long_mode, |c| {
                // The segments are right for it.
                let v86 = virtual_8086();
                for (&field, &value) in &v86.fields {
                    if (F::GUEST_ES_LIMIT..=F::GUEST_GS_ACCESS_RIGHTS).contains(&field)
                        || (F::GUEST_ES_BASE..=F::GUEST_GS_BASE).contains(&field)
                        || (F::GUEST_ES_SELECTOR..=F::GUEST_GS_SELECTOR).contains(&field)
                        || field == F::GUEST_RIP
                    {
                        c.set(field, value);
                    }
                }
                c.raise(F::GUEST_RFLAGS, Rflags::VM.bits());
            })
            .broken(VM, virtual_8086, |c| {
                c.clear(F::GUEST_CR0, (Cr0::PE | Cr0::PG).bits());
            })
            .kept(virtual_8086, |c| {
                c.clear(F::GUEST_CR0, Cr0::PG.bits());
            });
        for bit in [3, 5, 15, 22, 31, 32, 63] {
            table = table.broken(RFLAGS_RESERVED, unpaged, |c| {
                c.raise(F::GUEST_RFLAGS, 1u64 << bit);
            });
        }
        table
    }

    fn injection() -> Table {
        let inject = |kind: u8, vector: u64| {
            move |c: &mut Case| {
                c.clear(F::GUEST_RFLAGS, Rflags::IF.bits());
                c.set(
                    F::ENTRY_INTERRUPTION_INFO,
                    1 << 31 | u64::from(kind) << 8 | vector,
                );
            }
        };
        Table::default()
            .broken(
                INTERRUPT_IF,
                pae,
                inject(event_type::EXTERNAL_INTERRUPT, 0x30),
            )
            .kept(pae, inject(event_type::NMI, 2))
            .kept(pae, inject(event_type::HARDWARE_EXCEPTION, 6))
    }

    #[test]
    fn each_rule_is_found_broken() {
        Table::cover(&[rip, rflags, injection], RULES);
    }
}
