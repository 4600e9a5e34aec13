//! The adapter as drivers see it: a bench with ports and windows, and the register tables of the BIOS's modes.

mod abuse;
mod pictures;
mod pipeline;
mod registers;

use super::{Picture, TextScreen, Vga};
use alloc::sync::Arc;
use hv_core::device::{AccessSize, Device, WindowId};
use hv_core::mem::DeviceRam;
use hv_core::testing::{Bench, VecDeviceRam};
use hv_core::time::VmTime;

const LEGACY: WindowId = WindowId(1);
const REGISTERS: WindowId = WindowId(2);

/// Registers of a BIOS mode.
struct ModeTable {
    misc: u8,
    seq: [u8; 5],
    crtc: [u8; 25],
    gfx: [u8; 9],
    attr: [u8; 20],
}

/// Mode 3: 80x25 characters of 9x16 dots.
const MODE_03: ModeTable = ModeTable {
    misc: 0x67,
    seq: [0x03, 0x00, 0x03, 0x00, 0x02],
    crtc: [
        0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00, 0x4f, 0x0d, 0x0e, 0, 0, 0, 0, 0x9c,
        0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff,
    ],
    gfx: [0, 0, 0, 0, 0, 0x10, 0x0e, 0x0f, 0xff],
    attr: [
        0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x14, 0x07, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e,
        0x3f, 0x0c, 0x00, 0x0f, 0x08,
    ],
};

/// Mode 4: 320x200, four colours.
const MODE_04: ModeTable = ModeTable {
    misc: 0x63,
    seq: [0x03, 0x09, 0x03, 0x00, 0x02],
    crtc: [
        0x2d, 0x27, 0x28, 0x90, 0x2b, 0x80, 0xbf, 0x1f, 0x00, 0xc1, 0, 0, 0, 0, 0, 0, 0x9c, 0x8e,
        0x8f, 0x14, 0x00, 0x96, 0xb9, 0xa2, 0xff,
    ],
    gfx: [0, 0, 0, 0, 0, 0x30, 0x0f, 0x0f, 0xff],
    attr: [
        0x00, 0x13, 0x15, 0x17, 0x02, 0x04, 0x06, 0x07, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16,
        0x17, 0x01, 0x00, 0x03, 0x00,
    ],
};

/// Mode 12h: 640x480, sixteen colours.
const MODE_12: ModeTable = ModeTable {
    misc: 0xe3,
    seq: [0x03, 0x01, 0x0f, 0x00, 0x06],
    crtc: [
        0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0x0b, 0x3e, 0x00, 0x40, 0, 0, 0, 0, 0, 0, 0xea, 0x8c,
        0xdf, 0x28, 0x00, 0xe7, 0x04, 0xe3, 0xff,
    ],
    gfx: [0, 0, 0, 0, 0, 0x00, 0x05, 0x0f, 0xff],
    attr: [
        0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x14, 0x07, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e,
        0x3f, 0x01, 0x00, 0x0f, 0x00,
    ],
};

/// Mode 13h: 320x200, 256 colours.
const MODE_13: ModeTable = ModeTable {
    misc: 0x63,
    seq: [0x03, 0x01, 0x0f, 0x00, 0x0e],
    crtc: [
        0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0xbf, 0x1f, 0x00, 0x41, 0, 0, 0, 0, 0, 0, 0x9c, 0x8e,
        0x8f, 0x28, 0x40, 0x96, 0xb9, 0xa3, 0xff,
    ],
    gfx: [0, 0, 0, 0, 0, 0x40, 0x05, 0x0f, 0xff],
    attr: [
        0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e,
        0x0f, 0x41, 0x00, 0x0f, 0x00,
    ],
};

/// An adapter with its bench.
struct Rig {
    vga: Vga,
    bench: Bench,
    ram: Arc<VecDeviceRam>,
}

impl Rig {
    fn new(vram: usize) -> Self {
        let ram = Arc::new(VecDeviceRam::new(vram));
        Self {
            vga: Vga::new(ram.clone(), LEGACY, REGISTERS),
            bench: Bench::new(),
            ram,
        }
    }

    /// With registers as the BIOS sets them for `mode`, and DAC entry i being i in every component.
    fn with_mode(mode: &ModeTable) -> Self {
        let mut r = Self::new(1 << 20);
        r.set_mode(mode);
        r.out8(0x3c8, 0);
        for i in 0..=255 {
            (0..3).for_each(|_| r.out8(0x3c9, i & 0x3f));
        }
        r
    }

    fn set_mode(&mut self, m: &ModeTable) {
        self.out8(0x3c2, m.misc);
        self.in8(0x3da);
        self.out8(0x3c0, 0x00);
        self.in8(0x3da);
        for (i, v) in (0u8..).zip(m.attr) {
            self.out8(0x3c0, i);
            self.out8(0x3c0, v);
        }
        self.out8(0x3c0, 0x14);
        self.out8(0x3c0, 0);
        (0u8..)
            .zip(m.seq)
            .for_each(|(i, v)| self.index(0x3c4, i, v));
        (0u8..)
            .zip(m.gfx)
            .for_each(|(i, v)| self.index(0x3ce, i, v));
        self.index(0x3d4, 0x11, 0);
        (0u8..)
            .zip(m.crtc)
            .for_each(|(i, v)| self.index(0x3d4, i, v));
        self.out8(0x3c0, 0x20);
    }

    fn out8(&mut self, port: u16, value: u8) {
        self.vga
            .port_write(&mut self.bench.cx(), port, AccessSize::Byte, value.into());
    }

    fn out16(&mut self, port: u16, value: u16) {
        self.vga
            .port_write(&mut self.bench.cx(), port, AccessSize::Word, value.into());
    }

    fn in8(&mut self, port: u16) -> u8 {
        self.vga
            .port_read(&mut self.bench.cx(), port, AccessSize::Byte) as u8
    }

    fn in16(&mut self, port: u16) -> u16 {
        self.vga
            .port_read(&mut self.bench.cx(), port, AccessSize::Word) as u16
    }

    /// Index and data in one access, as every driver writes them.
    fn index(&mut self, port: u16, index: u8, value: u8) {
        self.out16(port, u16::from_le_bytes([index, value]));
    }

    fn read_index(&mut self, port: u16, index: u8) -> u8 {
        self.out8(port, index);
        self.in8(port + 1)
    }

    fn dispi(&mut self, index: u16, value: u16) {
        self.out16(0x1ce, index);
        self.out16(0x1cf, value);
    }

    fn read_dispi(&mut self, index: u16) -> u16 {
        self.out16(0x1ce, index);
        self.in16(0x1cf)
    }

    fn vbe_mode(&mut self, width: u16, height: u16, bpp: u16) {
        self.dispi(4, 0);
        self.dispi(1, width);
        self.dispi(2, height);
        self.dispi(3, bpp);
        self.dispi(4, 0x41);
        self.in8(0x3da);
        self.out8(0x3c0, 0x20);
    }

    /// Writes at physical address `address` of the legacy window.
    fn poke(&mut self, address: u64, size: usize, value: u64) {
        self.vga.mmio_write(
            &mut self.bench.cx(),
            LEGACY,
            address - 0xa_0000,
            size,
            value,
        );
    }

    fn peek(&mut self, address: u64, size: usize) -> u64 {
        let v = self
            .vga
            .mmio_read(&mut self.bench.cx(), LEGACY, address - 0xa_0000, size);
        if size == 8 {
            v
        } else {
            v & ((1 << (8 * size)) - 1)
        }
    }

    fn mmio_read(&mut self, offset: u64, size: usize) -> u64 {
        let v = self
            .vga
            .mmio_read(&mut self.bench.cx(), REGISTERS, offset, size);
        if size == 8 {
            v
        } else {
            v & ((1 << (8 * size)) - 1)
        }
    }

    fn mmio_write(&mut self, offset: u64, size: usize, value: u64) {
        self.vga
            .mmio_write(&mut self.bench.cx(), REGISTERS, offset, size, value);
    }

    /// Bytes of video memory.
    fn vram<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut b = [0; N];
        self.ram.read(offset, &mut b);
        b
    }

    fn picture(&self, now: VmTime) -> Picture {
        let mut p = Picture::default();
        self.vga.picture(now, &mut p);
        assert_eq!(p.pixels.len(), p.width as usize * p.height as usize);
        p
    }

    fn text(&self) -> Option<TextScreen> {
        let mut t = TextScreen::default();
        self.vga.text_screen(&mut t).then_some(t)
    }

    /// Writes `text` with attribute 07h at cell `cell` of the colour text screen.
    fn print(&mut self, cell: u64, text: &str) {
        for (i, c) in (0..).zip(text.bytes()) {
            self.poke(0xb_8000 + 2 * (cell + i), 2, u64::from(c) | 0x0700);
        }
    }
}
