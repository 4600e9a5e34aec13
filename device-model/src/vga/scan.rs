//! The CRT controller's walk over the picture, line by line: which row of memory a scan line shows.
//!
//! IBM PS/2 Hardware Interface Technical Reference, Video Subsystem, "CRT Controller Registers": start address, offset, preset
//! row scan, maximum scan line, line compare.

use super::crtc::Crtc;

/// One scan line of the picture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Line {
    /// Its number, from 0.
    pub y: u32,
    /// The address count of its row's first character: 16 bits.
    pub address: u32,
    /// The line within its row: 0 to 31.
    pub row_scan: u32,
    /// Whether it is the first shown of its row.
    pub new_row: bool,
    /// Whether it lies below the split.
    pub split: bool,
}

/// All scan lines shown, from the top.
pub(super) struct Scan<'a> {
    crtc: &'a Crtc,
    next: Line,
    /// Whether `next` shows its line for the second time.
    again: bool,
}

impl<'a> Scan<'a> {
    pub fn new(crtc: &'a Crtc) -> Self {
        let row_scan = crtc.preset_row_scan().min(crtc.row_lines() - 1);
        Self {
            crtc,
            next: Line {
                y: 0,
                address: crtc.start(),
                row_scan,
                new_row: true,
                split: false,
            },
            again: false,
        }
    }
}

impl Iterator for Scan<'_> {
    type Item = Line;

    fn next(&mut self) -> Option<Line> {
        let line = self.next;
        if line.y >= self.crtc.lines() {
            return None;
        }
        let n = &mut self.next;
        n.y += 1;
        n.new_row = false;
        if line.y == self.crtc.line_compare() {
            *n = Line {
                y: n.y,
                address: 0,
                row_scan: 0,
                new_row: true,
                split: true,
            };
            self.again = false;
        } else if self.crtc.double_scan() && !self.again {
            self.again = true;
        } else {
            self.again = false;
            n.row_scan += 1;
            if n.row_scan >= self.crtc.row_lines() {
                n.row_scan = 0;
                n.new_row = true;
                n.address = (n.address + self.crtc.pitch()) & 0xffff;
            }
        }
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crtc(regs: &[(u8, u8)]) -> Crtc {
        let mut c = Crtc::default();
        for &(i, v) in regs {
            c.set_index(i);
            c.write(v);
        }
        c
    }

    #[test]
    fn rows_advance_by_the_pitch_after_their_last_line() {
        let c = crtc(&[
            (0x12, 31),
            (9, 0x4f),
            (0x13, 40),
            (0x18, 0xff),
            (7, 0x10),
            (0x0c, 1),
        ]);
        let rows: Vec<_> = Scan::new(&c)
            .filter(|l| l.new_row)
            .map(|l| (l.y, l.address))
            .collect();
        assert_eq!(rows, [(0, 0x100), (16, 0x150)]);
    }

    #[test]
    fn split_restarts_at_address_zero_behind_the_line_compared() {
        let c = crtc(&[(0x12, 7), (9, 0x00), (0x13, 10), (0x18, 3), (0x0d, 50)]);
        let a: Vec<_> = Scan::new(&c).map(|l| (l.address, l.split)).collect();
        assert_eq!(a[3..6], [(110, false), (0, true), (20, true)]);
    }

    #[test]
    fn double_scan_shows_each_line_twice() {
        let c = crtc(&[(0x12, 5), (9, 0xc1), (0x13, 10), (0x18, 0xff), (7, 0x10)]);
        let a: Vec<_> = Scan::new(&c).map(|l| (l.address, l.row_scan)).collect();
        assert_eq!(a, [(0, 0), (0, 0), (0, 1), (0, 1), (20, 0), (20, 0)]);
    }

    #[test]
    fn preset_row_scan_cuts_the_first_row() {
        let c = crtc(&[
            (0x12, 3),
            (9, 0x43),
            (8, 2),
            (0x13, 10),
            (0x18, 0xff),
            (7, 0x10),
        ]);
        let a: Vec<_> = Scan::new(&c).map(|l| l.row_scan).collect();
        assert_eq!(a, [2, 3, 0, 1]);
    }
}
