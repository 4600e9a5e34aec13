//! The interrupt chips as devices on the bus: thin wrappers around the shared handle.

use super::SharedChips;
use hv_core::VmTime;
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

/// The register page of one CPU's local APIC, 4 KiB, after reset at [`hv_core::machine::LAPIC`], and its timer.
pub struct LapicMmio {
    chips: SharedChips,
    cpu: usize,
}

impl LapicMmio {
    /// The page of the local APIC of CPU `cpu`. While that is disabled or in x2APIC mode, nobody answers.
    #[must_use]
    pub fn new(chips: SharedChips, cpu: usize) -> Self {
        Self { chips, cpu }
    }
}

impl Device for LapicMmio {
    fn name(&self) -> &'static str {
        "lapic"
    }

    fn reset(&mut self, _cx: &mut DevCx<'_>) {
        self.chips.lock().lapic_reset(self.cpu);
    }

    fn poll(&mut self, cx: &mut DevCx<'_>) -> Option<VmTime> {
        self.chips.lock().lapic_poll(self.cpu, cx.now)
    }

    fn mmio_read(&mut self, cx: &mut DevCx<'_>, _: WindowId, offset: u64, _: usize) -> u64 {
        let value = self
            .chips
            .lock()
            .lapic_read(self.cpu, cx.now, offset & !0xf);
        // Registers are 32 bits wide and 16 bytes apart.
        match (value, offset & 0xc) {
            (None, _) => u64::MAX,
            (Some(v), 0) => narrow(v, offset),
            _ => 0,
        }
    }

    fn mmio_write(
        &mut self,
        cx: &mut DevCx<'_>,
        _: WindowId,
        offset: u64,
        size: usize,
        value: u64,
    ) {
        const TPR: u64 = 0x80;
        const EOI: u64 = 0xb0;
        if offset & 0xf != 0 || size < 4 && !matches!(offset, TPR | EOI) {
            return;
        }
        let deadline = self
            .chips
            .lock()
            .lapic_write(self.cpu, cx.now, offset, value as u32);
        if let Some(deadline) = deadline {
            cx.requests.wake_at(deadline);
        }
    }
}

/// The bytes of a 32-bit register from `offset` on.
fn narrow(register: u32, offset: u64) -> u64 {
    u64::from(register >> (8 * (offset & 3)))
}
