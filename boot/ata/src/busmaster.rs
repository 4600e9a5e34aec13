//! DMA by the controller's bus master. *Programming Interface for Bus Master IDE Controller*, 2, "Bus Master IDE Register
//! Description", and 3, "Operation".
//!
//! The descriptors describe exactly the data of the command, so that the end is told by the drive being idle and the engine not
//! active: status "interrupt 0, active 0" would be "interrupt 1, active 0" if the drive's interrupt were on.

use crate::channel::Channel;
use crate::command::Direction;
use crate::fault::Fault;
use crate::host::{DmaBuffer, Host};
use crate::registers::Status;
use bitflags::bitflags;
use core::hint::spin_loop;

/// Offset of the command register.
const COMMAND: u16 = 0;
/// Offset of the status register.
const STATUS: u16 = 2;
/// Offset of the descriptor table pointer.
const TABLE: u16 = 4;

bitflags! {
    /// The command register.
    #[derive(Clone, Copy)]
    struct BmCommand: u8 {
        /// Start.
        const START = 1 << 0;
        /// The transfer goes to memory.
        const TO_MEMORY = 1 << 3;
    }

    /// The status register.
    #[derive(Clone, Copy)]
    struct BmStatus: u8 {
        /// The engine is started and has not come to the end of the table.
        const ACTIVE = 1 << 0;
        /// Memory did not answer. Write 1 to clear.
        const ERROR = 1 << 1;
        /// The drive has raised its interrupt. Write 1 to clear.
        const INTERRUPT = 1 << 2;
        /// Notes of the firmware, which are to be kept.
        const DRIVES = 3 << 5;
    }
}

/// Microseconds that the engine may go on after the drive is done: the controller's buffer has to be emptied.
const DRAIN_LIMIT: u64 = 100_000;

impl<H: Host> Channel<H> {
    fn bus_master(&self, register: u16) -> Option<u16> {
        Some(self.at.bus_master?.wrapping_add(register))
    }

    /// Stops the engine, whatever it is at.
    pub(crate) fn stop_bus_master(&mut self) {
        if let Some(port) = self.bus_master(COMMAND) {
            self.host.out8(port, 0);
        }
    }

    /// Makes the engine ready for `bytes` bytes of `buffer`, before the drive gets its command.
    pub(crate) fn prepare_dma(&mut self, buffer: &DmaBuffer, bytes: usize) -> Result<(), Fault> {
        let ports = [COMMAND, STATUS, TABLE].map(|r| self.bus_master(r));
        let ([Some(command), Some(status), Some(pointer)], Some(table)) =
            (ports, buffer.describe(bytes))
        else {
            return Err(Fault::Protocol("no bus master for so much"));
        };
        self.host.out8(command, 0);
        self.host.out32(pointer, table);
        let kept = BmStatus::from_bits_truncate(self.host.in8(status)) & BmStatus::DRIVES;
        let clear = BmStatus::ERROR | BmStatus::INTERRUPT;
        self.host.out8(status, (kept | clear).bits());
        Ok(())
    }

    /// Starts the engine after the drive has got its command, and waits for at most `limit` microseconds until both are done.
    pub(crate) fn run_dma(&mut self, direction: Direction, limit: u64) -> Result<(), Fault> {
        let (Some(command), Some(status)) = (self.bus_master(COMMAND), self.bus_master(STATUS))
        else {
            return Err(Fault::Protocol("no bus master"));
        };
        let way = match direction {
            Direction::In => BmCommand::TO_MEMORY,
            Direction::Out => BmCommand::empty(),
        };
        // The direction is not to change while the engine runs.
        self.host.out8(command, way.bits());
        self.host.out8(command, (way | BmCommand::START).bits());
        let result = self.wait_dma(status, limit);
        self.host.out8(command, way.bits());
        result
    }

    fn wait_dma(&mut self, status: u16, limit: u64) -> Result<(), Fault> {
        let start = self.host.now();
        let mut idle = None;
        loop {
            let engine = self.host.in8(status);
            let flags = BmStatus::from_bits_truncate(engine);
            let drive = self.status();
            let now = self.host.now();
            if !drive.contains(Status::BSY) {
                self.check(drive)?;
            }
            if flags.contains(BmStatus::ERROR) {
                return Err(Fault::BusMaster(engine));
            }
            if !drive.intersects(Status::BSY | Status::DRQ) {
                if !flags.contains(BmStatus::ACTIVE) {
                    return Ok(());
                }
                if now.wrapping_sub(*idle.get_or_insert(now)) > DRAIN_LIMIT {
                    return Err(Fault::BusMaster(engine));
                }
            }
            if now.wrapping_sub(start) > limit {
                return Err(Fault::TimeOut(drive));
            }
            spin_loop();
        }
    }
}
