//! An AHCI disk and a CD-ROM drive whose driver does as it likes, on a host that takes its time, answers in any order, and fails.

use super::device::line;
use crate::feed::Feed;
use device_model::ahci::{Ahci, Parts};
use device_model::ata::Drive;
use device_model::pci::PciFunction;
use hv_core::Gpa;
use hv_core::device::{AccessSize, Device, WindowId};
use hv_core::irq::{MsiLine, MsiSink};
use hv_core::mem::GuestMemory;
use hv_core::testing::{Bench, ManyDisk};
use std::sync::Arc;

const WINDOW: WindowId = WindowId(1);
/// Where the command lists, the received FISes and the command tables are, and what the regions hold.
const LIST: u64 = 0x1000;
const RECEIVED: u64 = 0x2000;
const TABLES: u64 = 0x3000;
const BUFFERS: u64 = 0x8000;
const SECTORS: usize = 64;
/// The ports with something at them, and their registers.
const PORTS: [u64; 2] = [0x100, 0x380];
const COMMAND: u64 = 0x18;
const ACTIVE: u64 = 0x34;
const ISSUE: u64 = 0x38;

struct Nowhere;

impl MsiSink for Nowhere {
    fn send(&self, _address: u64, _data: u32) {}
}

struct Rig {
    ahci: Ahci,
    bench: Bench,
    disks: [ManyDisk; 2],
}

impl Rig {
    fn write(&mut self, offset: u64, size: usize, value: u64) {
        let cx = &mut self.bench.cx();
        self.ahci.mmio_write(cx, WINDOW, offset, size, value);
    }

    fn read(&mut self, offset: u64) -> u64 {
        let cx = &mut self.bench.cx();
        self.ahci.mmio_read(cx, WINDOW, offset, 4) & 0xffff_ffff
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        let _ = self.bench.mem.write(Gpa(at), bytes);
    }

    /// A driver stops a port, and starts it.
    fn start(&mut self, n: usize) {
        let port = PORTS[n];
        self.write(port + COMMAND, 4, 0);
        assert_eq!(self.disks[n].asked(), 0, "a stopped port has nothing to do");
        assert_eq!((self.read(port + ISSUE), self.read(port + ACTIVE)), (0, 0));
        self.write(port, 4, LIST);
        self.write(port + 8, 4, RECEIVED);
        self.write(port + 0x14, 4, 0xffff_ffff);
        self.write(port + COMMAND, 4, 0x11);
        self.write(4, 4, 2);
    }

    /// A command of any kind in a slot, mostly one that drivers make.
    fn fill(&mut self, slot: u64, f: &mut Feed<'_>) {
        let table = TABLES + 0x100 * (slot & 15);
        let regions: u32 = f.pick(&[1, 2, 3, 0, 8, 0xffff]);
        let header = LIST + 32 * slot;
        self.put(header, &(5 | regions << 16).to_le_bytes());
        let table_at = if f.below(32) == 31 { f.u64() } else { table };
        self.put(header + 8, &table_at.to_le_bytes());
        let any = f.u8();
        let command = f.pick(&[
            0x60, 0x61, 0x60, 0x61, 0x25, 0x35, 0xec, 0xa0, 0xa0, 0x2f, 0xea, 0x20, 0x30, 0xa1,
            0xb0, any,
        ]);
        let queued = matches!(command, 0x60 | 0x61);
        let sectors = 1 + f.below(4) as u8;
        let count = if queued { (slot as u8) << 3 } else { sectors };
        let features = if queued {
            sectors
        } else {
            f.pick(&[1, 0, 0xd0])
        };
        let kind = if f.below(64) == 63 { f.u8() } else { 0x27 };
        let flag = f.pick(&[0x80, 0x80, 0x80, 0]);
        let (lba, device) = (f.below(66) as u8, f.pick(&[0x40, 0xc0]));
        let fis = [
            kind,
            flag,
            command,
            features,
            lba,
            0,
            0,
            device,
            0,
            0,
            0,
            0,
            count,
            0,
            0,
            f.u8() & 4,
        ];
        self.put(table, &fis);
        let opcode = f.pick(&[0x28, 0xa8, 0x00, 0x03, 0x12, 0x43, 0x5a, 0x1b, any]);
        let packet = [opcode, 0, 0, 0, 0, lba & 15, 0, 0, f.u8() & 3, 0, 0, 0];
        self.put(table + 0x40, &packet);
        for n in 0..3 {
            let at = table + 0x80 + 16 * n;
            let buffer = BUFFERS + 0x200 * u64::from(f.below(64));
            let near = f.pick(&[buffer, buffer, buffer + 2, TABLES, LIST, 0xf_ff00, 1 << 40]);
            let address = if f.below(32) == 31 { f.u64() } else { near };
            let len = f.pick(&[511u32, 0x1ff, 1023, 1, 0x7ff, 0x3f_ffff, 0x8000_01ff]);
            self.put(at, &address.to_le_bytes());
            self.put(at + 12, &len.to_le_bytes());
        }
    }

    fn issue(&mut self, n: usize, slot: u64) {
        self.write(PORTS[n] + ACTIVE, 4, 1 << slot);
        self.write(PORTS[n] + ISSUE, 4, 1 << slot);
    }

    /// Lets the controller look around, as often as it asks for.
    fn look(&mut self) {
        for _ in 0..10_000 {
            if self.ahci.poll(&mut self.bench.cx()).is_none() {
                return;
            }
        }
        panic!("it is never done");
    }
}

/// The controller's registers, its lists, and two drives.
pub fn ahci(data: &[u8]) {
    let mut f = Feed::new(data);
    let first = f.u8();
    let bench = Bench::new();
    let direct = (first & 8 != 0).then_some((&bench.mem, 3));
    let depth = 1 + usize::from(first & 7);
    let disks = [(); 2].map(|()| ManyDisk::new(vec![0x5a; SECTORS * 512], depth, direct));
    let [disk, disc] = disks.clone();
    let drives = [
        Some(Drive::disk(Box::new(disk))),
        None,
        None,
        None,
        None,
        Some(Drive::cdrom(Some(Box::new(disc)))),
    ];
    let parts = Parts {
        line: line(),
        messages: MsiLine::new(Arc::new(Nowhere)),
        window: WINDOW,
    };
    let mut rig = Rig {
        ahci: Ahci::new(drives, parts),
        bench,
        disks,
    };
    rig.ahci
        .config_write(&mut rig.bench.cx(), 4, AccessSize::Word, 6);
    rig.start(0);
    rig.start(1);
    while !f.is_empty() {
        let n = usize::from(f.below(4) == 3);
        match f.below(16) {
            0..=3 => {
                let slot = u64::from(f.u8() & 31);
                rig.fill(slot, &mut f);
                rig.issue(n, slot);
            }
            4 => rig.issue(n, u64::from(f.u8() & 31)),
            5..=8 => {
                rig.disks[n].answer(f.u8().into());
                rig.look();
            }
            9 => rig.start(n),
            10 => rig.disks[n].set_bad(f.bool().then(|| f.u8().into())),
            11 => {
                let offset = f.pick(&[0, PORTS[0], PORTS[1]]) + u64::from(f.below(0x44));
                let (size, value) = (1 << f.below(4), f.u64());
                rig.write(offset, size, value & (u64::MAX >> (64 - 8 * size)));
            }
            12 => {
                let (size, offset) = (f.size(), f.u8());
                let value = f.value(size);
                rig.ahci
                    .config_write(&mut rig.bench.cx(), offset, size, value);
                rig.ahci.config_read(&mut rig.bench.cx(), offset, size);
            }
            13 => {
                let at = f.pick(&[LIST, TABLES, RECEIVED]) + u64::from(f.below(0x400));
                rig.put(at, &[f.u8()]);
            }
            14 => {
                // The disc is taken out, and put in again.
                let disc = rig.ahci.change_medium(5, None);
                if f.bool() {
                    rig.look();
                }
                assert!(rig.ahci.change_medium(5, disc).is_none());
            }
            _ => {
                rig.disks[n].set_flush_fails(f.bool());
                rig.look();
            }
        }
    }
    rig.ahci.reset(&mut rig.bench.cx());
    let asked: usize = rig.disks.iter().map(ManyDisk::asked).sum();
    assert_eq!(asked, 0, "nothing is under way after a reset");
}
