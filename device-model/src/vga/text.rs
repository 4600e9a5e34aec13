//! Text modes: as pixels, and as characters.
//!
//! IBM PS/2 Hardware Interface Technical Reference, Video Subsystem, "Alphanumeric Modes" and "Character Map Select Register".
//! Plane 0 has the characters, plane 1 the attributes, plane 2 the fonts: 32 bytes for each of 256 characters.

use super::Vga;
use super::rows::{Rows, read_wrapped};
use super::scan::Scan;
use super::screen::{ScreenKind, cursor_hidden, text_hidden};
use alloc::vec::Vec;
use hv_core::time::VmTime;

/// The characters on the screen, for those who have memory for all of them; it is kept from one screen to the next.
#[derive(Default, Debug)]
pub struct TextScreen {
    /// Characters in a row: 1 to 256.
    pub cols: u32,
    /// Rows: 1 to 1,024.
    pub rows: u32,
    /// Character codes (code page 437 if the font is the BIOS's), row by row from the top.
    pub chars: Vec<u8>,
}

/// Bytes of one font.
const FONT: usize = 256 * GLYPH;
/// Bytes of one character's picture.
const GLYPH: usize = 32;
/// Bytes that drawing needs: two fonts, and a row's cells with those that panning moves in.
pub(super) const TEXT_SCRATCH: usize = 2 * FONT + 4 * (256 + 4);
/// Bytes of video memory read at a time.
const CHUNK: usize = 1024;
/// Text wraps where the planes of a real VGA do, in bytes of video memory.
const WRAP: usize = (256 << 10) - 1;
/// The address counter has 16 bits.
const COUNTER: u32 = 0xffff;

/// Attribute bit 3: the second font, if there are two.
const SECOND_FONT: u8 = 1 << 3;
/// Attribute bit 7: blinking, or a bright background.
const BLINK: u8 = 1 << 7;
/// Attribute bits 2:0 and their value that means an underline.
const UNDERLINE: (u8, u8) = (7, 1);
/// The characters whose ninth dot repeats the eighth, so that lines meet.
const LINE_GRAPHICS: core::ops::RangeInclusive<u8> = 0xc0..=0xdf;

impl Vga {
    /// Gives the characters on the screen to `row`, row by row from the top: 1 to 1,024 rows of 1 to 256. Answers how many a row has;
    /// none, and calls nothing, if the screen does not show text.
    pub fn text_rows(&self, row: &mut dyn FnMut(&[u8])) -> Option<u32> {
        let ScreenKind::Text { columns, .. } = self.screen().kind else {
            return None;
        };
        self.sync_text();
        let (mut cells, mut chars) = ([0; 4 * 256], [0; 256]);
        let cells = cells.get_mut(..4 * columns as usize).unwrap_or_default();
        let chars = chars.get_mut(..columns as usize).unwrap_or_default();
        for line in Scan::new(&self.crtc).filter(|l| l.new_row) {
            read_wrapped(&*self.vram, line.address as usize * 4, WRAP, cells);
            for (char, cell) in chars.iter_mut().zip(cells.as_chunks::<4>().0) {
                *char = cell[0];
            }
            row(chars);
        }
        Some(columns)
    }

    /// Copies the characters on the screen to `out`. False, and there are none, if it does not show text.
    pub fn text_screen(&self, out: &mut TextScreen) -> bool {
        out.chars.clear();
        out.rows = 0;
        let columns = self.text_rows(&mut |row| {
            out.chars.extend_from_slice(row);
            out.rows += 1;
        });
        out.cols = columns.unwrap_or(0);
        columns.is_some()
    }

    /// Draws the text screen of `columns` characters a row by way of the row `row`; `scratch` has [`TEXT_SCRATCH`] bytes.
    pub(super) fn draw_text(
        &self,
        now: VmTime,
        columns: u32,
        height: u32,
        row: &mut [u32],
        scratch: &mut [u8],
        rows: &mut Rows<'_>,
    ) {
        let colors = self.colors16();
        let (fonts, cells) = scratch.split_at_mut(2 * FONT);
        let cells = cells.get_mut(..4 * (columns as usize + 4));
        let cells = cells.unwrap_or_default();
        for (font, at) in fonts.chunks_exact_mut(FONT).zip(self.seq.fonts()) {
            self.read_font(at, font);
        }
        let style = Style {
            dots: self.seq.cell_dots(),
            wide: self.seq.half_dot_clock(),
            line_graphics: self.attr.line_graphics(),
            blink: self.attr.blink(),
            hidden: text_hidden(now),
            underline: self.crtc.underline(),
        };
        let cursor = self.crtc.cursor().filter(|_| !cursor_hidden(now));
        let mut fetched = None;
        for (y, line) in (0..height).zip(Scan::new(&self.crtc)) {
            let (chars, dots) = if line.split && self.attr.pan_compatible() {
                (0, 0)
            } else {
                (self.crtc.byte_pan(), self.text_pan())
            };
            let address = (line.address + chars) & COUNTER;
            if fetched != Some(address) {
                read_wrapped(&*self.vram, address as usize * 4, WRAP, cells);
                fetched = Some(address);
            }
            let cursor = cursor
                .as_ref()
                .filter(|(_, lines)| lines.contains(&line.row_scan));
            let cursor = cursor.map(|(at, _)| at.wrapping_sub(address) & COUNTER);
            style.draw(cells, fonts, &colors, line.row_scan, dots, cursor, row);
            rows.drawn(y, row);
        }
    }

    /// Copies the font at `at` of plane 2.
    fn read_font(&self, at: usize, font: &mut [u8]) {
        let mut groups = [0; CHUNK];
        for (i, part) in font.chunks_exact_mut(CHUNK / 4).enumerate() {
            self.vram.read(at * 4 + i * CHUNK, &mut groups);
            for (b, g) in part.iter_mut().zip(groups.as_chunks::<4>().0) {
                *b = g[2];
            }
        }
    }

    /// Dots by which text is moved to the left. With cells of nine dots, value 8 means none and 0 means one.
    fn text_pan(&self) -> u32 {
        match (self.seq.cell_dots(), self.attr.pan()) {
            (9, pan) if pan >= 8 => 0,
            (9, pan) => pan + 1,
            (_, pan) => pan & 7,
        }
    }
}

/// How characters are drawn.
struct Style {
    dots: u32,
    wide: bool,
    line_graphics: bool,
    blink: bool,
    hidden: bool,
    underline: u32,
}

impl Style {
    /// Draws line `scan` of the characters in `cells`, leaving out the first `pan` dots. The cursor is in column `cursor`.
    #[allow(clippy::too_many_arguments)]
    fn draw(
        &self,
        cells: &[u8],
        fonts: &[u8],
        colors: &[u32; 16],
        scan: u32,
        pan: u32,
        cursor: Option<u32>,
        row: &mut [u32],
    ) {
        let mut pixels = row.iter_mut();
        let mut skip = pan;
        for (column, [char, attribute, ..]) in cells.as_chunks::<4>().0.iter().enumerate() {
            let bits = if cursor == Some(column as u32) {
                0x1ff
            } else {
                self.dots(*char, *attribute, fonts, scan)
            };
            let background = if self.blink {
                attribute >> 4 & 7
            } else {
                attribute >> 4
            };
            let foreground = colors[usize::from(attribute & 15)];
            let background = colors[usize::from(background & 15)];
            for dot in skip..self.dots {
                let color = if bits >> (8 - dot) & 1 != 0 {
                    foreground
                } else {
                    background
                };
                let Some(p) = pixels.next() else { return };
                *p = color;
                if self.wide {
                    let Some(p) = pixels.next() else { return };
                    *p = color;
                }
            }
            skip = 0;
        }
    }

    /// The nine dots of a character's line, the leftmost in bit 8.
    fn dots(&self, char: u8, attribute: u8, fonts: &[u8], scan: u32) -> u32 {
        if self.blink && self.hidden && attribute & BLINK != 0 {
            return 0;
        }
        if scan == self.underline && attribute & UNDERLINE.0 == UNDERLINE.1 {
            return 0x1ff;
        }
        let font = if attribute & SECOND_FONT != 0 {
            FONT
        } else {
            0
        };
        let eight = u32::from(
            fonts
                .get(font + usize::from(char) * GLYPH + scan as usize)
                .copied()
                .unwrap_or(0),
        );
        let ninth = if self.line_graphics && LINE_GRAPHICS.contains(&char) {
            eight & 1
        } else {
            0
        };
        eight << 1 | ninth
    }
}
