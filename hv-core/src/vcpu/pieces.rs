//! Accesses of any length in pieces that a device takes: powers of two, up to eight bytes.

use crate::bus::Bus;
use crate::{Gpa, VmTime};

/// The widest piece.
pub(super) const WIDEST: usize = 8;

/// The largest piece of so many bytes.
const fn piece(len: usize) -> usize {
    match len {
        8.. => 8,
        4..=7 => 4,
        2..=3 => 2,
        _ => 1,
    }
}

/// Fills `buf` with what `read` gives for an address, from `at` on, and a size.
#[inline]
pub(super) fn fill(mut at: u64, mut buf: &mut [u8], mut read: impl FnMut(u64, usize) -> u64) {
    while !buf.is_empty() {
        let n = piece(buf.len());
        let (now, later) = buf.split_at_mut(n);
        now.copy_from_slice(&read(at, n).to_le_bytes()[..n]);
        buf = later;
        at = at.wrapping_add(n as u64);
    }
}

/// Gives `buf` to `write`: an address, from `at` on, a size and a value.
#[inline]
pub(super) fn spend(mut at: u64, mut buf: &[u8], mut write: impl FnMut(u64, usize, u64)) {
    while !buf.is_empty() {
        let n = piece(buf.len());
        let (now, later) = buf.split_at(n);
        let mut value = [0; WIDEST];
        value[..n].copy_from_slice(now);
        write(at, n, u64::from_le_bytes(value));
        buf = later;
        at = at.wrapping_add(n as u64);
    }
}

/// Reads devices on the bus.
#[inline]
pub(super) fn read(bus: &mut Bus, now: VmTime, gpa: Gpa, buf: &mut [u8]) {
    fill(gpa.0, buf, |at, size| bus.mmio_read(now, Gpa(at), size));
}

/// Writes devices on the bus.
#[inline]
pub(super) fn write(bus: &mut Bus, now: VmTime, gpa: Gpa, buf: &[u8]) {
    spend(gpa.0, buf, |at, size, value| {
        bus.mmio_write(now, Gpa(at), size, value);
    });
}
