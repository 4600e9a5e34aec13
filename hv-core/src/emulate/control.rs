//! Near branches and the stack.

use super::Res;
use super::alu::{condition, mask};
use super::exec::Exec;
use super::operand::segreg;
use super::segment::Use;
use super::{AccessKind, EmuCx, Kind, Shadow};
use crate::regs::gpr::{RBP, RCX, RSP};
use crate::regs::{Rflags, SegReg};
use iced_x86::{Code, OpKind};

/// The flags that POPF changes at privilege level 0: all but RF, VM, VIF, VIP and the reserved ones.
pub(super) const POPF: u64 = 0x25_4fd5 | Rflags::IOPL.bits();

impl<C: EmuCx + ?Sized> Exec<'_, C> {
    /// The address a near branch goes to and the operand size.
    fn branch_target(&mut self) -> Res<(u64, usize)> {
        let size = self.operand_size(0)?;
        match self.insn.op_kind(0) {
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                Ok((self.insn.near_branch_target(), size))
            }
            _ => Ok((self.value(0)?, size)),
        }
    }

    /// JMP near.
    pub fn jmp(&mut self) -> Res<()> {
        let (target, _) = self.branch_target()?;
        self.jump(target)
    }

    /// Jcc, JCXZ and the LOOPs, whose condition is `taken`.
    pub fn jump_if(&mut self, taken: bool) -> Res<()> {
        if taken { self.jmp() } else { Ok(()) }
    }

    /// Jcc.
    pub fn jump_on(&mut self, cc: u8) -> Res<()> {
        self.jump_if(condition(cc, self.flags))
    }

    /// LOOP, LOOPE (`zf` true) and LOOPNE (`zf` false).
    pub fn loop_while(&mut self, zf: Option<bool>) -> Res<()> {
        use Code::*;
        let size = match self.insn.code() {
            Loop_rel8_16_CX | Loop_rel8_32_CX | Loope_rel8_16_CX | Loope_rel8_32_CX
            | Loopne_rel8_16_CX | Loopne_rel8_32_CX => 2,
            Loop_rel8_16_RCX | Loop_rel8_64_RCX | Loope_rel8_16_RCX | Loope_rel8_64_RCX
            | Loopne_rel8_16_RCX | Loopne_rel8_64_RCX => 8,
            _ => 4,
        };
        self.bump(RCX, size, u64::MAX);
        let more = self.reg_sized(RCX, size) != 0;
        self.jump_if(more && zf.is_none_or(|z| z == self.flag(Rflags::ZF)))
    }

    /// CALL near.
    pub fn call(&mut self) -> Res<()> {
        let (target, size) = self.branch_target()?;
        let back = self.rip;
        self.jump(target)?;
        self.push(size, back)
    }

    /// RET near.
    pub fn ret(&mut self) -> Res<()> {
        let target = self.pop(self.implied_size())?;
        self.release(self.immediate_count());
        self.jump(target)
    }

    /// The operand of RET and RETF: bytes to release.
    pub fn immediate_count(&self) -> u64 {
        if self.insn.op_count() > 0 {
            self.insn.immediate16().into()
        } else {
            0
        }
    }

    /// Adds to the stack pointer.
    pub fn release(&mut self, bytes: u64) {
        let width = self.stack_size();
        let sp = self.reg(RSP).wrapping_add(bytes);
        self.set_sp(width, sp);
    }

    /// PUSH of anything.
    pub fn push_operand(&mut self) -> Res<()> {
        if let Some(seg) =
            segreg(self.insn.op_register(0)).filter(|_| self.insn.op_kind(0) == OpKind::Register)
        {
            let (size, selector) = (self.implied_size(), self.cx.segment(seg).selector);
            return self.push(size, selector.into());
        }
        let value = self.value(0)?;
        self.push(self.operand_size(0)?, value)
    }

    /// POP to a register or memory. An address with RSP uses its value after the pop.
    pub fn pop_operand(&mut self) -> Res<()> {
        let size = self.operand_size(0)?;
        let value = self.pop(size)?;
        self.set_value(0, value)
    }

    /// PUSHA and PUSHAD.
    pub fn pusha(&mut self) -> Res<()> {
        let (size, sp) = (self.implied_size(), self.reg(RSP));
        for n in 0..8 {
            let value = if n == RSP { sp } else { self.reg(n) };
            self.push(size, value)?;
        }
        Ok(())
    }

    /// POPA and POPAD.
    pub fn popa(&mut self) -> Res<()> {
        let size = self.implied_size();
        for n in (0..8).rev() {
            let value = self.pop(size)?;
            if n != RSP {
                self.set_reg(n, size, value);
            }
        }
        Ok(())
    }

    /// ENTER. The level is taken modulo 32.
    pub fn enter(&mut self) -> Res<()> {
        let (size, width) = (self.implied_size(), self.stack_size());
        let (bytes, level) = (
            u64::from(self.insn.immediate16()),
            self.insn.immediate8_2nd() & 31,
        );
        self.push(size, self.reg(RBP))?;
        let frame = self.reg(RSP);
        for i in 1..level {
            let from = self.reg(RBP).wrapping_sub(u64::from(i) * size as u64) & mask(width);
            let linear = self.linear(SegReg::Ss, from, size as u64, Use::Read)?;
            let value = self.read(linear, size, AccessKind::Data)?;
            self.push(size, value)?;
        }
        if level > 0 {
            self.push(size, frame)?;
        }
        // By the size of the stack, not of the operand.
        self.set_reg(RBP, width, frame);
        let sp = self.reg(RSP).wrapping_sub(bytes) & mask(width);
        // The new top of the stack must be writable (SDM vol 2A, "ENTER"), though nothing is written there.
        let top = self.linear(SegReg::Ss, sp, size as u64, Use::Write)?;
        self.cx.check_write(crate::Gva(top), size)?;
        self.set_sp(width, sp);
        Ok(())
    }

    /// LEAVE.
    pub fn leave(&mut self) -> Res<()> {
        let (size, width) = (self.implied_size(), self.stack_size());
        let frame = self.reg(RBP);
        self.set_sp(width, frame);
        let value = self.pop(size)?;
        self.set_reg(RBP, size, value);
        Ok(())
    }

    /// #GP(0) in virtual-8086 mode with an IOPL below 3.
    pub fn check_vm86_iopl(&self) -> Res<()> {
        if self.mode.kind == Kind::Vm86 && self.iopl() < 3 {
            Err(self.gp())
        } else {
            Ok(())
        }
    }

    /// PUSHF, PUSHFD, PUSHFQ.
    pub fn pushf(&mut self) -> Res<()> {
        self.check_vm86_iopl()?;
        let image = Rflags::from_bits_retain(self.flags) - Rflags::VM - Rflags::RF;
        self.push(self.implied_size(), image.bits())
    }

    /// POPF, POPFD, POPFQ.
    pub fn popf(&mut self) -> Res<()> {
        self.check_vm86_iopl()?;
        let size = self.implied_size();
        let image = self.pop(size)?;
        self.load_flags(image, size, POPF);
        Ok(())
    }

    /// Loads those flags of `image` that are in `which` and that the privilege level may change.
    pub fn load_flags(&mut self, image: u64, size: usize, which: u64) {
        let mut which = which & mask(size);
        if self.cpl > 0 {
            which &= !Rflags::IOPL.bits();
        }
        if self.cpl > self.iopl() {
            which &= !Rflags::IF.bits();
        }
        self.flags = self.flags & !which | image & which | Rflags::ONE.bits();
    }

    /// CLI and STI. VME and protected-mode virtual interrupts change VIF instead (SDM vol 3B 21.3.3.5, "Method 6: Software
    /// Interrupt Handling", and vol 3A 21.4, "Protected-Mode Virtual Interrupts").
    pub fn set_interrupt_flag(&mut self, on: bool) -> Res<()> {
        use crate::regs::{Cr4, SysReg};
        let cr4 = Cr4::from_bits_retain(self.cx.sysreg(SysReg::Cr4));
        let own = match self.mode.kind {
            Kind::Real => true,
            Kind::Vm86 => self.iopl() == 3,
            _ => self.cpl <= self.iopl(),
        };
        let virt = match self.mode.kind {
            Kind::Vm86 => cr4.contains(Cr4::VME),
            _ => self.cpl == 3 && cr4.contains(Cr4::PVI),
        };
        let bit = match (own, virt) {
            (true, _) => Rflags::IF,
            (_, true) if !(on && self.flag(Rflags::VIP)) => Rflags::VIF,
            _ => return Err(self.gp()),
        };
        if on && bit == Rflags::IF && !self.flag(Rflags::IF) {
            self.shadow = Shadow::Sti;
        }
        self.flags = if on {
            self.flags | bit.bits()
        } else {
            self.flags & !bit.bits()
        };
        Ok(())
    }
}
