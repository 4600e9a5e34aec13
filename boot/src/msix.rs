//! MSI-X: a device interrupts by a write to the local APIC, without any wire. PCI Local Bus Specification 3.0, 6.8.2, "MSI-X Capability
//! and Table Structures"; SDM vol 3A 11.11, "Message Signalled Interrupts".

use crate::pci::Ports;
use crate::{lapic, paging};
use virtio_drivers::transport::pci::bus::{BarInfo, ConfigurationAccess, DeviceFunction, PciRoot};

const CAPABILITY: u8 = 0x11;
/// Message control, the upper half of the capability's first double word: MSI-X enable; all entries masked.
const ENABLE: u32 = 1 << 31;
const MASK_ALL: u32 = 1 << 30;
/// Offset of the register that says where the table is: an index of a base address register, and an offset.
const TABLE: u8 = 4;
const TABLE_BAR: u32 = 7;
/// Where messages for local APICs go; the destination's APIC ID is in bits 19:12.
const MESSAGE_ADDRESS: u32 = 0xfee0_0000;

/// Makes entry 0 of the device's table interrupt this CPU with `vector`. False: the device has no MSI-X, or this CPU cannot be its
/// destination.
pub fn route(function: DeviceFunction, vector: u8) -> bool {
    let mut root = PciRoot::new(Ports);
    let Some(at) = root
        .capabilities(function)
        .find(|capability| capability.id == CAPABILITY)
        .map(|capability| capability.offset)
    else {
        return false;
    };
    let place = Ports.read_word(function, at + TABLE);
    let Ok(destination) = u8::try_from(lapic::id()) else {
        return false;
    };
    let Ok(Some(BarInfo::Memory { address, .. })) =
        root.bar_info(function, (place & TABLE_BAR) as u8)
    else {
        return false;
    };
    if address == 0 {
        return false;
    }
    let table = address + u64::from(place & !TABLE_BAR);
    if table >> 32 != 0 {
        paging::map(table, table + 16, true);
    }
    let entry = [
        MESSAGE_ADDRESS | u32::from(destination) << 12,
        0,
        u32::from(vector),
        // Not masked.
        0,
    ];
    for (word, value) in (0..).zip(entry) {
        // SAFETY: the base address register says that the device's table is there, which is nobody else's.
        unsafe { (table as *mut u32).add(word).write_volatile(value) };
    }
    let control = Ports.read_word(function, at);
    Ports.write_word(function, at, control & !MASK_ALL | ENABLE);
    true
}
