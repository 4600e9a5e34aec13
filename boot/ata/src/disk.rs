//! A hard disk as a guest's medium.

use crate::access::Access;
use crate::channel::{COMMAND_LIMIT, FLUSH_LIMIT};
use crate::command::{Command, DISABLE_WRITE_CACHE, Direction, LBA28_MOST, LBA48_MOST};
use crate::fault::Fault;
use crate::host::Host;
use crate::pieces::{Piece, SECTOR, pieces};
use crate::registers::Status;
use hv_core::backend::{BlockBackend, BlockError};

/// Times a command is tried.
const TRIES: u32 = 2;

/// A disk.
pub(crate) struct Disk<H> {
    access: Access<H>,
    sectors: u64,
    read_only: bool,
}

/// Data of one command.
enum Data<'a> {
    In(&'a mut [u8]),
    Out(&'a [u8]),
}

impl<H: Host> Disk<H> {
    /// The disk, ready. If it has a write cache and no command to empty it, the cache is switched off: what the guest has flushed
    /// must be on the disk.
    pub(crate) fn new(access: Access<H>, sectors: u64, read_only: bool) -> Result<Self, Fault> {
        let mut disk = Self {
            access,
            sectors,
            read_only,
        };
        let identity = &disk.access.identity;
        if !read_only && identity.write_cache && identity.flush.is_none() {
            disk.access.set_features(DISABLE_WRITE_CACHE)?;
        }
        Ok(disk)
    }

    /// Most sectors of a command.
    fn most(&self) -> u32 {
        let command = if self.access.identity.lba48 {
            LBA48_MOST
        } else {
            LBA28_MOST
        };
        match &self.access.buffer {
            Some(buffer) => command.min((buffer.len() / SECTOR) as u32),
            None => command,
        }
    }

    /// Whether `len` bytes from `sector` on are whole sectors of the disk.
    fn has(&self, sector: u64, len: usize) -> bool {
        let end = sector.checked_add((len / SECTOR) as u64);
        len.is_multiple_of(SECTOR) && end.is_some_and(|end| end <= self.sectors)
    }

    fn attempt(&mut self, piece: Piece, data: &mut Data<'_>) -> Result<(), Fault> {
        let Access {
            channel,
            position,
            identity,
            buffer,
            ..
        } = &self.access;
        let direction = match data {
            Data::In(_) => Direction::In,
            Data::Out(_) => Direction::Out,
        };
        let dma = buffer.is_some();
        let command = Command::transfer(direction, dma, piece.block, piece.blocks, identity.lba48)
            .ok_or(Fault::Protocol("a sector that no command reaches"))?;
        let mut channel = channel.lock();
        let Some(buffer) = buffer else {
            return match data {
                Data::In(buf) => channel.pio_in(*position, &command, buf),
                Data::Out(buf) => channel.pio_out(*position, &command, buf),
            };
        };
        if let Data::Out(buf) = data {
            buffer.write(0, buf);
        }
        channel.prepare_dma(buffer, piece.blocks as usize * SECTOR)?;
        channel.issue(*position, &command, Status::DRDY)?;
        channel.run_dma(direction, COMMAND_LIMIT)?;
        if let Data::In(buf) = data {
            buffer.read(0, buf);
        }
        Ok(())
    }

    fn transfer(&mut self, piece: Piece, mut data: Data<'_>) -> Result<(), BlockError> {
        for _ in 0..TRIES {
            if self.access.dead {
                break;
            }
            match self.attempt(piece, &mut data) {
                Ok(()) => return Ok(()),
                Err(fault) => {
                    self.access.recover(fault);
                    if fault.blames_dma() {
                        self.access.give_up_dma();
                    }
                }
            }
        }
        Err(BlockError)
    }
}

impl<H: Host> BlockBackend for Disk<H> {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read(&mut self, sector: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        if !self.has(sector, buf.len()) {
            return Err(BlockError);
        }
        for piece in pieces(sector, buf.len(), 1, self.most()) {
            let part = buf.get_mut(piece.start..piece.end).ok_or(BlockError)?;
            self.transfer(piece, Data::In(part))?;
        }
        Ok(())
    }

    fn write(&mut self, sector: u64, buf: &[u8]) -> Result<(), BlockError> {
        if self.read_only || !self.has(sector, buf.len()) {
            return Err(BlockError);
        }
        for piece in pieces(sector, buf.len(), 1, self.most()) {
            let part = buf.get(piece.start..piece.end).ok_or(BlockError)?;
            self.transfer(piece, Data::Out(part))?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BlockError> {
        let Some(command) = self.access.identity.flush.filter(|_| !self.read_only) else {
            return Ok(());
        };
        // No second try: a drive that could not write a sector drops it and would say that all is well. ATA/ATAPI-6 8.12.
        if self.access.dead {
            return Err(BlockError);
        }
        self.access.flush(command, FLUSH_LIMIT).map_err(|fault| {
            self.access.recover(fault);
            BlockError
        })
    }
}
