//! The interrupt chips as devices on the bus: thin wrappers around the shared handle.

use super::SharedChips;
use hv_core::device::{AccessSize, DevCx, Device, WindowId};

/// The ports of the PIC pair: 20h, 21h, A0h, A1h, 4D0h and 4D1h, 8 bits each.
pub struct PicPorts(SharedChips);

impl PicPorts {
    /// The ports of `chips`.
    #[must_use]
    pub fn new(chips: SharedChips) -> Self {
        Self(chips)
    }
}

impl Device for PicPorts {
    fn name(&self) -> &'static str {
        "pic"
    }

    fn reset(&mut self, _cx: &mut DevCx<'_>) {
        self.0.lock().pic_reset();
    }

    fn port_read(&mut self, _cx: &mut DevCx<'_>, port: u16, size: AccessSize) -> u32 {
        size.ones() & !0xff | u32::from(self.0.lock().pic_read(port))
    }

    fn port_write(&mut self, _cx: &mut DevCx<'_>, port: u16, _size: AccessSize, value: u32) {
        self.0.lock().pic_write(port, value as u8);
    }
}

/// The register page of the I/O APIC at [`hv_core::machine::IOAPIC`], 4 KiB.
pub struct IoApicMmio(SharedChips);

impl IoApicMmio {
    /// The page of the I/O APIC of `chips`.
    #[must_use]
    pub fn new(chips: SharedChips) -> Self {
        Self(chips)
    }
}

impl Device for IoApicMmio {
    fn name(&self) -> &'static str {
        "ioapic"
    }

    fn reset(&mut self, _cx: &mut DevCx<'_>) {
        self.0.lock().ioapic_reset();
    }

    fn mmio_read(&mut self, _: &mut DevCx<'_>, _: WindowId, offset: u64, _: usize) -> u64 {
        narrow(self.0.lock().ioapic_read(offset & !3), offset)
    }

    fn mmio_write(&mut self, _: &mut DevCx<'_>, _: WindowId, offset: u64, _: usize, value: u64) {
        self.0.lock().ioapic_write(offset, value as u32);
    }
}

/// The bytes of a 32-bit register from `offset` on.
fn narrow(register: u32, offset: u64) -> u64 {
    u64::from(register >> (8 * (offset & 3)))
}
