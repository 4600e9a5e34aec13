//! The remote DMA: the host's way to the card's memory through the data port. DP8390D 9.0, "Remote DMA".
//!
//! The address goes from the end of the ring back to its beginning, which drivers rely on to read a frame in one go. An
//! access past the last byte reads ones and writes nothing.

use super::Ne2k;
use super::memory::PAGE;
use super::registers::{Interrupts, Remote};
use hv_core::device::AccessSize;

impl Ne2k {
    /// A remote DMA command was written.
    pub(super) fn start_remote(&mut self) {
        self.regs.remote_next = None;
        if self.regs.remote() == Remote::SendPacket {
            // The next frame of the ring, with its header.
            self.regs.remote_address = u16::from(self.regs.boundary) * PAGE as u16;
            let mut header = [0xff; 4];
            self.memory.read(self.regs.remote_address, &mut header);
            let [_, next, low, high] = header;
            self.regs.remote_count = u16::from_le_bytes([low, high]);
            self.regs.remote_next = Some(next);
        }
        if self.regs.remote_count == 0 {
            self.remote_done();
        }
    }

    fn remote_done(&mut self) {
        self.regs.signal(Interrupts::RDC);
        if let Some(next) = self.regs.remote_next.take() {
            self.regs.boundary = next;
        }
        self.update_irq();
    }

    /// Bytes from the current address to where it wraps: the end of the ring or of the address space.
    fn straight(&self) -> usize {
        let at = usize::from(self.regs.remote_address);
        let stop = usize::from(self.regs.page_stop) * PAGE;
        if at < stop { stop - at } else { 0x1_0000 - at }
    }

    /// `n` bytes were moved, which did not go past where the address wraps.
    fn advance(&mut self, n: usize) {
        let regs = &mut self.regs;
        regs.remote_address = regs.remote_address.wrapping_add(n as u16);
        if regs.remote_address == u16::from(regs.page_stop) * PAGE as u16 {
            regs.remote_address = u16::from(regs.page_start) * PAGE as u16;
        }
        regs.remote_count = regs.remote_count.saturating_sub(n as u16);
        if regs.remote_count == 0 {
            self.remote_done();
        }
    }

    /// Reads the data port into `buf`.
    pub(super) fn read_stream(&mut self, buf: &mut [u8]) {
        let mut done = 0;
        if matches!(self.regs.remote(), Remote::Read | Remote::SendPacket) {
            while done < buf.len() && self.regs.remote_count != 0 {
                let n = (buf.len() - done)
                    .min(self.regs.remote_count.into())
                    .min(self.straight());
                let Some(part) = buf.get_mut(done..done + n) else {
                    return;
                };
                let n = self.memory.read(self.regs.remote_address, part);
                self.advance(n);
                done += n;
            }
        }
        if let Some(rest) = buf.get_mut(done..) {
            rest.fill(0xff);
        }
    }

    /// Writes `buf` to the data port.
    pub(super) fn write_stream(&mut self, buf: &[u8]) {
        let mut done = 0;
        if self.regs.remote() == Remote::Write {
            while done < buf.len() && self.regs.remote_count != 0 {
                let n = (buf.len() - done)
                    .min(self.regs.remote_count.into())
                    .min(self.straight());
                let Some(part) = buf.get(done..done + n) else {
                    return;
                };
                let n = self.memory.write(self.regs.remote_address, part);
                self.advance(n);
                done += n;
            }
        }
    }

    /// Whether an access of `size` moves as many bytes as it is wide: all but a byte access in word mode, which moves a word.
    pub(super) fn moves_whole(&self, size: AccessSize) -> bool {
        size != AccessSize::Byte || !self.regs.words()
    }

    /// One read of the data port.
    pub(super) fn read_data(&mut self, v: &mut [u8; 4], size: AccessSize) {
        let n = if self.moves_whole(size) {
            size.bytes()
        } else {
            2
        };
        self.read_stream(&mut v[..n]);
    }

    /// One write to the data port.
    pub(super) fn write_data(&mut self, v: [u8; 4], size: AccessSize) {
        let n = if self.moves_whole(size) {
            size.bytes()
        } else {
            2
        };
        self.write_stream(&v[..n]);
    }
}
