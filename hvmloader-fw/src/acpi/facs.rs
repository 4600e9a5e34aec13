//! FACS: where firmware and operating system share the waking vector and the global lock (ACPI 5.2.10, "Firmware ACPI Control
//! Structure"). We never sleep and never lock, so all but the header is zero.

use crate::blob::Blob;
use alloc::vec::Vec;

const LEN: usize = 64;
const VERSION: usize = 32;

pub(super) fn build() -> Vec<u8> {
    let mut b = Blob::zeroed(LEN);
    b.set(0, b"FACS").set32(4, LEN as u32).set8(VERSION, 1);
    b.0
}
