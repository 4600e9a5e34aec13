//! What the firmware of a PC finds in CMOS RAM at power-on: memory sizes, drives, equipment and boot order, in the places of the IBM AT
//! and of QEMU's `pc` (`hw/i386/pc.c`, `pc_cmos_init`). SeaBIOS falls back to these where fw_cfg is silent, and programs of DOS's time
//! read them directly: an old system that finds no hard disk in byte 12h never asks the IDE controller.
//!
//! Not here: the clock and the century (0x00 to 0x0D, 0x32, 0x37), which the RTC itself keeps.

use crate::bootorder::{boot_order, cmos_code};
use crate::e820::EXTENDED_MEMORY;
use alloc::vec;
use alloc::vec::Vec;
use hv_core::machine::{FloppyDrive, IdeDrive, MachineDesc};

/// Where firmware goes on after a reset.
pub const SHUTDOWN_STATUS: u8 = 0x0f;
const FLOPPY_TYPES: u8 = 0x10;
const DISK_TYPES: u8 = 0x12;
const EQUIPMENT: u8 = 0x14;
const BASE_KIB: u8 = 0x15;
const EXTENDED_KIB: u8 = 0x17;
/// The types of the first two disks, if byte 12h says "extended type" of them, and nine bytes about each.
const DISK_TYPES_EXTENDED: [u8; 2] = [0x19, 0x1a];
const DISK_GEOMETRY: [u8; 2] = [0x1b, 0x24];
const CHECKSUM_HIGH: u8 = 0x2e;
const CHECKSUM_LOW: u8 = 0x2f;
const EXTENDED_KIB_POST: u8 = 0x30;
const ABOVE_16M: u8 = 0x34;
const BOOT_THIRD: u8 = 0x38;
const DISK_TRANSLATION: u8 = 0x39;
const BOOT_FIRST: u8 = 0x3d;
const ABOVE_4G: u8 = 0x5b;
const MORE_CPUS: u8 = 0x5f;

/// Equipment byte: a coprocessor, a PS/2 mouse, one floppy drive (bits 7:6 = 0, bit 0) and (bits 5:4 = 0) an adapter with its own BIOS.
const EQUIPMENT_FPU_MOUSE_FLOPPY: u8 = 0x07;
/// Byte 12h: the type is in byte 19h or 1Ah.
const EXTENDED_TYPE: u8 = 0x0f;
/// The type whose geometry is told by nine bytes.
const USER_TYPE: u8 = 47;
/// The control byte of a disk: no retries (IBM AT BIOS, fixed disk parameter table), more than eight heads.
const NO_RETRIES: u8 = 0xc0;
const MORE_THAN_8_HEADS: u8 = 0x08;
/// Most cylinders that INT 13h addresses without translation.
const INT13_CYLINDERS: u16 = 1024;
/// SeaBIOS' disk translation, two bits a drive: none, or LBA-assisted.
const TRANSLATE_NONE: u8 = 0;
const TRANSLATE_LBA: u8 = 1;
const NO_FLOPPY_CHECK: u8 = 1;

/// CMOS RAM as (index, value). What is not listed is 0 or the RTC's.
#[must_use]
pub fn cmos(desc: &MachineDesc) -> Vec<(u8, u8)> {
    let low = desc.low_ram();
    let extended_kib = (low.saturating_sub(EXTENDED_MEMORY) >> 10).min(0xffff);
    let above_16m = (low.saturating_sub(16 << 20) >> 16).min(0xffff);
    let above_4g = (desc.high_ram() >> 16).min(0xff_ffff);
    let boot = boot_order(desc);
    let boot = |n: usize| boot.get(n).map_or(0, |from| cmos_code(*from));
    let floppy = match desc.floppy {
        FloppyDrive::M1440 => 4,
        FloppyDrive::M2880 => 5,
    };

    let mut cmos = vec![
        (SHUTDOWN_STATUS, 0),
        (FLOPPY_TYPES, floppy << 4),
        (EQUIPMENT, EQUIPMENT_FPU_MOUSE_FLOPPY),
    ];
    cmos.extend(disks(desc));
    let mut store = |index: u8, value: u64, bytes: u8| {
        for i in 0..bytes {
            cmos.push((index + i, (value >> (8 * i)) as u8));
        }
    };
    store(BASE_KIB, 640, 2);
    store(EXTENDED_KIB, extended_kib, 2);
    store(EXTENDED_KIB_POST, extended_kib, 2);
    store(ABOVE_16M, above_16m, 2);
    store(BOOT_THIRD, u64::from(boot(2) << 4 | NO_FLOPPY_CHECK), 1);
    store(DISK_TRANSLATION, u64::from(translations(desc)), 1);
    store(BOOT_FIRST, u64::from(boot(1) << 4 | boot(0)), 1);
    store(ABOVE_4G, above_4g, 3);
    store(
        MORE_CPUS,
        u64::from(desc.cpus.saturating_sub(1).min(0xff)),
        1,
    );

    // The AT's checksum over 10h to 2Dh, high byte first.
    let sum: u16 = cmos
        .iter()
        .filter(|(i, _)| (0x10..=0x2d).contains(i))
        .map(|&(_, v)| u16::from(v))
        .sum();
    cmos.extend([(CHECKSUM_HIGH, (sum >> 8) as u8), (CHECKSUM_LOW, sum as u8)]);
    cmos
}

/// The cylinders of the hard disk at a position.
fn cylinders(desc: &MachineDesc, position: usize) -> Option<u16> {
    match desc.drives.get(position)? {
        Some(IdeDrive::Disk { sectors }) => Some(IdeDrive::cylinders(*sectors)),
        _ => None,
    }
}

/// The two disks of the primary channel, which are all that the AT's bytes have room for.
fn disks(desc: &MachineDesc) -> Vec<(u8, u8)> {
    let mut types = 0;
    let mut cmos = Vec::new();
    for (position, (kind, first)) in DISK_TYPES_EXTENDED.iter().zip(DISK_GEOMETRY).enumerate() {
        let Some(cylinders) = cylinders(desc, position) else {
            continue;
        };
        types |= EXTENDED_TYPE << (4 * (1 - position));
        let [low, high] = cylinders.to_le_bytes();
        // Cylinders, heads, no write precompensation, control, landing zone, sectors a track.
        let geometry = [
            low,
            high,
            IdeDrive::HEADS,
            0xff,
            0xff,
            NO_RETRIES | MORE_THAN_8_HEADS,
            low,
            high,
            IdeDrive::SECTORS_PER_TRACK,
        ];
        cmos.push((*kind, USER_TYPE));
        cmos.extend((first..).zip(geometry));
    }
    cmos.push((DISK_TYPES, types));
    cmos
}

/// How SeaBIOS is to translate each disk's geometry. Those of drives 4 to 7, in byte 3Ah, are 0: there are four.
fn translations(desc: &MachineDesc) -> u8 {
    (0..desc.drives.len()).fold(0, |bits, position| {
        let translation = match cylinders(desc, position) {
            Some(cylinders) if cylinders > INT13_CYLINDERS => TRANSLATE_LBA,
            _ => TRANSLATE_NONE,
        };
        bits | translation << (2 * position)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::machine;

    fn image(memory: u64, cpus: u32) -> [u8; 128] {
        let mut image = [0; 128];
        for (index, value) in cmos(&machine(memory, cpus)) {
            image[usize::from(index)] = value;
        }
        image
    }

    fn word(c: &[u8; 128], at: usize) -> u32 {
        u32::from(c[at]) | u32::from(c[at + 1]) << 8
    }

    #[test]
    fn seabios_computes_all_ram_from_it() {
        for memory in [32 << 20, 1 << 30, 3 << 30, 7u64 << 30] {
            let c = image(memory, 1);
            let low = (u64::from(word(&c, 0x34)) << 16) + (16 << 20);
            let high = u64::from(word(&c, 0x5b) | u32::from(c[0x5d]) << 16) << 16;
            assert_eq!(low + high, memory);
        }
    }

    #[test]
    fn small_memory_is_told_in_kib_and_large_is_capped() {
        assert_eq!(word(&image(8 << 20, 1), 0x30), 7 * 1024);
        assert_eq!(word(&image(8 << 20, 1), 0x34), 0);
        assert_eq!(word(&image(1 << 30, 1), 0x17), 0xffff);
        assert_eq!(word(&image(1 << 30, 1), 0x15), 640);
    }

    #[test]
    fn the_checksum_covers_10h_to_2dh() {
        let c = image(1 << 30, 3);
        let sum: u32 = c[0x10..=0x2d].iter().map(|&b| u32::from(b)).sum();
        assert_eq!(u32::from(c[0x2e]) << 8 | u32::from(c[0x2f]), sum);
        assert_eq!(c[0x5f], 2);
    }

    #[test]
    fn disk_boots_first_and_cd_second() {
        assert_eq!(image(1 << 30, 1)[0x3d], 0x32);
        assert_eq!(image(1 << 30, 1)[0x38], 0x11);
        let floppy_first = MachineDesc {
            drives: [None; 4],
            boot: Some(hv_core::machine::BootFrom::Floppy),
            ..machine(1 << 30, 1)
        };
        assert!(cmos(&floppy_first).contains(&(0x3d, 0x01)));
    }

    fn with(drives: [Option<IdeDrive>; 4]) -> [u8; 128] {
        let mut image = [0; 128];
        let desc = MachineDesc {
            drives,
            ..machine(1 << 30, 1)
        };
        for (index, value) in cmos(&desc) {
            image[usize::from(index)] = value;
        }
        image
    }

    #[test]
    fn the_disks_of_the_primary_channel_have_their_types_and_geometry() {
        let disk = |sectors| Some(IdeDrive::Disk { sectors });
        let c = with([
            disk(16 * 63 * 500),
            disk(1 << 30),
            Some(IdeDrive::Cdrom),
            None,
        ]);
        assert_eq!((c[0x12], c[0x19], c[0x1a]), (0xff, 47, 47));
        assert_eq!(c[0x1b..0x24], [0xf4, 1, 16, 0xff, 0xff, 0xc8, 0xf4, 1, 63]);
        assert_eq!(
            c[0x24..0x2d],
            [0xff, 0x3f, 16, 0xff, 0xff, 0xc8, 0xff, 0x3f, 63]
        );
        assert_eq!(
            (c[0x39], c[0x3a]),
            (0b0100, 0),
            "the large one is translated"
        );
        let c = with([disk(2000), None, None, disk(1 << 30)]);
        assert_eq!((c[0x12], c[0x1a], c[0x39]), (0xf0, 0, 0x40));
        let c = with([Some(IdeDrive::Cdrom), None, None, None]);
        assert_eq!((c[0x12], c[0x19], c[0x39]), (0, 0, 0));
    }

    #[test]
    fn there_is_one_floppy_drive_of_its_kind() {
        let c = image(1 << 30, 1);
        assert_eq!((c[0x10], c[0x14] & 0xc1), (0x40, 1));
        let large = MachineDesc {
            floppy: FloppyDrive::M2880,
            ..machine(1 << 30, 1)
        };
        assert!(cmos(&large).contains(&(0x10, 0x50)));
    }

    #[test]
    fn no_index_is_listed_twice_and_the_clock_is_left_alone() {
        let mut seen: Vec<u8> = cmos(&machine(1 << 30, 1)).iter().map(|c| c.0).collect();
        assert!(
            seen.iter()
                .all(|i| *i > 0x0d && *i < 0x80 && *i != 0x32 && *i != 0x37)
        );
        seen.sort_unstable();
        seen.windows(2).for_each(|w| assert_ne!(w[0], w[1]));
    }
}
