//! The IDE controller of the PIIX3 (82371SB) in compatibility mode, with ATA disks and ATAPI CD-ROM drives behind it.
//!
//! Two channels answer at 1F0h-1F7h, 3F6h and at 170h-177h, 376h whatever the PCI command register and IDETIM say, and the
//! bus-master block (16 bytes at BAR4) at any other port. Sources: ATA/ATAPI-6 (T13 1410D), SFF-8020i, MMC-4, the *82371SB
//! Data Sheet* and *Programming Interface for Bus Master IDE Controller*, revision 1.0.
//!
//! Time: a command does its work when it is written, or for DMA at the next deadline; the drive then stays busy for about
//! two microseconds, and the interrupt comes when that time is over, never inside the write of the command (the drivers
//! of Windows NT and 2000 lose an interrupt that arrives so early). A guest that polls instead sees the drive busy once
//! and ready at its second look, however slow or fast time goes. A medium that takes its time keeps the drive busy as long as that; the
//! guest runs meanwhile.
//!
//! What the drives do is [`ata`](crate::ata)'s. Not implemented here: native mode, overlap and queueing.
//!
//! Invariant: what a guest can make a channel hold is bounded by the one buffer allocated when it was built, and by what a request of its
//! media may have of the guest's memory.

mod atapi;
mod busmaster;
mod channel;
mod command;
mod engine;
mod medium;
mod transfer;

#[cfg(test)]
mod tests;

use crate::ata::{CdromState, Drive};
use alloc::boxed::Box;
use channel::Channel;
use hv_core::backend::BlockBackend;
use hv_core::device::{AccessSize, DevCx, Device};
use hv_core::irq::IrqLine;
use hv_core::time::VmTime;

/// What the configuration space of the PCI function holds. 82371SB Data Sheet, "PCI Configuration Registers, IDE
/// Interface (Function 1)".
pub mod config {
    /// Intel.
    pub const VENDOR: u16 = 0x8086;
    /// 82371SB IDE.
    pub const DEVICE: u16 = 0x7010;
    /// Mass storage, IDE, bus master, both channels in compatibility mode.
    pub const CLASS: u32 = 0x01_01_80;
    /// The status register: fast back-to-back, medium DEVSEL.
    pub const STATUS: u16 = 0x0280;
    /// The interrupt pin: none, the channels use IRQ 14 and 15.
    pub const INTERRUPT_PIN: u8 = 0;
    /// Index of the only base address register: the bus-master block in I/O space. BAR0 to BAR3 read zero.
    pub const BUS_MASTER_BAR: u8 = 4;
    /// Length of the bus-master block in bytes.
    pub const BUS_MASTER_LEN: u16 = 16;
    /// IDE timing of the primary channel, 16 bits, all read/write (bit 15: decode enable; has no effect).
    pub const IDETIM_PRIMARY: u8 = 0x40;
    /// IDE timing of the secondary channel, as [`IDETIM_PRIMARY`].
    pub const IDETIM_SECONDARY: u8 = 0x42;
    /// Slave IDE timing, 8 bits, all read/write.
    pub const SIDETIM: u8 = 0x44;
}

/// The data port of each channel, the first of its task file.
const DATA: [u16; 2] = [0x1f0, 0x170];

/// Where an access goes.
enum Target {
    /// A register of a channel's task file, 0 to 7.
    Task(usize, u8),
    /// A channel's alternate status and device control register.
    Control(usize),
    /// A byte of the bus-master block of a channel, 0 to 7.
    BusMaster(usize, u8),
}

impl Target {
    fn decode(port: u16) -> Self {
        match port {
            0x1f0..=0x1f7 => Self::Task(0, (port & 7) as u8),
            0x170..=0x177 => Self::Task(1, (port & 7) as u8),
            0x3f6 => Self::Control(0),
            0x376 => Self::Control(1),
            _ => Self::BusMaster(usize::from(port >> 3 & 1), (port & 7) as u8),
        }
    }
}

/// The controller: the primary and the secondary channel.
pub struct Ide {
    channels: [Channel; 2],
}

impl Ide {
    /// A controller whose channels drive `irq14` and `irq15`, with `drives` as primary master, primary slave, secondary
    /// master and secondary slave.
    #[must_use]
    pub fn new(irq14: IrqLine, irq15: IrqLine, drives: [Option<Drive>; 4]) -> Self {
        let [a, b, c, d] = drives;
        Self {
            channels: [Channel::new(irq14, [a, b]), Channel::new(irq15, [c, d])],
        }
    }

    /// Changes the medium of the CD-ROM drive at `position` (0 to 3, as in [`Ide::new`]), closes its tray and returns the
    /// old medium. The guest is told of it with a unit attention condition. Where there is no such drive, `medium` is
    /// returned.
    pub fn change_medium(
        &mut self,
        position: usize,
        medium: Option<Box<dyn BlockBackend>>,
    ) -> Option<Box<dyn BlockBackend>> {
        match self.channels.get_mut(position / 2) {
            Some(channel) => channel.change_medium(position % 2, medium),
            None => medium,
        }
    }

    /// The CD-ROM drive at `position`; None: there is none.
    #[must_use]
    pub fn cdrom(&self, position: usize) -> Option<CdromState> {
        self.channels.get(position / 2)?.cdrom_state(position % 2)
    }

    fn read_byte(&mut self, cx: &mut DevCx<'_>, port: u16) -> u8 {
        match Target::decode(port) {
            Target::Task(c, reg) => self.channels[c].read(cx, reg),
            Target::Control(c) => self.channels[c].read_alternate_status(cx),
            Target::BusMaster(c, reg) => self.channels[c].read_bus_master(cx, reg),
        }
    }

    fn write_byte(&mut self, cx: &mut DevCx<'_>, port: u16, value: u8) {
        match Target::decode(port) {
            Target::Task(c, reg) => self.channels[c].write(cx, reg, value),
            Target::Control(c) => self.channels[c].write_control(cx, value),
            Target::BusMaster(c, reg) => self.channels[c].write_bus_master(cx, reg, value),
        }
    }

    /// The channel whose data port `port` is.
    fn data(&mut self, port: u16) -> Option<&mut Channel> {
        let [primary, secondary] = &mut self.channels;
        if port == DATA[0] {
            Some(primary)
        } else if port == DATA[1] {
            Some(secondary)
        } else {
            None
        }
    }
}

impl Device for Ide {
    fn name(&self) -> &'static str {
        "ide"
    }

    fn reset(&mut self, cx: &mut DevCx<'_>) {
        for channel in &mut self.channels {
            channel.power_on(cx.dma);
        }
    }

    fn poll(&mut self, cx: &mut DevCx<'_>) -> Option<VmTime> {
        let [primary, secondary] = &mut self.channels;
        match (primary.poll(cx), secondary.poll(cx)) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    fn port_read(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize) -> u32 {
        let mut v = [0; 4];
        if let Some(channel) = self.data(port) {
            // A byte read takes a whole word off the drive: old boot loaders of Solaris rely on it.
            let n = size.bytes().max(2);
            channel.read_data(cx, &mut v[..n], n);
            return u32::from_le_bytes(v) & size.ones();
        }
        for (i, b) in v[..size.bytes()].iter_mut().enumerate() {
            *b = self.read_byte(cx, port.wrapping_add(i as u16));
        }
        u32::from_le_bytes(v)
    }

    fn port_write(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize, value: u32) {
        let v = value.to_le_bytes();
        if let Some(channel) = self.data(port) {
            let n = size.bytes().max(2);
            channel.write_data(cx, &v[..n], n);
            return;
        }
        for (i, b) in v[..size.bytes()].iter().enumerate() {
            self.write_byte(cx, port.wrapping_add(i as u16), *b);
        }
    }

    fn port_read_block(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize, buf: &mut [u8]) {
        let n = size.bytes();
        if n > 1
            && let Some(channel) = self.data(port)
        {
            channel.read_data(cx, buf, n);
            return;
        }
        for chunk in buf.chunks_exact_mut(n) {
            let v = self.port_read(cx, port, size).to_le_bytes();
            chunk.copy_from_slice(&v[..n]);
        }
    }

    fn port_write_block(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize, buf: &[u8]) {
        let n = size.bytes();
        if n > 1
            && let Some(channel) = self.data(port)
        {
            channel.write_data(cx, buf, n);
            return;
        }
        for chunk in buf.chunks_exact(n) {
            let mut v = [0; 4];
            v[..n].copy_from_slice(chunk);
            self.port_write(cx, port, size, u32::from_le_bytes(v));
        }
    }
}
