//! Virtio devices (Virtual I/O Device, version 1.2, OASIS): what is common to all types.
//!
//! [`queue`] has the rings, `pci` and `registers` the transport over PCI, a file each the types of devices. All devices are transitional:
//! the same function serves drivers of version 1 through its capabilities, and older ones (those of SeaBIOS, iPXE and old kernels) through
//! the ports of its first base address register.
//!
//! A guest that breaks the rules of a queue gets DEVICE_NEEDS_RESET and nothing else: its device does nothing more until it is reset.
//!
//! Not there: the reset of single queues, notification data, shared memory regions, administration.

pub mod balloon;
pub mod block;
pub mod console;
pub mod net;
mod pci;
pub mod queue;
mod registers;
pub mod rng;
#[cfg(test)]
mod testing;

pub use pci::{MEMORY_LEN, MSI_X_LEN, PORTS_LEN, Parts, VirtioPci, Windows};

use hv_core::device::DevCx;
use hv_core::mem::GuestMemory;
use hv_core::time::VmTime;
use queue::{Fault, Queue};

bitflags::bitflags! {
    /// The device status (2.1, "Device Status Field").
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Status: u8 {
        /// The system has found the device.
        const ACKNOWLEDGE = 1;
        /// It has a driver.
        const DRIVER = 2;
        /// The driver drives it.
        const DRIVER_OK = 4;
        /// Both sides have agreed on features.
        const FEATURES_OK = 8;
        /// The device has given up until it is reset.
        const NEEDS_RESET = 64;
        /// The driver has given up.
        const FAILED = 128;
    }

    /// Features that do not belong to a type of device (6, "Reserved Feature Bits"), and those of older versions (6.3).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Features: u64 {
        /// Older versions: a request may be cut into descriptors anywhere.
        const ANY_LAYOUT = 1 << 27;
        /// Descriptors may be indirect.
        const INDIRECT_DESC = 1 << 28;
        /// Both sides say at which index they want to be told.
        const EVENT_IDX = 1 << 29;
        /// Version 1 or later.
        const VERSION_1 = 1 << 32;
        /// Rings may be packed.
        const RING_PACKED = 1 << 34;
        /// Buffers are used in order.
        const IN_ORDER = 1 << 35;
    }
}

/// Who a type of device is (5, "Device Types"; 4.1.2, "PCI Device Discovery").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kind {
    /// A short name for logs.
    pub name: &'static str,
    /// The number of the type.
    pub id: u16,
    /// The PCI device ID of a transitional device.
    pub pci_device: u16,
    /// The PCI class.
    pub class: u32,
}

/// The most bytes that a device's own configuration has.
pub const CONFIG: usize = 64;

/// The queues of a device: those that are in use.
pub type Queues = [Option<Queue>];

/// A type of device, without its transport.
pub trait DeviceType: Send {
    /// Who it is.
    fn kind(&self) -> Kind;

    /// What it offers besides what every device does.
    fn features(&self) -> u64 {
        0
    }

    /// The number of its queues.
    fn queues(&self) -> usize;

    /// Its configuration.
    fn config(&self) -> [u8; CONFIG] {
        [0; CONFIG]
    }

    /// The driver writes one byte of its configuration.
    fn write_config(&mut self, offset: usize, value: u8) {
        let _ = (offset, value);
    }

    /// Whether its configuration is another one than the driver has been told of, which it is told of now.
    fn config_changed(&mut self) -> bool {
        false
    }

    /// The driver has agreed to these features.
    fn agree(&mut self, features: u64) {
        let _ = features;
    }

    /// Does what there is to be done in all queues, whichever was kicked: drivers may have been asked not to tell of others. Says when it is to be called again.
    ///
    /// # Errors
    /// The guest broke the rules.
    fn run(&mut self, cx: &mut DevCx<'_>, queues: &mut Queues) -> Result<Option<VmTime>, Fault>;

    /// Forgets all that it has of the guest. What the host is at is waited for.
    fn reset(&mut self, memory: &dyn GuestMemory);
}
