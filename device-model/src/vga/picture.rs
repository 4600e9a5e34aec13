//! The picture on the screen as RGB pixels: graphics modes. Text is in [`text`](super::text).
//!
//! IBM PS/2 Hardware Interface Technical Reference, Video Subsystem, "Video Memory Organization" and "Attribute Controller
//! Registers". Word and doubleword addressing are taken for what the memory layout packs (see [`memory`](super::memory)). The
//! border is not shown.

use super::Vga;
use super::dispi::{MAX_HEIGHT, MAX_WIDTH, Mode};
use super::rows::{Rows, checksum, read_wrapped};
use super::scan::Scan;
use super::screen::{Screen, ScreenKind};
use super::text::TEXT_SCRATCH;
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use hv_core::time::VmTime;

/// Draws screens row by row. Its memory, some 40 KiB, is taken once: no screen needs more.
#[derive(Debug)]
pub struct Painter {
    /// The row that is drawn: 0x00RRGGBB from the left.
    row: Box<[u32]>,
    /// Bytes of video memory on their way.
    scratch: Box<[u8]>,
    /// For each row a number that changes when the row does, never 0; 0 for a row that was not painted.
    sums: Box<[u64]>,
    /// What was painted.
    key: Option<Key>,
}

impl Default for Painter {
    fn default() -> Self {
        Self {
            row: vec![0; MAX_WIDTH as usize].into(),
            scratch: vec![0; SCRATCH].into(),
            sums: vec![0; MAX_HEIGHT as usize].into(),
            key: None,
        }
    }
}

impl Painter {
    /// The next screen is painted from scratch: it is another one.
    pub fn forget(&mut self) {
        self.key = None;
        self.sums.fill(0);
    }

    /// As [`Vga::paint`], of something else that always has this width and height; `draw` makes one of its rows.
    pub fn paint(
        &mut self,
        (width, height): (u32, u32),
        draw: &mut dyn FnMut(u32, &mut [u32]),
        row: &mut dyn FnMut(u32, &[u32]),
    ) {
        if self.key.is_some() {
            self.forget();
        }
        let mut rows = Rows::new(Some(&mut self.sums), row);
        let pixels = self.row.get_mut(..width as usize).unwrap_or_default();
        for y in 0..height {
            draw(y, pixels);
            rows.drawn(y, pixels);
        }
    }
}

/// A whole picture, for those who have memory for all of it; it is kept from one to the next.
#[derive(Default, Debug)]
pub struct Picture {
    /// In pixels, 1 to 2560.
    pub width: u32,
    /// In pixels, 1 to 1600.
    pub height: u32,
    /// Rows from the top, pixels from the left: 0x00RRGGBB.
    pub pixels: Vec<u32>,
    /// The rows that were drawn last.
    pub changed: Vec<u32>,
    painter: Painter,
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

/// Bytes of video memory that a row needs at most: 32 bits a pixel, or text.
const SCRATCH: usize = {
    let vbe = 4 * MAX_WIDTH as usize;
    if vbe > TEXT_SCRATCH {
        vbe
    } else {
        TEXT_SCRATCH
    }
};
/// The planes of a real VGA end and begin again here, in bytes of video memory.
const VGA_WRAP: usize = (256 << 10) - 1;
/// The longest line of the VGA: 256 characters and those that panning moves in.
const LINE_BYTES: usize = 4 * (256 + 4);

impl Vga {
    /// Draws what is on the screen at `now`, which matters to what blinks: gives the rows that have changed since what `painter` has
    /// painted before, with their numbers, to `row`. All of them, if the size is another. Answers whether there are any.
    pub fn paint(
        &self,
        now: VmTime,
        painter: &mut Painter,
        row: &mut dyn FnMut(u32, &[u32]),
    ) -> bool {
        let screen = self.screen();
        let key = Key {
            screen,
            generation: self.generation,
            blink: self.blink_phase(now),
            text: self.text_sum(),
        };
        let before = painter.key.replace(key);
        // A linear frame buffer changes without our seeing it.
        if before == Some(key) && !matches!(screen.kind, ScreenKind::Vbe { .. }) {
            return false;
        }
        if before.map(|before| before.screen) != Some(screen) {
            painter.sums.fill(0);
        }
        let mut rows = Rows::new(Some(&mut painter.sums), row);
        self.scan_out(
            now,
            screen,
            &mut painter.row,
            &mut painter.scratch,
            &mut rows,
        );
        rows.any
    }

    /// Draws all of what is on the screen at `now`, row by row from the top. What `painter` has painted it forgets not.
    pub fn draw(&self, now: VmTime, painter: &mut Painter, row: &mut dyn FnMut(u32, &[u32])) {
        let mut rows = Rows::new(None, row);
        let Painter { row, scratch, .. } = painter;
        self.scan_out(now, self.screen(), row, scratch, &mut rows);
    }

    /// Draws what is on the screen at `now` into the picture that was drawn before: only what has changed since. Answers whether
    /// anything has.
    pub fn picture(&self, now: VmTime, out: &mut Picture) -> bool {
        let Screen { width, height, .. } = self.screen();
        (out.width, out.height) = (width, height);
        let width = width as usize;
        out.pixels.resize(width * height as usize, 0);
        out.changed.clear();
        let (pixels, changed) = (&mut out.pixels, &mut out.changed);
        self.paint(now, &mut out.painter, &mut |y, row| {
            let at = y as usize * width;
            if let Some(place) = pixels.get_mut(at..at + width) {
                place.copy_from_slice(row);
            }
            changed.push(y);
        })
    }

    /// Draws `screen` by way of the row `row`.
    fn scan_out(
        &self,
        now: VmTime,
        screen: Screen,
        row: &mut [u32],
        scratch: &mut [u8],
        rows: &mut Rows<'_>,
    ) {
        let row = row.get_mut(..screen.width as usize).unwrap_or_default();
        match (screen.kind, self.dispi.mode()) {
            (ScreenKind::Vbe { .. }, Some(mode)) => {
                return self.draw_vbe(mode, screen.height, row, scratch, rows);
            }
            (ScreenKind::Vbe { .. } | ScreenKind::Blank, _) => {
                row.fill(0);
                return (0..screen.height).for_each(|y| rows.drawn(y, row));
            }
            _ => self.sync_text(),
        }
        match screen.kind {
            ScreenKind::Text { columns, .. } => {
                self.draw_text(now, columns, screen.height, row, scratch, rows);
            }
            kind => self.draw_vga(kind, screen.height, row, rows),
        }
    }

    /// The sixteen colours of planar modes and text.
    pub(super) fn colors16(&self) -> [u32; 16] {
        core::array::from_fn(|i| self.dac.rgb(self.attr.dac_index(i as u8)))
    }

    fn colors256(&self) -> [u32; 256] {
        core::array::from_fn(|i| self.dac.rgb(i as u8))
    }

    fn draw_vga(&self, kind: ScreenKind, height: u32, row: &mut [u32], rows: &mut Rows<'_>) {
        let colors16 = self.colors16();
        let colors256 = self.colors256();
        let wide = self.wide_dots();
        let width = row.len();
        let mut groups = [0; LINE_BYTES];
        let used = 4 * (self.crtc.columns() as usize + 1);
        let mut shown = None;
        for (y, line) in (0..height).zip(Scan::new(&self.crtc)) {
            let (bytes, dots) = if line.split && self.attr.pan_compatible() {
                (0, 0)
            } else {
                (self.crtc.byte_pan(), self.attr.pan() & 7)
            };
            let at = self.crtc.interleave(line.address + bytes, line.row_scan) as usize * 4;
            // Low resolutions show each line twice or more.
            if shown.replace((at, dots)) != Some((at, dots)) {
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
            rows.drawn(y, row);
        }
    }

    /// Draws the rows whose video memory has changed.
    fn draw_vbe(
        &self,
        mode: Mode,
        height: u32,
        row: &mut [u32],
        scratch: &mut [u8],
        rows: &mut Rows<'_>,
    ) {
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
        let scratch = scratch.get_mut(..bytes.next_multiple_of(8));
        let scratch = scratch.unwrap_or_default();
        scratch.fill(0);
        for y in 0..height {
            let Some(src) = scratch.get_mut(..bytes) else {
                break;
            };
            let at = mode.start as usize + y as usize * mode.pitch as usize;
            self.vram.read(at, src);
            let words = || scratch.as_chunks::<8>().0.iter();
            if !rows.wants(y, || {
                checksum(seed, words().map(|w| u64::from_le_bytes(*w)))
            }) {
                continue;
            }
            let src = scratch.get(..bytes).unwrap_or_default();
            match mode.bpp {
                4 => planar_line(src, 0, &colors16, row),
                15 => convert(src, row, |[a, b]| rgb15(u16::from_le_bytes([a, b]))),
                16 => convert(src, row, |[a, b]| rgb16(u16::from_le_bytes([a, b]))),
                24 => convert(src, row, |[b, g, r]| u32::from_le_bytes([b, g, r, 0])),
                32 => convert(src, row, |p| u32::from_le_bytes(p) & 0x00ff_ffff),
                _ => byte_line(src, &colors256, row),
            }
            rows.give(y, row);
        }
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
