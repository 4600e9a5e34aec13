//! The registers of a channel. ATA/ATAPI-6 7, "Interface register definitions and descriptions".

use bitflags::bitflags;

/// Offsets in the command block, whose first port is that of the data: name when read, name when written.
pub(crate) mod reg {
    /// Error, features.
    pub(crate) const ERROR: u16 = 1;
    /// Sector count, interrupt reason.
    pub(crate) const COUNT: u16 = 2;
    /// LBA low.
    pub(crate) const LBA_LOW: u16 = 3;
    /// LBA mid, byte count low.
    pub(crate) const LBA_MID: u16 = 4;
    /// LBA high, byte count high.
    pub(crate) const LBA_HIGH: u16 = 5;
    /// Device.
    pub(crate) const DEVICE: u16 = 6;
    /// Status, command.
    pub(crate) const STATUS: u16 = 7;
}

/// The device register's obsolete bits, which old drives want set.
pub(crate) const DEVICE_ONES: u8 = 0xa0;
/// The device register's bit for addresses instead of cylinder, head and sector.
pub(crate) const DEVICE_LBA: u8 = 0x40;
/// The device register's bit that selects drive 1.
pub(crate) const DEVICE_SELECT: u8 = 0x10;

bitflags! {
    /// The status register. ATA/ATAPI-6 7.15, "Status register".
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(crate) struct Status: u8 {
        /// The last command failed. For packet drives: CHK, there is sense data.
        const ERR = 1 << 0;
        /// The drive wants data moved.
        const DRQ = 1 << 3;
        /// Device fault.
        const DF = 1 << 5;
        /// Ready for commands.
        const DRDY = 1 << 6;
        /// Busy: no other bit is valid.
        const BSY = 1 << 7;
        const _ = !0;
    }

    /// The error register. ATA/ATAPI-6 7.9, "Error register".
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(crate) struct Error: u8 {
        /// Command aborted.
        const ABRT = 1 << 2;
        /// Data were garbled on the cable (Ultra DMA).
        const ICRC = 1 << 7;
        const _ = !0;
    }

    /// The device control register. ATA/ATAPI-6 7.8, "Device control register".
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(crate) struct Control: u8 {
        /// The interrupt line is not driven.
        const NIEN = 1 << 1;
        /// Both drives are held in reset.
        const SRST = 1 << 2;
    }
}

impl Status {
    /// The command has failed.
    pub(crate) const FAILED: Self = Self::ERR.union(Self::DF);
}

/// What an open bus answers.
pub(crate) const FLOATING: u8 = 0xff;
