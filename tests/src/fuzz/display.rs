//! The display adapter.

use super::device::device;
use crate::feed::Feed;
use device_model::vga::{self, Picture, TextScreen, Vga};
use hv_core::device::{AccessSize, Device, WindowId};
use hv_core::testing::{Bench, VecDeviceRam};
use std::sync::Arc;

/// The VGA, and whoever looks at it.
pub fn vga(data: &[u8]) {
    let (mut picture, mut text) = (Picture::default(), TextScreen::default());
    device(
        data,
        adapter(),
        &VGA_PORTS,
        &VGA_WINDOWS,
        |card, bench, f| {
            if f.below(64) != 0 {
                return program(card, bench, f);
            }
            card.picture(bench.now, &mut picture);
            card.text_screen(&mut text);
            assert!(picture.width <= vga::MAX_WIDTH && picture.height <= vga::MAX_HEIGHT);
        },
    );
}

pub(super) const VGA_LEGACY: WindowId = WindowId(0);
pub(super) const VGA_REGISTERS: WindowId = WindowId(1);
pub(super) const VGA_PORTS: [(u16, u16); 4] = [(0x3b0, 0x30), (0x3c0, 16), (0x3d4, 2), (0x1ce, 4)];
pub(super) const VGA_WINDOWS: [(WindowId, u64); 2] =
    [(VGA_LEGACY, 0x2_0000), (VGA_REGISTERS, 0x1000)];

/// A display adapter.
pub(super) fn adapter() -> Vga {
    let ram = |len| Arc::new(VecDeviceRam::new(len));
    let card = Vga::new(ram(1 << 20), VGA_LEGACY, VGA_REGISTERS);
    card.with_text_map(ram(vga::TEXT_RAM), WindowId(2))
}

/// Writes one of an adapter's many registers.
pub(super) fn program(card: &mut Vga, bench: &mut Bench, f: &mut Feed<'_>) {
    match f.below(8) {
        // A register of the display interface.
        1..=3 => {
            let (index, value) = (f.below(12), f.u16() & 0xfff);
            card.port_write(&mut bench.cx(), 0x1ce, AccessSize::Word, index.into());
            card.port_write(&mut bench.cx(), 0x1cf, AccessSize::Word, value.into());
        }
        // The screen is on.
        0 => {
            card.port_read(&mut bench.cx(), 0x3ba, AccessSize::Byte);
            card.port_read(&mut bench.cx(), 0x3da, AccessSize::Byte);
            card.port_write(&mut bench.cx(), 0x3c0, AccessSize::Byte, 0x20);
        }
        _ => {
            let port = f.pick(&[0x3c4, 0x3ce, 0x3d4]);
            let (index, value) = (f.u8() & 0x1f, f.u8());
            card.port_write(&mut bench.cx(), port, AccessSize::Byte, index.into());
            card.port_write(&mut bench.cx(), port + 1, AccessSize::Byte, value.into());
        }
    }
}
