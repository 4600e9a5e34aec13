//! Sectors through the data port, interrupts, and errors of the ATA commands.

use super::rig::{BM, P, Rig, SharedDisk};
use crate::ata::Drive;
use hv_core::device::{AccessSize, Device};
use hv_core::time::VmTime;

#[test]
fn seabios_pio_read_of_many_sectors_polls_once_a_sector() {
    let (mut rig, disk, _) = Rig::pc(300, 16);
    rig.outb(0x3f6, 0x0a);
    rig.command28(P, 0x20, 10, 0);
    let mut data = vec![];
    for i in 0..256 {
        rig.inb(0x3f6); // pause_await_not_bsy: one look, then the status
        assert_eq!(rig.inb(P + 7), 0x58, "sector {i}");
        data.extend(rig.insw(P, 512));
    }
    assert_eq!(data, disk.bytes(10, 256));
    rig.inb(0x3f6);
    assert_eq!((rig.inb(P + 7), rig.inb(P + 1)), (0x50, 0));
    rig.outb(0x3f6, 8);
    rig.wait(100);
    assert!(rig.irqs.take().is_empty());
}

#[test]
fn interrupt_never_comes_inside_the_command_and_one_look_does_not_eat_it() {
    let (mut rig, ..) = Rig::pc(64, 16);
    rig.command28(P, 0x20, 0, 1);
    assert!(rig.irqs.take().is_empty());
    assert_eq!(rig.bench.requests.wake, Some(VmTime(2_000)));
    assert_eq!(rig.inb(P + 7) & 0x80, 0x80);
    rig.wait(2);
    assert_eq!(rig.irqs.take(), [(14, true)]);
    assert_eq!(rig.inb(BM + 2) & 4, 4, "bus-master interrupt bit for PIO");
    assert_eq!(rig.inb(0x3f6), 0x58);
    assert!(rig.irqs.level(14), "alternate status acknowledged");
    assert_eq!(rig.inb(P + 7), 0x58);
    assert_eq!(rig.irqs.take(), [(14, false)]);
}

#[test]
fn guest_that_polls_does_not_depend_on_time() {
    let (mut rig, ..) = Rig::pc(64, 16);
    rig.command28(P, 0xec, 0, 0);
    assert_eq!([rig.inb(P + 7) & 0x80, rig.inb(P + 7)], [0x80, 0x58]);
    rig.wait(100);
    assert!(
        rig.irqs.take().is_empty(),
        "interrupt though the status was read"
    );
}

#[test]
fn pio_read_interrupts_before_each_block_and_not_after_the_last() {
    let (mut rig, disk, _) = Rig::pc(64, 16);
    rig.command28(P, 0x20, 3, 2);
    for n in 3..5 {
        assert_eq!(rig.interrupt(P), 0x58);
        assert_eq!(rig.insw(P, 512), disk.bytes(n, 1));
    }
    rig.wait(100);
    assert!(!rig.irqs.level(14));
    assert_eq!(rig.inb(P + 7), 0x50);
    assert_eq!([rig.inb(P + 3), rig.inb(P + 2)], [5, 0]);
}

#[test]
fn pio_write_interrupts_after_each_block_and_not_before_the_first() {
    let (mut rig, disk, _) = Rig::pc(64, 16);
    rig.command28(P, 0x30, 3, 2);
    rig.wait(100);
    assert!(!rig.irqs.level(14));
    assert_eq!(rig.inb(P + 7), 0x58);
    rig.outsw(P, &[1; 512]);
    assert_eq!(rig.interrupt(P), 0x58);
    rig.outsw(P, &[2; 512]);
    assert_eq!(rig.interrupt(P), 0x50);
    assert_eq!(disk.bytes(3, 2), [[1; 512], [2; 512]].concat());
}

#[test]
fn read_and_write_multiple_move_blocks() {
    let (mut rig, disk, _) = Rig::pc(64, 16);
    rig.command28(P, 0xc6, 0, 8);
    assert_eq!(rig.interrupt(P), 0x50);
    rig.command28(P, 0xc4, 1, 10);
    assert_eq!(rig.interrupt(P), 0x58);
    assert_eq!(rig.insw(P, 8 * 512), disk.bytes(1, 8));
    assert_eq!(rig.interrupt(P), 0x58);
    assert_eq!(rig.insw(P, 2 * 512), disk.bytes(9, 2));
    assert_eq!(rig.inb(P + 7), 0x50);
    rig.command28(P, 0xc5, 20, 10);
    rig.outsw(P, &[7; 8 * 512]);
    assert_eq!(rig.interrupt(P), 0x58);
    rig.outsw(P, &[8; 2 * 512]);
    assert_eq!(rig.interrupt(P), 0x50);
    assert_eq!(
        disk.bytes(20, 10),
        [vec![7; 8 * 512], vec![8; 2 * 512]].concat()
    );
    for (count, ok) in [(0, true), (3, false), (32, false), (16, true)] {
        rig.command28(P, 0xc6, 0, count);
        assert_eq!(rig.interrupt(P) == 0x50, ok, "{count}");
    }
}

#[test]
fn long_pio_write_reaches_the_disk_whole() {
    let (mut rig, disk, _) = Rig::pc(600, 16);
    let data: Vec<u8> = (0..400u32 * 512).map(|i| (i / 7) as u8).collect();
    rig.command48(P, 0x34, 100, 400);
    for s in data.chunks(512) {
        rig.outsw(P, s);
        rig.not_busy(P);
    }
    assert_eq!(rig.inb(P + 7), 0x50);
    assert!(disk.bytes(100, 400) == data);
}

#[test]
fn every_access_width_reads_the_same_stream() {
    let (mut rig, disk, _) = Rig::pc(64, 16);
    let data = disk.bytes(5, 1);
    rig.command28(P, 0x20, 5, 1);
    rig.interrupt(P);
    let mut got = vec![];
    for (i, size) in [AccessSize::Dword, AccessSize::Word]
        .into_iter()
        .cycle()
        .enumerate()
    {
        if got.len() == 510 || i > 512 {
            break;
        }
        let v = rig.ide.port_read(&mut rig.bench.cx(), P, size);
        got.extend_from_slice(&v.to_le_bytes()[..size.bytes()]);
    }
    assert_eq!(got, data[..510]);
    // A byte takes a word off the drive.
    assert_eq!(rig.inb(P), data[510]);
    assert_eq!(rig.inb(P + 7), 0x50);
    assert_eq!(rig.inb(P), 0, "data port without DRQ");
}

#[test]
fn address_out_of_range_is_not_found() {
    let (mut rig, ..) = Rig::pc(64, 16);
    for (lba, count, ok) in [
        (63, 1, true),
        (63, 2, false),
        (64, 1, false),
        (0xffff_ffff_ffff, 1, false),
        (0, 0, false),
    ] {
        for command in [0x24, 0x25, 0x29, 0x34, 0x35, 0x39, 0x42] {
            rig.command48(P, command, lba, count);
            rig.wait(10);
            let (status, error) = (rig.inb(P + 7), rig.inb(P + 1));
            assert_eq!(status & 1 == 0, ok, "{command:#x} {lba} {count}");
            assert_eq!(error, if ok { 0 } else { 0x10 });
            rig.outb(0x3f6, 4);
            rig.outb(0x3f6, 0);
        }
    }
}

#[test]
fn medium_errors_become_ata_errors() {
    let (mut rig, disk, _) = Rig::pc(64, 16);
    disk.set_fail(true);
    for (command, error, fault) in [(0x20, 0x40, 0), (0xe7, 4, 0x20)] {
        rig.command28(P, command, 9, 1);
        assert_eq!(rig.interrupt(P) & 0xa9, 1 | fault, "{command:#x}");
        assert_eq!(rig.inb(P + 1), error);
    }
    assert_eq!(rig.inb(P + 3), 9);
    rig.command28(P, 0x30, 9, 1);
    rig.outsw(P, &[0; 512]);
    assert_eq!(rig.interrupt(P) & 0xa9, 0x21);
    rig.table(0, &[(0x3000, 512)]);
    rig.command28(P, 0xc8, 9, 1);
    rig.outb(BM, 9);
    assert_eq!(rig.interrupt(P) & 0x89, 1);
    assert_eq!(rig.inb(BM + 2) & 4, 4);
}

#[test]
fn write_protected_disk_refuses_writes() {
    let disk = SharedDisk::new(8);
    disk.set_read_only();
    let mut rig = Rig::new([Some(Drive::disk(disk.boxed())), None, None, None]);
    for command in [0x30, 0xca, 0xc5] {
        rig.command28(P, command, 0, 1);
        assert_eq!(rig.interrupt(P), 0x41);
        assert_eq!(rig.inb(P + 1), 0x44);
    }
}
