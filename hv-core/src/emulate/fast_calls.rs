//! SYSENTER, SYSEXIT, SYSCALL and SYSRET, and what goes with them in 64-bit kernels: SWAPGS and the bases of FS and GS (SDM vol 2, each
//! under its name; APM vol 3).
//!
//! Intel's CPUs have SYSCALL in 64-bit mode only, AMD's have SYSENTER outside long mode only; the guest's CPU is the host's in this.

use super::Res;
use super::exec::Exec;
use super::operand::gpr;
use super::segment::canonical;
use super::{EmuCx, EmuFault, Kind};
use crate::regs::gpr::{RCX, RDX, RSP};
use crate::regs::{Cr4, Efer, Rflags, SegAttr, SegReg, Segment, SysReg};

/// IA32_KERNEL_GS_BASE.
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const R11: usize = 11;
/// The flags that SYSRET loads.
const SYSRET_FLAGS: u64 = 0x3c_7fd7;

/// How code runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    Bits32,
    Bits64,
}

impl<C: EmuCx + ?Sized> Exec<'_, C> {
    fn is_amd(&mut self) -> Res<bool> {
        let [_, b, ..] = self.cx.cpuid(0, 0)?;
        Ok(b == u32::from_le_bytes(*b"Auth"))
    }

    fn long_mode(&self) -> bool {
        self.mode.kind == Kind::Long64 || self.mode.kind == Kind::Protected { lma: true }
    }

    /// Loads CS and SS with flat segments of `cs` and the selector after it, and the privilege level with them.
    fn flat(&mut self, cs: u16, ss: u16, width: Width, level: u8) {
        let common = SegAttr::P
            | SegAttr::S
            | SegAttr::RW
            | SegAttr::ACCESSED
            | SegAttr::G
            | SegAttr::from_bits_retain(u16::from(level) << 5);
        let code = match width {
            Width::Bits32 => SegAttr::DB,
            Width::Bits64 => SegAttr::L,
        };
        let segment = |selector, attr| Segment {
            selector,
            attr,
            limit: u32::MAX,
            base: 0,
        };
        self.cx
            .set_segment(SegReg::Cs, segment(cs, common | SegAttr::CODE | code));
        self.cx
            .set_segment(SegReg::Ss, segment(ss, common | SegAttr::DB));
        self.cx.set_cpl(level);
    }

    /// SYSENTER.
    pub fn sysenter(&mut self) -> Res<()> {
        let long = self.long_mode();
        if long && self.is_amd()? {
            return Err(EmuFault::UD);
        }
        let cs = self.cx.sysreg(SysReg::SysenterCs) as u16 & !3;
        if self.mode.kind == Kind::Real || cs == 0 {
            return Err(self.gp());
        }
        let (width, mask) = match long {
            true => (Width::Bits64, u64::MAX),
            false => (Width::Bits32, u32::MAX.into()),
        };
        self.rip = self.cx.sysreg(SysReg::SysenterEip) & mask;
        let sp = self.cx.sysreg(SysReg::SysenterEsp) & mask;
        self.set_reg(RSP, 8, sp);
        self.flags &= !(Rflags::VM | Rflags::IF).bits();
        self.flat(cs, cs.wrapping_add(8), width, 0);
        Ok(())
    }

    /// SYSEXIT; `wide` with REX.W.
    pub fn sysexit(&mut self, wide: bool) -> Res<()> {
        if self.long_mode() && self.is_amd()? {
            return Err(EmuFault::UD);
        }
        let cs = self.cx.sysreg(SysReg::SysenterCs) as u16 & !3;
        if self.mode.kind == Kind::Real || cs == 0 || self.cpl != 0 {
            return Err(self.gp());
        }
        let size = if wide { 8 } else { 4 };
        let (to, sp) = (self.reg_sized(RDX, size), self.reg_sized(RCX, size));
        if wide && !(canonical(&*self.cx, to) && canonical(&*self.cx, sp)) {
            return Err(self.gp());
        }
        self.rip = to;
        self.set_reg(RSP, 8, sp);
        let (skip, width) = match wide {
            true => (32, Width::Bits64),
            false => (16, Width::Bits32),
        };
        let cs = cs.wrapping_add(skip);
        self.flat(cs | 3, cs.wrapping_add(8) | 3, width, 3);
        Ok(())
    }

    /// #UD unless SYSCALL and SYSRET are there.
    fn check_syscall(&mut self) -> Res<()> {
        let on = self.cx.sysreg(SysReg::Efer) & Efer::SCE.bits() != 0;
        if !on || !self.mode.is_64() && !self.is_amd()? {
            return Err(EmuFault::UD);
        }
        Ok(())
    }

    /// SYSCALL.
    pub fn syscall(&mut self) -> Res<()> {
        self.check_syscall()?;
        let star = self.cx.sysreg(SysReg::Star);
        let cs = (star >> 32) as u16 & !3;
        let back = self.rip;
        if self.long_mode() {
            let target = match self.mode.is_64() {
                true => SysReg::Lstar,
                false => SysReg::Cstar,
            };
            let flags = self.flags & !Rflags::RF.bits();
            self.set_reg(RCX, 8, back);
            self.set_reg(R11, 8, flags);
            self.flags = flags & !self.cx.sysreg(SysReg::Sfmask);
            self.rip = self.cx.sysreg(target);
            self.flat(cs, cs.wrapping_add(8), Width::Bits64, 0);
        } else {
            self.set_reg(RCX, 4, back);
            self.flags &= !(Rflags::VM | Rflags::IF).bits();
            self.rip = star & 0xffff_ffff;
            self.flat(cs, cs.wrapping_add(8), Width::Bits32, 0);
        }
        Ok(())
    }

    /// SYSRET; `wide` with REX.W.
    pub fn sysret(&mut self, wide: bool) -> Res<()> {
        self.check_syscall()?;
        if self.mode.kind == Kind::Real || self.cpl != 0 {
            return Err(self.gp());
        }
        let base = (self.cx.sysreg(SysReg::Star) >> 48) as u16 & !3;
        let to = self.reg_sized(RCX, if wide { 8 } else { 4 });
        if wide && !canonical(&*self.cx, to) {
            return Err(self.gp());
        }
        self.rip = to;
        self.flags = match self.long_mode() {
            true => self.reg(R11) & SYSRET_FLAGS | Rflags::ONE.bits(),
            false => self.flags | Rflags::IF.bits(),
        };
        let (skip, width) = match wide {
            true => (16, Width::Bits64),
            false => (0, Width::Bits32),
        };
        let ss = base.wrapping_add(8) | 3;
        self.flat(base.wrapping_add(skip) | 3, ss, width, 3);
        Ok(())
    }

    /// SWAPGS.
    pub fn swapgs(&mut self) -> Res<()> {
        if !self.mode.is_64() {
            return Err(EmuFault::UD);
        }
        self.privileged()?;
        let gs = self.cx.segment(SegReg::Gs);
        let base = self.cx.sysreg(SysReg::KernelGsBase);
        self.cx.write_msr(KERNEL_GS_BASE, gs.base)?;
        self.cx.set_segment(SegReg::Gs, Segment { base, ..gs });
        Ok(())
    }

    /// RDFSBASE, RDGSBASE, WRFSBASE and WRGSBASE.
    pub fn segment_base(&mut self, seg: SegReg, write: bool) -> Res<()> {
        let on = self.cx.sysreg(SysReg::Cr4) & Cr4::FSGSBASE.bits() != 0;
        if !self.mode.is_64() || !on {
            return Err(EmuFault::UD);
        }
        let segment = self.cx.segment(seg);
        let (n, _, size) = gpr(self.insn.op_register(0)).ok_or(EmuFault::UD)?;
        if !write {
            self.set_reg(n, size, segment.base);
            return Ok(());
        }
        let base = self.reg_sized(n, size);
        if !canonical(&*self.cx, base) {
            return Err(self.gp());
        }
        self.cx.set_segment(seg, Segment { base, ..segment });
        Ok(())
    }
}
