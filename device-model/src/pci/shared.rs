//! One device with two faces: on the port or memory bus and on the PCI bus.

use super::PciFunction;
use alloc::sync::Arc;
use hv_core::bus::SharedDevice;
use hv_core::device::{AccessSize, DevCx, Device};
use hv_core::lock::{Guard, Lock, Rank};

/// A handle to a device that is registered in several places and used by the host side too, such as a power button.
///
/// The lock counts as a device's in the lock order; what the PCI bus calls it for never calls the PCI bus.
pub struct Shared<T>(Arc<Lock<T>>);

impl<T> Shared<T> {
    /// The first handle to `device`.
    pub fn new(device: T) -> Self {
        Self(Arc::new(Lock::new(Rank::Part, device)))
    }

    /// Locks the device.
    pub fn lock(&self) -> Guard<'_, T> {
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

    fn config_wake(&mut self, cx: &mut DevCx<'_>) {
        self.lock().config_wake(cx);
    }
}

impl<T: Device + 'static> Shared<T> {
    /// The device as the port and memory bus holds it: the same lock, not one around it.
    pub fn on_bus(&self) -> SharedDevice {
        self.0.clone()
    }
}
