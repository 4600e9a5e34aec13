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
