//! The picture on the screen as RGB pixels: graphics modes. Text is in [`text`](super::text).
//!
//! IBM PS/2 Hardware Interface Technical Reference, Video Subsystem, "Video Memory Organization" and "Attribute Controller
//! Registers". Word and doubleword addressing are taken for what the memory layout packs (see [`memory`](super::memory)). The
//! border is not shown.

use super::Vga;
use super::dispi::Mode;
use super::scan::Scan;
use super::screen::{Screen, ScreenKind};
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
    /// For each row a number that changes when the row does, never 0.
    pub sums: Vec<u64>,
    /// What the picture was made of.
    key: Option<Key>,
    /// Bytes of video memory on their way.
    pub(super) scratch: Vec<u8>,
}

impl Picture {
    /// The next picture is made from scratch: it is of another screen.
    pub fn forget(&mut self) {
        self.key = None;
    }

    /// Makes it another picture of `width` by `height` pixels, which `draw` leaves in the vector.
    pub fn replace(&mut self, width: u32, height: u32, draw: impl FnOnce(&mut Vec<u32>)) {
        (self.width, self.height) = (width, height);
        self.key = None;
        draw(&mut self.pixels);
        self.pixels.resize(width as usize * height as usize, 0);
        self.sum_rows();
    }

    fn sum_rows(&mut self) {
        self.sums.clear();
        let rows = self.pixels.chunks_exact(self.width.max(1) as usize);
        self.sums
            .extend(rows.map(|row| checksum(0, row.iter().map(|&p| p.into()))));
    }
}

/// What a picture depends on, but for video memory that the guest writes without our seeing it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Key {
    screen: Screen,
    generation: u64,
    blink: u8,
    /// The text memory.
    text: u64,
}

/// The planes of a real VGA end and begin again here, in bytes of video memory.
const VGA_WRAP: usize = (256 << 10) - 1;
/// The longest line of the VGA: 256 characters and those that panning moves in.
const LINE_BYTES: usize = 4 * (256 + 4);

impl Vga {
    /// Draws what is on the screen at `now`, which matters to what blinks, into the picture that was drawn before: only what has
    /// changed since. Answers whether anything has.
    pub fn picture(&self, now: VmTime, out: &mut Picture) -> bool {
        let screen = self.screen();
        let key = Key {
            screen,
            generation: self.generation,
            blink: self.blink_phase(now),
            text: self.text_sum(),
        };
        let same = out.key.replace(key) == Some(key);
        if let (ScreenKind::Vbe { .. }, Some(mode)) = (screen.kind, self.dispi.mode()) {
            if !same {
                out.resize(screen);
            }
            return self.draw_vbe(mode, out);
        }
        if same {
            return false;
        }
        self.sync_text();
        out.resize(screen);
        match screen.kind {
            ScreenKind::Text { columns, .. } => self.draw_text(now, columns, out),
            ScreenKind::Planar | ScreenKind::Cga | ScreenKind::Bytes => {
                self.draw_vga(screen.kind, out)
            }
            ScreenKind::Blank | ScreenKind::Vbe { .. } => out.pixels.fill(0),
        }
        out.sum_rows();
        true
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

    /// Draws the rows whose video memory has changed; answers whether there are any.
    fn draw_vbe(&self, mode: Mode, out: &mut Picture) -> bool {
        let colors16 = self.colors16();
        let colors256 = self.colors256();
        let bytes = mode.width as usize
            * if mode.bpp == 15 {
                16
            } else {
                mode.bpp as usize
            }
            / 8;
        // The same bytes are another picture after another mode or palette.
        let seed = self.generation;
        // Words for the checksum: the last may have bytes that are 0.
        out.scratch.resize(bytes.next_multiple_of(8), 0);
        let rows = out.pixels.chunks_exact_mut(out.width as usize);
        let mut changed = false;
        for (y, (row, sum)) in rows.zip(&mut out.sums).enumerate() {
            let Some(src) = out.scratch.get_mut(..bytes) else {
                break;
            };
            self.vram
                .read(mode.start as usize + y * mode.pitch as usize, src);
            let words = out.scratch.as_chunks::<8>().0.iter();
            let now = checksum(seed, words.map(|w| u64::from_le_bytes(*w)));
            if core::mem::replace(sum, now) == now {
                continue;
            }
            changed = true;
            let src = out.scratch.get(..bytes).unwrap_or_default();
            match mode.bpp {
                4 => planar_line(src, 0, &colors16, row),
                15 => convert(src, row, |[a, b]| rgb15(u16::from_le_bytes([a, b]))),
                16 => convert(src, row, |[a, b]| rgb16(u16::from_le_bytes([a, b]))),
                24 => convert(src, row, |[b, g, r]| u32::from_le_bytes([b, g, r, 0])),
                32 => convert(src, row, |p| u32::from_le_bytes(p) & 0x00ff_ffff),
                _ => byte_line(src, &colors256, row),
            }
        }
        changed
    }
}

impl Picture {
    /// Gives it the size of `screen`. No row is known any more.
    fn resize(&mut self, screen: Screen) {
        self.width = screen.width;
        self.height = screen.height;
        let (width, height) = (screen.width as usize, screen.height as usize);
        self.pixels.resize(width * height, 0);
        self.sums.clear();
        self.sums.resize(height, 0);
    }
}

/// A number that in all likelihood is another one for other `words`, and never 0.
pub(super) fn checksum(seed: u64, words: impl Iterator<Item = u64>) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = |sum: u64, word: u64| (sum.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    words.fold(mixed(0, seed), mixed).max(1)
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
