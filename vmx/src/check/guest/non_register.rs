//! SDM vol 3C 27.3.1.5, "Checks on Guest Non-Register State".

use crate::check::{Checked, Vmcs, rules};
use crate::formats::{
    AccessRights, Interruptibility, Interruption, PendingDebug, activity, event_type,
};
use crate::vmcs::Field as F;
use hv_core::event::vector;
use hv_core::regs::Rflags;

rules! { "SDM vol 3C 27.3.1.5, \"Checks on Guest Non-Register State\"":
    ACTIVITY = "The activity state must be one that IA32_VMX_MISC reports.";
    HLT_DPL = "The DPL of SS must be 0 in the HLT state.";
    ACTIVE_BLOCKING = "The activity state must be active with blocking by STI or MOV SS.";
    HLT_EVENT = "Into the HLT state, only external interrupts, NMIs, #DB, #MC and pending MTF exits can be injected.";
    SHUTDOWN_EVENT = "Into the shutdown state, only NMIs and #MC can be injected.";
    WAIT_FOR_SIPI_EVENT = "Into the wait-for-SIPI state, nothing can be injected.";
    INTERRUPTIBILITY_RESERVED = "Reserved bits of the interruptibility state must be 0.";
    STI_AND_MOV_SS = "There cannot be blocking by both STI and MOV SS.";
    STI_IF = "There cannot be blocking by STI without RFLAGS.IF.";
    INTERRUPT_BLOCKED = "An external interrupt cannot be injected with blocking by STI or MOV SS.";
    NMI_BLOCKED = "An NMI cannot be injected with blocking by MOV SS nor, on some CPUs, by STI.";
    SMI_BLOCKED = "There cannot be blocking by SMI outside SMM.";
    VIRTUAL_NMI_BLOCKED = "An NMI cannot be injected with blocking by NMI and virtual NMIs.";
    ENCLAVE_MOV_SS = "There cannot be blocking by MOV SS after an enclave interruption.";
    PENDING_RESERVED = "Reserved bits of the pending debug exceptions must be 0.";
    PENDING_STEP = "Pending BS must be 1 if RFLAGS.TF is 1 and IA32_DEBUGCTL.BTF is 0, with blocking by STI or MOV SS or in the \
        HLT state.";
    PENDING_NO_STEP = "Pending BS must be 0 if RFLAGS.TF is 0 or IA32_DEBUGCTL.BTF is 1, with blocking by STI or MOV SS or in the \
        HLT state.";
    PENDING_RTM = "Pending RTM needs an enabled breakpoint, no other pending debug exception and no blocking by MOV SS.";
    LINK_POINTER = "The VMCS link pointer must be all ones or a page within the physical-address width.";
}

/// IA32_DEBUGCTL.BTF: single-step on branches.
const DEBUGCTL_BTF: u64 = 1 << 1;

const SHADOW: Interruptibility = Interruptibility::STI.union(Interruptibility::MOV_SS);

pub(in crate::check) fn check(v: &Vmcs) -> Checked {
    let state = v.get(F::GUEST_ACTIVITY) as u32;
    let blocking = Interruptibility::from_bits_retain(v.get(F::GUEST_INTERRUPTIBILITY) as u32);
    activity_state(v, state, blocking)?;
    interruptibility(v, blocking)?;
    pending_debug(v, state, blocking)?;
    let link = v.get(F::VMCS_LINK_POINTER);
    v.require(
        link == u64::MAX || link & 0xfff == 0 && v.pointer(link),
        LINK_POINTER,
        &[F::VMCS_LINK_POINTER],
    )
}

fn activity_state(v: &Vmcs, state: u32, blocking: Interruptibility) -> Checked {
    v.require(
        v.capabilities.has_activity(state),
        ACTIVITY,
        &[F::GUEST_ACTIVITY],
    )?;
    let ss = AccessRights::from_bits_retain(v.get(F::GUEST_SS_ACCESS_RIGHTS) as u32);
    v.require(
        state != activity::HLT || ss.dpl() == 0,
        HLT_DPL,
        &[F::GUEST_ACTIVITY, F::GUEST_SS_ACCESS_RIGHTS],
    )?;
    v.require(
        state == activity::ACTIVE || !blocking.intersects(SHADOW),
        ACTIVE_BLOCKING,
        &[F::GUEST_ACTIVITY, F::GUEST_INTERRUPTIBILITY],
    )?;
    let Some(event) = v.injected() else {
        return Ok(());
    };
    let (admitted, rule) = match state {
        activity::HLT => (wakes_from_hlt(event), HLT_EVENT),
        activity::SHUTDOWN => (
            is_nmi(event) || is_exception(event, vector::MC),
            SHUTDOWN_EVENT,
        ),
        activity::WAIT_FOR_SIPI => (false, WAIT_FOR_SIPI_EVENT),
        _ => return Ok(()),
    };
    v.require(
        admitted,
        rule,
        &[F::GUEST_ACTIVITY, F::ENTRY_INTERRUPTION_INFO],
    )
}

fn is_nmi(event: Interruption) -> bool {
    event.kind() == event_type::NMI
}

fn is_exception(event: Interruption, vector: u8) -> bool {
    event.kind() == event_type::HARDWARE_EXCEPTION && event.vector() == vector
}

fn wakes_from_hlt(event: Interruption) -> bool {
    is_nmi(event)
        || is_exception(event, vector::DB)
        || is_exception(event, vector::MC)
        || matches!(
            event.kind(),
            event_type::EXTERNAL_INTERRUPT | event_type::OTHER
        )
}

fn interruptibility(v: &Vmcs, blocking: Interruptibility) -> Checked {
    let known = SHADOW
        | Interruptibility::SMI
        | Interruptibility::NMI
        | Interruptibility::ENCLAVE_INTERRUPTION;
    let field = [F::GUEST_INTERRUPTIBILITY];
    v.require(
        blocking.difference(known).is_empty(),
        INTERRUPTIBILITY_RESERVED,
        &field,
    )?;
    v.require(!blocking.contains(SHADOW), STI_AND_MOV_SS, &field)?;
    v.require(
        !blocking.contains(Interruptibility::STI)
            || Rflags::from_bits_retain(v.get(F::GUEST_RFLAGS)).contains(Rflags::IF),
        STI_IF,
        &[F::GUEST_INTERRUPTIBILITY, F::GUEST_RFLAGS],
    )?;
    let injecting = [F::GUEST_INTERRUPTIBILITY, F::ENTRY_INTERRUPTION_INFO];
    match v.injected().map(|event| event.kind()) {
        Some(event_type::EXTERNAL_INTERRUPT) => {
            v.require(!blocking.intersects(SHADOW), INTERRUPT_BLOCKED, &injecting)?;
        }
        Some(event_type::NMI) => {
            v.require(!blocking.intersects(SHADOW), NMI_BLOCKED, &injecting)?;
            let virtual_nmis = v.pin.contains(crate::controls::Pin::VIRTUAL_NMIS);
            v.require(
                !virtual_nmis || !blocking.contains(Interruptibility::NMI),
                VIRTUAL_NMI_BLOCKED,
                &injecting,
            )?;
        }
        _ => {}
    }
    v.require(
        !blocking.contains(Interruptibility::SMI),
        SMI_BLOCKED,
        &field,
    )?;
    v.require(
        !blocking.contains(Interruptibility::ENCLAVE_INTERRUPTION | Interruptibility::MOV_SS),
        ENCLAVE_MOV_SS,
        &field,
    )
}

fn pending_debug(v: &Vmcs, state: u32, blocking: Interruptibility) -> Checked {
    let pending = PendingDebug::from_bits_retain(v.get(F::GUEST_PENDING_DEBUG));
    let known =
        PendingDebug::B | PendingDebug::ENABLED_BREAKPOINT | PendingDebug::BS | PendingDebug::RTM;
    v.require(
        pending.difference(known).is_empty(),
        PENDING_RESERVED,
        &[F::GUEST_PENDING_DEBUG],
    )?;
    if blocking.intersects(SHADOW) || state == activity::HLT {
        let fields = [
            F::GUEST_PENDING_DEBUG,
            F::GUEST_RFLAGS,
            F::GUEST_DEBUGCTL,
            F::GUEST_INTERRUPTIBILITY,
            F::GUEST_ACTIVITY,
        ];
        let traps = Rflags::from_bits_retain(v.get(F::GUEST_RFLAGS)).contains(Rflags::TF);
        let steps = traps && v.get(F::GUEST_DEBUGCTL) & DEBUGCTL_BTF == 0;
        let pending = pending.contains(PendingDebug::BS);
        v.require(pending || !steps, PENDING_STEP, &fields)?;
        v.require(!pending || steps, PENDING_NO_STEP, &fields)?;
    }
    let alone = PendingDebug::RTM | PendingDebug::ENABLED_BREAKPOINT;
    v.require(
        !pending.contains(PendingDebug::RTM)
            || pending == alone && !blocking.contains(Interruptibility::MOV_SS),
        PENDING_RTM,
        &[F::GUEST_PENDING_DEBUG, F::GUEST_INTERRUPTIBILITY],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::testing::{Case, Table, long_mode, pae, real_mode};
    use crate::controls::Pin;

    fn inject(c: &mut Case, kind: u8, vector: u8) {
        let info = Interruption::VALID.bits() | u32::from(kind) << 8 | u32::from(vector);
        c.set(F::ENTRY_INTERRUPTION_INFO, u64::from(info));
        c.set(F::ENTRY_INSTRUCTION_LENGTH, 1);
    }

    fn enter(state: u32) -> impl Fn(&mut Case) {
        move |c| c.set(F::GUEST_ACTIVITY, u64::from(state))
    }

    fn block(bits: Interruptibility) -> impl Fn(&mut Case) {
        move |c| c.set(F::GUEST_INTERRUPTIBILITY, u64::from(bits.bits()))
    }

    const ALL_STATES: [u32; 4] = [
        activity::ACTIVE,
        activity::HLT,
        activity::SHUTDOWN,
        activity::WAIT_FOR_SIPI,
    ];

    fn activity_states() -> Table {
        let mut table = Table::default()
            .broken(ACTIVITY, pae, enter(4))
            .broken(ACTIVITY, pae, enter(u32::MAX))
            .broken(HLT_DPL, long_mode, enter(activity::HLT))
            .kept(real_mode, enter(activity::HLT));
        for (bit, state) in [
            (6, activity::HLT),
            (7, activity::SHUTDOWN),
            (8, activity::WAIT_FOR_SIPI),
        ] {
            table = table.kept(pae, enter(state)).broken(ACTIVITY, pae, |c| {
                c.capabilities.misc &= !(1 << bit);
                enter(state)(c);
            });
            for shadow in [Interruptibility::STI, Interruptibility::MOV_SS] {
                table = table.broken(ACTIVE_BLOCKING, pae, |c| {
                    enter(state)(c);
                    block(shadow)(c);
                });
            }
        }
        table
    }

    fn events_that_activity_states_admit() -> Table {
        use event_type::{
            EXTERNAL_INTERRUPT, HARDWARE_EXCEPTION, NMI, OTHER, PRIVILEGED_SOFTWARE_EXCEPTION,
            SOFTWARE_EXCEPTION, SOFTWARE_INTERRUPT,
        };
        // Each event, and whether HLT and shutdown admit it.
        let events = [
            (EXTERNAL_INTERRUPT, 0x30, true, false),
            (EXTERNAL_INTERRUPT, vector::MC, true, false),
            (NMI, vector::NMI, true, true),
            (HARDWARE_EXCEPTION, vector::DB, true, false),
            (HARDWARE_EXCEPTION, vector::MC, true, true),
            (HARDWARE_EXCEPTION, vector::UD, false, false),
            (SOFTWARE_INTERRUPT, vector::MC, false, false),
            (PRIVILEGED_SOFTWARE_EXCEPTION, vector::DB, false, false),
            (SOFTWARE_EXCEPTION, vector::BP, false, false),
            (OTHER, 0, true, false),
        ];
        let mut table = Table::default();
        for (kind, vector, hlt, shutdown) in events {
            for state in ALL_STATES {
                let change = |c: &mut Case| {
                    enter(state)(c);
                    inject(c, kind, vector);
                };
                table = match state {
                    activity::HLT if !hlt => table.broken(HLT_EVENT, pae, change),
                    activity::SHUTDOWN if !shutdown => table.broken(SHUTDOWN_EVENT, pae, change),
                    activity::WAIT_FOR_SIPI => table.broken(WAIT_FOR_SIPI_EVENT, pae, change),
                    _ => table.kept(pae, change),
                };
            }
        }
        table
    }

    fn blocking() -> Table {
        let injecting = |bits, kind, vector| {
            move |c: &mut Case| {
                block(bits)(c);
                inject(c, kind, vector);
            }
        };
        let interrupt = |bits| injecting(bits, event_type::EXTERNAL_INTERRUPT, 0x30);
        let nmi = |bits| injecting(bits, event_type::NMI, vector::NMI);
        let mut table = Table::default()
            .broken(STI_AND_MOV_SS, pae, block(SHADOW))
            .broken(STI_IF, pae, |c| {
                c.clear(F::GUEST_RFLAGS, Rflags::IF.bits());
                block(Interruptibility::STI)(c);
            })
            .kept(pae, |c| {
                c.clear(F::GUEST_RFLAGS, Rflags::IF.bits());
                block(Interruptibility::MOV_SS)(c);
            })
            .broken(SMI_BLOCKED, pae, block(Interruptibility::SMI))
            .kept(pae, block(Interruptibility::ENCLAVE_INTERRUPTION))
            .broken(
                ENCLAVE_MOV_SS,
                pae,
                block(Interruptibility::ENCLAVE_INTERRUPTION | Interruptibility::MOV_SS),
            )
            .kept(pae, interrupt(Interruptibility::NMI))
            .kept(pae, nmi(Interruptibility::empty()))
            .broken(VIRTUAL_NMI_BLOCKED, pae, nmi(Interruptibility::NMI))
            .kept(pae, |c| {
                c.clear(F::PIN_CONTROLS, Pin::VIRTUAL_NMIS.bits());
                nmi(Interruptibility::NMI)(c);
            });
        for shadow in [Interruptibility::STI, Interruptibility::MOV_SS] {
            table = table
                .kept(pae, block(shadow))
                .broken(INTERRUPT_BLOCKED, pae, interrupt(shadow))
                .broken(NMI_BLOCKED, pae, nmi(shadow))
                // Exceptions are not blocked.
                .kept(
                    pae,
                    injecting(shadow, event_type::HARDWARE_EXCEPTION, vector::UD),
                );
        }
        for bit in [5, 16, 31] {
            table = table.broken(INTERRUPTIBILITY_RESERVED, pae, |c| {
                c.set(F::GUEST_INTERRUPTIBILITY, 1 << bit);
            });
        }
        table
    }

    fn pending_debug_exceptions() -> Table {
        let mut table = Table::default();
        for bit in (4..12).chain([13, 15, 17, 63]) {
            table = table.broken(PENDING_RESERVED, pae, |c| {
                c.set(F::GUEST_PENDING_DEBUG, 1 << bit);
            });
        }
        // What holds the single step up: nothing, STI, MOV SS, HLT.
        type Hold<'a> = &'a dyn Fn(&mut Case);
        let held: [(Hold, bool); 4] = [
            (&|_| {}, false),
            (&block(Interruptibility::STI), true),
            (&block(Interruptibility::MOV_SS), true),
            (&enter(activity::HLT), true),
        ];
        for (hold, held) in held {
            for (tf, btf, bs) in (0..8).map(|n| (n & 1, n >> 1 & 1, n >> 2 & 1)) {
                let change = |c: &mut Case| {
                    hold(c);
                    c.raise(F::GUEST_RFLAGS, Rflags::TF.bits() * tf);
                    c.set(F::GUEST_DEBUGCTL, DEBUGCTL_BTF * btf);
                    c.set(F::GUEST_PENDING_DEBUG, PendingDebug::BS.bits() * bs);
                };
                table = match (held, tf == 1 && btf == 0, bs == 1) {
                    (true, true, false) => table.broken(PENDING_STEP, pae, change),
                    (true, false, true) => table.broken(PENDING_NO_STEP, pae, change),
                    _ => table.kept(pae, change),
                };
            }
        }
        let rtm = PendingDebug::RTM | PendingDebug::ENABLED_BREAKPOINT;
        let pending =
            |bits: PendingDebug| move |c: &mut Case| c.set(F::GUEST_PENDING_DEBUG, bits.bits());
        table
            .kept(pae, pending(PendingDebug::B))
            .kept(pae, pending(rtm))
            .broken(PENDING_RTM, pae, pending(PendingDebug::RTM))
            .broken(PENDING_RTM, pae, pending(rtm | PendingDebug::BS))
            .broken(PENDING_RTM, pae, pending(rtm | PendingDebug::B))
            .broken(PENDING_RTM, pae, |c| {
                pending(rtm)(c);
                block(Interruptibility::MOV_SS)(c);
            })
    }

    fn link_pointer() -> Table {
        let link = |pointer| move |c: &mut Case| c.set(F::VMCS_LINK_POINTER, pointer);
        Table::default()
            .kept(pae, link(0x1000))
            .broken(LINK_POINTER, pae, link(0x1001))
            .broken(LINK_POINTER, pae, link(1 << 39))
            .broken(LINK_POINTER, pae, link(0xffff_ffff))
    }

    #[test]
    fn each_rule_is_found_broken() {
        Table::cover(
            &[
                activity_states,
                events_that_activity_states_admit,
                blocking,
                pending_debug_exceptions,
                link_pointer,
            ],
            RULES,
        );
    }
}
