//! The CRT controller (ports 3D4h and 3D5h, or 3B4h and 3B5h): the size of the picture, where it starts in memory, the
//! cursor.
//!
//! IBM PS/2 Hardware Interface Technical Reference, Video Subsystem, "CRT Controller Registers". Sync and blanking positions,
//! interlace and the interrupt are storage.

use bitflags::bitflags;

/// Register indices.
mod reg {
    pub const HORIZONTAL_DISPLAY_END: usize = 0x01;
    pub const OVERFLOW: usize = 0x07;
    pub const PRESET_ROW_SCAN: usize = 0x08;
    pub const MAXIMUM_SCAN_LINE: usize = 0x09;
    pub const CURSOR_START: usize = 0x0a;
    pub const CURSOR_END: usize = 0x0b;
    pub const START_HIGH: usize = 0x0c;
    pub const START_LOW: usize = 0x0d;
    pub const CURSOR_HIGH: usize = 0x0e;
    pub const CURSOR_LOW: usize = 0x0f;
    pub const VERTICAL_RETRACE_END: usize = 0x11;
    pub const VERTICAL_DISPLAY_END: usize = 0x12;
    pub const OFFSET: usize = 0x13;
    pub const UNDERLINE: usize = 0x14;
    pub const MODE_CONTROL: usize = 0x17;
    pub const LINE_COMPARE: usize = 0x18;
    pub const COUNT: usize = 0x19;
}

/// CR7 bit 4: bit 8 of the line compare value, which CR11's protection leaves writable.
const OVERFLOW_LINE_COMPARE: u8 = 1 << 4;
/// CR9 bit 6: bit 9 of the line compare value.
const MAX_SCAN_LINE_COMPARE: u8 = 1 << 6;
/// CR9 bit 7: every line twice.
const DOUBLE_SCAN: u8 = 1 << 7;
/// CRA bit 5: no cursor.
const CURSOR_OFF: u8 = 1 << 5;
/// CR11 bit 7: CR0 to CR7 are read-only.
const PROTECT: u8 = 1 << 7;

bitflags! {
    /// CR17, "CRT Mode Control Register".
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct ModeControl: u8 {
        /// Clear: row scan bit 0 replaces address bit 13 (CGA).
        const NOT_CGA = 1 << 0;
        /// Clear: row scan bit 1 replaces address bit 14 (Hercules).
        const NOT_HERCULES = 1 << 1;
        const BYTE_MODE = 1 << 6;
    }
}

/// The CRT controller's registers.
#[derive(Default, Debug)]
pub(super) struct Crtc {
    index: u8,
    regs: [u8; reg::COUNT],
}

impl Crtc {
    pub fn index(&self) -> u8 {
        self.index
    }

    pub fn set_index(&mut self, value: u8) {
        self.index = value;
    }

    /// The register selected, or 0 where none is.
    pub fn read(&self) -> u8 {
        self.regs.get(usize::from(self.index)).copied().unwrap_or(0)
    }

    /// Writes the register selected; answers whether it changed.
    pub fn write(&mut self, mut value: u8) -> bool {
        let i = usize::from(self.index);
        let protected = self.regs[reg::VERTICAL_RETRACE_END] & PROTECT != 0;
        let Some(r) = self.regs.get_mut(i) else {
            return false;
        };
        if protected && i <= reg::OVERFLOW {
            if i != reg::OVERFLOW {
                return false;
            }
            value = *r & !OVERFLOW_LINE_COMPARE | value & OVERFLOW_LINE_COMPARE;
        }
        core::mem::replace(r, value) != value
    }

    /// Character clocks shown in a line: 1 to 256.
    pub fn columns(&self) -> u32 {
        u32::from(self.regs[reg::HORIZONTAL_DISPLAY_END]) + 1
    }

    /// Scan lines shown: 1 to 1,024.
    pub fn lines(&self) -> u32 {
        let o = u32::from(self.regs[reg::OVERFLOW]);
        (u32::from(self.regs[reg::VERTICAL_DISPLAY_END]) | (o >> 1 & 1) << 8 | (o >> 6 & 1) << 9)
            + 1
    }

    /// The last scan line before the split: 0 to 1,023.
    pub fn line_compare(&self) -> u32 {
        let o = u32::from(self.regs[reg::OVERFLOW] & OVERFLOW_LINE_COMPARE != 0);
        let m = u32::from(self.regs[reg::MAXIMUM_SCAN_LINE] & MAX_SCAN_LINE_COMPARE != 0);
        u32::from(self.regs[reg::LINE_COMPARE]) | o << 8 | m << 9
    }

    /// Scan lines of a row: 1 to 32.
    pub fn row_lines(&self) -> u32 {
        u32::from(self.regs[reg::MAXIMUM_SCAN_LINE] & 0x1f) + 1
    }

    pub fn double_scan(&self) -> bool {
        self.regs[reg::MAXIMUM_SCAN_LINE] & DOUBLE_SCAN != 0
    }

    /// The row's scan line that the picture begins with: 0 to 31.
    pub fn preset_row_scan(&self) -> u32 {
        u32::from(self.regs[reg::PRESET_ROW_SCAN] & 0x1f)
    }

    /// Characters by which the picture is moved to the left: 0 to 3.
    pub fn byte_pan(&self) -> u32 {
        u32::from(self.regs[reg::PRESET_ROW_SCAN] >> 5 & 3)
    }

    /// Where the picture begins, in address counts (of four planes' bytes).
    pub fn start(&self) -> u32 {
        u32::from(self.regs[reg::START_HIGH]) << 8 | u32::from(self.regs[reg::START_LOW])
    }

    /// From row to row, in address counts.
    pub fn pitch(&self) -> u32 {
        u32::from(self.regs[reg::OFFSET]) * 2
    }

    /// The cursor's place in address counts and its first and last scan line, if it is on.
    pub fn cursor(&self) -> Option<(u32, core::ops::RangeInclusive<u32>)> {
        let start = self.regs[reg::CURSOR_START];
        let lines = u32::from(start & 0x1f)..=u32::from(self.regs[reg::CURSOR_END] & 0x1f);
        let at =
            u32::from(self.regs[reg::CURSOR_HIGH]) << 8 | u32::from(self.regs[reg::CURSOR_LOW]);
        (start & CURSOR_OFF == 0 && !lines.is_empty()).then_some((at, lines))
    }

    /// The scan line of a row on which underlined characters have their line.
    pub fn underline(&self) -> u32 {
        u32::from(self.regs[reg::UNDERLINE] & 0x1f)
    }

    fn mode(&self) -> ModeControl {
        ModeControl::from_bits_retain(self.regs[reg::MODE_CONTROL])
    }

    /// `address` with the bits that the row scan counter replaces. In word mode the address counter stands for pairs, so
    /// the bits are one lower.
    pub fn interleave(&self, mut address: u32, row_scan: u32) -> u32 {
        let bit13 = if self.mode().contains(ModeControl::BYTE_MODE) {
            13
        } else {
            12
        };
        if !self.mode().contains(ModeControl::NOT_CGA) {
            address = address & !(1 << bit13) | (row_scan & 1) << bit13;
        }
        if !self.mode().contains(ModeControl::NOT_HERCULES) {
            address = address & !(2 << bit13) | (row_scan >> 1 & 1) << (bit13 + 1);
        }
        address
    }

    /// What enabling a VBE mode does: the size and pitch (in bytes), and no splitting, doubling or interleaving.
    pub fn set_for_vbe(&mut self, width: u32, height: u32, pitch: u32) {
        let low = |v: u32| (v & 0xff) as u8;
        let last = height.saturating_sub(1);
        let r = &mut self.regs;
        r[reg::HORIZONTAL_DISPLAY_END] = low((width / 8).saturating_sub(1));
        r[reg::VERTICAL_DISPLAY_END] = low(last);
        r[reg::OVERFLOW] = r[reg::OVERFLOW] & !0x42
            | low((last >> 8 & 1) << 1 | (last >> 9 & 1) << 6)
            | OVERFLOW_LINE_COMPARE;
        r[reg::MAXIMUM_SCAN_LINE] = MAX_SCAN_LINE_COMPARE;
        r[reg::LINE_COMPARE] = 0xff;
        r[reg::START_HIGH] = 0;
        r[reg::START_LOW] = 0;
        r[reg::OFFSET] = low(pitch / 8);
        r[reg::MODE_CONTROL] |= (ModeControl::NOT_CGA | ModeControl::NOT_HERCULES).bits();
    }
}

#[cfg(test)]
mod tests {
    use super::Crtc;

    fn set(c: &mut Crtc, i: u8, v: u8) {
        c.set_index(i);
        c.write(v);
    }

    fn read(c: &mut Crtc, i: u8) -> u8 {
        c.set_index(i);
        c.read()
    }

    #[test]
    fn protect_bit_makes_cr0_to_cr7_read_only_except_line_compare_bit_8() {
        let mut c = Crtc::default();
        set(&mut c, 0x11, 0x8e);
        for i in 0..7 {
            set(&mut c, i, 0x55);
            assert_eq!(read(&mut c, i), 0, "CR{i}");
        }
        set(&mut c, 7, 0xff);
        assert_eq!(read(&mut c, 7), 0x10);
        set(&mut c, 8, 0x55);
        assert_eq!(read(&mut c, 8), 0x55);
        set(&mut c, 0x11, 0x0e);
        set(&mut c, 0, 0x5f);
        assert_eq!(read(&mut c, 0), 0x5f);
    }

    #[test]
    fn registers_above_18h_do_not_exist() {
        let mut c = Crtc::default();
        set(&mut c, 0x19, 0x55);
        set(&mut c, 0xff, 0x55);
        assert_eq!((read(&mut c, 0x19), read(&mut c, 0xff)), (0, 0));
    }

    #[test]
    fn line_counts_gather_their_overflow_bits() {
        let mut c = Crtc::default();
        set(&mut c, 0x12, 0xdf);
        set(&mut c, 7, 0x3e);
        assert_eq!(c.lines(), 480);
        set(&mut c, 0x18, 0xff);
        set(&mut c, 9, 0x40);
        assert_eq!(c.line_compare(), 0x3ff);
    }

    #[test]
    fn cursor_with_start_behind_end_is_off() {
        let mut c = Crtc::default();
        set(&mut c, 0x0a, 13);
        set(&mut c, 0x0b, 14);
        assert_eq!(c.cursor(), Some((0, 13..=14)));
        set(&mut c, 0x0b, 3);
        assert_eq!(c.cursor(), None);
    }
}
