//! Commands: from the list to the drive, and on as the medium does what it is asked. AHCI 1.3.1 5, "Data Transfer Operation"; Serial ATA
//! 2.6 13.6, "Native Command Queuing".
//!
//! A drive has one command that is not queued, or up to 32 that are. One that fails ends the queue: the medium's other requests are waited
//! for, and their commands never end, until software has stopped the port; then the log says which it was.

use super::fis::{self, HostToDevice, SRST};
use super::log::{self, NCQ_ERROR, QueueError, READ_LOG_EXT};
use super::port::{Port, SLOTS};
use super::registers::{Interrupts, PortCmd};
use super::slot::{Failure, Next, Protocol, Work};
use super::table::Header;
use crate::ata::{
    Access, Addressing, Attached, EXECUTE_DEVICE_DIAGNOSTIC, Error, Kind, Outcome, PACKET_LEN,
    Registers, Reply, SECTORS_PER_BLOCK, Span, Status,
};
use hv_core::backend::BlockDone;
use hv_core::mem::GuestMemory;

/// READ FPDMA QUEUED and WRITE FPDMA QUEUED.
const READ_QUEUED: u8 = 0x60;
const WRITE_QUEUED: u8 = 0x61;
/// Their device register's bit for forced unit access.
const FUA: u8 = 1 << 7;

/// What a command costs of the bytes that may be moved during a call, besides its data.
const COST: usize = 1 << 10;

impl Port {
    /// Does what there is to be done. `budget` bytes may be moved by a medium that does not let the guest run meanwhile.
    pub(super) fn run(&mut self, memory: &dyn GuestMemory, budget: &mut usize) {
        while let Some(done) = self.finish(false) {
            let tag = usize::from(done.0.tag);
            self.answered(memory, budget, done);
            self.advance(memory, budget, tag);
        }
        let mut waiting = core::mem::take(&mut self.waiting);
        while waiting != 0 {
            let slot = waiting.trailing_zeros() as usize;
            waiting &= waiting - 1;
            self.advance(memory, budget, slot);
        }
        while self.waiting == 0
            && *budget != 0
            && let Some(slot) = self.next_issued()
        {
            *budget = budget.saturating_sub(COST);
            self.fetch(memory, budget, slot);
        }
        self.tell_done(memory);
    }

    /// Whether more could be done at once, but for the budget.
    pub(super) fn goes_on(&self) -> bool {
        self.waiting != 0 && self.begun == 0 || self.next_issued().is_some()
    }

    /// The next command to be sent: those that were issued have their turn round.
    fn next_issued(&self) -> Option<usize> {
        let runs = self.cmd.contains(PortCmd::ST) && !self.halted && self.busy.is_none();
        let issued = self.ci & !self.taken;
        if !runs || issued == 0 || self.slots.is_empty() {
            return None;
        }
        let first = (self.current + 1) % SLOTS;
        let turn = issued.rotate_right(first as u32).trailing_zeros() as usize;
        Some((first + turn) % SLOTS)
    }

    /// Something without which nothing can go on: the port stops (6.1, "Error Types").
    pub(super) fn stop_fatally(&mut self, memory: &dyn GuestMemory, why: Interrupts) {
        self.is |= why;
        self.halted = true;
        self.drop_all(memory);
    }

    /// Sends the command in `slot` to the drive.
    fn fetch(&mut self, memory: &dyn GuestMemory, budget: &mut usize, slot: usize) {
        self.taken |= 1 << slot;
        self.current = slot;
        let mut bytes = [0; fis::LEN];
        let header = Header::read(memory, self.list, slot)
            .and_then(|header| header.fis(memory, &mut bytes).map(|()| header));
        let Ok(header) = header else {
            return self.stop_fatally(memory, Interrupts::HBFS);
        };
        let Some(fis) = HostToDevice::of(bytes) else {
            return self.stop_fatally(memory, Interrupts::IFS);
        };
        let disk = self.drive.as_ref().is_some_and(|drive| !drive.is_cdrom());
        match fis.command() {
            None => self.write_device_control(memory, &fis, slot),
            Some(command @ (READ_QUEUED | WRITE_QUEUED)) if disk => {
                let write = command == WRITE_QUEUED;
                self.queue(memory, budget, (slot, header), &fis, write);
            }
            Some(command) => self.send(memory, budget, (slot, header), &fis, command),
        }
    }

    /// The drive's device control register is written. A software reset begins when SRST is set, and is over when it is cleared.
    fn write_device_control(&mut self, memory: &dyn GuestMemory, fis: &HostToDevice, slot: usize) {
        self.ci &= !(1 << slot);
        self.taken &= !(1 << slot);
        let held = core::mem::replace(&mut self.held, fis.control() & SRST != 0);
        if self.held {
            self.drop_all(memory);
            (self.sact, self.taken, self.done) = (0, 0, 0);
            self.show_working();
        } else if held {
            self.show_signature();
            self.receive_signature(memory);
        }
    }

    /// A command that is not queued.
    fn send(
        &mut self,
        memory: &dyn GuestMemory,
        budget: &mut usize,
        (slot, header): (usize, Header),
        fis: &HostToDevice,
        command: u8,
    ) {
        self.busy = Some(slot);
        self.regs = fis.task_file();
        self.device = fis.device();
        self.show_working();
        // It may not come between those that are (Serial ATA 2.6 13.6.3, "Intermixing Non-Native Queued Commands and Native Queued
        // Commands"), and nothing is done after an error before the log was read or the drive was reset.
        let is_queued = |work: &Work| work.protocol == Protocol::Queued;
        let queued = self
            .slots
            .iter()
            .any(|s| s.work.as_ref().is_some_and(is_queued));
        if queued {
            self.tell_done(memory);
            self.queue_error = Some(QueueError {
                tag: None,
                status: Status::DRDY | Status::ERR,
                error: Error::ABRT,
                lba: self.regs.address(Addressing::Lba48, 0).unwrap_or(0),
                count: fis.count(),
                device: fis.device(),
            });
            self.drop_all(memory);
        }
        let refused = queued || self.held || self.queue_error.is_some() && command != READ_LOG_EXT;
        let buffer = if refused { None } else { self.buffer.take() };
        let Some(mut buffer) = buffer else {
            return self.fail(memory, slot, Error::ABRT);
        };
        let outcome = self.execute(command, &mut buffer);
        self.buffer = Some(buffer);
        let work = Work {
            header,
            protocol: Protocol::NoData,
            write: false,
            span: Span::default(),
            unit: 1,
            flush: false,
        };
        match outcome {
            Outcome::Done => self.succeed(memory, slot),
            Outcome::Reset => {
                self.show_signature();
                self.receive_registers(memory, true);
                self.over(slot);
            }
            Outcome::Failed(error) => self.fail(memory, slot, error),
            Outcome::Data(len) => self.deliver(memory, (slot, header), len, false),
            Outcome::Flush => {
                let work = Work {
                    flush: true,
                    ..work
                };
                self.begin(memory, budget, slot, work);
            }
            Outcome::Access(access) => {
                let work = Work {
                    flush: access.write && !self.write_cache(),
                    ..Self::work(header, &access)
                };
                self.begin(memory, budget, slot, work);
            }
            Outcome::Packet => self.packet(memory, budget, (slot, header), work),
        }
    }

    fn work(header: Header, access: &Access) -> Work {
        Work {
            header,
            protocol: match access.dma {
                true => Protocol::Dma(access.addressing),
                false => Protocol::Pio(access.addressing),
            },
            write: access.write,
            span: access.span,
            unit: 1,
            flush: false,
        }
    }

    /// Whether what is written may stay in the disk's cache.
    fn write_cache(&self) -> bool {
        match self.drive.as_ref().map(|drive| &drive.kind) {
            Some(Kind::Disk(disk)) => disk.write_cache,
            _ => true,
        }
    }

    /// The drive gets a command, whose registers it has.
    fn execute(&mut self, command: u8, buffer: &mut [u8]) -> Outcome {
        let Some(drive) = &mut self.drive else {
            return Outcome::Failed(Error::ABRT);
        };
        match command {
            READ_LOG_EXT if !drive.is_cdrom() => {
                let page = log::read(&self.regs, self.queue_error.as_ref());
                let Some((page, to)) = page.zip(buffer.get_mut(..log::PAGE)) else {
                    return Outcome::Failed(Error::ABRT);
                };
                to.copy_from_slice(&page);
                if self.regs.lba[0].now() == NCQ_ERROR {
                    self.queue_error = None;
                }
                Outcome::Data(log::PAGE)
            }
            EXECUTE_DEVICE_DIAGNOSTIC => Outcome::Reset,
            _ => {
                let registers = Registers {
                    file: &mut self.regs,
                    device: &mut self.device,
                };
                drive.execute(command, registers, Attached::Serial(self.number), buffer)
            }
        }
    }

    /// The drive gets the packet of the command in `slot`.
    fn packet(
        &mut self,
        memory: &dyn GuestMemory,
        budget: &mut usize,
        (slot, header): (usize, Header),
        work: Work,
    ) {
        let mut packet = [0; PACKET_LEN];
        if header.packet(memory, &mut packet).is_err() {
            return self.stop_fatally(memory, Interrupts::HBFS);
        }
        let Some(Kind::Cdrom(cd)) = self.drive.as_mut().map(|drive| &mut drive.kind) else {
            return self.fail(memory, slot, Error::ABRT);
        };
        let Some(buffer) = &mut self.buffer else {
            return self.fail(memory, slot, Error::ABRT);
        };
        match cd.execute(&packet, buffer) {
            Reply::Data(len) if len != 0 => self.deliver(memory, (slot, header), len, true),
            Reply::Blocks { first, count } if count != 0 => {
                let work = Work {
                    protocol: Protocol::Packet,
                    span: Span {
                        sector: u64::from(first) * u64::from(SECTORS_PER_BLOCK),
                        left: count.saturating_mul(SECTORS_PER_BLOCK),
                    },
                    unit: SECTORS_PER_BLOCK,
                    ..work
                };
                self.begin(memory, budget, slot, work);
            }
            Reply::Done | Reply::Data(_) | Reply::Blocks { .. } => {
                self.succeed_packet(memory, slot);
            }
            Reply::Failed(sense) => self.fail_packet(memory, slot, sense),
        }
    }

    /// A queued command.
    fn queue(
        &mut self,
        memory: &dyn GuestMemory,
        budget: &mut usize,
        (slot, header): (usize, Header),
        fis: &HostToDevice,
        write: bool,
    ) {
        let regs = fis.task_file();
        let sectors = match fis.features() {
            0 => 0x1_0000,
            n => n.into(),
        };
        let lba = regs.address(Addressing::Lba48, 0).unwrap_or(0);
        // The tag is the slot, whose bit in PxSACT is set (AHCI 1.3.1 3.3.13, "Offset 34h: PxSACT – Port x Serial ATA Active").
        let tag = usize::from(fis.count() >> 3 & 0x1f);
        let fits =
            tag == slot && self.sact & 1 << slot != 0 && self.queue_error.is_none() && !self.held;
        let span = match self.drive.as_ref().map(|drive| &drive.kind) {
            Some(Kind::Disk(disk)) if fits => disk.span(lba, sectors, write),
            _ => Err(Error::ABRT),
        };
        let span = match span {
            Ok(span) => span,
            Err(error) => {
                self.tell_done(memory);
                self.end_queue(memory, slot, (Status::DRDY | Status::ERR, error), lba);
                return self.receive_registers(memory, true);
            }
        };
        // The drive is ready for more.
        self.ci &= !(1 << slot);
        self.regs = regs;
        self.device = fis.device();
        (self.regs.status, self.regs.error) = (Status::IDLE, 0);
        self.receive_registers(memory, false);
        let through = fis.device() & FUA != 0 || !self.write_cache();
        let work = Work {
            header,
            protocol: Protocol::Queued,
            write,
            span,
            unit: 1,
            flush: write && through,
        };
        self.begin(memory, budget, slot, work);
    }

    fn begin(&mut self, memory: &dyn GuestMemory, budget: &mut usize, slot: usize, work: Work) {
        if let Some(s) = self.slots.get_mut(slot) {
            s.begin(work);
            self.advance(memory, budget, slot);
        }
    }

    fn answered(&mut self, memory: &dyn GuestMemory, budget: &mut usize, done: BlockDone) {
        let tag = usize::from(done.0.tag);
        if let Some(slot) = self.slots.get_mut(tag) {
            let through = slot.answered(memory, &mut self.buffer, done);
            *budget = budget.saturating_sub(through);
        }
    }

    /// Goes on with the command in `slot` as far as that goes.
    fn advance(&mut self, memory: &dyn GuestMemory, budget: &mut usize, slot: usize) {
        loop {
            let may_move = *budget != 0;
            let (Some(s), Some(drive)) = (self.slots.get_mut(slot), &mut self.drive) else {
                return;
            };
            if s.work.is_none() {
                return;
            }
            let Some(medium) = drive.medium() else {
                return self.end(memory, slot, Err(Failure::Medium));
            };
            let next = s.next(memory, medium, &mut self.buffer, (slot as u16, may_move));
            match next {
                Next::Ask(request) => match medium.begin(request) {
                    Some(done) => self.answered(memory, budget, done),
                    None => {
                        self.begun += 1;
                        return;
                    }
                },
                Next::Wait => {
                    self.waiting |= 1 << slot;
                    return;
                }
                Next::End(result) => return self.end(memory, slot, result),
            }
        }
    }
}
