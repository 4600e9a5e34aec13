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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::testing::{Case, Table, long_mode, pae, real_mode};

    const HARDWARE: u8 = event_type::HARDWARE_EXCEPTION;

    fn info(kind: u8, vector: u8) -> u64 {
        1 << 31 | u64::from(kind) << 8 | u64::from(vector)
    }

    fn inject(kind: u8, vector: u8) -> impl Fn(&mut Case) {
        move |c| {
            c.set(F::ENTRY_INTERRUPTION_INFO, info(kind, vector));
            c.set(F::ENTRY_INSTRUCTION_LENGTH, 2);
        }
    }

    fn inject_with_code(kind: u8, vector: u8, code: u64) -> impl Fn(&mut Case) {
        move |c| {
            c.set(F::ENTRY_INTERRUPTION_INFO, info(kind, vector) | 1 << 11);
            c.set(F::ENTRY_EXCEPTION_ERROR, code);
            c.set(F::ENTRY_INSTRUCTION_LENGTH, 2);
        }
    }

    fn types_and_vectors() -> Table {
        let mut table = Table::default()
            .broken(TYPE, long_mode, inject(1, 0))
            .broken(TYPE, long_mode, |c| {
                c.capabilities.primary.may &= !Primary::MONITOR_TRAP_FLAG.bits();
                inject(event_type::OTHER, 0)(c);
            })
            .kept(long_mode, inject(event_type::OTHER, 0))
            .broken(OTHER_VECTOR, long_mode, inject(event_type::OTHER, 1))
            .kept(long_mode, inject(event_type::NMI, 2))
            .broken(NMI_VECTOR, long_mode, inject(event_type::NMI, 3))
            .kept(long_mode, inject(HARDWARE, 31))
            .broken(EXCEPTION_VECTOR, long_mode, inject(HARDWARE, 32))
            .kept(long_mode, inject(event_type::EXTERNAL_INTERRUPT, 255))
            .kept(long_mode, inject(event_type::SOFTWARE_INTERRUPT, 0x80))
            // Without the valid bit nothing is looked at.
            .kept(long_mode, |c| {
                c.set(F::ENTRY_INTERRUPTION_INFO, 0x7fff_ffff)
            });
        for bit in [12, 13, 30] {
            table = table.broken(INFORMATION_RESERVED, long_mode, |c| {
                inject(event_type::NMI, 2)(c);
                c.raise(F::ENTRY_INTERRUPTION_INFO, 1u64 << bit);
            });
        }
        table
    }

    fn error_codes() -> Table {
        let mut table = Table::default();
        for vector in 0..32 {
            let has_code = matches!(vector, 8 | 10..=14 | 17);
            let (with, without) = (
                inject_with_code(HARDWARE, vector, 0),
                inject(HARDWARE, vector),
            );
            table = if has_code {
                table
                    .kept(long_mode, &with)
                    .broken(ERROR_CODE_MISSING, long_mode, &without)
            } else {
                table
                    .broken(ERROR_CODE_SUPERFLUOUS, long_mode, &with)
                    .kept(long_mode, &without)
            };
            // Real mode has no error codes.
            table = table
                .broken(ERROR_CODE_SUPERFLUOUS, real_mode, &with)
                .kept(real_mode, &without);
            // CPUs that take any, such as those with #CP.
            let any = |c: &mut Case| c.capabilities.basic |= 1 << 56;
            table = table
                .kept(pae, |c| {
                    any(c);
                    with(c);
                })
                .kept(pae, |c| {
                    any(c);
                    without(c);
                })
                .broken(ERROR_CODE_SUPERFLUOUS, real_mode, |c| {
                    any(c);
                    with(c);
                });
        }
        for kind in [
            event_type::EXTERNAL_INTERRUPT,
            event_type::SOFTWARE_INTERRUPT,
            event_type::PRIVILEGED_SOFTWARE_EXCEPTION,
            event_type::SOFTWARE_EXCEPTION,
        ] {
            table = table.broken(
                ERROR_CODE_SUPERFLUOUS,
                long_mode,
                inject_with_code(kind, vector::GP, 0),
            );
        }
        table
            .kept(pae, inject_with_code(HARDWARE, vector::PF, 0xffff))
            .broken(
                ERROR_CODE_RESERVED,
                pae,
                inject_with_code(HARDWARE, vector::PF, 0x1_0000),
            )
    }

    fn instruction_lengths() -> Table {
        let length = |kind, length, zero| {
            move |c: &mut Case| {
                c.set(F::ENTRY_INTERRUPTION_INFO, info(kind, 3));
                c.set(F::ENTRY_INSTRUCTION_LENGTH, length);
                c.capabilities.misc &= !(1 << 30);
                c.capabilities.misc |= u64::from(zero) << 30;
            }
        };
        let mut table = Table::default();
        for kind in [
            event_type::SOFTWARE_INTERRUPT,
            event_type::PRIVILEGED_SOFTWARE_EXCEPTION,
            event_type::SOFTWARE_EXCEPTION,
        ] {
            table = table
                .kept(pae, length(kind, 1, false))
                .kept(pae, length(kind, 15, false))
                .kept(pae, length(kind, 0, true))
                .broken(INSTRUCTION_LENGTH, pae, length(kind, 0, false))
                .broken(INSTRUCTION_LENGTH, pae, length(kind, 16, true))
                .broken(INSTRUCTION_LENGTH, pae, length(kind, 0x100, true));
        }
        table.kept(pae, length(HARDWARE, 16, false))
    }

    fn other_controls() -> Table {
        let load = |at, n| {
            move |c: &mut Case| {
                c.set(F::VM_ENTRY_MSR_LOAD, at);
                c.set(F::VM_ENTRY_MSR_LOAD_COUNT, n);
            }
        };
        Table::default()
            .broken(ENTRY_ALLOWED, pae, |c| {
                c.raise(F::ENTRY_CONTROLS, 1u64 << 31);
            })
            .broken(ENTRY_ALLOWED, pae, |c| {
                c.clear(F::ENTRY_CONTROLS, 1u64 << 0);
            })
            .broken(MSR_LOAD, pae, load(4, 1))
            .broken(MSR_LOAD, pae, load((1 << 39) - 16, 2))
            .kept(pae, load((1 << 39) - 16, 1))
            .broken(OUTSIDE_SMM, pae, |c| {
                c.raise(F::ENTRY_CONTROLS, Entry::ENTRY_TO_SMM.bits());
            })
            .broken(OUTSIDE_SMM, pae, |c| {
                c.raise(F::ENTRY_CONTROLS, Entry::DEACTIVATE_DUAL_MONITOR.bits());
            })
    }

    #[test]
    fn each_rule_is_found_broken() {
        Table::cover(
            &[
                types_and_vectors,
                error_codes,
                instruction_lengths,
                other_controls,
            ],
            RULES,
        );
    }
}
