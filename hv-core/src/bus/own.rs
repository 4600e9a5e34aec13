//! Addresses on their way from a CPU to memory and bus: its own registers come first, and A20 may be off.

use crate::Gpa;
use crate::device::WindowId;

/// What A20 divides: with it off, the second mebibyte is the first.
pub(super) const MIB: u64 = 1 << 20;
/// Set in addresses of a CPU's own registers; no guest-physical address has so many bits.
const CPU_REGISTERS: u64 = 1 << 63;

/// What a CPU whose own registers are at `page` makes of a physical address on its way to memory and bus. `wraps`: A20 is off.
#[inline]
#[must_use]
pub fn decode(gpa: Gpa, page: Option<Gpa>, wraps: bool) -> Gpa {
    if page == Some(gpa.page()) {
        Gpa(CPU_REGISTERS | gpa.page_offset())
    } else if wraps && gpa.0 / MIB == 1 {
        Gpa(gpa.0 - MIB)
    } else {
        gpa
    }
}

/// The offset within the page of a CPU's own registers, if it is one of them that [`decode`] has made of an address.
#[inline]
#[must_use]
pub fn own_register(gpa: Gpa) -> Option<u64> {
    (gpa.0 & CPU_REGISTERS != 0).then_some(gpa.0 & !CPU_REGISTERS)
}

/// The page with a CPU's own registers: its local APIC's.
pub(super) struct CpuPage {
    pub(super) window: WindowId,
    pub(super) page: Option<Gpa>,
}
