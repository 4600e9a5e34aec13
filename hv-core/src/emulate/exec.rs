//! One instruction in execution: its registers, which are a copy until it commits, and its way to memory.
//!
//! The copy is what makes an instruction restartable: whatever fails before [`Exec::commit`] leaves the CPU as it was.

use super::Res;
use super::alu::mask;
use super::decode::instruction;
use super::segment::{Use, canonical, check_segment};
use super::{AccessKind, EmuCx, EmuFault, Kind, Mode, Shadow, Step, StepKind};
use crate::Gva;
use crate::event::vector;
use crate::regs::{Cr0, Gprs, Rflags, SegAttr, SegReg, Segment, SysReg};
use iced_x86::Instruction;

pub(super) struct Exec<'a, C: ?Sized> {
    pub cx: &'a mut C,
    pub mode: Mode,
    pub cpl: u8,
    pub insn: Instruction,
    pub regs: Gprs,
    pub flags: u64,
    /// The RIP to commit: the next instruction's, unless the instruction branches.
    pub rip: u64,
    /// The RIP of the instruction itself.
    pub start: u64,
    pub kind: StepKind,
    pub shadow: Shadow,
    /// IRET loads RF and does not clear it.
    pub keep_rf: bool,
    /// Whether TF was set at the start.
    pub trap: bool,
    /// An IRET.
    pub iret: bool,
    /// Data has to be aligned: CR0.AM and RFLAGS.AC at privilege level 3.
    pub aligned: bool,
    /// A task has been entered whose TSS has the debug trap flag.
    pub task_trap: bool,
}

impl<'a, C: EmuCx + ?Sized> Exec<'a, C> {
    /// An instruction that is still to be decoded: [`decode`](Self::decode), or whoever needs no decoding, says what it is.
    #[inline]
    pub fn new(cx: &'a mut C, mode: Mode) -> Self {
        let (regs, flags, start, cpl) = (*cx.gprs(), cx.rflags().bits(), cx.rip(), cx.cpl());
        let aligned = flags & Rflags::AC.bits() != 0
            && cpl == 3
            && cx.sysreg(SysReg::Cr0) & Cr0::AM.bits() != 0;
        Self {
            cx,
            mode,
            cpl,
            insn: Instruction::default(),
            regs,
            flags,
            rip: mode.next_rip(start, 0),
            start,
            kind: StepKind::Done,
            shadow: Shadow::None,
            keep_rf: false,
            trap: flags & Rflags::TF.bits() != 0,
            iret: false,
            task_trap: false,
            aligned,
        }
    }

    /// Fetches and decodes the instruction at RIP.
    #[inline]
    pub fn decode(&mut self) -> Res<()> {
        instruction(self.cx, self.mode, &mut self.insn)?;
        self.rip = self.mode.next_rip(self.start, self.insn.len() as u64);
        Ok(())
    }

    /// Makes the instruction's registers the CPU's.
    pub fn commit(self) -> Step {
        *self.cx.gprs_mut() = self.regs;
        // RF suppresses instruction breakpoints for one instruction only, and for all iterations of a string instruction (SDM vol 3B
        // 18.3.1.1, "Instruction-Breakpoint Exception Condition").
        let mut flags = Rflags::from_bits_retain(self.flags);
        if !self.keep_rf {
            flags.set(Rflags::RF, self.kind == StepKind::Again);
        }
        self.cx.set_rflags(flags);
        self.cx.set_rip(self.rip);
        Step {
            kind: self.kind,
            shadow: self.shadow,
            // A load of SS holds back the trap as it does interrupts.
            single_step: self.trap && self.shadow != Shadow::MovSs,
            iret: self.iret,
            task_trap: self.task_trap,
            breakpoints: 0,
        }
    }

    /// An exception with an error code, which real mode does not have.
    pub fn fault(&self, vector: u8, error: u16) -> EmuFault {
        let error = if self.mode.kind == Kind::Real {
            None
        } else {
            Some(u32::from(error))
        };
        EmuFault::Exception {
            vector,
            error,
            cr2: None,
        }
    }

    /// #GP(0).
    pub fn gp(&self) -> EmuFault {
        self.fault(vector::GP, 0)
    }

    /// #GP(0) unless at privilege level 0.
    pub fn privileged(&self) -> Res<()> {
        if self.cpl == 0 {
            Ok(())
        } else {
            Err(self.gp())
        }
    }

    pub fn flag(&self, bit: Rflags) -> bool {
        self.flags & bit.bits() != 0
    }

    pub fn iopl(&self) -> u8 {
        (self.flags >> 12 & 3) as u8
    }

    /// The register with ModRM number `n`, all 64 bits.
    pub fn reg(&self, n: usize) -> u64 {
        self.regs.regs.get(n).copied().unwrap_or(0)
    }

    /// The low `size` bytes of register `n` (never AH to BH).
    pub fn reg_sized(&self, n: usize, size: usize) -> u64 {
        self.reg(n) & mask(size)
    }

    /// Writes the low `size` bytes of register `n`; 4 bytes clear the upper half.
    pub fn set_reg(&mut self, n: usize, size: usize, value: u64) {
        if let Some(r) = self.regs.regs.get_mut(n) {
            *r = match size {
                1 | 2 => *r & !mask(size) | value & mask(size),
                _ => value & mask(size),
            };
        }
    }

    /// Adds `by` to the low `size` bytes of register `n`, as an address or count register: the bits above a 16-bit one are
    /// kept.
    pub fn bump(&mut self, n: usize, size: usize, by: u64) {
        let value = self.reg(n).wrapping_add(by);
        self.set_reg(n, size, value);
    }

    /// The linear address of `len` bytes at `seg:offset`, or the segmentation fault (SDM vol 3A 5.3, "Limit Checking", and
    /// 5.5, "Privilege Levels" for types; canonical addresses: SDM vol 1 3.3.7.1, "Canonical Addressing").
    #[inline]
    pub fn linear(&self, seg: SegReg, offset: u64, len: u64, usage: Use) -> Res<u64> {
        let s = self.cx.segment(seg);
        match check_segment(&*self.cx, self.mode, seg, s, offset, len, usage) {
            Some(linear) => Ok(linear),
            None if seg == SegReg::Ss => Err(self.fault(vector::SS, 0)),
            None => Err(self.gp()),
        }
    }

    /// Reads `buf` from `linear`, in two pieces where linear addresses wrap at 4 GiB.
    pub fn read_bytes(&mut self, linear: u64, buf: &mut [u8], kind: AccessKind) -> Res<()> {
        match self.wrap(linear, buf.len()) {
            None => self.cx.read(Gva(linear), buf, kind),
            Some(n) => {
                let (a, b) = buf.split_at_mut(n.min(buf.len()));
                self.cx.read(Gva(linear), a, kind)?;
                self.cx.read(Gva(0), b, kind)
            }
        }
    }

    /// Writes `buf` to `linear`, in two pieces where linear addresses wrap at 4 GiB.
    pub fn write_bytes(&mut self, linear: u64, buf: &[u8], kind: AccessKind) -> Res<()> {
        match self.wrap(linear, buf.len()) {
            None => self.cx.write(Gva(linear), buf, kind),
            Some(n) => {
                let (a, b) = buf.split_at(n.min(buf.len()));
                self.cx.check_write(Gva(0), b.len())?;
                self.cx.write(Gva(linear), a, kind)?;
                self.cx.write(Gva(0), b, kind)
            }
        }
    }

    /// How many of `len` bytes from `linear` are below 4 GiB, if not all and if addresses have 32 bits.
    #[inline]
    pub fn wrap(&self, linear: u64, len: usize) -> Option<usize> {
        let room = (1u64 << 32).saturating_sub(linear);
        (!self.mode.is_64() && (len as u64) > room).then_some(room as usize)
    }

    /// #AC for data that have to be aligned to `size` bytes, a power of two, and are not (SDM vol 3A 6.15, "Interrupt 17—Alignment Check
    /// Exception (#AC)").
    pub fn check_aligned(&self, linear: u64, size: usize, kind: AccessKind) -> Res<()> {
        if self.aligned && kind != AccessKind::System && !linear.is_multiple_of(size as u64) {
            return Err(self.fault(vector::AC, 0));
        }
        Ok(())
    }

    /// Reads a value of `size` (1 to 8) bytes.
    #[inline]
    pub fn read(&mut self, linear: u64, size: usize, kind: AccessKind) -> Res<u64> {
        self.check_aligned(linear, size, kind)?;
        if self.wrap(linear, size).is_none() {
            return self.cx.read_value(Gva(linear), size, kind);
        }
        let mut b = [0; 8];
        if let Some(part) = b.get_mut(..size) {
            self.read_bytes(linear, part, kind)?;
        }
        Ok(u64::from_le_bytes(b))
    }

    /// Writes a value of `size` (1 to 8) bytes.
    #[inline]
    pub fn write(&mut self, linear: u64, size: usize, value: u64, kind: AccessKind) -> Res<()> {
        self.check_aligned(linear, size, kind)?;
        if self.wrap(linear, size).is_none() {
            return self.cx.write_value(Gva(linear), size, value, kind);
        }
        match value.to_le_bytes().get(..size) {
            Some(part) => self.write_bytes(linear, part, kind),
            None => Ok(()),
        }
    }

    /// The size of stack addresses: 2, 4 or 8 bytes.
    pub fn stack_size(&self) -> usize {
        if self.mode.is_64() {
            8
        } else if self.cx.segment(SegReg::Ss).attr.contains(SegAttr::DB) {
            4
        } else {
            2
        }
    }

    /// Pushes `size` bytes.
    pub fn push(&mut self, size: usize, value: u64) -> Res<()> {
        let width = self.stack_size();
        let sp = self.reg(4).wrapping_sub(size as u64) & mask(width);
        let linear = self.linear(SegReg::Ss, sp, size as u64, Use::Write)?;
        self.write(linear, size, value, AccessKind::Data)?;
        self.set_sp(width, sp);
        Ok(())
    }

    /// Pops `size` bytes.
    pub fn pop(&mut self, size: usize) -> Res<u64> {
        let width = self.stack_size();
        let sp = self.reg(4) & mask(width);
        let linear = self.linear(SegReg::Ss, sp, size as u64, Use::Read)?;
        let value = self.read(linear, size, AccessKind::Data)?;
        self.set_sp(width, sp.wrapping_add(size as u64));
        Ok(value)
    }

    /// Writes SP, ESP or RSP. A 32-bit stack in compatibility mode clears the upper half, which no code there can see.
    pub fn set_sp(&mut self, width: usize, value: u64) {
        self.set_reg(4, width, value);
    }

    /// Continues at `target` in the current code segment.
    pub fn jump(&mut self, target: u64) -> Res<()> {
        self.rip = self.check_target(self.cx.segment(SegReg::Cs), self.mode, target)?;
        Ok(())
    }

    /// Checks that code can be at `target` in code segment `cs`.
    pub fn check_target(&self, cs: Segment, mode: Mode, target: u64) -> Res<u64> {
        let target = if mode.is_64() {
            target
        } else {
            target & 0xffff_ffff
        };
        let good = if mode.is_64() {
            canonical(&*self.cx, target)
        } else {
            target <= u64::from(cs.limit)
        };
        if good { Ok(target) } else { Err(self.gp()) }
    }
}
