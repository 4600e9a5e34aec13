//! Far transfers: JMP, CALL and RET between segments, IRET, and the instructions that raise interrupts.

use super::Res;
use super::control::POPF;
use super::descriptor::Transfer;
use super::exec::Exec;
use super::segment::Use;
use super::{AccessKind, EmuCx, Kind, Mode, SoftInt, StepKind};
use crate::regs::gpr::RSP;
use crate::regs::{Rflags, SegAttr, SegReg, Segment};
use iced_x86::{Mnemonic, OpKind};

/// The data segments, which a return to a lower privilege level takes away if it may not have them.
const DATA: [SegReg; 4] = [SegReg::Es, SegReg::Ds, SegReg::Fs, SegReg::Gs];

impl<C: EmuCx + ?Sized> Exec<'_, C> {
    /// The selector, the offset and the operand size of a far pointer: an immediate or in memory.
    fn far_pointer(&mut self) -> Res<(u16, u64, usize)> {
        let size = self.implied_size();
        match self.insn.op_kind(0) {
            OpKind::FarBranch16 => Ok((
                self.insn.far_branch_selector(),
                self.insn.far_branch16().into(),
                size,
            )),
            OpKind::FarBranch32 => Ok((
                self.insn.far_branch_selector(),
                self.insn.far_branch32().into(),
                size,
            )),
            _ => self.far_pointer_in_memory(size),
        }
    }

    fn far_pointer_in_memory(&mut self, size: usize) -> Res<(u16, u64, usize)> {
        let linear = self.memory_at(0, size + 2, Use::Read)?;
        let mut b = [0; 10];
        if let Some(part) = b.get_mut(..size + 2) {
            self.read_bytes(linear, part, AccessKind::Data)?;
        }
        let all = b.iter().rev().fold(0u128, |v, b| v << 8 | u128::from(*b));
        Ok((
            (all >> (8 * size)) as u16,
            all as u64 & super::alu::mask(size),
            size,
        ))
    }

    /// Whether JMP or CALL is far.
    pub fn is_far(&self) -> bool {
        use iced_x86::Code::*;
        let code = self.insn.code();
        matches!(
            code,
            Jmp_ptr1616 | Jmp_ptr1632 | Jmp_m1616 | Jmp_m1632 | Jmp_m1664
        ) || matches!(
            code,
            Call_ptr1616 | Call_ptr1632 | Call_m1616 | Call_m1632 | Call_m1664
        )
    }

    /// JMP far.
    pub fn jmp_far(&mut self) -> Res<()> {
        let (selector, offset, _) = self.far_pointer()?;
        if let Some(task) = self.leads_to_task(selector)? {
            return self.jump_to_task(selector, task, false);
        }
        if let Some(gate) = self.call_gate(selector)? {
            return self.jmp_through(&gate);
        }
        let (cs, mode) = self.load_code(selector, Transfer::Jump)?;
        self.rip = self.check_target(cs, mode, offset)?;
        self.cx.set_segment(SegReg::Cs, cs);
        Ok(())
    }

    /// CALL far.
    pub fn call_far(&mut self) -> Res<()> {
        let (selector, offset, size) = self.far_pointer()?;
        if let Some(task) = self.leads_to_task(selector)? {
            return self.jump_to_task(selector, task, true);
        }
        if let Some(gate) = self.call_gate(selector)? {
            return self.call_through(&gate);
        }
        let (cs, mode) = self.load_code(selector, Transfer::Jump)?;
        let target = self.check_target(cs, mode, offset)?;
        self.push(size, self.cx.segment(SegReg::Cs).selector.into())?;
        self.push(size, self.rip)?;
        self.rip = target;
        self.cx.set_segment(SegReg::Cs, cs);
        Ok(())
    }

    /// RETF.
    pub fn ret_far(&mut self) -> Res<()> {
        let (size, release) = (self.implied_size(), self.immediate_count());
        let offset = self.pop(size)?;
        let selector = self.pop(size)? as u16;
        self.release(release);
        let (cs, mode) = self.load_code(selector, Transfer::Return)?;
        let target = self.check_target(cs, mode, offset)?;
        if self.mode.has_descriptors() && selector as u8 & 3 > self.cpl {
            let sp = self.pop(size)?;
            let ss = self.pop(size)? as u16;
            return self.leave_to(cs, mode, target, ss, sp, release);
        }
        self.rip = target;
        self.cx.set_segment(SegReg::Cs, cs);
        Ok(())
    }

    /// Continues in `cs` with another stack, perhaps at a lower privilege level. The last thing that an instruction does.
    fn leave_to(
        &mut self,
        cs: Segment,
        mode: Mode,
        target: u64,
        ss: u16,
        sp: u64,
        release: u64,
    ) -> Res<()> {
        let level = cs.selector as u8 & 3;
        let ss = self.stack_segment(ss, level, mode.is_64())?;
        let width = match (mode.is_64(), ss.attr.contains(SegAttr::DB)) {
            (true, _) => 8,
            (_, true) => 4,
            _ => 2,
        };
        self.set_sp(width, sp.wrapping_add(release));
        self.rip = target;
        self.cx.set_segment(SegReg::Cs, cs);
        self.cx.set_segment(SegReg::Ss, ss);
        if level > self.cpl {
            self.cx.set_cpl(level);
            for seg in DATA {
                let s = self.cx.segment(seg);
                let conforming = s.attr.contains(SegAttr::CODE | SegAttr::DC);
                if s.attr.contains(SegAttr::P) && s.attr.dpl() < level && !conforming {
                    self.cx.set_segment(seg, Segment::default());
                }
            }
        }
        Ok(())
    }

    /// IRET, IRETD, IRETQ.
    pub fn iret(&mut self) -> Res<()> {
        self.check_vm86_iopl()?;
        let size = self.implied_size();
        if self.mode.has_descriptors() && self.flag(Rflags::NT) {
            return match self.lma() {
                true => Err(self.gp()),
                false => self.return_to_task(),
            };
        }
        let offset = self.pop(size)?;
        let selector = self.pop(size)? as u16;
        let image = self.pop(size)?;
        let to_vm86 = size == 4 && self.cpl == 0 && image & Rflags::VM.bits() != 0 && !self.lma();
        if self.mode.has_descriptors() && to_vm86 {
            return self.iret_to_vm86(selector, offset, image);
        }
        let (cs, mode) = self.load_code(selector, Transfer::Return)?;
        let target = self.check_target(cs, mode, offset)?;
        let descriptors = self.mode.has_descriptors();
        if descriptors && (self.mode.is_64() || selector as u8 & 3 > self.cpl) {
            let sp = self.pop(size)?;
            let ss = self.pop(size)? as u16;
            self.leave_to(cs, mode, target, ss, sp, 0)?;
        } else {
            self.rip = target;
            self.cx.set_segment(SegReg::Cs, cs);
        }
        let mut which = POPF | Rflags::RF.bits();
        if descriptors && self.cpl == 0 {
            which |= (Rflags::VIF | Rflags::VIP).bits();
        }
        self.load_flags(image, size, which);
        (self.keep_rf, self.iret) = (true, true);
        Ok(())
    }

    fn iret_to_vm86(&mut self, cs: u16, ip: u64, image: u64) -> Res<()> {
        let sp = self.pop(4)?;
        let mut selectors = [0; 5];
        for s in &mut selectors {
            *s = self.pop(4)? as u16;
        }
        if ip > 0xffff {
            return Err(self.gp());
        }
        self.mode = Mode {
            kind: Kind::Vm86,
            bits: 16,
        };
        let targets = [
            SegReg::Ss,
            SegReg::Es,
            SegReg::Ds,
            SegReg::Fs,
            SegReg::Gs,
            SegReg::Cs,
        ];
        for (seg, selector) in targets.into_iter().zip(selectors.into_iter().chain([cs])) {
            let value = self.segment_by_paragraph(seg, selector);
            self.cx.set_segment(seg, value);
        }
        self.cx.set_cpl(3);
        let which = POPF | (Rflags::RF | Rflags::VM | Rflags::VIF | Rflags::VIP).bits();
        self.flags = image & which | Rflags::ONE.bits();
        self.set_reg(RSP, 4, sp);
        self.rip = ip;
        (self.keep_rf, self.iret) = (true, true);
        Ok(())
    }

    /// INT n, INT3, INTO and INT1: in real mode through the vector table, otherwise reported to the caller.
    pub fn software_interrupt(&mut self) -> Res<()> {
        let (vector, kind) = match self.insn.mnemonic() {
            Mnemonic::Int => (self.insn.immediate8(), SoftInt::Int),
            Mnemonic::Int3 => (3, SoftInt::Exception),
            Mnemonic::Into if !self.flag(Rflags::OF) => return Ok(()),
            Mnemonic::Into => (4, SoftInt::Exception),
            _ => (1, SoftInt::Icebp),
        };
        if self.mode.kind == Kind::Real {
            return self.real_interrupt(vector);
        }
        if kind == SoftInt::Int {
            self.check_vm86_iopl()?;
        }
        self.kind = StepKind::SoftwareInterrupt {
            vector,
            kind,
            len: self.insn.len() as u8,
        };
        self.rip = self.start;
        (self.keep_rf, self.trap) = (true, false);
        Ok(())
    }

    /// LDS, LES, LFS, LGS, LSS.
    pub fn load_far_pointer(&mut self, seg: SegReg) -> Res<()> {
        let (size, skip) = (self.operand_size(0)?, 2);
        let linear = self.memory_at(0, size + skip, Use::Read)?;
        let mut b = [0; 10];
        if let Some(part) = b.get_mut(..size + skip) {
            self.read_bytes(linear, part, AccessKind::Data)?;
        }
        let all = b.iter().rev().fold(0u128, |v, b| v << 8 | u128::from(*b));
        let value = self.load_segment(seg, (all >> (8 * size)) as u16)?;
        self.set_value(0, all as u64)?;
        self.cx.set_segment(seg, value);
        Ok(())
    }
}
