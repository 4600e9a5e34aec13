//! A CD-ROM or DVD drive as a guest's medium. MMC-4 6, "Commands".
//!
//! The medium must stay in the drive: when the drive reports that it may have been changed, one of another length is an error.

use crate::access::Access;
use crate::channel::Channel;
use crate::fault::Fault;
use crate::host::Host;
use crate::packet::Sink;
use crate::pieces::{Piece, pieces};
use crate::registers::Status;
use crate::sense::{self, Remedy, Sense};
use alloc::string::{String, ToString};
use hv_core::backend::{BlockBackend, BlockError};

const TEST_UNIT_READY: u8 = 0x00;
const REQUEST_SENSE: u8 = 0x03;
const READ_CAPACITY: u8 = 0x25;
const READ_10: u8 = 0x28;

/// Bytes of a block, and its sectors.
const BLOCK: u32 = 2048;
const SECTORS_PER_BLOCK: u32 = 4;
/// Most blocks of a command by PIO.
const MOST_BLOCKS: u32 = 0x4000;
/// Times that a command is tried after errors, and after what are none.
const TRIES: u32 = 2;
const REMINDERS: u32 = 4;
/// Microseconds between two questions to a drive that is getting ready, and how many there are: 20 seconds.
const READY_PAUSE: u64 = 100_000;
const READY_TRIES: u32 = 200;

/// A drive with a medium.
pub(crate) struct Cdrom<H> {
    access: Access<H>,
    blocks: u32,
}

/// Why a packet command failed.
#[derive(Clone, Copy)]
enum Failure {
    /// The protocol did.
    Fault(Fault),
    /// The drive tells with sense data.
    Sense(Sense),
}

impl<H: Host> Cdrom<H> {
    /// The drive with its medium.
    ///
    /// # Errors
    /// A clause that says why there is none to read.
    pub(crate) fn new(access: Access<H>) -> Result<Self, String> {
        let mut cd = Self { access, blocks: 0 };
        cd.get_ready()?;
        cd.blocks = cd.capacity()?;
        Ok(cd)
    }

    /// Waits until the drive has its medium ready.
    fn get_ready(&mut self) -> Result<(), String> {
        let mut errors = 0;
        for _ in 0..READY_TRIES {
            match self.small(&[TEST_UNIT_READY], &mut []) {
                Ok(_) => return Ok(()),
                Err(Failure::Sense(sense)) => match sense.remedy() {
                    Remedy::NoMedium => return Err("there is no medium in it".into()),
                    Remedy::Again | Remedy::Changed => continue,
                    Remedy::Wait => {}
                    Remedy::None => errors += 1,
                },
                Err(Failure::Fault(fault)) => {
                    errors += 1;
                    if errors >= TRIES || !self.access.recover(fault) {
                        return Err(fault.to_string());
                    }
                }
            }
            if errors > REMINDERS {
                break;
            }
            self.access.channel.lock().pause(READY_PAUSE);
        }
        Err("it does not get ready".into())
    }

    /// The medium's blocks.
    fn capacity(&mut self) -> Result<u32, String> {
        let mut answer = [0; 8];
        for _ in 0..REMINDERS {
            match self.small(&[READ_CAPACITY], &mut answer) {
                Ok(8) => {}
                Ok(_) => return Err("its answer to READ CAPACITY is too short".into()),
                Err(Failure::Sense(sense)) if sense.remedy() != Remedy::None => continue,
                Err(Failure::Sense(sense)) => return Err(sense.to_string()),
                Err(Failure::Fault(fault)) if self.access.recover(fault) => continue,
                Err(Failure::Fault(fault)) => return Err(fault.to_string()),
            }
            let [a, b, c, d, length @ ..] = answer;
            let last = u32::from_be_bytes([a, b, c, d]);
            // Some drives answer with the raw length of 2,352 bytes; READ (10) still gives 2,048.
            return match u32::from_be_bytes(length) {
                BLOCK | 2352 => last.checked_add(1).ok_or("its medium has no end".into()),
                other => Err(alloc::format!("its blocks have {other} bytes")),
            };
        }
        Err("it does not tell the length of its medium".into())
    }

    /// A packet command with a short answer, by PIO; answers its length.
    fn small(&mut self, packet: &[u8], answer: &mut [u8]) -> Result<usize, Failure> {
        let Access {
            channel,
            position,
            identity,
            ..
        } = &self.access;
        let most = answer.len();
        let mut sink = Sink::new(0, answer);
        let mut channel = channel.lock();
        match channel.packet_in(*position, identity, packet, &mut sink, most) {
            Ok(()) => Ok(sink.len()),
            Err(fault) => Err(self.explain(&mut channel, fault)),
        }
    }

    /// Asks the drive why a command failed, if that is what it wants.
    fn explain(&self, channel: &mut Channel<H>, fault: Fault) -> Failure {
        let Fault::Drive(status, _) = fault else {
            return Failure::Fault(fault);
        };
        if status.contains(Status::DRQ) {
            return Failure::Fault(fault);
        }
        let Access {
            position, identity, ..
        } = &self.access;
        let mut data = [0; sense::LEN];
        let packet = [REQUEST_SENSE, 0, 0, 0, sense::LEN as u8];
        let mut sink = Sink::new(0, &mut data);
        match channel.packet_in(*position, identity, &packet, &mut sink, sense::LEN) {
            Ok(()) => Failure::Sense(Sense::parse(&data)),
            Err(again) => Failure::Fault(again),
        }
    }

    fn attempt(&mut self, piece: Piece, buf: &mut [u8]) -> Result<(), Failure> {
        let Access {
            channel,
            position,
            identity,
            buffer,
            ..
        } = &self.access;
        let [a, b, c, d] = (piece.block as u32).to_be_bytes();
        let [high, low] = (piece.blocks as u16).to_be_bytes();
        let packet = [READ_10, 0, a, b, c, d, 0, high, low];
        let bytes = (piece.blocks * BLOCK) as usize;
        let mut channel = channel.lock();
        let result = match buffer {
            Some(buffer) => channel
                .packet_dma(*position, identity, &packet, buffer, bytes)
                .map(|()| buffer.read(piece.skip, buf)),
            None => {
                let mut sink = Sink::new(piece.skip, buf);
                let read = channel.packet_in(*position, identity, &packet, &mut sink, bytes);
                match read {
                    Ok(()) if sink.len() != piece.end - piece.start => {
                        Err(Fault::Protocol("fewer data than the packet asks for"))
                    }
                    read => read,
                }
            }
        };
        result.map_err(|fault| self.explain(&mut channel, fault))
    }

    fn transfer(&mut self, piece: Piece, buf: &mut [u8]) -> Result<(), BlockError> {
        let (mut tries, mut reminders) = (0, 0);
        while tries < TRIES && reminders < REMINDERS && !self.access.dead {
            match self.attempt(piece, buf) {
                Ok(()) => return Ok(()),
                Err(Failure::Fault(fault)) => {
                    tries += 1;
                    self.access.recover(fault);
                    if fault.blames_dma() {
                        self.access.give_up_dma();
                    }
                }
                Err(Failure::Sense(sense)) => match sense.remedy() {
                    Remedy::Again => reminders += 1,
                    Remedy::Changed => {
                        reminders += 1;
                        let ready = self.get_ready().and_then(|()| self.capacity());
                        if ready != Ok(self.blocks) {
                            return Err(BlockError);
                        }
                    }
                    Remedy::Wait => {
                        reminders += 1;
                        self.get_ready().map_err(|_| BlockError)?;
                    }
                    Remedy::NoMedium => return Err(BlockError),
                    Remedy::None => {
                        tries += 1;
                        self.access.note(&sense);
                        if sense.blames_dma() {
                            self.access.give_up_dma();
                        }
                    }
                },
            }
        }
        Err(BlockError)
    }
}

impl<H: Host> BlockBackend for Cdrom<H> {
    fn sectors(&self) -> u64 {
        u64::from(self.blocks) * u64::from(SECTORS_PER_BLOCK)
    }

    fn read_only(&self) -> bool {
        true
    }

    fn read(&mut self, sector: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        let sectors = (buf.len() / crate::pieces::SECTOR) as u64;
        let end = sector.checked_add(sectors).ok_or(BlockError)?;
        if end > self.sectors() {
            return Err(BlockError);
        }
        let most = match &self.access.buffer {
            Some(buffer) => (buffer.len() as u32 / BLOCK).min(MOST_BLOCKS),
            None => MOST_BLOCKS,
        };
        for piece in pieces(sector, buf.len(), SECTORS_PER_BLOCK, most) {
            let part = buf.get_mut(piece.start..piece.end).ok_or(BlockError)?;
            self.transfer(piece, part)?;
        }
        Ok(())
    }

    fn write(&mut self, _sector: u64, _buf: &[u8]) -> Result<(), BlockError> {
        Err(BlockError)
    }

    fn flush(&mut self) -> Result<(), BlockError> {
        Ok(())
    }
}
