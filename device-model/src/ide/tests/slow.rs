//! Media that take their time, and media with a bad sector.

use super::super::Drive;
use super::rig::{BM, CACHE, P, Rig, S, SharedDisk, SlowDisk};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

/// A sector that is nowhere.
const NONE: u64 = u64::MAX;

/// A slow disk as primary master, a slow CD as secondary master.
fn pc(bad: u64) -> (Rig, [SharedDisk; 2], [Arc<AtomicBool>; 2]) {
    let (disk, cd) = (SharedDisk::new(400), SharedDisk::new(400));
    let (slow_disk, disk_answers) = SlowDisk::boxed(&disk, bad);
    let (slow_cd, cd_answers) = SlowDisk::boxed(&cd, bad);
    let rig = Rig::new([
        Some(Drive::disk(slow_disk)),
        None,
        Some(Drive::cdrom(Some(slow_cd))),
        None,
    ]);
    (rig, [disk, cd], [disk_answers, cd_answers])
}

fn answer(answers: &AtomicBool, yes: bool) {
    answers.store(yes, Ordering::Relaxed);
}

#[test]
fn drive_is_busy_until_the_medium_has_answered() {
    let (mut rig, [disk, _], [answers, _]) = pc(NONE);
    // READ SECTOR(S), with the data port read too early.
    rig.command28(P, 0x20, 7, 2);
    rig.wait(100_000);
    assert!(!rig.irqs.level(14));
    assert_eq!(rig.inb(P + 0x206), 0xd0);
    assert_eq!(rig.insw(P, 512), [0; 512]);
    answer(&answers, true);
    assert_eq!(rig.interrupt(P), 0x58);
    assert_eq!(rig.insw(P, 512), disk.bytes(7, 1));
    assert_eq!(rig.interrupt(P), 0x58);
    assert_eq!(rig.insw(P, 512), disk.bytes(8, 1));
    // READ DMA.
    rig.outb(BM + 2, 4);
    answer(&answers, false);
    rig.table(0, &[(0x3000, 1024)]);
    rig.command28(P, 0xc8, 9, 2);
    rig.outb(BM, 9);
    rig.wait(100_000);
    assert!(!rig.irqs.level(14));
    assert_eq!(rig.inb(BM + 2) & 7, 1);
    // Starting the engine again changes nothing.
    rig.outb(BM, 8);
    rig.outb(BM, 9);
    rig.wait(100_000);
    assert!(!rig.irqs.level(14));
    answer(&answers, true);
    assert_eq!(rig.interrupt(P), 0x50);
    assert_eq!(rig.peek(0x3000, 1024), disk.bytes(9, 2));
}

#[test]
fn writes_are_over_when_the_medium_has_them() {
    let (mut rig, [disk, _], [answers, _]) = pc(NONE);
    rig.command28(P, 0x30, 5, 1);
    rig.outsw(P, &[0x5a; 512]);
    rig.wait(100_000);
    assert!(!rig.irqs.level(14));
    assert_eq!(rig.inb(P + 7), 0xd0);
    assert_eq!(disk.bytes(5, 1)[4], 0);
    answer(&answers, true);
    assert_eq!(rig.interrupt(P), 0x50);
    assert_eq!(disk.bytes(5, 1), [0x5a; 512]);
    // WRITE DMA of more than a chunk.
    answer(&answers, false);
    rig.poke(0x1_0000, &[0x77; 0x1_4000]);
    rig.table(0, &[(0x1_0000, 0x1_0000), (0x2_0000, 0x4000)]);
    rig.command28(P, 0xca, 10, 160);
    rig.outb(BM, 1);
    rig.wait(100_000);
    assert!(!rig.irqs.level(14));
    answer(&answers, true);
    assert_eq!(rig.interrupt(P), 0x50);
    assert_eq!(disk.bytes(10, 160), vec![0x77; 160 * 512]);
}

#[test]
fn reset_waits_for_the_medium_and_leaves_a_drive_that_works() {
    let (mut rig, [disk, _], [answers, _]) = pc(NONE);
    for command in [0x20, 0xc8, 0x30] {
        answer(&answers, false);
        rig.table(0, &[(0x3000, 512)]);
        rig.command28(P, command, 7, 1);
        rig.outb(BM, 9);
        rig.outsw(P, &[1; 512]);
        rig.wait(1_000);
        assert_eq!(rig.inb(P + 7) & 0x80, 0x80, "{command:#x}");
        rig.outb(P + 0x206, 4);
        rig.outb(P + 0x206, 0);
        rig.outb(BM, 0);
        assert_eq!(rig.inb(P + 7), 0x50);
        answer(&answers, true);
        rig.command28(P, 0x20, 3, 1);
        assert_eq!(rig.interrupt(P), 0x58);
        assert_eq!(rig.insw(P, 512), disk.bytes(3, 1));
    }
}

#[test]
fn medium_may_change_while_it_is_read() {
    let (mut rig, [_, cd], [_, answers]) = pc(NONE);
    answer(&answers, true);
    rig.quiet_cd(S);
    answer(&answers, false);
    rig.packet(S, 0, 2048, &[0x28, 0, 0, 0, 0, 2, 0, 0, 1]);
    rig.wait(1_000);
    assert_eq!(rig.inb(S + 7) & 0x80, 0x80);
    assert!(rig.ide.change_medium(2, None).is_some());
    assert_eq!(rig.interrupt(S), 0x58);
    assert_eq!(rig.insw(S, 2048), cd.bytes(8, 4));
}

/// ATA/ATAPI-6 8.27, "READ DMA": the address of the first sector that could not be read, after the data of all before it.
#[test]
fn sectors_before_a_bad_one_are_transferred_and_its_address_is_told() {
    for slow in [false, true] {
        let (mut rig, [disk, _], [answers, _]) = pc(12);
        let go = |rig: &mut Rig, command, first| {
            answer(&answers, !slow);
            rig.table(0, &[(0x3000, 4096)]);
            rig.command28(P, command, first, 8);
            rig.outb(BM, if command == 0xc8 { 9 } else { 1 });
            rig.wait(10);
            answer(&answers, true);
            let status = rig.interrupt(P);
            rig.outb(BM, 0);
            (status & 0xa9, rig.inb(P + 1), rig.inb(P + 3))
        };
        rig.poke(0x3000, &[0; 4096]);
        assert_eq!(go(&mut rig, 0xc8, 9), (1, 0x40, 12), "READ DMA: UNC");
        assert_eq!(rig.peek(0x3000, 3 * 512), disk.bytes(9, 3));
        rig.poke(0x3000, &[0x33; 4096]);
        assert_eq!(go(&mut rig, 0xca, 10), (0x21, 4, 12), "WRITE DMA: DF, ABRT");
        assert_eq!(disk.bytes(10, 2), [0x33; 1024]);
        assert_eq!(go(&mut rig, 0xc8, 13), (0, 0, 21), "and the drive works");
    }
}

/// ATA/ATAPI-6 8.46.3, "Enable/disable write cache".
#[test]
fn without_a_write_cache_every_write_is_flushed() {
    let (mut rig, [disk, _], [answers, _]) = pc(NONE);
    answer(&answers, true);
    let write = |rig: &mut Rig| {
        rig.command28(P, 0x30, 5, 1);
        rig.outsw(P, &[1; 512]);
        assert_eq!(rig.interrupt(P), 0x50);
    };
    write(&mut rig);
    assert_eq!(disk.flushes(), 0);
    rig.outb(P + 1, 0x82);
    rig.outb(P + 7, 0xef);
    rig.interrupt(P);
    write(&mut rig);
    assert_eq!(disk.flushes(), 1);
}

#[test]
fn write_that_cannot_be_flushed_without_a_write_cache_has_failed() {
    for slow in [false, true] {
        let (mut rig, _, [answers, _]) = pc(CACHE);
        answer(&answers, true);
        rig.outb(P + 1, 0x82);
        rig.outb(P + 7, 0xef);
        rig.interrupt(P);
        answer(&answers, !slow);
        rig.command28(P, 0x30, 5, 1);
        rig.outsw(P, &[1; 512]);
        rig.wait(10);
        answer(&answers, true);
        assert_eq!(rig.interrupt(P) & 0xa9, 0x21, "WRITE SECTOR(S)");
        answer(&answers, !slow);
        rig.table(0, &[(0x3000, 512)]);
        rig.command28(P, 0xca, 5, 1);
        rig.outb(BM, 1);
        rig.wait(10);
        answer(&answers, true);
        assert_eq!(rig.interrupt(P) & 0xa9, 0x21, "WRITE DMA");
    }
}
