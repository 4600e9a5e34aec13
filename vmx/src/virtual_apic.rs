//! The virtual-APIC page, of which only the task priority is used (SDM vol 3C 30.1, "Virtual APIC State", and 30.3, "Virtualizing
//! CR8-Based TPR Accesses").

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, Ordering};

/// Offset of the virtual task-priority register, VTPR, in bytes.
const VTPR: usize = 0x80;

/// The page. The CPU changes it while the guest runs.
#[repr(C, align(4096))]
pub struct VirtualApic([AtomicU32; 1024]);

impl VirtualApic {
    /// A page of zeros.
    #[must_use]
    pub fn new() -> Box<Self> {
        Box::new(Self([const { AtomicU32::new(0) }; 1024]))
    }

    /// The task priority as CR8 shows it, 0 to 15.
    #[must_use]
    pub fn cr8(&self) -> u8 {
        (self.0[VTPR / 4].load(Ordering::Relaxed) >> 4 & 15) as u8
    }

    /// Sets the task priority.
    pub fn set_cr8(&mut self, value: u8) {
        self.0[VTPR / 4].store(u32::from(value & 15) << 4, Ordering::Relaxed);
    }
}

const _: () = assert!(size_of::<VirtualApic>() == 4096);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cr8_is_bits_7_to_4_of_vtpr() {
        let mut page = VirtualApic::new();
        page.set_cr8(0xa);
        assert_eq!(page.0[0x20].load(Ordering::Relaxed), 0xa0);
        assert_eq!(page.cr8(), 0xa);
    }
}
