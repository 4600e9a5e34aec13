//! One IDE channel: two drives on a cable, their registers, the interrupt line, and the channel's half of the bus master.
//! ATA/ATAPI-6 6 to 9.
//!
//! A command that is over, or that has a data block ready, keeps the drive *busy* until its deadline or until the guest
//! looks at the status for the second time. Then the interrupt rises. So a guest that waits for interrupts gets them late
//! enough, one that polls does not depend on time, and a single read of the status right after a command (the 400 ns delay
//! of many drivers) does not eat the interrupt.
//!
//! A position without a drive reads zeroes, except for the device register, which is the channel's; a channel without
//! drives reads zeroes everywhere.

use super::busmaster::BusMaster;
use super::transfer::{BUFFER, Phase, Transfer};
use crate::ata::{
    CdromState, DEVICE_RESET, DIAGNOSTICS_PASSED, Drive, EXECUTE_DEVICE_DIAGNOSTIC, Error, Status,
    TaskFile,
};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use bitflags::bitflags;
use hv_core::backend::{BlockBackend, BlockDone};
use hv_core::device::DevCx;
use hv_core::irq::IrqLine;
use hv_core::mem::{GuestMemory, Piece};
use hv_core::time::VmTime;

/// How long a command or a data block takes.
const COMMAND_DELAY: VmTime = VmTime::from_micros(2);
/// How long the virtual CPU runs between two steps of a long DMA transfer.
pub(super) const STEP_DELAY: VmTime = VmTime::from_micros(1);

/// Task-file registers: name when read, name when written. ATA/ATAPI-6 7.
pub(super) mod reg {
    /// Error, features.
    pub(in super::super) const ERROR: u8 = 1;
    /// Sector count, interrupt reason.
    pub(in super::super) const COUNT: u8 = 2;
    /// LBA low.
    pub(in super::super) const LBA_LOW: u8 = 3;
    /// LBA high, byte count high.
    pub(in super::super) const LBA_HIGH: u8 = 5;
    /// Device.
    pub(in super::super) const DEVICE: u8 = 6;
    /// Status, command.
    pub(in super::super) const STATUS: u8 = 7;
}

/// The device register's bits that read as one.
const DEVICE_ONES: u8 = 0xa0;
/// The device register's bit that selects drive 1.
const DEVICE_SELECT: u8 = 0x10;

bitflags! {
    /// The device control register. ATA/ATAPI-6 7.8, "Device control register".
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    struct Control: u8 {
        /// The interrupt line is not driven.
        const NIEN = 1 << 1;
        /// Both drives are held in reset.
        const SRST = 1 << 2;
        /// Reads show the previous content of the two-deep registers.
        const HOB = 1 << 7;
    }
}

/// What keeps the active drive busy.
#[derive(Clone, Copy, Debug)]
struct Busy {
    until: VmTime,
    /// The guest has seen it busy once.
    seen: bool,
}

/// A channel.
pub(super) struct Channel {
    pub(super) drives: [Option<Drive>; 2],
    pub(super) regs: [TaskFile; 2],
    pub(super) device: u8,
    control: Control,
    /// The drive that the last command was for.
    active: usize,
    pub(super) transfer: Option<Transfer>,
    /// The drive whose medium has been asked for something and has not answered yet. It has the buffer, or the list of pieces.
    pub(super) waiting: Option<usize>,
    /// Its answer, if it was waited for.
    pub(super) answer: Option<BlockDone>,
    busy: Option<Busy>,
    pub(super) bm: BusMaster,
    pub(super) buf: Box<[u8]>,
    /// Room for the list of the guest's memory that a medium is given.
    pub(super) pieces: Vec<Piece>,
    /// The drive wants its interrupt served.
    intrq: bool,
    /// The level of the line: `intrq` unless disabled.
    pin: bool,
    irq: IrqLine,
}

impl Channel {
    pub(super) fn new(irq: IrqLine, drives: [Option<Drive>; 2]) -> Self {
        let mut channel = Self {
            drives,
            regs: Default::default(),
            device: 0,
            control: Control::default(),
            active: 0,
            transfer: None,
            waiting: None,
            answer: None,
            busy: None,
            bm: BusMaster::default(),
            buf: vec![0; BUFFER].into_boxed_slice(),
            pieces: Vec::new(),
            intrq: false,
            pin: false,
            irq,
        };
        channel.show_reset();
        channel
    }

    /// Back to the power-on state.
    pub(super) fn power_on(&mut self, dma: &dyn GuestMemory) {
        self.control = Control::default();
        self.bm = BusMaster::default();
        self.drives.iter_mut().flatten().for_each(Drive::power_on);
        self.reset_drives(dma);
    }

    /// What SRST and EXECUTE DEVICE DIAGNOSTIC do with both drives. ATA/ATAPI-6 9.12, "Signature and persistence".
    pub(super) fn reset_drives(&mut self, dma: &dyn GuestMemory) {
        self.drop_transfer(dma);
        self.show_reset();
    }

    fn show_reset(&mut self) {
        self.busy = None;
        self.device = 0;
        self.set_intrq(false);
        for position in 0..2 {
            self.reset_drive(position);
        }
    }

    fn reset_drive(&mut self, position: usize) {
        let Some(drive) = &self.drives[position] else {
            return;
        };
        let regs = &mut self.regs[position];
        regs.error = DIAGNOSTICS_PASSED;
        regs.set_signature(drive.is_cdrom());
        regs.status = if drive.is_cdrom() {
            Status::empty()
        } else {
            Status::IDLE
        };
    }

    /// DEVICE RESET: the selected packet drive drops what it does. ATA/ATAPI-6 8.7, "DEVICE RESET".
    pub(super) fn device_reset(&mut self, cx: &mut DevCx<'_>) {
        let position = self.selected();
        if self.active == position {
            self.drop_transfer(cx.dma);
            self.busy = None;
            self.set_intrq(false);
        }
        self.device &= DEVICE_SELECT;
        self.reset_drive(position);
    }

    pub(super) fn change_medium(
        &mut self,
        position: usize,
        medium: Option<Box<dyn BlockBackend>>,
    ) -> Option<Box<dyn BlockBackend>> {
        // A request under way goes on with the new medium, or fails.
        self.settle_medium(position);
        match &mut self.drives[position & 1] {
            Some(drive) => drive.change(medium),
            None => medium,
        }
    }

    /// The CD-ROM drive at `position` (0 or 1), if there is one.
    pub(super) fn cdrom_state(&self, position: usize) -> Option<CdromState> {
        self.drives[position & 1].as_ref()?.cdrom_state()
    }

    /// The selected drive, 0 or 1.
    pub(super) fn selected(&self) -> usize {
        usize::from(self.device & DEVICE_SELECT != 0)
    }

    /// The active drive has something to show: it is busy for a little while, then its interrupt comes.
    pub(super) fn arm(&mut self, cx: &mut DevCx<'_>) {
        self.arm_in(cx, COMMAND_DELAY);
    }

    pub(super) fn arm_in(&mut self, cx: &mut DevCx<'_>, delay: VmTime) {
        let until = cx.now + delay;
        self.busy = Some(Busy { until, seen: false });
        cx.requests.wake_at(until);
    }

    /// Ends the time the drive is busy: DMA moves on, or the interrupt rises. `acknowledged`: by a read of the status, which
    /// takes the interrupt back before the line has moved.
    pub(super) fn settle(&mut self, cx: &mut DevCx<'_>, acknowledged: bool) {
        if self.busy.take().is_none() {
            return;
        }
        let dma =
            matches!(&self.transfer, Some(t) if matches!(t.phase, Phase::DmaIn | Phase::DmaOut));
        if dma && !self.advance_dma(cx) {
            return;
        }
        // An interrupt has an edge of its own even if the last one has not been acknowledged.
        self.set_intrq(false);
        if !acknowledged {
            self.set_intrq(true);
        } else if !self.control.contains(Control::NIEN) {
            self.bm.latch_interrupt();
        }
    }

    /// The guest looks at the drive's state; `acknowledging` as in [`settle`](Self::settle).
    fn look(&mut self, cx: &mut DevCx<'_>, acknowledging: bool) {
        if let Some(busy) = &mut self.busy {
            if busy.seen || cx.now >= busy.until {
                self.settle(cx, acknowledging);
            } else {
                busy.seen = true;
            }
        }
    }

    /// What the medium was waited for is there: DMA goes on.
    pub(super) fn go_on(&mut self, cx: &mut DevCx<'_>) {
        self.busy = Some(Busy {
            until: cx.now,
            seen: true,
        });
        self.settle(cx, false);
    }

    pub(super) fn poll(&mut self, cx: &mut DevCx<'_>) -> Option<VmTime> {
        self.check_medium(cx);
        if self.busy.is_some_and(|b| cx.now >= b.until) {
            self.settle(cx, false);
        }
        self.busy.map(|b| b.until)
    }

    fn set_intrq(&mut self, level: bool) {
        self.intrq = level;
        self.drive_pin();
    }

    fn drive_pin(&mut self) {
        let level = self.intrq && !self.control.contains(Control::NIEN);
        if level != self.pin {
            self.pin = level;
            if level {
                self.bm.latch_interrupt();
            }
            self.irq.set(level);
        }
    }

    fn empty(&self) -> bool {
        self.drives.iter().all(Option::is_none)
    }

    fn status(&mut self, cx: &mut DevCx<'_>, acknowledging: bool) -> Status {
        let position = self.selected();
        if self.drives[position].is_none() {
            return Status::empty();
        }
        if self.control.contains(Control::SRST) {
            return Status::BSY;
        }
        self.check_medium(cx);
        self.look(cx, acknowledging);
        if self.busy.is_some() && self.active == position {
            Status::WORKING
        } else {
            self.regs[position].status
        }
    }

    /// Reads task-file register 1 to 7.
    pub(super) fn read(&mut self, cx: &mut DevCx<'_>, register: u8) -> u8 {
        let position = self.selected();
        if register == reg::DEVICE {
            return if self.empty() {
                0
            } else {
                self.device | DEVICE_ONES
            };
        }
        if self.drives[position].is_none() {
            return 0;
        }
        let previous = self.control.contains(Control::HOB);
        let regs = &self.regs[position];
        match register {
            reg::ERROR => regs.error,
            reg::COUNT => regs.count.read(previous),
            reg::LBA_LOW..=reg::LBA_HIGH => {
                regs.lba[usize::from(register - reg::LBA_LOW)].read(previous)
            }
            reg::STATUS => {
                let status = self.status(cx, true);
                if !status.contains(Status::BSY) {
                    self.set_intrq(false);
                }
                status.bits()
            }
            _ => 0,
        }
    }

    /// The status without acknowledging the interrupt.
    pub(super) fn read_alternate_status(&mut self, cx: &mut DevCx<'_>) -> u8 {
        self.status(cx, false).bits()
    }

    /// Writes task-file register 1 to 7. Both drives take all but commands.
    pub(super) fn write(&mut self, cx: &mut DevCx<'_>, register: u8, value: u8) {
        self.control.remove(Control::HOB);
        match register {
            reg::ERROR => self.regs.iter_mut().for_each(|r| r.features.write(value)),
            reg::COUNT => self.regs.iter_mut().for_each(|r| r.count.write(value)),
            reg::LBA_LOW..=reg::LBA_HIGH => {
                let i = usize::from(register - reg::LBA_LOW);
                self.regs.iter_mut().for_each(|r| r.lba[i].write(value));
            }
            reg::DEVICE => self.device = value,
            reg::STATUS => self.command(cx, value),
            _ => {}
        }
    }

    /// Writes the device control register.
    pub(super) fn write_control(&mut self, cx: &mut DevCx<'_>, value: u8) {
        let was = self.control;
        self.control = Control::from_bits_truncate(value);
        if self.control.contains(Control::SRST) && !was.contains(Control::SRST) {
            self.reset_drives(cx.dma);
        }
        self.drive_pin();
    }

    /// Reads byte `register` (0 to 7) of the channel's half of the bus-master block.
    pub(super) fn read_bus_master(&mut self, cx: &mut DevCx<'_>, register: u8) -> u8 {
        if self.bm.active() {
            self.look(cx, false);
        }
        self.bm.read(register)
    }

    /// Writes byte `register` (0 to 7) of the channel's half of the bus-master block.
    pub(super) fn write_bus_master(&mut self, cx: &mut DevCx<'_>, register: u8, value: u8) {
        let started = self.bm.write(register, value);
        let waiting =
            matches!(&self.transfer, Some(t) if matches!(t.phase, Phase::DmaIn | Phase::DmaOut));
        if started && waiting && self.busy.is_none() {
            self.start_dma(cx);
        }
    }

    /// The selected drive is given a command.
    fn command(&mut self, cx: &mut DevCx<'_>, command: u8) {
        let position = self.selected();
        if self.control.contains(Control::SRST) || self.empty() {
            return;
        }
        if command == EXECUTE_DEVICE_DIAGNOSTIC && !self.transferring(position) {
            self.reset_drives(cx.dma);
            self.active = 0;
            self.arm(cx);
            return;
        }
        let Some(drive) = &self.drives[position] else {
            return;
        };
        let cdrom = drive.is_cdrom();
        if self.transferring(position) && !(cdrom && command == DEVICE_RESET) {
            return;
        }
        // Whatever the other drive was at is lost: only one of them can use the channel.
        if let Some(other) = self
            .transfer
            .as_ref()
            .map(|t| t.drive)
            .filter(|&d| d != position)
        {
            self.drop_transfer(cx.dma);
            self.regs[other].status = Status::IDLE;
        }
        if self.active != position || self.transfer.is_none() {
            self.busy = None;
        }
        self.set_intrq(false);
        self.active = position;
        self.carry_out(cx, command);
    }

    fn transferring(&self, position: usize) -> bool {
        self.transfer.as_ref().is_some_and(|t| t.drive == position)
    }

    /// A command without data has succeeded.
    pub(super) fn succeed(&mut self, cx: &mut DevCx<'_>) {
        let regs = &mut self.regs[self.active];
        regs.status = Status::IDLE;
        regs.error = 0;
        self.arm(cx);
    }

    /// A command has failed with `error`.
    pub(super) fn fail(&mut self, cx: &mut DevCx<'_>, error: Error) {
        let regs = &mut self.regs[self.active];
        regs.status = Status::DRDY | Status::ERR;
        regs.error = error.bits();
        self.arm(cx);
    }
}
