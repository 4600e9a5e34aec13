//! FACS: where firmware and operating system share the waking vector and the global lock (ACPI 5.2.10, "Firmware ACPI Control
//! Structure"). Nobody but the system locks, and at first all but the header is zero.

use crate::blob::Blob;
use alloc::vec::Vec;

/// Its length.
pub const LEN: usize = 64;
const WAKING_VECTOR: usize = 12;
const VERSION: usize = 32;

pub(super) fn build() -> Vec<u8> {
    let mut b = Blob::zeroed(LEN);
    b.set(0, b"FACS").set32(4, LEN as u32).set8(VERSION, 1);
    b.0
}

/// Where a system that wakes goes on, in real mode: what it has left in the FACS before it slept.
#[must_use]
pub fn waking_vector(facs: &[u8; LEN]) -> Option<u32> {
    let mut vector = [0; 4];
    vector.copy_from_slice(&facs[WAKING_VECTOR..WAKING_VECTOR + 4]);
    let vector = u32::from_le_bytes(vector);
    (1..1 << 20).contains(&vector).then_some(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_waking_vector_is_below_1_mib_and_not_zero() {
        let mut facs: [u8; LEN] = build().try_into().unwrap();
        for (bytes, vector) in [
            ([0, 0, 0, 0], None),
            ([0x10, 0xa0, 0x09, 0], Some(0x9_a010)),
            ([0, 0, 0x10, 0], None),
            ([0xff; 4], None),
        ] {
            facs[12..16].copy_from_slice(&bytes);
            assert_eq!(waking_vector(&facs), vector);
        }
    }
}
