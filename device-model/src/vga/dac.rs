//! The video DAC (ports 3C6h to 3C9h): 256 colours of six bits a component, or eight when VBE says so.
//!
//! IBM PS/2 Hardware Interface Technical Reference, Video Subsystem, "Video Digital-to-Analog Converter". What leaves it is analogue:
//! which eight bits six of them are is free, and here as in QEMU, so that screenshots are the same.

/// The DAC's registers and palette.
#[derive(Debug)]
pub(super) struct Dac {
    /// Components as written.
    palette: [[u8; 3]; 256],
    mask: u8,
    read_index: u8,
    write_index: u8,
    /// The component that the next data access means: 0 to 2.
    component: u8,
    /// The components of the entry being written; it takes effect with the third.
    entry: [u8; 3],
    /// Whether port 3C7h was written later than 3C8h.
    reading: bool,
    eight_bits: bool,
}

impl Default for Dac {
    /// Black, with a mask that lets everything through: what software that never writes port 3C6h expects.
    fn default() -> Self {
        Self {
            palette: [[0; 3]; 256],
            mask: 0xff,
            read_index: 0,
            write_index: 0,
            component: 0,
            entry: [0; 3],
            reading: false,
            eight_bits: false,
        }
    }
}

impl Dac {
    pub fn mask(&self) -> u8 {
        self.mask
    }

    /// Writes the pixel mask; answers whether it changed.
    pub fn set_mask(&mut self, value: u8) -> bool {
        core::mem::replace(&mut self.mask, value) != value
    }

    /// Port 3C7h read: 3 when prepared for reading, 0 for writing.
    pub fn state(&self) -> u8 {
        if self.reading { 3 } else { 0 }
    }

    pub fn set_read_index(&mut self, value: u8) {
        self.read_index = value;
        self.component = 0;
        self.reading = true;
    }

    pub fn write_index(&self) -> u8 {
        self.write_index
    }

    pub fn set_write_index(&mut self, value: u8) {
        self.write_index = value;
        self.component = 0;
        self.reading = false;
    }

    /// Reads the next component.
    pub fn read(&mut self) -> u8 {
        let v = self.palette[usize::from(self.read_index)]
            .get(usize::from(self.component))
            .copied()
            .unwrap_or(0);
        if self.step() {
            self.read_index = self.read_index.wrapping_add(1);
        }
        v
    }

    /// Writes the next component; answers whether a colour changed.
    pub fn write(&mut self, value: u8) -> bool {
        if let Some(c) = self.entry.get_mut(usize::from(self.component)) {
            *c = if self.eight_bits { value } else { value & 0x3f };
        }
        if !self.step() {
            return false;
        }
        let i = self.write_index;
        self.write_index = i.wrapping_add(1);
        core::mem::replace(&mut self.palette[usize::from(i)], self.entry) != self.entry
    }

    /// Goes to the next component; answers whether it wrapped.
    fn step(&mut self) -> bool {
        self.component = if self.component >= 2 {
            0
        } else {
            self.component + 1
        };
        self.component == 0
    }

    /// Chooses the width of components; answers whether it changed.
    pub fn set_eight_bits(&mut self, on: bool) -> bool {
        core::mem::replace(&mut self.eight_bits, on) != on
    }

    /// What pixel value `index` looks like: 0x00RRGGBB.
    pub fn rgb(&self, index: u8) -> u32 {
        let [r, g, b] = self.palette[usize::from(index & self.mask)].map(|c| {
            if self.eight_bits {
                u32::from(c)
            } else {
                // The lowest bit three times: 3Fh is FFh.
                (u32::from(c & 0x3f) << 2) | (u32::from(c & 1) * 3)
            }
        });
        r << 16 | g << 8 | b
    }
}

#[cfg(test)]
mod tests {
    use super::Dac;

    #[test]
    fn three_writes_make_a_colour_and_the_index_goes_on() {
        let mut d = Dac::default();
        d.set_write_index(255);
        for v in [0x3f, 0x20, 0xff, 1, 2, 3] {
            d.write(v);
        }
        assert_eq!(d.rgb(255), 0x00ff_80ff);
        assert_eq!(d.write_index(), 1);
        d.set_read_index(255);
        let read: [u8; 6] = core::array::from_fn(|_| d.read());
        assert_eq!(read, [0x3f, 0x20, 0x3f, 1, 2, 3]);
    }

    #[test]
    fn six_bits_become_the_eight_of_qemu() {
        let mut d = Dac::default();
        d.set_write_index(7);
        for v in [0x2a, 0x15, 0x01] {
            d.write(v);
        }
        assert_eq!(d.rgb(7), 0x00a8_5707);
    }

    #[test]
    fn an_incomplete_colour_has_no_effect() {
        let mut d = Dac::default();
        d.set_write_index(0);
        d.write(0x3f);
        d.write(0x3f);
        assert_eq!(d.rgb(0), 0);
    }

    #[test]
    fn state_tells_the_last_index_written() {
        let mut d = Dac::default();
        d.set_read_index(1);
        assert_eq!(d.state(), 3);
        d.set_write_index(1);
        assert_eq!(d.state(), 0);
    }

    #[test]
    fn mask_and_eight_bits_apply() {
        let mut d = Dac::default();
        d.set_eight_bits(true);
        d.set_write_index(1);
        for v in [0x81, 0x42, 0x24] {
            d.write(v);
        }
        d.set_mask(0x0f);
        assert_eq!(d.rgb(0xf1), 0x0081_4224);
    }
}
