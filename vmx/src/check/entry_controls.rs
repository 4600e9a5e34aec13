//! SDM vol 3C 27.2.1.3, "VM-Entry Control Fields".

use super::{Checked, Vmcs, rules, within};
use crate::controls::{Entry, Primary};
use crate::formats::{Interruption, event_type};
use crate::vmcs::Field as F;
use hv_core::event::vector;
use hv_core::regs::Cr0;

rules! { "SDM vol 3C 27.2.1.3, \"VM-Entry Control Fields\"":
    ENTRY_ALLOWED = "VM-entry controls must have settings that IA32_VMX_(TRUE_)ENTRY_CTLS allows.";
    TYPE = "The injected event's type must not be reserved: 1, and 7 on a CPU without the monitor trap flag.";
    NMI_VECTOR = "An injected NMI must have vector 2.";
    EXCEPTION_VECTOR = "An injected hardware exception must have a vector up to 31.";
    OTHER_VECTOR = "An injected event of type 7 must have vector 0: a pending MTF exit.";
    ERROR_CODE_MISSING = "An exception that has an error code must be injected with one in protected mode.";
    ERROR_CODE_SUPERFLUOUS = "Only exceptions that have an error code may be injected with one, and only in protected mode.";
    INFORMATION_RESERVED = "Reserved bits of the interruption information must be 0.";
    ERROR_CODE_RESERVED = "An injected error code must have 16 bits.";
    INSTRUCTION_LENGTH = "A software event must be injected with an instruction length of 1 to 15, or 0 where the CPU takes that.";
    MSR_LOAD = "The VM-entry MSR-load area must be 16-byte aligned within the physical-address width.";
    OUTSIDE_SMM = "Entry to SMM and deactivation of the dual-monitor treatment are for VM entries in SMM.";
}

pub(super) fn check(v: &Vmcs) -> Checked {
    v.require(
        v.capabilities.entry.takes(v.entry.bits()),
        ENTRY_ALLOWED,
        &[F::ENTRY_CONTROLS],
    )?;
    if let Some(event) = v.injected() {
        injection(v, event)?;
    }
    v.require_msr_area(MSR_LOAD, F::VM_ENTRY_MSR_LOAD, F::VM_ENTRY_MSR_LOAD_COUNT)?;
    v.require(
        !v.entry
            .intersects(Entry::ENTRY_TO_SMM | Entry::DEACTIVATE_DUAL_MONITOR),
        OUTSIDE_SMM,
        &[F::ENTRY_CONTROLS],
    )
}

fn injection(v: &Vmcs, event: Interruption) -> Checked {
    let info = [F::ENTRY_INTERRUPTION_INFO];
    let (kind, n) = (event.kind(), event.vector());
    let has_mtf = v.capabilities.primary.may & Primary::MONITOR_TRAP_FLAG.bits() != 0;
    v.require(
        kind != 1 && (kind != event_type::OTHER || has_mtf),
        TYPE,
        &info,
    )?;
    match kind {
        event_type::NMI => v.require(n == vector::NMI, NMI_VECTOR, &info)?,
        event_type::HARDWARE_EXCEPTION => v.require(n < 32, EXCEPTION_VECTOR, &info)?,
        event_type::OTHER => v.require(n == 0, OTHER_VECTOR, &info)?,
        _ => {}
    }
    error_code(v, event)?;
    let known =
        Interruption::VECTOR | Interruption::TYPE | Interruption::ERROR_CODE | Interruption::VALID;
    v.require(
        event.difference(known).is_empty(),
        INFORMATION_RESERVED,
        &info,
    )?;
    if matches!(
        kind,
        event_type::SOFTWARE_INTERRUPT
            | event_type::PRIVILEGED_SOFTWARE_EXCEPTION
            | event_type::SOFTWARE_EXCEPTION
    ) {
        let shortest = u64::from(!v.capabilities.injects_length_zero());
        v.require(
            (shortest..=15).contains(&v.get(F::ENTRY_INSTRUCTION_LENGTH)),
            INSTRUCTION_LENGTH,
            &[F::ENTRY_INSTRUCTION_LENGTH, F::ENTRY_INTERRUPTION_INFO],
        )?;
    }
    Ok(())
}

fn error_code(v: &Vmcs, event: Interruption) -> Checked {
    let fields = [F::ENTRY_INTERRUPTION_INFO, F::GUEST_CR0];
    let given = event.contains(Interruption::ERROR_CODE);
    let protected = Cr0::from_bits_retain(v.get(F::GUEST_CR0)).contains(Cr0::PE);
    let possible = event.kind() == event_type::HARDWARE_EXCEPTION && protected;
    let any = v.capabilities.injects_any_error_code();
    // Not #CP: CPUs that have it take any.
    let usual = matches!(
        event.vector(),
        vector::DF | vector::TS | vector::NP | vector::SS | vector::GP | vector::PF | vector::AC
    );
    v.require(
        given || any || !(possible && usual),
        ERROR_CODE_MISSING,
        &fields,
    )?;
    v.require(
        !given || possible && (any || usual),
        ERROR_CODE_SUPERFLUOUS,
        &fields,
    )?;
    v.require(
        !given || within(v.get(F::ENTRY_EXCEPTION_ERROR), 16),
        ERROR_CODE_RESERVED,
        &[F::ENTRY_EXCEPTION_ERROR, F::ENTRY_INTERRUPTION_INFO],
    )
}
