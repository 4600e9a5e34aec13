//! The virtual CPU, without a CPU.

mod events;

use super::*;
use crate::asid::Asids;
use hv_core::Hpa;

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
    assert_eq!(c.vmcb.efer, 1 << 12, "and set");
}

#[test]
fn cr8_leaves_the_guest_only_while_it_holds_an_interrupt_back() {
    let mut c = cpu();
    for (cr8, threshold) in [(0, 0), (5, 0), (5, 4), (9, 0)] {
        c.set_task_priority(cr8, threshold);
        c.encode(&ENTRY);
        assert_eq!(c.vmcb.virtual_interrupt & 0xff, u64::from(cr8), "V_TPR");
        assert_eq!(c.vmcb.intercept_cr_read & 1 << 8, 0);
        let left = c.vmcb.intercept_cr_write & 1 << 8 != 0;
        assert_eq!(left, threshold != 0, "{cr8} {threshold}");
        assert_eq!(c.changed_task_priority(), None);
        c.vmcb.virtual_interrupt ^= 2;
        assert_eq!(c.changed_task_priority(), Some(cr8 ^ 2));
    }
}

#[test]
fn writes_of_cr4_leave_the_guest_under_both_ways_of_paging() {
    let mut c = cpu();
    for shadow in [false, true, false] {
        c.set_shadow_paging(shadow);
        assert_ne!(c.vmcb.intercept_cr_write & 1 << 4, 0, "shadow {shadow}");
    }
}

#[test]
fn writes_of_cr0_leave_the_guest_only_where_the_cpu_does_not_check_them() {
    for unchecked_cr0 in [false, true] {
        let features = Features {
            unchecked_cr0,
            ..cpu().features
        };
        let mut c = SvmVcpu::with_host(features, Asids::new(2).give(), Box::default());
        c.encode(&ENTRY);
        let left = c.vmcb.intercept3 & Intercept3::CR0_SEL_WRITE.bits() != 0;
        assert_eq!(left, unchecked_cr0);
        assert_eq!(c.vmcb.intercept_cr_write & 1, 0);
    }
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
    assert_ne!(c.vmcb.intercept4 & Intercept4::VMRUN.bits(), 0);
    assert_ne!(c.vmcb.asid, 0);
    assert_ne!(
        c.vmcb.virtual_interrupt & VirtualInterrupt::V_INTR_MASKING.bits(),
        0
    );
    assert_ne!(c.vmcb.intercept3 & Intercept3::VINTR.bits(), 0);
    c.encode(&ENTRY);
    assert_eq!(
        c.vmcb.intercept3 & Intercept3::VINTR.bits(),
        0,
        "the window is disarmed"
    );
    assert_eq!(c.vmcb.event_injection, 0);
}

#[test]
fn an_interrupt_is_a_virtual_one_where_that_is_needed_and_free() {
    let mut c = cpu();
    c.encode(&Entry {
        inject: Some(Event::interrupt(0x20)),
        ..ENTRY
    });
    assert_eq!(c.vmcb.event_injection, 0x8000_0020);
    c.features.inject_virtual = true;
    let irq = Entry {
        inject: Some(Event::interrupt(0x20)),
        ..ENTRY
    };
    c.encode(&irq);
    assert_eq!(
        (c.vmcb.virtual_interrupt, c.vmcb.event_injection),
        (0x20 << 32 | 0x11f_0100, 0)
    );
    assert_eq!(c.vmcb.intercept3 & Intercept3::VINTR.bits(), 0);
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
        (c.vmcb.virtual_interrupt, c.vmcb.event_injection),
        (0x100_0000, 0x8000_0306)
    );
}

#[test]
fn reads_of_cr0_leave_the_guest_where_others_come_as_these() {
    let with = |cr_reads_as_cr0| {
        let features = Features {
            asids: 16,
            cr_reads_as_cr0,
            ..Features::default()
        };
        SvmVcpu::with_host(features, Asids::new(2).give(), Box::default())
    };
    let intercepted = |c: &SvmVcpu| c.vmcb.intercept_cr_read & 1 != 0;
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
    assert_eq!(c.vmcb.tlb_control, tlb_control::EVERYTHING);
    c.encode(&ENTRY);
    assert_eq!(c.vmcb.tlb_control, tlb_control::NOTHING);
    c.flush_linear();
    c.encode(&ENTRY);
    assert_eq!(c.vmcb.tlb_control, tlb_control::EVERYTHING);
    c.encode(&ENTRY);
    assert_eq!(c.vmcb.tlb_control, tlb_control::NOTHING, "once");
    c.features.flush_by_asid = true;
    c.encode(&Entry {
        flush: TlbFlush::Guest,
        ..ENTRY
    });
    assert_eq!(c.vmcb.tlb_control, tlb_control::THIS_GUEST);
}

#[test]
fn task_switches_leave_the_guest() {
    let c = cpu();
    assert_ne!(c.vmcb.intercept3 & Intercept3::TASK_SWITCH.bits(), 0);
}

#[test]
fn behind_a_fence_the_hardware_walks_two_sets_of_tables_and_a_task_switch_shows() {
    let mut c = cpu();
    c.set_shadow_paging(true);
    assert_eq!(c.vmcb.np_enable, 0);
    c.set_fence(Some(Hpa(0x7000)));
    c.encode(&ENTRY);
    assert_eq!(
        (c.vmcb.np_enable, c.vmcb.n_cr3, c.vmcb.cr3),
        (NP_ENABLE, 0x7000, ENTRY.root.0)
    );
    assert_eq!(c.switched_tasks(), None);
    c.vmcb.cr3 = 0x0600_0fe0;
    assert_eq!(c.switched_tasks(), Some(0x0600_0fe0));
    c.set_sysreg(SysReg::Cr0, 0x11);
    c.vmcb.cr0 |= Cr0::TS.bits();
    assert_eq!(c.sysreg(SysReg::Cr0), 0x19, "it has set TS");
    c.set_sysreg(SysReg::Cr3, 0x1000);
    assert_eq!(c.sysreg(SysReg::Cr0), 0x19);
    c.set_fence(None);
    assert_eq!(c.vmcb.np_enable, 0);
    c.set_shadow_paging(false);
    assert_eq!(c.vmcb.np_enable, NP_ENABLE);
}
