//! The length of an intercepted instruction, where the CPU does not tell the next RIP.
//!
//! Nearly all such instructions are two bytes without prefixes. Their bytes are compared at the place where the code page was
//! last found; only when they differ is the page looked up again and the instruction decoded. A remembered page may be out of
//! date, but the bytes there must still be exactly those of the instruction that caused the exit, so the length cannot be wrong.

use super::{Trouble, Vcpu};
use crate::cpu::VcpuBackend;
use crate::emulate::{self, EmuFault, Intercepted};
use crate::exit::{ExitReason, RegAccess, VmExit};
use crate::mmu::{Access, Mmu};
use crate::regs::{SegReg, SysReg};
use crate::time::Clock;
use crate::{Gpa, Gva};

/// Where the code page of the last intercepted instruction is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LengthCache {
    cr3: u64,
    /// Linear page, with bit 0 set when the entry is valid.
    page: u64,
    gpa: Gpa,
}

/// The two-byte (or one-byte) encodings of the instructions that exit often.
const fn plain_encoding(reason: &ExitReason) -> Option<(u16, u16, u64)> {
    Some(match reason {
        ExitReason::Cpuid => (0xa20f, 0xffff, 2),
        ExitReason::Hlt => (0x00f4, 0x00ff, 1),
        ExitReason::Msr { write: false } => (0x320f, 0xffff, 2),
        ExitReason::Msr { write: true } => (0x300f, 0xffff, 2),
        ExitReason::Pause => (0x90f3, 0xffff, 2),
        ExitReason::Wbinvd => (0x090f, 0xffff, 2),
        ExitReason::Invd => (0x080f, 0xffff, 2),
        _ => return None,
    })
}

impl<B: VcpuBackend, M: Mmu, C: Clock> Vcpu<B, M, C> {
    /// RIP after the instruction that exited.
    pub(super) fn next_rip(&mut self, exit: &VmExit) -> Result<u64, Trouble> {
        if let Some(rip) = exit.next_rip {
            return Ok(rip);
        }
        let rip = self.cpu.rip();
        if let Some((bytes, mask, len)) = plain_encoding(&exit.reason) {
            let linear = self.linear_rip();
            if linear & 0xfff < 0xfff {
                for fresh in [false, true] {
                    if let Some(gpa) = self.code_address(linear, fresh)
                        && self.memory.read_u16(gpa).is_ok_and(|b| b & mask == bytes)
                    {
                        return Ok(self.wrap_rip(rip.wrapping_add(len)));
                    }
                }
            }
        }
        let kind = match exit.reason {
            ExitReason::Cpuid => Intercepted::Cpuid,
            ExitReason::Hlt => Intercepted::Hlt,
            ExitReason::Msr { write: false } => Intercepted::Rdmsr,
            ExitReason::Msr { write: true } => Intercepted::Wrmsr,
            ExitReason::Pause => Intercepted::Pause,
            ExitReason::Wbinvd => Intercepted::Wbinvd,
            ExitReason::Invd => Intercepted::Invd,
            ExitReason::Xsetbv => Intercepted::Xsetbv,
            ExitReason::Rdtsc => Intercepted::Rdtsc,
            ExitReason::Rdtscp => Intercepted::Rdtscp,
            ExitReason::Hypercall => Intercepted::Vmmcall,
            _ => return Err(self.fatal("no instruction length is known", exit)),
        };
        let len = emulate::length(self, kind).map_err(|e| self.trouble(e))?;
        Ok(self.wrap_rip(rip.wrapping_add(len.into())))
    }

    /// The faults of the emulator's decoders as the run loop's.
    fn trouble(&mut self, fault: EmuFault) -> Trouble {
        let before = self.cpu.rip();
        match self.emulated(before, Err(fault)) {
            Err(t) => t,
            // The bytes changed under us: the guest runs the instruction again.
            Ok(()) => Trouble::Again,
        }
    }

    /// Which register a MOV to or from a control register moves, and the next RIP.
    pub(super) fn decode_mov_cr(&mut self, access: RegAccess) -> Result<(RegAccess, u64), Trouble> {
        let rip = self.cpu.rip();
        let m = emulate::mov_system(self).map_err(|e| self.trouble(e))?;
        let access = RegAccess { gpr: Some(access.gpr.unwrap_or(m.gpr)), ..access };
        Ok((access, self.wrap_rip(rip.wrapping_add(m.len.into()))))
    }

    fn linear_rip(&self) -> u64 {
        let rip = self.cpu.rip();
        if self.long_mode() { rip } else { self.cpu.segment(SegReg::Cs).base.wrapping_add(rip) & 0xffff_ffff }
    }

    /// Outside 64-bit mode RIP has 32 bits.
    fn wrap_rip(&self, rip: u64) -> u64 {
        if rip >> 32 == 0 || self.long_mode() { rip } else { rip & 0xffff_ffff }
    }

    fn long_mode(&self) -> bool {
        use crate::regs::{Efer, SegAttr};
        self.cpu.sysreg(SysReg::Efer) & Efer::LMA.bits() != 0 && self.cpu.segment(SegReg::Cs).attr.contains(SegAttr::L)
    }

    fn code_address(&mut self, linear: u64, fresh: bool) -> Option<Gpa> {
        let cr3 = self.cpu.sysreg(SysReg::Cr3);
        let page = linear & !0xfff | 1;
        if fresh || self.lengths.page != page || self.lengths.cr3 != cr3 {
            let access = Access { fetch: true, user: self.cpu.cpl() == 3, ..Access::default() };
            let state = self.paging_state();
            let gpa = self.mmu.translate(&*self.memory, &state, Gva(linear), access).ok()?;
            self.lengths = LengthCache { cr3, page, gpa: gpa.page() };
        }
        Some(self.lengths.gpa.add(linear & 0xfff))
    }
}
