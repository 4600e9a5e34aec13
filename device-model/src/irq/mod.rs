//! The interrupt chips: two 8259A with edge/level control, one I/O APIC and a local APIC per CPU, and the wires between them.
//!
//! `chips.rs` holds PIC and I/O APIC behind one lock ([`SharedChips`]), because one access to either may change what the other
//! says. A local APIC is its CPU's own ([`CpuInterrupts`]); what others have for it comes by `apics.rs` into its mailbox
//! (`mailbox.rs`) without a lock. Devices see wires ([`GsiSink`], [`PciSink`]); the bus sees [`PicPorts`] and [`IoApicMmio`].
//!
//! Not there: TSC-deadline timer, SMI delivery, suppression of EOI broadcasts.

mod apics;
mod chips;
mod cpu;
mod ioapic;
mod lapic;
mod mailbox;
mod pic;
mod ports;
mod replaceable;
#[cfg(test)]
mod tests;
mod wires;

pub use chips::{InterruptChips, SharedChips};
pub use cpu::CpuInterrupts;
pub use ports::{IoApicMmio, PicPorts};
pub use replaceable::Replaceable;
pub use wires::{GsiSink, MessageSink, PciSink};

/// What an interrupt message asks its receiver to do (SDM vol 3A 12.6.1, "Interrupt Command Register (ICR)", and 82093AA
/// 3.2.4, "I/O Redirection Table Registers").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DeliveryMode {
    Fixed,
    LowestPriority,
    Smi,
    Reserved,
    Nmi,
    Init,
    StartUp,
    ExtInt,
}

impl DeliveryMode {
    /// Decodes bits 10:8 of a register that holds a delivery mode.
    pub(crate) const fn of(register: u32) -> Self {
        match register >> 8 & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            7 => Self::ExtInt,
            _ => Self::Reserved,
        }
    }
}

/// One message on the way to local APICs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Message {
    /// Message destination address, 32 bits as in x2APIC mode.
    pub(crate) destination: u32,
    /// Whether it is a logical destination.
    pub(crate) logical: bool,
    pub(crate) mode: DeliveryMode,
    pub(crate) vector: u8,
    /// Level-triggered: the receiver's EOI is broadcast.
    pub(crate) level: bool,
}

impl Message {
    /// The destination that means all local APICs.
    pub(crate) const BROADCAST: u32 = u32::MAX;

    /// What a device says that writes `data` to `address` (SDM vol 3A 12.11, "Message Signalled Interrupts"). None: that is no
    /// interrupt.
    pub(crate) fn signalled(address: u64, data: u32) -> Option<Self> {
        const LOGICAL: u64 = 1 << 2;
        const LEVEL: u32 = 1 << 15;
        (address >> 20 == 0xfee).then(|| Self {
            destination: Self::wide((address >> 12) as u8),
            logical: address & LOGICAL != 0,
            mode: DeliveryMode::of(data),
            vector: data as u8,
            level: data & LEVEL != 0,
        })
    }

    /// The 32-bit destination that an 8-bit one stands for.
    pub(crate) const fn wide(destination: u8) -> u32 {
        match destination {
            0xff => Self::BROADCAST,
            d => d as u32,
        }
    }
}
