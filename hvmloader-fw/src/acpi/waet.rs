//! WAET: what Windows need not do on emulated hardware (Microsoft, "Windows ACPI Emulated Devices Table").
//!
//! Said: one read of the PM timer is reliable. Not said: that reading the RTC's register C may be left out; ours must be read
//! for the next interrupt, like the chip's.

use alloc::vec::Vec;

const PM_TIMER_ONE_READ: u32 = 1 << 1;

pub(super) fn body() -> Vec<u8> {
    PM_TIMER_ONE_READ.to_le_bytes().to_vec()
}
