//! MOVS, STOS, LODS, CMPS, SCAS and their repetition (SDM vol 1 7.3.9.2, "Repeated String Operations").
//!
//! One step does a bounded number of iterations. Where a run of elements lies in plain RAM it moves at once; elements in a
//! device are accessed one by one, but without leaving the emulator.

use super::Res;
use super::alu::mask;
use super::arith::SUB;
use super::exec::Exec;
use super::operand::segreg;
use super::segment::Use;
use super::{AccessKind, EmuCx, StepKind};
use crate::Gva;
use crate::regs::gpr::{RAX, RCX, RDI, RSI};
use crate::regs::{Rflags, SegReg};
use iced_x86::OpKind;

/// The most iterations in one step.
pub(super) const MAX_ITERATIONS: u64 = 4096;

/// The most bytes moved at once.
const CHUNK: usize = 1024;

/// A string instruction without ports.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum StringOp {
    Movs,
    Stos,
    Lods,
    Cmps,
    Scas,
}

/// What does not change during a string instruction.
#[derive(Clone, Copy)]
pub(super) struct Pass {
    /// Bytes of an element.
    pub size: usize,
    /// Bytes of an address and of the count.
    pub address: usize,
    /// DF.
    pub down: bool,
    /// The segment of the source; the destination's is ES.
    pub segment: SegReg,
}

impl Pass {
    /// What to add to an index register for `n` elements.
    pub fn delta(&self, n: u64) -> u64 {
        let by = n.wrapping_mul(self.size as u64);
        if self.down { by.wrapping_neg() } else { by }
    }
}

/// A step of the loop: iterations done, and whether the condition of REPE or REPNE ended it.
type Chunk = (u64, bool);

/// How many elements of `size` bytes, at most `max`, lie between `linear` and the end of its page.
pub(super) fn in_page(linear: u64, size: usize, max: u64) -> u64 {
    ((0x1000 - (linear & 0xfff)) / size as u64).min(max)
}

impl<C: EmuCx + ?Sized> Exec<'_, C> {
    /// The size of a string instruction's addresses.
    pub fn string_address_size(&self) -> usize {
        match (self.insn.op_kind(0), self.insn.op_kind(1)) {
            (OpKind::MemorySegRSI | OpKind::MemoryESRDI, _)
            | (_, OpKind::MemorySegRSI | OpKind::MemoryESRDI) => 8,
            (OpKind::MemorySegESI | OpKind::MemoryESEDI, _)
            | (_, OpKind::MemorySegESI | OpKind::MemoryESEDI) => 4,
            _ => 2,
        }
    }

    /// Executes a string instruction with elements of `size` bytes.
    pub fn string(&mut self, op: StringOp, size: usize) -> Res<()> {
        let pass = Pass {
            size,
            address: self.string_address_size(),
            down: self.flag(Rflags::DF),
            segment: segreg(self.insn.memory_segment()).unwrap_or(SegReg::Ds),
        };
        let (repe, repne) = (self.insn.has_rep_prefix(), self.insn.has_repne_prefix());
        // The last of several F2h and F3h counts; the decoder reports it. Without a condition both mean REP.
        let until = match op {
            StringOp::Cmps | StringOp::Scas => Some(repe),
            _ => None,
        };
        self.repeat(&pass, repe || repne, |x, left| match op {
            StringOp::Movs => x.movs(&pass, left),
            StringOp::Stos => x.stos(&pass, left),
            StringOp::Lods => x.lods(&pass),
            StringOp::Cmps => x.cmps(&pass, until),
            StringOp::Scas => x.scas(&pass, until),
        })
    }

    /// Runs `chunk` until the count is used up, the condition ends it or the bound is reached. `chunk` is told how many
    /// iterations it may do. What it has done before a fault stays done.
    pub fn repeat(
        &mut self,
        pass: &Pass,
        rep: bool,
        mut chunk: impl FnMut(&mut Self, u64) -> Res<Chunk>,
    ) -> Res<()> {
        if !rep {
            return chunk(self, 1).map(drop);
        }
        let mut count = self.reg_sized(RCX, pass.address);
        let bound = if self.flag(Rflags::TF) {
            1
        } else {
            MAX_ITERATIONS
        };
        let mut left = bound;
        while count > 0 && left > 0 {
            let (n, stop) = match chunk(self, left.min(count)) {
                Ok(done) => done,
                Err(fault) => {
                    if left < bound {
                        *self.cx.gprs_mut() = self.regs;
                        self.cx.set_rflags(Rflags::from_bits_retain(self.flags));
                    }
                    return Err(fault);
                }
            };
            count = count.saturating_sub(n);
            left = left.saturating_sub(n.max(1));
            self.set_reg(RCX, pass.address, count);
            if stop {
                return Ok(());
            }
            if self.cx.ends_repetition() {
                break;
            }
        }
        if count > 0 {
            self.kind = StepKind::Again;
            self.rip = self.start;
            self.keep_rf = true;
        }
        Ok(())
    }

    /// The linear address of `n` elements from ES:(E/R)DI or the source segment:(E/R)SI on.
    fn element(&self, pass: &Pass, index: usize, n: u64, usage: Use) -> Res<u64> {
        let segment = if index == RDI {
            SegReg::Es
        } else {
            pass.segment
        };
        let linear = self.linear(
            segment,
            self.reg_sized(index, pass.address),
            n * pass.size as u64,
            usage,
        )?;
        self.check_aligned(linear, pass.size, AccessKind::Data)?;
        Ok(linear)
    }

    /// How many ascending elements, at most `max`, can be accessed as one run from an index register on: within the page, the
    /// segment and the address size. At least 1.
    pub fn run(&self, pass: &Pass, index: usize, max: u64, usage: Use) -> Res<(u64, u64)> {
        let linear = self.element(pass, index, 1, usage)?;
        if pass.down || self.cx.iterates_singly() {
            return Ok((linear, 1));
        }
        let to_wrap = (mask(pass.address) - self.reg_sized(index, pass.address)) / pass.size as u64;
        let n = in_page(linear, pass.size, max.min(CHUNK as u64 / pass.size as u64)).min(to_wrap);
        if n > 1 && self.element(pass, index, n, usage).is_ok() {
            Ok((linear, n))
        } else {
            Ok((linear, 1))
        }
    }

    fn movs(&mut self, pass: &Pass, left: u64) -> Res<Chunk> {
        let (from, n) = self.run(pass, RSI, left, Use::Read)?;
        let (to, n) = self.run(pass, RDI, n, Use::Write)?;
        let n = if self.movs_run(pass, from, to, n)? {
            n
        } else {
            let mut b = [0; 8];
            let element = b.get_mut(..pass.size).unwrap_or_default();
            // The source may be a device: a fault of the destination has to come before its side effects.
            self.cx.check_write(Gva(to), pass.size)?;
            self.read_bytes(from, element, AccessKind::Data)?;
            self.write_bytes(to, element, AccessKind::Data)?;
            1
        };
        self.bump(RSI, pass.address, pass.delta(n));
        self.bump(RDI, pass.address, pass.delta(n));
        Ok((n, false))
    }

    /// Moves `n` elements at once, if that cannot be told from one by one: at least one side is RAM, and no element is written
    /// before it is read. Page offsets are compared, as two linear addresses may be the same memory.
    fn movs_run(&mut self, pass: &Pass, from: u64, to: u64, n: u64) -> Res<bool> {
        let bytes = n * pass.size as u64;
        if n < 2 || (to.wrapping_sub(from) & 0xfff).wrapping_sub(1) < bytes.saturating_sub(1) {
            return Ok(false);
        }
        let (from, to, len) = (Gva(from), Gva(to), bytes as usize);
        let from_ram = self.cx.ram_run(from, len, false) >= len;
        let to_ram = self.cx.ram_run(to, len, true) >= len;
        let mut b = [0; CHUNK];
        let Some(b) = b.get_mut(..len).filter(|_| from_ram || to_ram) else {
            return Ok(false);
        };
        match from_ram {
            true => self.cx.read(from, b, AccessKind::Data)?,
            false => self.cx.read_block(from, pass.size, b)?,
        }
        match to_ram {
            true => self.cx.write(to, b, AccessKind::Data)?,
            false => self.cx.write_block(to, pass.size, b)?,
        }
        Ok(true)
    }

    fn stos(&mut self, pass: &Pass, left: u64) -> Res<Chunk> {
        let value = self.reg_sized(RAX, pass.size);
        let (to, n) = self.run(pass, RDI, left, Use::Write)?;
        if n < 2 {
            self.write(to, pass.size, value, AccessKind::Data)?;
        } else {
            let mut b = [0; CHUNK];
            let len = (n * pass.size as u64) as usize;
            let run = b.get_mut(..len).unwrap_or_default();
            for element in run.chunks_exact_mut(pass.size) {
                element
                    .iter_mut()
                    .zip(value.to_le_bytes())
                    .for_each(|(to, from)| *to = from);
            }
            if self.cx.ram_run(Gva(to), len, true) >= len {
                self.cx.write(Gva(to), run, AccessKind::Data)?;
            } else {
                self.cx.write_block(Gva(to), pass.size, run)?;
            }
        }
        self.bump(RDI, pass.address, pass.delta(n));
        Ok((n, false))
    }

    fn lods(&mut self, pass: &Pass) -> Res<Chunk> {
        let from = self.element(pass, RSI, 1, Use::Read)?;
        let value = self.read(from, pass.size, AccessKind::Data)?;
        self.set_reg(RAX, pass.size, value);
        self.bump(RSI, pass.address, pass.delta(1));
        Ok((1, false))
    }

    fn cmps(&mut self, pass: &Pass, until: Option<bool>) -> Res<Chunk> {
        let from = self.element(pass, RSI, 1, Use::Read)?;
        let to = self.element(pass, RDI, 1, Use::Read)?;
        let a = self.read(from, pass.size, AccessKind::Data)?;
        let b = self.read(to, pass.size, AccessKind::Data)?;
        self.flags = SUB(pass.size, a, b, self.flags).1;
        self.bump(RSI, pass.address, pass.delta(1));
        self.bump(RDI, pass.address, pass.delta(1));
        Ok((1, Some(self.flag(Rflags::ZF)) != until))
    }

    fn scas(&mut self, pass: &Pass, until: Option<bool>) -> Res<Chunk> {
        let to = self.element(pass, RDI, 1, Use::Read)?;
        let b = self.read(to, pass.size, AccessKind::Data)?;
        self.flags = SUB(pass.size, self.reg_sized(RAX, pass.size), b, self.flags).1;
        self.bump(RDI, pass.address, pass.delta(1));
        Ok((1, Some(self.flag(Rflags::ZF)) != until))
    }
}
