//! The picture on the screen as RGB pixels: graphics modes. Text is in [`text`](super::text).
//!
//! IBM PS/2 Hardware Interface Technical Reference, Video Subsystem, "Video Memory Organization" and "Attribute Controller
//! Registers". Word and doubleword addressing are taken for what the memory layout packs (see [`memory`](super::memory)). The
//! border is not shown.

use super::Vga;
use super::dispi::Mode;
use super::scan::Scan;
use super::screen::ScreenKind;
use alloc::vec::Vec;
use hv_core::mem::DeviceRam;
use hv_core::time::VmTime;

/// A picture, with memory that is kept from one to the next.
#[derive(Default, Debug)]
pub struct Picture {
    /// In pixels, 1 to 2560.
    pub width: u32,
    /// In pixels, 1 to 1600.
    pub height: u32,
    /// Rows from the top, pixels from the left: 0x00RRGGBB.
    pub pixels: Vec<u32>,
    /// Bytes of video memory on their way.
    pub(super) scratch: Vec<u8>,
}

/// The planes of a real VGA end and begin again here, in bytes of video memory.
const VGA_WRAP: usize = (256 << 10) - 1;
/// The longest line of the VGA: 256 characters and those that panning moves in.
const LINE_BYTES: usize = 4 * (256 + 4);

impl Vga {
    /// Draws what is on the screen at `now`, which matters to what blinks.
    pub fn picture(&self, now: VmTime, out: &mut Picture) {
        self.sync_text();
        let screen = self.screen();
        out.width = screen.width;
        out.height = screen.height;
        out.pixels
            .resize(screen.width as usize * screen.height as usize, 0);
        match screen.kind {
            ScreenKind::Blank => out.pixels.fill(0),
            ScreenKind::Text { columns, .. } => self.draw_text(now, columns, out),
            ScreenKind::Planar | ScreenKind::Cga | ScreenKind::Bytes => {
                self.draw_vga(screen.kind, out)
            }
            ScreenKind::Vbe { .. } => {
                if let Some(mode) = self.dispi.mode() {
                    self.draw_vbe(mode, out);
                }
            }
        }
    }

    /// The sixteen colours of planar modes and text.
    pub(super) fn colors16(&self) -> [u32; 16] {
        core::array::from_fn(|i| self.dac.rgb(self.attr.dac_index(i as u8)))
    }

    fn colors256(&self) -> [u32; 256] {
        core::array::from_fn(|i| self.dac.rgb(i as u8))
    }

    fn draw_vga(&self, kind: ScreenKind, out: &mut Picture) {
        let colors16 = self.colors16();
        let colors256 = self.colors256();
        let wide = self.wide_dots();
        let width = out.width as usize;
        let mut groups = [0; LINE_BYTES];
        let used = 4 * (self.crtc.columns() as usize + 1);
        let mut shown = None;
        for (y, line) in (0..out.height as usize).zip(Scan::new(&self.crtc)) {
            let (bytes, dots) = if line.split && self.attr.pan_compatible() {
                (0, 0)
            } else {
                (self.crtc.byte_pan(), self.attr.pan() & 7)
            };
            let at = self.crtc.interleave(line.address + bytes, line.row_scan) as usize * 4;
            let (above, rest) = out.pixels.split_at_mut(y * width);
            let row = rest.get_mut(..width).unwrap_or_default();
            // Low resolutions show each line twice or more.
            if shown.replace((at, dots)) == Some((at, dots))
                && let Some(same) = above.get(above.len() - width..)
            {
                row.copy_from_slice(same);
                continue;
            }
            let groups = groups.get_mut(..used).unwrap_or_default();
            read_wrapped(&*self.vram, at, VGA_WRAP, groups);
            let pixels = width >> u32::from(wide);
            let narrow = row.get_mut(..pixels).unwrap_or_default();
            match kind {
                ScreenKind::Planar => planar_line(groups, dots as usize, &colors16, narrow),
                ScreenKind::Cga => cga_line(groups, dots as usize, &colors16, narrow),
                _ => byte_line(
                    groups.get(dots as usize / 2..).unwrap_or_default(),
                    &colors256,
                    narrow,
                ),
            }
            if wide {
                spread(row, pixels);
            }
        }
    }

    fn draw_vbe(&self, mode: Mode, out: &mut Picture) {
        let colors16 = self.colors16();
        let colors256 = self.colors256();
        let bytes = mode.width as usize
            * if mode.bpp == 15 {
                16
            } else {
                mode.bpp as usize
            }
            / 8;
        out.scratch.resize(bytes, 0);
        for (y, row) in out.pixels.chunks_exact_mut(out.width as usize).enumerate() {
            let src = out.scratch.as_mut_slice();
            self.vram
                .read(mode.start as usize + y * mode.pitch as usize, src);
            match mode.bpp {
                4 => planar_line(src, 0, &colors16, row),
                15 => convert(src, row, |[a, b]| rgb15(u16::from_le_bytes([a, b]))),
                16 => convert(src, row, |[a, b]| rgb16(u16::from_le_bytes([a, b]))),
                24 => convert(src, row, |[b, g, r]| u32::from_le_bytes([b, g, r, 0])),
                32 => convert(src, row, |p| u32::from_le_bytes(p) & 0x00ff_ffff),
                _ => byte_line(src, &colors256, row),
            }
        }
    }
}

/// Reads bytes from `at` on of a memory that begins again behind `wrap` (one less than a power of two).
pub(super) fn read_wrapped(vram: &dyn DeviceRam, at: usize, wrap: usize, buf: &mut [u8]) {
    let at = at & wrap;
    let (head, tail) = buf.split_at_mut((wrap + 1 - at).min(buf.len()));
    vram.read(at, head);
    if !tail.is_empty() {
        vram.read(0, tail);
    }
}

/// Makes two pixels of each of the first `pixels` of `row`, which has room for them.
fn spread(row: &mut [u32], pixels: usize) {
    for i in (0..pixels).rev() {
        let p = row[i];
        row[2 * i..2 * i + 2].fill(p);
    }
}

/// One pixel for each `N` bytes.
fn convert<const N: usize>(src: &[u8], row: &mut [u32], pixel: impl Fn([u8; N]) -> u32) {
    for (p, bytes) in row.iter_mut().zip(src.as_chunks::<N>().0) {
        *p = pixel(*bytes);
    }
}

fn byte_line(src: &[u8], colors: &[u32; 256], row: &mut [u32]) {
    for (p, i) in row.iter_mut().zip(src) {
        *p = colors[usize::from(*i)];
    }
}

/// Eight pixels from each group of four planes' bytes, from the `pan`th (0 to 7) on.
fn planar_line(groups: &[u8], pan: usize, colors: &[u32; 16], row: &mut [u32]) {
    // Gathers bit 0 of each byte in bits 27:24.
    const GATHER: u32 = 1 << 24 | 1 << 17 | 1 << 10 | 1 << 3;
    eights(groups, pan, row, |group, dot| {
        let bits = u32::from_le_bytes(group) >> (7 - dot) & 0x0101_0101;
        colors[(bits.wrapping_mul(GATHER) >> 24 & 15) as usize]
    });
}

/// Eight pixels of two bits from each group: four from the even planes, then four from the odd ones. Planes 2 and 3 have the
/// upper bits of sixteen colours.
fn cga_line(groups: &[u8], pan: usize, colors: &[u32; 16], row: &mut [u32]) {
    eights(groups, pan, row, |[even, odd, even_high, odd_high], dot| {
        let (low, high) = if dot < 4 {
            (even, even_high)
        } else {
            (odd, odd_high)
        };
        let shift = 6 - 2 * (dot & 3);
        colors[usize::from(low >> shift & 3 | (high >> shift & 3) << 2)]
    });
}

/// Fills `row` with the eight pixels (0 is the leftmost) of each group, leaving out the first `skip`.
fn eights(groups: &[u8], skip: usize, row: &mut [u32], pixel: impl Fn([u8; 4], u32) -> u32) {
    let mut groups = groups.as_chunks::<4>().0.iter();
    let (head, row) = row.split_at_mut((8 - (skip & 7)).min(row.len()));
    if let Some(g) = groups.next() {
        for (i, p) in head.iter_mut().enumerate() {
            *p = pixel(*g, ((skip & 7) + i) as u32);
        }
    }
    for (pixels, g) in row.chunks_mut(8).zip(groups) {
        for (i, p) in pixels.iter_mut().enumerate() {
            *p = pixel(*g, i as u32);
        }
    }
}

/// Widens five or six bits to eight, so that the largest value is white.
fn widen(value: u16, bits: u32) -> u32 {
    let v = u32::from(value) & ((1 << bits) - 1);
    v << (8 - bits) | v >> (2 * bits - 8)
}

fn rgb15(p: u16) -> u32 {
    widen(p >> 10, 5) << 16 | widen(p >> 5, 5) << 8 | widen(p, 5)
}

fn rgb16(p: u16) -> u32 {
    widen(p >> 11, 5) << 16 | widen(p >> 5, 6) << 8 | widen(p, 5)
}
