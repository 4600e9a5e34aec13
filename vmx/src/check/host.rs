//! The host state.

use super::{Checked, Checker, canonical, is_pat};
use crate::controls::{Entry, Exit};
use crate::vmcs::Field;

const REGISTERS: &str = "SDM vol 3C 27.2.2, \"Checks on Host Control Registers, MSRs, and SSP\"";
const SEGMENTS: &str =
    "SDM vol 3C 27.2.3, \"Checks on Host Segment and Descriptor-Table Registers\"";
const ADDRESS_SPACE: &str = "SDM vol 3C 27.2.4, \"Checks Related to Address-Space Size\"";

const CR4_PAE: u64 = 1 << 5;
/// EFER bits that exist: SCE, LME, LMA, NXE.
pub const EFER_BITS: u64 = 1 << 0 | EFER_LME | EFER_LMA | 1 << 11;
pub const EFER_LME: u64 = 1 << 8;
pub const EFER_LMA: u64 = 1 << 10;

pub fn check(c: &Checker<'_>) -> Checked {
    registers(c)?;
    segments(c)?;
    address_space(c)
}

fn registers(c: &Checker<'_>) -> Checked {
    use Field as F;
    let must = |holds, rule, fields: &[Field]| c.must(REGISTERS, holds, rule, fields);
    let fixed = |field, (zero, one): (u64, u64)| {
        let value = c.get(field);
        value & zero == zero && value & !one == 0
    };
    must(
        fixed(F::HOST_CR0, c.capabilities.cr0_fixed),
        "The host's CR0 must have the bits that VMX operation fixes",
        &[F::HOST_CR0],
    )?;
    must(
        fixed(F::HOST_CR4, c.capabilities.cr4_fixed),
        "The host's CR4 must have the bits that VMX operation fixes",
        &[F::HOST_CR4],
    )?;
    must(
        c.is_address(c.get(F::HOST_CR3), 1),
        "The host's CR3 must be a physical address",
        &[F::HOST_CR3],
    )?;
    must(
        canonical(c.get(F::HOST_SYSENTER_ESP)) && canonical(c.get(F::HOST_SYSENTER_EIP)),
        "The host's SYSENTER addresses must be canonical",
        &[F::HOST_SYSENTER_ESP, F::HOST_SYSENTER_EIP],
    )?;
    must(
        !c.exit.contains(Exit::LOAD_PAT) || is_pat(c.get(F::HOST_PAT)),
        "The host's PAT must hold memory types",
        &[F::HOST_PAT],
    )?;
    let efer = c.get(F::HOST_EFER);
    let long = if c.exit.contains(Exit::HOST_ADDRESS_SPACE_SIZE) {
        EFER_LMA | EFER_LME
    } else {
        0
    };
    must(
        !c.exit.contains(Exit::LOAD_EFER)
            || efer & !EFER_BITS == 0 && efer & (EFER_LMA | EFER_LME) == long,
        "The host's EFER must have no reserved bits, and LMA and LME as the address-space size says",
        &[F::HOST_EFER, F::EXIT_CONTROLS],
    )
}

fn segments(c: &Checker<'_>) -> Checked {
    use Field as F;
    const SELECTORS: [Field; 7] = [
        F::HOST_ES_SELECTOR,
        F::HOST_CS_SELECTOR,
        F::HOST_SS_SELECTOR,
        F::HOST_DS_SELECTOR,
        F::HOST_FS_SELECTOR,
        F::HOST_GS_SELECTOR,
        F::HOST_TR_SELECTOR,
    ];
    const BASES: [Field; 5] = [
        F::HOST_FS_BASE,
        F::HOST_GS_BASE,
        F::HOST_GDTR_BASE,
        F::HOST_IDTR_BASE,
        F::HOST_TR_BASE,
    ];
    let must = |holds, rule, fields: &[Field]| c.must(SEGMENTS, holds, rule, fields);
    for selector in SELECTORS {
        must(
            c.get(selector) & 7 == 0,
            "The host's selectors have RPL 0 and name the GDT",
            &[selector],
        )?;
    }
    must(
        c.get(F::HOST_CS_SELECTOR) != 0 && c.get(F::HOST_TR_SELECTOR) != 0,
        "The host's CS and TR must not be null",
        &[F::HOST_CS_SELECTOR, F::HOST_TR_SELECTOR],
    )?;
    for base in BASES {
        must(
            canonical(c.get(base)),
            "The host's segment and table bases must be canonical",
            &[base],
        )?;
    }
    Ok(())
}

fn address_space(c: &Checker<'_>) -> Checked {
    use Field as F;
    let must = |holds, rule, fields: &[Field]| c.must(ADDRESS_SPACE, holds, rule, fields);
    let host64 = c.exit.contains(Exit::HOST_ADDRESS_SPACE_SIZE);
    must(
        host64 || !c.entry.contains(Entry::IA32E_MODE_GUEST),
        "A 64-bit guest needs a 64-bit host",
        &[F::EXIT_CONTROLS, F::ENTRY_CONTROLS],
    )?;
    must(
        host64,
        "From 64-bit mode an exit goes to 64-bit mode",
        &[F::EXIT_CONTROLS],
    )?;
    must(
        c.get(F::HOST_CR4) & CR4_PAE != 0,
        "A 64-bit host has CR4.PAE set",
        &[F::HOST_CR4],
    )?;
    must(
        canonical(c.get(F::HOST_RIP)),
        "The host's RIP must be canonical",
        &[F::HOST_RIP],
    )
}
