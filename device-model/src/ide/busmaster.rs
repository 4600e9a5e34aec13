//! The bus-master engine of one channel: registers and the walk through the table of physical region descriptors (PRD).
//! *Programming Interface for Bus Master IDE Controller*, revision 1.0; 82371SB Data Sheet, "PCI Bus Master
//! IDE Registers".
//!
//! The engine hands out pieces of guest memory; the [transfer](super::transfer) moves the data, or the [medium](super::medium) does.

use alloc::vec::Vec;
use bitflags::bitflags;
use hv_core::Gpa;
use hv_core::mem::{GuestMemory, NotRam, Piece};

/// Offset of the command register.
const COMMAND: u8 = 0;
/// Offset of the status register.
const STATUS: u8 = 2;
/// Offset of the descriptor table pointer, four bytes.
const TABLE: u8 = 4;

bitflags! {
    /// The command register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    struct Command: u8 {
        /// Start, or stop when cleared.
        const START = 1 << 0;
        /// The transfer goes to memory. The drive's command decides; this bit is only kept.
        const TO_MEMORY = 1 << 3;
    }

    /// The status register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    struct BmStatus: u8 {
        /// A region remains and the engine is started.
        const ACTIVE = 1 << 0;
        /// Memory did not answer. Write 1 to clear.
        const ERROR = 1 << 1;
        /// The drive has raised its interrupt. Write 1 to clear.
        const INTERRUPT = 1 << 2;
        /// Firmware's note that drive 0 and drive 1 do DMA.
        const DRIVES = 3 << 5;
    }
}

/// Bit 31 of a descriptor's second double word: the last descriptor.
const END_OF_TABLE: u32 = 1 << 31;

/// A piece of memory that the engine is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Region {
    pub(super) start: Gpa,
    pub(super) len: u32,
}

/// Most descriptors looked at for one request of the medium.
const DESCRIPTORS: usize = 512;

/// How far the engine has come.
#[derive(Clone, Copy, Default)]
struct Position {
    /// The next descriptor.
    next: u32,
    /// What remains of the current region.
    region: Option<Region>,
    /// The current region is the last.
    last: bool,
}

/// The engine.
#[derive(Clone, Default)]
pub(super) struct BusMaster {
    command: Command,
    status: BmStatus,
    table: u32,
    at: Position,
    /// Where it was before the medium was given the memory of regions.
    before: Option<Position>,
}

impl BusMaster {
    /// Reads one byte of the block.
    pub(super) fn read(&self, reg: u8) -> u8 {
        match reg {
            COMMAND => self.command.bits(),
            STATUS => self.status.bits(),
            TABLE..=7 => self.table.to_le_bytes()[usize::from(reg - TABLE)],
            _ => 0xff,
        }
    }

    /// Writes one byte of the block; true if the engine was started by it.
    pub(super) fn write(&mut self, reg: u8, value: u8) -> bool {
        match reg {
            COMMAND => {
                let was = self.command.contains(Command::START);
                self.command = Command::from_bits_truncate(value);
                let is = self.command.contains(Command::START);
                if is && !was {
                    self.status.insert(BmStatus::ACTIVE);
                    self.before = None;
                    self.at = Position {
                        next: self.table,
                        region: None,
                        last: false,
                    };
                } else if !is {
                    self.status.remove(BmStatus::ACTIVE);
                }
                return is && !was;
            }
            STATUS => {
                let v = BmStatus::from_bits_truncate(value);
                self.status
                    .remove(v & (BmStatus::ERROR | BmStatus::INTERRUPT));
                self.status = (self.status - BmStatus::DRIVES) | (v & BmStatus::DRIVES);
            }
            TABLE..=7 => {
                let mut t = self.table.to_le_bytes();
                t[usize::from(reg - TABLE)] = value;
                self.table = u32::from_le_bytes(t) & !3;
            }
            _ => {}
        }
        false
    }

    /// Whether the engine is started and has not come to the end of the table.
    pub(super) fn active(&self) -> bool {
        self.status.contains(BmStatus::ACTIVE)
    }

    /// The drive's interrupt line has risen.
    pub(super) fn latch_interrupt(&mut self) {
        self.status.insert(BmStatus::INTERRUPT);
    }

    /// What is left of the current region, reading the next descriptor when it is used up. None: the table is at its end or
    /// memory did not answer; the engine has stopped.
    pub(super) fn region(&mut self, dma: &dyn GuestMemory) -> Option<Region> {
        if !self.active() {
            return None;
        }
        if self.at.region.is_none() {
            if self.at.last {
                self.status.remove(BmStatus::ACTIVE);
                return None;
            }
            match Self::descriptor(dma, self.at.next) {
                Ok((region, last)) => {
                    self.at = Position {
                        next: self.at.next.wrapping_add(8),
                        region: Some(region),
                        last,
                    };
                }
                Err(NotRam(_)) => self.fail(),
            }
        }
        self.at.region
    }

    /// Takes regions until `want` bytes are together, as `pieces` (at most `most`) that a device of the host can access by itself, to write
    /// them if `write`. It ends early where memory cannot be had so, then with whole `unit`s; `want` is a multiple of `unit`. Returns the
    /// number of bytes.
    pub(super) fn gather(
        &mut self,
        dma: &dyn GuestMemory,
        (want, unit): (usize, usize),
        write: bool,
        most: usize,
        pieces: &mut Vec<Piece>,
    ) -> usize {
        pieces.clear();
        let mut ahead = self.clone();
        let mut bytes = 0;
        // After the last whole unit: bytes, pieces, length of the last of them, and position.
        let mut whole = (0, 0, 0, self.at);
        for _ in 0..DESCRIPTORS {
            let Some(region) = ahead.region(dma).filter(|_| bytes < want) else {
                break;
            };
            let len = (region.len as usize).min(want - bytes);
            let Some(piece) = dma.piece(region.start, len, write) else {
                break;
            };
            let follows = |last: &&mut Piece| {
                let end = (last.gpa.add(last.len as u64), last.hpa.add(last.len as u64));
                end == (piece.gpa, piece.hpa)
            };
            if let Some(last) = pieces.last_mut().filter(follows) {
                last.len += piece.len;
            } else if pieces.len() < most && pieces.try_reserve(1).is_ok() {
                pieces.push(piece);
            } else {
                break;
            }
            ahead.consume(piece.len as u32);
            bytes += piece.len;
            if bytes.is_multiple_of(unit) {
                let last = pieces.last().map_or(0, |piece| piece.len);
                whole = (bytes, pieces.len(), last, ahead.at);
            }
        }
        let (bytes, count, len, at) = whole;
        pieces.truncate(count);
        if let Some(last) = pieces.last_mut() {
            last.len = len;
        }
        self.before = Some(self.at);
        self.at = at;
        bytes
    }

    /// Puts back the regions that were gathered last, unless the engine has been started anew since.
    pub(super) fn put_back(&mut self) {
        if let Some(before) = self.before.take() {
            self.at = before;
        }
    }

    fn descriptor(dma: &dyn GuestMemory, at: u32) -> Result<(Region, bool), NotRam> {
        let mut d = [0; 8];
        dma.read(Gpa(at.into()), &mut d)?;
        let [a, b, c, e, count_low, count_high, ..] = d;
        let flags = u32::from_le_bytes([count_low, count_high, d[6], d[7]]);
        let start = u32::from_le_bytes([a, b, c, e]) & !1;
        let len = match flags & 0xfffe {
            0 => 0x1_0000,
            n => n,
        };
        Ok((
            Region {
                start: Gpa(start.into()),
                len,
            },
            flags & END_OF_TABLE != 0,
        ))
    }

    /// `bytes` of the current region are done.
    pub(super) fn consume(&mut self, bytes: u32) {
        self.at.region = self.at.region.and_then(|r| {
            let len = r.len.checked_sub(bytes).filter(|&l| l != 0)?;
            Some(Region {
                start: Gpa(r.start.0 + u64::from(bytes)),
                len,
            })
        });
    }

    /// Memory did not answer: the engine stops.
    pub(super) fn fail(&mut self) {
        self.at.region = None;
        self.status.insert(BmStatus::ERROR);
        self.status.remove(BmStatus::ACTIVE);
    }

    /// The drive has no more data: the engine stays active if the table describes more memory than that.
    pub(super) fn drive_done(&mut self) {
        if self.at.region.is_none() && self.at.last {
            self.status.remove(BmStatus::ACTIVE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::testing::VecMemory;

    fn started(mem: &VecMemory, table: &[u8]) -> BusMaster {
        mem.write(Gpa(0x1000), table).unwrap();
        let mut bm = BusMaster::default();
        bm.write(TABLE + 1, 0x10);
        assert!(bm.write(COMMAND, 9));
        bm
    }

    #[test]
    fn registers_keep_only_defined_bits() {
        let mut bm = BusMaster::default();
        bm.write(COMMAND, 0xff);
        bm.write(STATUS, 0xff);
        bm.write(TABLE, 0xff);
        assert_eq!(
            [
                bm.read(COMMAND),
                bm.read(STATUS),
                bm.read(TABLE),
                bm.read(1),
                bm.read(3)
            ],
            [9, 0x61, 0xfc, 255, 255]
        );
    }

    #[test]
    fn count_of_zero_is_64_kib_and_odd_addresses_round_down() {
        let mem = VecMemory::new(0x2000);
        let mut bm = started(&mem, &[1, 0x20, 0, 0, 0, 0, 0, 0x80]);
        assert_eq!(
            bm.region(&mem),
            Some(Region {
                start: Gpa(0x2000),
                len: 0x1_0000
            })
        );
        bm.consume(0x1_0000);
        assert_eq!(bm.region(&mem), None);
        assert!(!bm.active());
    }

    #[test]
    fn interrupt_and_error_are_cleared_by_writing_one() {
        let mut bm = BusMaster::default();
        bm.latch_interrupt();
        bm.fail();
        assert_eq!(bm.read(STATUS), 6);
        bm.write(STATUS, 0);
        assert_eq!(bm.read(STATUS), 6);
        bm.write(STATUS, 4);
        assert_eq!(bm.read(STATUS), 2);
    }

    #[test]
    fn table_outside_memory_is_an_error() {
        let mem = VecMemory::new(0x1000);
        let mut bm = BusMaster::default();
        bm.write(TABLE + 3, 0xff);
        bm.write(COMMAND, 1);
        assert_eq!(bm.region(&mem), None);
        assert_eq!(bm.read(STATUS), 2);
    }

    #[test]
    fn clearing_start_stops_and_setting_it_again_begins_at_the_first_descriptor() {
        let mem = VecMemory::new(0x2000);
        let mut bm = started(
            &mem,
            &[0, 0x20, 0, 0, 4, 0, 0, 0, 0, 0x40, 0, 0, 4, 0, 0, 0x80],
        );
        bm.region(&mem);
        bm.consume(4);
        assert_eq!(bm.region(&mem).unwrap().start, Gpa(0x4000));
        bm.write(COMMAND, 8);
        assert_eq!(bm.region(&mem), None);
        bm.write(COMMAND, 9);
        assert_eq!(bm.region(&mem).unwrap().start, Gpa(0x2000));
    }
}
