//! What a transfer asks of its drive's medium. A channel has at most one request under way, which has the channel's buffer, or memory of the
//! guest into which the medium puts its data (or from which it takes them) by itself. For the time of the request that memory is as under
//! the DMA of any device: the guest may look at it and change it, to its own disadvantage.

use super::channel::Channel;
use super::transfer::{Phase, Supply};
use crate::ata::{Drive, Kind, SECTOR};
use core::ops::Range;
use hv_core::backend::{BlockBackend, BlockDone, BlockError, BlockMemory, BlockOp, BlockRequest};
use hv_core::device::DevCx;
use hv_core::mem::GuestMemory;

/// Most bytes moved at once between a medium and the guest's memory.
const DIRECT_CHUNK: usize = 2 << 20;

impl Channel {
    fn medium(&mut self, drive: usize) -> Option<&mut dyn BlockBackend> {
        self.drives.get_mut(drive)?.as_mut()?.medium()
    }

    /// Sees to it that at least `want` bytes are in the buffer: moves what it holds to its beginning, and reads behind it as much of the span
    /// as fits.
    pub(super) fn fill(&mut self, want: usize) -> Supply {
        let Some(t) = self.transfer.as_mut() else {
            return Supply::Failed;
        };
        if t.end - t.pos >= want {
            return Supply::Ready;
        }
        if t.failed {
            return Supply::Failed;
        }
        if self.waiting.is_some() {
            return Supply::Pending;
        }
        self.buf.copy_within(t.pos..t.end, 0);
        t.end -= t.pos;
        t.pos = 0;
        let room = (self.buf.len() - t.end).min(t.chunk()) / SECTOR;
        let sectors = t.span.left.min(room as u32) / t.unit * t.unit;
        let part = t.end..t.end + sectors as usize * SECTOR;
        self.ask(BlockOp::Read, part, want)
    }

    /// Writes what the buffer holds to the medium.
    pub(super) fn drain(&mut self) -> Supply {
        match &self.transfer {
            Some(t) if !t.failed => {
                let sectors = t.pos / SECTOR;
                self.ask(BlockOp::Write, 0..sectors * SECTOR, 0)
            }
            _ => Supply::Failed,
        }
    }

    /// Asks the medium for the next sectors of the span, which are `part` of the buffer.
    fn ask(&mut self, op: BlockOp, part: Range<usize>, want: usize) -> Supply {
        if self.waiting.is_some() {
            return Supply::Pending;
        }
        let Some(t) = &self.transfer else {
            return Supply::Failed;
        };
        let (drive, span) = (t.drive, t.span);
        let sectors = (part.len() / SECTOR) as u32;
        let fits = self
            .medium(drive)
            .is_some_and(|medium| sectors != 0 && span.fits(sectors, medium.sectors()));
        if !fits {
            return Supply::Failed;
        }
        let buffer = core::mem::take(&mut self.buf);
        let request = BlockRequest {
            op,
            sector: span.sector,
            memory: BlockMemory::Buffer { buffer, part },
            tag: 0,
        };
        let Some(done) = self.request(drive, request) else {
            return Supply::Pending;
        };
        self.answered(done);
        match &self.transfer {
            // What could be read before a bad place counts.
            Some(t) if op == BlockOp::Read && t.end - t.pos >= want => Supply::Ready,
            Some(t) if op == BlockOp::Write && !t.failed => Supply::Ready,
            _ => Supply::Failed,
        }
    }

    /// Asks the medium for the next sectors of the span, and to move them from or to the memory that the bus master's regions name. None: they
    /// have to go through the buffer, or there are none.
    pub(super) fn ask_directly(&mut self, dma: &dyn GuestMemory) -> Option<Supply> {
        if self.waiting.is_some() {
            return Some(Supply::Pending);
        }
        let t = self.transfer.as_ref().filter(|t| !t.buffered)?;
        let op = match t.phase {
            Phase::DmaIn if t.pos == t.end => BlockOp::Read,
            Phase::DmaOut if t.pos == 0 => BlockOp::Write,
            _ => return None,
        };
        let (drive, span, unit) = (t.drive, t.span, t.unit as usize * SECTOR);
        let medium = self.medium(drive)?;
        let most = medium.pieces();
        if most == 0 || span.left == 0 || !span.fits(span.left, medium.sectors()) {
            return None;
        }
        let want = (span.left as usize * SECTOR).min(DIRECT_CHUNK) / unit * unit;
        let mut pieces = core::mem::take(&mut self.pieces);
        let write = op == BlockOp::Read;
        if self.bm.gather(dma, (want, unit), write, most, &mut pieces) == 0 {
            self.pieces = pieces;
            return None;
        }
        let request = BlockRequest {
            op,
            sector: span.sector,
            memory: BlockMemory::Guest(pieces),
            tag: 0,
        };
        let Some(done) = self.request(drive, request) else {
            return Some(Supply::Pending);
        };
        tell(dma, &done.0);
        self.answered(done);
        Some(Supply::Ready)
    }

    /// Asks the medium to put what has been written on stable storage.
    pub(super) fn ask_to_flush(&mut self) -> Supply {
        let Some(drive) = self.transfer.as_ref().map(|t| t.drive) else {
            return Supply::Failed;
        };
        let request = BlockRequest {
            op: BlockOp::Flush,
            sector: 0,
            memory: BlockMemory::none(),
            tag: 0,
        };
        match self.request(drive, request) {
            None => Supply::Pending,
            Some((_, Ok(()))) => Supply::Ready,
            Some((_, Err(_))) => Supply::Failed,
        }
    }

    /// Gives the medium a request. What is over at once is returned.
    fn request(&mut self, drive: usize, request: BlockRequest) -> Option<BlockDone> {
        let done = match self.medium(drive) {
            Some(medium) => medium.begin(request),
            None => Some((request, Err(BlockError))),
        };
        if done.is_none() {
            self.waiting = Some(drive);
        }
        done
    }

    /// The medium has answered: the memory is back, and the transfer knows whether it has failed.
    fn answered(&mut self, (mut request, result): BlockDone) {
        let sectors = request.memory.len() / SECTOR;
        let direct = matches!(request.memory, BlockMemory::Guest(_));
        let good = match (result, self.transfer.as_ref().map(|t| (t.drive, t.unit))) {
            (Ok(()), _) | (_, None) => sectors,
            (Err(_), Some((drive, unit))) => self.salvage(drive, unit as usize, &mut request),
        };
        self.keep(request.memory);
        let Some(t) = &mut self.transfer else {
            return;
        };
        if request.op == BlockOp::Flush {
            t.failed = result.is_err();
            return;
        }
        if direct && result.is_err() {
            // Once more, through the buffer, which shows how far it can be carried out.
            t.buffered = true;
            self.bm.put_back();
            return;
        }
        t.failed = good != sectors;
        t.span.sector += good as u64;
        t.span.left = t.span.left.saturating_sub(good as u32);
        if !direct {
            match request.op {
                BlockOp::Read => t.end += good * SECTOR,
                BlockOp::Write | BlockOp::Flush => t.pos -= good * SECTOR,
            }
        }
        if request.op == BlockOp::Write && !t.failed {
            self.written();
        }
    }

    /// Takes back the memory of a request.
    fn keep(&mut self, memory: BlockMemory) {
        match memory {
            BlockMemory::Buffer { buffer, .. } => self.buf = buffer,
            BlockMemory::Guest(pieces) => self.pieces = pieces,
        }
    }

    /// Finds out how far a request can be carried out that failed as a whole, in sectors: what precedes the bad place counts.
    fn salvage(&mut self, drive: usize, unit: usize, request: &mut BlockRequest) -> usize {
        let (op, first) = (request.op, request.sector);
        let BlockMemory::Buffer { buffer, part } = &mut request.memory else {
            return 0;
        };
        let part = buffer.get_mut(part.clone());
        let (Some(medium), Some(part)) = (self.medium(drive), part) else {
            return 0;
        };
        let mut good = 0;
        for piece in part.chunks_exact_mut(unit * SECTOR) {
            let sector = first + good as u64;
            let result = match op {
                BlockOp::Read => medium.read(sector, piece),
                BlockOp::Write => medium.write(sector, piece),
                BlockOp::Flush => Ok(()),
            };
            if result.is_err() {
                break;
            }
            good += unit;
        }
        good
    }

    /// Data have been written. Without a write cache they are on the medium when the command is over (ATA/ATAPI-6 8.46, "SET FEATURES",
    /// "Enable/disable write cache").
    fn written(&mut self) {
        if let Some(t) = self.transfer.as_mut().filter(|t| t.span.left == 0)
            && let Some(Drive {
                kind: Kind::Disk(disk),
                ..
            }) = &mut self.drives[t.drive & 1]
            && !disk.write_cache
        {
            t.failed = disk.backend.flush().is_err();
        }
    }

    /// Goes on with the transfer if the medium has answered.
    pub(super) fn check_medium(&mut self, cx: &mut DevCx<'_>) {
        let Some(done) = self.finish(cx.dma, false) else {
            return;
        };
        self.answered(done);
        match self.transfer.as_ref().map(|t| (t.phase, t.failed)) {
            Some((Phase::PioIn, _)) => self.offer_block(cx),
            Some((Phase::PioOut, false)) => self.out_block_written(cx),
            Some((Phase::Flush, false)) => self.flushed(cx),
            Some((Phase::PioOut | Phase::Flush, true)) => self.medium_failed(cx, true),
            Some((Phase::DmaIn | Phase::DmaOut, _)) => self.go_on(cx),
            Some((Phase::Packet, _)) | None => {}
        }
    }

    /// The request under way, if it is over.
    fn finish(&mut self, dma: &dyn GuestMemory, wait: bool) -> Option<BlockDone> {
        let drive = self.waiting?;
        let done = match self.answer.take() {
            Some(done) => done,
            None => self.medium(drive)?.finish(wait)?,
        };
        self.waiting = None;
        tell(dma, &done.0);
        Some(done)
    }

    /// Waits for what the medium of `drive` is at, before it is changed. The next poll goes on from there.
    pub(super) fn settle_medium(&mut self, drive: usize) {
        if self.waiting == Some(drive) && self.answer.is_none() {
            self.answer = self.medium(drive).and_then(|medium| medium.finish(true));
        }
    }

    /// Forgets the transfer. What the medium is at is waited for: it has the buffer, or memory of the guest.
    pub(super) fn drop_transfer(&mut self, dma: &dyn GuestMemory) {
        if let Some((request, _)) = self.finish(dma, true) {
            self.keep(request.memory);
        }
        self.transfer = None;
    }
}

/// Tells the guest's memory what the medium has written to it, be it only in part.
fn tell(dma: &dyn GuestMemory, request: &BlockRequest) {
    if let (BlockOp::Read, BlockMemory::Guest(pieces)) = (request.op, &request.memory) {
        for piece in pieces {
            dma.written(piece.gpa, piece.len);
        }
    }
}
