//! What can go wrong with a command.

use crate::registers::{Error, Status};
use core::fmt;

/// Why a command failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The drive did not come to an end in time; its last status.
    TimeOut(Status),
    /// The drive says so.
    Drive(Status, Error),
    /// The drive did what the protocol does not have; a clause that names it.
    Protocol(&'static str),
    /// The bus master could not move the data; its status.
    BusMaster(u8),
}

impl Fault {
    /// Whether the drive is in a state of its own making, which only a reset ends.
    pub(crate) fn needs_reset(self) -> bool {
        match self {
            Self::Drive(status, _) => status.contains(Status::DRQ) || status.contains(Status::DF),
            Self::TimeOut(_) | Self::Protocol(_) | Self::BusMaster(_) => true,
        }
    }

    /// Whether a DMA transfer that failed so may do better as PIO.
    pub(crate) fn blames_dma(self) -> bool {
        match self {
            Self::Drive(_, error) => error.intersects(Error::ICRC | Error::ABRT),
            Self::TimeOut(_) | Self::Protocol(_) | Self::BusMaster(_) => true,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimeOut(status) => write!(f, "no end in time, status {:02x}h", status.bits()),
            Self::Drive(status, error) => write!(
                f,
                "status {:02x}h, error {:02x}h",
                status.bits(),
                error.bits()
            ),
            Self::Protocol(what) => f.write_str(what),
            Self::BusMaster(status) => write!(f, "bus master status {status:02x}h"),
        }
    }
}
