//! The ends of interrupt wires at the interrupt chips, and of the way of messages at the local APICs.

use super::apics::Apics;
use super::{Message, SharedChips};
use alloc::sync::Arc;
use hv_core::irq::{IrqSink, MsiSink};

/// The ISA inputs: pin number is GSI, 0 to 23; 0 to 15 are the PIC's inputs too.
///
/// A pin has one driver: two devices on one pin must be combined before they come here (PCI devices are, see [`PciSink`]).
#[derive(Clone)]
pub struct GsiSink(pub SharedChips);

impl IrqSink for GsiSink {
    fn set(&self, pin: u8, level: bool) {
        self.0.lock().set_gsi(pin, level);
    }
}

/// The PCI inputs: pin number is PCI device number * 4 + interrupt pin (0 = INTA).
#[derive(Clone)]
pub struct PciSink(pub SharedChips);

impl PciSink {
    /// The input of interrupt pin `pin` (0 = INTA to 3 = INTD) of PCI device `device` (0 to 31).
    #[must_use]
    pub const fn input(device: u8, pin: u8) -> u8 {
        (device & 31) << 2 | pin & 3
    }
}

impl IrqSink for PciSink {
    fn set(&self, pin: u8, level: bool) {
        self.0.lock().set_pci(pin, level);
    }
}

/// Where devices send messages. No lock is taken on the way to the local APICs.
#[derive(Clone)]
pub struct MessageSink(Arc<Apics>);

impl MessageSink {
    /// The way to the local APICs of the machine of `chips`.
    #[must_use]
    pub fn new(chips: &SharedChips) -> Self {
        Self(chips.lock().apics())
    }
}

impl MsiSink for MessageSink {
    fn send(&self, address: u64, data: u32) {
        if let Some(message) = Message::signalled(address, data) {
            self.0.deliver(message);
        }
    }
}
