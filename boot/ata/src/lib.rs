//! Driver of the host's own ATA disks and ATAPI CD-ROM drives behind legacy and PCI IDE controllers: where a guest's media can
//! come from when they are neither boot modules nor virtio disks.
//!
//! Sources: ATA/ATAPI-6 (T13 1410D), SFF-8020i, MMC-4, and *Programming Interface for Bus Master IDE Controller*, revision 1.0.
//! Implemented: [`probe`] finds and identifies the drives of a channel; [`Found::open`] makes one a [`BlockBackend`]: LBA with 28
//! and 48 bits, PIO and bus-master DMA, cache flush; for CD-ROM drives READ (10) in the PACKET protocol. Drives are named by
//! [`Place`] (`ata0.1`) and chosen for the guest by [`choose`].
//!
//! Not implemented: cylinder, head and sector addressing, sectors that are not of 512 bytes, READ and WRITE MULTIPLE, controller
//! timings (the firmware's are kept), packet drives other than CD-ROM and DVD, AHCI.
//!
//! Nothing here waits without a limit, whatever a drive answers: completion is polled, with the drive's interrupt off, and each
//! wait ends by the clock of the [`Host`]. After an error there is one more try; a drive that cannot be reset is not asked again.
//! A drive that was not opened is only reset and identified.
//!
//! All of it is safe code over the [`Host`] trait: ports, a clock, and memory for DMA ([`DmaBuffer`]). The tests run it against the
//! IDE controller of the `device-model` crate.
//!
//! [`BlockBackend`]: hv_core::backend::BlockBackend
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod access;
mod busmaster;
mod cdrom;
mod channel;
mod choose;
mod command;
mod disk;
mod fault;
mod host;
mod identify;
mod packet;
mod pieces;
mod prd;
mod probe;
mod registers;
mod sense;

#[cfg(test)]
mod tests;

pub use channel::Location;
pub use choose::{Place, Role, choose};
pub use host::{DmaBuffer, Host};
pub use identify::{Identity, Kind};
pub use probe::{Found, probe};
