//! A channel: two drives at one set of registers. Selection, waiting, reset, commands without data and with data by PIO.
//! ATA/ATAPI-6 9, "Protocol".
//!
//! One command at a time: when a function returns, the drive is idle or has to be reset. The drives' interrupt stays off (nIEN),
//! so that a bus master's interrupt bit never comes up either.

use crate::command::{Command, SET_TRANSFER_MODE, select};
use crate::fault::Fault;
use crate::host::Host;
use crate::pieces::SECTOR;
use crate::registers::{Control, DEVICE_ONES, Error, FLOATING, Status, reg};
use core::hint::spin_loop;

/// Microseconds within which a drive ends a command or has its next data: a disk may have to spin up.
pub(crate) const COMMAND_LIMIT: u64 = 10_000_000;
/// Microseconds for a cache flush. ATA/ATAPI-6 8.12: it may take longer than 30 seconds; then it is an error here.
pub(crate) const FLUSH_LIMIT: u64 = 30_000_000;
/// Microseconds that a reset may take. The standard allows 31 seconds, for drives that have to spin up first; ours have.
const RESET_LIMIT: u64 = 10_000_000;
/// Microseconds for which SRST is set at least (5), and between its end and the first look at the status (2 ms). ATA/ATAPI-6
/// 9.2, "Software reset protocol".
const RESET_PULSE: u64 = 10;
const RESET_PAUSE: u64 = 2_000;

/// Where a channel's registers are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Location {
    /// The first port of the command block.
    pub command: u16,
    /// The port of the device control register.
    pub control: u16,
    /// The first port of the channel's half of the bus-master block, if there is one.
    pub bus_master: Option<u16>,
}

/// A channel.
pub(crate) struct Channel<H> {
    pub(crate) host: H,
    pub(crate) at: Location,
    /// Which drives may be there.
    pub(crate) present: [bool; 2],
    /// Transfer modes that the driver has selected, to be selected again after a reset.
    pub(crate) modes: [Option<u8>; 2],
}

impl<H: Host> Channel<H> {
    pub(crate) fn new(host: H, at: Location) -> Self {
        Self {
            host,
            at,
            present: [true; 2],
            modes: [None; 2],
        }
    }

    pub(crate) fn read(&mut self, register: u16) -> u8 {
        self.host.in8(self.at.command.wrapping_add(register))
    }

    pub(crate) fn write(&mut self, register: u16, value: u8) {
        self.host
            .out8(self.at.command.wrapping_add(register), value);
    }

    pub(crate) fn status(&mut self) -> Status {
        Status::from_bits_retain(self.read(reg::STATUS))
    }

    /// Lets `micros` pass.
    pub(crate) fn pause(&mut self, micros: u64) {
        let start = self.host.now();
        while self.host.now().wrapping_sub(start) <= micros {
            spin_loop();
        }
    }

    /// The 400 ns that a drive has to show BSY after a command or a selection: four reads of the alternate status.
    pub(crate) fn settle(&mut self) {
        for _ in 0..4 {
            self.host.in8(self.at.control);
        }
    }

    /// Waits for at most `limit` microseconds until the drive is not busy and its status is one to `accept`.
    pub(crate) fn wait(
        &mut self,
        limit: u64,
        accept: impl Fn(Status) -> bool,
    ) -> Result<Status, Fault> {
        let start = self.host.now();
        loop {
            let status = self.status();
            if !status.contains(Status::BSY) && accept(status) {
                return Ok(status);
            }
            if self.host.now().wrapping_sub(start) > limit {
                return Err(Fault::TimeOut(status));
            }
            spin_loop();
        }
    }

    /// An error if `status` is one.
    pub(crate) fn check(&mut self, status: Status) -> Result<(), Fault> {
        if status.intersects(Status::FAILED) {
            let error = Error::from_bits_retain(self.read(reg::ERROR));
            return Err(Fault::Drive(status, error));
        }
        Ok(())
    }

    /// Selects drive `position` and waits until it can take a command; disks show that with DRDY as `ready`.
    pub(crate) fn select(&mut self, device: u8, ready: Status) -> Result<(), Fault> {
        self.write(reg::DEVICE, device);
        self.settle();
        let idle = |s: Status| s.contains(ready) && !s.contains(Status::DRQ);
        self.wait(COMMAND_LIMIT, idle).map(drop)
    }

    /// Gives drive `position` a command.
    pub(crate) fn issue(
        &mut self,
        position: u8,
        command: &Command,
        ready: Status,
    ) -> Result<(), Fault> {
        self.select(command.device(position), ready)?;
        for (register, value) in command.writes() {
            self.write(register, value);
        }
        self.settle();
        Ok(())
    }

    /// A command without data, which ends within `limit` microseconds.
    pub(crate) fn command(
        &mut self,
        position: u8,
        command: &Command,
        ready: Status,
        limit: u64,
    ) -> Result<(), Fault> {
        self.issue(position, command, ready)?;
        let status = self.wait(limit, |_| true)?;
        self.check(status)
    }

    /// Waits until the drive wants a data block moved.
    pub(crate) fn wait_data(&mut self) -> Result<(), Fault> {
        let status = self.wait(COMMAND_LIMIT, |s| {
            s.intersects(Status::DRQ | Status::FAILED)
        })?;
        // A drive may offer the bad data too; they are not taken.
        self.check(status)
    }

    /// Waits for the end of a command whose data have been moved.
    pub(crate) fn wait_end(&mut self) -> Result<(), Fault> {
        self.settle();
        let status = self.wait(COMMAND_LIMIT, |_| true)?;
        self.check(status)?;
        if status.contains(Status::DRQ) {
            return Err(Fault::Protocol("more data than the command has"));
        }
        Ok(())
    }

    /// Reads whole sectors with `command`, which has one of them in a data block. ATA/ATAPI-6 9.5, "PIO data-in command protocol".
    pub(crate) fn pio_in(
        &mut self,
        position: u8,
        command: &Command,
        buf: &mut [u8],
    ) -> Result<(), Fault> {
        self.issue(position, command, Status::DRDY)?;
        self.take_sectors(buf)
    }

    /// Takes the data of a command that was issued.
    pub(crate) fn take_sectors(&mut self, buf: &mut [u8]) -> Result<(), Fault> {
        for sector in buf.chunks_exact_mut(SECTOR) {
            self.wait_data()?;
            self.host.in16s(self.at.command, sector);
        }
        self.wait_end()
    }

    /// Writes whole sectors with `command`. ATA/ATAPI-6 9.6, "PIO data-out command protocol".
    pub(crate) fn pio_out(
        &mut self,
        position: u8,
        command: &Command,
        buf: &[u8],
    ) -> Result<(), Fault> {
        self.issue(position, command, Status::DRDY)?;
        for sector in buf.chunks_exact(SECTOR) {
            self.wait_data()?;
            self.host.out16s(self.at.command, sector);
            self.settle();
        }
        self.wait_end()
    }

    /// Resets both drives, and turns their interrupt off. One that stays busy is from then on as if it were not there. ATA/ATAPI-6
    /// 9.2, "Software reset protocol".
    pub(crate) fn reset(&mut self) {
        self.stop_bus_master();
        let control = self.at.control;
        self.host
            .out8(control, (Control::NIEN | Control::SRST).bits());
        self.pause(RESET_PULSE);
        self.host.out8(control, Control::NIEN.bits());
        self.pause(RESET_PAUSE);
        for position in 0..2 {
            if self.present[position] {
                self.write(reg::DEVICE, DEVICE_ONES | select(position as u8));
                self.settle();
                self.present[position] = self.wait(RESET_LIMIT, |_| true).is_ok();
            }
        }
        for position in 0..2 {
            if let Some(mode) = self.modes[position].filter(|_| self.present[position]) {
                // If it fails, so will DMA.
                let _ = self.set_mode(position as u8, mode);
            }
        }
    }

    /// Resets packet drive `position` alone. ATA/ATAPI-6 8.7, "DEVICE RESET".
    pub(crate) fn reset_packet_drive(&mut self, position: u8) -> Result<(), Fault> {
        self.stop_bus_master();
        self.write(reg::DEVICE, DEVICE_ONES | select(position));
        self.settle();
        // The one command that a busy drive takes.
        self.write(reg::STATUS, crate::command::op::DEVICE_RESET);
        self.settle();
        self.wait(RESET_LIMIT, |s| !s.contains(Status::DRQ))
            .map(drop)
    }

    /// Selects the drive's transfer mode. ATA/ATAPI-6 8.46.11, "Set transfer mode".
    pub(crate) fn set_mode(&mut self, position: u8, mode: u8) -> Result<(), Fault> {
        let command = Command::set_features(SET_TRANSFER_MODE, mode);
        self.command(position, &command, Status::empty(), COMMAND_LIMIT)
    }

    /// Whether something answers for drive `position`: two registers keep what is written to them. A drive that answers for a
    /// missing other one deceives this; its IDENTIFY then tells.
    pub(crate) fn answers(&mut self, position: u8) -> bool {
        self.write(reg::DEVICE, DEVICE_ONES | select(position));
        self.settle();
        let status = self.status();
        if status.bits() == FLOATING {
            return false;
        }
        // In the middle of a command, which firmware may have left, registers need not take what is written.
        if status.intersects(Status::BSY | Status::DRQ) {
            return true;
        }
        for (one, other) in [(0xaa, 0x55), (0x55, 0xaa)] {
            self.write(reg::COUNT, one);
            self.write(reg::LBA_LOW, other);
        }
        self.read(reg::COUNT) == 0x55 && self.read(reg::LBA_LOW) == 0xaa
    }
}
