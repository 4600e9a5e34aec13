//! FADT, revision 3, 244 bytes: where the PIIX4's fixed hardware is (ACPI 2.0 5.2.8, "Fixed ACPI Description Table"; offsets as
//! in the manual's table).
//!
//! SMI_CMD is 0: the machine is always in ACPI mode (PM1_CNT.SCI_EN reads 1), so nobody has to switch it. X_FIRMWARE_CTRL is 0,
//! as it is for a FACS below 4 GiB.

use super::HEADER_LEN;
use crate::blob::Blob;
use alloc::vec::Vec;
use hv_core::machine::{GPE0_BASE, PM_BASE, SCI_IRQ};

pub(super) const REVISION: u8 = 3;
const LEN: usize = 244;

pub(super) const FIRMWARE_CTRL: usize = 36;
pub(super) const DSDT: usize = 40;
const SCI_INT: usize = 46;
const PM1A_EVT_BLK: usize = 56;
const PM1A_CNT_BLK: usize = 64;
const PM_TMR_BLK: usize = 76;
const GPE0_BLK: usize = 80;
const PM1_EVT_LEN: usize = 88;
const PM1_CNT_LEN: usize = 89;
const PM_TMR_LEN: usize = 91;
const GPE0_BLK_LEN: usize = 92;
const P_LVL2_LAT: usize = 96;
const P_LVL3_LAT: usize = 98;
const CENTURY: usize = 108;
const IAPC_BOOT_ARCH: usize = 109;
const FLAGS: usize = 112;
const RESET_REG: usize = 116;
const RESET_VALUE: usize = 128;
pub(super) const X_DSDT: usize = 140;
const X_PM1A_EVT_BLK: usize = 148;
const X_PM1A_CNT_BLK: usize = 172;
const X_PM_TMR_BLK: usize = 208;
const X_GPE0_BLK: usize = 220;

/// PIIX4 data sheet, "Power Management I/O Registers": event, control and timer within the PM block.
const PM1_EVT: u16 = 0;
const PM1_CNT: u16 = 4;
const PM_TMR: u16 = 8;
/// A latency above 100 (1000) microseconds says that there is no C2 (C3) state.
const NO_STATE: u16 = 0xfff;
/// CMOS index of the century.
const CENTURY_INDEX: u8 = 0x32;
/// Port CF9h, the PIIX reset control register: hard reset.
const RESET_PORT: u16 = 0xcf9;
const HARD_RESET: u8 = 6;

const LEGACY_DEVICES: u16 = 1 << 0;
const HAS_8042: u16 = 1 << 1;

const WBINVD: u32 = 1 << 0;
const PROC_C1: u32 = 1 << 2;
const SLP_BUTTON: u32 = 1 << 5;
const RTC_S4: u32 = 1 << 7;
const RESET_REG_SUP: u32 = 1 << 10;
const USE_PLATFORM_CLOCK: u32 = 1 << 15;

/// A generic address: `bits` of I/O ports (ACPI 5.2.3.2, "Generic Address Structure"). The access size is that of the register.
fn io(port: u16, bits: u8, access: u8) -> [u8; 12] {
    const SYSTEM_IO: u8 = 1;
    let [low, high] = port.to_le_bytes();
    [SYSTEM_IO, bits, 0, access, low, high, 0, 0, 0, 0, 0, 0]
}

/// All after the header; pointers are zero.
pub(super) fn body() -> Vec<u8> {
    let (event, control, timer) = (PM_BASE + PM1_EVT, PM_BASE + PM1_CNT, PM_BASE + PM_TMR);
    let mut b = Blob::zeroed(LEN);
    b.set16(SCI_INT, u16::from(SCI_IRQ));
    b.set32(PM1A_EVT_BLK, u32::from(event))
        .set8(PM1_EVT_LEN, 4)
        .set(X_PM1A_EVT_BLK, &io(event, 32, 2));
    b.set32(PM1A_CNT_BLK, u32::from(control))
        .set8(PM1_CNT_LEN, 2)
        .set(X_PM1A_CNT_BLK, &io(control, 16, 2));
    b.set32(PM_TMR_BLK, u32::from(timer))
        .set8(PM_TMR_LEN, 4)
        .set(X_PM_TMR_BLK, &io(timer, 32, 3));
    b.set32(GPE0_BLK, u32::from(GPE0_BASE))
        .set8(GPE0_BLK_LEN, 4)
        .set(X_GPE0_BLK, &io(GPE0_BASE, 32, 1));
    b.set16(P_LVL2_LAT, NO_STATE).set16(P_LVL3_LAT, NO_STATE);
    b.set8(CENTURY, CENTURY_INDEX)
        .set16(IAPC_BOOT_ARCH, LEGACY_DEVICES | HAS_8042);
    b.set32(
        FLAGS,
        WBINVD | PROC_C1 | SLP_BUTTON | RTC_S4 | RESET_REG_SUP | USE_PLATFORM_CLOCK,
    );
    b.set(RESET_REG, &io(RESET_PORT, 8, 1))
        .set8(RESET_VALUE, HARD_RESET);
    b.0.split_off(HEADER_LEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(at: usize) -> u16 {
        let b = body();
        u16::from_le_bytes([b[at - HEADER_LEN], b[at + 1 - HEADER_LEN]])
    }

    #[test]
    fn the_64_bit_blocks_say_what_the_32_bit_ones_say() {
        for (short, long) in [(56, 148), (64, 172), (76, 208), (80, 220)] {
            assert_eq!(word(short), word(long + 4));
        }
        assert_eq!(word(56), 0x600);
        assert_eq!(word(76), 0x608);
    }

    #[test]
    fn there_is_no_smi_command_port() {
        assert_eq!(word(48), 0);
        assert_eq!(body().len() + HEADER_LEN, 244);
    }
}
