//! A command that moves sectors, or flushes: what of it the medium has been asked, and what comes next.
//!
//! The medium moves the data from and to the guest's memory where it can; otherwise they go through the port's buffer. What has failed is
//! tried again through the buffer and then a sector (of a CD: a block) at a time, so that what precedes the bad place counts and its
//! address is known.

use super::table::{Cursor, Header};
use crate::ata::{Addressing, SECTOR, Span};
use alloc::boxed::Box;
use alloc::vec::Vec;
use hv_core::backend::{BlockBackend, BlockDone, BlockMemory, BlockOp, BlockRequest};
use hv_core::mem::{GuestMemory, Piece};

/// Length of a port's buffer.
pub(super) const BUFFER: usize = 128 << 10;
/// Most bytes moved at once between a medium and the guest's memory, and most pieces of it.
const DIRECT: usize = 2 << 20;
pub(super) const PIECES: usize = 512;

/// By what a command came, as far as its end depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Protocol {
    /// An ATA command by PIO, DMA, or without data.
    Pio(Addressing),
    Dma(Addressing),
    NoData,
    /// A packet.
    Packet,
    /// A queued command.
    Queued,
}

/// How data are moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Direct,
    Buffered,
    /// One sector or block at a time, through the buffer.
    Single,
}

/// Why a command failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// The medium could not do it.
    Medium,
    /// There is less memory than data.
    Overflow,
    /// Memory does not answer.
    Memory,
}

/// What comes next.
pub(super) enum Next {
    /// The medium is asked.
    Ask(BlockRequest),
    /// There is no room for it now.
    Wait,
    /// The command is over.
    End(Result<(), Failure>),
}

/// What a command is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    pub(super) header: Header,
    pub(super) protocol: Protocol,
    pub(super) write: bool,
    pub(super) span: Span,
    /// Sectors that cannot be parted: 1, or 4 on a CD.
    pub(super) unit: u32,
    /// The medium is flushed at the end.
    pub(super) flush: bool,
}

/// A command under way.
pub(super) struct Slot {
    pub(super) work: Option<Work>,
    pub(super) cursor: Cursor,
    /// Where the cursor will be when the medium has done what it was asked.
    after: Cursor,
    step: Step,
    failure: Option<Failure>,
    /// Bytes moved.
    pub(super) moved: u32,
    /// Room for the pieces that a medium is given.
    pieces: Vec<Piece>,
}

impl Slot {
    pub(super) const fn new() -> Self {
        Self {
            work: None,
            cursor: Cursor::START,
            after: Cursor::START,
            step: Step::Direct,
            failure: None,
            moved: 0,
            pieces: Vec::new(),
        }
    }

    pub(super) fn begin(&mut self, work: Work) {
        self.work = Some(work);
        (self.cursor, self.step) = (Cursor::START, Step::Direct);
        (self.failure, self.moved) = (None, 0);
    }

    /// What comes next, if the medium may be asked for data (`may_move`). The request is known by `tag`.
    pub(super) fn next(
        &mut self,
        memory: &dyn GuestMemory,
        medium: &mut dyn BlockBackend,
        buffer: &mut Option<Box<[u8]>>,
        (tag, may_move): (u16, bool),
    ) -> Next {
        let Some(work) = self.work else {
            return Next::End(Err(Failure::Medium));
        };
        if let Some(failure) = self.failure {
            return Next::End(Err(failure));
        }
        let ask = |op, memory| {
            Next::Ask(BlockRequest {
                op,
                sector: work.span.sector,
                memory,
                tag,
            })
        };
        if work.span.left == 0 {
            return match work.flush {
                false => Next::End(Ok(())),
                true if medium.has_room(0) => ask(BlockOp::Flush, BlockMemory::none()),
                true => Next::Wait,
            };
        }
        // A CD may have been exchanged meanwhile.
        if !work.span.fits(work.span.left, medium.sectors()) {
            return Next::End(Err(Failure::Medium));
        }
        if !may_move {
            return Next::Wait;
        }
        let op = if work.write {
            BlockOp::Write
        } else {
            BlockOp::Read
        };
        let (left, unit) = (
            work.span.left as usize * SECTOR,
            work.unit as usize * SECTOR,
        );
        let most = medium.pieces().min(PIECES);
        if self.step == Step::Direct && most != 0 {
            let mut pieces = core::mem::take(&mut self.pieces);
            let want = left.min(DIRECT) / unit * unit;
            self.after = self.cursor;
            let how = (most, !work.write);
            let gathered = self
                .after
                .gather(memory, &work.header, (want, unit), how, &mut pieces);
            match gathered {
                Ok(len) if len != 0 && medium.has_room(pieces.len()) => {
                    return ask(op, BlockMemory::Guest(pieces));
                }
                Ok(len) => {
                    self.pieces = pieces;
                    if len != 0 {
                        return Next::Wait;
                    }
                }
                Err(_) => {
                    self.pieces = pieces;
                    return Next::End(Err(Failure::Memory));
                }
            }
        }
        if self.step == Step::Direct {
            self.step = Step::Buffered;
        }
        if !medium.has_room(1) {
            return Next::Wait;
        }
        let Some(mut bytes) = buffer.take() else {
            return Next::Wait;
        };
        let part = match self.step {
            Step::Single => 0..unit,
            Step::Direct | Step::Buffered => 0..left.min(BUFFER) / unit * unit,
        };
        self.after = self.cursor;
        if work.write {
            let to = bytes.get_mut(part.clone()).unwrap_or_default();
            let failure = match self.after.read(memory, &work.header, to) {
                Ok(len) if len == part.len() => None,
                Ok(_) => Some(Failure::Overflow),
                Err(_) => Some(Failure::Memory),
            };
            if let Some(failure) = failure {
                *buffer = Some(bytes);
                return Next::End(Err(failure));
            }
        }
        let memory = BlockMemory::Buffer {
            buffer: bytes,
            part,
        };
        ask(op, memory)
    }

    /// The medium has done what it was asked, or not. The memory is back. Returns how many bytes have gone through the buffer.
    pub(super) fn answered(
        &mut self,
        memory: &dyn GuestMemory,
        buffer: &mut Option<Box<[u8]>>,
        (request, result): BlockDone,
    ) -> usize {
        let len = request.memory.len();
        let reads = request.op == BlockOp::Read;
        let Some(work) = &mut self.work else {
            self.keep(memory, buffer, request);
            return 0;
        };
        if request.op == BlockOp::Flush {
            work.flush = false;
            if result.is_err() {
                self.failure = Some(Failure::Medium);
            }
            return 0;
        }
        let single = len <= work.unit as usize * SECTOR;
        match result {
            Ok(()) => {
                let mut overflow = None;
                if let BlockMemory::Buffer { buffer, part } = &request.memory
                    && reads
                {
                    let data = buffer.get(part.clone()).unwrap_or_default();
                    overflow = match self.after.write(memory, &work.header, data) {
                        Ok(room) if room == data.len() => None,
                        Ok(_) => Some(Failure::Overflow),
                        Err(_) => Some(Failure::Memory),
                    };
                }
                self.failure = overflow;
                self.cursor = self.after;
                let sectors = (len / SECTOR) as u32;
                work.span.sector += u64::from(sectors);
                work.span.left = work.span.left.saturating_sub(sectors);
                self.moved = self.moved.saturating_add(len as u32);
            }
            Err(_) => match self.step {
                Step::Direct => self.step = Step::Buffered,
                Step::Buffered if !single => self.step = Step::Single,
                Step::Buffered | Step::Single => self.failure = Some(Failure::Medium),
            },
        }
        let through = matches!(request.memory, BlockMemory::Buffer { .. });
        self.keep(memory, buffer, request);
        if through { len } else { 0 }
    }

    /// Takes back the memory of a request, and tells the guest's what the medium has written to it, be it only in part.
    pub(super) fn keep(
        &mut self,
        memory: &dyn GuestMemory,
        to: &mut Option<Box<[u8]>>,
        request: BlockRequest,
    ) {
        match request.memory {
            BlockMemory::Buffer { buffer, .. } => *to = Some(buffer),
            BlockMemory::Guest(pieces) => {
                if request.op == BlockOp::Read {
                    pieces.iter().for_each(|p| memory.written(p.gpa, p.len));
                }
                if request.op != BlockOp::Flush {
                    self.pieces = pieces;
                }
            }
        }
    }
}
