//! An e1000 whose driver does as it likes: registers, both rings, descriptors of every kind.

use super::device::line;
use crate::feed::Feed;
use device_model::e1000::{E1000, Windows};
use device_model::pci::PciFunction;
use hv_core::backend::NetBackend;
use hv_core::device::{AccessSize, Device, WindowId};
use hv_core::mem::GuestMemory;
use hv_core::testing::Bench;
use hv_core::{Gpa, VmTime};
use std::sync::{Arc, Mutex};

const WINDOWS: Windows = Windows {
    registers: WindowId(1),
    ports: WindowId(2),
};
const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
/// Where the rings are, and the buffers.
const RECEIVE: u64 = 0x1000;
const SEND: u64 = 0x2000;
const BUFFERS: u64 = 0x8000;
/// Frames that one call may send at most.
const MOST: usize = 256;
/// Registers that do something when they are written.
const ACTIVE: [u64; 20] = [
    0x0, 0x10, 0x14, 0x20, 0xc0, 0xc4, 0xc8, 0xd0, 0xd8, 0x100, 0x400, 0x2808, 0x2810, 0x2818,
    0x2820, 0x3808, 0x3810, 0x3818, 0x3820, 0x5000,
];

#[derive(Clone, Default)]
struct Wire(Arc<Mutex<(usize, Vec<Vec<u8>>)>>);

impl NetBackend for Wire {
    fn send(&mut self, frame: &[u8]) {
        assert!((14..=16_292).contains(&frame.len()), "that is no frame");
        self.0.lock().unwrap().0 += 1;
    }
    fn receive(&mut self, buf: &mut [u8]) -> Option<usize> {
        let frame = self.0.lock().unwrap().1.pop()?;
        buf[..frame.len()].copy_from_slice(&frame);
        Some(frame.len())
    }
}

struct Rig {
    card: E1000,
    bench: Bench,
    wire: Wire,
    master: bool,
    /// Where the next descriptor to send goes.
    tail: u64,
}

impl Rig {
    fn write(&mut self, at: u64, size: usize, value: u64) {
        let cx = &mut self.bench.cx();
        self.card.mmio_write(cx, WINDOWS.registers, at, size, value);
        self.check();
    }

    fn poll(&mut self) {
        let next = self.card.poll(&mut self.bench.cx());
        assert!(next.is_none_or(|at| at >= self.bench.now), "it was due");
        self.check();
    }

    /// What one call has sent.
    fn check(&mut self) {
        let sent = core::mem::take(&mut self.wire.0.lock().unwrap().0);
        assert!(sent <= MOST, "{sent} frames at once");
        assert!(self.master || sent == 0, "it may not be bus master");
        self.bench.requests = Default::default();
    }

    fn command(&mut self, value: u32) {
        self.card
            .config_write(&mut self.bench.cx(), 4, AccessSize::Word, value);
        self.master = value & 4 != 0;
    }

    /// Both rings of sixteen, everything on.
    fn start(&mut self, f: &mut Feed<'_>) {
        self.command(7);
        self.write(0, 4, 0x241 | f.pick(&[0, 1 << 30]));
        for (ring, base) in [(0x2800, RECEIVE), (0x3800, SEND)] {
            for (register, value) in [(8, 256), (0, base), (4, 0), (0x10, 0)] {
                self.write(ring + register, 4, value);
            }
        }
        for n in 0..16 {
            let buffer = BUFFERS + 0x800 * n;
            let _ = self
                .bench
                .mem
                .write(Gpa(RECEIVE + 16 * n), &buffer.to_le_bytes());
        }
        self.write(0x400, 4, u64::from(f.pick(&[2u8, 0xa])));
        let size = u64::from(f.below(4)) << 16 | u64::from(f.below(2)) << 25;
        self.write(0x100, 4, 0x8022 | size);
        self.write(0x2818, 4, 15);
        self.write(0x3818, 4, 0);
        self.tail = 0;
        self.write(0xd0, 4, 0xff);
    }

    /// A descriptor to send, of any kind, mostly with an address that is memory.
    fn descriptor(&mut self, f: &mut Feed<'_>) {
        let near = BUFFERS + u64::from(f.u8()) * 16;
        let address = f.pick(&[near, near, near, SEND, 0xf_fff0, 1 << 40]);
        let (low, high) = match f.below(4) {
            0 => (
                u64::from(f.pick(&[14u8, 0, 255])) | 24 << 8 | 33 << 16 | 34 << 32 | 50 << 40,
                u64::from(f.pick(&[0x23u8, 0x27, 0x25, 0x20])) << 24
                    | u64::from(f.pick(&[54u8, 0, 1, 255])) << 40
                    | u64::from(f.pick(&[1460u16, 1, 0, 536, 0xffff])) << 48,
            ),
            1 => (address, f.u64()),
            2 => (
                address,
                u64::from(f.u16()) | u64::from(f.u8() & !0x20) << 24 | u64::from(f.u16()) << 32,
            ),
            _ => (
                address,
                u64::from(f.pick(&[60u32, 1514, 4096, 0, 0xf_ffff]))
                    | 1 << 20
                    | u64::from(f.pick(&[0x2du8, 0x29, 0x24, 0x20, 0xed])) << 24
                    | u64::from(f.u8() & 3) << 40,
            ),
        };
        let at = SEND + 16 * self.tail;
        let _ = self.bench.mem.write(Gpa(at), &low.to_le_bytes());
        let _ = self.bench.mem.write(Gpa(at + 8), &high.to_le_bytes());
        self.tail = (self.tail + 1) % 16;
    }

    fn arrives(&self, f: &mut Feed<'_>) {
        let len = usize::from(f.pick(&[60u16, 14, 6, 0, 300, 1514, 1518, 2048]));
        let mut frame = vec![f.u8(); len];
        let to = f.pick(&[MAC, [0xff; 6], [1, 0, 0x5e, 0, 0, 1], [2; 6]]);
        let kind = f.pick(&[[8, 0], [0x81, 0], [0x88, 8]]);
        let start = f.bytes(24);
        frame.iter_mut().zip(to).for_each(|(b, v)| *b = v);
        let rest = kind.iter().chain(start);
        let places = frame.iter_mut().skip(12);
        places.zip(rest).for_each(|(b, v)| *b = *v);
        self.wire.0.lock().unwrap().1.push(frame);
    }
}

/// The card.
pub fn e1000(data: &[u8]) {
    let mut f = Feed::new(data);
    let wire = Wire::default();
    let mut rig = Rig {
        card: E1000::new(line(), WINDOWS, MAC, Box::new(wire.clone())),
        bench: Bench::new(),
        wire,
        master: false,
        tail: 0,
    };
    rig.start(&mut f);
    while !f.is_empty() {
        match f.below(16) {
            0..=3 => rig.descriptor(&mut f),
            4..=5 => rig.write(0x3818, 4, rig.tail),
            6 => {
                rig.arrives(&mut f);
                rig.poll();
            }
            7 => rig.write(0x2818, 4, u64::from(f.u8() & 0x1f)),
            8..=9 => {
                let at = f.pick(&ACTIVE);
                let value = f.scaled() & 0xffff_ffff;
                rig.write(at, 4, value);
            }
            10 => {
                let (at, size) = (f.scaled() % 0x2_0000, 1 << f.below(4));
                let value = f.u64() & (u64::MAX >> (64 - 8 * size));
                rig.write(at, size, value);
                let cx = &mut rig.bench.cx();
                rig.card.mmio_read(cx, WINDOWS.registers, at, size);
            }
            11 => {
                let (port, size) = (0xc000 + f.below(8), f.size());
                let value = f.value(size);
                rig.card.port_write(&mut rig.bench.cx(), port, size, value);
                rig.check();
                rig.card.port_read(&mut rig.bench.cx(), port, size);
            }
            12 => {
                let span = u64::from(f.u16()) << f.below(16);
                rig.bench.now = rig.bench.now + VmTime(span);
                rig.poll();
            }
            13 => rig.command(u32::from(f.u8())),
            14 => rig.start(&mut f),
            _ => {
                let at = f.pick(&[RECEIVE, SEND]) + u64::from(f.u8());
                let _ = rig.bench.mem.write(Gpa(at), f.bytes(8));
            }
        }
    }
    rig.card.reset(&mut rig.bench.cx());
    rig.master = false;
    rig.check();
    rig.poll();
}
