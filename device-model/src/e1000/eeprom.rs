//! The EEPROM: 64 words that the chip and its driver read after a reset (317453, "EEPROM Interface"), by the register EERD or bit by bit by
//! EECD, behind which is a 93C46 (Microchip, "93AA46/56/66": three-wire serial EEPROM).
//!
//! It is read-only: of the part's commands there is READ; the others, which drivers use for updates only, change nothing and are over at once.

use super::{DEVICE, SUBSYSTEM, VENDOR};

/// Words in it.
const WORDS: usize = 64;
/// Where the words are (317453, "EEPROM Address Map"); the address is in the first three.
const INIT_CONTROL_1: usize = 0x0a;
const SUBSYSTEM_ID: usize = 0x0b;
const SUBSYSTEM_VENDOR: usize = 0x0c;
const DEVICE_ID: usize = 0x0d;
const VENDOR_ID: usize = 0x0e;
const CHECKSUM: usize = 0x3f;
/// What all words add up to.
const SUM: u16 = 0xbaba;
/// Initialization Control Word 1: the words are valid (bits 15:14), and the chip takes both kinds of IDs from them.
const INIT_CONTROL: u16 = 1 << 14 | 3;

bitflags::bitflags! {
    /// The register EECD, "EEPROM/Flash Control & Data".
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Eecd: u32 {
        /// The clock.
        const SK = 1 << 0;
        /// The part is selected.
        const CS = 1 << 1;
        /// To the part.
        const DI = 1 << 2;
        /// From the part.
        const DO = 1 << 3;
        /// Flash writes: disabled, as it is where there is no flash.
        const FWE = 1 << 4;
        /// Software asks for the part, and has it.
        const REQ = 1 << 6;
        const GNT = 1 << 7;
        /// There is a part.
        const PRES = 1 << 8;
    }
}

/// The register EERD, "EEPROM Read": begin, done; the address is in bits 15:8, the word in 31:16.
const START: u32 = 1 << 0;
const DONE: u32 = 1 << 4;

/// A command's bits: start bit, two bits of operation, six of address.
const COMMAND: u32 = 9;
/// The operation READ, behind its start bit.
const READ: u16 = 0b110;

/// The part and both ways to it.
pub(super) struct Eeprom {
    words: [u16; WORDS],
    eecd: Eecd,
    eerd: u32,
    /// The bits of the command that have come, and how many.
    command: u16,
    bits: u32,
    /// What is being shifted out, and how many bits of it are left.
    out: u16,
    left: u32,
}

impl Eeprom {
    /// The EEPROM of a card with this address.
    pub(super) fn new(mac: [u8; 6]) -> Self {
        let mut words = [0; WORDS];
        let address = mac.as_chunks::<2>().0.iter().copied();
        let ids = [
            (INIT_CONTROL_1, INIT_CONTROL),
            (SUBSYSTEM_ID, SUBSYSTEM.1),
            (SUBSYSTEM_VENDOR, SUBSYSTEM.0),
            (DEVICE_ID, DEVICE),
            (VENDOR_ID, VENDOR),
        ];
        let address = (0..).zip(address.map(u16::from_le_bytes));
        for (at, value) in address.chain(ids) {
            words[at] = value;
        }
        let rest = words.iter().fold(SUM, |sum, word| sum.wrapping_sub(*word));
        words[CHECKSUM] = rest;
        Self {
            words,
            eecd: Eecd::PRES | Eecd::FWE,
            eerd: 0,
            command: 0,
            bits: 0,
            out: 0,
            left: 0,
        }
    }

    /// The registers in power-on state.
    pub(super) fn reset(&mut self) {
        self.eecd = Eecd::PRES | Eecd::FWE;
        (self.eerd, self.bits, self.left) = (0, 0, 0);
    }

    fn word(&self, at: usize) -> u16 {
        self.words[at % WORDS]
    }

    pub(super) fn eerd(&self) -> u32 {
        self.eerd
    }

    pub(super) fn write_eerd(&mut self, value: u32) {
        if value & START != 0 {
            let at = value >> 8 & 0xff;
            let word = u32::from(self.word(at as usize));
            self.eerd = word << 16 | at << 8 | DONE;
        }
    }

    pub(super) fn eecd(&self) -> u32 {
        // An idle part's output floats, and is pulled up: ready, after an update.
        let high = self.left == 0 || self.out & 0x8000 != 0;
        let data = if high { Eecd::DO } else { Eecd::empty() };
        (self.eecd | data).bits()
    }

    pub(super) fn write_eecd(&mut self, value: u32) {
        let new = Eecd::from_bits_truncate(value);
        let before = self.eecd;
        let software = Eecd::SK | Eecd::CS | Eecd::DI | Eecd::REQ | Eecd::FWE;
        self.eecd = new & software | Eecd::PRES;
        // The chip has no use for the part meanwhile.
        self.eecd.set(Eecd::GNT, new.contains(Eecd::REQ));
        if !new.contains(Eecd::CS) || !before.contains(Eecd::CS) {
            (self.bits, self.left, self.command) = (0, 0, 0);
        }
        if new.contains(Eecd::CS | Eecd::SK) && !before.contains(Eecd::SK) {
            self.clock(new.contains(Eecd::DI));
        }
    }

    /// The clock rises while the part is selected.
    fn clock(&mut self, input: bool) {
        if self.bits < COMMAND {
            if self.bits == 0 && !input {
                return; // until the start bit
            }
            self.command = self.command << 1 | u16::from(input);
            self.bits += 1;
            if self.bits == COMMAND && self.command >> 6 == READ {
                // A 0 comes first, which is there at once; then the word.
                (self.out, self.left) = (0, 1);
            }
        } else if self.command >> 6 == READ {
            self.left -= u32::from(self.left > 0);
            if self.left == 0 {
                // The next word follows by itself.
                self.out = self.word(usize::from(self.command & 0x3f));
                self.command = READ << 6 | self.command.wrapping_add(1) & 0x3f;
                self.left = 16;
            } else {
                self.out <<= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

    /// Reads a word as Linux's e1000_read_eeprom does.
    fn read_by_bits(e: &mut Eeprom, at: u16) -> u16 {
        e.write_eecd(0x40);
        assert!(e.eecd() & 0x80 != 0, "granted");
        e.write_eecd(0x40);
        e.write_eecd(0x42);
        let mut shift = |value: u16, count: u32| {
            for bit in (0..count).rev() {
                let data = u32::from(value >> bit & 1) << 2;
                e.write_eecd(0x42 | data);
                e.write_eecd(0x43 | data);
                e.write_eecd(0x42 | data);
            }
        };
        shift(6, 3);
        shift(at, 6);
        e.write_eecd(0x42);
        let mut word = 0;
        for _ in 0..16 {
            e.write_eecd(0x43);
            word = word << 1 | (e.eecd() >> 3 & 1) as u16;
            e.write_eecd(0x42);
        }
        e.write_eecd(0);
        word
    }

    #[test]
    fn words_add_up_and_read_the_same_both_ways() {
        let mut e = Eeprom::new(MAC);
        let mut sum = 0_u16;
        for at in 0..64 {
            e.write_eerd(u32::from(at) << 8 | 1);
            let word = (e.eerd() >> 16) as u16;
            assert_eq!(e.eerd() & 0x11, 0x10, "done");
            assert_eq!(read_by_bits(&mut e, at), word, "{at}");
            sum = sum.wrapping_add(word);
        }
        assert_eq!(sum, 0xbaba);
        assert_eq!(read_by_bits(&mut e, 1), 0x0100);
        assert_eq!(read_by_bits(&mut e, 13), 0x100e);
    }

    #[test]
    fn updates_are_over_at_once_and_change_nothing() {
        let mut e = Eeprom::new(MAC);
        for value in [0b1_0011_0000, 0b1_0100_0000_u32] {
            e.write_eecd(0x42);
            for bit in (0..25).rev() {
                let data = (value << 16 >> bit & 1) << 2;
                e.write_eecd(0x42 | data);
                e.write_eecd(0x43 | data);
            }
            e.write_eecd(0);
        }
        e.write_eecd(0x42);
        assert!(e.eecd() & 8 != 0, "ready");
        assert_eq!(read_by_bits(&mut e, 0), 0x5452);
    }
}
