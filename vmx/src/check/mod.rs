//! The rules that VM entry checks, as code that finds the broken one (SDM vol 3C 27.2, "Checks on VMX Controls and Host-State
//! Area"; 27.3, "Checking and Loading Guest State").
//!
//! A CPU that refuses an entry only says which area is to blame. [`check`] goes through the manual's rules over the fields of a
//! VMCS and names the first that does not hold, with the fields that break it. A file here is a section there, a constant in
//! it one rule of that section.
//!
//! What is presupposed: the entry is made outside SMM, from IA-32e mode, on a CPU with Intel 64.
//!
//! What is not checked: what needs memory or MSRs (the contents of MSR areas, page-directory pointers where EPT is off, the VMCS
//! that the link pointer names; the virtual task priority has [`check_tpr_threshold`]); that the VMCS link pointer is not the
//! current VMCS; reserved bits of IA32_PERF_GLOBAL_CTRL; whether the CPU has enclaves or transactions; and the rules that come
//! with controls which [`controls`](crate::controls) has no name for (tertiary controls, CET, PKRS, processor trace, MPX, LBRs,
//! user interrupts, FRED), beyond whether the CPU takes the control.

mod entry_controls;
mod execution_controls;
mod exit_controls;
mod guest;
mod host;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use crate::capabilities::Capabilities;
use crate::controls::{Entry, Exit, Pin, Primary, Secondary};
use crate::formats::Interruption;
use crate::vmcs::Field;
use alloc::vec::Vec;
use core::fmt;
use hv_core::regs::Cr4;

/// CR4.CET: control-flow enforcement, which Umbra does not give to guests.
const CR4_CET: Cr4 = Cr4::from_bits_retain(1 << 23);

/// A rule that a VMCS breaks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// What should hold, as one sentence.
    pub rule: &'static str,
    /// Where the manual says so.
    pub section: &'static str,
    /// The fields that the rule is about, and their values.
    pub fields: Vec<(Field, u64)>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.rule, self.section)?;
        for (i, (field, value)) in self.fields.iter().enumerate() {
            let separator = if i == 0 { ": " } else { ", " };
            write!(f, "{separator}{field:?} = {value:#x}")?;
        }
        Ok(())
    }
}

/// Checks all that a VM entry checks of the current VMCS. `read` is VMREAD: it is only asked for fields that the CPU has, and
/// that the controls put to use.
///
/// # Errors
/// The first rule that does not hold.
pub fn check(read: &dyn Fn(Field) -> u64, capabilities: &Capabilities) -> Result<(), Violation> {
    let vmcs = Vmcs::new(read, capabilities);
    execution_controls::check(&vmcs)?;
    exit_controls::check(&vmcs)?;
    entry_controls::check(&vmcs)?;
    host::check(&vmcs)?;
    guest::check(&vmcs)
}

/// Checks the guest state only: what makes an entry fail with the exit reason
/// [`ENTRY_FAILURE_GUEST_STATE`](crate::reason::ENTRY_FAILURE_GUEST_STATE).
///
/// # Errors
/// The first rule that does not hold.
pub fn check_guest(
    read: &dyn Fn(Field) -> u64,
    capabilities: &Capabilities,
) -> Result<(), Violation> {
    guest::check(&Vmcs::new(read, capabilities))
}

/// Whether a CPU without unrestricted guest can run the guest's present state in hardware: CR0.PE and CR0.PG, RIP, RFLAGS, the
/// segment and the descriptor-table registers. Of the controls only the entry controls are read.
#[must_use]
pub fn segments_fit(read: &dyn Fn(Field) -> u64) -> bool {
    let capabilities = Capabilities::default();
    let vmcs = Vmcs {
        entry: Entry::from_bits_retain(read(Field::ENTRY_CONTROLS) as u32),
        ..Vmcs::without_controls(read, &capabilities)
    };
    guest::fits_restricted(&vmcs).is_ok()
}

/// Checks the TPR threshold against the task priority in the virtual-APIC page, whose byte 80H is `vtpr`.
///
/// # Errors
/// That rule does not hold.
pub fn check_tpr_threshold(
    read: &dyn Fn(Field) -> u64,
    capabilities: &Capabilities,
    vtpr: u8,
) -> Result<(), Violation> {
    execution_controls::check_tpr_threshold(&Vmcs::new(read, capabilities), vtpr)
}

type Checked = Result<(), Violation>;

/// One rule of the manual.
struct Rule {
    text: &'static str,
    section: &'static str,
}

/// Names the rules of some sections, and all of them as `RULES`.
macro_rules! rules {
    ($($section:literal: $($name:ident = $text:literal;)*)*) => {
        $($(const $name: &$crate::check::Rule = &$crate::check::Rule { text: $text, section: $section };)*)*
        #[cfg(test)]
        pub(in crate::check) const RULES: &[&$crate::check::Rule] = &[$($($name),*),*];
    };
}
use rules;

/// A VMCS, with its controls at hand.
#[derive(Clone, Copy)]
struct Vmcs<'a> {
    read: &'a dyn Fn(Field) -> u64,
    capabilities: &'a Capabilities,
    pin: Pin,
    primary: Primary,
    /// None unless the primary controls activate them.
    secondary: Secondary,
    exit: Exit,
    entry: Entry,
}

impl<'a> Vmcs<'a> {
    fn without_controls(read: &'a dyn Fn(Field) -> u64, capabilities: &'a Capabilities) -> Self {
        Self {
            read,
            capabilities,
            pin: Pin::empty(),
            primary: Primary::empty(),
            secondary: Secondary::empty(),
            exit: Exit::empty(),
            entry: Entry::empty(),
        }
    }

    fn new(read: &'a dyn Fn(Field) -> u64, capabilities: &'a Capabilities) -> Self {
        let primary = Primary::from_bits_retain(read(Field::PRIMARY_CONTROLS) as u32);
        let secondary = if primary.contains(Primary::ACTIVATE_SECONDARY_CONTROLS) {
            read(Field::SECONDARY_CONTROLS) as u32
        } else {
            0
        };
        Self {
            pin: Pin::from_bits_retain(read(Field::PIN_CONTROLS) as u32),
            primary,
            secondary: Secondary::from_bits_retain(secondary),
            exit: Exit::from_bits_retain(read(Field::EXIT_CONTROLS) as u32),
            entry: Entry::from_bits_retain(read(Field::ENTRY_CONTROLS) as u32),
            ..Self::without_controls(read, capabilities)
        }
    }

    fn get(&self, field: Field) -> u64 {
        field.truncate((self.read)(field))
    }

    fn unrestricted(&self) -> bool {
        self.secondary.contains(Secondary::UNRESTRICTED_GUEST)
    }

    /// Whether the guest will be in IA-32e mode.
    fn ia32e(&self) -> bool {
        self.entry.contains(Entry::IA32E_MODE_GUEST)
    }

    /// The event that the entry injects.
    fn injected(&self) -> Option<Interruption> {
        let info = Interruption::from_bits_retain(self.get(Field::ENTRY_INTERRUPTION_INFO) as u32);
        info.contains(Interruption::VALID).then_some(info)
    }

    /// Whether `value` is an address that the CPU's linear addresses reach.
    fn canonical(&self, value: u64) -> bool {
        let unused = 64 - u32::from(self.capabilities.linear_bits());
        ((value << unused) as i64 >> unused) as u64 == value
    }

    /// Whether `value` stays within physical addresses.
    fn physical(&self, value: u64) -> bool {
        within(value, self.capabilities.physical_bits)
    }

    /// Whether `value` stays within the physical addresses that VMCS fields may point to.
    fn pointer(&self, value: u64) -> bool {
        within(value, self.capabilities.pointer_bits())
    }

    /// Requires `holds`; else `fields` break `rule`.
    fn require(&self, holds: bool, rule: &Rule, fields: &[Field]) -> Checked {
        if holds {
            return Ok(());
        }
        Err(Violation {
            rule: rule.text,
            section: rule.section,
            fields: fields.iter().map(|&f| (f, self.get(f))).collect(),
        })
    }

    /// Requires each of `fields` to hold a canonical address.
    fn require_canonical(&self, rule: &Rule, fields: &[Field]) -> Checked {
        for &field in fields {
            self.require(self.canonical(self.get(field)), rule, &[field])?;
        }
        Ok(())
    }

    /// Requires each of `fields` to point to a page.
    fn require_page(&self, rule: &Rule, fields: &[Field]) -> Checked {
        for &field in fields {
            let address = self.get(field);
            self.require(
                address & 0xfff == 0 && self.pointer(address),
                rule,
                &[field],
            )?;
        }
        Ok(())
    }

    /// Requires the MSR area at `address` with `count` entries to be aligned and to lie within physical addresses.
    fn require_msr_area(&self, rule: &Rule, address: Field, count: Field) -> Checked {
        const ENTRY_SIZE: u64 = 16;
        let n = self.get(count);
        if n == 0 {
            return Ok(());
        }
        let first = self.get(address);
        let fits = first
            .checked_add(n * ENTRY_SIZE - 1)
            .is_some_and(|last| self.pointer(last));
        self.require(
            first.is_multiple_of(ENTRY_SIZE) && fits,
            rule,
            &[address, count],
        )
    }
}

/// Whether `value` has no bits from `bits` up.
const fn within(value: u64, bits: u8) -> bool {
    bits >= 64 || value >> bits == 0
}

/// Whether all eight entries of a page-attribute table are memory types that there are (SDM vol 3A 12.12.2, "IA32_PAT MSR").
fn valid_pat(pat: u64) -> bool {
    // UC, WC, WT, WP, WB, UC-.
    pat.to_le_bytes()
        .iter()
        .all(|memory_type| matches!(memory_type, 0 | 1 | 4 | 5 | 6 | 7))
}

/// Whether the bits that `fixed` fixes have those values in `value`, but for the bits of `exempt`.
fn keeps_fixed(value: u64, (ones, allowed): (u64, u64), exempt: u64) -> bool {
    (ones & !value | value & !allowed) & !exempt == 0
}
