//! The card's own memory: packet RAM and the PROM with the station address. NE2000 layout: every byte of the PROM stands
//! twice, so that both widths of access find it.

use alloc::boxed::Box;
use alloc::vec;

/// Bytes of the PROM.
const PROM: usize = 0x20;
/// Where the packet memory begins.
const RAM_START: usize = 0x4000;
/// Length of the packet memory. The chip has 16 KiB on board and addresses 32.
const RAM_LEN: usize = 0x8000;
/// Bytes of a page, the unit of the ring registers.
pub(super) const PAGE: usize = 256;
/// Shortest frame on a wire, without frame check sequence.
pub(super) const FRAME_MIN: usize = 60;
/// Longest frame on a wire, with a VLAN tag, without frame check sequence.
pub(super) const FRAME_MAX: usize = 1518;

/// Memory by local address, 0 to FFFFh. What does not exist reads FFh and is not written.
pub(super) struct Memory {
    prom: [u8; PROM],
    ram: Box<[u8]>,
}

impl Memory {
    pub(super) fn new(mac: [u8; 6]) -> Self {
        let mut prom = [0; PROM];
        for (pair, b) in prom.chunks_exact_mut(2).zip(mac) {
            pair.fill(b);
        }
        prom[0x1c..].fill(b'W'); // the mark of a card that can do 16 bits
        Self {
            prom,
            ram: vec![0; RAM_LEN].into_boxed_slice(),
        }
    }

    pub(super) fn clear(&mut self) {
        self.ram.fill(0);
    }

    /// The RAM from `at` on, at most `len` bytes, and how many bytes of address space that covers: for a hole there are none.
    fn run(&self, at: u16, len: usize) -> (core::ops::Range<usize>, usize) {
        let at = usize::from(at);
        let len = len.min(0x1_0000 - at);
        match at.checked_sub(RAM_START) {
            Some(offset) if offset < RAM_LEN => {
                let n = len.min(RAM_LEN - offset);
                (offset..offset + n, n)
            }
            Some(_) => (0..0, len),
            None => (0..0, len.min(RAM_START - at)),
        }
    }

    /// Copies from `at` into a part of `buf` and returns its length, which is not 0 if `buf` is not empty.
    pub(super) fn read(&self, at: u16, buf: &mut [u8]) -> usize {
        let (range, n) = self.run(at, buf.len());
        let Some(buf) = buf.get_mut(..n) else {
            return n;
        };
        if range.is_empty() {
            for (i, b) in buf.iter_mut().enumerate() {
                *b = self.prom.get(usize::from(at) + i).copied().unwrap_or(0xff);
            }
        } else if let Some(ram) = self.ram.get(range) {
            buf.copy_from_slice(ram);
        }
        n
    }

    /// Copies a part of `buf` to `at` and returns its length, which is not 0 if `buf` is not empty.
    pub(super) fn write(&mut self, at: u16, buf: &[u8]) -> usize {
        let (range, n) = self.run(at, buf.len());
        if let (Some(ram), Some(buf)) = (self.ram.get_mut(range), buf.get(..n))
            && ram.len() == buf.len()
        {
            ram.copy_from_slice(buf);
        }
        n
    }

    /// The frame of `len` bytes at the beginning of `page`, if it lies in RAM and fits on a wire.
    pub(super) fn frame(&self, page: u8, len: u16) -> Option<&[u8]> {
        let start = (usize::from(page) * PAGE).checked_sub(RAM_START)?;
        let len = usize::from(len);
        if len == 0 || len > FRAME_MAX {
            return None;
        }
        self.ram.get(start..start + len)
    }

    /// Whether pages `first` to `stop` (exclusive) are all RAM.
    pub(super) fn has_pages(first: u8, stop: u8) -> bool {
        usize::from(first) * PAGE >= RAM_START && usize::from(stop) * PAGE <= RAM_START + RAM_LEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prom_has_the_address_twice_and_the_mark() {
        let m = Memory::new([1, 2, 3, 4, 5, 6]);
        let mut b = [0; 40];
        assert_eq!(m.read(0, &mut b), 40);
        assert_eq!(b[..12], [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]);
        assert_eq!(
            b[28..],
            [
                0x57, 0x57, 0x57, 0x57, 255, 255, 255, 255, 255, 255, 255, 255
            ]
        );
    }

    #[test]
    fn every_address_can_be_read_and_written_at_every_length() {
        let mut m = Memory::new([0; 6]);
        for at in (0..=0xffff)
            .step_by(7)
            .chain([0x3fff, 0x4000, 0xbfff, 0xc000, 0xffff])
        {
            for len in [0, 1, 2, 4, 3000] {
                let mut b = vec![0; len];
                let n = m.read(at, &mut b);
                assert_eq!(n, m.write(at, &b));
                assert_eq!(n == 0, len == 0);
                assert!(n <= len);
            }
        }
    }

    #[test]
    fn prom_cannot_be_written() {
        let mut m = Memory::new([1; 6]);
        m.write(0, &[9; 32]);
        let mut b = [0; 1];
        m.read(0, &mut b);
        assert_eq!(b, [1]);
    }
}
