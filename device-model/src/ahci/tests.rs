//! A driver's side of AHCI, after the specification.

use super::{Ahci, Parts};
use crate::ata::Drive;
use crate::pci::PciFunction;
use alloc::sync::Arc;
use hv_core::Gpa;
use hv_core::device::{AccessSize, Device, WindowId};
use hv_core::irq::{IrqLine, MsiLine, MsiSink};
use hv_core::mem::GuestMemory;
use hv_core::testing::{Bench, ManyDisk, Random, RecordingIrqs, SharedDisk};
use std::sync::Mutex;

const WINDOW: WindowId = WindowId(3);
const LIST: u64 = 0x1000;
const RECEIVED: u64 = 0x2000;
const TABLES: u64 = 0x4000;
const DATA: u64 = 0x2_0000;

/// A port's registers.
const PORT: u64 = 0x100;
const IS: u64 = 0x10;
const CMD: u64 = 0x18;
const TFD: u64 = 0x20;
const SIG: u64 = 0x24;
const SSTS: u64 = 0x28;
const SCTL: u64 = 0x2c;
const SACT: u64 = 0x34;
const CI: u64 = 0x38;

#[derive(Clone, Default)]
struct Sent(Arc<Mutex<u32>>);

impl MsiSink for Sent {
    fn send(&self, address: u64, data: u32) {
        assert_eq!((address, data), (0xfee0_0000, 0x41));
        *self.0.lock().unwrap() += 1;
    }
}

struct Rig {
    ahci: Ahci,
    bench: Bench,
    irqs: Arc<RecordingIrqs>,
    sent: Sent,
}

/// A command, as a driver fills its header and its table.
#[derive(Clone, Copy)]
struct Ask<'a> {
    slot: u64,
    command: u8,
    lba: u64,
    count: u16,
    features: u16,
    device: u8,
    packet: &'a [u8],
    /// Regions: where, how many bytes, and whether it interrupts.
    regions: &'a [(u64, u32, bool)],
}

const PLAIN: Ask<'_> = Ask {
    slot: 0,
    command: 0,
    lba: 0,
    count: 0,
    features: 0,
    device: 0x40,
    packet: &[],
    regions: &[],
};

impl Rig {
    fn new(drives: [Option<Drive>; 6]) -> Self {
        Self::on(Bench::new(), drives)
    }

    fn on(bench: Bench, drives: [Option<Drive>; 6]) -> Self {
        let irqs = RecordingIrqs::new();
        let sent = Sent::default();
        let parts = Parts {
            line: IrqLine::new(irqs.clone(), 5),
            messages: MsiLine::new(Arc::new(sent.clone())),
            window: WINDOW,
        };
        let mut rig = Self {
            ahci: Ahci::new(drives, parts),
            bench,
            irqs,
            sent,
        };
        rig.ahci
            .config_write(&mut rig.bench.cx(), 4, AccessSize::Word, 6);
        rig
    }

    /// A disk that answers when it is told to, at a port that runs.
    fn slow(sectors: usize, direct: Option<usize>) -> (Self, ManyDisk) {
        let bench = Bench::new();
        let data: Vec<u8> = (0..sectors * 512).map(|n| (n / 512 + n) as u8).collect();
        let direct = direct.map(|pieces| (&bench.mem, pieces));
        let disk = ManyDisk::new(data, 40, direct);
        let drive = Drive::disk(Box::new(disk.clone()));
        let mut rig = Self::on(bench, [Some(drive), None, None, None, None, None]);
        rig.start(0);
        (rig, disk)
    }

    fn read(&mut self, offset: u64) -> u32 {
        let cx = &mut self.bench.cx();
        self.ahci.mmio_read(cx, WINDOW, offset, 4) as u32
    }

    fn write(&mut self, offset: u64, value: u32) {
        let cx = &mut self.bench.cx();
        self.ahci.mmio_write(cx, WINDOW, offset, 4, value.into());
    }

    fn port(&mut self, n: u64, register: u64) -> u32 {
        self.read(PORT + 0x80 * n + register)
    }

    fn set(&mut self, n: u64, register: u64, value: u32) {
        self.write(PORT + 0x80 * n + register, value);
    }

    fn poll(&mut self) {
        while self.ahci.poll(&mut self.bench.cx()).is_some() {}
    }

    fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.bench.mem.read(Gpa(at), &mut bytes).unwrap();
        bytes
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.bench.mem.write(Gpa(at), bytes).unwrap();
    }

    /// As `ahci_start_port` of Linux (drivers/ata/libahci.c) does it.
    fn start(&mut self, n: u64) {
        self.write(4, 1 << 31 | 2);
        self.set(n, 0, LIST as u32);
        self.set(n, 8, RECEIVED as u32);
        self.set(n, CMD, 0x10);
        assert_eq!(self.port(n, CMD) & 1 << 14, 1 << 14, "FR");
        self.set(n, 0x30, !0);
        self.set(n, IS, !0);
        self.write(8, !0);
        self.set(n, 0x14, 0x7dc0_007f);
        self.set(n, CMD, 0x11);
    }

    /// Stops the port, and starts it again.
    fn restart(&mut self, n: u64) {
        self.set(n, CMD, 0x10);
        assert_eq!((self.port(n, CI), self.port(n, SACT)), (0, 0));
        assert_eq!(self.port(n, CMD) & 1 << 15, 0, "CR");
        self.set(n, 0x30, !0);
        self.set(n, IS, !0);
        self.write(8, !0);
        self.set(n, CMD, 0x11);
    }

    fn fill(&mut self, ask: Ask<'_>) {
        let table = TABLES + 0x400 * ask.slot;
        let prdtl = (ask.regions.len() as u32) << 16;
        let header = LIST + 32 * ask.slot;
        self.put(header, &(5 | prdtl).to_le_bytes());
        self.put(header + 4, &[0xee; 4]);
        self.put(header + 8, &table.to_le_bytes());
        let [a, b, c, d, e, f, ..] = ask.lba.to_le_bytes();
        let [count, more_count] = ask.count.to_le_bytes();
        let [features, more_features] = ask.features.to_le_bytes();
        let fis = [
            0x27,
            0x80,
            ask.command,
            features,
            a,
            b,
            c,
            ask.device,
            d,
            e,
            f,
            more_features,
            count,
            more_count,
            0,
            0,
            0,
            0,
            0,
            0,
        ];
        self.put(table, &fis);
        self.put(table + 0x40, ask.packet);
        for (n, (at, len, interrupt)) in (0..).zip(ask.regions) {
            let at_entry = table + 0x80 + 16 * n;
            self.put(at_entry, &at.to_le_bytes());
            let last = (len - 1) | u32::from(*interrupt) << 31;
            self.put(at_entry + 12, &last.to_le_bytes());
        }
    }

    fn issue(&mut self, ask: Ask<'_>) {
        self.fill(ask);
        self.set(0, CI, 1 << ask.slot);
    }

    fn queue(&mut self, slot: u64, write: bool, lba: u64, sectors: u16, at: u64) {
        self.fill(Ask {
            slot,
            command: if write { 0x61 } else { 0x60 },
            lba,
            count: (slot as u16) << 3,
            features: sectors,
            regions: &[(at, u32::from(sectors) * 512, false)],
            ..PLAIN
        });
        self.set(0, SACT, 1 << slot);
        self.set(0, CI, 1 << slot);
    }
}

fn disk(sectors: usize) -> (Rig, SharedDisk) {
    let disk = SharedDisk::new(sectors);
    let drive = Drive::disk(disk.boxed());
    let mut rig = Rig::new([Some(drive), None, None, None, None, None]);
    rig.start(0);
    (rig, disk)
}

#[test]
fn function_is_ich9s_with_ports_and_slots_and_signatures() {
    let cd = Drive::cdrom(None);
    let drive = Drive::disk(SharedDisk::new(8).boxed());
    let mut rig = Rig::new([Some(drive), None, None, None, None, Some(cd)]);
    let cx = &mut rig.bench.cx();
    assert_eq!(rig.ahci.config_read(cx, 0, AccessSize::Dword), 0x2922_8086);
    assert_eq!(rig.ahci.config_read(cx, 8, AccessSize::Dword), 0x0106_0102);
    assert_eq!(rig.ahci.config_read(cx, 0x3d, AccessSize::Byte), 1);
    assert_eq!(rig.read(0) & 0x1f, 5);
    assert_eq!(rig.read(0) >> 8 & 0x1f, 31);
    assert_eq!((rig.read(4), rig.read(0xc)), (1 << 31, 0x3f));
    let up = |rig: &mut Rig, n| [SSTS, SIG, TFD].map(|register| rig.port(n, register));
    assert_eq!(up(&mut rig, 0), [0x123, 0x101, 0x150]);
    assert_eq!(up(&mut rig, 5), [0x123, 0xeb14_0101, 0x100]);
    assert_eq!(up(&mut rig, 1), [0, !0, 0x7f]);
    assert_eq!(rig.port(9, CMD), 0, "there is no such port");
}

#[test]
fn signature_is_received_once_there_is_a_place_for_it() {
    let (mut rig, _) = disk(8);
    assert_eq!(rig.bytes(RECEIVED + 0x40, 3), [0x34, 0, 0x50]);
    assert_eq!(rig.bytes(RECEIVED + 0x4c, 1), [1]);
    rig.put(RECEIVED + 0x40, &[0; 4]);
    rig.set(0, CMD, 0x10);
    rig.set(0, SCTL, 1);
    assert_eq!([rig.port(0, SSTS), rig.port(0, SIG)], [1, 0x101]);
    rig.set(0, SCTL, 0);
    assert_eq!([rig.port(0, SSTS), rig.port(0, TFD)], [0x123, 0x150]);
    assert_eq!(rig.bytes(RECEIVED + 0x40, 1), [0x34]);
    assert_eq!(rig.port(0, IS) & 1 << 6, 1 << 6, "PCS");
    rig.set(0, 0x30, !0);
    assert_eq!(rig.port(0, IS) & 1 << 6, 0);
}

#[test]
fn identify_ends_with_a_pio_setup_and_no_register_fis() {
    let (mut rig, _) = disk(300);
    rig.put(RECEIVED, &[0; 256]);
    let regions = [(DATA, 100, false), (DATA + 0x1000, 412, true)];
    rig.issue(Ask {
        command: 0xec,
        regions: &regions,
        ..PLAIN
    });
    assert_eq!((rig.port(0, CI), rig.port(0, TFD)), (0, 0x50));
    assert_eq!(rig.port(0, IS), 0x22, "PIO setup, descriptor");
    let mut data = rig.bytes(DATA, 100);
    data.extend(rig.bytes(DATA + 0x1000, 412));
    let word = |n: usize| u16::from_le_bytes([data[2 * n], data[2 * n + 1]]);
    assert_eq!(
        (word(60), word(75), word(76), word(93)),
        (300, 31, 0x106, 0)
    );
    assert_eq!(rig.bytes(LIST + 4, 4), [0, 2, 0, 0], "bytes moved");
    let fis = rig.bytes(RECEIVED + 0x20, 20);
    assert_eq!((fis[0], fis[1], fis[2], fis[15]), (0x5f, 0x60, 0x58, 0x50));
    assert_eq!(rig.bytes(RECEIVED + 0x40, 1), [0], "no register FIS");
    assert!(rig.irqs.level(5));
    rig.set(0, IS, !0);
    assert!(rig.irqs.level(5), "IS still says so");
    rig.write(8, 1);
    assert!(!rig.irqs.level(5));
}

#[test]
fn dma_reads_and_writes_scattered_sectors_and_flushes() {
    let (mut rig, disk) = disk(300);
    let data: Vec<u8> = (0..2048).map(|n| (n * 7) as u8).collect();
    rig.put(DATA, &data[..514]);
    rig.put(DATA + 0x3000, &data[514..]);
    let regions = [(DATA, 514, false), (DATA + 0x3000, 1534, false)];
    let ask = Ask {
        lba: 10,
        count: 4,
        regions: &regions,
        ..PLAIN
    };
    rig.issue(Ask {
        command: 0x35,
        ..ask
    });
    assert_eq!(
        (rig.port(0, CI), rig.port(0, TFD), rig.port(0, IS)),
        (0, 0x50, 1)
    );
    assert_eq!(disk.bytes(10, 4), data);
    rig.issue(Ask {
        command: 0xea,
        regions: &[],
        ..ask
    });
    assert_eq!(disk.flushes(), 1);
    rig.put(DATA, &[0; 0x4000]);
    rig.issue(Ask {
        command: 0x25,
        ..ask
    });
    assert_eq!(rig.bytes(DATA, 514), data[..514]);
    assert_eq!(rig.bytes(DATA + 0x3000, 1534), data[514..]);
    assert_eq!(rig.bytes(LIST + 4, 4), [0, 8, 0, 0]);
}

#[test]
fn queued_commands_end_in_any_order_and_one_fis_tells_of_several() {
    for direct in [None, Some(3)] {
        let (mut rig, disk) = Rig::slow(300, direct);
        for slot in 0..32 {
            rig.queue(slot, false, slot * 8, 8, DATA + slot * 0x1000);
        }
        // Without direct access they go through one buffer, one after the other: the second waits, and no more are sent.
        let many = direct.is_some();
        let issued = if many { 0 } else { !3 };
        assert_eq!((rig.port(0, CI), rig.port(0, SACT)), (issued, !0));
        assert_eq!(rig.port(0, TFD), 0x50);
        assert_eq!(disk.asked(), if many { 32 } else { 1 });
        if many {
            disk.answer(5);
            disk.answer(0);
            rig.poll();
            assert_eq!(rig.port(0, SACT), !0x21);
            let fis = rig.bytes(RECEIVED + 0x58, 8);
            assert_eq!(fis, [0xa1, 0x40, 0x50, 0, 0x21, 0, 0, 0]);
            assert_eq!(rig.port(0, IS), 8);
        }
        while disk.asked() != 0 {
            disk.answer(1);
            rig.poll();
        }
        assert_eq!(rig.port(0, SACT), 0);
        assert_eq!(rig.bytes(DATA, 32 * 0x1000), disk.sectors_at(0, 256));
    }
}

#[test]
fn a_bad_sector_ends_the_queue_and_the_log_says_which_command_and_where() {
    let (mut rig, disk) = Rig::slow(300, Some(3));
    disk.set_bad(Some(29));
    for slot in 0..4 {
        rig.queue(slot, false, slot * 8, 8, DATA + slot * 0x1000);
    }
    disk.answer(0);
    while rig.port(0, IS) & 1 << 30 == 0 {
        let last = disk.asked() - 1;
        disk.answer(last);
        rig.poll();
    }
    assert_eq!(disk.asked(), 0, "the others were waited for");
    assert_eq!(rig.port(0, TFD), 0x4051);
    assert_eq!(rig.port(0, SACT) & 8, 8);
    assert_eq!(rig.port(0, IS) & 8, 8);
    rig.set(0, CI, 1 << 7);
    assert_eq!(rig.port(0, CI), 1 << 7, "nothing is sent");
    rig.restart(0);
    rig.issue(Ask {
        command: 0x25,
        count: 1,
        regions: &[(DATA, 512, false)],
        ..PLAIN
    });
    assert_eq!(rig.port(0, TFD), 0x441, "the log has to be read first");
    rig.restart(0);
    rig.issue(Ask {
        command: 0x2f,
        lba: 0x10,
        count: 1,
        regions: &[(DATA, 512, false)],
        ..PLAIN
    });
    let page = rig.bytes(DATA, 512);
    assert_eq!((page[0], page[2], page[3], page[4]), (3, 0x51, 0x40, 29));
    assert_eq!(page.iter().fold(0u8, |s, b| s.wrapping_add(*b)), 0);
    rig.queue(0, false, 0, 1, DATA);
    disk.answer(0);
    rig.poll();
    assert_eq!((rig.port(0, SACT), rig.port(0, TFD)), (0, 0x50));
}

#[test]
fn what_may_not_be_between_queued_commands_ends_them() {
    let (mut rig, disk) = Rig::slow(300, Some(3));
    rig.queue(1, true, 5, 1, DATA);
    rig.issue(Ask {
        slot: 2,
        command: 0xe7,
        ..PLAIN
    });
    assert_eq!((rig.port(0, TFD), disk.asked()), (0x441, 0));
    assert_eq!(rig.port(0, CMD) >> 8 & 0x1f, 2, "the current slot");
    assert_eq!(rig.port(0, CI), 4);
    rig.restart(0);
    // Nor one without its bit in PxSACT, or with the tag of another.
    for (sact, tag) in [(0, 3), (8, 4)] {
        rig.issue(Ask {
            command: 0x2f,
            lba: 0x10,
            count: 1,
            regions: &[(DATA, 512, false)],
            ..PLAIN
        });
        rig.fill(Ask {
            slot: 3,
            command: 0x60,
            features: 1,
            count: tag << 3,
            regions: &[(DATA, 512, false)],
            ..PLAIN
        });
        rig.set(0, SACT, sact);
        rig.set(0, CI, 8);
        assert_eq!((rig.port(0, TFD), disk.asked()), (0x441, 0));
        rig.restart(0);
    }
}

#[test]
fn failures_are_task_file_errors_and_the_command_stays_until_the_port_is_stopped() {
    let (mut rig, disk) = disk(300);
    let regions = [(DATA, 512, false)];
    let ask = Ask {
        count: 1,
        regions: &regions,
        ..PLAIN
    };
    for (command, lba, tfd) in [(0x25, 300, 0x1041), (0x99, 0, 0x50), (0x01, 0, 0x441)] {
        rig.issue(Ask {
            command,
            lba,
            ..ask
        });
        assert_eq!(rig.port(0, TFD), tfd, "{command:#x}");
        assert_eq!(rig.port(0, CI), u32::from(tfd & 1 != 0));
        rig.restart(0);
    }
    disk.set_fail(true);
    for (command, tfd) in [(0x25, 0x4051), (0x35, 0x471)] {
        rig.issue(Ask {
            command,
            lba: 7,
            ..ask
        });
        assert_eq!((rig.port(0, TFD), rig.port(0, IS)), (tfd, 0x4000_0001));
        assert_eq!(rig.bytes(RECEIVED + 0x44, 1), [7], "where");
        rig.restart(0);
    }
}

#[test]
fn write_protected_disk_refuses_writes_and_is_read() {
    let (mut rig, disk) = disk(300);
    disk.set_read_only();
    let before = disk.bytes(0, 1);
    let regions = [(DATA, 512, false)];
    let ask = Ask {
        count: 1,
        regions: &regions,
        ..PLAIN
    };
    // WRITE DMA EXT, WRITE SECTOR(S) EXT.
    for command in [0x35, 0x34] {
        rig.issue(Ask { command, ..ask });
        assert_eq!(rig.port(0, TFD), 0x4441, "{command:#x}");
        rig.restart(0);
    }
    rig.queue(3, true, 0, 1, DATA);
    assert_eq!(rig.port(0, TFD), 0x4441, "WRITE FPDMA QUEUED");
    assert_eq!(rig.port(0, SACT), 8);
    rig.restart(0);
    rig.issue(Ask {
        command: 0x2f,
        lba: 0x10,
        ..ask
    });
    rig.restart(0);
    rig.issue(Ask {
        command: 0x25,
        ..ask
    });
    assert_eq!(rig.port(0, TFD), 0x50, "READ DMA EXT");
    assert_eq!(rig.bytes(DATA, 512), before);
    assert_eq!(disk.bytes(0, 1), before);
}

#[test]
fn less_memory_than_data_is_an_overflow_and_none_at_all_is_fatal() {
    let (mut rig, _) = disk(300);
    rig.issue(Ask {
        command: 0x25,
        count: 2,
        regions: &[(DATA, 512, false)],
        ..PLAIN
    });
    assert_eq!(rig.port(0, IS) & 1 << 24, 1 << 24);
    rig.restart(0);
    for table in [1 << 40, u64::MAX << 7] {
        rig.issue(Ask {
            command: 0x25,
            count: 1,
            regions: &[(table, 512, false)],
            ..PLAIN
        });
        assert_eq!(rig.port(0, IS), 1 << 29, "a region");
        rig.restart(0);
        rig.put(LIST + 8, &table.to_le_bytes());
        rig.set(0, CI, 1);
        assert_eq!(rig.port(0, IS), 1 << 29, "a table");
        rig.restart(0);
    }
    rig.fill(PLAIN);
    rig.put(TABLES, &[0x41]);
    rig.set(0, CI, 1);
    assert_eq!(rig.port(0, IS), 1 << 27, "no register FIS");
}

#[test]
fn packets_move_blocks_and_their_errors_are_sense_keys() {
    let disc = SharedDisk::of((0..64 * 2048).map(|n| (n / 2048) as u8).collect());
    let drive = Drive::cdrom(Some(disc.boxed()));
    let mut rig = Rig::new([Some(drive), None, None, None, None, None]);
    rig.start(0);
    let regions = [(DATA, 4096, false)];
    let ask = |packet, features| Ask {
        command: 0xa0,
        features,
        packet,
        regions: &regions,
        device: 0,
        ..PLAIN
    };
    let read = [0x28, 0, 0, 0, 0, 9, 0, 0, 2, 0, 0, 0];
    rig.issue(ask(&read, 1));
    assert_eq!(rig.port(0, TFD), 0x6041, "power on");
    rig.restart(0);
    for (features, is) in [(1, 1), (0, 3)] {
        rig.put(DATA, &[0; 4096]);
        rig.issue(ask(&read, features));
        assert_eq!((rig.port(0, TFD), rig.port(0, IS)), (0x50, is));
        let data = rig.bytes(DATA, 4096);
        assert!(data[..2048].iter().all(|b| *b == 9) && data[2048..].iter().all(|b| *b == 10));
        assert_eq!(rig.bytes(LIST + 4, 4), [0, 16, 0, 0]);
        assert_eq!(rig.bytes(RECEIVED + 0x4c, 1), [3], "the end");
        rig.set(0, IS, !0);
    }
    rig.issue(ask(&[0x28, 0, 0, 0, 0, 64, 0, 0, 1, 0, 0, 0], 1));
    assert_eq!(rig.port(0, TFD), 0x5041);
    rig.restart(0);
    disc.set_fail(true);
    rig.issue(ask(&read, 1));
    assert_eq!(rig.port(0, TFD), 0x3041);
    rig.restart(0);
    assert!(rig.ahci.change_medium(0, None).is_some());
    rig.issue(ask(&read, 1));
    assert_eq!(rig.port(0, TFD), 0x2041);
    assert!(!rig.ahci.cdrom(0).unwrap().loaded && rig.ahci.cdrom(1).is_none());
}

#[test]
fn writes_are_stable_when_they_are_over_if_that_is_asked_for() {
    let (mut rig, disk) = Rig::slow(64, Some(3));
    rig.put(DATA, &[9; 512]);
    for (device, requests) in [(0x40, 1), (0xc0, 2)] {
        rig.fill(Ask {
            command: 0x61,
            lba: 3,
            features: 1,
            device,
            regions: &[(DATA, 512, false)],
            ..PLAIN
        });
        rig.set(0, SACT, 1);
        rig.set(0, CI, 1);
        for n in 1..=requests {
            assert_eq!(rig.port(0, SACT), 1, "request {n}");
            disk.answer(0);
            rig.poll();
        }
        assert_eq!(rig.port(0, SACT), 0);
        assert_eq!(disk.is_stable(), device & 0x80 != 0);
    }
}

#[test]
fn resets_wait_for_what_the_medium_is_at_and_the_port_works_again() {
    for how in 0..4 {
        let (mut rig, disk) = Rig::slow(64, Some(3));
        for slot in 0..3 {
            rig.queue(slot, false, slot, 1, DATA + slot * 512);
        }
        assert_eq!(disk.asked(), 3);
        match how {
            0 => rig.write(4, 1),
            1 => rig.set(0, SCTL, 0x301),
            2 => rig.set(0, CMD, 0x10),
            _ => rig.ahci.reset(&mut rig.bench.cx()),
        }
        assert_eq!(disk.asked(), 0);
        if how == 1 {
            rig.set(0, SCTL, 0x300);
            assert_eq!(rig.port(0, SACT), 7, "not before software has stopped it");
            rig.set(0, CMD, 0x10);
        }
        if how == 3 {
            assert_eq!(rig.port(0, CMD), 6);
            rig.ahci
                .config_write(&mut rig.bench.cx(), 4, AccessSize::Word, 6);
        }
        rig.start(0);
        rig.queue(1, false, 7, 1, DATA);
        disk.answer(0);
        rig.poll();
        assert_eq!(rig.port(0, SACT), 0);
        assert_eq!(rig.bytes(DATA, 512), disk.sectors_at(7, 1));
    }
}

#[test]
fn software_reset_is_two_fises_and_shows_the_signature() {
    let (mut rig, _) = disk(8);
    let fis = |control| [0x27, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, control];
    rig.fill(PLAIN);
    rig.put(TABLES, &fis(4));
    rig.set(0, CI, 1);
    assert_eq!((rig.port(0, CI), rig.port(0, TFD) & 0x80), (0, 0x80));
    rig.put(TABLES, &fis(0));
    rig.set(0, CI, 1);
    assert_eq!((rig.port(0, CI), rig.port(0, TFD)), (0, 0x150));
}

#[test]
fn messages_tell_each_interrupt_once_and_what_is_left_again() {
    let (mut rig, _) = disk(8);
    let mut config = |offset, size, value| {
        rig.ahci
            .config_write(&mut rig.bench.cx(), offset, size, value);
    };
    config(0x44, AccessSize::Dword, 0xfee0_0000);
    config(0x4c, AccessSize::Word, 0x41);
    config(0x42, AccessSize::Word, 1);
    let sent = rig.sent.clone();
    let take = || core::mem::take(&mut *sent.0.lock().unwrap());
    let flush = Ask {
        command: 0xe7,
        ..PLAIN
    };
    rig.issue(flush);
    assert_eq!((take(), rig.irqs.level(5)), (1, false));
    rig.issue(flush);
    assert_eq!(take(), 0, "it was told");
    rig.set(0, IS, 1);
    rig.issue(flush);
    rig.write(8, 1);
    assert_eq!(take(), 1, "there is more");
    rig.set(0, IS, 1);
    rig.write(8, 1);
    assert_eq!(take(), 0);
}

#[test]
fn nothing_is_looked_at_without_bus_mastering() {
    let (mut rig, disk) = Rig::slow(8, Some(3));
    let master = |rig: &mut Rig, on| {
        let cx = &mut rig.bench.cx();
        rig.ahci
            .config_write(cx, 4, AccessSize::Word, if on { 6 } else { 2 });
    };
    master(&mut rig, false);
    rig.queue(0, false, 0, 1, DATA);
    assert_eq!(disk.asked(), 0);
    master(&mut rig, true);
    rig.poll();
    assert_eq!(disk.asked(), 1);
}

#[test]
fn random_abuse_never_panics() {
    let (mut rig, disk) = Rig::slow(64, Some(2));
    let mut random = Random::from_env("UMBRA_SEED", 0x9e37_79b9_7f4a_7c15);
    for _ in 0..20_000 {
        let x = random.next();
        let at = random.pick(&[LIST, TABLES, RECEIVED]) + (x >> 8 & 0x3ff);
        match x & 7 {
            0 => rig.put(at, &[(x >> 32) as u8]),
            1 => rig.queue(
                x >> 8 & 31,
                x >> 13 & 1 != 0,
                x >> 14 & 63,
                1 + (x >> 20 & 3) as u16,
                DATA,
            ),
            2 => {
                let regions = [(
                    DATA + (x >> 40 & 0xffff),
                    1 + (x >> 24 & 0xfff) as u32,
                    false,
                )];
                rig.issue(Ask {
                    slot: x >> 8 & 31,
                    command: random.pick(&[
                        0xec,
                        0x25,
                        0x35,
                        0x20,
                        0x30,
                        0x2f,
                        0xea,
                        0xb0,
                        (x >> 16) as u8,
                    ]),
                    lba: x >> 56,
                    count: 1,
                    regions: &regions,
                    ..PLAIN
                });
            }
            3 => disk.answer(x as usize >> 8),
            4 => disk.set_bad((x & 0x100 != 0).then_some(x >> 9 & 63)),
            5 if x >> 8 & 7 == 0 => rig.start(0),
            6 => {
                let offset = random.pick(&[PORT, PORT + 0x80, 0]) + (x >> 8 & 0x3f);
                let (size, value) = (1 << (x >> 14 & 3), x >> 32);
                rig.ahci
                    .mmio_write(&mut rig.bench.cx(), WINDOW, offset, size, value);
                rig.ahci
                    .mmio_read(&mut rig.bench.cx(), WINDOW, offset, size);
            }
            _ => rig.poll(),
        }
    }
    rig.ahci.reset(&mut rig.bench.cx());
    assert_eq!(disk.asked(), 0);
}
