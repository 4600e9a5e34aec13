//! Moves the data of a transfer: through the data port, block by block, or by DMA, region by region.

use super::channel::{Channel, STEP_DELAY};
use super::transfer::{CHUNK, DMA_CHUNK, Phase, Protocol, Supply, Transfer};
use crate::ata::{Error, Sense, Status};
use hv_core::device::DevCx;
use hv_core::mem::NotRam;

/// Most bytes that DMA moves before the virtual CPU gets its turn again.
const DMA_STEP: usize = 256 << 10;
/// What reading a descriptor costs of [`DMA_STEP`], so that tiny regions are bounded too.
const DESCRIPTOR_COST: usize = 512;

/// How a step of DMA ended.
enum Step {
    /// All data moved: the command is over.
    Done,
    /// There is more to do.
    More,
    /// The engine has stopped; the drive waits for it to be started again.
    Stalled,
    /// The medium has been asked, and has not answered yet.
    Waiting,
    /// The medium failed.
    Failed,
}

impl Channel {
    /// Begins a transfer of a command just written or a packet just received.
    pub(super) fn begin(&mut self, cx: &mut DevCx<'_>, transfer: Transfer) {
        let phase = transfer.phase;
        let drive = transfer.drive;
        self.transfer = Some(transfer);
        match phase {
            Phase::PioIn => self.offer_block(cx),
            // The first block and the packet are asked for without an interrupt.
            Phase::Packet | Phase::PioOut => self.ask_for_block(),
            Phase::DmaIn | Phase::DmaOut => {
                self.regs[drive].status = Status::WORKING;
                self.regs[drive].error = 0;
                if self.bm.active() {
                    self.start_dma(cx);
                }
            }
            Phase::Flush => match self.ask_to_flush() {
                Supply::Ready => self.flushed(cx),
                Supply::Pending => self.regs[drive].status = Status::WORKING,
                Supply::Failed => self.medium_failed(cx, true),
            },
        }
    }

    /// The medium has been flushed.
    pub(super) fn flushed(&mut self, cx: &mut DevCx<'_>) {
        self.complete();
        self.arm(cx);
    }

    /// A command for DMA has been given and the engine is started: a medium that will take its time begins at once.
    pub(super) fn start_dma(&mut self, cx: &mut DevCx<'_>) {
        if self.ask_directly(cx.dma) != Some(Supply::Pending) {
            self.arm(cx);
        }
    }

    /// Data port: reads into `buf`, which is a multiple of `size` (2 or 4) long.
    pub(super) fn read_data(&mut self, cx: &mut DevCx<'_>, buf: &mut [u8], size: usize) {
        let selected = self.selected();
        let mut done = 0;
        while done < buf.len() {
            self.settle(cx, false);
            let waiting = self.waiting.is_some();
            let Some(t) = self
                .transfer
                .as_mut()
                .filter(|t| t.phase == Phase::PioIn && t.drive == selected && !waiting)
            else {
                buf[done..].fill(0);
                return;
            };
            let n = (t.stop - t.pos).min(buf.len() - done);
            buf[done..done + n].copy_from_slice(&self.buf[t.pos..t.pos + n]);
            t.pos += n;
            done += n;
            if t.pos == t.stop {
                // The rest of a word or double word whose beginning was the end of the block.
                let whole = done.next_multiple_of(size).min(buf.len());
                buf[done..whole].fill(0);
                done = whole;
                self.in_block_taken(cx);
            }
        }
    }

    /// Data port: writes `buf`, which is a multiple of `size` (2 or 4) long.
    pub(super) fn write_data(&mut self, cx: &mut DevCx<'_>, buf: &[u8], size: usize) {
        let selected = self.selected();
        let mut done = 0;
        while done < buf.len() {
            self.settle(cx, false);
            let waiting = self.waiting.is_some();
            let wanted = |t: &&mut Transfer| {
                matches!(t.phase, Phase::Packet | Phase::PioOut) && t.drive == selected && !waiting
            };
            let Some(t) = self.transfer.as_mut().filter(wanted) else {
                return;
            };
            let n = (t.stop - t.pos).min(buf.len() - done);
            self.buf[t.pos..t.pos + n].copy_from_slice(&buf[done..done + n]);
            t.pos += n;
            done += n;
            if t.pos == t.stop {
                done = done.next_multiple_of(size);
                if t.phase == Phase::Packet {
                    self.packet_received(cx);
                } else {
                    self.out_block_given(cx);
                }
            }
        }
    }

    /// Offers the host the next data block.
    pub(super) fn offer_block(&mut self, cx: &mut DevCx<'_>) {
        let Some(t) = self.transfer.as_mut() else {
            return;
        };
        let mut want = t.next_block();
        if want < t.remaining() {
            want &= !1;
        }
        let drive = t.drive;
        match self.fill(want) {
            Supply::Ready => {}
            Supply::Pending => {
                self.regs[drive].status = Status::WORKING;
                return;
            }
            Supply::Failed => return self.medium_failed(cx, false),
        }
        let Some(t) = self.transfer.as_mut() else {
            return;
        };
        t.stop = t.pos + want;
        let regs = &mut self.regs[t.drive];
        regs.status = Status::DATA;
        regs.error = 0;
        if t.protocol == Protocol::Packet {
            super::atapi::announce_data(regs, want);
        }
        self.arm(cx);
    }

    /// The host has taken a whole data block.
    fn in_block_taken(&mut self, cx: &mut DevCx<'_>) {
        match &self.transfer {
            Some(t) if t.remaining() == 0 => {
                let packet = t.protocol == Protocol::Packet;
                self.complete();
                if packet {
                    self.arm(cx);
                }
            }
            _ => self.offer_block(cx),
        }
    }

    /// Asks the host for the next data block, or the packet.
    fn ask_for_block(&mut self) {
        let Some(t) = self.transfer.as_mut() else {
            return;
        };
        t.stop = t.pos + t.next_block();
        let regs = &mut self.regs[t.drive];
        regs.status = Status::DATA;
        regs.error = 0;
    }

    /// The host has given a whole data block.
    fn out_block_given(&mut self, cx: &mut DevCx<'_>) {
        let Some(t) = self.transfer.as_mut() else {
            return;
        };
        let drive = t.drive;
        if t.remaining() == 0 || t.pos + t.block > CHUNK {
            match self.drain() {
                Supply::Ready => {}
                Supply::Pending => {
                    self.regs[drive].status = Status::WORKING;
                    return;
                }
                Supply::Failed => return self.medium_failed(cx, true),
            }
        }
        self.out_block_written(cx);
    }

    /// There is room for another data block, or nothing is left to come.
    pub(super) fn out_block_written(&mut self, cx: &mut DevCx<'_>) {
        if self.transfer.as_ref().is_some_and(|t| t.remaining() == 0) {
            self.complete();
        } else {
            self.ask_for_block();
        }
        self.arm(cx);
    }

    /// The transfer is over and the command has succeeded. Raises no interrupt.
    pub(super) fn complete(&mut self) {
        let Some(t) = self.transfer.take() else {
            return;
        };
        let regs = &mut self.regs[t.drive];
        regs.status = Status::IDLE;
        regs.error = 0;
        match t.protocol {
            Protocol::Ata(addressing) => {
                regs.count.set(0);
                regs.set_address(addressing, &mut self.device, t.span.sector);
            }
            Protocol::AtaPlain => {}
            Protocol::Packet => super::atapi::announce_end(regs),
        }
    }

    /// The medium could not be read or written: the command fails at the sector where the span now stands.
    pub(super) fn medium_failed(&mut self, cx: &mut DevCx<'_>, writing: bool) {
        self.stop_with_medium_error(writing);
        self.arm(cx);
    }

    fn stop_with_medium_error(&mut self, writing: bool) {
        let Some(t) = self.transfer.take() else {
            return;
        };
        match t.protocol {
            Protocol::Packet => self.set_sense(t.drive, Sense::UNREADABLE),
            Protocol::Ata(_) | Protocol::AtaPlain => {
                let regs = &mut self.regs[t.drive];
                if let Protocol::Ata(addressing) = t.protocol {
                    regs.set_address(addressing, &mut self.device, t.span.sector);
                }
                (regs.status, regs.error) = if writing {
                    (Status::IDLE | Status::DF | Status::ERR, Error::ABRT.bits())
                } else {
                    (Status::IDLE | Status::ERR, Error::UNC.bits())
                };
            }
        }
    }

    /// Moves DMA on. True if the command has ended, well or not, and the drive's interrupt is due.
    pub(super) fn advance_dma(&mut self, cx: &mut DevCx<'_>) -> bool {
        match self.dma_step(cx) {
            Step::Done => {
                self.complete();
                self.bm.drive_done();
                true
            }
            Step::Failed => {
                let writing = self
                    .transfer
                    .as_ref()
                    .is_some_and(|t| t.phase == Phase::DmaOut);
                self.stop_with_medium_error(writing);
                self.bm.drive_done();
                true
            }
            Step::More => {
                self.arm_in(cx, STEP_DELAY);
                false
            }
            Step::Stalled | Step::Waiting => false,
        }
    }

    /// What is to be done after data have gone past the buffer.
    fn rest(&self) -> Step {
        match &self.transfer {
            Some(t) if t.failed => Step::Failed,
            Some(t) if t.remaining() == 0 => Step::Done,
            _ => Step::More,
        }
    }

    fn dma_step(&mut self, cx: &mut DevCx<'_>) -> Step {
        let mut budget = DMA_STEP;
        loop {
            let Some(t) = &self.transfer else {
                return Step::Stalled;
            };
            let incoming = t.phase == Phase::DmaIn;
            if t.failed && !incoming {
                return Step::Failed;
            }
            match self.ask_directly(cx.dma) {
                None => {}
                Some(Supply::Ready) => return self.rest(),
                Some(Supply::Pending) => return Step::Waiting,
                Some(Supply::Failed) => return Step::Failed,
            }
            let Some(t) = &self.transfer else {
                return Step::Stalled;
            };
            // An outgoing chunk goes to the medium when the buffer is full or nothing is left to come.
            let supply = if !incoming && t.pos != 0 && (t.remaining() == 0 || t.pos >= DMA_CHUNK) {
                self.drain()
            } else if incoming && t.pos == t.end && t.remaining() != 0 {
                self.fill(1)
            } else {
                Supply::Ready
            };
            match supply {
                Supply::Ready => {}
                Supply::Pending => return Step::Waiting,
                Supply::Failed => return Step::Failed,
            }
            let Some(t) = self.transfer.as_mut() else {
                return Step::Stalled;
            };
            if t.remaining() == 0 {
                return Step::Done;
            }
            if budget == 0 {
                return Step::More;
            }
            let Some(region) = self.bm.region(cx.dma) else {
                return Step::Stalled;
            };
            let room = if incoming {
                t.end - t.pos
            } else {
                t.remaining().min(DMA_CHUNK - t.pos)
            };
            let n = room.min(region.len as usize);
            let Some(piece) = self.buf.get_mut(t.pos..t.pos + n) else {
                return Step::Stalled;
            };
            let moved: Result<(), NotRam> = if incoming {
                cx.dma.write(region.start, piece)
            } else {
                cx.dma.read(region.start, piece)
            };
            if moved.is_err() {
                self.bm.fail();
                return Step::Stalled;
            }
            t.pos += n;
            self.bm.consume(n as u32);
            budget = budget.saturating_sub(n + DESCRIPTOR_COST);
        }
    }
}
