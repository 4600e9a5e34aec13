//! The PCI bus: configuration mechanism #1, what a function is and how it interrupts (its pin, MSI, MSI-X), and the two functions that
//! are nothing but configuration space: the i440FX host bridge and the PIIX3 ISA bridge.
//!
//! Not there: bridges and buses other than 0, configuration mechanism #2, memory-mapped configuration space.

mod bus;
mod config;
mod host;
mod intx;
mod isa;
mod msi;
mod msix;
mod shared;

pub use bus::PciBus;
pub use config::{Command, ConfigSpace, Identity};
pub use host::HostBridge;
pub use intx::Intx;
pub use isa::IsaBridge;
pub use msi::Msi;
pub use msix::{MsiX, WINDOW as MSI_X_WINDOW};
pub use shared::Shared;

use hv_core::device::{AccessSize, DevCx};

/// Offsets in configuration space (PCI Local Bus Specification 3.0 6.1, "Configuration Space Organization").
#[allow(missing_docs)]
pub mod register {
    pub const VENDOR: u8 = 0x00;
    pub const DEVICE: u8 = 0x02;
    pub const COMMAND: u8 = 0x04;
    pub const STATUS: u8 = 0x06;
    pub const REVISION: u8 = 0x08;
    pub const CLASS: u8 = 0x09;
    pub const CACHE_LINE: u8 = 0x0c;
    pub const LATENCY: u8 = 0x0d;
    pub const HEADER_TYPE: u8 = 0x0e;
    pub const BAR0: u8 = 0x10;
    pub const SUBSYSTEM_VENDOR: u8 = 0x2c;
    pub const SUBSYSTEM: u8 = 0x2e;
    pub const ROM: u8 = 0x30;
    pub const CAPABILITIES: u8 = 0x34;
    pub const INTERRUPT_LINE: u8 = 0x3c;
    pub const INTERRUPT_PIN: u8 = 0x3d;
}

/// Capability identifiers (PCI Local Bus Specification 3.0 appendix H, "Capability IDs").
#[allow(missing_docs)]
pub mod capability {
    pub const MSI: u8 = 0x05;
    pub const VENDOR_SPECIFIC: u8 = 0x09;
    pub const MSI_X: u8 = 0x11;
}

/// A function on the PCI bus. Most do nothing here but pass everything on to a [`ConfigSpace`].
pub trait PciFunction: Send {
    /// `size` bytes at `offset` are read; they lie within one doubleword.
    fn config_read(&mut self, cx: &mut DevCx<'_>, offset: u8, size: AccessSize) -> u32;

    /// `size` bytes at `offset` are written; they lie within one doubleword.
    fn config_write(&mut self, cx: &mut DevCx<'_>, offset: u8, size: AccessSize, value: u32);

    /// Configuration space back to the power-on state.
    fn config_reset(&mut self, cx: &mut DevCx<'_>);

    /// The same when the machine wakes from S3, but for what the system finds as it was.
    fn config_wake(&mut self, cx: &mut DevCx<'_>) {
        self.config_reset(cx);
    }
}

/// A configuration space without side effects is a function.
impl PciFunction for ConfigSpace {
    fn config_read(&mut self, _cx: &mut DevCx<'_>, offset: u8, size: AccessSize) -> u32 {
        self.read(offset, size)
    }

    fn config_write(&mut self, cx: &mut DevCx<'_>, offset: u8, size: AccessSize, value: u32) {
        self.write(cx.requests, offset, size, value);
    }

    fn config_reset(&mut self, cx: &mut DevCx<'_>) {
        self.reset(cx.requests);
    }

    fn config_wake(&mut self, cx: &mut DevCx<'_>) {
        self.wake(cx.requests);
    }
}
