//! A port: its registers, and the drive at it. AHCI 1.3.1 3.3, "Port Registers", and 10.4, "Reset".
//!
//! The interface is up whenever there is a drive and software has not taken it down (PxSCTL.DET). A reset of it is over at once: the drive
//! shows its signature when software ends COMRESET.
//!
//! Invariant: the medium has nothing to do while the port does not run (PxCMD.ST) or has stopped at a fatal error: whatever it was at is
//! waited for, since it has memory of the guest.

use super::fis;
use super::log::QueueError;
use super::registers::{
    CCS, DET, DET_OFFLINE, DET_RESET, Interrupts, NO_SIGNATURE, NO_STATUS, PortCmd, SCTL_WRITABLE,
    SERR_N, SERR_X, SSTS_DOWN, SSTS_OFFLINE, SSTS_UP, port,
};
use super::slot::{BUFFER, Slot};
use crate::ata::{DIAGNOSTICS_PASSED, Drive, Status, TaskFile};
use alloc::boxed::Box;
use alloc::vec;
use hv_core::Gpa;
use hv_core::backend::{BlockBackend, BlockDone};
use hv_core::mem::GuestMemory;

/// Slots of a port's command list.
pub(super) const SLOTS: usize = 32;

/// A port.
pub(super) struct Port {
    pub(super) number: usize,
    pub(super) drive: Option<Drive>,
    pub(super) list: u64,
    fis: u64,
    pub(super) is: Interrupts,
    ie: Interrupts,
    pub(super) cmd: PortCmd,
    /// The slot whose command was sent last.
    pub(super) current: usize,
    /// What the host knows of the drive's status and error registers.
    status: u8,
    error: u8,
    signature: u32,
    control: u32,
    serr: u32,
    pub(super) sact: u32,
    pub(super) ci: u32,
    /// The drive's own registers.
    pub(super) regs: TaskFile,
    pub(super) device: u8,
    /// The drive is held in software reset.
    pub(super) held: bool,
    /// Its signature has not been received into memory yet.
    signature_due: bool,
    /// The commands that the drive has been sent, by slot.
    pub(super) slots: Box<[Slot]>,
    pub(super) taken: u32,
    /// The one that is not queued.
    pub(super) busy: Option<usize>,
    /// A fatal error: nothing is sent until software stops the port.
    pub(super) halted: bool,
    /// The commands that there was no room for.
    pub(super) waiting: u32,
    /// Queued commands that are over, of which the host has not been told.
    pub(super) done: u32,
    pub(super) queue_error: Option<QueueError>,
    pub(super) buffer: Option<Box<[u8]>>,
    /// Requests that the medium has.
    pub(super) begun: usize,
    /// The answer to one, if it was waited for.
    answer: Option<BlockDone>,
}

impl Port {
    /// A port in power-on state.
    pub(super) fn new(number: usize, drive: Option<Drive>) -> Self {
        let there = drive.is_some();
        let slots = if there { SLOTS } else { 0 };
        let mut port = Self {
            number,
            drive,
            list: 0,
            fis: 0,
            is: Interrupts::empty(),
            ie: Interrupts::empty(),
            cmd: PortCmd::SUD | PortCmd::POD,
            current: 0,
            status: NO_STATUS,
            error: 0,
            signature: NO_SIGNATURE,
            control: 0,
            serr: 0,
            sact: 0,
            ci: 0,
            regs: TaskFile::default(),
            device: 0,
            held: false,
            signature_due: false,
            slots: core::iter::repeat_with(Slot::new).take(slots).collect(),
            taken: 0,
            busy: None,
            halted: false,
            waiting: 0,
            done: 0,
            queue_error: None,
            buffer: there.then(|| vec![0; BUFFER].into_boxed_slice()),
            begun: 0,
            answer: None,
        };
        port.come_up();
        port
    }

    /// Back to the power-on state, but for what the drive keeps over a reset of the controller.
    pub(super) fn reset(&mut self, memory: &dyn GuestMemory) {
        self.stop(memory);
        (self.list, self.fis) = (0, 0);
        (self.is, self.ie) = (Interrupts::empty(), Interrupts::empty());
        self.cmd = PortCmd::SUD | PortCmd::POD;
        self.current = 0;
        (self.control, self.serr) = (0, 0);
        self.come_up();
    }

    /// Everything that the guest has set, back to what it is at power-on.
    pub(super) fn power_on(&mut self, memory: &dyn GuestMemory) {
        self.reset(memory);
        self.drive.iter_mut().for_each(Drive::power_on);
    }

    /// The interface comes up: the drive shows its signature.
    fn come_up(&mut self) {
        (self.status, self.error) = (NO_STATUS, 0);
        self.signature = NO_SIGNATURE;
        if self.drive.is_some() {
            self.serr |= SERR_N | SERR_X;
            self.show_signature();
        }
    }

    /// The drive has been reset, and sends its signature.
    pub(super) fn show_signature(&mut self) {
        let Some(drive) = &self.drive else {
            return;
        };
        self.held = false;
        self.queue_error = None;
        self.device = 0;
        self.regs = TaskFile {
            error: DIAGNOSTICS_PASSED,
            ..TaskFile::default()
        };
        self.regs.set_signature(drive.is_cdrom());
        if !drive.is_cdrom() {
            self.regs.status = Status::IDLE;
        }
        let [a, b, c] = self.regs.lba.map(|register| register.now());
        self.signature = u32::from_le_bytes([self.regs.count.now(), a, b, c]);
        self.show();
        self.signature_due = true;
    }

    /// The host knows the drive's status and error registers.
    pub(super) fn show(&mut self) {
        (self.status, self.error) = (self.regs.status.bits(), self.regs.error);
    }

    /// The drive is at work, as far as the host knows.
    pub(super) fn show_working(&mut self) {
        self.status = Status::WORKING.bits();
    }

    /// Receives a FIS into memory. Where there is no memory, none is written.
    pub(super) fn receive(&self, memory: &dyn GuestMemory, at: u64, fis: &[u8]) {
        if self.cmd.contains(PortCmd::FRE) {
            let _ = memory.write(Gpa(self.fis).add(at), fis);
        }
    }

    /// Receives the drive's registers.
    pub(super) fn receive_registers(&mut self, memory: &dyn GuestMemory, interrupt: bool) {
        let fis = fis::register(&self.regs, self.device, interrupt);
        self.receive(memory, fis::REGISTER_AT, &fis);
        self.show();
        if interrupt {
            self.is |= Interrupts::DHRS;
        }
    }

    /// Receives the signature, if that is due and there is a place for it.
    pub(super) fn receive_signature(&mut self, memory: &dyn GuestMemory) {
        if self.signature_due && self.cmd.contains(PortCmd::FRE) {
            self.signature_due = false;
            self.receive_registers(memory, false);
        }
    }

    /// Whether it interrupts.
    pub(super) fn interrupts(&self) -> bool {
        !(self.shown() & self.ie).is_empty()
    }

    /// The interrupt status, with what follows from PxSERR.
    fn shown(&self) -> Interrupts {
        let mut is = self.is;
        is.set(Interrupts::PCS, self.serr & SERR_X != 0);
        is.set(Interrupts::PRCS, self.serr & SERR_N != 0);
        is
    }

    /// The medium, if there is one.
    pub(super) fn medium(&mut self) -> Option<&mut dyn BlockBackend> {
        self.drive.as_mut()?.medium()
    }

    /// A request that is over, if there is one.
    pub(super) fn finish(&mut self, wait: bool) -> Option<BlockDone> {
        if self.begun == 0 {
            return None;
        }
        let done = match self.answer.take() {
            Some(done) => done,
            None => self.medium()?.finish(wait)?,
        };
        self.begun -= 1;
        Some(done)
    }

    /// Waits for what the medium is at, and forgets the commands.
    pub(super) fn drop_all(&mut self, memory: &dyn GuestMemory) {
        while let Some((request, _)) = self.finish(true) {
            if let Some(slot) = self.slots.get_mut(usize::from(request.tag)) {
                slot.keep(memory, &mut self.buffer, request);
            }
        }
        self.begun = 0;
        self.waiting = 0;
        self.slots.iter_mut().for_each(|slot| slot.work = None);
    }

    /// Software has cleared PxCMD.ST: the list is forgotten (3.3.14, "Offset 38h: PxCI – Port x Command Issue").
    fn stop(&mut self, memory: &dyn GuestMemory) {
        self.drop_all(memory);
        (self.ci, self.sact, self.taken, self.done) = (0, 0, 0, 0);
        if self.busy.take().is_some() && self.status & Status::BSY.bits() != 0 {
            // Nobody waits for its end, but it has ended.
            self.regs.status = Status::IDLE;
            self.show();
        }
        self.halted = false;
    }

    /// Waits for what a CD-ROM drive is at, before its medium is changed. The next run goes on from there.
    pub(super) fn settle_medium(&mut self) {
        if self.begun != 0 && self.answer.is_none() {
            self.answer = self.medium().and_then(|medium| medium.finish(true));
        }
    }

    /// A register is read.
    pub(super) fn read(&self, offset: u64) -> u32 {
        match offset {
            port::CLB => self.list as u32,
            port::CLBU => (self.list >> 32) as u32,
            port::FB => self.fis as u32,
            port::FBU => (self.fis >> 32) as u32,
            port::IS => self.shown().bits(),
            port::IE => self.ie.bits(),
            port::CMD => self.command(),
            port::TFD => u32::from(self.error) << 8 | u32::from(self.status),
            port::SIG => self.signature,
            port::SSTS => self.interface(),
            port::SCTL => self.control,
            port::SERR => self.serr,
            port::SACT => self.sact,
            port::CI => self.ci,
            _ => 0,
        }
    }

    fn command(&self) -> u32 {
        let mut cmd = self.cmd;
        cmd.set(PortCmd::CR, cmd.contains(PortCmd::ST));
        cmd.set(PortCmd::FR, cmd.contains(PortCmd::FRE));
        let current = if cmd.contains(PortCmd::ST) {
            self.current as u32
        } else {
            0
        };
        cmd.bits() | current << CCS
    }

    fn interface(&self) -> u32 {
        match (self.control & DET, &self.drive) {
            (DET_OFFLINE, _) => SSTS_OFFLINE,
            (_, None) => 0,
            (DET_RESET, Some(_)) => SSTS_DOWN,
            (_, Some(_)) => SSTS_UP,
        }
    }

    /// The bits of `mask` of a register are written.
    pub(super) fn write(&mut self, memory: &dyn GuestMemory, offset: u64, value: u32, mask: u32) {
        let set = value & mask;
        let merge = |old: u32| old & !mask | set;
        let low =
            |old: u64, align: u32| old >> 32 << 32 | u64::from(merge(old as u32) & !(align - 1));
        let high = |old: u64| old & 0xffff_ffff | u64::from(merge((old >> 32) as u32)) << 32;
        match offset {
            port::CLB => self.list = low(self.list, 0x400),
            port::CLBU => self.list = high(self.list),
            port::FB => self.fis = low(self.fis, 0x100),
            port::FBU => self.fis = high(self.fis),
            port::IS => self.is -= Interrupts::from_bits_truncate(set),
            port::IE => self.ie = Interrupts::from_bits_truncate(merge(self.ie.bits())),
            port::CMD => self.write_command(memory, merge(self.cmd.bits())),
            port::SCTL => self.write_control(memory, merge(self.control) & SCTL_WRITABLE),
            port::SERR => self.serr &= !set,
            // Both only while the port runs.
            port::SACT if self.cmd.contains(PortCmd::ST) => self.sact |= set,
            port::CI if self.cmd.contains(PortCmd::ST) => self.ci |= set,
            _ => {}
        }
    }

    fn write_command(&mut self, memory: &dyn GuestMemory, value: u32) {
        let value = PortCmd::from_bits_truncate(value);
        let kept = PortCmd::ST | PortCmd::FRE | PortCmd::ATAPI | PortCmd::DLAE;
        let was = self.cmd;
        self.cmd = value & kept | PortCmd::SUD | PortCmd::POD;
        if was.contains(PortCmd::ST) && !value.contains(PortCmd::ST) {
            self.stop(memory);
        }
        // Command list override: the status shows neither BSY nor DRQ (3.3.7).
        if value.contains(PortCmd::CLO) && !was.contains(PortCmd::ST) {
            self.status &= !(Status::BSY | Status::DRQ).bits();
        }
        self.receive_signature(memory);
    }

    fn write_control(&mut self, memory: &dyn GuestMemory, value: u32) {
        let (was, is) = (self.control & DET, value & DET);
        self.control = value;
        if was == is {
            return;
        }
        if matches!(is, DET_RESET | DET_OFFLINE) {
            self.drop_all(memory);
            // What was issued is not sent again before software has stopped the port.
            self.halted = self.ci | self.sact != 0;
            (self.busy, self.done, self.queue_error) = (None, 0, None);
            self.status = NO_STATUS;
            if self.drive.is_some() {
                self.serr |= SERR_N;
            }
        } else if matches!(was, DET_RESET | DET_OFFLINE) {
            self.come_up();
            self.receive_signature(memory);
        }
    }
}
