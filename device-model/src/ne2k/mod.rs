//! The network card: Realtek RTL8029AS, a DP8390 with NE2000 glue on PCI. Sources: *RTL8029AS Realtek PCI Full-Duplex
//! Ethernet Controller with built-in SRAM*; National Semiconductor *DP8390D/NS32490D NIC Network Interface Controller*.
//!
//! Thirty-two ports repeat through the 256 of BAR0: 00h-0Fh registers in four pages, 10h-17h the data port of the remote
//! DMA, 18h-1Fh reset. There are 32 KiB of packet memory at 4000h and the address PROM at 0.
//!
//! A frame is sent when the command is written. Received frames are taken from the [`NetBackend`] by
//! [`Device::poll`] and when the guest asks for more; one that finds the ring full is kept, not lost, so only loopback can
//! overflow the ring. `receive.rs` tells when frames come in. Whoever puts frames into the back end calls `poll`, or a poll
//! interval is set ([`Ne2k::poll_every`]).
//!
//! Not implemented: collisions and error counters, the FIFO register, the frame check sequence behind a received frame
//! (four zero bytes stand there), the EEPROM interface, sleep.
//!
//! Invariant: every access to the packet memory goes through `Memory`, which has no address that is out of bounds, and
//! nothing loops longer than a frame or a transfer is long, whatever the ring registers hold.

mod memory;
mod receive;
mod registers;
mod remote;

#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use hv_core::backend::NetBackend;
use hv_core::device::{AccessSize, DevCx, Device};
use hv_core::irq::IrqLine;
use hv_core::time::VmTime;
use memory::Memory;
use receive::{Pace, Stage};
use registers::Registers;

/// What the configuration space of the PCI function holds.
pub mod config {
    /// Realtek.
    pub const VENDOR: u16 = 0x10ec;
    /// RTL8029AS.
    pub const DEVICE: u16 = 0x8029;
    /// Ethernet controller.
    pub const CLASS: u32 = 0x02_00_00;
    /// The status register: medium DEVSEL.
    pub const STATUS: u16 = 0x0200;
    /// The interrupt pin: INTA.
    pub const INTERRUPT_PIN: u8 = 1;
    /// Length of base address register 0, in I/O space, in bytes.
    pub const BAR0_LEN: u16 = 256;
}

/// Ports that have a meaning of their own.
const PORTS: u16 = 0x20;
/// First port of the data port.
const DATA: u8 = 0x10;
/// First port that resets.
const RESET: u8 = 0x18;

/// The network card.
pub struct Ne2k {
    irq: IrqLine,
    net: Box<dyn NetBackend>,
    regs: Registers,
    memory: Memory,
    stage: Stage,
    pace: Pace,
    interval: Option<VmTime>,
}

impl Ne2k {
    /// A card with address `mac` that interrupts through `irq` and is connected to `net`.
    #[must_use]
    pub fn new(irq: IrqLine, mac: [u8; 6], net: Box<dyn NetBackend>) -> Self {
        Self {
            irq,
            net,
            regs: Registers::default(),
            memory: Memory::new(mac),
            stage: Stage::new(),
            pace: Pace::default(),
            interval: None,
        }
    }

    /// Has [`Device::poll`] look for received frames every `interval` while the card is running, or only when it is called
    /// for another reason.
    pub fn poll_every(&mut self, interval: Option<VmTime>) {
        self.interval = interval;
    }

    /// Drives the line by what is pending and enabled.
    fn update_irq(&self) {
        self.irq.set(self.regs.interrupt());
    }

    /// Sends the frame that TPSR and TBCR describe. DP8390D 8.0, "Packet Transmission"; 12.0, "Loopback
    /// Diagnostics".
    fn transmit(&mut self) {
        // What the length register allows but a wire does not is not sent, though the guest is told it was.
        if let Some(frame) = self
            .memory
            .frame(self.regs.transmit_page, self.regs.transmit_count)
        {
            if self.regs.loopback() {
                self.stage.load(frame);
                if !self.place_staged() {
                    self.regs.overflow();
                    self.stage.clear();
                }
            } else {
                self.net.send(frame);
            }
        }
        self.regs.transmitted();
    }

    fn read_byte(&mut self, port: u8) -> u8 {
        if port >= RESET {
            self.regs.soft_reset();
            self.update_irq();
            return 0;
        }
        self.regs.read(port)
    }

    fn write_byte(&mut self, cx: &mut DevCx<'_>, port: u8, value: u8) {
        if port >= RESET {
            return; // a write ends the reset, which is over already
        }
        let effect = self.regs.write(port, value);
        if effect.transmit {
            self.transmit();
        }
        if effect.remote {
            self.start_remote();
        }
        if effect.acknowledged {
            self.pace.acknowledged(cx.now);
        }
        if effect.boundary {
            self.pace
                .emptied(self.regs.ring_is_read().then_some(cx.now));
        }
        if effect.receive {
            self.receive(cx);
        }
        self.update_irq();
    }
}

impl Device for Ne2k {
    fn name(&self) -> &'static str {
        "ne2k"
    }

    fn reset(&mut self, _cx: &mut DevCx<'_>) {
        self.regs = Registers::default();
        self.memory.clear();
        self.stage.clear();
        self.pace = Pace::default();
        self.update_irq();
    }

    fn poll(&mut self, cx: &mut DevCx<'_>) -> Option<VmTime> {
        let again = self.receive(cx);
        self.update_irq();
        again
    }

    fn port_read(&mut self, _cx: &mut DevCx<'_>, port: u16, size: AccessSize) -> u32 {
        let mut v = [0xff; 4];
        let port = (port % PORTS) as u8;
        if (DATA..RESET).contains(&port) {
            self.read_data(&mut v, size);
        } else {
            for (i, b) in v[..size.bytes()].iter_mut().enumerate() {
                // Wide accesses do not reach from the registers into the data port.
                let p = port + i as u8;
                if !(DATA..RESET).contains(&p) {
                    *b = self.read_byte(p);
                }
            }
        }
        u32::from_le_bytes(v) & size.ones()
    }

    fn port_write(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize, value: u32) {
        let v = value.to_le_bytes();
        let port = (port % PORTS) as u8;
        if (DATA..RESET).contains(&port) {
            self.write_data(v, size);
        } else {
            for (i, b) in v[..size.bytes()].iter().enumerate() {
                let p = port + i as u8;
                if !(DATA..RESET).contains(&p) {
                    self.write_byte(cx, p, *b);
                }
            }
        }
    }

    fn port_read_block(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize, buf: &mut [u8]) {
        if (DATA..RESET).contains(&((port % PORTS) as u8)) && self.moves_whole(size) {
            self.read_stream(buf);
            return;
        }
        for chunk in buf.chunks_exact_mut(size.bytes()) {
            let v = self.port_read(cx, port, size).to_le_bytes();
            chunk.copy_from_slice(&v[..size.bytes()]);
        }
    }

    fn port_write_block(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize, buf: &[u8]) {
        if (DATA..RESET).contains(&((port % PORTS) as u8)) && self.moves_whole(size) {
            self.write_stream(buf);
            return;
        }
        for chunk in buf.chunks_exact(size.bytes()) {
            let mut v = [0; 4];
            v[..chunk.len()].copy_from_slice(chunk);
            self.port_write(cx, port, size, u32::from_le_bytes(v));
        }
    }
}
