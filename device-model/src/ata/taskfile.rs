//! The command block registers of one drive. ATA/ATAPI-6 7, "Interface register definitions and descriptions".
//!
//! The count and address registers are two deep: a write moves what was there to the *previous* content, which the 48-bit
//! commands take as their upper half and a read with HOB set returns.

use bitflags::bitflags;

bitflags! {
    /// The status register. ATA/ATAPI-6 7.15, "Status register".
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(crate) struct Status: u8 {
        /// The last command failed.
        const ERR = 1 << 0;
        /// The drive wants data moved.
        const DRQ = 1 << 3;
        /// Seek complete.
        const DSC = 1 << 4;
        /// Device fault.
        const DF = 1 << 5;
        /// Ready for commands.
        const DRDY = 1 << 6;
        /// Busy: no other bit is valid.
        const BSY = 1 << 7;
    }

    /// The error register. ATA/ATAPI-6 7.9, "Error register".
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(crate) struct Error: u8 {
        /// Command aborted. Alone and after a reset: diagnostics passed.
        const ABRT = 1 << 2;
        /// Address not found.
        const IDNF = 1 << 4;
        /// Data could not be corrected; on a write: the medium is write-protected.
        const UNC = 1 << 6;
    }
}

impl Status {
    /// Idle and well.
    pub(crate) const IDLE: Self = Self::DRDY.union(Self::DSC);
    /// Waiting for the host to move data.
    pub(crate) const DATA: Self = Self::IDLE.union(Self::DRQ);
    /// Working.
    pub(crate) const WORKING: Self = Self::IDLE.union(Self::BSY);
}

/// The error register after a reset: device 0 passed its diagnostics. ATA/ATAPI-6 8.9, "EXECUTE
/// DEVICE DIAGNOSTIC".
pub(crate) const DIAGNOSTICS_PASSED: u8 = 1;

/// How a command names sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Addressing {
    /// Cylinder, head and sector of the current translation.
    Chs {
        /// Heads, 1 to 16.
        heads: u8,
        /// Sectors a track, 1 to 255.
        spt: u8,
    },
    /// 28 bits.
    Lba28,
    /// 48 bits.
    Lba48,
}

/// A two-deep register: current and previous content.
#[derive(Clone, Copy, Default)]
pub(crate) struct Deep([u8; 2]);

impl Deep {
    pub(crate) fn write(&mut self, value: u8) {
        self.0 = [value, self.0[0]];
    }
    pub(crate) fn read(self, previous: bool) -> u8 {
        self.0[usize::from(previous)]
    }
    pub(crate) fn now(self) -> u8 {
        self.0[0]
    }
    pub(crate) fn old(self) -> u8 {
        self.0[1]
    }
    /// Sets the current content from the drive's side: the previous one stays.
    pub(crate) fn set(&mut self, value: u8) {
        self.0[0] = value;
    }
    fn set_both(&mut self, now: u8, previous: u8) {
        self.0 = [now, previous];
    }
}

/// The registers of one drive, but for the device register, which the channel has.
#[derive(Clone, Default)]
pub(crate) struct TaskFile {
    pub(crate) features: Deep,
    pub(crate) count: Deep,
    pub(crate) lba: [Deep; 3],
    pub(crate) error: u8,
    pub(crate) status: Status,
}

impl TaskFile {
    /// The number of sectors a command is for: 0 stands for the largest.
    pub(crate) fn sectors(&self, addressing: Addressing) -> u32 {
        match addressing {
            Addressing::Lba48 => match u16::from_le_bytes([self.count.now(), self.count.old()]) {
                0 => 0x1_0000,
                n => n.into(),
            },
            _ => match self.count.now() {
                0 => 0x100,
                n => n.into(),
            },
        }
    }

    /// The first sector a command is for; none if there is no such sector. `device` is the device register.
    pub(crate) fn address(&self, addressing: Addressing, device: u8) -> Option<u64> {
        let [a, b, c] = self.lba;
        match addressing {
            Addressing::Lba48 => Some(u64::from_le_bytes([
                a.now(),
                b.now(),
                c.now(),
                a.old(),
                b.old(),
                c.old(),
                0,
                0,
            ])),
            Addressing::Lba28 => {
                Some(u32::from_le_bytes([a.now(), b.now(), c.now(), device & 0xf]).into())
            }
            Addressing::Chs { heads, spt } => {
                let cylinder = u64::from(u16::from_le_bytes([b.now(), c.now()]));
                let sector = u64::from(a.now().checked_sub(1)?);
                let head = device & 0xf;
                (head < heads && sector < u64::from(spt)).then(|| {
                    (cylinder * u64::from(heads) + u64::from(head)) * u64::from(spt) + sector
                })
            }
        }
    }

    /// Stores `sector` as address; `device` is the device register.
    pub(crate) fn set_address(&mut self, addressing: Addressing, device: &mut u8, sector: u64) {
        let v = sector.to_le_bytes();
        match addressing {
            Addressing::Lba48 => {
                for (i, reg) in self.lba.iter_mut().enumerate() {
                    reg.set_both(v[i], v[i + 3]);
                }
            }
            Addressing::Lba28 => {
                for (reg, b) in self.lba.iter_mut().zip(v) {
                    reg.set(b);
                }
                *device = *device & 0xf0 | v[3] & 0xf;
            }
            Addressing::Chs { heads, spt } => {
                let (heads, spt) = (u64::from(heads.max(1)), u64::from(spt.max(1)));
                let cylinder = (sector / spt / heads) as u16;
                self.lba[0].set((sector % spt) as u8 + 1);
                self.lba[1].set(cylinder as u8);
                self.lba[2].set((cylinder >> 8) as u8);
                *device = *device & 0xf0 | (sector / spt % heads) as u8 & 0xf;
            }
        }
    }

    /// Stores the signature of a drive in the count and address registers. ATA/ATAPI-6 9.12, "Signature and persistence".
    pub(crate) fn set_signature(&mut self, packet: bool) {
        self.count.set_both(1, 0);
        self.lba[0].set_both(1, 0);
        self.lba[1].set_both(if packet { 0x14 } else { 0 }, 0);
        self.lba[2].set_both(if packet { 0xeb } else { 0 }, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(lba: [u8; 6]) -> TaskFile {
        let mut t = TaskFile::default();
        for i in 0..3 {
            t.lba[i].write(lba[i + 3]);
            t.lba[i].write(lba[i]);
        }
        t
    }

    #[test]
    fn forty_eight_bit_address_takes_previous_contents_as_upper_half() {
        assert_eq!(
            with([1, 2, 3, 4, 5, 6]).address(Addressing::Lba48, 0xef),
            Some(0x0605_0403_0201)
        );
    }

    #[test]
    fn twenty_eight_bit_address_ends_in_device_register() {
        assert_eq!(
            with([1, 2, 3, 4, 5, 6]).address(Addressing::Lba28, 0xef),
            Some(0x0f03_0201)
        );
    }

    #[test]
    fn chs_sector_zero_and_heads_past_the_last_do_not_exist() {
        let chs = Addressing::Chs { heads: 4, spt: 63 };
        assert_eq!(with([0; 6]).address(chs, 0xa0), None);
        assert_eq!(with([64, 0, 0, 0, 0, 0]).address(chs, 0xa0), None);
        assert_eq!(with([1, 0, 0, 0, 0, 0]).address(chs, 0xa4), None);
        assert_eq!(
            with([63, 1, 0, 0, 0, 0]).address(chs, 0xa3),
            Some((4 + 3) * 63 + 62)
        );
    }

    #[test]
    fn stored_address_reads_back() {
        for a in [
            Addressing::Chs { heads: 16, spt: 63 },
            Addressing::Lba28,
            Addressing::Lba48,
        ] {
            let (mut t, mut device) = (TaskFile::default(), 0xe0);
            t.set_address(a, &mut device, 123_456);
            assert_eq!(t.address(a, device), Some(123_456), "{a:?}");
        }
    }

    #[test]
    fn count_zero_is_the_largest() {
        let t = TaskFile::default();
        assert_eq!(
            (t.sectors(Addressing::Lba28), t.sectors(Addressing::Lba48)),
            (256, 65_536)
        );
    }
}
