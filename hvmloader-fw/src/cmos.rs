//! What the firmware of a PC finds in CMOS RAM at power-on: memory sizes, equipment and boot order, in the places of the IBM AT
//! and of QEMU's `pc`. SeaBIOS falls back to these where fw_cfg is silent, and DOS-era programs read them directly.
//!
//! Not here: the clock and the century (0x00 to 0x0D, 0x32, 0x37), which the RTC itself keeps.

use crate::bootorder::{BootDevice, boot_devices};
use crate::e820::EXTENDED_MEMORY;
use alloc::vec;
use alloc::vec::Vec;
use hv_core::machine::MachineDesc;

const SHUTDOWN_STATUS: u8 = 0x0f;
const FLOPPY_TYPES: u8 = 0x10;
const DISK_TYPES: u8 = 0x12;
const EQUIPMENT: u8 = 0x14;
const BASE_KIB: u8 = 0x15;
const EXTENDED_KIB: u8 = 0x17;
const CHECKSUM_HIGH: u8 = 0x2e;
const CHECKSUM_LOW: u8 = 0x2f;
const EXTENDED_KIB_POST: u8 = 0x30;
const ABOVE_16M: u8 = 0x34;
const BOOT_THIRD: u8 = 0x38;
const DISK_TRANSLATION: u8 = 0x39;
const BOOT_FIRST: u8 = 0x3d;
const ABOVE_4G: u8 = 0x5b;
const MORE_CPUS: u8 = 0x5f;

/// Equipment byte: a coprocessor, a PS/2 mouse and (bits 5:4 = 0) an adapter with its own BIOS. No floppies.
const EQUIPMENT_FPU_MOUSE: u8 = 0x06;
/// SeaBIOS' disk translation, two bits a drive: LBA-assisted for each of the four.
const TRANSLATE_LBA: u8 = 0x55;
const NO_FLOPPY_CHECK: u8 = 1;

/// CMOS RAM as (index, value). What is not listed is 0 or the RTC's.
#[must_use]
pub fn cmos(desc: &MachineDesc) -> Vec<(u8, u8)> {
    let low = desc.low_ram();
    let extended_kib = (low.saturating_sub(EXTENDED_MEMORY) >> 10).min(0xffff);
    let above_16m = (low.saturating_sub(16 << 20) >> 16).min(0xffff);
    let above_4g = (desc.high_ram() >> 16).min(0xff_ffff);
    let boot = boot_devices(desc);
    let boot = |n: usize| boot.get(n).map_or(0, BootDevice::cmos_code);

    let mut cmos = vec![
        (SHUTDOWN_STATUS, 0),
        (FLOPPY_TYPES, 0),
        (DISK_TYPES, 0),
        (EQUIPMENT, EQUIPMENT_FPU_MOUSE),
    ];
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
    store(DISK_TRANSLATION, u64::from(TRANSLATE_LBA), 1);
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
        let no_cd = MachineDesc {
            cdrom: false,
            ..machine(1 << 30, 1)
        };
        assert!(cmos(&no_cd).contains(&(0x3d, 0x02)));
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
