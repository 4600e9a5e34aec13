//! The pair of Intel 8237A DMA controllers with their page registers, as storage (8237A datasheet, order number 231466,
//! "Register Description"; page registers: 82371SB datasheet 2.5.1, "DMA Registers").
//!
//! Addresses, counts and pages read back as written. No transfer ever happens, so no terminal count is ever reported, and a
//! base register is its current register. Ports C1h, C3h, ... mirror the port below: the second controller has no A0.
//!
//! Port 80h, the page register of no channel, belongs to the POST code where the bus gives it away.

use hv_core::device::{AccessSize, DevCx, Device};

/// Registers of the first controller (8-bit channels 0 to 3).
const FIRST: u16 = 0x00;
/// Registers of the second controller (16-bit channels 4 to 7), at every other port.
const SECOND: u16 = 0xc0;
/// Page registers.
const PAGES: u16 = 0x80;

/// Address and count of channels 0 to 3, by turns, end here.
const CHANNELS_LAST: u8 = 0x7;
/// Status; written: command.
const STATUS: u8 = 0x8;
/// Sets or clears one channel's mask.
const SINGLE_MASK: u8 = 0xa;
/// Makes the next byte of an address or count the low one.
const CLEAR_FLIP_FLOP: u8 = 0xc;
/// The temporary register; written: master clear.
const MASTER_CLEAR: u8 = 0xd;
/// Unmasks all channels.
const CLEAR_MASK: u8 = 0xe;
/// All mask bits.
const ALL_MASK: u8 = 0xf;

/// Single mask: the value, above the channel number.
const MASK_SET: u8 = 1 << 2;
/// Mask of all four channels.
const MASK_ALL: u8 = 0x0f;

/// One 8237A.
#[derive(Clone, Debug)]
struct Controller {
    /// Address and count of channel 0, address and count of channel 1, ...
    words: [u16; 8],
    mask: u8,
    /// The high byte comes next.
    high: bool,
}

impl Controller {
    const fn new() -> Self {
        Self {
            words: [0; 8],
            mask: MASK_ALL,
            high: false,
        }
    }

    fn read(&mut self, register: u8) -> u8 {
        match register {
            0..=CHANNELS_LAST => {
                let word = self.words.get(usize::from(register)).copied().unwrap_or(0);
                let [low, high] = word.to_le_bytes();
                self.high = !self.high;
                if self.high { low } else { high }
            }
            STATUS | MASTER_CLEAR => 0,
            ALL_MASK => 0xf0 | self.mask,
            _ => 0xff,
        }
    }

    fn write(&mut self, register: u8, value: u8) {
        match register {
            0..=CHANNELS_LAST => {
                if let Some(word) = self.words.get_mut(usize::from(register)) {
                    let [low, high] = word.to_le_bytes();
                    *word = u16::from_le_bytes(if self.high {
                        [low, value]
                    } else {
                        [value, high]
                    });
                }
                self.high = !self.high;
            }
            SINGLE_MASK => {
                let bit = 1 << (value & 3);
                if value & MASK_SET != 0 {
                    self.mask |= bit;
                } else {
                    self.mask &= !bit;
                }
            }
            CLEAR_FLIP_FLOP => self.high = false,
            MASTER_CLEAR => {
                self.high = false;
                self.mask = MASK_ALL;
            }
            CLEAR_MASK => self.mask = 0,
            ALL_MASK => self.mask = value & MASK_ALL,
            _ => {}
        }
    }
}

/// Both controllers and the page registers.
pub struct Dma {
    first: Controller,
    second: Controller,
    pages: [u8; 16],
}

impl Dma {
    /// The controllers in power-on state: all channels masked.
    #[must_use]
    pub fn new() -> Self {
        Self {
            first: Controller::new(),
            second: Controller::new(),
            pages: [0; 16],
        }
    }
}

impl Default for Dma {
    fn default() -> Self {
        Self::new()
    }
}

impl Device for Dma {
    fn name(&self) -> &'static str {
        "dma"
    }

    fn reset(&mut self, _cx: &mut DevCx<'_>) {
        *self = Self::new();
    }

    fn port_read(&mut self, _cx: &mut DevCx<'_>, port: u16, size: AccessSize) -> u32 {
        let low = port as u8;
        let byte = match port & 0xffe0 {
            FIRST => self.first.read(low & 0xf),
            SECOND => self.second.read(low >> 1 & 0xf),
            PAGES => self
                .pages
                .get(usize::from(low & 0xf))
                .copied()
                .unwrap_or(0xff),
            _ => 0xff,
        };
        size.ones() & !0xff | u32::from(byte)
    }

    fn port_write(&mut self, _cx: &mut DevCx<'_>, port: u16, _size: AccessSize, value: u32) {
        let (low, value) = (port as u8, value as u8);
        match port & 0xffe0 {
            FIRST => self.first.write(low & 0xf, value),
            SECOND => self.second.write(low >> 1 & 0xf, value),
            PAGES => {
                if let Some(page) = self.pages.get_mut(usize::from(low & 0xf)) {
                    *page = value;
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Dma;
    use hv_core::device::AccessSize::{Byte, Dword, Word};
    use hv_core::device::Device;
    use hv_core::testing::{Bench, Random};

    fn out(d: &mut Dma, b: &mut Bench, port: u16, value: u8) {
        d.port_write(&mut b.cx(), port, Byte, value.into());
    }

    fn inb(d: &mut Dma, b: &mut Bench, port: u16) -> u32 {
        d.port_read(&mut b.cx(), port, Byte)
    }

    #[test]
    fn addresses_and_counts_read_back_through_the_flip_flop() {
        let (mut d, mut b) = (Dma::new(), Bench::new());
        for (clear, first, step) in [(0x0c, 0x00, 1), (0xd8, 0xc0, 2)] {
            out(&mut d, &mut b, clear, 0);
            for register in 0..8 {
                let port = first + register * step;
                out(&mut d, &mut b, port, 0x10 + register as u8);
                out(&mut d, &mut b, port, 0x80 + register as u8);
            }
            for register in 0..8 {
                let port = first + register * step;
                assert_eq!(inb(&mut d, &mut b, port), 0x10 + u32::from(register));
                assert_eq!(inb(&mut d, &mut b, port), 0x80 + u32::from(register));
            }
        }
    }

    #[test]
    fn clearing_the_flip_flop_makes_the_low_byte_next() {
        let (mut d, mut b) = (Dma::new(), Bench::new());
        out(&mut d, &mut b, 0x00, 0x11);
        out(&mut d, &mut b, 0x0c, 0);
        out(&mut d, &mut b, 0x00, 0x22);
        out(&mut d, &mut b, 0x00, 0x33);
        assert_eq!(inb(&mut d, &mut b, 0x00), 0x22);
        out(&mut d, &mut b, 0x0d, 0);
        assert_eq!(inb(&mut d, &mut b, 0x00), 0x22);
    }

    #[test]
    fn masks_are_set_one_by_one_and_together() {
        let (mut d, mut b) = (Dma::new(), Bench::new());
        assert_eq!(inb(&mut d, &mut b, 0x0f), 0xff);
        // SeaBIOS: cascade mode for channel 4, then unmask it.
        out(&mut d, &mut b, 0xd6, 0xc0);
        out(&mut d, &mut b, 0xd4, 0x00);
        assert_eq!(inb(&mut d, &mut b, 0xde), 0xfe);
        out(&mut d, &mut b, 0x0e, 0);
        assert_eq!(inb(&mut d, &mut b, 0x0f), 0xf0);
        out(&mut d, &mut b, 0x0a, 0x06);
        assert_eq!(inb(&mut d, &mut b, 0x0f), 0xf4);
        out(&mut d, &mut b, 0x0f, 0x03);
        assert_eq!(inb(&mut d, &mut b, 0x0f), 0xf3);
        out(&mut d, &mut b, 0x0d, 0);
        assert_eq!(inb(&mut d, &mut b, 0x0f), 0xff);
    }

    #[test]
    fn page_registers_are_storage_and_status_is_idle() {
        let (mut d, mut b) = (Dma::new(), Bench::new());
        for port in 0x81..=0x8f {
            out(&mut d, &mut b, port, port as u8 ^ 0x5a);
        }
        for port in 0x81..=0x8f {
            assert_eq!(inb(&mut d, &mut b, port), u32::from(port as u8 ^ 0x5a));
        }
        assert_eq!(inb(&mut d, &mut b, 0x08), 0);
        assert_eq!(inb(&mut d, &mut b, 0xd0), 0);
        d.reset(&mut b.cx());
        assert_eq!(inb(&mut d, &mut b, 0x87), 0);
    }

    #[test]
    fn random_abuse_never_panics() {
        let (mut d, mut b) = (Dma::new(), Bench::new());
        let mut random = Random::new(0x1234_5678_9abc_def1);
        for _ in 0..20_000 {
            let x = random.next();
            let size = [Byte, Word, Dword][(x >> 16) as usize % 3];
            let value = (x >> 32) as u32 & size.ones();
            d.port_write(&mut b.cx(), x as u8 as u16, size, value);
            let read = d.port_read(&mut b.cx(), (x >> 8) as u16, size);
            assert_eq!(read & !size.ones(), 0);
        }
    }
}
