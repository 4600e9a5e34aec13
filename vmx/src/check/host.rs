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
