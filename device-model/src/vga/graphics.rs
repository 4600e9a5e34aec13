//! The graphics controller (ports 3CEh and 3CFh): how the processor's data meets the planes, and where the window is.
//!
//! IBM PS/2 Hardware Interface Technical Reference, Video Subsystem, "Graphics Controller Registers".

use bitflags::bitflags;

/// Register indices.
mod reg {
    pub const SET_RESET: usize = 0;
    pub const ENABLE_SET_RESET: usize = 1;
    pub const COLOR_COMPARE: usize = 2;
    pub const DATA_ROTATE: usize = 3;
    pub const READ_MAP_SELECT: usize = 4;
    pub const MODE: usize = 5;
    pub const MISCELLANEOUS: usize = 6;
    pub const COLOR_DONT_CARE: usize = 7;
    pub const BIT_MASK: usize = 8;
}

/// The bits that exist, by index; registers above 8 do not.
const MASKS: [u8; 16] = [
    0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff, 0, 0, 0, 0, 0, 0, 0,
];

bitflags! {
    /// GR5, "Graphics Mode Register"; its bits 1:0 are the write mode.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Mode: u8 {
        const READ_COMPARE = 1 << 3;
        const ODD_EVEN = 1 << 4;
        const SHIFT_INTERLEAVED = 1 << 5;
        const SHIFT_256 = 1 << 6;
    }
}

/// GR6 bit 0: graphics, not text.
const GRAPHICS: u8 = 1 << 0;

/// How the serializer turns planes into pixels (GR5 bits 6:5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shift {
    /// One bit of each plane a pixel.
    Planar,
    /// Two bits of a plane a pixel, as the CGA has them.
    Interleaved,
    /// One byte a pixel.
    Bytes,
}

/// The graphics controller's registers.
#[derive(Default, Debug)]
pub(super) struct Graphics {
    index: u8,
    regs: [u8; 16],
}

impl Graphics {
    pub fn index(&self) -> u8 {
        self.index
    }

    pub fn set_index(&mut self, value: u8) {
        self.index = value & 0x0f;
    }

    pub fn read(&self) -> u8 {
        self.regs[usize::from(self.index & 0x0f)]
    }

    /// Writes the register selected; answers whether it changed.
    pub fn write(&mut self, value: u8) -> bool {
        let i = usize::from(self.index & 0x0f);
        let value = value & MASKS[i];
        core::mem::replace(&mut self.regs[i], value) != value
    }

    pub fn set_reset(&self) -> u8 {
        self.regs[reg::SET_RESET]
    }

    pub fn enable_set_reset(&self) -> u8 {
        self.regs[reg::ENABLE_SET_RESET]
    }

    pub fn color_compare(&self) -> u8 {
        self.regs[reg::COLOR_COMPARE]
    }

    /// How far data is rotated to the right: 0 to 7.
    pub fn rotate(&self) -> u32 {
        u32::from(self.regs[reg::DATA_ROTATE] & 7)
    }

    /// The logical function: 0 replaces, 1 ANDs, 2 ORs, 3 XORs.
    pub fn function(&self) -> u8 {
        self.regs[reg::DATA_ROTATE] >> 3 & 3
    }

    pub fn read_plane(&self) -> u8 {
        self.regs[reg::READ_MAP_SELECT]
    }

    /// 0 to 3.
    pub fn write_mode(&self) -> u8 {
        self.regs[reg::MODE] & 3
    }

    fn mode(&self) -> Mode {
        Mode::from_bits_retain(self.regs[reg::MODE])
    }

    /// Whether reads compare colours (read mode 1).
    pub fn read_compare(&self) -> bool {
        self.mode().contains(Mode::READ_COMPARE)
    }

    /// Whether address bit 0 chooses between the even and the odd plane when the processor reads.
    pub fn odd_even(&self) -> bool {
        self.mode().contains(Mode::ODD_EVEN)
    }

    pub fn shift(&self) -> Shift {
        if self.mode().contains(Mode::SHIFT_256) {
            Shift::Bytes
        } else if self.mode().contains(Mode::SHIFT_INTERLEAVED) {
            Shift::Interleaved
        } else {
            Shift::Planar
        }
    }

    pub fn is_graphics(&self) -> bool {
        self.regs[reg::MISCELLANEOUS] & GRAPHICS != 0
    }

    /// Offset from A0000h and length of the part of the legacy window that is decoded (GR6 bits 3:2).
    pub fn window(&self) -> (u32, u32) {
        match self.regs[reg::MISCELLANEOUS] >> 2 & 3 {
            0 => (0, 0x2_0000),
            1 => (0, 0x1_0000),
            2 => (0x1_0000, 0x8000),
            _ => (0x1_8000, 0x8000),
        }
    }

    pub fn color_dont_care(&self) -> u8 {
        self.regs[reg::COLOR_DONT_CARE]
    }

    pub fn bit_mask(&self) -> u8 {
        self.regs[reg::BIT_MASK]
    }

    /// What enabling a VBE mode does: graphics, the 64 KiB window at A0000h, and data that reach memory unchanged.
    pub fn set_for_vbe(&mut self, planar: bool) {
        self.regs[reg::SET_RESET] = 0;
        self.regs[reg::ENABLE_SET_RESET] = 0;
        self.regs[reg::DATA_ROTATE] = 0;
        self.regs[reg::MODE] = if planar { 0 } else { Mode::SHIFT_256.bits() };
        self.regs[reg::MISCELLANEOUS] = 1 << 2 | GRAPHICS;
        self.regs[reg::BIT_MASK] = 0xff;
    }
}

#[cfg(test)]
mod tests {
    use super::Graphics;

    #[test]
    fn bits_that_do_not_exist_read_zero() {
        let mut g = Graphics::default();
        for (i, mask) in super::MASKS.into_iter().enumerate() {
            g.set_index(i as u8);
            g.write(0xff);
            assert_eq!(g.read(), mask, "GR{i}");
        }
    }
}
