//! What this CPU's VT-x can do (SDM vol 3D appendix A, "VMX Capability Reporting Facility"), and whether that is enough.

use crate::controls::{self, Entry, Exit, Pin, Primary, Secondary};
use crate::formats::activity;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use hv_core::regs::Cr4;

/// The capability registers and the one that locks VT-x, by the manual's names.
#[allow(missing_docs)]
pub mod msr {
    pub const FEATURE_CONTROL: u32 = 0x3a;
    pub const BASIC: u32 = 0x480;
    pub const PINBASED: u32 = 0x481;
    pub const PROCBASED: u32 = 0x482;
    pub const EXIT: u32 = 0x483;
    pub const ENTRY: u32 = 0x484;
    pub const MISC: u32 = 0x485;
    pub const CR0_FIXED0: u32 = 0x486;
    pub const CR0_FIXED1: u32 = 0x487;
    pub const CR4_FIXED0: u32 = 0x488;
    pub const CR4_FIXED1: u32 = 0x489;
    pub const PROCBASED2: u32 = 0x48b;
    pub const EPT_VPID: u32 = 0x48c;
    pub const TRUE_PINBASED: u32 = 0x48d;
    pub const TRUE_PROCBASED: u32 = 0x48e;
    pub const TRUE_EXIT: u32 = 0x48f;
    pub const TRUE_ENTRY: u32 = 0x490;
}

/// Bits of IA32_FEATURE_CONTROL (SDM vol 3C 24.7, "Enabling and Entering VMX Operation").
const LOCKED: u64 = 1 << 0;
const VMX_OUTSIDE_SMX: u64 = 1 << 2;

/// Which settings of a control field the CPU takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Allowed {
    /// Bits that must be 1: those whose allowed 0-setting is not there.
    pub must: u32,
    /// Bits that may be 1.
    pub may: u32,
}

impl Allowed {
    /// Reads a capability register: allowed 0-settings in its low half, allowed 1-settings in its high half.
    #[must_use]
    pub const fn from_msr(value: u64) -> Self {
        Self {
            must: value as u32,
            may: (value >> 32) as u32,
        }
    }

    /// A value with all of `required`, what there is of `optional`, and what must be 1.
    ///
    /// # Errors
    /// The bits of `required` that the CPU does not have.
    pub const fn adjust(self, required: u32, optional: u32) -> Result<u32, u32> {
        let missing = required & !self.may;
        if missing != 0 {
            return Err(missing);
        }
        Ok(self.must | required | (optional & self.may))
    }

    /// Whether the CPU takes `value`.
    #[must_use]
    pub const fn takes(self, value: u32) -> bool {
        value & self.must == self.must && value & !self.may == 0
    }
}

/// The contents of the capability registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    /// IA32_VMX_BASIC.
    pub basic: u64,
    /// Pin-based controls.
    pub pin: Allowed,
    /// Primary processor-based controls.
    pub primary: Allowed,
    /// Secondary processor-based controls: none without the primary bit that activates them.
    pub secondary: Allowed,
    /// VM-exit controls.
    pub exit: Allowed,
    /// VM-entry controls.
    pub entry: Allowed,
    /// IA32_VMX_MISC.
    pub misc: u64,
    /// Bits of CR0 that must be 1 in VMX operation, and that may be 1.
    pub cr0_fixed: (u64, u64),
    /// Likewise of CR4.
    pub cr4_fixed: (u64, u64),
    /// IA32_VMX_EPT_VPID_CAP; 0 with neither EPT nor VPIDs.
    pub ept_vpid: u64,
    /// The width of physical addresses, bits 7:0 of CPUID.80000008H:EAX.
    pub physical_bits: u8,
}

impl Capabilities {
    /// Asks the CPU, by `rdmsr`, for the registers that it has. `physical_bits` is the width of its physical addresses.
    #[must_use]
    pub fn read(rdmsr: impl Fn(u32) -> u64, physical_bits: u8) -> Self {
        const TRUE_CONTROLS: u64 = 1 << 55;
        let basic = rdmsr(msr::BASIC);
        let exact = basic & TRUE_CONTROLS != 0;
        let allowed =
            |plain, exactly| Allowed::from_msr(rdmsr(if exact { exactly } else { plain }));
        let primary = allowed(msr::PROCBASED, msr::TRUE_PROCBASED);
        let has_secondary = primary.may & Primary::ACTIVATE_SECONDARY_CONTROLS.bits() != 0;
        let secondary = if has_secondary {
            Allowed::from_msr(rdmsr(msr::PROCBASED2))
        } else {
            Allowed::default()
        };
        let paging = Secondary::ENABLE_EPT.union(Secondary::ENABLE_VPID).bits();
        Self {
            basic,
            pin: allowed(msr::PINBASED, msr::TRUE_PINBASED),
            primary,
            secondary,
            exit: allowed(msr::EXIT, msr::TRUE_EXIT),
            entry: allowed(msr::ENTRY, msr::TRUE_ENTRY),
            misc: rdmsr(msr::MISC),
            cr0_fixed: (rdmsr(msr::CR0_FIXED0), rdmsr(msr::CR0_FIXED1)),
            cr4_fixed: (rdmsr(msr::CR4_FIXED0), rdmsr(msr::CR4_FIXED1)),
            ept_vpid: if secondary.may & paging != 0 {
                rdmsr(msr::EPT_VPID)
            } else {
                0
            },
            physical_bits,
        }
    }

    /// The width of the addresses that VMCS fields point with.
    #[must_use]
    pub const fn pointer_bits(&self) -> u8 {
        const POINTERS_32: u64 = 1 << 48;
        if self.basic & POINTERS_32 != 0 {
            32
        } else {
            self.physical_bits
        }
    }

    /// The width of linear addresses: 57 on CPUs with five-level paging, in use or not, else 48.
    #[must_use]
    pub const fn linear_bits(&self) -> u8 {
        if self.cr4_fixed.1 & Cr4::LA57.bits() != 0 {
            57
        } else {
            48
        }
    }

    /// The number of CR3 values that a guest can be let load without an exit.
    #[must_use]
    pub const fn cr3_targets(&self) -> u32 {
        (self.misc >> 16) as u32 & 0x1ff
    }

    /// Whether a guest may be entered in the activity state `state`, one of [`activity`].
    #[must_use]
    pub const fn has_activity(&self, state: u32) -> bool {
        match state {
            activity::ACTIVE => true,
            activity::HLT => self.misc >> 6 & 1 != 0,
            activity::SHUTDOWN => self.misc >> 7 & 1 != 0,
            activity::WAIT_FOR_SIPI => self.misc >> 8 & 1 != 0,
            _ => false,
        }
    }

    /// Whether a software event can be injected with an instruction length of 0.
    #[must_use]
    pub const fn injects_length_zero(&self) -> bool {
        self.misc >> 30 & 1 != 0
    }

    /// Whether a hardware exception can be injected with and without an error code, whatever its vector.
    #[must_use]
    pub const fn injects_any_error_code(&self) -> bool {
        self.basic >> 56 & 1 != 0
    }

    /// The VMCS revision identifier, which each VMCS begins with.
    #[must_use]
    pub const fn revision(&self) -> u32 {
        self.basic as u32 & 0x7fff_ffff
    }

    /// Whether string I/O exits tell the segment and the address size.
    #[must_use]
    pub const fn string_io_information(&self) -> bool {
        self.basic >> 54 & 1 != 0
    }

    /// Ticks of the time-stamp counter in one of the preemption timer, as a power of two.
    #[must_use]
    pub const fn preemption_timer_shift(&self) -> u32 {
        self.misc as u32 & 0x1f
    }

    /// The controls that Umbra will use.
    ///
    /// # Errors
    /// A sentence that names what the CPU lacks.
    pub fn plan(&self, paging: SecondStage) -> Result<Plan, String> {
        let nested = paging == SecondStage::Nested;
        let (required, optional) = if nested {
            let optional = controls::SECONDARY_OPTIONAL | controls::SECONDARY_NESTED_OPTIONAL;
            (controls::SECONDARY_NESTED, optional)
        } else {
            (Secondary::empty(), controls::SECONDARY_OPTIONAL)
        };
        let pin = choose(
            self.pin,
            controls::PIN_REQUIRED.bits(),
            controls::PIN_OPTIONAL.bits(),
            &|bits| names(Pin::from_bits_retain(bits).iter_names()),
        )?;
        let primary = choose(
            self.primary,
            controls::PRIMARY_REQUIRED.bits(),
            controls::PRIMARY_OPTIONAL.bits(),
            &|bits| names(Primary::from_bits_retain(bits).iter_names()),
        )?;
        let secondary = choose(self.secondary, required.bits(), optional.bits(), &|bits| {
            names(Secondary::from_bits_retain(bits).iter_names())
        })?;
        let exit = choose(
            self.exit,
            controls::EXIT_REQUIRED.bits(),
            controls::EXIT_OPTIONAL.bits(),
            &|bits| names(Exit::from_bits_retain(bits).iter_names()),
        )?;
        let entry = choose(
            self.entry,
            controls::ENTRY_REQUIRED.bits(),
            controls::ENTRY_OPTIONAL.bits(),
            &|bits| names(Entry::from_bits_retain(bits).iter_names()),
        )?;
        let mut plan = Plan {
            pin: Pin::from_bits_retain(pin),
            primary: Primary::from_bits_retain(primary),
            secondary: Secondary::from_bits_retain(secondary),
            exit: Exit::from_bits_retain(exit),
            entry: Entry::from_bits_retain(entry),
        };
        if !plan.primary.contains(Primary::USE_TPR_SHADOW) {
            plan.primary |= controls::PRIMARY_CR8;
        }
        for (bit, what) in [
            (ept::WALK_LENGTH_4, "EPT tables of four levels"),
            (ept::WRITE_BACK, "write-back EPT tables"),
            (ept::INVEPT, "INVEPT"),
        ] {
            if nested && self.ept_vpid & bit == 0 {
                return Err(lacks(what));
            }
        }
        // Without a way to flush one tag, none are used.
        if self.ept_vpid & ept::INVVPID == 0
            || self.ept_vpid & (ept::INVVPID_SINGLE | ept::INVVPID_ALL) == 0
        {
            plan.secondary -= Secondary::ENABLE_VPID;
        }
        Ok(plan)
    }
}

/// Bits of IA32_VMX_EPT_VPID_CAP (SDM vol 3D A.10, "VPID and EPT Capabilities").
#[allow(missing_docs)]
pub mod ept {
    pub const WALK_LENGTH_4: u64 = 1 << 6;
    pub const WALK_LENGTH_5: u64 = 1 << 7;
    pub const UNCACHEABLE: u64 = 1 << 8;
    pub const WRITE_BACK: u64 = 1 << 14;
    pub const PAGES_2M: u64 = 1 << 16;
    pub const PAGES_1G: u64 = 1 << 17;
    pub const INVEPT: u64 = 1 << 20;
    pub const ACCESSED_DIRTY: u64 = 1 << 21;
    pub const SUPERVISOR_SHADOW_STACK: u64 = 1 << 23;
    pub const INVEPT_SINGLE: u64 = 1 << 25;
    pub const INVEPT_ALL: u64 = 1 << 26;
    pub const INVVPID: u64 = 1 << 32;
    pub const INVVPID_SINGLE: u64 = 1 << 41;
    pub const INVVPID_ALL: u64 = 1 << 42;
}

/// What translates the guest's physical addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SecondStage {
    /// Extended page tables.
    Nested,
    /// Nothing: the hardware walks shadow tables only.
    Shadow,
}

/// The controls as they stand when nothing is to be injected and no window is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct Plan {
    pub pin: Pin,
    pub primary: Primary,
    pub secondary: Secondary,
    pub exit: Exit,
    pub entry: Entry,
}

impl Plan {
    /// Whether the hardware runs real mode and unpaged mode.
    #[must_use]
    pub const fn unrestricted_guest(&self) -> bool {
        self.secondary.contains(Secondary::UNRESTRICTED_GUEST)
    }
}

/// Whether VT-x can be used at all: `has_vmx` is CPUID.1:ECX.VMX, `feature_control` reads IA32_FEATURE_CONTROL. True: it is not
/// locked yet and has to be enabled there first.
///
/// # Errors
/// A sentence that says what is in the way.
pub fn availability(has_vmx: bool, feature_control: impl FnOnce() -> u64) -> Result<bool, String> {
    if !has_vmx {
        return Err(
            "this CPU has no Intel VT-x (VMX), or the firmware or the outer hypervisor hides it"
                .into(),
        );
    }
    match feature_control() {
        v if v & LOCKED == 0 => Ok(true),
        v if v & VMX_OUTSIDE_SMX != 0 => Ok(false),
        _ => Err("Intel VT-x is switched off by the firmware (IA32_FEATURE_CONTROL is locked without it); switch \
                  virtualization on in the BIOS set-up"
            .into()),
    }
}

/// What IA32_FEATURE_CONTROL has to hold when the firmware has left it unlocked.
pub const FEATURE_CONTROL_ENABLE: u64 = LOCKED | VMX_OUTSIDE_SMX;

fn choose(
    allowed: Allowed,
    required: u32,
    optional: u32,
    names: &dyn Fn(u32) -> String,
) -> Result<u32, String> {
    allowed
        .adjust(required, optional)
        .map_err(|missing| lacks(&names(missing)))
}

fn lacks(what: &str) -> String {
    alloc::format!("this CPU's VT-x lacks what Umbra needs: {what}")
}

/// Control bits by name, in lower case words.
fn names<B>(bits: impl Iterator<Item = (&'static str, B)>) -> String {
    let words: Vec<String> = bits
        .map(|(name, _)| name.to_ascii_lowercase().replace('_', " "))
        .collect();
    match words.join(", ").as_str() {
        "enable ept" => "extended page tables (EPT)".to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The registers of Bochs 2.7's `corei7_skylake_x`.
    pub fn skylake(msr: u32) -> u64 {
        match msr {
            0x480 => 0x00d8_1000_0000_002b,
            0x481 => 0x0000_007f_0000_0016,
            0x482 => 0xf7f9_fffe_0401_e172,
            0x483 => 0x007f_ffff_0003_6dff,
            0x484 => 0x0000_ffff_0000_11ff,
            0x485 => 0x6004_01e0,
            0x486 => 0x8000_0021,
            0x487 => 0xffff_ffff,
            0x488 => 0x2000,
            0x489 => 0x37_27ff,
            0x48a => 0x34,
            0x48b => 0x0217_7fff_0000_0000,
            0x48c => 0x0f01_0633_4141,
            0x48d => 0x0000_007f_0000_0016,
            0x48e => 0xf7f9_fffe_0400_6172,
            0x48f => 0x007f_ffff_0003_6dfb,
            0x490 => 0x0000_ffff_0000_11fb,
            other => panic!("no such register: {other:#x}"),
        }
    }

    /// The registers of Bochs 2.7's `core2_penryn_t9600`.
    pub fn penryn(msr: u32) -> u64 {
        match msr {
            0x480 => 0x00d8_1000_0000_002b,
            0x481 => 0x0000_003f_0000_0016,
            0x482 => 0xf7f9_fffe_0401_e172,
            0x483 => 0x0003_ffff_0003_6dff,
            0x484 => 0x0000_3fff_0000_11ff,
            0x485 => 0x4_01e0,
            0x486 => 0x8000_0021,
            0x487 => 0xffff_ffff,
            0x488 => 0x2000,
            0x489 => 0x4_67ff,
            0x48b => 0x0000_0041_0000_0000,
            0x48d => 0x0000_003f_0000_0016,
            0x48e => 0xf7f9_fffe_0400_6172,
            0x48f => 0x0003_ffff_0003_6dfb,
            0x490 => 0x0000_3fff_0000_11fb,
            other => panic!("no such register: {other:#x}"),
        }
    }

    #[test]
    fn allowed_settings_are_kept_for_all_bits() {
        // Each pair of allowed settings that the manual knows: fixed to 1, free, fixed to 0.
        for (must, may) in [(1, 1), (0, 1), (0, 0)] {
            let allowed = Allowed { must, may };
            for (required, optional) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                match allowed.adjust(required, optional) {
                    Ok(value) => {
                        assert!(allowed.takes(value));
                        assert_eq!(value & required, required);
                        assert_eq!(value, must | required | optional & may);
                    }
                    Err(missing) => assert_eq!((missing, may), (required, 0)),
                }
            }
        }
        assert_eq!(
            Allowed::from_msr(0x0000_007f_0000_0016),
            Allowed {
                must: 0x16,
                may: 0x7f
            }
        );
    }

    #[test]
    fn a_full_cpu_gets_everything_that_is_asked_for() {
        let c = Capabilities::read(skylake, 39);
        let p = c.plan(SecondStage::Nested).unwrap();
        assert!(p.unrestricted_guest());
        assert!(
            p.pin
                .contains(controls::PIN_REQUIRED | controls::PIN_OPTIONAL)
        );
        assert!(
            p.primary
                .contains(controls::PRIMARY_REQUIRED | controls::PRIMARY_OPTIONAL)
        );
        assert!(p.secondary.contains(
            controls::SECONDARY_NESTED
                | controls::SECONDARY_NESTED_OPTIONAL
                | controls::SECONDARY_OPTIONAL
        ));
        assert!(
            !p.primary.intersects(
                Primary::CR3_LOAD_EXITING | Primary::CR3_STORE_EXITING | Primary::INVLPG_EXITING
            ),
            "the exact controls allow what the others force"
        );
        assert_eq!(c.revision(), 0x2b);
    }

    #[test]
    fn what_is_missing_is_named() {
        let c = Capabilities::read(penryn, 36);
        assert_eq!(
            c.plan(SecondStage::Nested).unwrap_err(),
            "this CPU's VT-x lacks what Umbra needs: extended page tables (EPT)"
        );
        let without = |msr, bit: u64| {
            let read = move |m| {
                if m == msr {
                    skylake(m) & !bit
                } else {
                    skylake(m)
                }
            };
            Capabilities::read(read, 39)
                .plan(SecondStage::Nested)
                .unwrap_err()
        };
        for (register, bit, name) in [
            (msr::TRUE_PINBASED, 1 << (32 + 5), "virtual nmis"),
            (msr::TRUE_PROCBASED, 1 << (32 + 28), "use msr bitmaps"),
            (
                msr::TRUE_PROCBASED,
                1 << (32 + 31),
                "activate secondary controls",
            ),
            (msr::EPT_VPID, 1 << 6, "EPT tables of four levels"),
            (msr::EPT_VPID, 1 << 20, "INVEPT"),
        ] {
            let why = without(register, bit);
            assert!(why.contains(name), "{why}");
        }
    }

    #[test]
    fn tags_need_an_instruction_that_flushes_them() {
        let c = Capabilities::read(
            |m| {
                if m == msr::EPT_VPID {
                    skylake(m) & 0xffff_ffff
                } else {
                    skylake(m)
                }
            },
            39,
        );
        assert!(
            !c.plan(SecondStage::Nested)
                .unwrap()
                .secondary
                .contains(Secondary::ENABLE_VPID)
        );
    }

    #[test]
    fn without_a_tpr_shadow_cr8_exits() {
        let c = Capabilities::read(
            |m| {
                if m == msr::TRUE_PROCBASED {
                    skylake(m) & !(1 << (32 + 21))
                } else {
                    skylake(m)
                }
            },
            39,
        );
        assert!(
            c.plan(SecondStage::Nested)
                .unwrap()
                .primary
                .contains(controls::PRIMARY_CR8)
        );
    }

    #[test]
    fn availability_says_what_is_in_the_way() {
        assert!(
            availability(false, || panic!("the register may not exist"))
                .unwrap_err()
                .contains("no Intel VT-x")
        );
        assert_eq!(availability(true, || 0), Ok(true));
        assert_eq!(availability(true, || 5), Ok(false));
        assert!(
            availability(true, || 1)
                .unwrap_err()
                .contains("switched off by the firmware")
        );
        assert!(
            availability(true, || 3)
                .unwrap_err()
                .contains("switched off"),
            "inside SMX only"
        );
    }
}
