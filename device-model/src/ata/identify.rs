//! The answers to IDENTIFY DEVICE and IDENTIFY PACKET DEVICE. ATA/ATAPI-6 8.15, "IDENTIFY DEVICE", and
//! 8.16, "IDENTIFY PACKET DEVICE".

use super::command::Attached;
use super::drive::{Disk, HEADS, MULTIPLE_MAX, SECTOR, SECTORS_PER_TRACK, TransferMode};
use hv_core::machine::IdeDrive;

/// Most sectors that 28 bits address.
const LBA28_MAX: u64 = 0x0fff_ffff;
/// Model of the hard disks.
const DISK_MODEL: &str = "UMBRA HARDDISK";
/// Model of the CD-ROM drives, also what INQUIRY answers.
pub(crate) const CDROM_MODEL: &str = "UMBRA DVD-ROM";
/// Revision of all drives' firmware.
pub(crate) const FIRMWARE: &str = "1.0";

/// The 256 words under construction.
struct Words([u8; SECTOR]);

impl Words {
    fn set(&mut self, word: usize, value: u16) {
        self.0[word * 2..word * 2 + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn set_wide(&mut self, word: usize, words: usize, value: u64) {
        self.0[word * 2..(word + words) * 2].copy_from_slice(&value.to_le_bytes()[..words * 2]);
    }

    /// Text, padded with spaces, two characters a word with the first in the upper byte.
    fn set_text(&mut self, word: usize, words: usize, text: &str) {
        let field = &mut self.0[word * 2..(word + words) * 2];
        field.fill(b' ');
        for (i, b) in text.bytes().take(words * 2).enumerate() {
            field[i ^ 1] = b;
        }
    }

    fn set_names(&mut self, at: Attached, model: &str) {
        let mut serial = *b"UM00000";
        let (Attached::Parallel(position) | Attached::Serial(position)) = at;
        serial[6] = b'1' + (position & 7) as u8;
        self.set_text(10, 10, core::str::from_utf8(&serial).unwrap_or_default());
        self.set_text(23, 4, FIRMWARE);
        self.set_text(27, 20, model);
    }

    /// Transfer modes: PIO 4, multiword DMA 2, Ultra DMA 5 and the selected one.
    fn set_modes(&mut self, mode: TransferMode) {
        let (multiword, ultra) = match mode {
            TransferMode::Pio => (0, 0),
            TransferMode::Multiword(n) => (0x100 << n, 0),
            TransferMode::Ultra(n) => (0, 0x100 << n),
        };
        self.set(53, 7); // words 54-58, 64-70 and 88 are valid
        self.set(63, 7 | multiword);
        self.set(64, 3);
        for word in 65..=68 {
            self.set(word, 120); // ns
        }
        self.set(88, 0x3f | ultra);
    }

    /// What a drive says of its cable: of a parallel one that it has 80 wires, and that drive 0 does not answer for a missing drive 1; of a
    /// serial one its speeds and queue (ATA8-ACS 7, "Command descriptions", IDENTIFY DEVICE, words 75, 76, 93 and 222).
    fn set_cable(&mut self, at: Attached, queued: bool) {
        match at {
            Attached::Parallel(_) => self.set(93, 0x6001),
            Attached::Serial(_) => {
                self.set(76, 0x0006 | u16::from(queued) << 8); // 1.5 and 3 Gb/s, NCQ
                self.set(222, 0x103f); // serial, up to SATA 2.6
                if queued {
                    self.set(75, 31); // requests, less one
                }
            }
        }
    }
}

/// IDENTIFY DEVICE data of `disk`, which hangs at `at`.
pub(crate) fn disk(disk: &Disk, mode: TransferMode, at: Attached) -> [u8; SECTOR] {
    let sectors = disk.backend.sectors();
    let mut w = Words([0; SECTOR]);
    w.set(0, 0x0040); // fixed
    w.set(1, IdeDrive::cylinders(sectors));
    w.set(3, HEADS.into());
    w.set(6, SECTORS_PER_TRACK.into());
    w.set(20, 3);
    w.set(21, 512);
    w.set(22, 4);
    w.set_names(at, DISK_MODEL);
    w.set(47, 0x8000 | u16::from(MULTIPLE_MAX));
    w.set(48, 1); // 32-bit I/O
    w.set(49, 0x0b00); // IORDY, LBA, DMA
    w.set(51, 0x0200);
    w.set(52, 0x0200);
    let cylinders = disk.cylinders().min(IdeDrive::CYLINDERS_MAX);
    w.set(54, cylinders);
    w.set(55, disk.heads.into());
    w.set(56, disk.spt.into());
    w.set_wide(
        57,
        2,
        u64::from(cylinders) * u64::from(disk.heads) * u64::from(disk.spt),
    );
    if disk.multiple != 0 {
        w.set(59, 0x0100 | u16::from(disk.multiple));
    }
    w.set_wide(60, 2, sectors.min(LBA28_MAX));
    w.set_modes(mode);
    w.set_cable(at, true);
    let (versions, logs) = match at {
        Attached::Parallel(_) => (0x00f0, 0),    // ATA/ATAPI-4 to 7
        Attached::Serial(_) => (0x01f0, 1 << 5), // and ATA8-ACS; general purpose logs
    };
    w.set(80, versions);
    w.set(81, 0x0016);
    w.set(82, 0x4061); // NOP, look-ahead, write cache, SMART
    w.set(83, 0x7400); // FLUSH CACHE EXT, FLUSH CACHE, 48 bits
    w.set(84, 0x4000 | logs);
    w.set(
        85,
        0x4000
            | u16::from(disk.look_ahead) << 6
            | u16::from(disk.write_cache) << 5
            | u16::from(disk.smart),
    );
    w.set(86, 0x3400);
    w.set(87, 0x4000 | logs);
    w.set_wide(100, 4, sectors);
    w.0
}

/// IDENTIFY PACKET DEVICE data of a CD-ROM drive, which hangs at `at`.
pub(crate) fn cdrom(mode: TransferMode, at: Attached) -> [u8; SECTOR] {
    let mut w = Words([0; SECTOR]);
    w.set(0, 0x85c0); // ATAPI, CD-ROM, removable, DRQ within 50 us, 12-byte packets
    w.set(20, 3);
    w.set(21, 512);
    w.set(22, 4);
    w.set_names(at, CDROM_MODEL);
    w.set(48, 1);
    w.set(49, 0x0b00); // IORDY, LBA, DMA
    w.set_modes(mode);
    w.set_cable(at, false);
    w.set(71, 30); // ns to release after PACKET
    w.set(72, 30);
    w.set(
        80,
        match at {
            Attached::Parallel(_) => 0x001e, // ATA-1 to ATA/ATAPI-4
            Attached::Serial(_) => 0x00f0, // ATA/ATAPI-4 to 7: Linux takes older ones for parallel drives behind a bridge
        },
    );
    w.set(82, 0x4210); // NOP, DEVICE RESET, PACKET
    w.set(83, 0x4000);
    w.set(84, 0x4000);
    w.set(85, 0x4210);
    w.set(87, 0x4000);
    w.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ata::drive::{Drive, Kind};
    use alloc::boxed::Box;
    use hv_core::testing::RamDisk;

    fn word(w: &[u8], i: usize) -> u16 {
        u16::from_le_bytes([w[i * 2], w[i * 2 + 1]])
    }

    fn identify(sectors: usize) -> [u8; SECTOR] {
        let d = Drive::disk(Box::new(RamDisk {
            data: vec![0; sectors * 512],
            read_only: false,
            fail: false,
        }));
        let Kind::Disk(disk_) = &d.kind else {
            unreachable!()
        };
        disk(disk_, TransferMode::Ultra(5), Attached::Parallel(0))
    }

    #[test]
    fn text_has_the_first_character_of_a_pair_in_the_upper_byte() {
        let w = identify(1);
        assert_eq!(&w[54..58], b"MURB");
        assert_eq!(w[92..94], *b"  ");
    }

    #[test]
    fn capacity_stands_in_all_three_forms() {
        let w = identify(2016);
        assert_eq!((word(&w, 1), word(&w, 3), word(&w, 6)), (2, 16, 63));
        assert_eq!(word(&w, 60), 2016);
        assert_eq!(word(&w, 100), 2016);
        assert_eq!(word(&w, 54), 2);
    }

    #[test]
    fn selected_mode_is_shown() {
        assert_eq!(word(&identify(1), 88), 0x203f);
    }
}
