//! The console's screen: text, and the picture of it.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

/// Characters of a line.
pub const COLUMNS: usize = 80;
/// Lines.
pub const ROWS: usize = 25;
/// Lines of dots of a character.
pub const FONT_HEIGHT: usize = 16;
const FONT_WIDTH: usize = 8;

const TITLE: &str = " Umbra's console                             Ctrl+Alt+Esc: back to the guest";
const PAPER: u32 = 0x00_0040;
const INK: u32 = 0xd0_d0_d0;

/// A screen of text below a title. It scrolls.
pub struct Screen {
    cells: Vec<u8>,
    at: usize,
    generation: u64,
}

impl Default for Screen {
    fn default() -> Self {
        let mut screen = Self {
            cells: vec![b' '; COLUMNS * ROWS],
            at: COLUMNS,
            generation: 0,
        };
        let title = TITLE.as_bytes();
        screen.cells[..title.len()].copy_from_slice(title);
        screen
    }
}

impl Screen {
    /// Everything but the title goes.
    pub fn clear(&mut self) {
        self.cells[COLUMNS..].fill(b' ');
        self.at = COLUMNS;
        self.generation += 1;
    }

    /// Changes with every change of the screen.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The characters, [`COLUMNS`] a line.
    #[must_use]
    pub fn cells(&self) -> &[u8] {
        &self.cells
    }

    fn put(&mut self, character: char) {
        match character {
            '\n' => self.at = (self.at / COLUMNS + 1) * COLUMNS,
            '\r' => self.at -= self.at % COLUMNS,
            '\x08' => self.at = (self.at - 1).max(COLUMNS),
            _ => {
                self.cells[self.at] = match character {
                    ' '..='~' => character as u8,
                    _ => b'?',
                };
                self.at += 1;
            }
        }
        if self.at >= self.cells.len() {
            self.cells.copy_within(2 * COLUMNS.., COLUMNS);
            let last = self.cells.len() - COLUMNS;
            self.cells[last..].fill(b' ');
            self.at -= COLUMNS;
        }
    }

    /// Width and height of the picture in pixels.
    #[must_use]
    pub const fn size() -> (u32, u32) {
        ((COLUMNS * FONT_WIDTH) as u32, (ROWS * FONT_HEIGHT) as u32)
    }

    /// Draws row `y` of the picture into `pixels` (`0xRRGGBB`, from the left) with a font of 8 by 16 dots a character, [`FONT_HEIGHT`]
    /// bytes each.
    pub fn draw_row(&self, font: &[u8], y: u32, pixels: &mut [u32]) {
        let (row, y) = (y as usize / FONT_HEIGHT, y as usize % FONT_HEIGHT);
        let (paper, ink) = if row == 0 { (INK, PAPER) } else { (PAPER, INK) };
        let cells = self
            .cells
            .chunks_exact(COLUMNS)
            .nth(row)
            .unwrap_or_default();
        for (column, (&cell, pixels)) in (0..).zip(cells.iter().zip(pixels.chunks_mut(FONT_WIDTH)))
        {
            let dots = font.get(usize::from(cell) * FONT_HEIGHT + y).copied();
            // The cursor is a line below the character.
            let cursor = row * COLUMNS + column == self.at && y >= FONT_HEIGHT - 2;
            let dots = if cursor { 0xff } else { dots.unwrap_or(0) };
            for (x, pixel) in pixels.iter_mut().enumerate() {
                *pixel = if dots << x & 0x80 != 0 { ink } else { paper };
            }
        }
    }
}

impl fmt::Write for Screen {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        s.chars().for_each(|character| self.put(character));
        self.generation += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::fmt::Write;

    fn row(screen: &Screen, row: usize) -> String {
        let line = &screen.cells()[row * COLUMNS..(row + 1) * COLUMNS];
        String::from_utf8(line.to_vec())
            .unwrap()
            .trim_end()
            .to_owned()
    }

    #[test]
    fn text_scrolls_below_the_title() {
        let mut screen = Screen::default();
        for n in 0..100 {
            writeln!(screen, "line {n}").unwrap();
        }
        assert!(row(&screen, 0).contains("Ctrl+Alt+Esc"));
        assert_eq!(row(&screen, 1), "line 77");
        assert_eq!(row(&screen, ROWS - 2), "line 99");
        assert_eq!(row(&screen, ROWS - 1), "");
    }

    #[test]
    fn backspace_stays_on_the_screen_and_long_lines_are_continued() {
        let mut screen = Screen::default();
        write!(screen, "\x08\x08ab\x08 \x08c").unwrap();
        assert_eq!(row(&screen, 1), "ac");
        screen.clear();
        write!(screen, "{}é", "x".repeat(COLUMNS * ROWS * 2)).unwrap();
        assert_eq!(row(&screen, ROWS - 2), "x".repeat(COLUMNS));
        assert_eq!(row(&screen, ROWS - 1), "?");
    }

    #[test]
    fn characters_are_drawn_with_the_font() {
        let mut font = vec![0; 256 * FONT_HEIGHT];
        font[usize::from(b'A') * FONT_HEIGHT] = 0x80;
        let mut screen = Screen::default();
        write!(screen, "A").unwrap();
        let (width, height) = Screen::size();
        let mut pixels = vec![0; (width * height) as usize];
        for (y, row) in (0..).zip(pixels.chunks_mut(width as usize)) {
            screen.draw_row(&font, y, row);
        }
        let line = FONT_HEIGHT * width as usize;
        assert_eq!(pixels[line..line + 2], [INK, PAPER]);
        assert_eq!(pixels[0], INK, "the title is reversed");
        // The cursor.
        let under = line + (FONT_HEIGHT - 1) * width as usize + FONT_WIDTH;
        assert_eq!(pixels[under..under + FONT_WIDTH], [INK; FONT_WIDTH]);
    }
}
