//! Command headers and tables. AHCI 1.3.1 4.2.2, "Command List Structure", and 4.2.3, "Command Table".
//!
//! Nothing of them is remembered but where a command's data have come to: what a guest changes while a command runs, it gets.

use alloc::vec::Vec;
use hv_core::Gpa;
use hv_core::mem::{GuestMemory, NotRam, Piece};

/// Bytes of a header.
const HEADER: u64 = 32;
/// Where the header says how much has been moved.
const BYTE_COUNT: u64 = 4;
/// Where the packet and the table of regions are in a command table.
const PACKET: u64 = 0x40;
const REGIONS: u64 = 0x80;
/// Bytes of a region's descriptor.
const DESCRIPTOR: u64 = 16;
/// The bits of its length, and the one for an interrupt.
const LENGTH: u32 = 0x3f_ffff;
const INTERRUPT: u32 = 1 << 31;

/// Most descriptors looked at for one request of the medium.
const MOST: usize = 4096;

/// What a header says of its command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    at: Gpa,
    /// Descriptors of regions.
    entries: u32,
    table: Gpa,
}

impl Header {
    /// That of the command in `slot` of the list at `list`.
    pub(super) fn read(memory: &dyn GuestMemory, list: u64, slot: usize) -> Result<Self, NotRam> {
        let at = Gpa(list).add(slot as u64 * HEADER);
        let words = memory.read_u128(at)?;
        // The table is at a multiple of 128 bytes.
        let table = (words >> 64) as u64 & !0x7f;
        Ok(Self {
            at,
            entries: (words >> 16) as u32 & 0xffff,
            table: Gpa(table),
        })
    }

    /// Reads the beginning of the table, which is what is sent to the drive.
    pub(super) fn fis(&self, memory: &dyn GuestMemory, fis: &mut [u8]) -> Result<(), NotRam> {
        memory.read(self.table, fis)
    }

    /// Reads the packet for an ATAPI drive.
    pub(super) fn packet(&self, memory: &dyn GuestMemory, to: &mut [u8]) -> Result<(), NotRam> {
        memory.read(self.table.add(PACKET), to)
    }

    /// Tells how many bytes have been moved. Where there is no memory nobody is told.
    pub(super) fn tell(&self, memory: &dyn GuestMemory, bytes: u32) {
        let at = self.at.add(BYTE_COUNT);
        let _ = memory.write(at, &bytes.to_le_bytes());
    }
}

/// Where a command's data have come to in its regions.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Cursor {
    entry: u32,
    /// Bytes of that region that are behind.
    offset: u32,
    /// A region with the I bit is behind.
    pub(super) interrupt: bool,
}

impl Cursor {
    /// Nothing is behind.
    pub(super) const START: Self = Self {
        entry: 0,
        offset: 0,
        interrupt: false,
    };

    /// What follows in the regions, at most `want` bytes of one. None: there are no more.
    fn next(
        &mut self,
        memory: &dyn GuestMemory,
        header: &Header,
        want: usize,
    ) -> Result<Option<(Gpa, usize)>, NotRam> {
        if self.entry >= header.entries {
            return Ok(None);
        }
        let at = REGIONS + u64::from(self.entry) * DESCRIPTOR;
        let words = memory.read_u128(header.table.add(at))?;
        let (base, last) = (words as u64 & !1, (words >> 96) as u32);
        // Lengths are even, and one less is written.
        let len = (last & LENGTH | 1) + 1;
        let start = Gpa(base).add(self.offset.into());
        // The guest may have made it shorter meanwhile.
        let left = len.saturating_sub(self.offset);
        let take = (left as usize).min(want);
        self.offset = self.offset.saturating_add(take as u32);
        if self.offset >= len {
            self.interrupt |= last & INTERRUPT != 0;
            (self.entry, self.offset) = (self.entry + 1, 0);
        }
        Ok(Some((start, take)))
    }

    /// Takes regions until `want` bytes are together, as `pieces` (at most `most`) that a device of the host can access by itself, to write
    /// them if `write`. It ends early where memory cannot be had so, with whole `unit`s. Returns the number of bytes.
    pub(super) fn gather(
        &mut self,
        memory: &dyn GuestMemory,
        header: &Header,
        (want, unit): (usize, usize),
        (most, write): (usize, bool),
        pieces: &mut Vec<Piece>,
    ) -> Result<usize, NotRam> {
        pieces.clear();
        let mut ahead = *self;
        let mut bytes = 0;
        // After the last whole unit: bytes, pieces, length of the last of them, and place.
        let mut whole = (0, 0, 0, *self);
        'regions: for _ in 0..MOST {
            let Some((mut gpa, mut left)) = ahead.next(memory, header, want - bytes)? else {
                break;
            };
            while left != 0 {
                let Some(piece) = memory.piece(gpa, left, write) else {
                    break 'regions;
                };
                let follows = |last: &&mut Piece| {
                    let len = last.len as u64;
                    (last.gpa.add(len), last.hpa.add(len)) == (piece.gpa, piece.hpa)
                };
                let full = pieces.len() == most || pieces.try_reserve(1).is_err();
                match pieces.last_mut().filter(follows) {
                    Some(last) => last.len += piece.len,
                    None if full => break 'regions,
                    None => pieces.push(piece),
                }
                bytes += piece.len;
                gpa = gpa.add(piece.len as u64);
                left = left.saturating_sub(piece.len);
            }
            if bytes.is_multiple_of(unit) {
                let last = pieces.last().map_or(0, |piece| piece.len);
                whole = (bytes, pieces.len(), last, ahead);
            }
            if bytes >= want {
                break;
            }
        }
        let (bytes, count, len, at) = whole;
        pieces.truncate(count);
        if let Some(last) = pieces.last_mut() {
            last.len = len;
        }
        *self = at;
        Ok(bytes)
    }

    /// Copies the data of the regions that follow to `buf`. Returns how many there are.
    pub(super) fn read(
        &mut self,
        memory: &dyn GuestMemory,
        header: &Header,
        buf: &mut [u8],
    ) -> Result<usize, NotRam> {
        self.each(memory, header, buf.len(), |gpa, done, len| {
            let part = buf.get_mut(done..done + len).unwrap_or_default();
            memory.read(gpa, part)
        })
    }

    /// Copies `data` to the regions that follow. Returns for how many there was room.
    pub(super) fn write(
        &mut self,
        memory: &dyn GuestMemory,
        header: &Header,
        data: &[u8],
    ) -> Result<usize, NotRam> {
        self.each(memory, header, data.len(), |gpa, done, len| {
            let part = data.get(done..done + len).unwrap_or_default();
            memory.write(gpa, part)
        })
    }

    fn each(
        &mut self,
        memory: &dyn GuestMemory,
        header: &Header,
        len: usize,
        mut each: impl FnMut(Gpa, usize, usize) -> Result<(), NotRam>,
    ) -> Result<usize, NotRam> {
        let mut done = 0;
        while done < len
            && let Some((gpa, take)) = self.next(memory, header, len - done)?
        {
            each(gpa, done, take)?;
            done += take;
        }
        Ok(done)
    }
}
