//! The SDM's rules for VM entries as code, which names the rule that a VMCS breaks (SDM vol 3C 27.2, "Checks on VMX Controls and
//! Host-State Area", and 27.3, "Checking and Loading Guest State").
//!
//! A processor only says that an entry failed, and emulators let some violations pass that silicon refuses. So these checks are
//! stricter than Bochs 2.7: they run when an entry has failed, and before every entry where that is asked for.
//!
//! In the manual's order: [`controls`], [`host`], [`guest`]. Not checked, because Umbra does not use them: posted interrupts,
//! page-modification logging, VMCS shadowing, VM functions, SMM, CET, LBRs, performance-counter and bound-register controls.

mod controls;
mod guest;
mod host;
#[cfg(test)]
mod tests;

pub use guest::segments_fit;

use crate::capabilities::Capabilities;
use crate::controls::{Entry, Exit, Pin, Primary, Secondary};
use crate::vmcs::Field;
use alloc::vec::Vec;
use core::fmt;

/// A rule that an entry breaks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The rule.
    pub rule: &'static str,
    /// Where the manual has it.
    pub section: &'static str,
    /// The fields that are involved.
    pub fields: Vec<(Field, u64)>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.rule, self.section)?;
        for (i, (field, value)) in self.fields.iter().enumerate() {
            let separator = if i == 0 { ":" } else { "," };
            write!(f, "{separator} {field:?} = {value:#x}")?;
        }
        Ok(())
    }
}

/// Whether the rules hold up to here.
type Checked = Result<(), Violation>;

/// Checks a VMCS whose fields `read` gives.
///
/// # Errors
/// The first rule that is broken, in the manual's order.
pub fn check(read: &dyn Fn(Field) -> u64, capabilities: &Capabilities) -> Checked {
    let c = Checker::new(read, capabilities);
    controls::check(&c)?;
    host::check(&c)?;
    guest::check(&c)
}

/// The VMCS under test.
struct Checker<'a> {
    read: &'a dyn Fn(Field) -> u64,
    capabilities: &'a Capabilities,
    pin: Pin,
    primary: Primary,
    /// None without the primary control that activates them.
    secondary: Secondary,
    exit: Exit,
    entry: Entry,
}

impl<'a> Checker<'a> {
    fn new(read: &'a dyn Fn(Field) -> u64, capabilities: &'a Capabilities) -> Self {
        let bits = |field| read(field) as u32;
        let primary = Primary::from_bits_retain(bits(Field::PRIMARY_CONTROLS));
        let secondary = if primary.contains(Primary::ACTIVATE_SECONDARY_CONTROLS) {
            Secondary::from_bits_retain(bits(Field::SECONDARY_CONTROLS))
        } else {
            Secondary::empty()
        };
        Self {
            read,
            capabilities,
            pin: Pin::from_bits_retain(bits(Field::PIN_CONTROLS)),
            primary,
            secondary,
            exit: Exit::from_bits_retain(bits(Field::EXIT_CONTROLS)),
            entry: Entry::from_bits_retain(bits(Field::ENTRY_CONTROLS)),
        }
    }

    fn get(&self, field: Field) -> u64 {
        (self.read)(field)
    }

    /// A rule of `section` that has to hold.
    fn must(
        &self,
        section: &'static str,
        holds: bool,
        rule: &'static str,
        fields: &[Field],
    ) -> Checked {
        if holds {
            return Ok(());
        }
        Err(Violation {
            rule,
            section,
            fields: fields.iter().map(|&f| (f, self.get(f))).collect(),
        })
    }

    fn unrestricted_guest(&self) -> bool {
        self.secondary.contains(Secondary::UNRESTRICTED_GUEST)
    }

    /// Whether a physical address has no bits that the CPU does not have, and is aligned to `align`.
    fn is_address(&self, value: u64, align: u64) -> bool {
        value & (align - 1) == 0 && value >> self.capabilities.physical_bits == 0
    }
}

/// Whether a linear address is canonical for 48 bits.
const fn canonical(value: u64) -> bool {
    ((value << 16) as i64 >> 16) as u64 == value
}

/// Whether each byte of a PAT names a memory type.
fn is_pat(value: u64) -> bool {
    value
        .to_le_bytes()
        .iter()
        .all(|t| matches!(t, 0 | 1 | 4..=7))
}
