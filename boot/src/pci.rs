//! The host's PCI configuration space, by mechanism #1.

use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};
use x86::io::{inl, outl};

/// Configuration mechanism #1 (ports CF8h and CFCh), bus by bus.
#[derive(Clone, Copy)]
pub struct Ports;

fn address(f: DeviceFunction, offset: u8) -> u32 {
    1 << 31
        | u32::from(f.bus) << 16
        | u32::from(f.device) << 11
        | u32::from(f.function) << 8
        | u32::from(offset & 0xfc)
}

impl ConfigurationAccess for Ports {
    fn read_word(&self, f: DeviceFunction, offset: u8) -> u32 {
        // SAFETY: ring 0; reading configuration space has no effect on the devices we know.
        unsafe {
            outl(0xcf8, address(f, offset));
            inl(0xcfc)
        }
    }
    fn write_word(&mut self, f: DeviceFunction, offset: u8, data: u32) {
        // SAFETY: ring 0; the caller owns the function.
        unsafe {
            outl(0xcf8, address(f, offset));
            outl(0xcfc, data);
        }
    }
    unsafe fn unsafe_clone(&self) -> Self {
        *self
    }
}
