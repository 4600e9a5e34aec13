//! The virtual CPU, without a CPU.

mod events;

use super::*;
use crate::Quirks;
use crate::asid::Asids;
use hv_core::{Gpa, Hpa};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const ENTRY: Entry = Entry {
    root: Hpa(0x5000),
    flush: TlbFlush::None,
    inject: None,
    irq_window: false,
    nmi_window: false,
    timer: u64::MAX,
};

fn cpu() -> SvmVcpu {
    SvmVcpu::with_host(
        Features {
            asids: 16,
            ..Features::default()
        },
        Asids::new(2).give(),
        Box::default(),
    )
}

#[test]
fn it_keeps_the_rules_of_all_backends() {
    hv_core::testing::conformance::check(cpu);
}

#[test]
fn spec_ctrl_is_in_the_control_block_where_that_has_a_place_for_it() {
    for v_spec_ctrl in [false, true] {
        let mut c = cpu();
        c.features.v_spec_ctrl = v_spec_ctrl;
        c.set_sysreg(SysReg::SpecCtrl, 5);
        let (block, by_hand) = if v_spec_ctrl { (5, 0) } else { (0, 5) };
        assert_eq!(c.context.vmcb.spec_ctrl, block);
        assert_eq!(c.context.spec_ctrl, by_hand);
        assert_eq!(c.sysreg(SysReg::SpecCtrl), 5);
        c.reset();
        assert_eq!(c.sysreg(SysReg::SpecCtrl), 0);
    }
}

#[test]
fn reset_state_is_the_manuals() {
    let c = cpu();
    assert_eq!(
        (
            c.rip(),
            c.segment(SegReg::Cs).base,
            c.segment(SegReg::Cs).selector
        ),
        (0xfff0, 0xffff_0000, 0xf000)
    );
    assert_eq!(c.sysreg(SysReg::Cr0), 0x6000_0010);
    assert_eq!(c.sysreg(SysReg::Efer), 0, "SVME is hidden");
    assert_eq!(c.context.vmcb.efer, 1 << 12, "and set");
}

#[test]
fn cr8_leaves_the_guest_only_while_it_holds_an_interrupt_back() {
    let mut c = cpu();
    for (cr8, threshold) in [(0, 0), (5, 0), (5, 4), (9, 0)] {
        c.set_task_priority(cr8, threshold);
        c.encode(&ENTRY);
        assert_eq!(
            c.context.vmcb.virtual_interrupt & 0xff,
            u64::from(cr8),
            "V_TPR"
        );
        assert_eq!(c.context.vmcb.intercept_cr_read & 1 << 8, 0);
        let left = c.context.vmcb.intercept_cr_write & 1 << 8 != 0;
        assert_eq!(left, threshold != 0, "{cr8} {threshold}");
        assert_eq!(c.changed_task_priority(), None);
        c.context.vmcb.virtual_interrupt ^= 2;
        assert_eq!(c.changed_task_priority(), Some(cr8 ^ 2));
    }
}

#[test]
fn writes_of_cr4_leave_the_guest_under_both_ways_of_paging() {
    let mut c = cpu();
    for shadow in [false, true, false] {
        c.set_shadow_paging(shadow);
        assert_ne!(
            c.context.vmcb.intercept_cr_write & 1 << 4,
            0,
            "shadow {shadow}"
        );
    }
}

#[test]
fn writes_of_cr0_leave_the_guest_only_where_the_cpu_does_not_check_them() {
    for unchecked_cr0 in [false, true] {
        let features = Features {
            quirks: Quirks {
                unchecked_cr0,
                ..Quirks::default()
            },
            ..cpu().features
        };
        let mut c = SvmVcpu::with_host(features, Asids::new(2).give(), Box::default());
        c.encode(&ENTRY);
        let left = c.context.vmcb.intercept3 & Intercept3::CR0_SEL_WRITE.bits() != 0;
        assert_eq!(left, unchecked_cr0);
        assert_eq!(c.context.vmcb.intercept_cr_write & 1, 0);
    }
}

#[test]
fn writes_of_cr8_do_not_meet_a_virtual_interrupt_where_that_is_fatal() {
    let window = Entry {
        irq_window: true,
        ..ENTRY
    };
    let interrupt = Entry {
        inject: Some(Event::interrupt(0x68)),
        ..ENTRY
    };
    for fatal_cr8 in [false, true] {
        let features = Features {
            quirks: Quirks {
                fatal_cr8,
                inject_virtual: fatal_cr8,
                ..Quirks::default()
            },
            ..cpu().features
        };
        let mut c = SvmVcpu::with_host(features, Asids::new(2).give(), Box::default());
        let seen = Arc::new(AtomicBool::new(false));
        let see = seen.clone();
        c.fake = Some(Box::new(move |v| {
            see.store(v.intercept_cr_write & 1 << 8 != 0, Ordering::Relaxed);
        }));
        for (entry, left) in [(window, fatal_cr8), (interrupt, fatal_cr8), (ENTRY, false)] {
            c.run(&entry);
            assert_eq!(seen.load(Ordering::Relaxed), left, "{entry:?}");
            assert_eq!(c.context.vmcb.intercept_cr_write & 1 << 8, 0);
        }
        // The threshold's intercept stays.
        c.set_task_priority(5, 6);
        c.run(&window);
        assert_ne!(c.context.vmcb.intercept_cr_write & 1 << 8, 0);
    }
}

/// On a CPU that does not walk nested tables for a guest without paging.
fn cpu_with_identity_map() -> SvmVcpu {
    let features = Features {
        quirks: Quirks {
            identity_map: Some(Gpa(0xfeff_c000)),
            ..Quirks::default()
        },
        ..cpu().features
    };
    SvmVcpu::with_host(features, Asids::new(2).give(), Box::default())
}

#[test]
fn the_identity_map_breaks_none_of_the_rules_of_all_backends() {
    hv_core::testing::conformance::check(cpu_with_identity_map);
}

#[test]
fn paging_is_never_off_where_nested_tables_are_not_walked_then() {
    const PG: u64 = 0x8000_0000;
    let mut c = cpu_with_identity_map();
    let unpaged = |c: &mut SvmVcpu, cr3: u64| {
        c.encode(&ENTRY);
        assert_eq!(
            (c.context.vmcb.cr0 & PG, c.context.vmcb.cr3),
            (PG, 0xfeff_c000)
        );
        assert_eq!(c.context.vmcb.cr4 & 0x30, 0x10, "PSE without PAE");
        assert_eq!(
            (c.context.vmcb.np_enable, c.context.vmcb.n_cr3),
            (NP_ENABLE, 0x5000)
        );
        assert_eq!(c.context.vmcb.intercept_cr_read & 0x19, 0x19);
        assert_eq!(c.context.vmcb.intercept_cr_write & 0x19, 0x19);
        assert_eq!(c.context.vmcb.intercept_exceptions & 1 << vector::PF, 0);
        assert_eq!(c.sysreg(SysReg::Cr0) & PG, 0, "the guest sees its own");
        assert_eq!(c.sysreg(SysReg::Cr3), cr3);
    };
    unpaged(&mut c, 0);
    c.reset();
    unpaged(&mut c, 0);
    // Linux enters long mode.
    c.set_sysreg(SysReg::Cr0, 0x11);
    c.set_sysreg(SysReg::Cr4, 0x20);
    c.set_sysreg(SysReg::Cr3, 0x7000);
    c.set_sysreg(SysReg::Efer, 1 << 8);
    unpaged(&mut c, 0x7000);
    assert_eq!(c.context.vmcb.efer, 1 << 12, "paging with LME is long mode");
    c.set_sysreg(SysReg::Cr0, PG | 0x11);
    c.set_sysreg(SysReg::Efer, 1 << 8 | 1 << 10);
    c.encode(&ENTRY);
    assert_eq!(
        (
            c.context.vmcb.cr0,
            c.context.vmcb.cr3,
            c.context.vmcb.cr4,
            c.context.vmcb.efer
        ),
        (PG | 0x11, 0x7000, 0x20, 0x1500)
    );
    assert_eq!(c.context.vmcb.intercept_cr_read & 0x19, 0);
    assert_eq!(c.context.vmcb.intercept_cr_write & 0x19, 0x10);
    let watched = Intercept3::CR0_SEL_WRITE.bits();
    assert_ne!(
        c.context.vmcb.intercept3 & watched,
        0,
        "it may turn paging off"
    );
    c.set_sysreg(SysReg::Efer, 0);
    c.set_sysreg(SysReg::Cr0, 0x11);
    unpaged(&mut c, 0x7000);
    // Shadow paging has tables of its own.
    c.set_shadow_paging(true);
    c.encode(&ENTRY);
    assert_eq!((c.context.vmcb.np_enable, c.context.vmcb.cr3), (0, 0x5000));
    assert_eq!(c.sysreg(SysReg::Cr3), 0x7000);
    c.set_shadow_paging(false);
    unpaged(&mut c, 0x7000);
}

#[test]
fn an_interrupt_that_is_not_delivered_comes_back_once() {
    let left = |vectoring, interruptible| not_delivered(vectoring, 8, interruptible);
    assert_eq!(left(None, true), (None, Some(8)), "not taken");
    let as_qemu_tells = Some(Event::exception(8, None));
    let interrupt = Some(Event::interrupt(8));
    assert_eq!(left(as_qemu_tells, true), (interrupt, None), "in delivery");
    let other = Some(Event::exception(13, None));
    assert_eq!(left(other, true), (other, Some(8)));
    let double_fault = Some(Event::exception(8, Some(0)));
    assert_eq!(
        left(double_fault, false),
        (double_fault, Some(8)),
        "with interrupts off"
    );
}

#[test]
fn what_vmrun_insists_on_is_always_encoded() {
    let mut c = cpu();
    c.encode(&Entry {
        irq_window: true,
        inject: Some(Event::interrupt(0x20)),
        ..ENTRY
    });
    assert_ne!(c.context.vmcb.intercept4 & Intercept4::VMRUN.bits(), 0);
    assert_ne!(c.context.vmcb.asid, 0);
    assert_ne!(
        c.context.vmcb.virtual_interrupt & VirtualInterrupt::V_INTR_MASKING.bits(),
        0
    );
    assert_ne!(c.context.vmcb.intercept3 & Intercept3::VINTR.bits(), 0);
    c.encode(&ENTRY);
    assert_eq!(
        c.context.vmcb.intercept3 & Intercept3::VINTR.bits(),
        0,
        "the window is disarmed"
    );
    assert_eq!(c.context.vmcb.event_injection, 0);
}

#[test]
fn an_interrupt_is_a_virtual_one_where_that_is_needed_and_free() {
    let mut c = cpu();
    c.encode(&Entry {
        inject: Some(Event::interrupt(0x20)),
        ..ENTRY
    });
    assert_eq!(c.context.vmcb.event_injection, 0x8000_0020);
    c.features.quirks.inject_virtual = true;
    let irq = Entry {
        inject: Some(Event::interrupt(0x20)),
        ..ENTRY
    };
    c.encode(&irq);
    assert_eq!(
        (
            c.context.vmcb.virtual_interrupt,
            c.context.vmcb.event_injection
        ),
        (0x20 << 32 | 0x11f_0100, 0)
    );
    assert_eq!(c.context.vmcb.intercept3 & Intercept3::VINTR.bits(), 0);
    let with_window = Injection {
        event: irq.inject,
        irq_window: true,
        ..Injection::default()
    };
    assert!(!c.can_inject(&with_window), "the window needs it");
    c.encode(&Entry {
        inject: Some(Event::exception(6, None)),
        ..ENTRY
    });
    assert_eq!(
        (
            c.context.vmcb.virtual_interrupt,
            c.context.vmcb.event_injection
        ),
        (0x100_0000, 0x8000_0306)
    );
}

#[test]
fn reads_of_cr0_leave_the_guest_where_others_come_as_these() {
    let with = |cr_reads_as_cr0| {
        let features = Features {
            asids: 16,
            quirks: Quirks {
                cr_reads_as_cr0,
                ..Quirks::default()
            },
            ..Features::default()
        };
        SvmVcpu::with_host(features, Asids::new(2).give(), Box::default())
    };
    let intercepted = |c: &SvmVcpu| c.context.vmcb.intercept_cr_read & 1 != 0;
    let (mut plain, mut quirk) = (with(false), with(true));
    assert!(!intercepted(&plain) && intercepted(&quirk), "CR8's");
    for c in [&mut plain, &mut quirk] {
        c.set_shadow_paging(true);
        // The hardware's is the same.
        c.set_sysreg(SysReg::Cr0, 0x8001_0011);
    }
    assert!(!intercepted(&plain) && intercepted(&quirk), "CR3's");
    quirk.set_shadow_paging(false);
    assert!(intercepted(&quirk));
}

#[test]
fn flush_uses_what_the_cpu_has() {
    let mut c = cpu();
    c.encode(&Entry {
        flush: TlbFlush::Guest,
        ..ENTRY
    });
    assert_eq!(c.context.vmcb.tlb_control, tlb_control::EVERYTHING);
    c.encode(&ENTRY);
    assert_eq!(c.context.vmcb.tlb_control, tlb_control::NOTHING);
    c.flush_linear();
    c.encode(&ENTRY);
    assert_eq!(c.context.vmcb.tlb_control, tlb_control::EVERYTHING);
    c.encode(&ENTRY);
    assert_eq!(c.context.vmcb.tlb_control, tlb_control::NOTHING, "once");
    c.features.flush_by_asid = true;
    c.encode(&Entry {
        flush: TlbFlush::Guest,
        ..ENTRY
    });
    assert_eq!(c.context.vmcb.tlb_control, tlb_control::THIS_GUEST);
}

#[test]
fn task_switches_leave_the_guest() {
    let c = cpu();
    assert_ne!(
        c.context.vmcb.intercept3 & Intercept3::TASK_SWITCH.bits(),
        0
    );
}

#[test]
fn behind_a_fence_the_hardware_walks_two_sets_of_tables_and_a_task_switch_shows() {
    let mut c = cpu();
    c.set_shadow_paging(true);
    assert_eq!(c.context.vmcb.np_enable, 0);
    c.set_fence(Some(Hpa(0x7000)));
    c.encode(&ENTRY);
    assert_eq!(
        (
            c.context.vmcb.np_enable,
            c.context.vmcb.n_cr3,
            c.context.vmcb.cr3
        ),
        (NP_ENABLE, 0x7000, ENTRY.root.0)
    );
    assert_eq!(c.switched_tasks(), None);
    c.context.vmcb.cr3 = 0x0600_0fe0;
    assert_eq!(c.switched_tasks(), Some(0x0600_0fe0));
    c.set_sysreg(SysReg::Cr0, 0x11);
    c.context.vmcb.cr0 |= Cr0::TS.bits();
    assert_eq!(c.sysreg(SysReg::Cr0), 0x19, "it has set TS");
    c.set_sysreg(SysReg::Cr3, 0x1000);
    assert_eq!(c.sysreg(SysReg::Cr0), 0x19);
    c.set_fence(None);
    assert_eq!(c.context.vmcb.np_enable, 0);
    c.set_shadow_paging(false);
    assert_eq!(c.context.vmcb.np_enable, NP_ENABLE);
}

/// What the control block says of events and flushes at an entry.
fn asked(v: &Vmcb) -> (u64, u64, u32, u8) {
    (
        v.event_injection,
        v.virtual_interrupt,
        v.intercept3,
        v.tlb_control,
    )
}

#[test]
fn an_entry_without_events_finds_nothing_of_the_entries_before_it() {
    use std::sync::{Arc, Mutex};
    let seen = Arc::new(Mutex::new(None));
    let last = || *seen.lock().unwrap();
    for inject_virtual in [false, true] {
        let mut c = cpu();
        c.features.quirks.inject_virtual = inject_virtual;
        let seen = seen.clone();
        c.fake = Some(Box::new(move |v| {
            *seen.lock().unwrap() = Some(asked(v));
            v.exit_code = crate::exit::code::INTR;
        }));
        c.flush_linear = false;
        c.set_task_priority(3, 0);
        let nothing = (
            0,
            VirtualInterrupt::V_INTR_MASKING.bits() | 3,
            c.always.bits(),
            tlb_control::NOTHING,
        );
        for entry in [
            Entry {
                inject: Some(Event::interrupt(0x20)),
                ..ENTRY
            },
            Entry {
                inject: Some(Event::exception(vector::PF, Some(2))),
                irq_window: true,
                ..ENTRY
            },
            Entry {
                nmi_window: true,
                ..ENTRY
            },
            Entry {
                flush: TlbFlush::Guest,
                ..ENTRY
            },
        ] {
            c.run(&entry);
            assert_ne!(last(), Some(nothing), "{entry:?}");
            c.run(&ENTRY);
            assert_eq!(last(), Some(nothing), "after {entry:?}");
        }
        c.set_shadow_paging(true);
        c.set_pause_exiting(true);
        c.run(&ENTRY);
        c.run(&ENTRY);
        let more = (nothing.0, nothing.1, c.always.bits(), nothing.3);
        assert_eq!(last(), Some(more));
    }
}

#[test]
fn flags_that_no_cpu_has_are_those_of_the_entry() {
    const ARITHMETIC: u64 = 0x8d5;
    let mut c = cpu();
    let mut left = |entered: u64, cpl: u8, efer: Efer, told: u64| {
        c.set_rflags(entered);
        c.fake = Some(Box::new(move |v| {
            (v.rflags, v.cpl, v.efer) = (told, cpl, efer.bits());
            v.exit_code = crate::exit::code::INTR;
        }));
        c.run(&ENTRY);
        c.rflags()
    };
    // From an Internet header, as it was seen.
    assert_eq!(left(0x202, 0, Efer::SVME, 0xc1ca_0646), 0x246);
    assert_eq!(left(0x002, 0, Efer::SVME, 0xc1ca_0646), 0x046);
    assert_eq!(left(0x20_3202, 3, Efer::SVME, 0xc1ca_0446), 0x20_3046);
    assert_eq!(left(0x202, 0, Efer::SVME, 0x2_0247), 0x247, "VM at CPL 0");
    assert_eq!(left(0x202, 3, Efer::SVME | Efer::LMA, 0x2_0203), 0x203);
    // What can be is believed.
    for flags in [0x2_3202, 0x2_3246, 0x3f_7fd7, 0x702, 0x202 | ARITHMETIC] {
        assert_eq!(left(0x202, 3, Efer::SVME, flags), flags);
    }
}
