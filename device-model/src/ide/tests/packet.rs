//! The PACKET protocol.

use super::rig::{BM, Rig, S, SharedDisk};

#[test]
fn first_packet_reports_unit_attention_once() {
    let (mut rig, ..) = Rig::pc(64, 16);
    rig.outb(S + 6, 0xa0);
    rig.packet(S, 0, 8, &[0]);
    assert_eq!(rig.interrupt(S), 0x41);
    assert_eq!([rig.inb(S + 1), rig.inb(S + 2)], [0x60, 3]);
    rig.packet(S, 0, 18, &[3, 0, 0, 0, 18]);
    assert_eq!(rig.interrupt(S), 0x58);
    let sense = rig.insw(S, 18);
    assert_eq!((sense[2], sense[12], sense[13]), (6, 0x29, 0));
    assert_eq!(rig.interrupt(S), 0x50);
    rig.packet(S, 0, 8, &[0]);
    assert_eq!(rig.interrupt(S), 0x50);
    assert_eq!([rig.inb(S + 1), rig.inb(S + 2)], [0, 3]);
}

#[test]
fn packet_read_moves_blocks_within_the_byte_count_limit() {
    for (limit, first) in [
        (2048u16, 2048),
        (0xffff, 65534),
        (0xfffe, 65534),
        (0, 65534),
        (3000, 3000),
        (2049, 2048),
        (1, 2),
    ] {
        let (mut rig, _, cd) = Rig::pc(64, 64);
        rig.quiet_cd(S);
        rig.packet(S, 0, limit, &[0x28, 0, 0, 0, 0, 5, 0, 0, 40]);
        let mut got = vec![];
        while got.len() < 40 * 2048 {
            assert_eq!(rig.interrupt(S), 0x58, "limit {limit}");
            assert_eq!(rig.inb(S + 2) & 3, 2);
            let n = usize::from(u16::from_le_bytes([rig.inb(S + 4), rig.inb(S + 5)]));
            assert_eq!(n, first.min(40 * 2048 - got.len()));
            got.extend(rig.insw(S, n));
        }
        assert_eq!(rig.interrupt(S), 0x50);
        assert_eq!([rig.inb(S + 1), rig.inb(S + 2) & 3], [0, 3]);
        assert!(got == cd.bytes(20, 160), "limit {limit}");
    }
}

#[test]
fn answer_of_odd_length_ends_in_half_a_word() {
    let (mut rig, ..) = Rig::pc(64, 16);
    rig.outb(S + 6, 0xa0);
    rig.packet(S, 0, 0xfffe, &[0x12, 0, 0, 0, 5]);
    assert_eq!(rig.interrupt(S), 0x58);
    assert_eq!([rig.inb(S + 4), rig.inb(S + 5)], [5, 0]);
    assert_eq!(rig.insw(S, 6), [5, 0x80, 0, 0x21, 31, 0]);
    assert_eq!(rig.interrupt(S), 0x50);
}

#[test]
fn packet_read_by_dma() {
    let (mut rig, _, cd) = Rig::pc(64, 64);
    rig.quiet_cd(S);
    rig.table(1, &[(0x1_0000, 0), (0x2_0000, 0x4000)]);
    rig.outb(BM + 8, 8);
    rig.packet(S, 1, 0, &[0xa8, 0, 0, 0, 0, 5, 0, 0, 0, 40]);
    rig.outb(BM + 8, 9);
    assert_eq!(rig.interrupt(S), 0x50);
    assert_eq!([rig.inb(BM + 10) & 7, rig.inb(S + 2) & 3], [4, 3]);
    assert!(rig.peek(0x1_0000, 0x1_4000) == cd.bytes(20, 160));
    assert_eq!(rig.inb(BM + 2) & 7, 0, "other channel touched");
}

#[test]
fn unreadable_cd_reports_medium_error() {
    let (mut rig, _, cd) = Rig::pc(64, 16);
    rig.quiet_cd(S);
    cd.set_fail(true);
    rig.packet(S, 0, 2048, &[0x28, 0, 0, 0, 0, 5, 0, 0, 1]);
    assert_eq!(rig.interrupt(S), 0x41);
    assert_eq!(rig.inb(S + 1), 0x30);
    rig.packet(S, 0, 18, &[3, 0, 0, 0, 18]);
    rig.interrupt(S);
    let sense = rig.insw(S, 18);
    assert_eq!((sense[2], sense[12], sense[13]), (3, 0x11, 0));
}

#[test]
fn device_reset_ends_a_packet_command_in_the_middle() {
    let (mut rig, ..) = Rig::pc(64, 16);
    rig.quiet_cd(S);
    rig.packet(S, 0, 2048, &[0x28, 0, 0, 0, 0, 5, 0, 0, 4]);
    rig.interrupt(S);
    rig.insw(S, 100);
    rig.outb(S + 7, 0xa1); // ignored: data are waiting
    assert_eq!(rig.inb(S + 7), 0x58);
    rig.outb(S + 7, 8);
    rig.wait(100);
    assert_eq!([4, 5, 7].map(|r| rig.inb(S + r)), [0x14, 0xeb, 0]);
    assert!(!rig.irqs.level(15));
}

#[test]
fn changed_medium_is_a_unit_attention_even_in_the_middle_of_a_read() {
    let (mut rig, ..) = Rig::pc(64, 64);
    rig.quiet_cd(S);
    rig.packet(S, 0, 2048, &[0x28, 0, 0, 0, 0, 0, 0, 0, 64]);
    rig.interrupt(S);
    let small = SharedDisk::new(4);
    assert!(rig.ide.change_medium(2, Some(small.boxed())).is_some());
    for _ in 0..64 {
        rig.insw(S, 2048);
    }
    assert_eq!(rig.interrupt(S), 0x41);
    rig.packet(S, 0, 2048, &[0]);
    assert_eq!(rig.interrupt(S), 0x41);
    assert_eq!(rig.inb(S + 1), 0x60);
    rig.packet(S, 0, 2048, &[0x25]);
    assert_eq!(rig.interrupt(S), 0x58);
    assert_eq!(rig.insw(S, 8), [0, 0, 0, 0, 0, 0, 8, 0]);
    assert!(rig.ide.change_medium(0, None).is_none());
    assert!(rig.ide.change_medium(9, Some(small.boxed())).is_some());
}
