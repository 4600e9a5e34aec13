//! HPET: where the high precision event timers are (IA-PC HPET specification 1.0a 3.2.4, "The ACPI 2.0 HPET Description Table").

use crate::blob::Blob;
use hv_core::machine::{HPET, HPET_ID};

/// The table after its header.
pub(super) fn body() -> alloc::vec::Vec<u8> {
    // A generic address in memory, of 64 bits; the first such block; no least tick for periodic timers, and no promise about the page.
    let mut b = Blob::zeroed(20);
    b.set32(0, HPET_ID).set8(5, 64).set(8, &HPET.to_le_bytes());
    b.0
}
