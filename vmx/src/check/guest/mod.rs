//! The guest state: SDM vol 3C 27.3.1, "Checks on the Guest State Area", a file a section but for segment
//! registers, which have two.

pub(super) mod descriptor_tables;
pub(super) mod non_register;
pub(super) mod pdptes;
pub(super) mod registers;
pub(super) mod rip_rflags;
pub(super) mod segments;
pub(super) mod system_segments;

use super::{Checked, Vmcs};
use crate::controls::Secondary;

pub(super) fn check(v: &Vmcs) -> Checked {
    registers::check(v)?;
    segments::check(v)?;
    system_segments::check(v)?;
    descriptor_tables::check(v)?;
    rip_rflags::check(v)?;
    non_register::check(v)?;
    pdptes::check(v)
}

/// What hardware without unrestricted guest asks of the part of the guest state that guests are free to choose.
pub(super) fn fits_restricted(v: &Vmcs) -> Checked {
    let v = &Vmcs {
        secondary: v.secondary - Secondary::UNRESTRICTED_GUEST,
        ..*v
    };
    registers::check_protected_and_paged(v)?;
    segments::check(v)?;
    system_segments::check(v)?;
    descriptor_tables::check(v)?;
    rip_rflags::check_state(v)
}
