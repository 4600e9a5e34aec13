//! A ring of descriptors and its registers (317453, "Receive Descriptor Queue Structure" and "Transmit Descriptor Ring Structure"): the card has
//! those from the head to the tail, which is the software's.
//!
//! Invariant: no descriptor is handed out behind the ring's end, whatever the registers hold.

use hv_core::Gpa;

/// Bytes of a descriptor.
pub(super) const DESCRIPTOR: u64 = 16;

/// Offsets from the ring's first register.
pub(super) mod register {
    pub const BASE_LOW: u32 = 0x00;
    pub const BASE_HIGH: u32 = 0x04;
    pub const LENGTH: u32 = 0x08;
    pub const HEAD: u32 = 0x10;
    pub const TAIL: u32 = 0x18;
}

/// A ring.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Ring {
    base: u64,
    /// In bytes, a multiple of 128.
    length: u32,
    head: u16,
    tail: u16,
}

impl Ring {
    pub(super) fn read(&self, register: u32) -> u32 {
        match register {
            register::BASE_LOW => self.base as u32,
            register::BASE_HIGH => (self.base >> 32) as u32,
            register::LENGTH => self.length,
            register::HEAD => self.head.into(),
            register::TAIL => self.tail.into(),
            _ => 0,
        }
    }

    pub(super) fn write(&mut self, register: u32, value: u32) {
        match register {
            register::BASE_LOW => self.base = self.base >> 32 << 32 | u64::from(value & !0xf),
            register::BASE_HIGH => self.base = u64::from(value) << 32 | self.base & 0xffff_ffff,
            register::LENGTH => self.length = value & 0xf_ff80,
            register::HEAD => self.head = value as u16,
            register::TAIL => self.tail = value as u16,
            _ => {}
        }
    }

    /// Descriptors in the ring.
    pub(super) fn descriptors(&self) -> u32 {
        self.length / DESCRIPTOR as u32
    }

    /// Descriptors that the card has. None, where a register points behind the end.
    pub(super) fn available(&self) -> u32 {
        let (all, head, tail) = (
            self.descriptors(),
            u32::from(self.head),
            u32::from(self.tail),
        );
        if head >= all || tail >= all {
            0
        } else if tail >= head {
            tail - head
        } else {
            all - head + tail
        }
    }

    /// Where the next descriptor is that the card has.
    pub(super) fn next(&self) -> Option<Gpa> {
        let offset = u64::from(self.head) * DESCRIPTOR;
        (self.available() != 0).then(|| Gpa(self.base.wrapping_add(offset)))
    }

    /// The card is done with that.
    pub(super) fn advance(&mut self) {
        let next = u32::from(self.head) + 1;
        self.head = if next >= self.descriptors() {
            0
        } else {
            next as u16
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(length: u32, head: u32, tail: u32) -> Ring {
        let mut ring = Ring::default();
        for (register, value) in [(0, 0x1000), (4, 1), (8, length), (16, head), (24, tail)] {
            ring.write(register, value);
        }
        ring
    }

    #[test]
    fn ring_ends_where_the_tail_is() {
        let mut r = ring(128, 6, 1);
        let mut seen = Vec::new();
        while let Some(at) = r.next() {
            seen.push(at.0);
            r.advance();
        }
        assert_eq!(seen, [0x1_0000_1060, 0x1_0000_1070, 0x1_0000_1000]);
    }

    #[test]
    fn what_points_behind_the_end_leads_to_nothing() {
        for (length, head, tail) in [(0, 0, 0), (0, 0, 5), (128, 8, 1), (128, 0, 8), (127, 0, 1)] {
            assert_eq!(ring(length, head, tail).next(), None);
            assert_eq!(ring(length, head, tail).available(), 0);
        }
        assert_eq!(ring(!0, 0xffff, 0).available(), 0);
        assert_eq!(ring(!0, 0, 0xfff7).available(), 0xfff7);
    }
}
