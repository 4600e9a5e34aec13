//! A drive that was found, as whoever uses it has it.

use crate::channel::{COMMAND_LIMIT, Channel};
use crate::command::Command;
use crate::fault::Fault;
use crate::host::{DmaBuffer, Host};
use crate::identify::{Dma, Identity, Kind};
use crate::registers::Status;
use alloc::sync::Arc;
use core::fmt;
use spin::Mutex;

/// What a [`Found`](crate::probe::Found) needs to be used.
pub(crate) struct Access<H> {
    pub(crate) channel: Arc<Mutex<Channel<H>>>,
    pub(crate) position: u8,
    pub(crate) identity: Identity,
    /// Memory for DMA, if transfers are to be made so.
    pub(crate) buffer: Option<DmaBuffer>,
    /// A fault was logged: further ones are not, a guest can make too many.
    pub(crate) complained: bool,
    /// It could not be reset.
    pub(crate) dead: bool,
}

impl<H: Host> Access<H> {
    /// Whether the drive is, or now has been, set up for DMA behind a bus master.
    pub(crate) fn set_up_dma(&mut self) -> bool {
        let mut channel = self.channel.lock();
        if channel.at.bus_master.is_none() {
            return false;
        }
        match self.identity.dma {
            Dma::None => false,
            Dma::Selected => true,
            Dma::Multiword(mode) => {
                let set = channel.set_mode(self.position, mode).is_ok();
                channel.modes[usize::from(self.position & 1)] = set.then_some(mode);
                set
            }
        }
    }

    /// Logs the first thing that goes wrong with the drive.
    pub(crate) fn note(&mut self, what: &dyn fmt::Display) {
        if !self.complained {
            self.complained = true;
            log::warn!("ATA drive {:?}: {what}", self.identity.model);
        }
    }

    /// Notes a fault, and does what has to come before another try. False if there can be none.
    pub(crate) fn recover(&mut self, fault: Fault) -> bool {
        self.note(&fault);
        if fault.needs_reset() {
            let mut channel = self.channel.lock();
            let alone = self.identity.kind == Kind::Cdrom
                && channel.reset_packet_drive(self.position).is_ok();
            if !alone {
                channel.reset();
                self.dead = !channel.present[usize::from(self.position & 1)];
            }
            if self.dead {
                log::error!(
                    "ATA drive {:?} does not come back from a reset and is given up",
                    self.identity.model
                );
            }
        }
        !self.dead
    }

    /// From now on transfers are by PIO.
    pub(crate) fn give_up_dma(&mut self) {
        if self.buffer.take().is_some() {
            log::warn!("ATA drive {:?}: no more DMA", self.identity.model);
        }
    }

    /// Empties the write cache, for which the drive takes `command`.
    pub(crate) fn flush(&mut self, command: u8, limit: u64) -> Result<(), Fault> {
        let command = Command::plain(command);
        let mut channel = self.channel.lock();
        channel.command(self.position, &command, Status::DRDY, limit)
    }

    /// SET FEATURES.
    pub(crate) fn set_features(&mut self, feature: u8) -> Result<(), Fault> {
        let command = Command::set_features(feature, 0);
        let mut channel = self.channel.lock();
        channel.command(self.position, &command, Status::DRDY, COMMAND_LIMIT)
    }
}
