//! The host side of devices: disks, networks, consoles, keyboards, random numbers.

use crate::mem::Piece;
use crate::offload::{Offload, Offloads};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

/// The host could not read or write the medium.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockError;

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the host's disk reported an error")
    }
}

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockOp {
    /// Sectors are read into the memory.
    Read,
    /// Sectors are written from the memory.
    Write,
    /// Everything written goes to stable storage. There is no memory.
    Flush,
}

/// The memory of a request. It goes with the request.
#[derive(Debug)]
pub enum BlockMemory {
    /// The hypervisor's own.
    Buffer {
        /// The memory.
        buffer: Box<[u8]>,
        /// The part of it that is used: whole sectors, at least one.
        part: Range<usize>,
    },
    /// The guest's: at most [`BlockBackend::pieces`], together whole sectors. It stays the guest's until the request is over.
    Guest(Vec<Piece>),
}

impl BlockMemory {
    /// No memory.
    #[must_use]
    pub const fn none() -> Self {
        Self::Guest(Vec::new())
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Buffer { part, .. } => part.len(),
            Self::Guest(pieces) => pieces.iter().map(|piece| piece.len).sum(),
        }
    }

    /// Whether it is no memory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A transfer of sectors, or a flush.
#[derive(Debug)]
pub struct BlockRequest {
    /// What is done.
    pub op: BlockOp,
    /// The first sector.
    pub sector: u64,
    /// The memory.
    pub memory: BlockMemory,
    /// By what whoever asks knows it again.
    pub tag: u16,
}

impl BlockRequest {
    /// Does it at once, if its memory is the hypervisor's own.
    ///
    /// # Errors
    /// Those of the medium.
    pub fn perform(&mut self, medium: &mut (impl BlockBackend + ?Sized)) -> Result<(), BlockError> {
        if self.op == BlockOp::Flush {
            return medium.flush();
        }
        let BlockMemory::Buffer { buffer, part } = &mut self.memory else {
            return Err(BlockError);
        };
        let part = buffer.get_mut(part.clone()).ok_or(BlockError)?;
        match self.op {
            BlockOp::Read => medium.read(self.sector, part),
            BlockOp::Write => medium.write(self.sector, part),
            BlockOp::Flush => Ok(()),
        }
    }
}

/// A request that is over, and how it went.
pub type BlockDone = (BlockRequest, Result<(), BlockError>);

/// A medium of 512-byte sectors.
pub trait BlockBackend: Send {
    /// Its length in 512-byte sectors.
    fn sectors(&self) -> u64;

    /// Whether writes are refused.
    fn read_only(&self) -> bool;

    /// Reads whole sectors from `sector` on. `buf.len()` is a multiple of 512 and the range lies within the medium.
    ///
    /// # Errors
    /// The medium could not be read.
    fn read(&mut self, sector: u64, buf: &mut [u8]) -> Result<(), BlockError>;

    /// Writes whole sectors from `sector` on.
    ///
    /// # Errors
    /// The medium could not be written, or is read-only.
    fn write(&mut self, sector: u64, buf: &[u8]) -> Result<(), BlockError>;

    /// Returns when everything written is on stable storage.
    ///
    /// # Errors
    /// It could not be made so.
    fn flush(&mut self) -> Result<(), BlockError>;

    /// The most pieces of guest memory that a request may have. 0: its memory has to be the hypervisor's own.
    fn pieces(&self) -> usize {
        0
    }

    /// Whether a further request can be begun that has so many pieces of memory.
    fn has_room(&self, pieces: usize) -> bool {
        let _ = pieces;
        true
    }

    /// Begins a request. One that is over at once is returned; of another [`finish`](Self::finish) tells. There may be several, as long as
    /// there [is room](Self::has_room); they are over in any order, and a flush covers the writes that were over before it was begun. While
    /// there is one, nothing else is read, written or flushed. A medium that is dropped waits for all.
    fn begin(&mut self, mut request: BlockRequest) -> Option<BlockDone> {
        let result = request.perform(self);
        Some((request, result))
    }

    /// A request that was begun and is over, if there is one; with `wait`, one is waited for if any is not over.
    fn finish(&mut self, wait: bool) -> Option<BlockDone> {
        let _ = wait;
        None
    }

    /// As [`finish`](Self::finish) without `wait`, for the only request that there is: it is looked for a short while, as long as it may
    /// cost to be told of it.
    fn finish_soon(&mut self) -> Option<BlockDone> {
        self.finish(false)
    }
}

/// Where a network card's frames go and come from. Frames are Ethernet II without FCS.
pub trait NetBackend: Send {
    /// Sends one frame.
    fn send(&mut self, frame: &[u8]);
    /// Takes the next received frame into `buf` (of at least 1,514 bytes) and returns its length.
    fn receive(&mut self, buf: &mut [u8]) -> Option<usize>;

    /// Sends one frame, of which something is left to be done.
    fn send_unfinished(&mut self, frame: &[u8], offload: &Offload) {
        offload.finish(frame, &mut |frame| self.send(frame));
    }

    /// From now on something may be left to be done of frames that are received, and such frames are taken by
    /// [`receive_unfinished`](Self::receive_unfinished).
    fn accept(&mut self, offloads: Offloads) {
        let _ = offloads;
    }

    /// As [`receive`](Self::receive), of a frame up to [`LARGEST`](crate::offload::LARGEST), with what is left to be done of it: no more than
    /// was accepted when it came.
    fn receive_unfinished(&mut self, buf: &mut [u8]) -> Option<(usize, Offload)> {
        self.receive(buf).map(|len| (len, Offload::NONE))
    }
}

/// A network where nobody else is.
#[derive(Default, Debug)]
pub struct NullNet;

impl NetBackend for NullNet {
    fn send(&mut self, _frame: &[u8]) {}
    fn receive(&mut self, _buf: &mut [u8]) -> Option<usize> {
        None
    }
}

/// Where random numbers come from that nobody can foresee.
pub trait EntropyBackend: Send {
    /// Fills `buf` from its beginning on, and says how many bytes it was. Less than all: there is no more just now.
    fn fill(&mut self, buf: &mut [u8]) -> usize;
}

/// Where a byte stream of the guest (COM1, the debug ports) goes.
pub trait ConsoleBackend: Send {
    /// The guest has sent `byte`.
    fn write(&mut self, byte: u8);
}

/// A console that nobody reads.
#[derive(Default, Debug)]
pub struct NullConsole;

impl ConsoleBackend for NullConsole {
    fn write(&mut self, _byte: u8) {}
}
