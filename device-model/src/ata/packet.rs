//! What a packet is made of, and what it leads to.

/// Length of a packet.
pub(crate) const PACKET_LEN: usize = 12;

/// Why a command failed. SPC-3 4.5, "Sense data".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sense {
    /// Sense key, 0 to 15.
    pub(crate) key: u8,
    /// Additional sense code and its qualifier.
    pub(crate) code: [u8; 2],
}

impl Sense {
    const fn new(key: u8, asc: u8, ascq: u8) -> Self {
        Self {
            key,
            code: [asc, ascq],
        }
    }
    /// Nothing to report.
    pub(crate) const NONE: Self = Self::new(0, 0, 0);
    /// Medium not present, tray closed.
    pub(crate) const NO_MEDIUM: Self = Self::new(2, 0x3a, 1);
    /// Medium not present, tray open.
    pub(crate) const TRAY_OPEN: Self = Self::new(2, 0x3a, 2);
    /// Unrecovered read error.
    pub(crate) const UNREADABLE: Self = Self::new(3, 0x11, 0);
    /// Invalid command operation code.
    pub(crate) const INVALID_COMMAND: Self = Self::new(5, 0x20, 0);
    /// Logical block address out of range.
    pub(crate) const OUT_OF_RANGE: Self = Self::new(5, 0x21, 0);
    /// Invalid field in CDB.
    pub(crate) const INVALID_FIELD: Self = Self::new(5, 0x24, 0);
    /// Cannot read medium: incompatible format.
    pub(crate) const INCOMPATIBLE: Self = Self::new(5, 0x30, 2);
    /// Saving parameters not supported.
    pub(crate) const NO_SAVED_PAGES: Self = Self::new(5, 0x39, 0);
    /// Medium removal prevented.
    pub(crate) const LOCKED: Self = Self::new(5, 0x53, 2);
    /// Illegal mode for this track.
    pub(crate) const ILLEGAL_MODE: Self = Self::new(5, 0x64, 0);
    /// Not ready to ready change: medium may have changed.
    pub(crate) const MEDIUM_CHANGED: Self = Self::new(6, 0x28, 0);
    /// Power on, reset, or bus device reset occurred.
    pub(crate) const POWER_ON: Self = Self::new(6, 0x29, 0);
}

/// What a packet leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reply {
    /// Success without data.
    Done,
    /// Success; so many bytes for the host are in the buffer.
    Data(usize),
    /// Blocks of the medium, which exist.
    Blocks {
        /// The first.
        first: u32,
        /// How many.
        count: u32,
    },
    /// Failure.
    Failed(Sense),
}

pub(crate) fn be16(cdb: &[u8; PACKET_LEN], at: usize) -> u16 {
    u16::from_be_bytes([cdb[at], cdb[at + 1]])
}

pub(crate) fn be32(cdb: &[u8; PACKET_LEN], at: usize) -> u32 {
    u32::from_be_bytes([cdb[at], cdb[at + 1], cdb[at + 2], cdb[at + 3]])
}

/// Answers with `data`, of which the host wants at most `allocation` bytes.
pub(crate) fn answer(buf: &mut [u8], data: &[u8], allocation: impl Into<u32>) -> Reply {
    let n = data.len().min(allocation.into() as usize).min(buf.len());
    buf[..n].copy_from_slice(&data[..n]);
    Reply::Data(n)
}
