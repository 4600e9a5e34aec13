//! Data movement: MOV and its relatives, and the SSE moves that drivers use on frame buffers and queues.

use super::Res;
use super::alu::{mask, sign_extend};
use super::exec::Exec;
use super::operand::{segreg, xmm};
use super::segment::Use;
use super::{AccessKind, EmuCx, EmuFault};
use crate::regs::{Cr0, Cr4, SysReg};
use iced_x86::{Mnemonic, OpKind, Register};

impl<C: EmuCx + ?Sized> Exec<'_, C> {
    /// MOV, MOVNTI and MOVZX of anything but segment, control and debug registers.
    pub fn mov(&mut self) -> Res<()> {
        let value = self.value(1)?;
        self.set_value(0, value)
    }

    /// MOVSX and MOVSXD.
    pub fn movsx(&mut self) -> Res<()> {
        let value = sign_extend(self.operand_size(1)?, self.value(1)?);
        self.set_value(0, value)
    }

    /// MOVBE.
    pub fn movbe(&mut self) -> Res<()> {
        let size = self.operand_size(0)?;
        let value = self.value(1)?.swap_bytes() >> (64 - 8 * size as u32);
        self.set_value(0, value)
    }

    /// LEA.
    pub fn lea(&mut self) -> Res<()> {
        let offset = self.effective(0);
        self.set_value(0, offset)
    }

    /// MOV from a segment register. A register destination of 32 or 64 bits is extended with zeroes.
    pub fn mov_from_segment(&mut self) -> Res<()> {
        let seg = segreg(self.insn.op_register(1)).ok_or(EmuFault::UD)?;
        let selector = u64::from(self.cx.segment(seg).selector);
        if self.is_memory(0) {
            let linear = self.memory_at(0, 2, Use::Write)?;
            return self.write(linear, 2, selector, AccessKind::Data);
        }
        self.set_value(0, selector)
    }

    /// XLAT: AL = [segment:(E/R)BX + AL].
    pub fn xlat(&mut self) -> Res<()> {
        let linear = self.memory_at(0, 1, Use::Read)?;
        let value = self.read(linear, 1, AccessKind::Data)?;
        self.set_reg(0, 1, value);
        Ok(())
    }

    /// #UD or #NM if SSE instructions cannot be executed (SDM vol 3A 14.1, "Providing Operating System Support for SSE
    /// Extensions").
    fn check_sse(&self) -> Res<()> {
        let cr0 = Cr0::from_bits_retain(self.cx.sysreg(SysReg::Cr0));
        if cr0.contains(Cr0::EM) || self.cx.sysreg(SysReg::Cr4) & Cr4::OSFXSR.bits() == 0 {
            return Err(EmuFault::UD);
        }
        if cr0.contains(Cr0::TS) {
            Err(EmuFault::NM)
        } else {
            Ok(())
        }
    }

    /// A 128-bit move between XMM registers and memory, which must be aligned for MOVAPS, MOVDQA, MOVNTDQ and their like.
    pub fn move_xmm(&mut self, aligned: bool) -> Res<()> {
        self.check_sse()?;
        let mut value = [0; 16];
        if self.is_memory(1) {
            let linear = self.memory_at(0, 16, Use::Read)?;
            self.check_alignment(aligned, linear)?;
            self.read_bytes(linear, &mut value, AccessKind::Data)?;
        } else {
            value = self.cx.fx().xmm(
                xmm(self.insn.op_register(1)).ok_or(EmuFault::Unsupported("vector register"))?,
            );
        }
        if self.is_memory(0) {
            let linear = self.memory_at(0, 16, Use::Write)?;
            self.check_alignment(aligned, linear)?;
            self.write_bytes(linear, &value, AccessKind::Data)
        } else {
            let to =
                xmm(self.insn.op_register(0)).ok_or(EmuFault::Unsupported("vector register"))?;
            self.cx.fx_mut().set_xmm(to, value);
            Ok(())
        }
    }

    /// #GP for an operand that has to be `aligned` to 16 bytes and is not.
    pub fn check_alignment(&self, aligned: bool, linear: u64) -> Res<()> {
        if aligned && !linear.is_multiple_of(16) {
            Err(self.gp())
        } else {
            Ok(())
        }
    }

    /// MOVD, MOVQ, MOVSS, MOVSD: the low part of an XMM register to or from memory or a general-purpose register. Loading
    /// clears the rest of the register, but for MOVSS and MOVSD between registers (`merge`).
    pub fn move_xmm_low(&mut self, merge: bool) -> Res<()> {
        if [0, 1].into_iter().any(|i| self.is_mmx(i)) {
            return self.natively();
        }
        self.check_sse()?;
        let to = xmm(self.insn.op_register(0)).filter(|_| self.insn.op_kind(0) == OpKind::Register);
        let from =
            xmm(self.insn.op_register(1)).filter(|_| self.insn.op_kind(1) == OpKind::Register);
        let size = if self.is_memory(0) || self.is_memory(1) {
            self.memory_size()?
        } else if from.is_none() {
            self.operand_size(1)?
        } else if to.is_none() {
            self.operand_size(0)?
        } else if self.insn.mnemonic() == Mnemonic::Movss {
            4
        } else {
            8
        };
        let value = match from {
            Some(n) => u128::from_le_bytes(self.cx.fx().xmm(n)) as u64 & mask(size),
            None => self.value(1)?,
        };
        let Some(n) = to else {
            return self.set_value(0, value);
        };
        let keep = match from {
            Some(_) if merge => u128::from_le_bytes(self.cx.fx().xmm(n)) & !u128::from(mask(size)),
            _ => 0,
        };
        self.cx
            .fx_mut()
            .set_xmm(n, (keep | u128::from(value)).to_le_bytes());
        Ok(())
    }

    /// MOVLPS, MOVLPD, MOVHPS, MOVHPD: one half of an XMM register to or from memory.
    pub fn move_xmm_half(&mut self, high: bool) -> Res<()> {
        self.check_sse()?;
        let shift = if high { 64 } else { 0 };
        let register =
            |i| xmm(self.insn.op_register(i)).ok_or(EmuFault::Unsupported("vector register"));
        if self.is_memory(0) {
            let value = (u128::from_le_bytes(self.cx.fx().xmm(register(1)?)) >> shift) as u64;
            let linear = self.memory_at(0, 8, Use::Write)?;
            return self.write(linear, 8, value, AccessKind::Data);
        }
        let n = register(0)?;
        let linear = self.memory_at(0, 8, Use::Read)?;
        let value = u128::from(self.read(linear, 8, AccessKind::Data)?) << shift;
        let keep = u128::from_le_bytes(self.cx.fx().xmm(n)) & !(u128::from(u64::MAX) << shift);
        self.cx.fx_mut().set_xmm(n, (keep | value).to_le_bytes());
        Ok(())
    }

    fn is_mmx(&self, i: u32) -> bool {
        self.insn.op_kind(i) == OpKind::Register
            && (Register::MM0..=Register::MM7).contains(&self.insn.op_register(i))
    }
}
