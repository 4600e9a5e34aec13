//! How drivers find and set up drives, and what resets do.

use super::rig::{BM, P, Rig, S, SharedDisk, word};
use crate::ata::Drive;
use hv_core::device::{AccessSize, Device};

/// SeaBIOS's search for drives (ata_detect): which ones answer as ATA or ATAPI.
fn seabios_detect(rig: &mut Rig, base: u16) -> Vec<&'static str> {
    let mut found = vec![];
    let mut reset = false;
    for dh in [0xa0, 0xb0] {
        rig.outb(base + 6, dh);
        rig.not_busy(base);
        rig.outb(base + 6, dh);
        let newdh = rig.inb(base + 6);
        rig.outb(base + 2, 0x55);
        rig.outb(base + 3, 0xaa);
        if (rig.inb(base + 2), rig.inb(base + 3), newdh) != (0x55, 0xaa, dh) {
            continue;
        }
        if !reset {
            for v in [0x0e, 0x0a] {
                rig.outb(base + 0x206, v);
                rig.wait(5);
            }
            rig.not_busy(base);
            rig.outb(base + 6, dh);
            rig.outb(base + 0x206, 8);
            reset = true;
        }
        for (kind, command) in [("atapi", 0xa1), ("ata", 0xec)] {
            rig.outb(base + 0x206, 0x0a);
            rig.outb(base + 6, dh);
            rig.outb(base + 7, command);
            rig.inb(base + 0x206);
            let status = rig.not_busy(base);
            if status & 1 != 0 {
                assert_eq!(status & 8, 0);
            } else if status & 8 != 0 {
                rig.insw(base, 512);
                assert_eq!(rig.not_busy(base) & 0x89, 0);
                found.push(kind);
            }
            rig.outb(base + 0x206, 8);
        }
    }
    found
}

#[test]
fn seabios_finds_exactly_the_drives_that_are_there() {
    let (mut rig, ..) = Rig::pc(64, 16);
    assert_eq!(seabios_detect(&mut rig, P), ["ata"]);
    assert_eq!(seabios_detect(&mut rig, S), ["atapi"]);
    let mut rig = Rig::new([
        None,
        None,
        Some(Drive::disk(SharedDisk::new(8).boxed())),
        Some(Drive::cdrom(None)),
    ]);
    assert!(seabios_detect(&mut rig, P).is_empty());
    assert_eq!(seabios_detect(&mut rig, S), ["ata", "atapi"]);
    rig.wait(100);
    assert!(rig.irqs.take().is_empty(), "interrupt though disabled");
}

#[test]
fn absent_slave_and_empty_channel_read_zero() {
    let (mut rig, ..) = Rig::pc(64, 16);
    rig.outb(P + 6, 0xb0);
    rig.outb(P + 7, 0xec);
    rig.wait(100);
    assert_eq!(
        [
            rig.inb(P + 7),
            rig.inb(P + 1),
            rig.inb(0x3f6),
            rig.inb(P + 6)
        ],
        [0, 0, 0, 0xb0]
    );
    let mut rig = Rig::new([None, None, None, None]);
    for port in (P..P + 8).chain(S..S + 8).chain([0x3f6, 0x376]) {
        rig.outb(port, 0xff);
        assert_eq!(rig.inb(port), 0, "{port:#x}");
    }
}

#[test]
fn linux_libata_probe_then_dma_read_and_flush() {
    let (mut rig, disk, _) = Rig::pc(4096, 16);
    // ata_bus_softreset
    for v in [8, 0x0c, 8] {
        rig.outb(0x3f6, v);
        rig.wait(20);
    }
    rig.outb(P + 6, 0xa0);
    assert_eq!(
        [1, 2, 3, 4, 5, 7].map(|r| rig.inb(P + r)),
        [1, 1, 1, 0, 0, 0x50]
    );
    // IDENTIFY, polled
    rig.outb(0x3f6, 0x0a);
    rig.outb(P + 7, 0xec);
    rig.inb(0x3f6);
    assert_eq!(rig.not_busy(P), 0x58);
    let id = rig.insw(P, 512);
    assert_eq!((word(&id, 83) & 0xc400, word(&id, 100)), (0x4400, 4096));
    assert_eq!(word(&id, 49) & 0x300, 0x300);
    rig.outb(0x3f6, 8);
    // SET FEATURES: MWDMA2
    rig.outb(P + 1, 3);
    rig.command28(P, 0xef, 0, 0x22);
    assert_eq!(rig.interrupt(P), 0x50);
    // READ DMA EXT: table, direction, command, start
    rig.table(0, &[(0x2000, 0x1000), (0x8000, 0x1000)]);
    rig.outb(BM, 8);
    rig.outb(BM + 2, 6);
    rig.command48(P, 0x25, 1000, 16);
    rig.outb(BM, 9);
    assert_eq!(rig.inb(BM + 2) & 5, 1);
    rig.wait(100);
    assert!(rig.irqs.level(14));
    assert_eq!(rig.inb(BM + 2) & 7, 4);
    rig.outb(BM, 8);
    assert_eq!(rig.inb(P + 7), 0x50);
    rig.outb(BM + 2, 4);
    assert_eq!(rig.inb(BM + 2) & 7, 0);
    assert_eq!(
        [rig.peek(0x2000, 0x1000), rig.peek(0x8000, 0x1000)].concat(),
        disk.bytes(1000, 16)
    );
    // FLUSH CACHE EXT
    rig.command48(P, 0xea, 0, 0);
    assert_eq!(rig.interrupt(P), 0x50);
    assert_eq!(disk.flushes(), 1);
}

#[test]
fn reset_in_the_middle_of_a_transfer_leaves_an_idle_drive_with_signature() {
    let (mut rig, disk, _) = Rig::pc(64, 16);
    rig.command28(P, 0x20, 3, 4);
    rig.interrupt(P);
    rig.insw(P, 700);
    rig.outb(0x3f6, 4);
    rig.outb(0x3f6, 0);
    rig.wait(100);
    assert!(!rig.irqs.level(14));
    assert_eq!(
        [1, 2, 3, 4, 5, 7].map(|r| rig.inb(P + r)),
        [1, 1, 1, 0, 0, 0x50]
    );
    assert_eq!(rig.insw(P, 4), [0; 4]);
    rig.command28(P, 0x20, 8, 1);
    rig.interrupt(P);
    assert_eq!(rig.insw(P, 512), disk.bytes(8, 1));
}

#[test]
fn previous_content_is_read_with_hob_and_any_write_clears_hob() {
    let (mut rig, ..) = Rig::pc(64, 16);
    rig.outb(P + 3, 0x11);
    rig.outb(P + 3, 0x22);
    rig.outb(0x3f6, 0x80);
    assert_eq!(rig.inb(P + 3), 0x11);
    rig.outb(P + 4, 0);
    assert_eq!(rig.inb(P + 3), 0x22);
}

#[test]
fn unknown_command_is_aborted_and_interrupts() {
    let (mut rig, ..) = Rig::pc(64, 16);
    for command in [0x00, 0x08, 0xa0, 0xa1, 0xb0, 0xf5, 0xff] {
        rig.command28(P, command, 0, 0);
        assert_eq!(rig.interrupt(P), 0x41, "{command:#x}");
        assert_eq!(rig.inb(P + 1), 4);
    }
}

#[test]
fn zero_sectors_a_track_are_refused() {
    let (mut rig, disk, _) = Rig::pc(64 * 1024, 16);
    rig.command28(P, 0x91, 0, 0);
    assert_eq!(rig.interrupt(P), 0x41);
    // INITIALIZE DEVICE PARAMETERS: 8 heads of 32 sectors, then cylinder 2, head 3, sector 4.
    rig.outb(P + 2, 32);
    rig.outb(P + 6, 0xa7);
    rig.outb(P + 7, 0x91);
    assert_eq!(rig.interrupt(P), 0x50);
    for (reg, v) in [(2, 1), (3, 4), (4, 2), (5, 0), (6, 0xa3), (7, 0x20)] {
        rig.outb(P + reg, v);
    }
    assert_eq!(rig.interrupt(P), 0x58);
    assert_eq!(rig.insw(P, 512), disk.bytes((2 * 8 + 3) * 32 + 3, 1));
}

#[test]
fn diagnostic_gives_both_drives_their_signatures() {
    let mut rig = Rig::new([
        Some(Drive::disk(SharedDisk::new(8).boxed())),
        Some(Drive::cdrom(None)),
        None,
        None,
    ]);
    rig.outb(P + 6, 0xb0);
    rig.outb(P + 7, 0x90);
    assert_eq!(rig.interrupt(P), 0x50);
    assert_eq!([1, 2, 3, 4, 5].map(|r| rig.inb(P + r)), [1, 1, 1, 0, 0]);
    rig.outb(P + 6, 0xb0);
    assert_eq!(
        [1, 2, 3, 4, 5, 7].map(|r| rig.inb(P + r)),
        [1, 1, 1, 0x14, 0xeb, 0]
    );
}

#[test]
fn identify_device_of_a_packet_drive_aborts_with_its_signature() {
    let (mut rig, ..) = Rig::pc(64, 16);
    rig.outb(S + 6, 0xa0);
    rig.outb(S + 7, 0xec);
    assert_eq!(rig.interrupt(S), 0x41);
    assert_eq!([1, 4, 5].map(|r| rig.inb(S + r)), [4, 0x14, 0xeb]);
}

#[test]
fn windows_resets_identifies_and_sets_the_mode_of_a_packet_drive() {
    let (mut rig, ..) = Rig::pc(64, 16);
    rig.outb(S + 6, 0xa0);
    rig.outb(S + 7, 8);
    rig.wait(100);
    assert!(!rig.irqs.level(15));
    assert_eq!([4, 5, 7].map(|r| rig.inb(S + r)), [0x14, 0xeb, 0]);
    rig.outb(S + 7, 0xa1);
    assert_eq!(rig.interrupt(S), 0x58);
    let id = rig.insw(S, 512);
    assert_eq!(word(&id, 0), 0x85c0);
    rig.outb(S + 1, 3);
    rig.outb(S + 2, 0x42);
    rig.outb(S + 7, 0xef);
    assert_eq!(rig.interrupt(S), 0x50);
    rig.outb(S + 7, 0xa1);
    rig.interrupt(S);
    assert_eq!(word(&rig.insw(S, 512), 88), 0x043f);
}

#[test]
fn enabling_interrupts_raises_one_that_waits() {
    let (mut rig, ..) = Rig::pc(64, 16);
    rig.outb(0x3f6, 2);
    rig.command28(P, 0xe7, 0, 0);
    rig.wait(100);
    assert_eq!((rig.irqs.level(14), rig.inb(BM + 2) & 4), (false, 0));
    rig.outb(0x3f6, 0);
    assert_eq!((rig.irqs.level(14), rig.inb(BM + 2) & 4), (true, 4));
}

#[test]
fn word_access_to_a_task_file_register_is_two_byte_accesses() {
    let (mut rig, ..) = Rig::pc(64, 16);
    rig.ide
        .port_write(&mut rig.bench.cx(), P + 3, AccessSize::Word, 0x1234);
    assert_eq!([rig.inb(P + 3), rig.inb(P + 4)], [0x34, 0x12]);
    assert_eq!(
        rig.ide
            .port_read(&mut rig.bench.cx(), P + 3, AccessSize::Word),
        0x1234
    );
    rig.ide
        .port_write(&mut rig.bench.cx(), u16::MAX, AccessSize::Dword, 0);
}

#[test]
fn power_on_reset_forgets_what_the_guest_set() {
    let (mut rig, ..) = Rig::pc(64, 16);
    rig.command28(P, 0x20, 0, 1);
    rig.wait(10);
    rig.ide.reset(&mut rig.bench.cx());
    assert!(!rig.irqs.level(14));
    assert_eq!(rig.ide.poll(&mut rig.bench.cx()), None);
    assert_eq!([rig.inb(P + 7), rig.inb(BM + 2)], [0x50, 0]);
}
