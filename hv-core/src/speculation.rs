//! Speculation controls: what a guest may tell the CPU about branches that it guesses (Intel, "Speculative Execution Side Channel Mitigations";
//! AMD, "Indirect Branch Control Extension"; SDM vol 4 table 2-2, APM vol 2 3.2.9, "Speculation Control MSRs").
//!
//! They are there for guests whose CPU has them. IA32_SPEC_CTRL is switched with the guest: Umbra runs with 0, and the backend gives the CPU the
//! guest's value for as long as the guest runs. Writes leave the guest, so that it can set no bit that CPUID hides. IA32_PRED_CMD is a command:
//! it is given to the CPU at once. IA32_ARCH_CAPABILITIES says what the CPU needs no software for: the guest sees of the host's what
//! is about its own kernel.
//!
//! Not offered: IA32_FLUSH_CMD (L1D_FLUSH), which is for hypervisors; AMD's virtual SSBD, whose register this is not.

use crate::cpuid::CpuidResult;

/// IA32_SPEC_CTRL: indirect branches are restricted, sibling threads are kept apart, stores are not bypassed.
pub const IBRS: u64 = 1 << 0;
/// See [`IBRS`].
pub const STIBP: u64 = 1 << 1;
/// See [`IBRS`].
pub const SSBD: u64 = 1 << 2;
/// IA32_PRED_CMD: the barrier.
pub const IBPB: u64 = 1 << 0;

/// CPUID leaf 7.0 EDX: MD_CLEAR; IBRS and IBPB; STIBP; SSBD.
const MD_CLEAR: u32 = 1 << 10;
const INTEL_IBRS_IBPB: u32 = 1 << 26;
const INTEL_STIBP: u32 = 1 << 27;
/// CPUID leaf 7.0 EDX: the CPU has IA32_ARCH_CAPABILITIES.
pub const ARCH_CAPABILITIES: u32 = 1 << 29;
const INTEL_SSBD: u32 = 1 << 31;
/// CPUID leaf 8000_0008 EBX: IBPB, IBRS, STIBP; IBRS and STIBP always on, IBRS preferred, IBRS within one mode; SSBD; not needing SSBD.
const AMD_IBPB: u32 = 1 << 12;
const AMD_IBRS: u32 = 1 << 14;
const AMD_STIBP: u32 = 1 << 15;
const AMD_HINTS: u32 = 0b1111 << 16;
const AMD_SSBD: u32 = 1 << 24;
const AMD_SSB_NO: u32 = 1 << 26;

/// Bits of IA32_ARCH_CAPABILITIES that guests see: RDCL_NO, IBRS_ALL, RSBA, SSB_NO, MDS_NO, IF_PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO,
/// PSDP_NO, RRSBA, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO. What is not here names a register that guests do not have.
const CAPABILITIES: u64 = 1 << 0
    | 1 << 1
    | 1 << 2
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 13
    | 1 << 14
    | 1 << 15
    | 1 << 19
    | 1 << 20
    | 1 << 24
    | 1 << 26
    | 1 << 27;

/// What of it a CPU has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Speculation {
    /// The bits of IA32_SPEC_CTRL that may be set. None: there is no such register.
    pub control: u64,
    /// Whether there is IA32_PRED_CMD.
    pub barrier: bool,
    /// IA32_ARCH_CAPABILITIES, if there is such a register.
    pub capabilities: Option<u64>,
}

impl Speculation {
    /// What the host's leaves 7.0 and 8000_0008 tell, with its IA32_ARCH_CAPABILITIES if it has one.
    #[must_use]
    pub fn of(leaf7: CpuidResult, extended8: CpuidResult, capabilities: Option<u64>) -> Self {
        let has = |intel, amd| leaf7.edx & intel != 0 || extended8.ebx & amd != 0;
        let bit = |has, bit| if has { bit } else { 0 };
        Self {
            control: bit(has(INTEL_IBRS_IBPB, AMD_IBRS), IBRS)
                | bit(has(INTEL_STIBP, AMD_STIBP), STIBP)
                | bit(has(INTEL_SSBD, AMD_SSBD), SSBD),
            barrier: has(INTEL_IBRS_IBPB, AMD_IBPB),
            capabilities: capabilities
                .filter(|_| leaf7.edx & ARCH_CAPABILITIES != 0)
                .map(|value| value & CAPABILITIES),
        }
    }

    /// Leaf 7.0 EDX of the guest's: which bits of the host's it sees.
    #[must_use]
    pub fn leaf7_edx(self) -> u32 {
        let capabilities = match self.capabilities {
            Some(_) => ARCH_CAPABILITIES,
            None => 0,
        };
        MD_CLEAR | INTEL_IBRS_IBPB | INTEL_STIBP | INTEL_SSBD | capabilities
    }

    /// Leaf 8000_0008 EBX likewise.
    #[must_use]
    pub const fn extended8_ebx() -> u32 {
        AMD_IBPB | AMD_IBRS | AMD_STIBP | AMD_HINTS | AMD_SSBD | AMD_SSB_NO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(edx: u32, ebx: u32, capabilities: Option<u64>) -> Speculation {
        let leaf7 = CpuidResult {
            edx,
            ..CpuidResult::default()
        };
        let extended8 = CpuidResult {
            ebx,
            ..CpuidResult::default()
        };
        Speculation::of(leaf7, extended8, capabilities)
    }

    #[test]
    fn registers_and_bits_are_those_that_cpuid_tells_of() {
        assert_eq!(of(0, 0, Some(!0)), Speculation::default());
        for (edx, ebx, control, barrier) in [
            (1 << 26, 0, 1, true),
            (1 << 26 | 1 << 27, 0, 3, true),
            (1 << 31, 0, 4, false),
            (0, 1 << 12, 0, true),
            (0, 1 << 14 | 1 << 15 | 1 << 24, 7, false),
            (0, 1 << 24, 4, false),
        ] {
            let s = of(edx, ebx, None);
            assert_eq!(
                (s.control, s.barrier),
                (control, barrier),
                "{edx:#x} {ebx:#x}"
            );
        }
    }

    #[test]
    fn capabilities_are_the_hosts_without_what_names_registers_that_guests_lack() {
        assert_eq!(of(1 << 29, 0, None).capabilities, None);
        assert_eq!(of(1 << 29, 0, None).leaf7_edx() & 1 << 29, 0);
        let all = of(1 << 29, 0, Some(!0));
        // TSX_CTRL, MISC_PACKAGE_CTLS, ENERGY_FILTERING_CTL, DOITM, MCU_ENUM, FB_CLEAR_CTRL, XAPIC_DISABLE_STATUS, OVERCLOCKING.
        let absent = 1 << 7 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 16 | 1 << 18 | 1 << 21 | 1 << 23;
        let all = all.capabilities.unwrap();
        assert_eq!(all & absent, 0);
        assert_eq!(all & 0b11, 0b11);
    }
}
