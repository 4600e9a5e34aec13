//! As drivers program the pair, and every acknowledge cycle undone.

use super::chip::Pic;
use super::{MASTER_ELCR, PicPair, SLAVE_ELCR};
use hv_core::testing::Random;

/// As Linux's `init_8259A` (vectors 30h and 38h), everything unmasked.
fn linux(auto_eoi: bool) -> PicPair {
    let mut p = PicPair::default();
    let icw4 = if auto_eoi { 3 } else { 1 };
    for (port, value) in [
        (0x21, 0xff),
        (0x20, 0x11),
        (0x21, 0x30),
        (0x21, 0x04),
        (0x21, icw4),
        (0xa0, 0x11),
        (0xa1, 0x38),
        (0xa1, 0x02),
        (0xa1, 1),
        (0x21, 0),
        (0xa1, 0),
    ] {
        p.write(port, value);
    }
    p
}

#[test]
fn acknowledge_cycle_can_be_undone_in_every_mode() {
    let mut r = Random::new(0x8259);
    let (mut undone, mut cascaded) = (0, 0);
    for _ in 0..200_000 {
        let mut pic = |slave: bool| {
            let elcr = r.next() as u8 & if slave { SLAVE_ELCR } else { MASTER_ELCR };
            let lines = r.next() as u8;
            let auto_eoi = r.one_in(3);
            Pic {
                irr: lines & (elcr | r.next() as u8),
                isr: if auto_eoi {
                    0
                } else {
                    (r.next() & r.next()) as u8
                },
                imr: (r.next() & r.next()) as u8,
                lines,
                elcr,
                base: r.next() as u8 & 0xf8,
                highest: r.below(8) as u8,
                auto_eoi,
                rotate_on_auto_eoi: r.one_in(2),
                special_mask: r.one_in(4),
                special_nested: r.one_in(2) && !slave,
                ..Pic::default()
            }
        };
        let mut p = PicPair {
            master: pic(false),
            slave: pic(true),
            ..PicPair::default()
        };
        p.cascade();
        if !p.output() {
            continue;
        }
        let before = [p.master, p.slave];
        let vector = p.acknowledge();
        p.unacknowledge();
        assert_eq!([p.master, p.slave], before);
        assert_eq!(p.acknowledge(), vector);
        undone += 1;
        cascaded += u32::from(vector & 0xf8 == p.slave.base);
    }
    assert!(undone > 10_000 && cascaded > 1_000);
}

#[test]
fn edge_whose_line_fell_is_forgotten_when_the_cycle_is_undone() {
    let mut p = linux(false);
    p.set(0, true);
    assert_eq!(p.acknowledge(), 0x30);
    p.set(0, false);
    p.unacknowledge();
    assert!(!p.output());
    assert_eq!(p.master.isr, 0);
}

#[test]
fn edge_is_latched_and_taken_once() {
    let mut p = linux(false);
    p.set(0, true);
    assert!(p.output());
    assert_eq!(p.acknowledge(), 0x30);
    assert!(!p.output());
    p.write(0x20, 0x20);
    assert!(!p.output(), "a line that stays high is no new edge");
    p.set(0, false);
    p.set(0, true);
    assert!(p.output());
}

#[test]
fn edge_is_forgotten_when_its_line_falls() {
    let mut p = linux(false);
    for irq in [1, 12] {
        p.set(irq, true);
        assert!(p.output());
        p.set(irq, false);
        assert!(!p.output(), "{irq}");
    }
}

#[test]
fn masked_edge_is_kept_until_unmasked() {
    let mut p = linux(false);
    p.write(0x21, 0xff);
    p.set(1, true);
    assert!(!p.output());
    p.write(0x21, 0xfd);
    assert_eq!(p.acknowledge(), 0x31);
}

#[test]
fn lower_priority_waits_for_the_specific_eoi() {
    let mut p = linux(false);
    p.set(1, true);
    assert_eq!(p.acknowledge(), 0x31);
    p.set(4, true);
    assert!(!p.output());
    p.set(0, true);
    assert_eq!(p.acknowledge(), 0x30, "higher priority nests");
    p.write(0x20, 0x60);
    assert!(!p.output());
    p.write(0x20, 0x61);
    assert_eq!(p.acknowledge(), 0x34);
}

#[test]
fn slave_needs_eoi_at_both() {
    let mut p = linux(false);
    p.set(14, true);
    p.set(12, true);
    assert_eq!(p.acknowledge(), 0x3c);
    p.write(0xa0, 0x64);
    assert!(!p.output(), "the master's input 2 is in service");
    p.write(0x20, 0x62);
    assert_eq!(p.acknowledge(), 0x3e);
}

#[test]
fn special_fully_nested_mode_lets_the_slave_nest() {
    let mut p = linux(false);
    for (port, value) in [
        (0x20, 0x11),
        (0x21, 0x30),
        (0x21, 4),
        (0x21, 0x11),
        (0x21, 0),
    ] {
        p.write(port, value);
    }
    p.set(12, true);
    assert_eq!(p.acknowledge(), 0x3c);
    p.set(8, true);
    assert_eq!(p.acknowledge(), 0x38);
}

#[test]
fn level_input_follows_its_line() {
    let mut p = linux(false);
    p.write(0x4d1, 0xff);
    assert_eq!(p.read(0x4d1), 0xde);
    p.write(0x4d0, 0xff);
    assert_eq!(p.read(0x4d0), 0xf8);
    p.set(11, true);
    assert_eq!(p.acknowledge(), 0x3b);
    p.write(0xa0, 0x20);
    p.write(0x20, 0x20);
    assert!(p.output(), "still asserted");
    p.set(11, false);
    assert!(!p.output());
}

#[test]
fn elcr_written_while_a_line_is_high_requests() {
    let mut p = linux(false);
    p.set(10, true);
    assert_eq!(p.acknowledge(), 0x3a);
    p.write(0xa0, 0x20);
    p.write(0x20, 0x20);
    assert!(!p.output());
    p.write(0x4d1, 0x0c);
    assert!(p.output());
}

#[test]
fn acknowledge_without_request_is_spurious() {
    let mut p = linux(false);
    assert_eq!(p.acknowledge(), 0x37);
    p.write(0x20, 0x0b);
    assert_eq!(p.read(0x20), 0, "no in-service bit");
}

#[test]
fn auto_eoi_leaves_nothing_in_service() {
    let mut p = linux(true);
    p.set(0, true);
    p.acknowledge();
    p.write(0x20, 0x0b);
    assert_eq!(p.read(0x20), 0);
}

#[test]
fn rotation_makes_the_served_input_the_lowest() {
    let mut p = linux(false);
    p.set(3, true);
    assert_eq!(p.acknowledge(), 0x33);
    p.write(0x20, 0xa0);
    p.set(3, false);
    p.set(3, true);
    p.set(5, true);
    assert_eq!(p.acknowledge(), 0x35);
}

#[test]
fn set_priority_is_the_lowest_input() {
    let mut p = linux(false);
    p.write(0x20, 0xc0 | 4);
    p.set(4, true);
    p.set(7, true);
    assert_eq!(p.acknowledge(), 0x37);
}

#[test]
fn poll_acknowledges() {
    let mut p = linux(false);
    p.set(9, true);
    p.write(0x20, 0x0c);
    assert_eq!(p.read(0x20), 0x82);
    p.write(0xa0, 0x0c);
    assert_eq!(p.read(0xa0), 0x81);
    p.write(0xa0, 0x0c);
    assert_eq!(p.read(0xa0), 0);
}

#[test]
fn special_mask_mode_unblocks_lower_inputs() {
    let mut p = linux(false);
    p.set(1, true);
    p.acknowledge();
    p.write(0x21, 0x02);
    p.set(6, true);
    assert!(!p.output());
    p.write(0x20, 0x68);
    assert_eq!(p.acknowledge(), 0x36);
}

#[test]
fn icw1_clears_mask_service_and_edges_but_keeps_level_requests() {
    let mut p = linux(false);
    p.write(0x4d0, 0x20);
    p.set(5, true);
    p.set(4, true);
    p.write(0x21, 0xff);
    p.write(0x20, 0x13);
    assert_eq!(p.read(0x21), 0);
    assert_eq!(p.read(0x20), 0x20);
    p.write(0x21, 0x48);
    p.write(0x21, 1);
    assert_eq!(p.acknowledge(), 0x4d);
}
