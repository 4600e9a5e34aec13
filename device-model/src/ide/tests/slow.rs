//! Media that take their time, and media with a bad sector.

use super::rig::{BM, CACHE, P, Rig, S, SharedDisk, SlowDisk};
use crate::ata::Drive;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use hv_core::testing::VecMemory;

/// A sector that is nowhere.
const NONE: u64 = u64::MAX;

/// A slow disk as primary master, a slow CD as secondary master; `direct`: they access the guest's memory by themselves.
fn pc_with(bad: u64, direct: bool) -> (Rig, [SharedDisk; 2], [Arc<AtomicBool>; 2]) {
    let (disk, cd) = (SharedDisk::new(400), SharedDisk::new(400));
    let memory = VecMemory::new(1 << 20);
    let given = direct.then_some(&memory);
    let (slow_disk, disk_answers) = SlowDisk::boxed(&disk, bad, given);
    let (slow_cd, cd_answers) = SlowDisk::boxed(&cd, bad, given);
    let mut rig = Rig::new([
        Some(Drive::disk(slow_disk)),
        None,
        Some(Drive::cdrom(Some(slow_cd))),
        None,
    ]);
    rig.bench.mem = memory;
    (rig, [disk, cd], [disk_answers, cd_answers])
}

fn pc(bad: u64) -> (Rig, [SharedDisk; 2], [Arc<AtomicBool>; 2]) {
    pc_with(bad, false)
}

fn answer(answers: &AtomicBool, yes: bool) {
    answers.store(yes, Ordering::Relaxed);
}

#[test]
fn drive_is_busy_until_the_medium_has_answered() {
    for direct in [false, true] {
        let (mut rig, [disk, _], [answers, _]) = pc_with(NONE, direct);
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
}

#[test]
fn writes_are_over_when_the_medium_has_them() {
    for direct in [false, true] {
        let (mut rig, [disk, _], [answers, _]) = pc_with(NONE, direct);
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
}

#[test]
fn reset_waits_for_the_medium_and_leaves_a_drive_that_works() {
    for direct in [false, true] {
        let (mut rig, [disk, _], [answers, _]) = pc_with(NONE, direct);
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
    for (slow, direct) in [(false, false), (true, false), (false, true), (true, true)] {
        let (mut rig, [disk, _], [answers, _]) = pc_with(12, direct);
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
    for (slow, direct) in [(false, false), (true, false), (false, true), (true, true)] {
        let (mut rig, _, [answers, _]) = pc_with(CACHE, direct);
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

#[test]
fn data_go_straight_to_memory_in_whole_sectors_and_memory_is_told() {
    let (mut rig, [disk, cd], [answers, cd_answers]) = pc_with(NONE, true);
    answer(&answers, true);
    answer(&cd_answers, true);
    // Five regions that do not touch, one of them in two halves, and more than one request has room for.
    let regions = [
        (0x3000, 512),
        (0x4000, 256),
        (0x5000, 256),
        (0x6000, 1024),
        (0x7000, 512),
    ];
    rig.table(0, &regions);
    rig.command28(P, 0xc8, 7, 5);
    rig.outb(BM, 9);
    assert_eq!(rig.interrupt(P), 0x50);
    let told: Vec<_> = regions.map(|(at, len)| (at.into(), len as usize)).into();
    assert_eq!(rig.bench.mem.take_written(), told);
    let read: Vec<u8> = told
        .iter()
        .flat_map(|&(at, len)| rig.peek(at, len))
        .collect();
    assert_eq!(read, disk.bytes(7, 5));
    assert_eq!(rig.inb(BM + 2) & 7, 4);
    rig.outb(BM, 0);
    // The same memory written to another place, and regions that touch are one.
    rig.table(0, &[(0x6000, 512), (0x6200, 512)]);
    rig.command28(P, 0xca, 40, 2);
    rig.outb(BM, 1);
    assert_eq!(rig.interrupt(P), 0x50);
    assert_eq!(disk.bytes(40, 2), disk.bytes(9, 2));
    assert_eq!(rig.bench.mem.take_written(), []);
    // Two blocks of a CD, the first in two regions.
    rig.quiet_cd(S);
    rig.table(1, &[(0x8000, 512), (0x9000, 3584)]);
    rig.packet(S, 1, 0, &[0x28, 0, 0, 0, 0, 2, 0, 0, 2]);
    rig.outb(BM + 8, 9);
    assert_eq!(rig.interrupt(S), 0x50);
    assert_eq!(
        rig.bench.mem.take_written(),
        [(0x8000, 512), (0x9000, 3584)]
    );
    let read = [rig.peek(0x8000, 512), rig.peek(0x9000, 3584)].concat();
    assert_eq!(read, cd.bytes(8, 8));
}

#[test]
fn data_for_what_is_no_memory_or_no_whole_sector_go_through_the_buffer() {
    let (mut rig, [disk, _], [answers, _]) = pc_with(NONE, true);
    answer(&answers, true);
    rig.table(0, &[(0x3000, 512), (0x4000, 100), (0x5000, 412)]);
    rig.command28(P, 0xc8, 7, 2);
    rig.outb(BM, 9);
    assert_eq!(rig.interrupt(P), 0x50);
    assert_eq!(rig.peek(0x3000, 512), disk.bytes(7, 1));
    let second = [rig.peek(0x4000, 100), rig.peek(0x5000, 412)].concat();
    assert_eq!(second, disk.bytes(8, 1));
    rig.outb(BM, 0);
    rig.outb(BM + 2, 4);
    // The end of RAM within the second sector: the first arrives, and the engine stops with an error.
    rig.poke(0xf_ff00, &[0; 256]);
    rig.table(0, &[(0x3000, 512), (0xf_ff00, 512)]);
    rig.command28(P, 0xc8, 20, 2);
    rig.outb(BM, 9);
    rig.wait(1_000);
    assert!(!rig.irqs.level(14));
    assert_eq!(rig.inb(BM + 2) & 7, 2);
    assert_eq!(rig.peek(0x3000, 512), disk.bytes(20, 1));
}

#[test]
fn drive_that_is_reset_has_told_memory_what_it_wrote() {
    let (mut rig, [disk, _], _) = pc_with(NONE, true);
    rig.table(0, &[(0x3000, 512)]);
    rig.command28(P, 0xc8, 7, 1);
    rig.outb(BM, 9);
    rig.wait(1_000);
    assert_eq!(rig.bench.mem.take_written(), []);
    rig.outb(P + 0x206, 4);
    assert_eq!(rig.bench.mem.take_written(), [(0x3000, 512)]);
    assert_eq!(rig.peek(0x3000, 512), disk.bytes(7, 1));
}

/// The engine is told to start again, with another table, while the medium is at a request that will fail.
#[test]
fn engine_that_was_started_anew_keeps_its_new_table() {
    let (mut rig, [disk, _], [answers, _]) = pc_with(9, true);
    rig.table(0, &[(0x3000, 1024)]);
    rig.command28(P, 0xc8, 8, 2);
    rig.outb(BM, 9);
    rig.outb(BM, 8);
    rig.table(0, &[(0x5000, 1024)]);
    rig.outb(BM, 9);
    answer(&answers, true);
    assert_eq!(rig.interrupt(P) & 1, 1);
    assert_eq!(rig.peek(0x5000, 512), disk.bytes(8, 1));
}

#[test]
fn flush_is_over_when_the_medium_says_so() {
    let (mut rig, [disk, _], [answers, _]) = pc(NONE);
    rig.outb(P + 6, 0xe0);
    rig.outb(P + 7, 0xe7);
    rig.wait(100_000);
    assert!(!rig.irqs.level(14));
    assert_eq!(rig.inb(P + 7), 0xd0);
    assert_eq!(disk.flushes(), 0);
    answer(&answers, true);
    assert_eq!(rig.interrupt(P), 0x50);
    assert_eq!(disk.flushes(), 1);
    // One that fails.
    let (mut rig, _, [answers, _]) = pc(CACHE);
    answer(&answers, true);
    rig.outb(P + 6, 0xe0);
    rig.outb(P + 7, 0xea);
    assert_eq!(rig.interrupt(P) & 0xa9, 0x21);
    assert_eq!(rig.inb(P + 1), 4);
}
