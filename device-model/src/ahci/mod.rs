//! The AHCI controller of the ICH9 (82801IR), with ATA disks and ATAPI CD-ROM drives behind it. *Serial ATA Advanced Host Controller Interface
//! (AHCI) 1.3.1*; *Intel I/O Controller Hub 9 (ICH9) Family Datasheet* 14, "SATA Controller Registers (D31:F2)", for its identity.
//!
//! One PCI function with the registers behind base address register 5, which interrupts by a message or at its pin. Six ports with 32
//! commands each; a disk takes that many at a time (native command queueing) and ends them in any order. What the drives do is
//! [`ata`](crate::ata)'s. A medium moves data from and to the guest's memory by itself where it can.
//!
//! Not implemented: port multipliers, the index and data ports of the ICH9 and its IDE mode, staggered spin-up, hot plugging, power management
//! of the interface, command completion coalescing, enclosures, DMA setup with auto-activation, NCQ of more commands than READ and WRITE.
//!
//! Invariant: no list is looked at unless the function may be bus master and its port runs.

mod command;
mod end;
mod fis;
mod log;
mod port;
mod registers;
mod slot;
mod table;

#[cfg(test)]
mod tests;

use crate::ata::{CdromState, Drive};
use crate::pci::{Command, ConfigSpace, Identity, Intx, Msi, PciFunction};
use alloc::boxed::Box;
use hv_core::backend::BlockBackend;
use hv_core::device::{AccessSize, DevCx, Device, WindowId};
use hv_core::irq::{IrqLine, MsiLine};
use hv_core::machine::SATA_PORTS;
use hv_core::mem::{GuestMemory, Piece};
use hv_core::time::VmTime;
use port::{Port, SLOTS};
use registers::{Cap, Ghc, PORT, PORTS, VERSION, generic};

const IDENTITY: Identity = Identity {
    vendor: 0x8086,
    // ICH9 SATA with six ports in AHCI mode.
    device: 0x2922,
    // Mass storage, SATA, AHCI 1.0.
    class: 0x01_0601,
    revision: 2,
    subsystem: (0x1af4, 0x1100),
};
/// The base address register of the registers.
const BAR: u8 = 5;
/// Bytes of memory with the registers.
pub const MEMORY_LEN: u64 = 0x1000;
/// The most memory that a drive takes: its buffer, and the lists of its commands.
pub const DRIVE_MEMORY: usize = slot::BUFFER + SLOTS * slot::PIECES * 2 * size_of::<Piece>();

/// Bytes that a port moves during one call, at most, by a medium that does not let the guest run meanwhile.
const BUDGET: usize = 1 << 20;

/// What the function is given from outside.
pub struct Parts {
    /// The wire at its interrupt pin.
    pub line: IrqLine,
    /// The way of its messages.
    pub messages: MsiLine,
    /// Its window of [`MEMORY_LEN`] bytes of memory, as the bus has numbered it.
    pub window: WindowId,
}

/// The controller.
pub struct Ahci {
    config: ConfigSpace,
    intx: Intx,
    msi: Msi,
    ports: [Port; SATA_PORTS],
    ghc: Ghc,
    /// The ports that have interrupted.
    is: u32,
    /// Those of which a message has told.
    told: u32,
}

impl Ahci {
    /// A controller with `drives` at its ports.
    #[must_use]
    pub fn new(drives: [Option<Drive>; SATA_PORTS], parts: Parts) -> Self {
        let mut config = ConfigSpace::new(&IDENTITY).interrupt_pin(0).memory_bar(
            BAR,
            MEMORY_LEN as u32,
            false,
            parts.window,
        );
        let msi = Msi::new(&mut config, 0, parts.messages);
        let mut number = 0;
        let ports = drives.map(|drive| {
            number += 1;
            Port::new(number - 1, drive)
        });
        Self {
            config,
            intx: Intx::new(parts.line),
            msi,
            ports,
            ghc: Ghc::AE,
            is: 0,
            told: 0,
        }
    }

    /// Changes the medium of the CD-ROM drive at `port`, closes its tray and returns the old medium. The guest is told of it with a unit
    /// attention condition. Where there is no such drive, `medium` is returned.
    pub fn change_medium(
        &mut self,
        port: usize,
        medium: Option<Box<dyn BlockBackend>>,
    ) -> Option<Box<dyn BlockBackend>> {
        let Some(port) = self.ports.get_mut(port) else {
            return medium;
        };
        // A request under way goes on with the new medium, or fails.
        port.settle_medium();
        match &mut port.drive {
            Some(drive) => drive.change(medium),
            None => medium,
        }
    }

    /// The CD-ROM drive at `port`; None: there is none.
    #[must_use]
    pub fn cdrom(&self, port: usize) -> Option<CdromState> {
        self.ports.get(port)?.drive.as_ref()?.cdrom_state()
    }

    fn capabilities() -> u32 {
        let cap = Cap::PMD | Cap::SAM | Cap::ISS_GEN2 | Cap::SCLO | Cap::SNCQ | Cap::S64A;
        cap.bits() | (SLOTS as u32 - 1) << 8 | (SATA_PORTS as u32 - 1)
    }

    /// Back to the state after a reset by GHC.HR (AHCI 1.3.1 10.4.3, "HBA Reset").
    fn reset_hba(&mut self, memory: &dyn GuestMemory) {
        self.ports.iter_mut().for_each(|port| port.reset(memory));
        (self.ghc, self.is, self.told) = (Ghc::AE, 0, 0);
    }

    /// Lets the ports do what there is to be done.
    fn run(&mut self, cx: &mut DevCx<'_>) -> Option<VmTime> {
        let mut goes_on = false;
        if self.config.command().contains(Command::MASTER) {
            for port in &mut self.ports {
                let mut budget = BUDGET;
                port.run(cx.dma, &mut budget);
                goes_on |= budget == 0 && port.goes_on();
            }
        }
        self.settle();
        // Nobody tells that the budget is there again.
        goes_on.then_some(cx.now)
    }

    /// Interrupts, if there is something to tell.
    fn settle(&mut self) {
        for (n, port) in self.ports.iter().enumerate() {
            self.is |= u32::from(port.interrupts()) << n;
        }
        let level = self.ghc.contains(Ghc::IE) && self.is != 0;
        let messages = self.msi.enabled(&self.config);
        self.intx.set(&mut self.config, level && !messages);
        let told = if level { self.is } else { 0 };
        if messages && told & !self.told != 0 {
            self.msi.raise(&mut self.config, 0);
        }
        self.told = told;
    }

    fn read(&self, offset: u64) -> u32 {
        match offset {
            generic::CAP => Self::capabilities(),
            generic::GHC => self.ghc.bits(),
            generic::IS => self.is,
            generic::PI => (1 << SATA_PORTS) - 1,
            generic::VS => VERSION,
            _ => match self.ports.get(port_number(offset)) {
                Some(port) => port.read(offset % PORT),
                None => 0,
            },
        }
    }

    /// The bits of `mask` of a register are written.
    fn write(&mut self, cx: &mut DevCx<'_>, offset: u64, value: u32, mask: u32) {
        match offset {
            generic::GHC => {
                let value = Ghc::from_bits_truncate(self.ghc.bits() & !mask | value & mask);
                if value.contains(Ghc::HR) {
                    self.reset_hba(cx.dma);
                } else {
                    self.ghc = value & Ghc::IE | Ghc::AE;
                }
            }
            generic::IS => {
                self.is &= !(value & mask);
                // What is left is told once more (10.6.2.1, "Interrupt Aggregation", for messages).
                self.told = 0;
            }
            _ => {
                if let Some(port) = self.ports.get_mut(port_number(offset)) {
                    port.write(cx.dma, offset % PORT, value, mask);
                }
            }
        }
    }
}

/// The port whose register is at `offset`. One that there is not: it is no port's.
fn port_number(offset: u64) -> usize {
    match offset.checked_sub(PORTS) {
        Some(offset) => (offset / PORT) as usize,
        None => usize::MAX,
    }
}

impl Device for Ahci {
    fn name(&self) -> &'static str {
        "ahci"
    }

    fn reset(&mut self, cx: &mut DevCx<'_>) {
        self.ports.iter_mut().for_each(|port| port.power_on(cx.dma));
        (self.ghc, self.is, self.told) = (Ghc::AE, 0, 0);
        self.intx.set(&mut self.config, false);
        self.config.reset(cx.requests);
        self.intx.settle(&self.config);
    }

    fn poll(&mut self, cx: &mut DevCx<'_>) -> Option<VmTime> {
        self.run(cx)
    }

    fn mmio_read(
        &mut self,
        _cx: &mut DevCx<'_>,
        _window: WindowId,
        offset: u64,
        _size: usize,
    ) -> u64 {
        let at = offset & !3;
        let low = u64::from(self.read(at));
        let both = low | u64::from(self.read(at.wrapping_add(4))) << 32;
        both >> (8 * (offset & 3))
    }

    fn mmio_write(
        &mut self,
        cx: &mut DevCx<'_>,
        _window: WindowId,
        offset: u64,
        size: usize,
        value: u64,
    ) {
        let ones = u64::MAX >> (64 - 8 * size.clamp(1, 8));
        let shift = 8 * (offset & 3);
        let (value, mask) = (u128::from(value & ones) << shift, u128::from(ones) << shift);
        for n in 0..3 {
            let mask = (mask >> (32 * n)) as u32;
            if mask != 0 {
                let at = (offset & !3).wrapping_add(4 * n);
                self.write(cx, at, (value >> (32 * n)) as u32, mask);
            }
        }
        if let Some(next) = self.run(cx) {
            cx.requests.wake_at(next);
        }
    }
}

impl PciFunction for Ahci {
    fn config_read(&mut self, _cx: &mut DevCx<'_>, offset: u8, size: AccessSize) -> u32 {
        self.config.read(offset, size)
    }

    fn config_write(&mut self, cx: &mut DevCx<'_>, offset: u8, size: AccessSize, value: u32) {
        self.config.write(cx.requests, offset, size, value);
        self.intx.settle(&self.config);
        self.msi.settle(&mut self.config);
        // It may be bus master now.
        cx.requests.wake_at(cx.now);
    }

    fn config_reset(&mut self, cx: &mut DevCx<'_>) {
        self.reset(cx);
    }
}
