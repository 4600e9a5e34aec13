//! Memory types as firmware leaves them, for a kernel that is booted without firmware (SDM vol 3A 12.11, "Memory Type Range Registers
//! (MTRRs)"). A Linux kernel that finds them off uses no PAT.
//!
//! All memory is write-back, but for the window of VGA and that of PCI devices below 4 GiB, which are uncacheable, and the ROMs, which are
//! write-protected.

use hv_core::machine::LOW_RAM_MAX;
use hv_core::msr::nr;

const UNCACHEABLE: u64 = 0;
const WRITE_PROTECTED: u64 = 5;
const WRITE_BACK: u64 = 6;
/// A range register is in use.
const VALID: u64 = 1 << 11;
/// IA32_MTRR_DEF_TYPE: the registers are on, those of fixed ranges too.
const ENABLE: u64 = 1 << 11;
const FIXED_ENABLE: u64 = 1 << 10;

/// A fixed-range register: eight ranges of one type.
const fn fixed(kind: u64) -> u64 {
    kind * 0x0101_0101_0101_0101
}

/// What firmware writes to model-specific registers, in order, on a CPU with physical addresses of `physical_bits` bits.
pub fn writes(physical_bits: u8) -> impl Iterator<Item = (u32, u64)> {
    const FIX16K_80000: u32 = 0x258;
    const FIX16K_A0000: u32 = 0x259;
    const FIX4K: core::ops::RangeInclusive<u32> = 0x268..=0x26f;
    const PCI_WINDOW: u64 = 0x1_0000_0000 - LOW_RAM_MAX;
    const _: () = assert!(PCI_WINDOW.is_power_of_two() && LOW_RAM_MAX.is_multiple_of(PCI_WINDOW));
    let all = (1 << physical_bits) - 1;
    let low = [
        (nr::MTRR_FIX64K, fixed(WRITE_BACK)),
        (FIX16K_80000, fixed(WRITE_BACK)),
        (FIX16K_A0000, fixed(UNCACHEABLE)),
    ];
    let roms = FIX4K.map(|msr| (msr, fixed(WRITE_PROTECTED)));
    let rest = [
        (nr::MTRR_PHYSBASE0, LOW_RAM_MAX | UNCACHEABLE),
        (nr::MTRR_PHYSBASE0 + 1, all & !(PCI_WINDOW - 1) | VALID),
        (nr::MTRR_DEF_TYPE, ENABLE | FIXED_ENABLE | WRITE_BACK),
    ];
    low.into_iter().chain(roms).chain(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::msr::MsrStore;

    #[test]
    fn the_registers_take_them_and_are_on() {
        let mut msrs = MsrStore::new(1_000_000_000);
        for (msr, value) in writes(40) {
            assert_eq!(msrs.write(msr, value), Ok(()), "{msr:#x}");
            assert_eq!(msrs.read(msr), Ok(value), "{msr:#x}");
        }
        assert_eq!(msrs.read(nr::MTRR_DEF_TYPE), Ok(0xc06));
        assert_eq!(msrs.read(0x200), Ok(0xc000_0000));
        assert_eq!(msrs.read(0x201), Ok(0xff_c000_0800));
    }
}
