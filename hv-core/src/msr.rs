//! The policy for model-specific registers: which the guest has, what they read, what a write does.
//!
//! Registers that the hardware switches with the guest (FS and GS base, SYSENTER, STAR, ...) never come here: the backend lets
//! them through. Everything else is either emulated by the run loop, kept here as plain storage, reads a constant, or does not
//! exist: #GP(0), unless the VM [ignores](UnknownMsrs) such accesses.

mod unknown;

use crate::regs::SysReg;
use crate::{hyperv, pvclock, pveoi, pvsteal};
pub use unknown::UnknownMsrs;

/// Register numbers, by the SDM's and APM's names.
#[allow(missing_docs)]
pub mod nr {
    pub const TSC: u32 = 0x10;
    pub const APIC_BASE: u32 = 0x1b;
    pub const FEATURE_CONTROL: u32 = 0x3a;
    pub const SPEC_CTRL: u32 = 0x48;
    pub const PRED_CMD: u32 = 0x49;
    pub const BIOS_UPDT_TRIG: u32 = 0x79;
    pub const BIOS_SIGN_ID: u32 = 0x8b;
    pub const PLATFORM_INFO: u32 = 0xce;
    pub const MTRRCAP: u32 = 0xfe;
    pub const ARCH_CAPABILITIES: u32 = 0x10a;
    pub const SYSENTER_CS: u32 = 0x174;
    pub const SYSENTER_ESP: u32 = 0x175;
    pub const SYSENTER_EIP: u32 = 0x176;
    pub const MCG_CAP: u32 = 0x179;
    pub const MCG_CTL: u32 = 0x17b;
    pub const MISC_ENABLE: u32 = 0x1a0;
    pub const DEBUGCTL: u32 = 0x1d9;
    pub const MTRR_PHYSBASE0: u32 = 0x200;
    pub const MTRR_FIX64K: u32 = 0x250;
    pub const PAT: u32 = 0x277;
    pub const MTRR_DEF_TYPE: u32 = 0x2ff;
    pub const MC0_CTL: u32 = 0x400;
    pub const TSC_DEADLINE: u32 = 0x6e0;
    pub const X2APIC: u32 = 0x800;
    pub const X2APIC_LAST: u32 = 0x83f;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const SFMASK: u32 = 0xc000_0084;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
}

/// Registers that the hardware switches with the guest and the permission map lets through.
pub const PASS_THROUGH: [u32; 10] = [
    nr::SYSENTER_CS,
    nr::SYSENTER_ESP,
    nr::SYSENTER_EIP,
    nr::STAR,
    nr::LSTAR,
    nr::CSTAR,
    nr::SFMASK,
    nr::FS_BASE,
    nr::GS_BASE,
    nr::KERNEL_GS_BASE,
];

/// IA32_PAT after reset (SDM vol 3A 12.12.4, "Programming the PAT").
pub const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// Variable-range MTRRs. Firmware needs one, for the hole below 4 GiB, and a graphics driver one. Systems read each at least twice while
/// they start, and ask IA32_MTRRCAP how many there are.
const RANGES: usize = 4;
const MTRR_LAST: u32 = nr::MTRR_PHYSBASE0 + 2 * RANGES as u32 - 1;
/// IA32_MTRRCAP: so many variable ranges, fixed ranges, write-combining.
const MTRRCAP: u64 = RANGES as u64 | 1 << 8 | 1 << 10;

/// Banks of machine-check registers, and the last of these. They never have an error, and guests read each of them four times while they
/// start: as many as Xen gives its guests, which every system knows.
const BANKS: usize = 2;
const MC_LAST: u32 = nr::MC0_CTL + 4 * BANKS as u32 - 1;
/// IA32_MCG_CAP: so many banks, and IA32_MCG_CTL.
const MCG_CAP: u64 = BANKS as u64 | 1 << 8;

/// The access is not allowed: #GP(0).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MsrFault;

/// What the run loop must do for a register that is more than storage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Special {
    /// The time-stamp counter.
    Tsc,
    /// The local APIC's timer in TSC-deadline mode.
    TscDeadline,
    /// IA32_APIC_BASE.
    ApicBase,
    /// A register of the local APIC in x2APIC mode.
    X2Apic,
    /// EFER.
    Efer,
    /// Of KVM's interface, if the guest has it.
    Kvm,
    /// Of Microsoft's interface, if the guest has it.
    HyperV,
    /// A speculation control, if the guest has it.
    Speculation,
    /// A register that the backend keeps.
    Sys(SysReg),
}

/// Which registers the run loop handles itself.
#[must_use]
pub const fn special(msr: u32) -> Option<Special> {
    Some(match msr {
        nr::TSC => Special::Tsc,
        nr::TSC_DEADLINE => Special::TscDeadline,
        nr::APIC_BASE => Special::ApicBase,
        nr::X2APIC..=nr::X2APIC_LAST => Special::X2Apic,
        nr::EFER => Special::Efer,
        pvclock::MSR_WALL_CLOCK | pvclock::MSR_SYSTEM_TIME | pveoi::MSR | pvsteal::MSR => {
            Special::Kvm
        }
        hyperv::msr::FIRST..=hyperv::msr::LAST => Special::HyperV,
        nr::SPEC_CTRL | nr::PRED_CMD | nr::ARCH_CAPABILITIES => Special::Speculation,
        nr::PAT => Special::Sys(SysReg::Pat),
        nr::SYSENTER_CS => Special::Sys(SysReg::SysenterCs),
        nr::SYSENTER_ESP => Special::Sys(SysReg::SysenterEsp),
        nr::SYSENTER_EIP => Special::Sys(SysReg::SysenterEip),
        nr::STAR => Special::Sys(SysReg::Star),
        nr::LSTAR => Special::Sys(SysReg::Lstar),
        nr::CSTAR => Special::Sys(SysReg::Cstar),
        nr::SFMASK => Special::Sys(SysReg::Sfmask),
        nr::KERNEL_GS_BASE => Special::Sys(SysReg::KernelGsBase),
        _ => return None,
    })
}

/// Whether a register that the backend keeps takes `value`: addresses must be canonical for 48 bits (SDM vol 2B, "WRMSR—Write to
/// Model Specific Register").
#[must_use]
pub fn is_valid(reg: SysReg, value: u64) -> bool {
    match reg {
        SysReg::Pat => pat_is_valid(value),
        SysReg::Lstar
        | SysReg::Cstar
        | SysReg::KernelGsBase
        | SysReg::SysenterEsp
        | SysReg::SysenterEip => ((value << 16) as i64 >> 16) as u64 == value,
        SysReg::Sfmask | SysReg::SysenterCs => value >> 32 == 0,
        _ => true,
    }
}

/// Whether `value` is a valid IA32_PAT: each byte UC, WC, WT, WP, WB or UC-.
#[must_use]
pub fn pat_is_valid(value: u64) -> bool {
    value
        .to_le_bytes()
        .iter()
        .all(|t| matches!(t, 0 | 1 | 4..=7))
}

/// The storage behind the registers that are only remembered.
#[derive(Clone, Debug)]
pub struct MsrStore {
    mtrr_variable: [u64; 2 * RANGES],
    mtrr_fixed: [u64; 11],
    mtrr_def_type: u64,
    misc_enable: u64,
    debugctl: u64,
    mcg_ctl: u64,
    mc_ctl: [u64; BANKS],
    platform_info: u64,
}

/// IA32_PLATFORM_INFO: the rate of the time-stamp counter in units of 100 MHz, as the highest and the most efficient one (SDM vol 4
/// 2.17, "MSRs in Processors Based on Skylake Microarchitecture").
fn platform_info(tsc_hz: u64) -> u64 {
    const UNIT: u64 = 100_000_000;
    let ratio = ((tsc_hz + UNIT / 2) / UNIT).min(0xff);
    ratio << 8 | ratio << 40
}

impl MsrStore {
    /// The registers after reset, of a CPU whose time-stamp counter runs at `tsc_hz`.
    #[must_use]
    pub fn new(tsc_hz: u64) -> Self {
        Self {
            platform_info: platform_info(tsc_hz.min(1 << 40)),
            mtrr_variable: [0; 2 * RANGES],
            mtrr_fixed: [0; 11],
            mtrr_def_type: 0,
            misc_enable: 0x1801,
            debugctl: 0,
            mcg_ctl: u64::MAX,
            mc_ctl: [0; BANKS],
        }
    }

    /// Whether the register is there, if it is none that the run loop [handles itself](special).
    #[must_use]
    pub fn has(&self, msr: u32) -> bool {
        msr == nr::BIOS_UPDT_TRIG || self.read(msr).is_ok()
    }
}

const fn fixed_index(msr: u32) -> Option<usize> {
    Some(match msr {
        0x250 => 0,
        0x258 => 1,
        0x259 => 2,
        0x268..=0x26f => (msr - 0x268) as usize + 3,
        _ => return None,
    })
}

const fn memory_type_is_valid(t: u8) -> bool {
    matches!(t, 0 | 1 | 4 | 5 | 6)
}

impl MsrStore {
    /// RDMSR.
    ///
    /// # Errors
    /// [`MsrFault`]: the register does not exist.
    pub fn read(&self, msr: u32) -> Result<u64, MsrFault> {
        if let Some(i) = fixed_index(msr) {
            return Ok(self.mtrr_fixed[i]);
        }
        Ok(match msr {
            nr::MTRR_PHYSBASE0..=MTRR_LAST => {
                self.mtrr_variable[(msr - nr::MTRR_PHYSBASE0) as usize]
            }
            nr::MTRR_DEF_TYPE => self.mtrr_def_type,
            nr::MTRRCAP => MTRRCAP,
            nr::MISC_ENABLE => self.misc_enable,
            nr::DEBUGCTL => self.debugctl,
            // Locked, nothing enabled. Windows 10 reads it before it has a #GP handler.
            nr::FEATURE_CONTROL => 1,
            // EBC_FREQUENCY_ID, FSB_FREQ.
            0x2c => 1 << 24,
            0xcd => 3,
            nr::PLATFORM_INFO => self.platform_info,
            // BBL_CR_CTL3: Windows XP.
            0x11e => 0xbe70_2111,
            nr::MCG_CAP => MCG_CAP,
            nr::MCG_CTL => self.mcg_ctl,
            nr::MC0_CTL..=MC_LAST if msr & 3 == 0 => {
                self.mc_ctl[((msr - nr::MC0_CTL) / 4) as usize]
            }
            // Status, address and miscellaneous: there never is an error.
            nr::MC0_CTL..=MC_LAST => 0,
            0x606 => 0xa1003,
            // SYSCFG, HWCR (TscFreqSel), VM_CR (SVM disabled and locked), DE_CFG (LFENCE serializes).
            0xc001_0010 => 0,
            0xc001_0015 => 0x0100_0010,
            0xc001_0114 => 0x18,
            0xc001_1029 => 2,
            _ if reads_zero(msr) => 0,
            _ => return Err(MsrFault),
        })
    }

    /// WRMSR.
    ///
    /// # Errors
    /// [`MsrFault`]: the register does not exist, is read-only, or the value is not valid.
    pub fn write(&mut self, msr: u32, value: u64) -> Result<(), MsrFault> {
        if let Some(i) = fixed_index(msr) {
            if !value.to_le_bytes().iter().all(|&t| memory_type_is_valid(t)) {
                return Err(MsrFault);
            }
            self.mtrr_fixed[i] = value;
            return Ok(());
        }
        match msr {
            nr::MTRR_PHYSBASE0..=MTRR_LAST => {
                if msr & 1 == 0 && !memory_type_is_valid(value as u8) {
                    return Err(MsrFault);
                }
                self.mtrr_variable[(msr - nr::MTRR_PHYSBASE0) as usize] = value;
            }
            nr::MTRR_DEF_TYPE => {
                if value & !0xcff != 0 || !memory_type_is_valid(value as u8) {
                    return Err(MsrFault);
                }
                self.mtrr_def_type = value;
            }
            nr::MISC_ENABLE => self.misc_enable = value,
            nr::DEBUGCTL => self.debugctl = value & 3,
            nr::MTRRCAP | nr::FEATURE_CONTROL => return Err(MsrFault),
            // Microcode updates are taken without effect: Windows loads them before it has an IDT.
            nr::BIOS_UPDT_TRIG | 0x2c | 0xcd | nr::PLATFORM_INFO | 0x11e | 0x606 => {}
            nr::MCG_CTL => self.mcg_ctl = value,
            nr::MC0_CTL..=MC_LAST if msr & 3 == 0 => {
                self.mc_ctl[((msr - nr::MC0_CTL) / 4) as usize] = value;
            }
            // They can be cleared only (SDM vol 3B 16.3.2, "Error-Reporting Register Banks").
            nr::MC0_CTL..=MC_LAST if value != 0 => return Err(MsrFault),
            nr::MC0_CTL..=MC_LAST => {}
            nr::MCG_CAP => return Err(MsrFault),
            0xc001_0010 | 0xc001_0015 | 0xc001_1029 => {}
            _ if reads_zero(msr) => {}
            _ => return Err(MsrFault),
        }
        Ok(())
    }
}

/// Registers that guests touch without asking CPUID first: they read 0 and ignore writes.
const fn reads_zero(msr: u32) -> bool {
    matches!(
        msr,
        // PLATFORM_ID, EBL_CR_POWERON, SMI_COUNT, BIOS_SIGN_ID.
        0x17 | 0x2a | 0x34 | 0x8b
        // MPERF and APERF.
        | 0xe7 | 0xe8
        // Performance counters and events.
        | 0xc1 | 0xc2 | 0x186 | 0x187 | 0x309 | 0x345 | 0x38d..=0x390
        // MISC_FEATURES, MCG_STATUS, PERF_STATUS to THERM2, TEMPERATURE_TARGET, MISC_FEATURE_CONTROL, ENERGY_PERF_BIAS.
        | 0x140 | 0x17a | 0x198..=0x19c | 0x1a2 | 0x1a4 | 0x1b0
        // Last-branch records.
        | 0x1c9 | 0x1db..=0x1de | 0x680..=0x68f | 0x6c0..=0x6cf
        // RAPL.
        | 0x611 | 0x619 | 0x639 | 0x641
        // AMD: performance counters, NB_CFG, TOP_MEM, P-states, patch level, SEV_STATUS, and others that Windows and OpenBSD read.
        | 0xc001_0000..=0xc001_0007 | 0xc001_001a | 0xc001_001d | 0xc001_001f | 0xc001_0020 | 0xc001_0055 | 0xc001_0058
        | 0xc001_0061..=0xc001_006b | 0xc001_0111..=0xc001_0113 | 0xc001_0117 | 0xc001_0131 | 0xc001_0140 | 0xc001_0141
        | 0xc001_1020..=0xc001_1028 | 0xc001_102a..=0xc001_102d
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_memory_types_fault() {
        let mut s = MsrStore::new(2_500_000_000);
        assert_eq!(
            s.write(nr::MTRR_FIX64K, 0x0606_0606_0606_0602),
            Err(MsrFault)
        );
        assert_eq!(s.write(nr::MTRR_FIX64K, 0x0606_0606_0606_0606), Ok(()));
        assert_eq!(s.read(nr::MTRR_FIX64K), Ok(0x0606_0606_0606_0606));
        assert_eq!(s.write(nr::MTRR_DEF_TYPE, 0xc02), Err(MsrFault));
        assert_eq!(s.write(nr::MTRR_PHYSBASE0, 7), Err(MsrFault));
        assert!(pat_is_valid(PAT_RESET));
        assert!(!pat_is_valid(2));
    }

    #[test]
    fn variable_ranges_are_as_many_as_mtrrcap_says() {
        let mut s = MsrStore::new(2_500_000_000);
        let count = s.read(nr::MTRRCAP).unwrap() as u32 & 0xff;
        for msr in (nr::MTRR_PHYSBASE0..).take(2 * count as usize) {
            assert_eq!(s.write(msr, 6), Ok(()), "{msr:#x}");
            assert_eq!(s.read(msr), Ok(6), "{msr:#x}");
        }
        let behind = nr::MTRR_PHYSBASE0 + 2 * count;
        assert_eq!(s.write(behind, 6), Err(MsrFault));
        assert_eq!(s.read(behind), Err(MsrFault));
    }

    /// What passes through the permission maps is switched: the document says how.
    #[test]
    fn registers_that_pass_through_are_in_the_table_of_state() {
        const NAMES: [&str; PASS_THROUGH.len()] = [
            "SYSENTER_CS",
            "SYSENTER_ESP",
            "SYSENTER_EIP",
            "STAR",
            "LSTAR",
            "CSTAR",
            "SFMASK",
            "FS_BASE",
            "GS_BASE",
            "KERNEL_GS_BASE",
        ];
        let table = include_str!("../../docs/state.md");
        for name in NAMES {
            let rows = table.lines().filter(|l| l.starts_with('|'));
            let named = |row: &str| row.split(['|', ',', ';']).any(|cell| cell.trim() == name);
            assert_eq!(rows.filter(|row| named(row)).count(), 1, "{name}");
        }
    }

    #[test]
    fn x2apic_range_is_the_local_apics_and_no_more() {
        assert_eq!(special(0x7ff), None);
        assert_eq!(special(0x800), Some(Special::X2Apic));
        assert_eq!(special(0x83f), Some(Special::X2Apic));
        assert_eq!(special(0x840), None);
        assert_eq!(MsrStore::new(2_500_000_000).read(0x840), Err(MsrFault));
    }

    #[test]
    fn there_are_as_many_machine_check_banks_as_mcg_cap_says() {
        let mut s = MsrStore::new(2_500_000_000);
        let banks = s.read(nr::MCG_CAP).unwrap() as u32 & 0xff;
        for bank in 0..32 {
            let ctl = nr::MC0_CTL + 4 * bank;
            let there = bank < banks;
            assert_eq!(s.write(ctl, u64::MAX).is_ok(), there, "bank {bank}");
            for msr in ctl..ctl + 4 {
                assert_eq!(s.read(msr).is_ok(), there, "{msr:#x}");
                assert_eq!(s.write(msr, 0).is_ok(), there, "{msr:#x}");
            }
            assert_eq!(s.write(ctl + 1, 1), Err(MsrFault), "an error is not made");
        }
        assert_eq!(s.write(nr::MCG_CTL, 0), Ok(()));
        assert_eq!(s.read(nr::MCG_CTL), Ok(0));
        assert_eq!(s.write(nr::MCG_CAP, 0), Err(MsrFault));
    }

    #[test]
    fn unknown_registers_fault_and_the_must_not_fault_list_does_not() {
        let mut s = MsrStore::new(2_500_000_000);
        for msr in [0u32, 0x4000_0106, 0x4b56_4d02, 0xc000_0104, u32::MAX] {
            assert_eq!(s.read(msr), Err(MsrFault), "{msr:#x}");
            assert_eq!(s.write(msr, 0), Err(MsrFault), "{msr:#x}");
        }
        for msr in [
            0x17,
            0x2c,
            0x3a,
            0x8b,
            0xce,
            0xe7,
            0xe8,
            0xfe,
            0x11e,
            0x140,
            0x198,
            0x199,
            0x1a0,
            0x1a4,
            0x1d9,
            0x400,
            0xc001_0015,
            0xc001_0131,
            0xc001_1029,
        ] {
            assert!(s.read(msr).is_ok() && s.has(msr), "{msr:#x}");
        }
        assert_eq!(s.read(nr::PLATFORM_INFO), Ok(25 << 8 | 25 << 40));
        assert!(s.has(0x79) && s.read(0x79).is_err(), "it is write-only");
        assert_eq!(s.write(0x79, 0x1000), Ok(()));
    }
}
