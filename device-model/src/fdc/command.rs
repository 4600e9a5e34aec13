//! The commands and their lengths (82077AA data sheet, order number 290166, 5.0, "Command Set/Descriptions").

use super::fifo::LONGEST;

/// A command, by the bits of its first byte that name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Command {
    ReadTrack,
    Specify,
    SenseDriveStatus,
    Write { deleted: bool },
    Read { deleted: bool },
    Recalibrate,
    SenseInterruptStatus,
    ReadId,
    FormatTrack,
    DumpRegisters,
    Seek,
    RelativeSeek,
    Version,
    PerpendicularMode,
    Configure,
    Lock,
    Verify,
    Invalid,
}

/// Bits of the first byte that are no part of the command's name.
pub(super) const MULTI_TRACK: u8 = 0x80;
pub(super) const SKIP: u8 = 0x20;
/// RELATIVE SEEK: towards the inner tracks.
pub(super) const INWARDS: u8 = 0x40;
/// LOCK: lock, not unlock.
pub(super) const LOCK: u8 = 0x80;

impl Command {
    /// Decodes the first byte.
    pub(super) const fn decode(byte: u8) -> Self {
        match byte {
            0x02 | 0x22 | 0x42 | 0x62 => Self::ReadTrack,
            0x03 => Self::Specify,
            0x04 => Self::SenseDriveStatus,
            0x07 => Self::Recalibrate,
            0x08 => Self::SenseInterruptStatus,
            0x0e => Self::DumpRegisters,
            0x0f => Self::Seek,
            0x8f | 0xcf => Self::RelativeSeek,
            0x0a | 0x4a => Self::ReadId,
            0x0d | 0x4d => Self::FormatTrack,
            0x10 => Self::Version,
            0x12 => Self::PerpendicularMode,
            0x13 => Self::Configure,
            0x14 | 0x94 => Self::Lock,
            _ => match byte & 0x1f {
                // MT, MFM and SK stand above these.
                0x06 => Self::Read { deleted: false },
                0x0c => Self::Read { deleted: true },
                0x16 => Self::Verify,
                // A write skips nothing.
                0x05 if byte & SKIP == 0 => Self::Write { deleted: false },
                0x09 if byte & SKIP == 0 => Self::Write { deleted: true },
                _ => Self::Invalid,
            },
        }
    }

    /// How many bytes follow the first one.
    pub(super) const fn parameters(self) -> usize {
        match self {
            Self::ReadTrack | Self::Write { .. } | Self::Read { .. } | Self::Verify => 8,
            Self::FormatTrack => 5,
            Self::Configure => 3,
            Self::Specify | Self::Seek | Self::RelativeSeek => 2,
            Self::SenseDriveStatus | Self::Recalibrate | Self::ReadId | Self::PerpendicularMode => {
                1
            }
            Self::SenseInterruptStatus
            | Self::DumpRegisters
            | Self::Version
            | Self::Lock
            | Self::Invalid => 0,
        }
    }
}

// The longest command, with its first byte, fits the queue.
const _: () = assert!(Command::ReadTrack.parameters() < LONGEST);
