//! The PACKET protocol. ATA/ATAPI-6 8.23, "PACKET", and 9.8, "PACKET
//! command protocol".

use super::channel::Channel;
use super::transfer::{Phase, Protocol, Transfer};
use crate::ata::{
    Drive, FEATURE_DMA, Kind, PACKET_LEN, REASON_COMMAND, REASON_DATA_IN, REASON_END, Reply,
    SECTORS_PER_BLOCK, Sense, Span, Status, TaskFile,
};
use hv_core::device::DevCx;

/// Largest data block.
const BYTE_COUNT_MAX: u16 = 0xfffe;

/// A data block of `len` bytes (at most [`BYTE_COUNT_MAX`]) is ready.
pub(super) fn announce_data(regs: &mut TaskFile, len: usize) {
    let [low, high, ..] = len.to_le_bytes();
    regs.count.set(REASON_DATA_IN);
    regs.lba[1].set(low);
    regs.lba[2].set(high);
}

/// The command is over.
pub(super) fn announce_end(regs: &mut TaskFile) {
    regs.count.set(REASON_END);
}

/// The most bytes that the host takes in a block. Zero and odd limits, which the standard forbids, are made sense of.
fn byte_count_limit(regs: &TaskFile) -> usize {
    match u16::from_le_bytes([regs.lba[1].now(), regs.lba[2].now()]) {
        0 | u16::MAX => BYTE_COUNT_MAX.into(),
        n => usize::from(n & !1).max(2),
    }
}

impl Channel {
    /// The selected drive is given PACKET.
    pub(super) fn ask_for_packet(&mut self, cx: &mut DevCx<'_>) {
        let position = self.selected();
        self.regs[position].count.set(REASON_COMMAND);
        let transfer = Transfer {
            block: PACKET_LEN,
            stop: PACKET_LEN,
            ..Transfer::new(Phase::Packet, Protocol::Packet, position)
        };
        self.begin(cx, transfer);
    }

    /// All bytes of a packet are in the buffer.
    pub(super) fn packet_received(&mut self, cx: &mut DevCx<'_>) {
        let Some(Transfer {
            drive: position, ..
        }) = self.transfer.take()
        else {
            return;
        };
        let Some(packet) = self.buf.first_chunk::<PACKET_LEN>().copied() else {
            return;
        };
        let dma = self.regs[position].features.now() & FEATURE_DMA != 0;
        let limit = byte_count_limit(&self.regs[position]);
        let Some(Drive {
            kind: Kind::Cdrom(cd),
            ..
        }) = &mut self.drives[position]
        else {
            return;
        };
        let (span, end) = match cd.execute(&packet, &mut self.buf) {
            Reply::Data(len) if len != 0 => (Span::default(), len.min(self.buf.len())),
            Reply::Blocks { first, count } if count != 0 => {
                let sector = u64::from(first) * u64::from(SECTORS_PER_BLOCK);
                (
                    Span {
                        sector,
                        left: count.saturating_mul(SECTORS_PER_BLOCK),
                    },
                    0,
                )
            }
            Reply::Done | Reply::Data(_) | Reply::Blocks { .. } => {
                announce_end(&mut self.regs[position]);
                self.succeed(cx);
                return;
            }
            Reply::Failed(sense) => {
                self.set_sense(position, sense);
                self.arm(cx);
                return;
            }
        };
        let transfer = Transfer {
            span,
            block: limit,
            unit: SECTORS_PER_BLOCK,
            end,
            ..Transfer::new(
                if dma { Phase::DmaIn } else { Phase::PioIn },
                Protocol::Packet,
                position,
            )
        };
        self.begin(cx, transfer);
    }

    /// A packet command has failed with `sense`, which REQUEST SENSE will tell.
    pub(super) fn set_sense(&mut self, position: usize, sense: Sense) {
        if let Some(Drive {
            kind: Kind::Cdrom(cd),
            ..
        }) = &mut self.drives[position & 1]
        {
            cd.sense = sense;
        }
        let Some(regs) = self.regs.get_mut(position) else {
            return;
        };
        announce_end(regs);
        regs.status = Status::DRDY | Status::ERR;
        regs.error = sense.key << 4;
    }
}
