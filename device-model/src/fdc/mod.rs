//! The Intel 82077AA floppy disk controller in PC/AT mode at ports 3F2h to 3F5h and 3F7h, with IRQ 6, DMA channel 2 and one 3.5" drive
//! (data sheet, order number 290166).
//!
//! Time: a command is carried out some microseconds after its last byte, so that its interrupt never comes inside the write of that
//! byte; nothing waits for a motor or a head. The head is on its new track as soon as the guest asks. Where the data sheet's chip waits
//! for ever, since no disk turns below the head, the command fails with a missing address mark, as in QEMU.
//!
//! Not implemented: the registers of the PS/2 modes (3F0h, 3F1h), SCAN, deleted data marks (a raw image has none: WRITE DELETED DATA
//! writes plain data), sectors of other sizes, tracks formatted otherwise than the image is, tape drives, power down. FIFO depth, gap
//! lengths, step rates and the like are kept and have no effect. FM and MFM are not told apart.
//!
//! Invariant: the only bytes that a guest's command and its results are kept in are the `Fifo`'s, which bounds every
//! access; data go through a buffer of one sector. (QEMU's common buffer for both overflowed, CVE-2015-3456; its drive that was not
//! there, CVE-2021-20196, is `drives` with one element here.)

mod command;
mod drive;
mod fifo;
mod transfer;

#[cfg(test)]
mod tests;

use crate::dma::Dma;
use alloc::boxed::Box;
use alloc::sync::Arc;
use bitflags::bitflags;
use command::{Command, INWARDS, LOCK};
use drive::Drive;
use fifo::Fifo;
use hv_core::backend::BlockBackend;
use hv_core::device::{AccessSize, DevCx, Device};
use hv_core::irq::IrqLine;
use hv_core::lock::Lock;
use hv_core::machine::FloppyDrive;
use hv_core::time::VmTime;
use transfer::Transfer;

/// Bytes of a sector.
const SECTOR: usize = 512;
/// The DMA controller's channel.
const DMA_CHANNEL: usize = 2;
/// How long a command takes.
const COMMAND_TIME: VmTime = VmTime(20_000);

/// Digital output register.
const DOR: u16 = 0x3f2;
/// Tape drive register.
const TDR: u16 = 0x3f3;
/// Main status register; written: data rate select register.
const MSR: u16 = 0x3f4;
/// Data.
const DATA: u16 = 0x3f5;
/// Digital input register; written: configuration control register.
const DIR: u16 = 0x3f7;

bitflags! {
    /// Digital output register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Output: u8 {
        /// Reset is released.
        const NOT_RESET = 1 << 2;
        /// Interrupts and DMA requests leave the chip.
        const DMA_GATE = 1 << 3;
    }
}

bitflags! {
    /// Main status register. Bits 3 to 0: the drive seeks.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Status: u8 {
        /// The data port is ready.
        const RQM = 1 << 7;
        /// ... to be read.
        const DIO = 1 << 6;
        /// Data are moved through it.
        const NON_DMA = 1 << 5;
        /// A command is under way.
        const BUSY = 1 << 4;
    }
}

/// Data rate select register: reset.
const SOFTWARE_RESET: u8 = 1 << 7;
/// Digital input register: the disk was changed.
const DISK_CHANGED: u8 = 1 << 7;
/// Status register 0: a seek has ended.
const SEEK_END: u8 = 0x20;
/// Status register 0: track 0 was not reached.
const NO_TRACK_0: u8 = 0x50;
/// Status register 0: polling has found that the drive's readiness changed.
const READY_CHANGED: u8 = 0xc0;
/// The answer to what is no command.
const INVALID: u8 = 0x80;
/// The answer to VERSION: an enhanced controller.
const ENHANCED: u8 = 0x90;
/// SPECIFY, second byte: no DMA.
const NO_DMA: u8 = 1;
/// CONFIGURE, second byte: implied seeks; FIFO disabled (as after a reset).
const IMPLIED_SEEK: u8 = 1 << 6;
const FIFO_DISABLED: u8 = 1 << 5;
/// ... and what of it is locked by LOCK.
const LOCKED: u8 = 0x2f;

/// What the controller is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// It takes a command.
    Command,
    /// It carries one out at this time.
    Execution(VmTime),
    /// The host moves data through the data port.
    Port,
    /// Results wait.
    Result,
}

/// The controller with its drive.
pub struct Fdc {
    irq: IrqLine,
    dma: Arc<Lock<Dma>>,
    /// The drives that there are, from 0 on.
    drives: [Drive; 1],

    dor: u8,
    tdr: u8,
    /// The data rate of DSR and CCR.
    rate: u8,
    specified: [u8; 2],
    configured: u8,
    precompensation: u8,
    locked: bool,
    perpendicular: u8,
    /// The track on which each drive's head is for all the controller knows.
    tracks: [u8; 4],

    phase: Phase,
    fifo: Fifo,
    transfer: Option<Transfer>,
    buffer: Box<[u8; SECTOR]>,
    /// The disk was written by the transfer under way.
    written: bool,
    /// When a reset has been got over.
    reset_ends: Option<VmTime>,
    /// When each drive's seek ends, and with which status register 0.
    seeks: [Option<(VmTime, u8)>; 4],
    /// What SENSE INTERRUPT STATUS has to say of each drive.
    sense: [Option<u8>; 4],
    /// The INT pin.
    int: bool,
}

/// The drive that a raw image of so many sectors needs at least. None: it is the image of no 3.5" disk.
#[must_use]
pub fn drive_for(sectors: u64) -> Option<FloppyDrive> {
    let geometry = drive::Geometry::of(sectors)?;
    Some(match geometry.sectors {
        36 => FloppyDrive::M2880,
        _ => FloppyDrive::M1440,
    })
}

/// What can be seen of a floppy drive from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FloppyState {
    /// There is a disk in it.
    pub loaded: bool,
    /// The disk is write-protected.
    pub protected: bool,
}

impl Fdc {
    /// A controller that drives `irq6` and has channel 2 of `dma`, with a drive of this kind and perhaps a disk in it. A disk is a raw
    /// image of 720, 1,440 or 2,880 KiB; the drive finds no sectors on any other.
    #[must_use]
    pub fn new(
        irq6: IrqLine,
        dma: Arc<Lock<Dma>>,
        kind: FloppyDrive,
        medium: Option<Box<dyn BlockBackend>>,
    ) -> Self {
        Self {
            irq: irq6,
            dma,
            drives: [Drive::new(kind, medium)],
            dor: 0,
            tdr: 0,
            rate: 2,
            specified: [0; 2],
            configured: FIFO_DISABLED,
            precompensation: 0,
            locked: false,
            perpendicular: 0,
            tracks: [0; 4],
            phase: Phase::Command,
            fifo: Fifo::default(),
            transfer: None,
            buffer: Box::new([0; SECTOR]),
            written: false,
            reset_ends: None,
            seeks: [None; 4],
            sense: [None; 4],
            int: false,
        }
    }

    /// Exchanges the disk in the drive, and returns the old one. The drive tells the guest.
    pub fn change_medium(
        &mut self,
        medium: Option<Box<dyn BlockBackend>>,
    ) -> Option<Box<dyn BlockBackend>> {
        self.drives[0].change(medium)
    }

    /// The drive.
    #[must_use]
    pub fn floppy(&self) -> FloppyState {
        FloppyState {
            loaded: self.drives[0].loaded(),
            protected: self.drives[0].protected(),
        }
    }

    fn output(&self) -> Output {
        Output::from_bits_retain(self.dor)
    }

    fn in_reset(&self) -> bool {
        !self.output().contains(Output::NOT_RESET)
    }

    /// Sets the INT pin, which reaches the interrupt controller through the gate.
    fn interrupt(&mut self, level: bool) {
        self.int = level;
        self.irq
            .set(level && self.output().contains(Output::DMA_GATE));
    }

    fn moves_by_port(&self) -> bool {
        self.specified[1] & NO_DMA != 0
    }

    /// Everything that a reset ends, by whichever register; what LOCK has locked stays.
    fn abort(&mut self) {
        self.phase = Phase::Command;
        self.fifo = Fifo::default();
        self.transfer = None;
        self.written = false;
        self.reset_ends = None;
        self.seeks = [None; 4];
        self.sense = [None; 4];
        self.tracks = [0; 4];
        let kept = if self.locked {
            self.configured & LOCKED
        } else {
            self.precompensation = 0;
            FIFO_DISABLED
        };
        self.configured = kept;
        // PERPENDICULAR MODE: the drives' bits survive, GAP and WGATE do not.
        self.perpendicular &= 0x3c;
        self.interrupt(false);
    }

    /// Brings everything up to `cx.now`.
    fn sync(&mut self, cx: &mut DevCx<'_>) {
        if self.reset_ends.is_some_and(|end| end <= cx.now) {
            // Polling finds all four drives ready (82077AA, "Drive Polling").
            self.reset_ends = None;
            self.sense = [0, 1, 2, 3].map(|drive| Some(READY_CHANGED | drive));
            self.interrupt(true);
        }
        for drive in 0..4 {
            if let Some((end, st0)) = self.seeks[drive]
                && end <= cx.now
            {
                self.seeks[drive] = None;
                // What a reset left to say is not waited for any more.
                self.sense = self
                    .sense
                    .map(|s| s.filter(|s| s & READY_CHANGED != READY_CHANGED));
                self.sense[drive] = Some(st0);
                self.interrupt(true);
            }
        }
        if let Phase::Execution(end) = self.phase
            && end <= cx.now
        {
            self.execute(cx);
        }
    }

    fn next(&self) -> Option<VmTime> {
        let execution = match self.phase {
            Phase::Execution(end) => Some(end),
            _ => None,
        };
        let seeks = self.seeks.iter().flatten().map(|&(end, _)| end);
        seeks.chain(self.reset_ends).chain(execution).min()
    }

    fn status(&self) -> u8 {
        if self.in_reset() || self.reset_ends.is_some() {
            return 0;
        }
        let status = match self.phase {
            Phase::Command if self.fifo.is_empty() => Status::RQM,
            Phase::Command => Status::RQM | Status::BUSY,
            Phase::Execution(_) => Status::BUSY,
            Phase::Port => {
                let reads = !self.transfer.as_ref().is_some_and(Transfer::writes);
                let dio = if reads { Status::DIO } else { Status::empty() };
                Status::RQM | Status::NON_DMA | Status::BUSY | dio
            }
            Phase::Result => Status::RQM | Status::DIO | Status::BUSY,
        };
        let seeking = (0..4).filter(|&drive| self.seeks[drive].is_some());
        seeking.fold(status.bits(), |bits, drive| bits | 1 << drive)
    }

    /// The command is over, with these results.
    fn finish_with(&mut self, results: &[u8]) {
        self.fifo = Fifo::of(results);
        self.phase = match results {
            [] => Phase::Command,
            _ => Phase::Result,
        };
    }

    fn read_data(&mut self) -> u8 {
        match self.phase {
            Phase::Port => self.read_by_port(),
            Phase::Result => {
                let byte = self.fifo.take();
                self.interrupt(false);
                if self.fifo.is_empty() {
                    self.finish_with(&[]);
                }
                byte.unwrap_or(0)
            }
            _ => 0,
        }
    }

    fn write_data(&mut self, byte: u8, now: VmTime) {
        match self.phase {
            Phase::Port => self.write_by_port(byte),
            Phase::Command => {
                self.fifo.put(byte);
                let command = Command::decode(self.fifo.at(0));
                if self.fifo.len() > command.parameters() {
                    self.begin(command, now);
                }
            }
            _ => {}
        }
    }

    /// A command is complete.
    fn begin(&mut self, command: Command, now: VmTime) {
        let bytes = self.fifo;
        let drive = usize::from(bytes.at(1) & 3);
        match command {
            Command::Specify => {
                self.specified = [bytes.at(1), bytes.at(2)];
                self.finish_with(&[]);
            }
            Command::Configure => {
                self.configured = bytes.at(2) & 0x7f;
                self.precompensation = bytes.at(3);
                self.finish_with(&[]);
            }
            Command::PerpendicularMode => {
                const OVERWRITE: u8 = 0x80;
                self.perpendicular = match bytes.at(1) & OVERWRITE {
                    0 => self.perpendicular & 0x3c | bytes.at(1) & 3,
                    _ => bytes.at(1) & 0x3f,
                };
                self.finish_with(&[]);
            }
            Command::Lock => {
                self.locked = bytes.at(0) & LOCK != 0;
                self.finish_with(&[u8::from(self.locked) << 4]);
            }
            Command::Version => self.finish_with(&[ENHANCED]),
            Command::DumpRegisters => self.dump_registers(),
            Command::SenseDriveStatus => {
                let st3 = self.drive_status(bytes.at(1));
                self.finish_with(&[st3]);
            }
            Command::SenseInterruptStatus => self.sense_interrupt(),
            Command::Invalid => self.finish_with(&[INVALID]),
            Command::Recalibrate => {
                let reached = self
                    .drives
                    .get_mut(drive)
                    .is_some_and(|drive| drive.recalibrate());
                self.tracks[drive] = 0;
                let st0 = if reached { 0 } else { NO_TRACK_0 };
                self.seek_ends(drive, now, st0);
            }
            Command::Seek => {
                self.seek(drive, bytes.at(2));
                self.seek_ends(drive, now, bytes.at(1) & 4);
            }
            Command::RelativeSeek => {
                let (tracks, inwards) = (bytes.at(2), bytes.at(0) & INWARDS != 0);
                if let Some(drive) = self.drives.get_mut(drive) {
                    drive.step(tracks, inwards);
                }
                let known = &mut self.tracks[drive];
                *known = match inwards {
                    true => known.wrapping_add(tracks),
                    false => known.wrapping_sub(tracks),
                };
                self.seek_ends(drive, now, bytes.at(1) & 4);
            }
            Command::ReadTrack
            | Command::Write { .. }
            | Command::Read { .. }
            | Command::ReadId
            | Command::FormatTrack
            | Command::Verify => {
                let mut transfer = Transfer::new(command, |index| bytes.at(index));
                let seeks = !matches!(command, Command::ReadId | Command::FormatTrack);
                if seeks && self.configured & IMPLIED_SEEK != 0 {
                    self.seek(transfer.drive(), transfer.cylinder());
                    transfer.implied_seek();
                }
                self.transfer = Some(transfer);
                self.phase = Phase::Execution(now + COMMAND_TIME);
            }
        }
    }

    /// Moves a drive's head to a track, for all the controller knows.
    fn seek(&mut self, drive: usize, track: u8) {
        let known = core::mem::replace(&mut self.tracks[drive & 3], track);
        if let Some(drive) = self.drives.get_mut(drive) {
            drive.step(track.abs_diff(known), track > known);
        }
    }

    fn seek_ends(&mut self, drive: usize, now: VmTime, st0: u8) {
        let st0 = SEEK_END | st0 | drive as u8;
        self.seeks[drive & 3] = Some((now + COMMAND_TIME, st0));
        self.finish_with(&[]);
    }

    fn sense_interrupt(&mut self) {
        let next = (0..4).find_map(|drive| Some((drive, self.sense[drive].take()?)));
        self.interrupt(false);
        let Some((drive, st0)) = next else {
            return self.finish_with(&[INVALID]);
        };
        // Another drive's seek has ended meanwhile: that is an interrupt of its own.
        let more = self.sense.iter().flatten();
        if more
            .into_iter()
            .any(|st0| st0 & READY_CHANGED != READY_CHANGED)
        {
            self.interrupt(true);
        }
        self.finish_with(&[st0, self.tracks[drive]]);
    }

    fn drive_status(&self, select: u8) -> u8 {
        const PROTECTED: u8 = 1 << 6;
        const ALWAYS: u8 = 1 << 5 | 1 << 3;
        const TRACK_0: u8 = 1 << 4;
        let drive = self.drives.get(usize::from(select & 3));
        let bits = drive.map_or(0, |drive| {
            let protected = if drive.protected() { PROTECTED } else { 0 };
            protected | if drive.track == 0 { TRACK_0 } else { 0 }
        });
        ALWAYS | bits | select & 7
    }

    fn dump_registers(&mut self) {
        let [a, b, c, d] = self.tracks;
        let [steps, load] = self.specified;
        let lock = u8::from(self.locked) << 7;
        // The last sector of a track is that of the last transfer, which nobody needs.
        self.finish_with(&[
            a,
            b,
            c,
            d,
            steps,
            load,
            0,
            lock | self.perpendicular & 0x3f,
            self.configured,
            self.precompensation,
        ]);
    }

    fn write_output(&mut self, value: u8, now: VmTime) {
        let was_reset = self.in_reset();
        self.dor = value;
        match (was_reset, self.in_reset()) {
            (_, true) => self.abort(),
            (true, false) => self.reset_ends = Some(now + COMMAND_TIME),
            (false, false) => self.interrupt(self.int),
        }
    }

    fn write_rate(&mut self, value: u8, now: VmTime) {
        self.rate = value & 3;
        if value & SOFTWARE_RESET != 0 && !self.in_reset() {
            self.abort();
            self.reset_ends = Some(now + COMMAND_TIME);
        }
    }

    /// Whether the selected drive says that its disk was changed.
    fn input(&self) -> u8 {
        let drive = self.drives.get(usize::from(self.dor & 3));
        match drive {
            Some(drive) if drive.changed => DISK_CHANGED,
            _ => 0,
        }
    }
}

impl Device for Fdc {
    fn name(&self) -> &'static str {
        "fdc"
    }

    fn reset(&mut self, _cx: &mut DevCx<'_>) {
        self.dor = 0;
        self.tdr = 0;
        self.rate = 2;
        self.locked = false;
        self.specified = [0; 2];
        self.abort();
        self.perpendicular = 0;
    }

    fn poll(&mut self, cx: &mut DevCx<'_>) -> Option<VmTime> {
        self.sync(cx);
        self.next()
    }

    fn port_read(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize) -> u32 {
        self.sync(cx);
        let byte = match port {
            DOR => self.dor,
            TDR => self.tdr,
            MSR => self.status(),
            DATA => self.read_data(),
            DIR => self.input(),
            _ => 0xff,
        };
        size.ones() & !0xff | u32::from(byte)
    }

    fn port_write(&mut self, cx: &mut DevCx<'_>, port: u16, _size: AccessSize, value: u32) {
        self.sync(cx);
        let value = value as u8;
        match port {
            DOR => self.write_output(value, cx.now),
            TDR => self.tdr = value & 3,
            MSR => self.write_rate(value, cx.now),
            DATA if !self.in_reset() && self.reset_ends.is_none() => {
                self.write_data(value, cx.now);
            }
            DIR => self.rate = value & 3,
            _ => {}
        }
        if let Some(next) = self.next() {
            cx.requests.wake_at(next);
        }
    }
}
