//! The host state.
//!
//! As the entry comes from IA-32e mode, the host must be 64-bit: the rules for a 32-bit host are not here.

use super::{CR4_CET, Checked, Vmcs, keeps_fixed, rules, valid_pat};
use crate::controls::Exit;
use crate::vmcs::Field as F;
use hv_core::regs::{Cr0, Cr4, Efer};

rules! {
    "SDM vol 3C 27.2.2, \"Checks on Host Control Registers, MSRs, and SSP\"":
    CR0_FIXED = "The host's CR0 must have the bits that IA32_VMX_CR0_FIXED0 and _FIXED1 fix.";
    CR4_FIXED = "The host's CR4 must have the bits that IA32_VMX_CR4_FIXED0 and _FIXED1 fix.";
    CET_WP = "The host's CR4.CET needs its CR0.WP.";
    CR3 = "The host's CR3 must be within the physical-address width.";
    SYSENTER = "The host's IA32_SYSENTER_ESP and IA32_SYSENTER_EIP must be canonical.";
    PAT = "The host's IA32_PAT must hold memory types.";
    EFER_RESERVED = "Reserved bits of the host's IA32_EFER must be 0.";
    EFER_LMA = "LMA and LME of the host's IA32_EFER must equal the VM-exit control for the host's address-space size.";

    "SDM vol 3C 27.2.3, \"Checks on Host Segment and Descriptor-Table Registers\"":
    SELECTORS = "The host's selectors must have an RPL of 0 and refer to the GDT.";
    NULL = "The host's CS and TR must not be null.";
    BASES = "The host's bases of FS, GS, TR, GDTR and IDTR must be canonical.";

    "SDM vol 3C 27.2.4, \"Checks Related to Address-Space Size\"":
    SIZE = "A VM entry from IA-32e mode needs a 64-bit host.";
    PAE = "A 64-bit host must have CR4.PAE.";
    RIP = "A 64-bit host's RIP must be canonical.";
}

pub(super) fn check(v: &Vmcs) -> Checked {
    registers(v)?;
    segments(v)?;
    address_space(v)
}

fn registers(v: &Vmcs) -> Checked {
    // The exit leaves them as they are.
    let unchanged = Cr0::NW | Cr0::CD;
    let (cr0, cr4) = (v.get(F::HOST_CR0), v.get(F::HOST_CR4));
    v.require(
        keeps_fixed(cr0, v.capabilities.cr0_fixed, unchanged.bits()),
        CR0_FIXED,
        &[F::HOST_CR0],
    )?;
    v.require(
        keeps_fixed(cr4, v.capabilities.cr4_fixed, 0),
        CR4_FIXED,
        &[F::HOST_CR4],
    )?;
    v.require(
        !Cr4::from_bits_retain(cr4).contains(CR4_CET)
            || Cr0::from_bits_retain(cr0).contains(Cr0::WP),
        CET_WP,
        &[F::HOST_CR4, F::HOST_CR0],
    )?;
    v.require(v.physical(v.get(F::HOST_CR3)), CR3, &[F::HOST_CR3])?;
    v.require_canonical(SYSENTER, &[F::HOST_SYSENTER_ESP, F::HOST_SYSENTER_EIP])?;
    if v.exit.contains(Exit::LOAD_PAT) {
        v.require(valid_pat(v.get(F::HOST_PAT)), PAT, &[F::HOST_PAT])?;
    }
    if v.exit.contains(Exit::LOAD_EFER) {
        efer(v)?;
    }
    Ok(())
}

fn efer(v: &Vmcs) -> Checked {
    let efer = Efer::from_bits_retain(v.get(F::HOST_EFER));
    let long = Efer::LME | Efer::LMA;
    v.require(
        efer.difference(long | Efer::SCE | Efer::NXE).is_empty(),
        EFER_RESERVED,
        &[F::HOST_EFER],
    )?;
    let expected = if v.exit.contains(Exit::HOST_ADDRESS_SPACE_SIZE) {
        long
    } else {
        Efer::empty()
    };
    v.require(
        efer & long == expected,
        EFER_LMA,
        &[F::HOST_EFER, F::EXIT_CONTROLS],
    )
}

fn segments(v: &Vmcs) -> Checked {
    const RPL_AND_TI: u64 = 7;
    for field in [
        F::HOST_ES_SELECTOR,
        F::HOST_CS_SELECTOR,
        F::HOST_SS_SELECTOR,
        F::HOST_DS_SELECTOR,
        F::HOST_FS_SELECTOR,
        F::HOST_GS_SELECTOR,
        F::HOST_TR_SELECTOR,
    ] {
        v.require(v.get(field) & RPL_AND_TI == 0, SELECTORS, &[field])?;
    }
    for field in [F::HOST_CS_SELECTOR, F::HOST_TR_SELECTOR] {
        v.require(v.get(field) != 0, NULL, &[field])?;
    }
    v.require_canonical(
        BASES,
        &[
            F::HOST_FS_BASE,
            F::HOST_GS_BASE,
            F::HOST_TR_BASE,
            F::HOST_GDTR_BASE,
            F::HOST_IDTR_BASE,
        ],
    )
}

fn address_space(v: &Vmcs) -> Checked {
    v.require(
        v.exit.contains(Exit::HOST_ADDRESS_SPACE_SIZE),
        SIZE,
        &[F::EXIT_CONTROLS],
    )?;
    v.require(
        Cr4::from_bits_retain(v.get(F::HOST_CR4)).contains(Cr4::PAE),
        PAE,
        &[F::HOST_CR4],
    )?;
    v.require_canonical(RIP, &[F::HOST_RIP])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::testing::{Case, Table, long_mode, pae};

    fn control_registers_and_msrs() -> Table {
        let cet = |c: &mut Case| {
            c.capabilities.cr4_fixed.1 |= CR4_CET.bits();
            c.raise(F::HOST_CR4, CR4_CET.bits());
        };
        Table::default()
            .broken(CR0_FIXED, pae, |c| c.clear(F::HOST_CR0, Cr0::NE.bits()))
            .broken(CR0_FIXED, pae, |c| c.clear(F::HOST_CR0, Cr0::PG.bits()))
            .broken(CR0_FIXED, pae, |c| c.raise(F::HOST_CR0, 1u64 << 32))
            .kept(pae, |c| {
                c.capabilities.cr0_fixed.1 &= !(Cr0::CD | Cr0::NW).bits();
                c.raise(F::HOST_CR0, (Cr0::CD | Cr0::NW).bits());
            })
            .broken(CR4_FIXED, pae, |c| c.clear(F::HOST_CR4, Cr4::VMXE.bits()))
            .broken(CR4_FIXED, pae, |c| c.raise(F::HOST_CR4, 1u64 << 31))
            .kept(pae, cet)
            .broken(CET_WP, pae, |c| {
                cet(c);
                c.clear(F::HOST_CR0, Cr0::WP.bits());
            })
            .broken(CR3, pae, |c| c.raise(F::HOST_CR3, 1u64 << 39))
            .broken(CR3, pae, |c| c.raise(F::HOST_CR3, 1u64 << 63))
            .broken(SYSENTER, pae, |c| c.set(F::HOST_SYSENTER_ESP, 1 << 47))
            .broken(SYSENTER, pae, |c| c.set(F::HOST_SYSENTER_EIP, 1 << 63))
            .broken(PAT, pae, |c| c.set(F::HOST_PAT, 2))
            .broken(PAT, pae, |c| c.set(F::HOST_PAT, 8 << 56))
            .kept(pae, |c| {
                c.clear(F::EXIT_CONTROLS, Exit::LOAD_PAT.bits());
                c.set(F::HOST_PAT, 2);
            })
            .broken(EFER_RESERVED, pae, |c| c.raise(F::HOST_EFER, 1u64 << 12))
            .broken(EFER_LMA, pae, |c| {
                c.clear(F::HOST_EFER, Efer::LMA.bits());
            })
            .broken(EFER_LMA, pae, |c| {
                c.clear(F::HOST_EFER, Efer::LME.bits());
            })
            .broken(EFER_LMA, pae, |c| {
                c.clear(F::EXIT_CONTROLS, Exit::HOST_ADDRESS_SPACE_SIZE.bits());
            })
            .kept(pae, |c| {
                c.clear(F::EXIT_CONTROLS, Exit::LOAD_EFER.bits());
                c.set(F::HOST_EFER, 0);
            })
    }

    fn segment_and_descriptor_table_registers() -> Table {
        let mut table = Table::default();
        for (field, may_be_null) in [
            (F::HOST_ES_SELECTOR, true),
            (F::HOST_CS_SELECTOR, false),
            (F::HOST_SS_SELECTOR, true),
            (F::HOST_DS_SELECTOR, true),
            (F::HOST_FS_SELECTOR, true),
            (F::HOST_GS_SELECTOR, true),
            (F::HOST_TR_SELECTOR, false),
        ] {
            for bits in [1u64, 2, 4] {
                table = table.broken(SELECTORS, long_mode, |c| c.raise(field, bits));
            }
            table = if may_be_null {
                table.kept(long_mode, |c| c.set(field, 0))
            } else {
                table.broken(NULL, long_mode, |c| c.set(field, 0))
            };
        }
        for field in [
            F::HOST_FS_BASE,
            F::HOST_GS_BASE,
            F::HOST_TR_BASE,
            F::HOST_GDTR_BASE,
            F::HOST_IDTR_BASE,
        ] {
            table = table
                .broken(BASES, long_mode, |c| c.set(field, 0x8000_0000_0000))
                .kept(long_mode, |c| c.set(field, 0x7fff_ffff_ffff));
        }
        table
    }

    fn address_space_size() -> Table {
        Table::default()
            .broken(SIZE, pae, |c| {
                c.clear(F::EXIT_CONTROLS, Exit::HOST_ADDRESS_SPACE_SIZE.bits());
                c.set(F::HOST_EFER, 0);
            })
            .broken(PAE, pae, |c| c.clear(F::HOST_CR4, Cr4::PAE.bits()))
            .broken(RIP, pae, |c| c.set(F::HOST_RIP, 1 << 47))
            .kept(pae, |c| c.set(F::HOST_RIP, 0xffff_8000_0000_0000))
    }

    #[test]
    fn each_rule_is_found_broken() {
        Table::cover(
            &[
                control_registers_and_msrs,
                segment_and_descriptor_table_registers,
                address_space_size,
            ],
            RULES,
        );
    }
}
