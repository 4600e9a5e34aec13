//! Text memory that the guest writes without leaving: in text mode the window at B8000h is plain RAM.
//!
//! Video memory keeps four planes interleaved, so the window cannot simply show it. But as long as the registers say text (odd
//! and even addresses to planes 0 and 1, nothing in between), every byte of the window is one byte of a plane: then the window
//! is RAM of its own, mapped into the guest, and the planes are brought up to date when somebody looks at the picture. The
//! first access to the window begins this, a register that changes the meaning of the window ends it.
//!
//! A plain read does not load the latches then, which matters to nobody: what uses them is not text.

use super::Vga;
use super::rows::checksum;
use alloc::sync::Arc;
use core::ops::Range;
use hv_core::device::{DevCx, WindowId};
use hv_core::mem::DeviceRam;

/// The window within the legacy window at A0000h.
const WINDOW: Range<u64> = 0x1_8000..0x2_0000;
/// Its place in guest-physical memory.
const BASE: u64 = 0xb_8000;
/// Bytes of text memory.
pub const TEXT_RAM: usize = 0x8000;
/// Bytes copied at a time.
const CHUNK: usize = 512;

/// The RAM behind the window.
pub(super) struct TextMap {
    ram: Arc<dyn DeviceRam>,
    window: WindowId,
    active: bool,
}

impl Vga {
    /// Gives the adapter [`TEXT_RAM`] bytes that the bus maps at `window` when asked to.
    #[must_use]
    pub fn with_text_map(mut self, ram: Arc<dyn DeviceRam>, window: WindowId) -> Self {
        self.text = Some(TextMap {
            ram,
            window,
            active: false,
        });
        self
    }

    /// Whether the guest may change the picture without our seeing it.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.is_lfb_mode() || self.text.as_ref().is_some_and(|t| t.active)
    }

    /// The text memory, if an access at `offset` of the legacy window is one to it. Begins the mapping if it can.
    pub(super) fn text_access(
        &mut self,
        cx: &mut DevCx<'_>,
        offset: u64,
        size: usize,
    ) -> Option<(&dyn DeviceRam, usize)> {
        if !WINDOW.contains(&offset)
            || offset + size as u64 > WINDOW.end
            || !self.pipeline.is_text()
        {
            return None;
        }
        let text = self.text.as_mut()?;
        if !text.active {
            text.active = true;
            cx.requests.move_window(text.window, Some(BASE));
            let mut cells = [0; CHUNK];
            let mut planes = [0; 2 * CHUNK];
            for at in (0..TEXT_RAM).step_by(CHUNK) {
                self.vram.read(2 * at, &mut planes);
                for (cell, plane) in cells.chunks_exact_mut(2).zip(planes.chunks_exact(4)) {
                    cell.copy_from_slice(&plane[..2]);
                }
                text.ram.write(at, &cells);
            }
        }
        Some((&*text.ram, (offset - WINDOW.start) as usize))
    }

    /// Ends the mapping if the registers no longer say text.
    pub(super) fn text_settle(&mut self, cx: &mut DevCx<'_>) {
        if self.text.as_ref().is_some_and(|t| t.active) && !self.pipeline.is_text() {
            self.text_end(cx);
        }
    }

    /// Ends the mapping.
    pub(super) fn text_end(&mut self, cx: &mut DevCx<'_>) {
        self.sync_text();
        if let Some(text) = self.text.as_mut().filter(|t| t.active) {
            text.active = false;
            cx.requests.move_window(text.window, None);
        }
    }

    /// A number that changes when the mapped text memory does; 0 if none is mapped.
    pub(super) fn text_sum(&self) -> u64 {
        let Some(text) = self.text.as_ref().filter(|t| t.active) else {
            return 0;
        };
        let mut cells = [0; CHUNK];
        (0..TEXT_RAM).step_by(CHUNK).fold(0, |sum, at| {
            text.ram.read(at, &mut cells);
            let words = cells.as_chunks::<8>().0.iter();
            checksum(sum, words.map(|w| u64::from_le_bytes(*w)))
        })
    }

    /// Brings the planes up to date.
    pub(super) fn sync_text(&self) {
        let Some(text) = self.text.as_ref().filter(|t| t.active) else {
            return;
        };
        let mut cells = [0; CHUNK];
        let mut planes = [0; 2 * CHUNK];
        for at in (0..TEXT_RAM).step_by(CHUNK) {
            text.ram.read(at, &mut cells);
            self.vram.read(2 * at, &mut planes);
            for (cell, plane) in cells.chunks_exact(2).zip(planes.chunks_exact_mut(4)) {
                plane[..2].copy_from_slice(cell);
            }
            self.vram.write(2 * at, &planes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vga::TextScreen;
    use hv_core::device::{AccessSize, Device};
    use hv_core::testing::{Bench, VecDeviceRam};

    const LEGACY: WindowId = WindowId(1);
    const TEXT: WindowId = WindowId(3);

    /// An adapter in mode 3 with its text memory.
    fn vga() -> (Vga, Arc<VecDeviceRam>, Bench) {
        let ram = Arc::new(VecDeviceRam::new(TEXT_RAM));
        let vram = Arc::new(VecDeviceRam::new(1 << 20));
        let mut vga = Vga::new(vram, LEGACY, WindowId(2)).with_text_map(ram.clone(), TEXT);
        let mut bench = Bench::new();
        let mut out = |port, value| vga.port_write(&mut bench.cx(), port, AccessSize::Byte, value);
        let crtc = [
            0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0, 0x4f, 0x0d, 0x0e, 0, 0, 0, 0, 0x9c,
            0x0e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff,
        ];
        out(0x3c2, 0x67);
        for (port, values) in [
            (0x3c4, &[3, 0, 3, 0, 2][..]),
            (0x3ce, &[0, 0, 0, 0, 0, 0x10, 0x0e, 0, 0xff]),
            (0x3d4, &crtc),
        ] {
            for (i, v) in (0u32..).zip(values) {
                out(port, i);
                out(port + 1, *v);
            }
        }
        // Sixteen colours.
        for i in 0..16 {
            out(0x3c0, i);
            out(0x3c0, i);
            out(0x3c8, i);
            (0..3).for_each(|_| out(0x3c9, 4 * i));
        }
        out(0x3c6, 0xff);
        out(0x3c0, 0x12);
        out(0x3c0, 0x0f);
        out(0x3c0, 0x20);
        (vga, ram, bench)
    }

    #[test]
    fn first_access_maps_the_window_with_what_the_planes_had() {
        let (mut vga, ram, mut bench) = vga();
        vga.vram().write(4, b"A\x07");
        assert_eq!(vga.mmio_read(&mut bench.cx(), LEGACY, 0x1_8002, 2), 0x0741);
        assert_eq!(bench.requests.moved, [(TEXT, Some(BASE))]);
        assert!(vga.is_live());
        let mut cell = [0; 2];
        ram.read(2, &mut cell);
        assert_eq!(&cell, b"A\x07");
    }

    #[test]
    fn what_the_guest_writes_to_the_mapped_window_is_on_the_screen() {
        let (mut vga, ram, mut bench) = vga();
        let _ = vga.mmio_read(&mut bench.cx(), LEGACY, 0x1_8000, 1);
        ram.write(0, b"H\x07i\x07");
        let mut screen = TextScreen::default();
        assert!(vga.text_screen(&mut screen));
        assert_eq!(&screen.chars[..2], b"Hi");
    }

    #[test]
    fn picture_is_drawn_again_only_when_the_mapped_text_has_changed() {
        let (mut vga, ram, mut bench) = vga();
        let mut picture = crate::vga::Picture::default();
        let mut draw = |vga: &Vga| vga.picture(hv_core::time::VmTime(0), &mut picture);
        let _ = vga.mmio_read(&mut bench.cx(), LEGACY, 0x1_8000, 1);
        assert!(draw(&vga));
        assert!(!draw(&vga));
        ram.write(0x100, b"x\x17");
        assert!(draw(&vga));
        assert!(!draw(&vga));
    }

    #[test]
    fn register_that_means_something_else_ends_the_mapping_and_keeps_the_text() {
        let (mut vga, ram, mut bench) = vga();
        let _ = vga.mmio_read(&mut bench.cx(), LEGACY, 0x1_8000, 1);
        ram.write(0, b"H\x07");
        bench.requests.moved.clear();
        for (port, value) in [(0x3c4, 2), (0x3c5, 4)] {
            vga.port_write(&mut bench.cx(), port, AccessSize::Byte, value);
        }
        assert_eq!(bench.requests.moved, [(TEXT, None)]);
        assert!(!vga.is_live());
        let mut cell = [0; 2];
        vga.vram().read(0, &mut cell);
        assert_eq!(&cell, b"H\x07");
    }

    /// What xv6's console does for each character: the cursor is read and written, and at the screen's end all lines are moved up by
    /// bytes. Nothing of that ends the mapping, so that none of it leaves the guest but the ports.
    #[test]
    fn a_console_that_scrolls_by_memmove_keeps_the_mapping() {
        let (mut vga, _, mut bench) = vga();
        for _ in 0..3 {
            for (register, value) in [(14, 0x07), (15, 0x80)] {
                vga.port_write(&mut bench.cx(), 0x3d4, AccessSize::Byte, register);
                vga.port_read(&mut bench.cx(), 0x3d5, AccessSize::Byte);
                vga.port_write(&mut bench.cx(), 0x3d5, AccessSize::Byte, value);
            }
            for at in 0..23 * 160 {
                let byte = vga.mmio_read(&mut bench.cx(), LEGACY, 0x1_8000 + 160 + at, 1);
                vga.mmio_write(&mut bench.cx(), LEGACY, 0x1_8000 + at, 1, byte);
            }
        }
        assert_eq!(bench.requests.moved, [(TEXT, Some(BASE))]);
    }

    #[test]
    fn reset_ends_the_mapping() {
        let (mut vga, _, mut bench) = vga();
        let _ = vga.mmio_read(&mut bench.cx(), LEGACY, 0x1_8000, 1);
        bench.requests.moved.clear();
        vga.reset(&mut bench.cx());
        assert_eq!(bench.requests.moved, [(TEXT, None)]);
        assert!(!vga.is_live());
    }

    #[test]
    fn the_frame_buffer_is_there_after_a_reset() {
        const FRAME_BUFFER: WindowId = WindowId(4);
        let (vga, _, mut bench) = vga();
        let mut vga = vga.with_frame_buffer(FRAME_BUFFER);
        vga.reset(&mut bench.cx());
        vga.mmio_write(&mut bench.cx(), FRAME_BUFFER, 0x8_0000, 4, 0x1234_5678);
        let read = vga.mmio_read(&mut bench.cx(), FRAME_BUFFER, 0x8_0000, 4);
        assert_eq!(read, 0x1234_5678);
    }
}
