//! One device with two faces: on the port or memory bus and on the PCI bus.

use super::PciFunction;
use alloc::sync::Arc;
use hv_core::VmTime;
use hv_core::device::{AccessSize, DevCx, Device, WindowId};
use spin::{Mutex, MutexGuard};

/// A handle to a device that is registered in several places and used by the host side too, such as a power button.
///
/// The lock counts as a device's in the lock order; what the PCI bus calls it for never calls the PCI bus.
pub struct Shared<T>(Arc<Mutex<T>>);

impl<T> Shared<T> {
    /// The first handle to `device`.
    pub fn new(device: T) -> Self {
        Self(Arc::new(Mutex::new(device)))
    }

    /// Locks the device.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock()
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: PciFunction> PciFunction for Shared<T> {
    fn config_read(&mut self, cx: &mut DevCx<'_>, offset: u8, size: AccessSize) -> u32 {
        self.lock().config_read(cx, offset, size)
    }

    fn config_write(&mut self, cx: &mut DevCx<'_>, offset: u8, size: AccessSize, value: u32) {
        self.lock().config_write(cx, offset, size, value);
    }

    fn config_reset(&mut self, cx: &mut DevCx<'_>) {
        self.lock().config_reset(cx);
    }
}

impl<T: Device> Device for Shared<T> {
    fn name(&self) -> &'static str {
        self.lock().name()
    }

    fn reset(&mut self, cx: &mut DevCx<'_>) {
        self.lock().reset(cx);
    }

    fn poll(&mut self, cx: &mut DevCx<'_>) -> Option<VmTime> {
        self.lock().poll(cx)
    }

    fn port_read(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize) -> u32 {
        self.lock().port_read(cx, port, size)
    }

    fn port_write(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize, value: u32) {
        self.lock().port_write(cx, port, size, value);
    }

    fn port_read_block(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize, buf: &mut [u8]) {
        self.lock().port_read_block(cx, port, size, buf);
    }

    fn port_write_block(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize, buf: &[u8]) {
        self.lock().port_write_block(cx, port, size, buf);
    }

    fn mmio_read(&mut self, cx: &mut DevCx<'_>, window: WindowId, offset: u64, size: usize) -> u64 {
        self.lock().mmio_read(cx, window, offset, size)
    }

    fn mmio_write(
        &mut self,
        cx: &mut DevCx<'_>,
        window: WindowId,
        offset: u64,
        size: usize,
        value: u64,
    ) {
        self.lock().mmio_write(cx, window, offset, size, value);
    }
}
