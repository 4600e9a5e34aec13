//! The host's IDE channels: ports and DMA memory for the [`ata`] driver, and where the channels are.
//!
//! Channels 0 and 1 are at the legacy ports, whether a PCI controller in compatibility mode has them or an ISA one. Those of PCI
//! controllers in native mode follow in the order of the bus. PCI IDE Controller Specification, revision 1.0; *Programming
//! Interface for Bus Master IDE Controller*, revision 1.0.

use crate::clock;
use crate::memory::HostDeviceRam;
use crate::pci::Ports;
use alloc::vec;
use alloc::vec::Vec;
use ata::{DmaBuffer, Found, Host, Location, Place};
use core::arch::asm;
use virtio_drivers::transport::pci::bus::{Command, ConfigurationAccess, DeviceFunction, PciRoot};
use x86::io::{inb, outb, outl};

/// Class and subclass of IDE controllers.
const CLASS: (u8, u8) = (1, 1);
/// Programming interface: there is a bus master.
const BUS_MASTER: u8 = 1 << 7;
/// Configuration space: base address register 0, and 4 with the bus-master block.
const BAR0: u8 = 0x10;
const BAR4: u8 = 0x20;

/// The ports of this machine.
pub struct HostPorts;

impl Host for HostPorts {
    fn in8(&mut self, port: u16) -> u8 {
        // SAFETY: ring 0; the driver reads the ports of an IDE channel, which are nobody else's.
        unsafe { inb(port) }
    }
    fn out8(&mut self, port: u16, value: u8) {
        // SAFETY: as above.
        unsafe { outb(port, value) }
    }
    fn out32(&mut self, port: u16, value: u32) {
        // SAFETY: as above. The one register of this width points the bus master to a `DmaBuffer`.
        unsafe { outl(port, value) }
    }
    fn in16s(&mut self, port: u16, buf: &mut [u8]) {
        // SAFETY: as above; the words fill no more than `buf`, and the direction flag is clear.
        unsafe {
            asm!("rep insw", in("dx") port, inout("rdi") buf.as_mut_ptr() => _, inout("rcx") buf.len() / 2 => _,
                options(nostack, preserves_flags));
        }
    }
    fn out16s(&mut self, port: u16, buf: &[u8]) {
        // SAFETY: as above; no more than `buf` is read.
        unsafe {
            asm!("rep outsw", in("dx") port, inout("rsi") buf.as_ptr() => _, inout("rcx") buf.len() / 2 => _,
                options(nostack, preserves_flags, readonly));
        }
    }
    fn now(&mut self) -> u64 {
        clock::ticks() / (clock::tsc_hz() / 1_000_000).max(1)
    }
}

/// Memory for a drive's DMA.
pub fn dma_buffer() -> Option<DmaBuffer> {
    let ram = HostDeviceRam::own(DmaBuffer::SIZE as u64)?;
    let address = ram.hpa().0;
    DmaBuffer::new(ram, address)
}

/// All drives.
pub fn find() -> Vec<(Place, Found<HostPorts>)> {
    let mut drives = Vec::new();
    for (channel, location) in (0..).zip(locations()) {
        for found in ata::probe(HostPorts, location) {
            let position = found.position;
            let place = Place { channel, position };
            log::info!("{place}: {}", found.identity);
            drives.push((place, found));
        }
    }
    drives
}

/// The I/O port in a base address register, if it holds one.
fn port(function: DeviceFunction, register: u8) -> Option<u16> {
    let bar = Ports.read_word(function, register);
    let port = u16::try_from(bar & !3).ok()?;
    (bar & 1 != 0 && port != 0).then_some(port)
}

/// All channels.
fn locations() -> Vec<Location> {
    let legacy = |command: u16| Location {
        command,
        control: command + 0x206,
        bus_master: None,
    };
    let mut channels = vec![legacy(0x1f0), legacy(0x170)];
    let mut root = PciRoot::new(Ports);
    for bus in 0..8 {
        let found: Vec<_> = root.enumerate_bus(bus).collect();
        for (function, info) in found {
            if (info.class, info.subclass) != CLASS {
                continue;
            }
            let mut wanted = Command::IO_SPACE;
            let bus_master = port(function, BAR4).filter(|_| info.prog_if & BUS_MASTER != 0);
            if bus_master.is_some() {
                wanted |= Command::BUS_MASTER;
            }
            let (_, command) = root.get_status_command(function);
            root.set_command(function, command | wanted);
            for number in 0..2u8 {
                let bus_master = bus_master.map(|port| port.wrapping_add(8 * u16::from(number)));
                let native = info.prog_if >> (2 * number) & 1 != 0;
                if !native {
                    let channel = &mut channels[usize::from(number)];
                    channel.bus_master = channel.bus_master.or(bus_master);
                    continue;
                }
                let bar = |n| port(function, BAR0 + 8 * number + n);
                // The control block has four ports, the third of which is the device control register.
                channels.extend(bar(0).zip(bar(4)).map(|(command, control)| Location {
                    command,
                    control: control.wrapping_add(2),
                    bus_master,
                }));
            }
        }
    }
    channels
}
