//! Bytes under construction: little-endian values stored by offset or appended, and the checksum that all PC tables use
//! (the bytes of a table add up to zero).

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// A table under construction. All offsets are ours, so one past the end is a bug here and panics.
pub(crate) struct Blob(pub(crate) Vec<u8>);

impl Blob {
    /// `len` zero bytes.
    pub(crate) fn zeroed(len: usize) -> Self {
        Self(vec![0; len])
    }

    /// Stores `bytes` at `offset`.
    pub(crate) fn set(&mut self, offset: usize, bytes: &[u8]) -> &mut Self {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Stores a byte at `offset`.
    pub(crate) fn set8(&mut self, offset: usize, value: u8) -> &mut Self {
        self.set(offset, &[value])
    }

    /// Stores a 16-bit value at `offset`.
    pub(crate) fn set16(&mut self, offset: usize, value: u16) -> &mut Self {
        self.set(offset, &value.to_le_bytes())
    }

    /// Stores a 32-bit value at `offset`.
    pub(crate) fn set32(&mut self, offset: usize, value: u32) -> &mut Self {
        self.set(offset, &value.to_le_bytes())
    }

    /// Stores a 64-bit value at `offset`.
    pub(crate) fn set64(&mut self, offset: usize, value: u64) -> &mut Self {
        self.set(offset, &value.to_le_bytes())
    }

    /// Appends bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Sets the byte at `offset` so that the bytes of `range` add up to zero.
    pub(crate) fn fix_sum(&mut self, offset: usize, range: Range<usize>) -> &mut Self {
        fix_sum(&mut self.0, offset, range);
        self
    }
}

/// The sum of `bytes` modulo 256.
pub(crate) fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, b| sum.wrapping_add(*b))
}

/// Sets the byte at `offset` so that the bytes of `range` add up to zero.
pub(crate) fn fix_sum(bytes: &mut [u8], offset: usize, range: Range<usize>) {
    bytes[offset] = 0;
    bytes[offset] = sum(&bytes[range]).wrapping_neg();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_range_adds_up_to_zero() {
        let mut b = Blob(vec![1, 2, 0x77, 250, 9]);
        b.fix_sum(2, 0..4);
        assert_eq!(sum(&b.0[..4]), 0);
        assert_eq!(b.0[4], 9);
    }
}
