//! SDM vol 3C 27.2.1.2, "VM-Exit Control Fields".

use super::{Checked, Vmcs, rules};
use crate::controls::{Exit, Pin};
use crate::vmcs::Field as F;

rules! { "SDM vol 3C 27.2.1.2, \"VM-Exit Control Fields\"":
    EXIT_ALLOWED = "VM-exit controls must have settings that IA32_VMX_(TRUE_)EXIT_CTLS allows.";
    SAVE_TIMER = "The VMX-preemption timer can only be saved when it is activated.";
    MSR_STORE = "The VM-exit MSR-store area must be 16-byte aligned within the physical-address width.";
    MSR_LOAD = "The VM-exit MSR-load area must be 16-byte aligned within the physical-address width.";
}

pub(super) fn check(v: &Vmcs) -> Checked {
    v.require(
        v.capabilities.exit.takes(v.exit.bits()),
        EXIT_ALLOWED,
        &[F::EXIT_CONTROLS],
    )?;
    v.require(
        v.pin.contains(Pin::PREEMPTION_TIMER) || !v.exit.contains(Exit::SAVE_PREEMPTION_TIMER),
        SAVE_TIMER,
        &[F::EXIT_CONTROLS, F::PIN_CONTROLS],
    )?;
    v.require_msr_area(MSR_STORE, F::VM_EXIT_MSR_STORE, F::VM_EXIT_MSR_STORE_COUNT)?;
    v.require_msr_area(MSR_LOAD, F::VM_EXIT_MSR_LOAD, F::VM_EXIT_MSR_LOAD_COUNT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::testing::{Case, Table, long_mode};

    fn area(address: F, count: F, at: u64, entries: u64) -> impl FnOnce(&mut Case) {
        move |c| {
            c.set(address, at);
            c.set(count, entries);
        }
    }

    fn cases() -> Table {
        let store = |at, n| area(F::VM_EXIT_MSR_STORE, F::VM_EXIT_MSR_STORE_COUNT, at, n);
        let load = |at, n| area(F::VM_EXIT_MSR_LOAD, F::VM_EXIT_MSR_LOAD_COUNT, at, n);
        let end = 1 << 39;
        Table::default()
            .broken(EXIT_ALLOWED, long_mode, |c| {
                c.raise(F::EXIT_CONTROLS, 1u64 << 31);
            })
            .broken(EXIT_ALLOWED, long_mode, |c| {
                c.clear(F::EXIT_CONTROLS, 1u64 << 0);
            })
            .broken(SAVE_TIMER, long_mode, |c| {
                c.clear(F::PIN_CONTROLS, Pin::PREEMPTION_TIMER.bits());
                c.raise(F::EXIT_CONTROLS, Exit::SAVE_PREEMPTION_TIMER.bits());
            })
            .kept(long_mode, |c| {
                c.raise(F::EXIT_CONTROLS, Exit::SAVE_PREEMPTION_TIMER.bits());
            })
            .broken(MSR_STORE, long_mode, store(8, 1))
            .broken(MSR_STORE, long_mode, store(end, 1))
            .broken(MSR_STORE, long_mode, store(end - 16, 2))
            .kept(long_mode, store(end - 16, 1))
            .kept(long_mode, store(8, 0))
            .broken(MSR_LOAD, long_mode, load(0x1001, 1))
            .broken(MSR_LOAD, long_mode, load(!0xf, 0xffff_ffff))
            .kept(long_mode, load(0, 512))
    }

    #[test]
    fn each_rule_is_found_broken() {
        Table::cover(&[cases], RULES);
    }
}
