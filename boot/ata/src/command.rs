//! The commands that are given to drives, as values for their registers. ATA/ATAPI-6 8, "Command descriptions".

use crate::registers::{DEVICE_LBA, DEVICE_ONES, DEVICE_SELECT, reg};

/// Opcodes.
pub(crate) mod op {
    pub(crate) const DEVICE_RESET: u8 = 0x08;
    pub(crate) const READ_SECTORS: u8 = 0x20;
    pub(crate) const READ_SECTORS_EXT: u8 = 0x24;
    pub(crate) const READ_DMA_EXT: u8 = 0x25;
    pub(crate) const WRITE_SECTORS: u8 = 0x30;
    pub(crate) const WRITE_SECTORS_EXT: u8 = 0x34;
    pub(crate) const WRITE_DMA_EXT: u8 = 0x35;
    pub(crate) const PACKET: u8 = 0xa0;
    pub(crate) const IDENTIFY_PACKET_DEVICE: u8 = 0xa1;
    pub(crate) const READ_DMA: u8 = 0xc8;
    pub(crate) const WRITE_DMA: u8 = 0xca;
    pub(crate) const FLUSH_CACHE: u8 = 0xe7;
    pub(crate) const FLUSH_CACHE_EXT: u8 = 0xea;
    pub(crate) const IDENTIFY_DEVICE: u8 = 0xec;
    pub(crate) const SET_FEATURES: u8 = 0xef;
}

/// Subcommand of SET FEATURES: transfer mode.
pub(crate) const SET_TRANSFER_MODE: u8 = 0x03;
/// Subcommand of SET FEATURES: no write cache.
pub(crate) const DISABLE_WRITE_CACHE: u8 = 0x82;

/// PACKET's bit of the features register: data by DMA.
const FEATURE_DMA: u8 = 1 << 0;
/// PACKET's bit of the features register: DMA to the host.
const FEATURE_DMADIR: u8 = 1 << 2;

/// Sectors that a 28-bit command reaches.
const LBA28_END: u64 = 0x0fff_ffff;
/// Most sectors of a 28-bit command, which has a count of zero then.
pub(crate) const LBA28_MOST: u32 = 256;
/// Most sectors of a 48-bit command, likewise.
pub(crate) const LBA48_MOST: u32 = 65_536;

/// Which way data go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    /// To the host.
    In,
    /// To the drive.
    Out,
}

/// What is written to the registers of a drive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Command {
    op: u8,
    features: u8,
    count: u16,
    lba: u64,
    /// The upper bits of the device register.
    device: u8,
    /// The registers are written twice, upper half first.
    ext: bool,
}

impl Command {
    /// A command without parameters.
    pub(crate) fn plain(op: u8) -> Self {
        Self {
            op,
            ..Self::default()
        }
    }

    /// SET FEATURES.
    pub(crate) fn set_features(features: u8, count: u8) -> Self {
        Self {
            op: op::SET_FEATURES,
            features,
            count: count.into(),
            ..Self::default()
        }
    }

    /// PACKET for data to the host; in PIO, at most `limit` bytes in a block. `dmadir`: the drive wants to know the direction of
    /// DMA beforehand (bit 15 of IDENTIFY PACKET DEVICE word 62).
    pub(crate) fn packet(dma: bool, dmadir: bool, limit: u16) -> Self {
        let mut features = 0;
        if dma {
            features = FEATURE_DMA | if dmadir { FEATURE_DMADIR } else { 0 };
        }
        Self {
            op: op::PACKET,
            features,
            lba: if dma { 0 } else { u64::from(limit) << 8 },
            ..Self::default()
        }
    }

    /// A command that moves `count` sectors from `first` on. The 28-bit commands are preferred: they take half the port accesses.
    /// None if the drive's commands do not reach so far, or `count` is none that a command can have.
    pub(crate) fn transfer(
        direction: Direction,
        dma: bool,
        first: u64,
        count: u32,
        lba48: bool,
    ) -> Option<Self> {
        let end = first.checked_add(count.into())?;
        let ext = end > LBA28_END || count > LBA28_MOST;
        let most = if ext { LBA48_MOST } else { LBA28_MOST };
        if count == 0 || count > most || ext && (!lba48 || end > 1 << 48) {
            return None;
        }
        let op = match (direction, dma, ext) {
            (Direction::In, false, false) => op::READ_SECTORS,
            (Direction::In, false, true) => op::READ_SECTORS_EXT,
            (Direction::In, true, false) => op::READ_DMA,
            (Direction::In, true, true) => op::READ_DMA_EXT,
            (Direction::Out, false, false) => op::WRITE_SECTORS,
            (Direction::Out, false, true) => op::WRITE_SECTORS_EXT,
            (Direction::Out, true, false) => op::WRITE_DMA,
            (Direction::Out, true, true) => op::WRITE_DMA_EXT,
        };
        Some(Self {
            op,
            features: 0,
            count: if count == most { 0 } else { count as u16 },
            lba: first,
            device: DEVICE_LBA | if ext { 0 } else { (first >> 24) as u8 & 0xf },
            ext,
        })
    }

    /// The value of the device register for drive `position` (0 or 1).
    pub(crate) fn device(&self, position: u8) -> u8 {
        DEVICE_ONES | self.device | select(position)
    }

    /// The other registers and their values in the order in which they are written, the command last.
    pub(crate) fn writes(&self) -> impl Iterator<Item = (u16, u8)> {
        let (count, lba) = (self.count.to_le_bytes(), self.lba.to_le_bytes());
        let half = move |features, count, lba: [u8; 3]| {
            [
                (reg::ERROR, features),
                (reg::COUNT, count),
                (reg::LBA_LOW, lba[0]),
                (reg::LBA_MID, lba[1]),
                (reg::LBA_HIGH, lba[2]),
            ]
        };
        let upper = half(0, count[1], [lba[3], lba[4], lba[5]]);
        let lower = half(self.features, count[0], [lba[0], lba[1], lba[2]]);
        let upper = upper.into_iter().take(if self.ext { 5 } else { 0 });
        upper.chain(lower).chain([(reg::STATUS, self.op)])
    }
}

/// The device register's selection of drive `position`.
pub(crate) fn select(position: u8) -> u8 {
    if position & 1 != 0 { DEVICE_SELECT } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(direction: Direction, dma: bool, first: u64, count: u32) -> Option<(u8, Vec<u8>)> {
        let c = Command::transfer(direction, dma, first, count, true)?;
        Some((c.device(1), c.writes().map(|(_, v)| v).collect()))
    }

    #[test]
    fn near_sectors_take_a_28_bit_command() {
        assert_eq!(
            transfer(Direction::In, false, 0x0123_4567, 8),
            Some((0xf1, vec![0, 8, 0x67, 0x45, 0x23, 0x20]))
        );
        assert_eq!(
            transfer(Direction::Out, true, 0, 256),
            Some((0xf0, vec![0, 0, 0, 0, 0, 0xca]))
        );
    }

    #[test]
    fn far_sectors_and_long_transfers_take_a_48_bit_command() {
        assert_eq!(
            transfer(Direction::In, true, 0x0605_0403_0201, 0x102),
            Some((0xf0, vec![0, 1, 4, 5, 6, 0, 2, 1, 2, 3, 0x25]))
        );
        assert_eq!(
            transfer(Direction::Out, false, 0, 65_536),
            Some((0xf0, vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x34]))
        );
        // The last address of 28 bits is left to the 48-bit commands: some drives refuse it.
        assert_eq!(
            transfer(Direction::In, false, 0x0fff_fffe, 2).unwrap().1[10],
            0x24
        );
    }

    #[test]
    fn every_transfer_has_its_opcode() {
        let op = |d, dma, first| *transfer(d, dma, first, 1).unwrap().1.last().unwrap();
        use Direction::{In, Out};
        let near = [(In, false), (In, true), (Out, false), (Out, true)].map(|(d, m)| op(d, m, 0));
        assert_eq!(near, [0x20, 0xc8, 0x30, 0xca]);
        let far =
            [(In, false), (In, true), (Out, false), (Out, true)].map(|(d, m)| op(d, m, 1 << 28));
        assert_eq!(far, [0x24, 0x25, 0x34, 0x35]);
    }

    #[test]
    fn what_no_command_reaches_is_refused() {
        let t = |first, count, lba48| {
            Command::transfer(Direction::In, false, first, count, lba48).is_some()
        };
        assert!(t(0, 1, false) && t(LBA28_END - 1, 1, false));
        assert!(!t(LBA28_END, 1, false) && !t(0, 257, false) && !t(0, 0, true));
        assert!(t((1 << 48) - 1, 1, true) && !t(1 << 48, 1, true) && !t(u64::MAX, 1, true));
        assert!(!t(0, 65_537, true));
    }

    #[test]
    fn packet_has_its_byte_count_limit_in_the_address() {
        let values = |c: Command| c.writes().map(|(_, v)| v).collect::<Vec<_>>();
        assert_eq!(
            values(Command::packet(false, true, 0xf800)),
            [0, 0, 0, 0, 0xf8, 0xa0]
        );
        assert_eq!(
            values(Command::packet(true, false, 0xf800)),
            [1, 0, 0, 0, 0, 0xa0]
        );
        assert_eq!(values(Command::packet(true, true, 0))[0], 5);
    }
}
