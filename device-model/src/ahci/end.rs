//! The ends of commands, and what the host finds of them. AHCI 1.3.1 5, "Data Transfer Operation", and 6.2, "Error Recovery".

use super::fis;
use super::log::QueueError;
use super::port::Port;
use super::registers::Interrupts;
use super::slot::{Failure, Protocol, Work};
use super::table::{Cursor, Header};
use crate::ata::{Error, FEATURE_DMA, Kind, REASON_END, SECTOR, Sense, Status};
use hv_core::mem::GuestMemory;

/// Most bytes of a data block of PIO.
const BLOCK_MAX: u32 = 0xfffe;

impl Port {
    /// The command in `slot`, whose data were the medium's, is over.
    pub(super) fn end(
        &mut self,
        memory: &dyn GuestMemory,
        slot: usize,
        result: Result<(), Failure>,
    ) {
        let Some(s) = self.slots.get_mut(slot) else {
            return;
        };
        let Some(work) = s.work.take() else {
            return;
        };
        let (cursor, moved) = (s.cursor, s.moved);
        match result {
            Err(Failure::Memory) => return self.stop_fatally(memory, Interrupts::HBFS),
            Err(Failure::Overflow) => self.is |= Interrupts::OFS,
            Ok(()) | Err(Failure::Medium) => {}
        }
        self.moved(memory, &work.header, &cursor, moved);
        match (work.protocol, result.is_ok()) {
            (Protocol::Queued, true) => {
                self.done |= 1 << slot;
                self.taken &= !(1 << slot);
            }
            (Protocol::Queued, false) => {
                let done = core::mem::take(&mut self.done);
                self.end_queue(memory, slot, failed(&work), work.span.sector);
                self.receive_bits(memory, done);
            }
            (Protocol::Packet, true) => self.end_packet(memory, slot, moved),
            (Protocol::Packet, false) => self.fail_packet(memory, slot, Sense::UNREADABLE),
            (Protocol::NoData, true) => self.succeed(memory, slot),
            (Protocol::Pio(addressing) | Protocol::Dma(addressing), true) => {
                self.regs.count.set(0);
                let sector = work.span.sector;
                self.regs.set_address(addressing, &mut self.device, sector);
                match work.protocol {
                    Protocol::Pio(_) if !work.write => self.end_pio_in(memory, slot, SECTOR as u32),
                    _ => self.succeed(memory, slot),
                }
            }
            (protocol, false) => {
                if let Protocol::Pio(addressing) | Protocol::Dma(addressing) = protocol {
                    let sector = work.span.sector;
                    self.regs.set_address(addressing, &mut self.device, sector);
                }
                let (status, error) = failed(&work);
                self.fail_with(memory, slot, status, error.bits());
            }
        }
    }

    /// Tells how many bytes a command has moved, and that a region with the I bit was among them.
    fn moved(&mut self, memory: &dyn GuestMemory, header: &Header, cursor: &Cursor, bytes: u32) {
        header.tell(memory, bytes);
        if cursor.interrupt {
            self.is |= Interrupts::DPS;
        }
    }

    /// Gives the host the `len` bytes at the beginning of the buffer, with which the command in `slot` is over: a packet's, or one of PIO.
    pub(super) fn deliver(
        &mut self,
        memory: &dyn GuestMemory,
        (slot, header): (usize, Header),
        len: usize,
        packet: bool,
    ) {
        let mut cursor = Cursor::START;
        let data = self.buffer.as_deref().and_then(|buffer| buffer.get(..len));
        let data = data.unwrap_or_default();
        let Ok(moved) = cursor.write(memory, &header, data) else {
            return self.stop_fatally(memory, Interrupts::HBFS);
        };
        if moved < len {
            self.is |= Interrupts::OFS;
        }
        self.moved(memory, &header, &cursor, moved as u32);
        if packet {
            self.end_packet(memory, slot, moved as u32);
        } else {
            self.end_pio_in(memory, slot, moved as u32);
        }
    }

    /// The slot has no command any more.
    pub(super) fn over(&mut self, slot: usize) {
        self.ci &= !(1 << slot);
        self.taken &= !(1 << slot);
        self.busy = None;
    }

    pub(super) fn succeed(&mut self, memory: &dyn GuestMemory, slot: usize) {
        (self.regs.status, self.regs.error) = (Status::IDLE, 0);
        self.receive_registers(memory, true);
        self.over(slot);
    }

    /// The last data block of PIO is there, of so many bytes.
    fn announce_block(&mut self, memory: &dyn GuestMemory, bytes: u32) {
        (self.regs.status, self.regs.error) = (Status::IDLE, 0);
        let bytes = bytes.min(BLOCK_MAX) as u16;
        let fis = fis::pio_setup(&self.regs, self.device, Status::DATA.bits(), bytes);
        self.receive(memory, fis::PIO_SETUP_AT, &fis);
        self.is |= Interrupts::PSS;
    }

    /// PIO to the host is over with its last block.
    fn end_pio_in(&mut self, memory: &dyn GuestMemory, slot: usize, bytes: u32) {
        self.announce_block(memory, bytes);
        self.show();
        self.over(slot);
    }

    fn end_packet(&mut self, memory: &dyn GuestMemory, slot: usize, bytes: u32) {
        if self.regs.features.now() & FEATURE_DMA == 0 {
            self.announce_block(memory, bytes);
        }
        self.succeed_packet(memory, slot);
    }

    pub(super) fn succeed_packet(&mut self, memory: &dyn GuestMemory, slot: usize) {
        self.regs.count.set(REASON_END);
        self.succeed(memory, slot);
    }

    /// The command in `slot` has failed, of which REQUEST SENSE will tell.
    pub(super) fn fail_packet(&mut self, memory: &dyn GuestMemory, slot: usize, sense: Sense) {
        if let Some(Kind::Cdrom(cd)) = self.drive.as_mut().map(|drive| &mut drive.kind) {
            cd.sense = sense;
        }
        self.regs.count.set(REASON_END);
        self.fail_with(memory, slot, Status::DRDY | Status::ERR, sense.key << 4);
    }

    pub(super) fn fail(&mut self, memory: &dyn GuestMemory, slot: usize, error: Error) {
        self.fail_with(memory, slot, Status::DRDY | Status::ERR, error.bits());
    }

    /// A command that was not queued has failed. It stays in the list, and the port stops.
    fn fail_with(&mut self, memory: &dyn GuestMemory, slot: usize, status: Status, error: u8) {
        (self.regs.status, self.regs.error) = (status, error);
        self.receive_registers(memory, true);
        self.is |= Interrupts::TFES;
        self.current = slot;
        self.busy = None;
        self.halted = true;
    }

    /// A queued command has failed, and with it all others.
    pub(super) fn end_queue(
        &mut self,
        memory: &dyn GuestMemory,
        slot: usize,
        (status, error): (Status, Error),
        lba: u64,
    ) {
        self.drop_all(memory);
        self.queue_error = Some(QueueError {
            tag: Some(slot),
            status,
            error,
            lba,
            count: 0,
            device: 0x40,
        });
        (self.regs.status, self.regs.error) = (status, error.bits());
        self.is |= Interrupts::TFES;
        self.halted = true;
    }

    /// Tells the host of the queued commands that are over.
    pub(super) fn tell_done(&mut self, memory: &dyn GuestMemory) {
        let done = core::mem::take(&mut self.done);
        if done != 0 {
            self.receive_bits(memory, done);
        }
    }

    /// Receives which queued commands are over.
    fn receive_bits(&mut self, memory: &dyn GuestMemory, done: u32) {
        self.sact &= !done;
        let fis = fis::device_bits(self.regs.status.bits(), self.regs.error, done);
        self.receive(memory, fis::DEVICE_BITS_AT, &fis);
        self.show();
        self.is |= Interrupts::SDBS;
    }
}

/// What the status and error registers say of `work` that the medium could not do.
fn failed(work: &Work) -> (Status, Error) {
    if work.write || work.flush {
        (Status::IDLE | Status::DF | Status::ERR, Error::ABRT)
    } else {
        (Status::IDLE | Status::ERR, Error::UNC)
    }
}
