//! The length of an intercepted instruction, where the CPU does not tell the next RIP.
//!
//! Nearly all such instructions are one or two bytes without prefixes. Their bytes are compared at the place where the code page
//! was last found; only when they differ is the page looked up again and the instruction decoded. A remembered page may be out
//! of date, but the bytes there must still be exactly those of the instruction that caused the exit.

use super::{Trouble, Vcpu};
use crate::cpu::VcpuBackend;
use crate::emulate::EmuCx;
use crate::exit::{ExitReason, VmExit};
use crate::mmu::{Access, Mmu};
use crate::regs::{SegReg, SysReg};
use crate::time::Clock;
use crate::{Gpa, Gva};

/// Where the last intercepted instructions were found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LengthCache {
    cr3: u64,
    /// Linear page of the last one, with bit 0 set when the entry is valid.
    page: u64,
    gpa: Gpa,
    /// The last one itself: CR3 and RIP, where its bytes are, and RIP behind it.
    last_cr3: u64,
    last_rip: u64,
    last_gpa: Gpa,
    last_next: u64,
}

/// The opcode of an intercepted instruction (without prefixes), least significant byte first, with its length in bytes.
const fn opcode(reason: &ExitReason) -> Option<(u32, usize)> {
    Some(match reason {
        ExitReason::Cpuid => (0xa20f, 2),
        ExitReason::Hlt => (0xf4, 1),
        ExitReason::Msr { write: false } => (0x320f, 2),
        ExitReason::Msr { write: true } => (0x300f, 2),
        ExitReason::Xsetbv => (0xd1_010f, 3),
        _ => return None,
    })
}

/// Prefixes that may stand in front of an opcode in any mode: segments, operand and address size, LOCK and REP.
const PREFIXES: [u8; 11] = [
    0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3,
];

impl<B: VcpuBackend, M: Mmu, C: Clock> Vcpu<B, M, C> {
    /// RIP after the instruction that exited.
    #[inline(always)]
    pub(super) fn next_rip(&mut self, exit: &VmExit) -> Result<u64, Trouble> {
        if let Some(rip) = exit.next_rip {
            return Ok(rip);
        }
        let Some((bytes, len)) = opcode(&exit.reason) else {
            return Err(self.fatal("the length of an instruction is not known", exit));
        };
        // The same instruction as last time, in a loop.
        let c = &self.lengths;
        if len == 2
            && c.last_rip == self.cpu.rip()
            && c.last_cr3 == self.cpu.sysreg(SysReg::Cr3)
            && self
                .memory
                .read_u16(c.last_gpa)
                .is_ok_and(|b| u32::from(b) == bytes)
        {
            return Ok(c.last_next);
        }
        self.find_next_rip(bytes, len)
    }

    fn find_next_rip(&mut self, bytes: u32, len: usize) -> Result<u64, Trouble> {
        let rip = self.cpu.rip();
        let linear = self.linear_rip();
        if len <= 2 && linear & 0xfff < 0xfff {
            let mask = if len == 2 { 0xffff } else { 0xff };
            if let Some(gpa) = self.code_address(linear)
                && self
                    .memory
                    .read_u16(gpa)
                    .is_ok_and(|b| u32::from(b & mask) == bytes)
            {
                let next = self.wrap_rip(rip.wrapping_add(len as u64));
                let c = &mut self.lengths;
                (c.last_cr3, c.last_rip, c.last_gpa, c.last_next) = (c.cr3, rip, gpa, next);
                return Ok(next);
            }
        }
        // Prefixes, a page crossing, or a remembered page that is out of date.
        self.lengths = LengthCache::default();
        let mut code = [0; 15];
        let n = self
            .fetch(Gva(linear), &mut code)
            .map_err(|e| self.trouble(e))?;
        let long = self.long_mode();
        let prefix = |b: &u8| PREFIXES.contains(b) || (long && b & 0xf0 == 0x40);
        let prefixes = code[..n].iter().take_while(|b| prefix(b)).count();
        if code[prefixes..].starts_with(&bytes.to_le_bytes()[..len]) && prefixes + len <= n {
            return Ok(self.wrap_rip(rip.wrapping_add((prefixes + len) as u64)));
        }
        // The guest has changed the bytes meanwhile: it runs what is there now.
        Err(Trouble::Again)
    }

    fn linear_rip(&self) -> u64 {
        let rip = self.cpu.rip();
        if self.long_mode() {
            rip
        } else {
            self.cpu.segment(SegReg::Cs).base.wrapping_add(rip) & 0xffff_ffff
        }
    }

    /// Outside 64-bit mode RIP has 32 bits.
    fn wrap_rip(&self, rip: u64) -> u64 {
        if rip >> 32 == 0 || self.long_mode() {
            rip
        } else {
            rip & 0xffff_ffff
        }
    }

    fn long_mode(&self) -> bool {
        use crate::regs::{Efer, SegAttr};
        self.cpu.sysreg(SysReg::Efer) & Efer::LMA.bits() != 0
            && self.cpu.segment(SegReg::Cs).attr.contains(SegAttr::L)
    }

    /// Where the byte at `linear` was last found, or is.
    fn code_address(&mut self, linear: u64) -> Option<Gpa> {
        let cr3 = self.cpu.sysreg(SysReg::Cr3);
        let page = linear & !0xfff | 1;
        if self.lengths.page != page || self.lengths.cr3 != cr3 {
            let access = Access {
                fetch: true,
                user: self.cpu.cpl() == 3,
                ..Access::default()
            };
            let state = self.paging_state();
            let gpa = self
                .mmu
                .translate(&*self.memory, &state, Gva(linear), access)
                .ok()?;
            self.lengths = LengthCache {
                cr3,
                page,
                gpa: gpa.page(),
                ..self.lengths
            };
        }
        Some(self.lengths.gpa.add(linear & 0xfff))
    }
}
