//! The PACKET protocol: data to the host by PIO or DMA. ATA/ATAPI-6 8.23, "PACKET", and 9.8, "PACKET command protocol".

use crate::channel::{COMMAND_LIMIT, Channel};
use crate::command::{Command, Direction};
use crate::fault::Fault;
use crate::host::{DmaBuffer, Host};
use crate::identify::Identity;
use crate::registers::{Status, reg};

/// Most bytes of a data block: 31 blocks of a CD.
const BLOCK_LIMIT: u16 = 31 * 2048;
/// Bits of the interrupt reason: a command packet is wanted (not data), the transfer is to the host.
const COMMAND_OR_DATA: u8 = 1 << 0;
const TO_HOST: u8 = 1 << 1;
/// Bytes of the longest packet.
const PACKET_MAX: usize = 16;

/// Where data go: the first `skip` bytes nowhere, then into `buf`, and what follows nowhere again.
pub(crate) struct Sink<'a> {
    skip: usize,
    buf: &'a mut [u8],
    done: usize,
}

impl<'a> Sink<'a> {
    /// `skip` is even.
    pub(crate) fn new(skip: usize, buf: &'a mut [u8]) -> Self {
        Self { skip, buf, done: 0 }
    }

    /// Bytes that have come, for `buf`.
    pub(crate) fn len(&self) -> usize {
        self.done
    }

    /// Takes `bytes` bytes, an even number, off the data port.
    fn take(&mut self, host: &mut impl Host, port: u16, mut bytes: usize) {
        let mut waste = [0; 512];
        while bytes != 0 {
            let to = if self.skip != 0 {
                let n = self.skip.min(bytes).min(waste.len());
                self.skip -= n;
                &mut waste[..n]
            } else {
                // An odd last byte of `buf` is not worth a buffer of its own: it stays.
                let room = (self.buf.len() - self.done) & !1;
                if room != 0 {
                    let start = self.done;
                    self.done += room.min(bytes);
                    &mut self.buf[start..self.done]
                } else {
                    let n = bytes.min(waste.len());
                    &mut waste[..n]
                }
            };
            bytes -= to.len();
            host.in16s(port, to);
        }
    }
}

impl<H: Host> Channel<H> {
    /// Issues PACKET and sends the packet.
    fn send_packet(
        &mut self,
        position: u8,
        identity: &Identity,
        packet: &[u8],
        dma: bool,
    ) -> Result<(), Fault> {
        let command = Command::packet(dma, identity.dmadir, BLOCK_LIMIT);
        // Packet drives need not be ready (DRDY) to take it.
        self.issue(position, &command, Status::empty())?;
        self.wait_data()?;
        let reason = self.read(reg::COUNT);
        if reason & (COMMAND_OR_DATA | TO_HOST) != COMMAND_OR_DATA {
            return Err(Fault::Protocol("a packet drive that wants no packet"));
        }
        let mut padded = [0; PACKET_MAX];
        let n = packet.len().min(PACKET_MAX);
        padded[..n].copy_from_slice(&packet[..n]);
        self.host
            .out16s(self.at.command, &padded[..identity.packet.min(PACKET_MAX)]);
        Ok(())
    }

    /// A packet command with at most `most` bytes of data to the host by PIO, or without.
    pub(crate) fn packet_in(
        &mut self,
        position: u8,
        identity: &Identity,
        packet: &[u8],
        sink: &mut Sink<'_>,
        most: usize,
    ) -> Result<(), Fault> {
        self.send_packet(position, identity, packet, false)?;
        let mut left = most.next_multiple_of(2);
        loop {
            self.settle();
            let status = self.wait(COMMAND_LIMIT, |_| true)?;
            self.check(status)?;
            if !status.contains(Status::DRQ) {
                return Ok(());
            }
            let reason = self.read(reg::COUNT);
            let bytes = [reg::LBA_MID, reg::LBA_HIGH].map(|r| self.read(r));
            let bytes = usize::from(u16::from_le_bytes(bytes)).next_multiple_of(2);
            if reason & (COMMAND_OR_DATA | TO_HOST) != TO_HOST || bytes == 0 {
                return Err(Fault::Protocol("a packet drive that offers no data"));
            }
            left = left
                .checked_sub(bytes)
                .ok_or(Fault::Protocol("more data than the packet asks for"))?;
            sink.take(&mut self.host, self.at.command, bytes);
        }
    }

    /// A packet command with exactly `bytes` bytes of data to `buffer` by DMA.
    pub(crate) fn packet_dma(
        &mut self,
        position: u8,
        identity: &Identity,
        packet: &[u8],
        buffer: &DmaBuffer,
        bytes: usize,
    ) -> Result<(), Fault> {
        self.prepare_dma(buffer, bytes)?;
        self.send_packet(position, identity, packet, true)?;
        self.run_dma(Direction::In, COMMAND_LIMIT)
    }
}
