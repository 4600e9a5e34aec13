//! One local APIC, register by register.

use super::{Accept, DeliveryMode, Effect, Lapic, Message, Shorthand};
use hv_core::VmTime;

pub(super) const T0: VmTime = VmTime(1_000);

fn enabled() -> Lapic {
    let mut a = Lapic::new(0);
    a.write(T0, 0xf0, 0x1ff);
    a
}

pub(super) fn fixed(vector: u8, level: bool) -> Message {
    Message {
        destination: 0,
        logical: false,
        mode: DeliveryMode::Fixed,
        vector,
        level,
    }
}

pub(super) fn acknowledge(a: &mut Lapic) -> Option<u8> {
    let vector = a.waiting().deliverable?;
    a.begin_service(vector);
    Some(vector)
}

#[test]
fn reset_values_are_the_manuals() {
    let a = Lapic::new(0);
    for (offset, value) in [
        (0x20, 0),
        (0x30, 0x0005_0014),
        (0x80, 0),
        (0xd0, 0),
        (0xe0, 0xffff_ffff),
        (0xf0, 0xff),
        (0x320, 0x1_0000),
        (0x350, 0x1_0000),
        (0x370, 0x1_0000),
        (0x390, 0),
    ] {
        assert_eq!(a.read(T0, offset), value, "{offset:#x}");
    }
    assert_eq!(a.apic_base(), 0xfee0_0900);
    assert_eq!(Lapic::new(1).apic_base(), 0xfee0_0800);
}

#[test]
fn interrupt_is_delivered_only_above_the_task_priority() {
    let mut a = enabled();
    a.write(T0, 0x80, 0x40);
    assert_eq!(a.receive(fixed(0x4f, false)), Accept::Interrupt);
    assert_eq!(a.waiting().deliverable, None);
    a.receive(fixed(0x51, false));
    assert_eq!(acknowledge(&mut a), Some(0x51));
    assert_eq!(a.read(T0, 0xa0), 0x50);
    a.write(T0, 0x80, 0x3f);
    assert_eq!(a.waiting().deliverable, None, "51h is in service");
    a.write(T0, 0xb0, 0);
    assert_eq!(acknowledge(&mut a), Some(0x4f));
}

#[test]
fn irr_isr_and_tmr_read_as_eight_registers() {
    let mut a = enabled();
    a.receive(fixed(0x31, true));
    a.receive(fixed(0xfe, false));
    assert_eq!(a.read(T0, 0x210), 1 << 0x11);
    assert_eq!(a.read(T0, 0x190), 1 << 0x11);
    assert_eq!(a.read(T0, 0x270), 1 << 30);
    acknowledge(&mut a);
    assert_eq!(a.read(T0, 0x170), 1 << 30);
    assert_eq!(a.read(T0, 0x270), 0);
}

#[test]
fn only_level_interrupts_broadcast_their_end() {
    let mut a = enabled();
    a.receive(fixed(0x61, true));
    acknowledge(&mut a);
    assert_eq!(a.write(T0, 0xb0, 0), Effect::Eoi(0x61));
    a.receive(fixed(0x61, false));
    acknowledge(&mut a);
    assert_eq!(a.write(T0, 0xb0, 0), Effect::None);
    assert_eq!(a.write(T0, 0xb0, 0), Effect::None, "nothing in service");
}

#[test]
fn software_disabled_refuses_fixed_takes_nmi_and_masks_the_lvt() {
    let mut a = enabled();
    a.write(T0, 0x350, 0x700);
    assert!(a.ext_int());
    a.write(T0, 0xf0, 0xff);
    assert!(!a.ext_int());
    a.write(T0, 0x350, 0x700);
    assert_eq!(a.read(T0, 0x350), 0x1_0700);
    assert_eq!(a.receive(fixed(0x40, false)), Accept::Refused);
    assert_eq!(
        a.receive(Message {
            mode: DeliveryMode::Nmi,
            ..fixed(0, false)
        }),
        Accept::Nmi
    );
}

#[test]
fn virtual_wire_preset_passes_extint_before_software_enables() {
    let mut a = Lapic::new(0);
    a.preset_virtual_wire();
    assert!(a.ext_int());
    a.write(T0, 0x350, 0x1_0700);
    assert!(!a.ext_int());
}

#[test]
fn one_shot_timer_counts_down_and_fires_once() {
    let mut a = enabled();
    a.write(T0, 0x3e0, 0x3); // divide by 16
    a.write(T0, 0x320, 0xef);
    a.write(T0, 0x380, 1000);
    assert_eq!(a.deadline(), Some(T0 + VmTime(16_000)));
    let now = T0 + VmTime(8_000);
    assert!(!a.advance(now));
    assert_eq!(a.read(now, 0x390), 500);
    let now = T0 + VmTime(16_000);
    assert!(a.advance(now));
    assert_eq!(a.read(now, 0x390), 0);
    assert_eq!(a.deadline(), None);
    assert_eq!(acknowledge(&mut a), Some(0xef));
    assert!(!a.advance(now + VmTime(1_000_000)));
}

#[test]
fn divide_configuration_covers_1_to_128() {
    let mut a = enabled();
    for (code, shift) in [
        (0xb, 0),
        (0, 1),
        (1, 2),
        (2, 3),
        (3, 4),
        (8, 5),
        (9, 6),
        (0xa, 7),
    ] {
        a.write(T0, 0x3e0, code);
        assert_eq!(a.timer.shift(), shift, "{code:#x}");
    }
}

#[test]
fn periodic_timer_keeps_its_phase_and_coalesces_missed_periods() {
    let mut a = enabled();
    a.write(T0, 0x3e0, 0xb);
    a.write(T0, 0x320, 0x2_00ef);
    a.write(T0, 0x380, 1_000_000);
    let now = T0 + VmTime(3_500_000);
    assert!(a.advance(now));
    assert_eq!(a.deadline(), Some(T0 + VmTime(4_000_000)));
    assert_eq!(a.read(now, 0x390), 500_000);
    assert_eq!(acknowledge(&mut a), Some(0xef));
    a.write(now, 0xb0, 0);
    assert_eq!(a.waiting().deliverable, None);
    a.write(now, 0x380, 0);
    assert_eq!(a.deadline(), None);
}

#[test]
fn shortest_period_is_bounded() {
    let mut a = enabled();
    a.write(T0, 0x3e0, 0xb);
    a.write(T0, 0x320, 0x2_00ef);
    a.write(T0, 0x380, 1);
    a.advance(T0 + VmTime(1));
    assert!(a.deadline().unwrap() >= T0 + VmTime(super::timer::MIN_PERIOD));
}

#[test]
fn masked_timer_runs_without_interrupt_as_linux_calibrates_it() {
    let mut a = enabled();
    a.write(T0, 0x3e0, 0x3);
    a.write(T0, 0x320, 0x1_00ef);
    a.write(T0, 0x380, u32::MAX);
    assert_eq!(a.deadline(), None);
    let now = T0 + VmTime(100_000_000);
    assert_eq!(a.read(now, 0x390), u32::MAX - 6_250_000);
}

/// SDM vol 3A 12.5.4.1, "TSC-Deadline Mode".
#[test]
fn tsc_deadline_fires_once_and_reads_zero_then() {
    let mut a = enabled();
    a.write(T0, 0x320, 0x4_00ef);
    let at = T0 + VmTime(1000);
    assert_eq!(a.set_tsc_deadline(77, at), super::Effect::Timer);
    assert_eq!((a.tsc_deadline(), a.deadline()), (77, Some(at)));
    a.write(T0, 0x380, 5);
    assert_eq!(a.read(T0, 0x380), 0, "the count is ignored");
    assert_eq!(a.read(T0, 0x390), 0);
    a.write(T0, 0x3e0, 0xb);
    assert_eq!(a.deadline(), Some(at), "so is the divider");
    assert!(!a.advance(T0 + VmTime(999)));
    assert!(a.advance(at));
    assert_eq!(acknowledge(&mut a), Some(0xef));
    assert_eq!((a.tsc_deadline(), a.deadline()), (0, None));
    a.set_tsc_deadline(78, at);
    a.set_tsc_deadline(0, at);
    assert_eq!(a.deadline(), None, "0 disarms");
}

#[test]
fn timer_is_disarmed_when_tsc_deadline_mode_begins_or_ends() {
    let mut a = enabled();
    a.write(T0, 0x380, 1_000_000);
    a.write(T0, 0x320, 0x4_00ef);
    assert_eq!(a.deadline(), None);
    a.set_tsc_deadline(77, T0 + VmTime(1000));
    a.write(T0, 0x320, 0x4_00ee);
    assert!(a.deadline().is_some(), "another vector disarms nothing");
    a.write(T0, 0x320, 0x0_00ef);
    assert_eq!((a.tsc_deadline(), a.deadline()), (0, None));
    assert_eq!(a.set_tsc_deadline(77, T0), super::Effect::None);
    assert_eq!(a.tsc_deadline(), 0, "ignored in other modes");
}

#[test]
fn logical_destinations_match_flat_and_cluster() {
    let mut a = enabled();
    a.write(T0, 0xd0, 0x2100_0000);
    assert!(a.address().is_destination(0x01, true));
    assert!(!a.address().is_destination(0x02, true));
    a.write(T0, 0xe0, 0x0fff_ffff);
    assert!(a.address().is_destination(0x21, true));
    assert!(a.address().is_destination(0xf3, true));
    assert!(!a.address().is_destination(0x11, true));
    assert!(!a.address().is_destination(0x22, true));
    assert!(a.address().is_destination(Message::wide(0xff), false));
    assert!(a.address().is_destination(0x00, false));
}

#[test]
fn icr_reads_back_idle_and_ignores_init_deassert() {
    let mut a = enabled();
    a.write(T0, 0x310, 0x0300_0000);
    let sent = a.write(T0, 0x300, 0x1840 | 1 << 12);
    assert_eq!(
        sent,
        Effect::Send(
            Message {
                destination: 3,
                logical: true,
                ..fixed(0x40, false)
            },
            Shorthand::Destination
        )
    );
    assert_eq!(a.read(T0, 0x300), 0x840);
    assert_eq!(a.write(T0, 0x300, 0x8500), Effect::None);
    assert!(matches!(
        a.write(T0, 0x300, 0xc_4500),
        Effect::Send(_, Shorthand::Others)
    ));
}

#[test]
fn startup_counts_only_after_init_and_once() {
    let mut a = Lapic::new(1);
    let sipi = Message {
        mode: DeliveryMode::StartUp,
        ..fixed(0x99, false)
    };
    assert_eq!(a.receive(sipi), Accept::StartUp(0x99));
    assert_eq!(a.receive(sipi), Accept::Refused);
    a.write(T0, 0x20, 0x0500_0000);
    assert_eq!(
        a.receive(Message {
            mode: DeliveryMode::Init,
            ..sipi
        }),
        Accept::Init
    );
    assert_eq!(a.read(T0, 0x20), 0x0500_0000, "INIT keeps the ID");
    assert_eq!(a.receive(sipi), Accept::StartUp(0x99));
}

#[test]
fn illegal_vectors_show_in_the_esr_after_a_write_to_it() {
    let mut a = enabled();
    a.write(T0, 0x370, 0xfe);
    a.write(T0, 0x300, 0x4_0005);
    a.receive(fixed(3, false));
    assert_eq!(a.read(T0, 0x280), 0);
    a.write(T0, 0x280, 0);
    assert_eq!(a.read(T0, 0x280), 0x60);
    assert_eq!(acknowledge(&mut a), Some(0xfe));
    a.write(T0, 0x280, 0);
    assert_eq!(a.read(T0, 0x280), 0);
}

#[test]
fn apic_base_refuses_reserved_bits_and_disabling_forgets() {
    let mut a = enabled();
    assert!(!a.set_apic_base(0xfee0_0901));
    assert!(!a.set_apic_base(1 << 60 | 0xfee0_0900));
    assert!(a.set_apic_base(0xfee0_0900));
    a.receive(fixed(0x40, false));
    assert!(a.set_apic_base(0xfee0_0100));
    assert_eq!(a.waiting().deliverable, None);
    assert!(!a.enabled());
}
