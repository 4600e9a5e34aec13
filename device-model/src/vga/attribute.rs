//! The attribute controller (ports 3C0h and 3C1h): from four-bit colours and text attributes to DAC indices.
//!
//! IBM PS/2 Hardware Interface Technical Reference, Video Subsystem, "Attribute Controller Registers". The palette stays
//! writable while the screen is on, and in 256-colour modes pixels go to the DAC unchanged.

use bitflags::bitflags;

/// Register indices; 0 to 0Fh are the palette.
mod reg {
    pub const MODE: usize = 0x10;
    pub const COLOR_PLANE_ENABLE: usize = 0x12;
    pub const PEL_PANNING: usize = 0x13;
    pub const COLOR_SELECT: usize = 0x14;
    pub const COUNT: usize = 0x15;
}

/// The index register's bit 5: the palette drives the screen (else it is blank).
const PALETTE_ADDRESS_SOURCE: u8 = 1 << 5;

bitflags! {
    /// AR10, "Attribute Mode Control Register".
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Mode: u8 {
        const LINE_GRAPHICS = 1 << 2;
        const BLINK = 1 << 3;
        const PAN_COMPATIBLE = 1 << 5;
        const COLOR_SELECT = 1 << 7;
    }
}

/// The attribute controller's registers.
#[derive(Default, Debug)]
pub(super) struct Attribute {
    index: u8,
    regs: [u8; reg::COUNT],
    /// Whether the next write of port 3C0h is data.
    data_next: bool,
}

impl Attribute {
    /// The index register, with bit 5.
    pub fn index(&self) -> u8 {
        self.index
    }

    /// Whether the next write of port 3C0h is data.
    pub fn data_next(&self) -> bool {
        self.data_next
    }

    /// Makes the next write of port 3C0h an index: what reading input status 1 does.
    pub fn reset_flip_flop(&mut self) {
        self.data_next = false;
    }

    pub fn read(&self) -> u8 {
        self.regs
            .get(usize::from(self.index & 0x1f))
            .copied()
            .unwrap_or(0)
    }

    /// A write of port 3C0h: index and data by turns. Answers whether something visible changed.
    pub fn write(&mut self, value: u8) -> bool {
        self.data_next = !self.data_next;
        if self.data_next {
            let value = value & 0x3f;
            return (core::mem::replace(&mut self.index, value) ^ value) & PALETTE_ADDRESS_SOURCE
                != 0;
        }
        let i = usize::from(self.index & 0x1f);
        let mask = match i {
            0..=0x0f => 0x3f,
            reg::MODE => 0xef,
            reg::COLOR_PLANE_ENABLE => 0x3f,
            reg::PEL_PANNING | reg::COLOR_SELECT => 0x0f,
            _ => 0xff,
        };
        let value = value & mask;
        self.regs
            .get_mut(i)
            .is_some_and(|r| core::mem::replace(r, value) != value)
    }

    /// Whether the screen is on.
    pub fn screen_on(&self) -> bool {
        self.index & PALETTE_ADDRESS_SOURCE != 0
    }

    fn mode(&self) -> Mode {
        Mode::from_bits_retain(self.regs[reg::MODE])
    }

    /// Whether the ninth dot of characters C0h to DFh repeats the eighth.
    pub fn line_graphics(&self) -> bool {
        self.mode().contains(Mode::LINE_GRAPHICS)
    }

    /// Whether bit 7 of a text attribute blinks (else it is background intensity).
    pub fn blink(&self) -> bool {
        self.mode().contains(Mode::BLINK)
    }

    /// Whether panning ends at the split.
    pub fn pan_compatible(&self) -> bool {
        self.mode().contains(Mode::PAN_COMPATIBLE)
    }

    /// Panning: 0 to 15.
    pub fn pan(&self) -> u32 {
        u32::from(self.regs[reg::PEL_PANNING])
    }

    /// The DAC index of four-bit colour `color`.
    pub fn dac_index(&self, color: u8) -> u8 {
        let enabled = color & self.regs[reg::COLOR_PLANE_ENABLE] & 0x0f;
        let p = self.regs[usize::from(enabled)];
        let select = self.regs[reg::COLOR_SELECT];
        if self.mode().contains(Mode::COLOR_SELECT) {
            p & 0x0f | select << 4
        } else {
            p & 0x3f | (select & 0x0c) << 4
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Attribute;

    fn set(a: &mut Attribute, i: u8, v: u8) {
        a.reset_flip_flop();
        a.write(i);
        a.write(v);
    }

    #[test]
    fn writes_alternate_between_index_and_data_until_reset() {
        let mut a = Attribute::default();
        a.write(0x01);
        a.write(0x3a);
        a.write(0x01);
        a.reset_flip_flop();
        a.write(0x21);
        assert_eq!((a.read(), a.index()), (0x3a, 0x21));
        assert!(a.screen_on());
    }

    #[test]
    fn color_select_replaces_or_extends_the_palette_bits() {
        let mut a = Attribute::default();
        set(&mut a, 0x12, 0x0f);
        set(&mut a, 5, 0x3a);
        set(&mut a, 0x14, 0x0d);
        assert_eq!(a.dac_index(5), 0xfa);
        set(&mut a, 0x14, 0x04);
        assert_eq!(a.dac_index(5), 0x7a);
        set(&mut a, 0x10, 0x80);
        assert_eq!(a.dac_index(5), 0x4a);
    }

    #[test]
    fn disabled_planes_do_not_reach_the_palette() {
        let mut a = Attribute::default();
        (0..16).for_each(|i| set(&mut a, i, i));
        set(&mut a, 0x12, 0x07);
        assert_eq!(a.dac_index(0x0f), 7);
    }
}
