//! Data on its way between a drive and the host: data blocks through the data port, or regions of memory by DMA.
//!
//! A medium that can do so moves the data of DMA between itself and the guest's memory. Other data pass through the channel's buffer, which
//! is filled from the medium (and emptied to it) up to [`CHUNK`] or [`DMA_CHUNK`] bytes at a time whatever the size of the data blocks is.

use crate::ata::{Addressing, BLOCK, SECTOR, Span};

/// Most bytes moved from or to the medium at once.
pub(super) const CHUNK: usize = 64 << 10;
/// The same for DMA, whose regions are larger and wait for nobody.
pub(super) const DMA_CHUNK: usize = 256 << 10;
/// Length of a channel's buffer: a chunk, and the part of a CD block that may be left over before it.
pub(super) const BUFFER: usize = DMA_CHUNK + BLOCK;

/// Which way data go, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// The host writes a command packet.
    Packet,
    /// The host reads the data port.
    PioIn,
    /// The host writes the data port.
    PioOut,
    /// The bus master writes memory.
    DmaIn,
    /// The bus master reads memory.
    DmaOut,
    /// There are no data: the medium is being flushed.
    Flush,
}

/// What the command was, as far as its data and its end depend on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Protocol {
    /// An ATA command, which leaves an address at its end.
    Ata(Addressing),
    /// An ATA command whose data are not sectors.
    AtaPlain,
    /// A packet command.
    Packet,
}

/// A transfer under way.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) phase: Phase,
    pub(super) protocol: Protocol,
    /// The drive, 0 or 1.
    pub(super) drive: usize,
    pub(super) span: Span,
    /// Bytes of a data block.
    pub(super) block: usize,
    /// Sectors that cannot be parted: 1, or 4 on a CD.
    pub(super) unit: u32,
    /// The next byte of the buffer.
    pub(super) pos: usize,
    /// End of the data in the buffer (in).
    pub(super) end: usize,
    /// End of the current data block in the buffer.
    pub(super) stop: usize,
    /// The medium failed at the sector where the span now stands.
    pub(super) failed: bool,
    /// The medium is not given the guest's memory, but only the buffer.
    pub(super) buffered: bool,
}

impl Transfer {
    /// A transfer that has not begun, of no sectors and no data.
    pub(super) fn new(phase: Phase, protocol: Protocol, drive: usize) -> Self {
        Self {
            phase,
            protocol,
            drive,
            span: Span::default(),
            block: 0,
            unit: 1,
            pos: 0,
            end: 0,
            stop: 0,
            failed: false,
            buffered: false,
        }
    }

    /// Bytes not yet moved.
    pub(super) fn remaining(&self) -> usize {
        let span = self.span.left as usize * SECTOR;
        match self.phase {
            Phase::PioIn | Phase::DmaIn => span + (self.end - self.pos),
            Phase::PioOut | Phase::DmaOut => span - self.pos.min(span),
            Phase::Packet => self.stop - self.pos,
            Phase::Flush => 0,
        }
    }

    /// Most bytes moved from or to the medium at once.
    pub(super) fn chunk(&self) -> usize {
        match self.phase {
            Phase::DmaIn | Phase::DmaOut => DMA_CHUNK,
            Phase::Packet | Phase::PioIn | Phase::PioOut | Phase::Flush => CHUNK,
        }
    }

    /// Bytes of the next data block.
    pub(super) fn next_block(&self) -> usize {
        self.block.min(self.remaining())
    }
}

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
