//! The commands that find sectors: READ DATA, WRITE DATA and their kin (82077AA data sheet, 5.1, "Data Transfer Commands", with the
//! table of results).
//!
//! A sector is found if its address mark can be read (there is a disk, the data rate is its own) and carries what is asked for: the
//! cylinder under the head, the head, the number, the size. A transfer ends when the DMA controller says so (terminal count), and with
//! an error when it would go beyond the cylinder's last sector.

use super::command::{Command, MULTI_TRACK, SKIP};
use super::drive::Geometry;
use super::{DMA_CHANNEL, Fdc, Phase, SECTOR};
use bitflags::bitflags;
use hv_core::device::DevCx;

/// The size code of 512 bytes.
const SIZE_CODE: u8 = 2;
/// VERIFY, in its second byte: so many sectors as the last byte says.
const ENABLE_COUNT: u8 = 1 << 7;

bitflags! {
    /// Status register 1.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct St1: u8 {
        /// End of cylinder: there was no terminal count.
        const EN = 1 << 7;
        /// Data error.
        const DE = 1 << 5;
        /// Overrun: the host did not take or give data.
        const OR = 1 << 4;
        /// No data: the sector is not there.
        const ND = 1 << 2;
        /// Not writable.
        const NW = 1 << 1;
        /// Missing address mark.
        const MA = 1 << 0;
    }
}

bitflags! {
    /// Status register 2.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct St2: u8 {
        /// Control mark: the sector is not of the kind that was asked for.
        const CM = 1 << 6;
        /// Data error in the data field.
        const DD = 1 << 5;
        /// Wrong cylinder.
        const WC = 1 << 4;
        /// Bad cylinder: FFh.
        const BC = 1 << 1;
    }
}

/// Why a transfer failed.
type Fault = (St1, St2);

/// How a transfer goes on after a sector.
enum Next {
    /// With the next sector.
    Sector,
    /// Not at all: it is done.
    Done,
    /// Not at all: it failed.
    Failed(Fault),
}

/// A transfer under way.
#[derive(Clone, Copy)]
pub(super) struct Transfer {
    command: Command,
    /// As given: drive and head.
    select: u8,
    multi_track: bool,
    skip: bool,
    /// The sector's identity: cylinder, head, number.
    c: u8,
    h: u8,
    r: u8,
    n: u8,
    /// The last number of a track.
    eot: u8,
    /// FORMAT TRACK and VERIFY: so many sectors are left.
    left: Option<u8>,
    /// FORMAT TRACK: the byte that sectors are filled with.
    fill: u8,
    /// The byte of the sector, or of the identity to be formatted, that the host is at, where it moves them.
    at: usize,
    /// The seek that the command implied.
    seek_end: u8,
}

impl Transfer {
    /// Of a command with its parameters.
    pub(super) fn new(command: Command, bytes: impl Fn(usize) -> u8) -> Self {
        let mut t = Self {
            command,
            select: bytes(1) & 7,
            multi_track: bytes(0) & MULTI_TRACK != 0,
            skip: bytes(0) & SKIP != 0,
            c: bytes(2),
            h: bytes(3),
            r: bytes(4),
            n: bytes(5),
            eot: bytes(6),
            left: None,
            fill: 0,
            at: 0,
            seek_end: 0,
        };
        match command {
            Command::ReadTrack => (t.r, t.multi_track) = (1, false),
            Command::Verify if bytes(1) & ENABLE_COUNT != 0 => t.left = Some(bytes(8)),
            Command::FormatTrack => {
                t.n = bytes(2);
                t.left = Some(bytes(3));
                t.fill = bytes(5);
                (t.c, t.h, t.r) = (0, 0, 0);
            }
            _ => {}
        }
        t
    }

    pub(super) fn drive(&self) -> usize {
        usize::from(self.select & 3)
    }

    fn head(&self) -> u8 {
        self.select >> 2 & 1
    }

    pub(super) fn cylinder(&self) -> u8 {
        self.c
    }

    pub(super) fn implied_seek(&mut self) {
        self.seek_end = super::SEEK_END;
    }

    /// Whether the host gives the data.
    pub(super) fn writes(&self) -> bool {
        matches!(self.command, Command::Write { .. } | Command::FormatTrack)
    }

    /// Bytes that the host moves for a sector.
    fn unit(&self) -> usize {
        match self.command {
            Command::FormatTrack => 4,
            _ => SECTOR,
        }
    }

    /// Goes to the next sector. False: that was the cylinder's last.
    fn advance(&mut self) -> bool {
        if self.r != self.eot {
            self.r = self.r.wrapping_add(1);
            return true;
        }
        self.r = 1;
        if self.multi_track {
            self.h ^= 1;
            if self.h & 1 != 0 {
                self.select |= 4;
                return true;
            }
        }
        self.c = self.c.wrapping_add(1);
        false
    }

    /// Whether the head has found a sector with the identity that is wanted.
    fn check(&self, geometry: Geometry, track: u8) -> Result<(), Fault> {
        if self.c != track {
            let wrong = if self.c == 0xff { St2::BC } else { St2::WC };
            return Err((St1::ND, wrong));
        }
        let there = self.h == self.head()
            && self.n == SIZE_CODE
            && (1..=geometry.sectors).contains(&self.r);
        there.then_some(()).ok_or((St1::ND, St2::empty()))
    }
}

impl Fdc {
    /// Carries out what has waited for its time.
    pub(super) fn execute(&mut self, cx: &mut DevCx<'_>) {
        let Some(t) = self.transfer.as_mut() else {
            return self.finish_with(&[]);
        };
        match t.command {
            Command::ReadId => self.read_id(),
            Command::Verify => self.verify(),
            _ => {
                if let Err(fault) = self.may_write() {
                    return self.finish(Some(fault));
                }
                if self.moves_by_port() {
                    self.begin_by_port();
                } else {
                    self.move_by_dma(cx);
                }
            }
        }
    }

    /// READ ID: the first address mark that passes the head.
    fn read_id(&mut self) {
        let rate = self.rate;
        let Some(t) = self.transfer.as_mut() else {
            return;
        };
        let drive = self.drives.get(t.drive());
        let found = drive.and_then(|drive| drive.readable(rate).map(|_| drive.track));
        let Some(track) = found else {
            return self.finish(Some((St1::MA, St2::empty())));
        };
        (t.c, t.h, t.r, t.n) = (track, t.head(), 1, SIZE_CODE);
        self.finish(None);
    }

    /// VERIFY: sectors are read, and nothing is moved.
    fn verify(&mut self) {
        loop {
            if let Err(fault) = self.load() {
                return self.finish(Some(fault));
            }
            let Some(t) = self.transfer.as_mut() else {
                return;
            };
            let more = t.advance();
            if let Some(left) = &mut t.left {
                *left = left.wrapping_sub(1);
                match (*left, more) {
                    (0, _) => return self.finish(None),
                    (_, true) => {}
                    (_, false) => return self.finish(Some((St1::EN, St2::empty()))),
                }
            } else if !more {
                return self.finish(None);
            }
        }
    }

    /// Whether a command that writes can.
    fn may_write(&mut self) -> Result<(), Fault> {
        let Some(t) = self.transfer.as_ref() else {
            return Ok(());
        };
        let protected = self
            .drives
            .get(t.drive())
            .is_some_and(|drive| drive.protected());
        match t.writes() && protected {
            true => Err((St1::NW, St2::empty())),
            false => Ok(()),
        }
    }

    /// Finds the sector that is next: its number in the image.
    fn find(&mut self) -> Result<u64, Fault> {
        let rate = self.rate;
        let none = (St1::MA, St2::empty());
        let t = self.transfer.as_ref().ok_or(none)?;
        let drive = self.drives.get(t.drive()).ok_or(none)?;
        let geometry = drive.readable(rate).ok_or(none)?;
        t.check(geometry, drive.track)?;
        Ok(geometry.sector(drive.track, t.head(), t.r))
    }

    /// Reads the next sector into the buffer.
    fn load(&mut self) -> Result<(), Fault> {
        let sector = self.find()?;
        let bad = (St1::DE, St2::DD);
        let drive = self.transfer.as_ref().map_or(0, Transfer::drive);
        let medium = self.drives.get_mut(drive).and_then(|d| d.medium());
        let read = medium.ok_or(bad)?.read(sector, &mut self.buffer[..]);
        read.map_err(|_| bad)
    }

    /// Writes the buffer, or what is to be formatted, to the disk.
    fn store(&mut self) -> Result<(), Fault> {
        let Some(t) = self.transfer.as_mut() else {
            return Ok(());
        };
        if t.command == Command::FormatTrack {
            // The identity that the new sector gets: the image has room for the usual ones.
            [t.c, t.h, t.r, t.n] = [0, 1, 2, 3].map(|i| self.buffer[i]);
            self.buffer.fill(t.fill);
        }
        let sector = self.find()?;
        let bad = (St1::DE, St2::DD);
        let drive = self.transfer.as_ref().map_or(0, Transfer::drive);
        let medium = self.drives.get_mut(drive).and_then(|d| d.medium());
        let written = medium.ok_or(bad)?.write(sector, &self.buffer[..]);
        self.written = true;
        written.map_err(|_| bad)
    }

    /// A sector is done; `end`: the host wants no more.
    fn sector_done(&mut self, end: bool) -> Next {
        let Some(t) = self.transfer.as_mut() else {
            return Next::Done;
        };
        if let Command::FormatTrack = t.command {
            t.left = t.left.map(|left| left.wrapping_sub(1));
            return match t.left {
                Some(0) => Next::Done,
                _ if end => Next::Done,
                _ => Next::Sector,
            };
        }
        // A raw image has no deleted data.
        if t.command == (Command::Read { deleted: true }) && !t.skip {
            return Next::Failed((St1::empty(), St2::CM));
        }
        match (t.advance(), end) {
            (_, true) => Next::Done,
            (true, false) => Next::Sector,
            (false, false) => Next::Failed((St1::EN, St2::empty())),
        }
    }

    /// READ DELETED DATA that skips: over every sector there is.
    fn skips(&self) -> bool {
        self.transfer
            .as_ref()
            .is_some_and(|t| t.command == (Command::Read { deleted: true }) && t.skip)
    }

    fn move_by_dma(&mut self, cx: &mut DevCx<'_>) {
        let overrun = (St1::OR, St2::empty());
        loop {
            let Some(t) = self.transfer.as_ref() else {
                return;
            };
            let (writes, unit) = (t.writes(), t.unit());
            let end = if writes {
                // What the host does not give of a sector is zeroes (82077AA, "Write Data").
                self.buffer.fill(0);
                let part = self.buffer.get_mut(..unit).unwrap_or_default();
                let moved = self.dma.lock().from_memory(DMA_CHANNEL, cx.dma, part);
                if moved.bytes == 0 || moved.bytes < unit && !moved.end {
                    return self.finish(Some(overrun));
                }
                if let Err(fault) = self.store() {
                    return self.finish(Some(fault));
                }
                moved.end
            } else {
                if let Err(fault) = self.load() {
                    return self.finish(Some(fault));
                }
                if self.skips() {
                    false
                } else {
                    let part = self.buffer.get(..unit).unwrap_or_default();
                    let moved = self.dma.lock().to_memory(DMA_CHANNEL, cx.dma, part);
                    if moved.bytes < unit && !moved.end {
                        return self.finish(Some(overrun));
                    }
                    moved.end
                }
            };
            match self.sector_done(end) {
                Next::Sector => {}
                Next::Done => return self.finish(None),
                Next::Failed(fault) => return self.finish(Some(fault)),
            }
        }
    }

    fn begin_by_port(&mut self) {
        self.phase = Phase::Port;
        self.buffer.fill(0);
        if self.transfer.as_ref().is_some_and(Transfer::writes) {
            self.interrupt(true);
        } else {
            self.offer();
        }
    }

    /// Offers the host the next sector at the data port.
    fn offer(&mut self) {
        loop {
            if let Err(fault) = self.load() {
                return self.finish(Some(fault));
            }
            if !self.skips() {
                return self.interrupt(true);
            }
            if let Next::Failed(fault) = self.sector_done(false) {
                return self.finish(Some(fault));
            }
        }
    }

    /// The host reads a byte of data.
    pub(super) fn read_by_port(&mut self) -> u8 {
        let Some(t) = self.transfer.as_mut().filter(|t| !t.writes()) else {
            return 0;
        };
        let byte = self.buffer.get(t.at).copied().unwrap_or(0);
        t.at += 1;
        let full = t.at >= SECTOR;
        self.interrupt(false);
        if full {
            self.go_on_by_port();
        }
        byte
    }

    /// The host writes a byte of data.
    pub(super) fn write_by_port(&mut self, byte: u8) {
        let Some(t) = self.transfer.as_mut().filter(|t| t.writes()) else {
            return;
        };
        if let Some(place) = self.buffer.get_mut(t.at) {
            *place = byte;
        }
        t.at += 1;
        let full = t.at >= t.unit();
        self.interrupt(false);
        if full {
            match self.store() {
                Ok(()) => self.go_on_by_port(),
                Err(fault) => self.finish(Some(fault)),
            }
        }
    }

    fn go_on_by_port(&mut self) {
        if let Some(t) = self.transfer.as_mut() {
            t.at = 0;
        }
        match self.sector_done(false) {
            Next::Sector if self.transfer.as_ref().is_some_and(Transfer::writes) => {
                self.interrupt(true);
            }
            Next::Sector => self.offer(),
            Next::Done => self.finish(None),
            Next::Failed(fault) => self.finish(Some(fault)),
        }
    }

    /// The transfer is over: its seven bytes of results wait for the host.
    fn finish(&mut self, mut fault: Option<Fault>) {
        const ABNORMAL: u8 = 0x40;
        let Some(t) = self.transfer.take() else {
            return self.finish_with(&[]);
        };
        // A floppy has no cache.
        if core::mem::take(&mut self.written)
            && let Some(medium) = self.drives.get_mut(t.drive()).and_then(|d| d.medium())
            && medium.flush().is_err()
        {
            fault.get_or_insert((St1::DE, St2::DD));
        }
        let (st1, st2) = fault.unwrap_or((St1::empty(), St2::empty()));
        // A sector of the other kind ends the command, and is no error.
        let failed = !st1.is_empty() || !(st2 - St2::CM).is_empty();
        let st0 = t.seek_end | t.select | if failed { ABNORMAL } else { 0 };
        self.finish_with(&[st0, st1.bits(), st2.bits(), t.c, t.h, t.r, t.n]);
        self.interrupt(true);
    }
}
