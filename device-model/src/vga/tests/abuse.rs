//! A guest that does anything at all.

use super::{LEGACY, REGISTERS};
use crate::vga::{MAX_HEIGHT, MAX_WIDTH, Picture, TextScreen, Vga};
use alloc::sync::Arc;
use hv_core::device::{AccessSize, Device, WindowId};
use hv_core::mem::DeviceRam;
use hv_core::testing::Bench;
use hv_core::testing::Random;
use hv_core::time::VmTime;

/// Video memory that forgets: `VecDeviceRam` is too slow for whole screens by the hundred.
struct Noise(usize);

impl DeviceRam for Noise {
    fn len(&self) -> usize {
        self.0
    }
    fn read(&self, offset: usize, buf: &mut [u8]) {
        buf.fill(offset as u8);
    }
    fn write(&self, offset: usize, buf: &[u8]) {
        assert!(
            buf.is_empty()
                || offset
                    .checked_add(buf.len())
                    .is_some_and(|e| e <= self.0.max(64))
        );
    }
    fn fill(&self, offset: usize, len: usize, _: u8) {
        // Even without video memory there is a mode of one line.
        assert!(offset + len <= self.0.max(4 * MAX_WIDTH as usize));
    }
}

fn abuse(seed: u64, vram: usize, accesses: u64) {
    let mut rng = Random::new(seed);
    let mut bench = Bench::new();
    let mut vga = Vga::new(Arc::new(Noise(vram)), LEGACY, REGISTERS);
    let (mut picture, mut text) = (Picture::default(), TextScreen::default());
    for i in 0..accesses {
        bench.now = if rng.below(100) == 0 {
            VmTime(rng.next())
        } else {
            VmTime(bench.now.0.wrapping_add(rng.below(1 << 20)))
        };
        let cx = &mut bench.cx();
        let size = [AccessSize::Byte, AccessSize::Word, AccessSize::Dword][rng.below(3) as usize];
        let value = rng.next() & u64::from(size.ones());
        let port = match rng.below(8) {
            0..3 => 0x1ce + rng.below(4) as u16,
            3 => rng.next() as u16,
            _ => 0x3b0 + rng.below(0x30) as u16,
        };
        let wide = 1usize << rng.below(4);
        let wide_value = rng.next() & (u64::MAX >> (64 - 8 * wide));
        let window = [LEGACY, REGISTERS, WindowId(3)][rng.below(3) as usize];
        let offset = match (rng.below(10), window) {
            (0, _) => rng.next(),
            (1..3, _) => rng.below(0x2_0010),
            (3.., LEGACY) => {
                [0, 0xfff8, 0x1_0000, 0x1_8000, 0x1_fff8][rng.below(5) as usize] + rng.below(16)
            }
            (3..7, _) => 0x500 + rng.below(0x18),
            _ => 0x3f8 + rng.below(0x30),
        };
        match rng.below(12) {
            0..5 => vga.port_write(cx, port, size, value as u32),
            // Small numbers reach indices and sane sizes more often.
            5 => vga.port_write(cx, port, size, (value & 0x1f) as u32),
            6 => drop(vga.port_read(cx, port, size)),
            7 | 8 => vga.mmio_write(cx, window, offset, wide, wide_value),
            9 => drop(vga.mmio_read(cx, window, offset, wide)),
            10 => vga.mmio_write(cx, REGISTERS, 0x500 + 2 * rng.below(12), 2, rng.below(2000)),
            _ => vga.mmio_write(cx, REGISTERS, 0x508, 2, rng.below(256)),
        }
        if rng.below(2000) == 0 {
            vga.reset(cx);
        }
        if i % 500 == 0 {
            // So that there is something to see.
            let now = cx.now;
            vga.port_read(cx, 0x3da, AccessSize::Byte);
            vga.port_read(cx, 0x3ba, AccessSize::Byte);
            vga.port_write(cx, 0x3c0, AccessSize::Byte, 0x20);
            vga.picture(now, &mut picture);
            assert!(picture.width <= MAX_WIDTH && picture.height <= MAX_HEIGHT);
            assert_eq!(
                picture.pixels.len(),
                (picture.width * picture.height) as usize
            );
            if vga.text_screen(&mut text) {
                assert_eq!(text.chars.len(), (text.cols * text.rows) as usize);
            }
        }
    }
}

#[test]
fn random_accesses_do_not_panic() {
    for seed in 1..=6 {
        abuse(seed * 0x1234_5678_9abc_def1, 16 << 20, 20_000);
    }
}

#[test]
fn any_size_of_video_memory_is_survived() {
    for vram in [
        0,
        1,
        3,
        64,
        4096,
        100_000,
        256 << 10,
        1 << 20,
        1 << 31,
        1 << 40,
    ] {
        abuse(0x0dd_ba11 + vram as u64, vram, 3_000);
    }
}
