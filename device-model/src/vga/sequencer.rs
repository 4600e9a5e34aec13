//! The sequencer (ports 3C4h and 3C5h): dot clock, plane write enables, font selection and memory mode.
//!
//! IBM PS/2 Hardware Interface Technical Reference, Video Subsystem, "Sequencer Registers". The reset register is storage.

use bitflags::bitflags;

/// Register indices.
mod reg {
    pub const CLOCKING_MODE: usize = 1;
    pub const MAP_MASK: usize = 2;
    pub const CHARACTER_MAP: usize = 3;
    pub const MEMORY_MODE: usize = 4;
}

/// The bits that exist, by index.
const MASKS: [u8; 8] = [0x03, 0x3d, 0x0f, 0x3f, 0x0e, 0x00, 0x00, 0xff];

bitflags! {
    /// SR1, "Clocking Mode Register".
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct ClockingMode: u8 {
        const EIGHT_DOTS = 1 << 0;
        const HALF_DOT_CLOCK = 1 << 3;
        const SCREEN_OFF = 1 << 5;
    }

    /// SR4, "Memory Mode Register".
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct MemoryMode: u8 {
        /// Named by what it switches off.
        const NOT_ODD_EVEN = 1 << 2;
        const CHAIN4 = 1 << 3;
    }
}

/// The sequencer's registers.
#[derive(Default, Debug)]
pub(super) struct Sequencer {
    index: u8,
    regs: [u8; 8],
}

impl Sequencer {
    pub fn index(&self) -> u8 {
        self.index
    }

    pub fn set_index(&mut self, value: u8) {
        self.index = value & 7;
    }

    pub fn read(&self) -> u8 {
        self.regs[usize::from(self.index & 7)]
    }

    /// Writes the register selected; answers whether it changed.
    pub fn write(&mut self, value: u8) -> bool {
        let i = usize::from(self.index & 7);
        let value = value & MASKS[i];
        core::mem::replace(&mut self.regs[i], value) != value
    }

    fn clocking(&self) -> ClockingMode {
        ClockingMode::from_bits_retain(self.regs[reg::CLOCKING_MODE])
    }

    /// Dots of a text cell: 8 or 9.
    pub fn cell_dots(&self) -> u32 {
        if self.clocking().contains(ClockingMode::EIGHT_DOTS) {
            8
        } else {
            9
        }
    }

    /// Whether each dot is shown twice as wide (320 and 360 dot modes).
    pub fn half_dot_clock(&self) -> bool {
        self.clocking().contains(ClockingMode::HALF_DOT_CLOCK)
    }

    pub fn screen_off(&self) -> bool {
        self.clocking().contains(ClockingMode::SCREEN_OFF)
    }

    /// The planes that writes reach, bit p for plane p.
    pub fn map_mask(&self) -> u8 {
        self.regs[reg::MAP_MASK]
    }

    /// Where in plane 2 the fonts begin, in bytes: for characters whose attribute bit 3 is clear, and set ("Character Map
    /// Select Register": its bits 4, 1:0 and 5, 3:2; the separate bit is the lowest, worth 8 KiB).
    pub fn fonts(&self) -> [usize; 2] {
        let v = usize::from(self.regs[reg::CHARACTER_MAP]);
        [
            (v >> 4 & 1 | (v & 3) << 1) << 13,
            (v >> 5 & 1 | (v >> 2 & 3) << 1) << 13,
        ]
    }

    fn memory_mode(&self) -> MemoryMode {
        MemoryMode::from_bits_retain(self.regs[reg::MEMORY_MODE])
    }

    /// Whether address bits 1:0 choose the plane.
    pub fn chain4(&self) -> bool {
        self.memory_mode().contains(MemoryMode::CHAIN4)
    }

    /// Whether address bit 0 chooses between the even and the odd planes when the processor writes.
    pub fn odd_even(&self) -> bool {
        !self.memory_mode().contains(MemoryMode::NOT_ODD_EVEN)
    }

    /// What enabling a VBE mode does: all planes, no odd/even, and chain-4 unless the mode is planar.
    pub fn set_for_vbe(&mut self, planar: bool) {
        self.regs[reg::MAP_MASK] = 0x0f;
        let chain = if planar {
            MemoryMode::empty()
        } else {
            MemoryMode::CHAIN4
        };
        let kept = self.regs[reg::MEMORY_MODE] & !MemoryMode::all().bits();
        self.regs[reg::MEMORY_MODE] = kept | (MemoryMode::NOT_ODD_EVEN | chain).bits();
    }
}

#[cfg(test)]
mod tests {
    use super::Sequencer;

    #[test]
    fn bits_that_do_not_exist_read_zero() {
        let mut s = Sequencer::default();
        for (i, mask) in super::MASKS.into_iter().enumerate() {
            s.set_index(i as u8);
            s.write(0xff);
            assert_eq!(s.read(), mask, "SR{i}");
        }
    }

    #[test]
    fn font_offsets_combine_three_separate_bits() {
        let mut s = Sequencer::default();
        s.set_index(3);
        s.write(0x11);
        assert_eq!(s.fonts(), [0x6000, 0x0000]);
        s.write(0x2c);
        assert_eq!(s.fonts(), [0x0000, 0xe000]);
    }
}
