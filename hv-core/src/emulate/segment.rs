//! Segments: where an access within one leads, and whether it is allowed (SDM vol 3A 5.3, "Limit Checking"; 5.5, "Type Checking").

use super::{EmuCx, Mode};
use crate::regs::{Cr4, SegAttr, SegReg, Segment, SysReg};

/// What is done to a segment's bytes, for the checks of its type.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    Write,
    Fetch,
}

/// Whether `linear` is canonical for the CPU's number of linear-address bits.
pub(super) fn canonical<C: EmuCx + ?Sized>(cx: &C, linear: u64) -> bool {
    let spare = if cx.sysreg(SysReg::Cr4) & Cr4::LA57.bits() != 0 {
        7
    } else {
        16
    };
    ((linear << spare) as i64 >> spare) as u64 == linear
}

/// Whether there is a segment. In real and virtual-8086 mode there always is.
#[inline]
pub(super) fn usable(mode: Mode, s: Segment) -> bool {
    !mode.has_descriptors() || s.attr.contains(SegAttr::P)
}

/// The linear address of `len` bytes at `offset` of segment `s`, or `None` for a segmentation fault.
#[inline]
pub(super) fn check_segment<C: EmuCx + ?Sized>(
    cx: &C,
    mode: Mode,
    seg: SegReg,
    s: Segment,
    offset: u64,
    len: u64,
    usage: Use,
) -> Option<u64> {
    let last = len.saturating_sub(1);
    if mode.is_64() {
        let base = if matches!(seg, SegReg::Fs | SegReg::Gs) {
            s.base
        } else {
            0
        };
        let linear = base.wrapping_add(offset);
        // A range over the top of the address space is refused too, so that no access wraps.
        let end = linear.checked_add(last)?;
        return (canonical(cx, linear) && canonical(cx, end)).then_some(linear);
    }
    let (attr, limit) = (s.attr, u64::from(s.limit));
    let code = attr.contains(SegAttr::CODE);
    if mode.has_descriptors() {
        let allowed = match usage {
            Use::Read => !code || attr.contains(SegAttr::RW),
            Use::Write => !code && attr.contains(SegAttr::RW),
            Use::Fetch => true,
        };
        if !allowed || !attr.contains(SegAttr::P) {
            return None;
        }
    }
    let end = offset.checked_add(last)?;
    let inside = if !code && attr.contains(SegAttr::DC) {
        let top = if attr.contains(SegAttr::DB) {
            0xffff_ffff
        } else {
            0xffff
        };
        offset > limit && end <= top
    } else {
        end <= limit
    };
    inside.then_some(s.base.wrapping_add(offset) & 0xffff_ffff)
}
