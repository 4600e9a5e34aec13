//! The bus master, driven in the orders that drivers use.

use super::rig::{BM, P, Rig};
use hv_core::device::Device;
use hv_core::time::VmTime;

#[test]
fn engine_may_start_before_the_command() {
    let (mut rig, disk, _) = Rig::pc(64, 16);
    rig.poke(0x3000, &[0x5a; 1024]);
    rig.table(0, &[(0x3000, 1024)]);
    rig.outb(BM, 1);
    rig.wait(100);
    assert!(!rig.irqs.level(14));
    rig.command28(P, 0xca, 7, 2);
    assert_eq!(rig.interrupt(P), 0x50);
    assert_eq!(rig.inb(BM + 2) & 7, 4);
    assert_eq!(disk.bytes(7, 2), [0x5a; 1024]);
}

#[test]
fn command_waits_busy_until_the_engine_starts() {
    let (mut rig, ..) = Rig::pc(64, 16);
    rig.table(0, &[(0x3000, 512)]);
    rig.command28(P, 0xc8, 7, 1);
    rig.wait(1_000);
    assert!(!rig.irqs.level(14));
    assert_eq!(rig.inb(P + 7) & 0x80, 0x80);
    rig.outb(BM, 9);
    assert_eq!(rig.interrupt(P), 0x50);
}

#[test]
fn table_longer_than_the_transfer_leaves_the_engine_active() {
    let (mut rig, ..) = Rig::pc(64, 16);
    rig.table(0, &[(0x3000, 1024)]);
    rig.command28(P, 0xc8, 7, 1);
    rig.outb(BM, 9);
    assert_eq!(rig.interrupt(P), 0x50);
    assert_eq!(rig.inb(BM + 2) & 7, 5);
    rig.outb(BM, 8);
    assert_eq!(rig.inb(BM + 2) & 7, 4);
}

#[test]
fn table_shorter_than_the_transfer_stops_without_interrupt_and_a_new_start_goes_on() {
    let (mut rig, disk, _) = Rig::pc(64, 16);
    rig.table(0, &[(0x3000, 512)]);
    rig.command28(P, 0xc8, 7, 2);
    rig.outb(BM, 9);
    rig.wait(1_000);
    assert!(!rig.irqs.level(14));
    assert_eq!(rig.inb(BM + 2) & 7, 0);
    assert_eq!(rig.inb(P + 7) & 0x80, 0x80);
    rig.outb(BM, 8);
    rig.table(0, &[(0x4000, 512)]);
    rig.outb(BM, 9);
    assert_eq!(rig.interrupt(P), 0x50);
    assert_eq!(
        [rig.peek(0x3000, 512), rig.peek(0x4000, 512)].concat(),
        disk.bytes(7, 2)
    );
}

#[test]
fn dma_to_an_address_without_memory_sets_the_error_bit() {
    let (mut rig, ..) = Rig::pc(64, 16);
    rig.table(0, &[(0xffff_f000, 512)]);
    rig.command28(P, 0xc8, 7, 1);
    rig.outb(BM, 9);
    rig.wait(1_000);
    assert_eq!(rig.inb(BM + 2) & 7, 2);
    // The driver gives up and resets the channel.
    rig.outb(0x3f6, 0x0c);
    assert_eq!(rig.inb(P + 7), 0x80);
    rig.outb(0x3f6, 8);
    assert_eq!(rig.inb(P + 7), 0x50);
}

#[test]
fn dma_longer_than_a_step_gives_the_cpu_its_turn() {
    let (mut rig, disk, _) = Rig::pc(2048, 16);
    rig.table(
        0,
        &[
            (0x1_0000, 0),
            (0x2_0000, 0),
            (0x3_0000, 0),
            (0x4_0000, 0),
            (0x5_0000, 0),
            (0x6_0000, 0),
            (0x7_0000, 0),
            (0x8_0000, 0),
        ],
    );
    rig.command48(P, 0x25, 0, 1024);
    rig.outb(BM, 9);
    rig.bench.now = VmTime::from_micros(2);
    assert!(rig.ide.poll(&mut rig.bench.cx()).is_some(), "all in one go");
    assert_eq!(rig.interrupt(P), 0x50);
    assert_eq!(rig.inb(BM + 2) & 7, 4);
    assert!(rig.peek(0x1_0000, 0x8_0000) == disk.bytes(0, 1024));
    rig.command48(P, 0x35, 1024, 1024);
    rig.outb(BM, 0);
    rig.outb(BM, 1);
    assert_eq!(rig.interrupt(P), 0x50);
    assert!(disk.bytes(1024, 1024) == disk.bytes(0, 1024));
}

#[test]
fn status_read_that_ends_the_transfer_latches_the_interrupt_bit_without_moving_the_line() {
    let (mut rig, ..) = Rig::pc(64, 16);
    rig.table(0, &[(0x3000, 512)]);
    rig.command28(P, 0xc8, 7, 1);
    rig.outb(BM, 9);
    assert_eq!([rig.inb(P + 7), rig.inb(P + 7)], [0xd0, 0x50]);
    assert_eq!(rig.inb(BM + 2) & 7, 4);
    assert!(rig.irqs.take().is_empty());
}

#[test]
fn polling_the_bus_master_status_ends_the_transfer_without_time() {
    let (mut rig, ..) = Rig::pc(64, 16);
    rig.table(0, &[(0x3000, 512)]);
    rig.command28(P, 0xc8, 7, 1);
    rig.outb(BM, 9);
    assert_eq!([rig.inb(BM + 2) & 7, rig.inb(BM + 2) & 7], [1, 4]);
    assert!(rig.irqs.level(14));
}

#[test]
fn clearing_start_stops_a_transfer_and_reset_frees_the_drive() {
    let (mut rig, disk, _) = Rig::pc(64, 16);
    rig.table(0, &[(0x3000, 512)]);
    rig.command28(P, 0xc8, 7, 1);
    rig.outb(BM, 9);
    rig.outb(BM, 8);
    rig.wait(100);
    assert_eq!((rig.inb(P + 7) & 0x80, rig.inb(BM + 2) & 7), (0x80, 0));
    rig.outb(0x3f6, 4);
    rig.outb(0x3f6, 0);
    rig.command28(P, 0x20, 7, 1);
    assert_eq!(rig.interrupt(P), 0x58);
    assert_eq!(rig.insw(P, 512), disk.bytes(7, 1));
}
