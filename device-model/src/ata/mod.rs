//! ATA and ATAPI drives, whatever they hang at: their registers, what their commands do, and what they tell of themselves. ATA/ATAPI-6
//! (T13 1410D), ATA8-ACS (T13 1699D), SFF-8020i, MMC-4.
//!
//! A drive decides what a command leads to: sectors that are to be moved, data that are there, or nothing but an end. Moving
//! them is the controller's: [`ide`](crate::ide) by its channel's ports and bus master, [`ahci`](crate::ahci) by command tables.
//!
//! Not implemented: overlap, security and host protected area features, ATAPI commands that send data to the drive, audio, raw CD
//! sectors, and of SMART all but its state and an empty list of attributes.

mod command;
mod drive;
mod identify;
mod mmc;
mod packet;
mod scsi;
mod smart;
mod taskfile;

pub use drive::{CdromState, Drive};

pub(crate) use command::{
    Access, Attached, DEVICE_RESET, EXECUTE_DEVICE_DIAGNOSTIC, FEATURE_DMA, Outcome,
    REASON_COMMAND, REASON_DATA_IN, REASON_END, Registers, Span,
};
pub(crate) use drive::{BLOCK, Kind, SECTOR, SECTORS_PER_BLOCK};
pub(crate) use packet::{PACKET_LEN, Reply, Sense};
pub(crate) use taskfile::{Addressing, DIAGNOSTICS_PASSED, Error, Status, TaskFile};
