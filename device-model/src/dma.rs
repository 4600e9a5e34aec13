//! The pair of Intel 8237A DMA controllers with their page registers (8237A datasheet, order number 231466; page registers: 82371SB
//! datasheet 2.5.1, "DMA Registers").
//!
//! A device that has an 8-bit channel (0 to 3) asks for the transfer of as many bytes as it likes with [`Dma::to_memory`] and
//! [`Dma::from_memory`]; it is told how many were moved and whether the terminal count was reached. Demand, single and block mode are the
//! same: the bus is always free. The address counts within its 64 KiB page (datasheet, "Register Description", Current Address Register:
//! the page register has no carry).
//!
//! Not implemented: transfers of the 16-bit channels and from memory to memory, software requests, priorities, and the mask of the
//! cascade channel 4, which does not hold back the first controller. Ports C1h, C3h, ... mirror the port below: the second controller
//! has no A0.
//!
//! Port 80h, the page register of no channel, belongs to the POST code where the bus gives it away.

use core::ops::Range;
use hv_core::Gpa;
use hv_core::device::{AccessSize, DevCx, Device};
use hv_core::mem::GuestMemory;

/// Registers of the first controller (8-bit channels 0 to 3).
const FIRST: u16 = 0x00;
/// Registers of the second controller (16-bit channels 4 to 7), at every other port.
const SECOND: u16 = 0xc0;
/// Page registers.
const PAGES: u16 = 0x80;
/// Page registers of the channels 0 to 3, from [`PAGES`] on.
const PAGE: [usize; 4] = [7, 3, 1, 2];

/// Address and count of channels 0 to 3, by turns, end here.
const CHANNELS_LAST: u8 = 0x7;
/// Status; written: command.
const STATUS: u8 = 0x8;
/// Sets or clears one channel's mask.
const SINGLE_MASK: u8 = 0xa;
/// A channel's mode.
const MODE: u8 = 0xb;
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
/// Command: the controller is disabled.
const DISABLED: u8 = 1 << 2;

bitflags::bitflags! {
    /// A channel's mode, above the channel number.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Mode: u8 {
        /// The device writes memory.
        const WRITE = 1 << 2;
        /// The device reads memory. With neither it is a verify transfer, which only counts.
        const READ = 1 << 3;
        /// At the terminal count the channel begins anew.
        const AUTOINITIALIZE = 1 << 4;
        /// The address counts down.
        const DECREMENT = 1 << 5;
        /// With [`BLOCK`](Self::BLOCK): cascade, no transfers of its own.
        const SINGLE = 1 << 6;
        /// See [`SINGLE`](Self::SINGLE).
        const BLOCK = 1 << 7;
    }
}

/// How far a transfer has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moved {
    /// So many bytes were moved, from the first on.
    pub bytes: usize,
    /// The terminal count was reached: there will be no more.
    pub end: bool,
}

/// An address and a count, which are what was programmed and what is left of it.
#[derive(Clone, Copy, Debug, Default)]
struct Word {
    base: u16,
    current: u16,
}

/// One 8237A.
#[derive(Clone, Debug)]
struct Controller {
    /// Address and count of channel 0, address and count of channel 1, ...
    words: [Word; 8],
    modes: [u8; 4],
    command: u8,
    mask: u8,
    /// The channels that have reached their terminal count since this was last read.
    ended: u8,
    /// The high byte comes next.
    high: bool,
}

impl Controller {
    const fn new() -> Self {
        Self {
            words: [Word {
                base: 0,
                current: 0,
            }; 8],
            modes: [0; 4],
            command: 0,
            mask: MASK_ALL,
            ended: 0,
            high: false,
        }
    }

    fn read(&mut self, register: u8) -> u8 {
        match register {
            0..=CHANNELS_LAST => {
                let word = self.words.get(usize::from(register));
                let [low, high] = word.map_or(0, |word| word.current).to_le_bytes();
                self.high = !self.high;
                if self.high { low } else { high }
            }
            STATUS => core::mem::take(&mut self.ended),
            MASTER_CLEAR => 0,
            ALL_MASK => 0xf0 | self.mask,
            _ => 0xff,
        }
    }

    fn write(&mut self, register: u8, value: u8) {
        match register {
            0..=CHANNELS_LAST => {
                if let Some(word) = self.words.get_mut(usize::from(register)) {
                    let [low, high] = word.base.to_le_bytes();
                    word.base = u16::from_le_bytes(if self.high {
                        [low, value]
                    } else {
                        [value, high]
                    });
                    word.current = word.base;
                }
                self.high = !self.high;
            }
            STATUS => self.command = value,
            SINGLE_MASK => {
                let bit = 1 << (value & 3);
                if value & MASK_SET != 0 {
                    self.mask |= bit;
                } else {
                    self.mask &= !bit;
                }
            }
            MODE => self.modes[usize::from(value & 3)] = value,
            CLEAR_FLIP_FLOP => self.high = false,
            MASTER_CLEAR => {
                self.high = false;
                self.command = 0;
                self.ended = 0;
                self.mask = MASK_ALL;
            }
            CLEAR_MASK => self.mask = 0,
            ALL_MASK => self.mask = value & MASK_ALL,
            _ => {}
        }
    }

    /// The mode of a channel that may transfer now.
    fn ready(&self, channel: usize) -> Option<Mode> {
        let mode = Mode::from_bits_retain(self.modes[channel & 3]);
        let open = self.command & DISABLED == 0 && self.mask & 1 << (channel & 3) == 0;
        (open && !mode.contains(Mode::SINGLE | Mode::BLOCK)).then_some(mode)
    }

    /// Counts the next bytes of a channel, `most` at most and at least one: the address of the first, how many lie in a row from there on,
    /// and whether the last of them is the channel's last.
    fn count(&mut self, channel: usize, mode: Mode, most: usize) -> (u16, usize, bool) {
        let address = (channel & 3) * 2;
        let count = address + 1;
        let (at, left) = (self.words[address].current, self.words[count].current);
        let down = mode.contains(Mode::DECREMENT);
        let to_wrap = 0x1_0000 - usize::from(at);
        let row = match down {
            true => 1,
            false => most.min(usize::from(left) + 1).min(to_wrap).max(1),
        };
        let last = row == usize::from(left) + 1;
        self.words[address].current = match down {
            true => at.wrapping_sub(1),
            false => at.wrapping_add(row as u16),
        };
        self.words[count].current = left.wrapping_sub(row as u16);
        if last {
            let bit = 1 << (channel & 3);
            self.ended |= bit;
            if mode.contains(Mode::AUTOINITIALIZE) {
                for word in [address, count] {
                    self.words[word].current = self.words[word].base;
                }
            } else {
                self.mask |= bit;
            }
        }
        (at, row, last)
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

    /// The device on `channel` (0 to 3) gives `data` to the guest's memory.
    pub fn to_memory(&mut self, channel: usize, memory: &dyn GuestMemory, data: &[u8]) -> Moved {
        self.transfer(channel, Mode::WRITE, data.len(), |at, part| {
            if let Some(part) = data.get(part) {
                // Where there is no memory, nothing is written.
                let _ = memory.write(at, part);
            }
        })
    }

    /// The device on `channel` (0 to 3) takes `data` from the guest's memory. What is not moved stays as it was.
    pub fn from_memory(
        &mut self,
        channel: usize,
        memory: &dyn GuestMemory,
        data: &mut [u8],
    ) -> Moved {
        let len = data.len();
        self.transfer(channel, Mode::READ, len, |at, part| {
            if let Some(part) = data.get_mut(part)
                && memory.read(at, part).is_err()
            {
                part.fill(0xff);
            }
        })
    }

    /// Moves `len` bytes by `each`, which is given an address and the bytes that are there. A verify transfer counts and moves nothing; a
    /// channel that is programmed for the other direction does nothing.
    fn transfer(
        &mut self,
        channel: usize,
        direction: Mode,
        len: usize,
        mut each: impl FnMut(Gpa, Range<usize>),
    ) -> Moved {
        let mut moved = Moved {
            bytes: 0,
            end: false,
        };
        let Some(mode) = self.first.ready(channel) else {
            return moved;
        };
        let wanted = mode & (Mode::READ | Mode::WRITE);
        if !wanted.is_empty() && wanted != direction {
            return moved;
        }
        let page = u64::from(self.pages[PAGE[channel & 3]]) << 16;
        while moved.bytes < len && !moved.end {
            let (at, row, last) = self.first.count(channel, mode, len - moved.bytes);
            if !wanted.is_empty() {
                each(Gpa(page | u64::from(at)), moved.bytes..moved.bytes + row);
            }
            moved.bytes += row;
            moved.end = last;
        }
        moved
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
    use alloc::vec;
    use alloc::vec::Vec;
    use hv_core::Gpa;
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

    /// Channel 2 as SeaBIOS programs it for a floppy (`dma_floppy`).
    fn program(d: &mut Dma, b: &mut Bench, mode: u8, at: u32, len: u16) {
        let [a0, a1, a2, _] = at.to_le_bytes();
        let [c0, c1] = (len - 1).to_le_bytes();
        for (port, value) in [
            (0x0a, 0x06),
            (0x0c, 0),
            (0x04, a0),
            (0x04, a1),
            (0x0c, 0),
            (0x05, c0),
            (0x05, c1),
            (0x0b, mode | 2),
            (0x81, a2),
            (0x0a, 0x02),
        ] {
            out(d, b, port, value);
        }
    }

    fn memory(b: &mut Bench, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        b.cx().dma.read(Gpa(at), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_device_writes_memory_until_the_terminal_count() {
        let (mut d, mut b) = (Dma::new(), Bench::new());
        program(&mut d, &mut b, 0x44, 0x7000, 6);
        let data = [1, 2, 3, 4];
        let moved = d.to_memory(2, b.cx().dma, &data);
        assert_eq!((moved.bytes, moved.end), (4, false));
        assert_eq!(inb(&mut d, &mut b, 0x08), 0);
        let moved = d.to_memory(2, b.cx().dma, &data);
        assert_eq!((moved.bytes, moved.end), (2, true));
        assert_eq!(memory(&mut b, 0x7000, 7), [1, 2, 3, 4, 1, 2, 0]);
        assert_eq!(inb(&mut d, &mut b, 0x08), 4, "terminal count, shown once");
        assert_eq!(inb(&mut d, &mut b, 0x08), 0);
        assert_eq!(d.to_memory(2, b.cx().dma, &data).bytes, 0, "masked");
    }

    #[test]
    fn a_device_reads_memory_down_and_wraps_in_its_page() {
        let (mut d, mut b) = (Dma::new(), Bench::new());
        b.cx().dma.write(Gpa(0x1_0000), &[1, 2]).unwrap();
        b.cx().dma.write(Gpa(0x1_ffff), &[9]).unwrap();
        program(&mut d, &mut b, 0x68, 0x1_0001, 100);
        let mut data = [0; 3];
        assert_eq!(d.from_memory(2, b.cx().dma, &mut data).bytes, 3);
        assert_eq!(data, [2, 1, 9]);
    }

    #[test]
    fn verify_counts_and_autoinitialize_begins_anew() {
        let (mut d, mut b) = (Dma::new(), Bench::new());
        program(&mut d, &mut b, 0x50, 0x7000, 2);
        for _ in 0..3 {
            assert!(d.to_memory(2, b.cx().dma, &[5, 5, 5]).end);
        }
        assert_eq!(memory(&mut b, 0x7000, 2), [0, 0]);
    }

    #[test]
    fn what_is_not_programmed_for_it_does_not_move() {
        let (mut d, mut b) = (Dma::new(), Bench::new());
        program(&mut d, &mut b, 0x48, 0x7000, 2);
        assert_eq!(d.to_memory(2, b.cx().dma, &[5]).bytes, 0, "direction");
        program(&mut d, &mut b, 0x44, 0x7000, 2);
        assert_eq!(d.to_memory(3, b.cx().dma, &[5]).bytes, 0, "channel");
        out(&mut d, &mut b, 0x08, 4);
        assert_eq!(d.to_memory(2, b.cx().dma, &[5]).bytes, 0, "disabled");
        out(&mut d, &mut b, 0x08, 0);
        program(&mut d, &mut b, 0xc4, 0x7000, 2);
        assert_eq!(d.to_memory(2, b.cx().dma, &[5]).bytes, 0, "cascade");
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
            let (channel, mut data) = ((x >> 40) as usize, [0; 700]);
            let given = d.to_memory(channel, b.cx().dma, &data);
            let taken = d.from_memory(channel, b.cx().dma, &mut data);
            assert!(given.bytes <= data.len() && taken.bytes <= data.len());
        }
    }
}
