//! What a transfer asks of its drive's medium. A channel has at most one request under way, which has the channel's buffer.

use super::channel::Channel;
use super::drive::{Drive, Kind, SECTOR};
use super::transfer::Phase;
use core::ops::Range;
use hv_core::backend::{BlockBackend, BlockDone, BlockOp, BlockRequest};
use hv_core::device::DevCx;

/// How it stands with data that are asked of the medium, or given to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Supply {
    /// They are there.
    Ready,
    /// The medium is at it.
    Pending,
    /// The medium failed.
    Failed,
}

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
        let buffer = core::mem::take(&mut self.buf);
        let request = BlockRequest {
            op,
            sector: span.sector,
            buffer,
            part,
        };
        let done = match self.medium(drive) {
            Some(medium) if sectors != 0 && span.fits(sectors, medium.sectors()) => {
                medium.begin(request)
            }
            _ => {
                self.buf = request.buffer;
                return Supply::Failed;
            }
        };
        let Some(done) = done else {
            self.waiting = Some(drive);
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

    /// The medium has answered: the buffer is back, and the transfer knows whether it has failed.
    fn answered(&mut self, (mut request, result): BlockDone) {
        let good = match (result, self.transfer.as_ref().map(|t| (t.drive, t.unit))) {
            (Ok(()), _) | (_, None) => request.part.len() / SECTOR,
            (Err(_), Some((drive, unit))) => self.salvage(drive, unit as usize, &mut request),
        };
        self.buf = request.buffer;
        let Some(t) = &mut self.transfer else {
            return;
        };
        t.failed = good * SECTOR != request.part.len();
        t.span.sector += good as u64;
        t.span.left = t.span.left.saturating_sub(good as u32);
        match request.op {
            BlockOp::Read => t.end += good * SECTOR,
            BlockOp::Write => {
                t.pos -= good * SECTOR;
                if !t.failed {
                    self.written();
                }
            }
        }
    }

    /// Finds out how far a request can be carried out that failed as a whole, in sectors: what precedes the bad place counts.
    fn salvage(&mut self, drive: usize, unit: usize, request: &mut BlockRequest) -> usize {
        let (op, first) = (request.op, request.sector);
        let part = request.buffer.get_mut(request.part.clone());
        let (Some(medium), Some(part)) = (self.medium(drive), part) else {
            return 0;
        };
        let mut good = 0;
        for piece in part.chunks_exact_mut(unit * SECTOR) {
            let sector = first + good as u64;
            let result = match op {
                BlockOp::Read => medium.read(sector, piece),
                BlockOp::Write => medium.write(sector, piece),
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
        let Some(done) = self.finish(false) else {
            return;
        };
        self.answered(done);
        match self.transfer.as_ref().map(|t| (t.phase, t.failed)) {
            Some((Phase::PioIn, _)) => self.offer_block(cx),
            Some((Phase::PioOut, false)) => self.out_block_written(cx),
            Some((Phase::PioOut, true)) => self.medium_failed(cx, true),
            Some((Phase::DmaIn | Phase::DmaOut, _)) => self.go_on(cx),
            Some((Phase::Packet, _)) | None => {}
        }
    }

    /// The request under way, if it is over.
    fn finish(&mut self, wait: bool) -> Option<BlockDone> {
        let drive = self.waiting?;
        let done = match self.answer.take() {
            Some(done) => done,
            None => self.medium(drive)?.finish(wait)?,
        };
        self.waiting = None;
        Some(done)
    }

    /// Waits for what the medium of `drive` is at, before it is changed. The next poll goes on from there.
    pub(super) fn settle_medium(&mut self, drive: usize) {
        if self.waiting == Some(drive) && self.answer.is_none() {
            self.answer = self.medium(drive).and_then(|medium| medium.finish(true));
        }
    }

    /// Forgets the transfer. What the medium is at is waited for: it has the buffer.
    pub(super) fn drop_transfer(&mut self) {
        if let Some((request, _)) = self.finish(true) {
            self.buf = request.buffer;
        }
        self.transfer = None;
    }
}
