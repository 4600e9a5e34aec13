//! SDM vol 3C 27.3.1.1, "Checks on Guest Control Registers, Debug Registers, and MSRs".

use crate::check::{CR4_CET, Checked, Vmcs, keeps_fixed, rules, valid_pat, within};
use crate::controls::Entry;
use crate::vmcs::Field as F;
use hv_core::regs::{Cr0, Cr4, Efer};

rules! { "SDM vol 3C 27.3.1.1, \"Checks on Guest Control Registers, Debug Registers, and MSRs\"":
    CR0_FIXED = "The guest's CR0 must have the bits that IA32_VMX_CR0_FIXED0 and _FIXED1 fix.";
    PE_PG = "Without unrestricted guest, the guest's CR0 must have PE and PG.";
    PG_WITHOUT_PE = "The guest's CR0.PG needs CR0.PE.";
    CR4_FIXED = "The guest's CR4 must have the bits that IA32_VMX_CR4_FIXED0 and _FIXED1 fix.";
    CET_WP = "The guest's CR4.CET needs its CR0.WP.";
    DEBUGCTL = "Reserved bits of the guest's IA32_DEBUGCTL must be 0.";
    IA32E_PAGING = "An IA-32e mode guest must have CR0.PG and CR4.PAE.";
    PCIDE = "CR4.PCIDE is for IA-32e mode guests.";
    CR3 = "The guest's CR3 must be within the physical-address width.";
    DR7 = "Bits 63:32 of the guest's DR7 must be 0.";
    SYSENTER = "The guest's IA32_SYSENTER_ESP and IA32_SYSENTER_EIP must be canonical.";
    PAT = "The guest's IA32_PAT must hold memory types.";
    EFER_RESERVED = "Reserved bits of the guest's IA32_EFER must be 0.";
    EFER_LMA = "LMA of the guest's IA32_EFER must equal the VM-entry control for an IA-32e mode guest.";
    EFER_LME = "LME and LMA of the guest's IA32_EFER must be equal with CR0.PG.";
}

/// Bits of IA32_DEBUGCTL that are reserved on all CPUs without bus-lock detection (SDM vol 4 2.1, "Architectural MSRs").
const DEBUGCTL_RESERVED: u64 = !0xffff | 0b11_1100;

pub(in crate::check) fn check(v: &Vmcs) -> Checked {
    let cr0 = Cr0::from_bits_retain(v.get(F::GUEST_CR0));
    let cr4 = Cr4::from_bits_retain(v.get(F::GUEST_CR4));
    check_fixed(v, cr0, cr4)?;
    v.require(
        !cr4.contains(CR4_CET) || cr0.contains(Cr0::WP),
        CET_WP,
        &[F::GUEST_CR4, F::GUEST_CR0],
    )?;
    if v.ia32e() {
        v.require(
            cr0.contains(Cr0::PG) && cr4.contains(Cr4::PAE),
            IA32E_PAGING,
            &[F::ENTRY_CONTROLS, F::GUEST_CR0, F::GUEST_CR4],
        )?;
    } else {
        v.require(
            !cr4.contains(Cr4::PCIDE),
            PCIDE,
            &[F::GUEST_CR4, F::ENTRY_CONTROLS],
        )?;
    }
    v.require(v.physical(v.get(F::GUEST_CR3)), CR3, &[F::GUEST_CR3])?;
    if v.entry.contains(Entry::LOAD_DEBUG_CONTROLS) {
        v.require(
            v.get(F::GUEST_DEBUGCTL) & DEBUGCTL_RESERVED == 0,
            DEBUGCTL,
            &[F::GUEST_DEBUGCTL],
        )?;
        v.require(within(v.get(F::GUEST_DR7), 32), DR7, &[F::GUEST_DR7])?;
    }
    v.require_canonical(SYSENTER, &[F::GUEST_SYSENTER_ESP, F::GUEST_SYSENTER_EIP])?;
    if v.entry.contains(Entry::LOAD_PAT) {
        v.require(valid_pat(v.get(F::GUEST_PAT)), PAT, &[F::GUEST_PAT])?;
    }
    if v.entry.contains(Entry::LOAD_EFER) {
        efer(v, cr0)?;
    }
    Ok(())
}

/// CR0.PE and CR0.PG, which are fixed to 1 on every CPU but for unrestricted guests.
pub(super) fn check_protected_and_paged(v: &Vmcs) -> Checked {
    let cr0 = Cr0::from_bits_retain(v.get(F::GUEST_CR0));
    v.require(
        v.unrestricted() || cr0.contains(Cr0::PE | Cr0::PG),
        PE_PG,
        &[F::GUEST_CR0],
    )
}

fn check_fixed(v: &Vmcs, cr0: Cr0, cr4: Cr4) -> Checked {
    check_protected_and_paged(v)?;
    // The entry leaves NW and CD as they are.
    let mut unchecked = Cr0::NW | Cr0::CD;
    if v.unrestricted() {
        unchecked |= Cr0::PE | Cr0::PG;
    }
    v.require(
        keeps_fixed(cr0.bits(), v.capabilities.cr0_fixed, unchecked.bits()),
        CR0_FIXED,
        &[F::GUEST_CR0],
    )?;
    v.require(
        !cr0.contains(Cr0::PG) || cr0.contains(Cr0::PE),
        PG_WITHOUT_PE,
        &[F::GUEST_CR0],
    )?;
    v.require(
        keeps_fixed(cr4.bits(), v.capabilities.cr4_fixed, 0),
        CR4_FIXED,
        &[F::GUEST_CR4],
    )
}

fn efer(v: &Vmcs, cr0: Cr0) -> Checked {
    let efer = Efer::from_bits_retain(v.get(F::GUEST_EFER));
    let known = Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE;
    v.require(
        efer.difference(known).is_empty(),
        EFER_RESERVED,
        &[F::GUEST_EFER],
    )?;
    v.require(
        efer.contains(Efer::LMA) == v.ia32e(),
        EFER_LMA,
        &[F::GUEST_EFER, F::ENTRY_CONTROLS],
    )?;
    v.require(
        !cr0.contains(Cr0::PG) || efer.contains(Efer::LMA) == efer.contains(Efer::LME),
        EFER_LME,
        &[F::GUEST_EFER, F::GUEST_CR0],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::testing::{Case, Table, long_mode, pae, real_mode, restricted, unpaged};
    use crate::controls::Secondary;

    fn control_registers() -> Table {
        let cet = |c: &mut Case| {
            c.capabilities.cr4_fixed.1 |= CR4_CET.bits();
            c.raise(F::GUEST_CR4, CR4_CET.bits());
        };
        let restrict = |c: &mut Case| c.clear_secondary(Secondary::UNRESTRICTED_GUEST);
        Table::default()
            // Bochs 2.7 runs these.
            .broken(PE_PG, real_mode, restrict)
            .broken(PE_PG, unpaged, restrict)
            .broken(PE_PG, restricted, |c| {
                c.clear(F::GUEST_CR0, Cr0::PE.bits());
            })
            .broken(CR0_FIXED, real_mode, |c| {
                c.clear(F::GUEST_CR0, Cr0::NE.bits());
            })
            .broken(CR0_FIXED, restricted, |c| {
                c.clear(F::GUEST_CR0, Cr0::NE.bits());
            })
            .broken(CR0_FIXED, pae, |c| c.raise(F::GUEST_CR0, 1u64 << 32))
            .kept(pae, |c| {
                c.capabilities.cr0_fixed.1 &= !(Cr0::CD | Cr0::NW).bits();
                c.raise(F::GUEST_CR0, Cr0::CD.bits());
            })
            .broken(PG_WITHOUT_PE, real_mode, |c| {
                c.raise(F::GUEST_CR0, Cr0::PG.bits());
            })
            .broken(CR4_FIXED, pae, |c| {
                c.clear(F::GUEST_CR4, Cr4::VMXE.bits());
            })
            .broken(CR4_FIXED, pae, |c| c.raise(F::GUEST_CR4, Cr4::LA57.bits()))
            .kept(pae, cet)
            .broken(CET_WP, pae, |c| {
                cet(c);
                c.clear(F::GUEST_CR0, Cr0::WP.bits());
            })
            .broken(IA32E_PAGING, long_mode, |c| {
                c.clear(F::GUEST_CR0, Cr0::PG.bits());
            })
            .broken(IA32E_PAGING, long_mode, |c| {
                c.clear(F::GUEST_CR4, Cr4::PAE.bits());
            })
            .broken(PCIDE, pae, |c| c.raise(F::GUEST_CR4, Cr4::PCIDE.bits()))
            .broken(CR3, long_mode, |c| c.raise(F::GUEST_CR3, 1u64 << 39))
            .broken(CR3, real_mode, |c| c.raise(F::GUEST_CR3, 1u64 << 52))
            .kept(long_mode, |c| c.raise(F::GUEST_CR3, 0xfffu64))
    }

    fn debug_registers_and_msrs() -> Table {
        let mut table = Table::default()
            .broken(DR7, pae, |c| c.raise(F::GUEST_DR7, 1u64 << 32))
            .kept(pae, |c| c.set(F::GUEST_DR7, 0xffff_ffff))
            .kept(pae, |c| c.set(F::GUEST_DEBUGCTL, 0xffc3))
            .kept(pae, |c| {
                c.capabilities.entry.must &= !Entry::LOAD_DEBUG_CONTROLS.bits();
                c.clear(F::ENTRY_CONTROLS, Entry::LOAD_DEBUG_CONTROLS.bits());
                c.set(F::GUEST_DR7, !0);
                c.set(F::GUEST_DEBUGCTL, !0);
            })
            .broken(SYSENTER, pae, |c| c.set(F::GUEST_SYSENTER_ESP, 1 << 47))
            .broken(SYSENTER, pae, |c| c.set(F::GUEST_SYSENTER_EIP, 1 << 62))
            .broken(EFER_RESERVED, pae, |c| c.raise(F::GUEST_EFER, 1u64 << 1))
            .broken(EFER_RESERVED, pae, |c| {
                c.raise(F::GUEST_EFER, Efer::SVME.bits());
            })
            .broken(EFER_LMA, long_mode, |c| {
                c.clear(F::GUEST_EFER, (Efer::LMA | Efer::LME).bits());
            })
            .broken(EFER_LMA, real_mode, |c| {
                c.raise(F::GUEST_EFER, Efer::LMA.bits());
            })
            .broken(EFER_LME, long_mode, |c| {
                c.clear(F::GUEST_EFER, Efer::LME.bits());
            })
            .broken(EFER_LME, pae, |c| c.raise(F::GUEST_EFER, Efer::LME.bits()))
            // A boot loader on its way to long mode.
            .kept(unpaged, |c| c.raise(F::GUEST_EFER, Efer::LME.bits()))
            .kept(pae, |c| {
                c.clear(F::ENTRY_CONTROLS, Entry::LOAD_EFER.bits());
                c.set(F::GUEST_EFER, !0);
            });
        for bit in [2, 3, 4, 5, 16, 63] {
            table = table.broken(DEBUGCTL, pae, |c| c.raise(F::GUEST_DEBUGCTL, 1u64 << bit));
        }
        for memory_type in 0..=255 {
            let set = |c: &mut Case| c.set(F::GUEST_PAT, memory_type << 24);
            table = if matches!(memory_type, 0 | 1 | 4..=7) {
                table.kept(pae, set)
            } else {
                table.broken(PAT, pae, set)
            };
        }
        table.kept(pae, |c| {
            c.clear(F::ENTRY_CONTROLS, Entry::LOAD_PAT.bits());
            c.set(F::GUEST_PAT, 2);
        })
    }

    #[test]
    fn each_rule_is_found_broken() {
        Table::cover(&[control_registers, debug_registers_and_msrs], RULES);
    }
}
