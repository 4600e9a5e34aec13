//! What firmware does to the PCI devices before an operating system starts, for a kernel that is booted without firmware: base
//! addresses, command registers, interrupt routing, IDE decoding and the power-management block.
//!
//! The outcome is what SeaBIOS leaves behind on this machine. The writes are meant for the devices' configuration registers, in
//! this order, through the same code that serves ports CF8h and CFCh.

use alloc::vec::Vec;
use hv_core::device::AccessSize;
use hv_core::machine::{
    IDE, ISA_BRIDGE, MachineDesc, NetworkCard, Nic, PM, PM_BASE, SCI_IRQ, Slot, USB, VGA, irq, nic,
    pirq,
};

/// One write to a configuration register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PciWrite {
    /// The function on bus 0.
    pub slot: Slot,
    /// The register.
    pub offset: u8,
    /// Its width.
    pub size: AccessSize,
    /// The value; no bits above `size`.
    pub value: u32,
}

/// A function's interrupt pin and the ISA interrupt it ends at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interrupt {
    /// The function.
    pub slot: Slot,
    /// 0 = INTA to 3 = INTD.
    pub pin: u8,
    /// The ISA interrupt, which is the I/O APIC's pin too.
    pub irq: u8,
}

/// Where the linear frame buffer is.
pub const VGA_FRAME_BUFFER: u32 = 0xfd00_0000;
/// Where the VGA's register window is.
pub const VGA_REGISTERS: u32 = 0xfebf_0000;
/// The first NE2000's ports; those of further ones are below.
pub const NIC_PORTS: u16 = 0xc000;
/// How many ports it has.
const NIC_PORTS_LEN: u16 = 0x100;
/// The IDE controller's bus-master ports.
pub const BUS_MASTER_PORTS: u16 = 0xc100;
/// The USB controller's ports.
pub const USB_PORTS: u16 = 0xc120;

const COMMAND: u8 = 0x04;
const BAR0: u8 = 0x10;
const BAR2: u8 = 0x18;
const BAR4: u8 = 0x20;
const INTERRUPT_LINE: u8 = 0x3c;
const COMMAND_IO: u32 = 1 << 0;
const COMMAND_MEMORY: u32 = 1 << 1;
const COMMAND_SERR: u32 = 1 << 8;

/// PIIX3: PIRQRC\[A:D\].
const PIRQRC: u8 = 0x60;
/// PIIX3: IDETIM of the two channels; bit 15 enables decoding.
const IDETIM: [u8; 2] = [0x40, 0x42];
const IDE_DECODE: u32 = 0x8000;
/// PIIX4: PMBASE; bit 0 says that it is I/O.
const PMBASE: u8 = 0x40;
/// PIIX4: PMREGMISC; bit 0 enables decoding of the block.
const PMREGMISC: u8 = 0x80;
/// PIIX3: the edge/level control registers of both interrupt controllers.
const ELCR: [u16; 2] = [0x4d0, 0x4d1];
/// The keyboard controller (IBM PC/AT Technical Reference, "Keyboard Controller"): its ports, the command that writes its
/// command byte, and that byte: interrupts of the keyboard, the mouse held, translation.
const KEYBOARD_DATA: u16 = 0x60;
const KEYBOARD_COMMAND: u16 = 0x64;
const WRITE_COMMAND_BYTE: u8 = 0x60;
const COMMAND_BYTE: u8 = 0x61;

/// The network cards and their places.
fn cards(desc: &MachineDesc) -> impl Iterator<Item = (Slot, NetworkCard)> {
    let all = desc.nics.into_iter().enumerate();
    all.filter_map(|(n, card)| Some((nic(n), card?)))
}

/// The interrupts of all functions that have a pin. The power-management function's is the SCI, which is wired past the links.
#[must_use]
pub fn interrupts(desc: &MachineDesc) -> Vec<Interrupt> {
    const INTA: u8 = 0;
    const INTD: u8 = 3;
    let linked = |slot: Slot, pin| Interrupt {
        slot,
        pin,
        irq: irq::PIRQ[usize::from(pirq(slot.device, pin))],
    };
    let sci = Interrupt {
        slot: PM,
        pin: INTA,
        irq: SCI_IRQ,
    };
    let usb = desc.tablet.then(|| linked(USB, INTD));
    let cards = cards(desc).map(|(slot, _)| linked(slot, INTA));
    usb.into_iter().chain([sci]).chain(cards).collect()
}

/// The configuration writes in order. Each function decodes only after its base addresses are set.
#[must_use]
pub fn config_writes(desc: &MachineDesc) -> Vec<PciWrite> {
    let mut writes = Vec::new();
    let mut write = |slot, offset, size, value| {
        writes.push(PciWrite {
            slot,
            offset,
            size,
            value,
        })
    };
    for (link, irq) in (0u8..).zip(irq::PIRQ) {
        write(ISA_BRIDGE, PIRQRC + link, AccessSize::Byte, u32::from(irq));
    }
    for channel in IDETIM {
        write(IDE, channel, AccessSize::Word, IDE_DECODE);
    }
    write(IDE, BAR4, AccessSize::Dword, u32::from(BUS_MASTER_PORTS));
    if desc.tablet {
        write(USB, BAR4, AccessSize::Dword, u32::from(USB_PORTS));
    }
    write(PM, PMBASE, AccessSize::Dword, u32::from(PM_BASE) | 1);
    write(PM, PMREGMISC, AccessSize::Byte, 1);
    write(VGA, BAR0, AccessSize::Dword, VGA_FRAME_BUFFER);
    write(VGA, BAR2, AccessSize::Dword, VGA_REGISTERS);
    // The windows of other cards are for the system to place.
    for (n, (slot, card)) in (0..).zip(cards(desc)) {
        if card.nic == Nic::Ne2k {
            let ports = NIC_PORTS - n * NIC_PORTS_LEN;
            write(slot, BAR0, AccessSize::Dword, u32::from(ports));
        }
    }
    for i in interrupts(desc) {
        write(i.slot, INTERRUPT_LINE, AccessSize::Byte, u32::from(i.irq));
    }
    let usb = desc.tablet.then_some(USB);
    let cards = cards(desc).map(|(slot, _)| slot);
    for slot in [IDE, PM, VGA].into_iter().chain(cards).chain(usb) {
        write(
            slot,
            COMMAND,
            AccessSize::Word,
            COMMAND_IO | COMMAND_MEMORY | COMMAND_SERR,
        );
    }
    writes
}

/// The port writes that belong to it, byte-wide: the interrupts of the links are level triggered at the interrupt controllers,
/// and the keyboard controller translates to scan code set 1, which it does not do by itself and which kernels leave as it is.
#[must_use]
pub fn port_writes() -> [(u16, u8); 4] {
    let level = irq::PIRQ.iter().fold(0u16, |level, irq| level | 1 << irq);
    let [low, high] = level.to_le_bytes();
    [
        (ELCR[0], low),
        (ELCR[1], high),
        (KEYBOARD_COMMAND, WRITE_COMMAND_BYTE),
        (KEYBOARD_DATA, COMMAND_BYTE),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::machine::NIC;

    fn with_tablet() -> MachineDesc {
        MachineDesc {
            tablet: true,
            ..crate::testing::machine(1 << 30, 1)
        }
    }

    #[test]
    fn a_machine_without_a_tablet_has_no_usb_controller() {
        let plain = crate::testing::machine(1 << 30, 1);
        assert!(config_writes(&plain).iter().all(|w| w.slot != USB));
        assert!(interrupts(&plain).iter().all(|i| i.slot != USB));
    }

    #[test]
    fn ports_get_what_seabios_writes() {
        assert_eq!(
            port_writes(),
            [(0x4d0, 0x00), (0x4d1, 0x0c), (0x64, 0x60), (0x60, 0x61)]
        );
    }

    #[test]
    fn base_addresses_come_before_the_command_register() {
        let writes = config_writes(&with_tablet());
        for slot in [IDE, USB, PM, VGA, NIC] {
            let of = writes.iter().filter(|w| w.slot == slot).collect::<Vec<_>>();
            assert_eq!(of.last().unwrap().offset, COMMAND);
        }
    }

    #[test]
    fn each_card_has_ports_and_an_interrupt_of_its_own() {
        let mut desc = with_tablet();
        desc.nics[2] = desc.nics[0];
        let writes = config_writes(&desc);
        let value = |n, offset| {
            let mut its = writes.iter().filter(|w| w.slot == nic(n));
            its.find(|w| w.offset == offset).map(|w| w.value)
        };
        assert_eq!(
            (value(0, BAR0), value(2, BAR0)),
            (Some(0xc000), Some(0xbf00))
        );
        assert_eq!(
            (value(0, INTERRUPT_LINE), value(2, INTERRUPT_LINE)),
            (Some(11), Some(10))
        );
        assert_eq!(value(1, COMMAND), None);
    }

    #[test]
    fn interrupt_lines_follow_the_wiring() {
        let line = |slot| {
            config_writes(&with_tablet())
                .iter()
                .find(|w| w.slot == slot && w.offset == INTERRUPT_LINE)
                .map(|w| w.value)
        };
        assert_eq!(line(NIC), Some(11));
        assert_eq!(line(USB), Some(11));
        assert_eq!(line(PM), Some(9));
        assert_eq!(line(VGA), None);
    }

    #[test]
    fn memory_windows_lie_within_the_bridges_window_at_any_ram_size() {
        for memory in [64 << 20, 3u64 << 30, 16 << 30] {
            let window = crate::e820::pci_window(&crate::testing::machine(memory, 1));
            for (base, len) in [(VGA_FRAME_BUFFER, 16 << 20), (VGA_REGISTERS, 4096)] {
                assert!(window.contains(&u64::from(base)) && u64::from(base) + len <= window.end);
                assert_eq!(u64::from(base) % len, 0);
            }
        }
    }
}
