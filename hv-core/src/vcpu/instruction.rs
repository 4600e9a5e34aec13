//! The length of an intercepted instruction, where the CPU does not tell the next RIP.
//!
//! Nearly all such instructions are one or two bytes without prefixes. Their bytes are compared at the place where they were found
//! before, or in the code page that was looked up last; only when they differ is the page looked up again and the instruction decoded. What is remembered may be
//! out of date, but the bytes there must still be exactly those of the instruction that caused the exit.

use super::{Trouble, Vcpu};
use crate::cpu::VcpuBackend;
use crate::emulate::{self, Intercepted, Mode};
use crate::exit::RegAccess;
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
    /// The last ones of two bytes themselves, by their RIP.
    last: [Place; PLACES],
}

/// How many instructions are remembered: those of an interrupt that one CPU sends and another ends, and some more.
const PLACES: usize = 8;

/// Where an instruction of two bytes is.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    cr3: u64,
    /// Of CS, which counts where the CPU is not in 64-bit mode.
    base: u64,
    rip: u64,
    /// Its bytes.
    gpa: Gpa,
    /// RIP behind it.
    next: u64,
}

impl LengthCache {
    /// Where an instruction at `rip` is remembered.
    const fn slot(rip: u64) -> usize {
        ((rip ^ rip >> 4) as usize) & (PLACES - 1)
    }
}

/// The opcode of an instruction without prefixes, least significant byte first, with its length in bytes. None: it is left to the decoder.
const fn opcode(what: Intercepted) -> Option<(u16, u64)> {
    Some(match what {
        Intercepted::Cpuid => (0xa20f, 2),
        Intercepted::Hlt => (0xf4, 1),
        Intercepted::Rdmsr => (0x320f, 2),
        Intercepted::Wrmsr => (0x300f, 2),
        Intercepted::Pause => (0x90f3, 2),
        _ => return None,
    })
}

impl<B: VcpuBackend, M: Mmu, C: Clock> Vcpu<B, M, C> {
    /// RIP after the instruction that exited, if the hardware has not told it.
    #[inline(always)]
    pub(super) fn next_rip(
        &mut self,
        told: Option<u64>,
        what: Intercepted,
    ) -> Result<u64, Trouble> {
        if let Some(rip) = told {
            return Ok(rip);
        }
        let (bytes, len) = opcode(what).unwrap_or_default();
        let rip = self.cpu.rip();
        if len == 2
            && let Some(place) = self.lengths.last.get(LengthCache::slot(rip))
            && place.rip == rip
            && place.base == self.cpu.segment(SegReg::Cs).base
            && place.cr3 == self.cpu.sysreg(SysReg::Cr3)
            && self.vm.memory.is_u16(place.gpa, bytes)
        {
            return Ok(place.next);
        }
        self.find_next_rip(what, bytes, len)
    }

    fn find_next_rip(&mut self, what: Intercepted, bytes: u16, len: u64) -> Result<u64, Trouble> {
        let rip = self.cpu.rip();
        let mode = Mode::of(self);
        let linear = self.linear_rip(mode);
        if len != 0 && linear & 0xfff < 0xfff {
            let mask = if len == 2 { 0xffff } else { 0xff };
            if let Some(gpa) = self.code_address(linear)
                && self
                    .vm
                    .memory
                    .read_u16(gpa)
                    .is_ok_and(|b| b & mask == bytes)
            {
                let next = mode.next_rip(rip, len);
                // One of another length would be taken for this one if it came to the same place.
                if len == 2 {
                    let cr3 = self.lengths.cr3;
                    let base = self.cpu.segment(SegReg::Cs).base;
                    if let Some(place) = self.lengths.last.get_mut(LengthCache::slot(rip)) {
                        *place = Place {
                            cr3,
                            base,
                            rip,
                            gpa,
                            next,
                        };
                    }
                }
                return Ok(next);
            }
        }
        // Prefixes, a page crossing, or a remembered page that is out of date.
        self.lengths = LengthCache::default();
        match emulate::length(self, what) {
            Ok(Some(len)) => Ok(mode.next_rip(rip, len.into())),
            // The guest has changed the bytes meanwhile: it runs what is there now.
            Ok(None) => Err(Trouble::Again),
            Err(fault) => Err(self.trouble(fault)),
        }
    }

    /// RIP behind the INVD or WBINVD at RIP, if it has no prefix. QEMU's AMD-V tells the one as the other.
    pub(super) fn cache_flush(&mut self) -> Option<u64> {
        const INVD: u16 = 0x080f;
        const WBINVD: u16 = 0x090f;
        let mode = Mode::of(self);
        let linear = self.linear_rip(mode);
        if linear & 0xfff == 0xfff {
            return None;
        }
        let gpa = self.code_address(linear)?;
        let opcode = self.vm.memory.read_u16(gpa).ok()?;
        matches!(opcode, INVD | WBINVD).then(|| mode.next_rip(self.cpu.rip(), 2))
    }

    /// The general register of the MOV to or from a control register at RIP, and RIP behind it, if it has its usual form: at most a REX
    /// prefix, `0F 20` or `0F 22`, ModRM.
    pub(super) fn mov_to_from_cr(&mut self, access: RegAccess) -> Option<(u8, u64)> {
        let mode = Mode::of(self);
        let linear = self.linear_rip(mode);
        // The remembered page ends somewhere.
        if linear & 0xfff > 0xffc {
            return None;
        }
        let gpa = self.code_address(linear)?;
        let bytes = self.vm.memory.read_u32(gpa).ok()?.to_le_bytes();
        let (rex, bytes) = match bytes {
            [rex @ 0x40..=0x4f, a, b, c] if mode.is_64() => (rex, [a, b, c]),
            [a, b, c, _] => (0, [a, b, c]),
        };
        let opcode = if access.write { 0x22 } else { 0x20 };
        let number = bytes[2] >> 3 & 7 | (rex & 4) << 1;
        if bytes[0] != 0x0f || bytes[1] != opcode || number != access.number {
            return None;
        }
        let len = 3 + u64::from(rex != 0);
        let next = mode.next_rip(self.cpu.rip(), len);
        Some((bytes[2] & 7 | (rex & 1) << 3, next))
    }

    fn linear_rip(&self, mode: Mode) -> u64 {
        let rip = self.cpu.rip();
        if mode.is_64() {
            rip
        } else {
            self.cpu.segment(SegReg::Cs).base.wrapping_add(rip) & 0xffff_ffff
        }
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
                .vm
                .mmu()
                .translate(&*self.vm.memory, &state, Gva(linear), access)
                .ok()?;
            self.lengths = LengthCache {
                cr3,
                page,
                gpa: self.decode(gpa).page(),
                ..self.lengths
            };
        }
        Some(self.lengths.gpa.add(linear & 0xfff))
    }
}
