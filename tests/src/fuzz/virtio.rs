//! A virtio disk whose driver does as it likes, on a host that takes its time, answers in any order, and fails.

use super::device::line;
use crate::feed::Feed;
use device_model::pci::PciFunction;
use device_model::virtio::block::Block;
use device_model::virtio::{Parts, VirtioPci, Windows};
use hv_core::Gpa;
use hv_core::device::{AccessSize, Device, WindowId};
use hv_core::irq::{MsiLine, MsiSink};
use hv_core::mem::GuestMemory;
use hv_core::testing::{Bench, ManyDisk};
use std::sync::Arc;

const WINDOWS: Windows = Windows {
    ports: WindowId(1),
    msi_x: WindowId(2),
    memory: WindowId(3),
};
/// Where the descriptors, the driver's and the device's area are, an indirect table, and what the buffers hold.
const DESCRIPTORS: u64 = 0x1000;
const DRIVER: u64 = 0x2000;
const DEVICE: u64 = 0x3000;
const TABLE: u64 = 0x4000;
const BUFFERS: u64 = 0x8000;
const SECTORS: usize = 64;
const STATUS: u64 = 0x14;
const NEEDS_RESET: u64 = 0x40;

struct Nowhere;

impl MsiSink for Nowhere {
    fn send(&self, _address: u64, _data: u32) {}
}

struct Rig {
    pci: VirtioPci,
    bench: Bench,
    disk: ManyDisk,
    size: u64,
    packed: bool,
    available: u16,
}

impl Rig {
    fn write(&mut self, offset: u64, size: usize, value: u64) {
        let cx = &mut self.bench.cx();
        self.pci.mmio_write(cx, WINDOWS.memory, offset, size, value);
    }

    fn status(&mut self) -> u64 {
        let cx = &mut self.bench.cx();
        self.pci.mmio_read(cx, WINDOWS.memory, STATUS, 1) & 0xff
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        let _ = self.bench.mem.write(Gpa(at), bytes);
    }

    /// A driver of version 1 that agrees to the features which `choice` names.
    fn start(&mut self, choice: u8) {
        self.write(STATUS, 1, 0);
        assert_eq!((self.status(), self.disk.asked()), (0, 0), "reset waits");
        self.packed = choice & 1 != 0;
        self.available = 0;
        for area in [DRIVER, DEVICE] {
            self.put(area, &[0; 0x100]);
        }
        let mut features = 1 << 32;
        for (n, bit) in [34, 28, 29, 35, 9].into_iter().enumerate() {
            features |= u64::from(choice >> n & 1) << bit;
        }
        for half in 0..2 {
            self.write(8, 4, half);
            self.write(0xc, 4, features >> (32 * half) & 0xffff_ffff);
        }
        self.write(STATUS, 1, 0xb);
        self.size = if choice & 0x20 != 0 { 8 } else { 4 };
        self.write(0x16, 2, 0);
        self.write(0x18, 2, self.size);
        for (register, area) in [(0x20, DESCRIPTORS), (0x28, DRIVER), (0x30, DEVICE)] {
            self.write(register, 8, area);
        }
        self.write(0x1c, 2, 1);
        self.write(STATUS, 1, 0xf);
    }

    /// A descriptor of any kind, mostly one that leads to a buffer.
    fn descriptor(&mut self, f: &mut Feed<'_>) {
        let table = f.pick(&[DESCRIPTORS, DESCRIPTORS, DESCRIPTORS, TABLE]);
        let at = table + 16 * u64::from(f.below(8));
        let buffer = BUFFERS + 0x200 * u64::from(f.below(64));
        let address = f.pick(&[
            buffer,
            buffer,
            buffer,
            TABLE,
            DESCRIPTORS,
            0xf_ff00,
            1 << 40,
        ]);
        let len = f.pick(&[16, 1, 512, 1024, 511, 0, 32, 0x1_0000, u32::MAX]);
        let address = if f.below(32) == 31 { f.u64() } else { address };
        let (mut flags, next) = (u16::from(f.u8() & 7), u16::from(f.u8() & 7));
        if self.packed {
            flags |= f.pick(&[1 << 7, 1 << 15, 0, 1 << 7 | 1 << 15]);
        }
        let (middle, high) = if self.packed {
            (next, flags)
        } else {
            (flags, next)
        };
        self.put(at, &address.to_le_bytes());
        self.put(at + 8, &len.to_le_bytes());
        self.put(at + 12, &middle.to_le_bytes());
        self.put(at + 14, &high.to_le_bytes());
    }

    /// A whole request in descriptors 0 to 2, as drivers make it, made available.
    fn request(&mut self, f: &mut Feed<'_>) {
        let kind = u32::from(f.pick(&[0u8, 1, 4, 8, 11]));
        let (sector, count) = (u64::from(f.below(66)), 1 + u32::from(f.below(4)));
        self.put(BUFFERS, &kind.to_le_bytes());
        self.put(BUFFERS + 8, &sector.to_le_bytes());
        let write = |yes| if yes { 2u16 } else { 0 };
        let own = if self.packed { 1 << 7 } else { 0 };
        let parts = [
            (BUFFERS, 16, 1),
            (BUFFERS + 0x200, 512 * count, 1 | write(kind != 1)),
            (BUFFERS + 0x100, 1, 2),
        ];
        for (n, (address, len, flags)) in (0u16..).zip(parts) {
            let at = DESCRIPTORS + 16 * u64::from(n);
            let flags = flags | own;
            let (middle, high) = if self.packed {
                (n, flags)
            } else {
                (flags, n + 1)
            };
            self.put(at, &u64::to_le_bytes(address));
            self.put(at + 8, &u32::to_le_bytes(len));
            self.put(at + 12, &middle.to_le_bytes());
            self.put(at + 14, &high.to_le_bytes());
        }
        self.offer(0);
    }

    fn offer(&mut self, head: u16) {
        let entry = u64::from(self.available) % self.size.max(1);
        self.put(DRIVER + 4 + 2 * entry, &head.to_le_bytes());
        self.available = self.available.wrapping_add(1);
        self.put(DRIVER + 2, &self.available.to_le_bytes());
    }

    /// Lets the device look around. One that has given up does nothing.
    fn look(&mut self, kick: bool) {
        let gone = self.status() & NEEDS_RESET != 0;
        let before = self.disk.asked();
        if kick {
            let cx = &mut self.bench.cx();
            self.pci.port_write(cx, 0xc010, AccessSize::Word, 0);
        } else {
            self.pci.poll(&mut self.bench.cx());
        }
        assert!(!gone || self.disk.asked() <= before, "it has given up");
    }
}

/// The disk's rings, and its registers.
pub fn virtio(data: &[u8]) {
    let mut f = Feed::new(data);
    let first = f.u8();
    let bench = Bench::new();
    let direct = (first & 8 != 0).then_some((&bench.mem, 3));
    let disk = ManyDisk::new(
        vec![0x5a; SECTORS * 512],
        1 + usize::from(first & 7),
        direct,
    );
    let parts = Parts {
        line: line(),
        messages: MsiLine::new(Arc::new(Nowhere)),
        windows: WINDOWS,
    };
    let block = Block::new(Box::new(disk.clone()), "fuzz", 2);
    let mut rig = Rig {
        pci: VirtioPci::new(Box::new(block), parts),
        bench,
        disk,
        size: 4,
        packed: false,
        available: 0,
    };
    rig.pci
        .config_write(&mut rig.bench.cx(), 4, AccessSize::Word, 7);
    rig.start(f.u8());
    while !f.is_empty() {
        match f.below(16) {
            0..=2 => {
                rig.request(&mut f);
                rig.look(f.bool());
            }
            3..=5 => rig.descriptor(&mut f),
            6 => {
                rig.offer(u16::from(f.u8() & 15));
                rig.look(f.bool());
            }
            7..=9 => {
                rig.disk.answer(f.u8().into());
                rig.look(false);
            }
            10 => rig.start(f.u8()),
            11 => rig.disk.set_bad(f.bool().then(|| f.u8().into())),
            12 => {
                let offset = f.pick(&[0, 0x1000, 0x2000, 0x3000]) + u64::from(f.below(72));
                let (size, value) = (1 << f.below(4), f.u64());
                rig.write(offset, size, value & (u64::MAX >> (64 - 8 * size)));
            }
            13 => {
                let (size, offset) = (f.size(), f.u8());
                let value = f.value(size);
                rig.pci
                    .config_write(&mut rig.bench.cx(), offset, size, value);
                rig.pci.config_read(&mut rig.bench.cx(), offset, size);
            }
            14 => {
                let (port, size) = (0xc000 + f.below(128), f.size());
                let value = f.value(size);
                rig.pci.port_write(&mut rig.bench.cx(), port, size, value);
                rig.pci.port_read(&mut rig.bench.cx(), port, size);
            }
            _ => {
                rig.disk.set_flush_fails(f.bool());
                rig.put(DRIVER + u64::from(f.below(64)), &[f.u8()]);
            }
        }
    }
    rig.pci.reset(&mut rig.bench.cx());
    assert_eq!(rig.disk.asked(), 0, "nothing is under way after a reset");
}
