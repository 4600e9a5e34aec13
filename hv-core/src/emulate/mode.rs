//! The operating mode of the CPU, which decides how bytes are decoded and how addresses are formed.

use super::EmuCx;
use crate::regs::{Cr0, Efer, Rflags, SegAttr, SegReg, SysReg};

/// How segments work (SDM vol 3A 2.2, "Modes of Operation").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// CR0.PE = 0.
    Real,
    /// RFLAGS.VM = 1.
    Vm86,
    /// Protected mode, or compatibility mode when `lma` is set.
    Protected {
        /// EFER.LMA.
        lma: bool,
    },
    /// 64-bit mode.
    Long64,
}

/// The operating mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mode {
    /// How segments work.
    pub kind: Kind,
    /// The default size of code: 16, 32 or 64 bits. Real mode can have 32 (CS.D left over from protected mode).
    pub bits: u32,
}

impl Mode {
    /// The mode that `cx` is in.
    #[must_use]
    pub fn of<C: EmuCx + ?Sized>(cx: &C) -> Self {
        let cs = cx.segment(SegReg::Cs).attr;
        let bits = if cs.contains(SegAttr::DB) { 32 } else { 16 };
        if cx.sysreg(SysReg::Cr0) & Cr0::PE.bits() == 0 {
            return Self {
                kind: Kind::Real,
                bits,
            };
        }
        if cx.rflags().contains(Rflags::VM) {
            return Self {
                kind: Kind::Vm86,
                bits: 16,
            };
        }
        let lma = cx.sysreg(SysReg::Efer) & Efer::LMA.bits() != 0;
        if lma && cs.contains(SegAttr::L) {
            return Self {
                kind: Kind::Long64,
                bits: 64,
            };
        }
        Self {
            kind: Kind::Protected { lma },
            bits,
        }
    }

    /// Whether this is 64-bit mode.
    #[must_use]
    pub fn is_64(self) -> bool {
        self.kind == Kind::Long64
    }

    /// Whether descriptors are used: protected, compatibility and 64-bit mode.
    #[must_use]
    pub fn has_descriptors(self) -> bool {
        matches!(self.kind, Kind::Protected { .. } | Kind::Long64)
    }

    /// The instruction pointer `len` bytes on. Outside 64-bit mode EIP wraps at 2^32, never at 2^16: running off the end of
    /// 64 KiB is a limit violation.
    #[must_use]
    pub fn next_rip(self, rip: u64, len: u64) -> u64 {
        let next = rip.wrapping_add(len);
        if self.is_64() {
            next
        } else {
            next & 0xffff_ffff
        }
    }
}
