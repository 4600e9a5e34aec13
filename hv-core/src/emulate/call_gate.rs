//! JMP and CALL through a call gate: to the same privilege level, and by CALL to an inner one, with its stack and a copy of the
//! parameters (SDM vol 3A 5.8.3, "Call Gates"; 5.8.4, "Accessing a Code Segment Through a Call Gate"; 5.8.5, "Stack Switching"; vol 2A,
//! "CALL—Call Procedure" and "JMP—Jump", whose order of checks this is).
//!
//! Shadow stacks are not implemented.

use super::Res;
use super::alu::mask;
use super::descriptor::Descriptor;
use super::exec::Exec;
use super::interrupt::{Stack, null_ss, stack_width};
use super::segment::Use;
use super::{AccessKind, EmuCx, Mode};
use crate::event::vector;
use crate::regs::gpr::RSP;
use crate::regs::{SegAttr, SegReg};

/// Descriptor types: a 16-bit call gate, and one of 32 bits or, in long mode, 64.
const CALL_GATE16: u16 = 4;
const CALL_GATE: u16 = 12;

/// A call gate that may be used.
pub(super) struct CallGate {
    selector: u16,
    offset: u64,
    /// The size of what is pushed in bytes: 2, 4 or 8.
    size: usize,
    /// How many parameters of that size are copied.
    parameters: u64,
}

impl CallGate {
    fn new(d: Descriptor, upper: u64, size: usize) -> Self {
        let offset = d.raw & 0xffff | d.raw >> 32 & 0xffff_0000 | upper << 32;
        Self {
            selector: (d.raw >> 16) as u16,
            offset: if size == 2 { offset & 0xffff } else { offset },
            size,
            parameters: if size == 8 { 0 } else { d.raw >> 32 & 0x1f },
        }
    }
}

impl<C: EmuCx + ?Sized> Exec<'_, C> {
    /// The call gate that the selector of a JMP or CALL names, if it does.
    pub fn call_gate(&mut self, selector: u16) -> Res<Option<CallGate>> {
        if !self.mode.has_descriptors() || selector & !3 == 0 {
            return Ok(None);
        }
        let d = self.descriptor(selector)?;
        let size = match (d.system_type(), self.lma()) {
            (Some(CALL_GATE), true) => 8,
            (Some(CALL_GATE), false) => 4,
            (Some(CALL_GATE16), false) => 2,
            _ => return Ok(None),
        };
        let bad = self.selector_fault(vector::GP, selector);
        let upper = match size {
            8 => {
                let second = selector.checked_add(8).ok_or(bad)?;
                let second = self.descriptor_or(second, bad)?;
                // Its type tells that it is not a descriptor of its own.
                if second.raw >> 40 & 0x1f != 0 {
                    return Err(bad);
                }
                second.raw & 0xffff_ffff
            }
            _ => 0,
        };
        if d.attr().dpl() < self.cpl.max(selector as u8 & 3) {
            return Err(bad);
        }
        if !d.attr().contains(SegAttr::P) {
            return Err(self.selector_fault(vector::NP, selector));
        }
        Ok(Some(CallGate::new(d, upper, size)))
    }

    /// JMP: to the same privilege level.
    pub fn jmp_through(&mut self, gate: &CallGate) -> Res<()> {
        let (cs, mode, _) = self.gate_code(gate.selector, false, 0)?;
        self.rip = self.check_target(cs, mode, gate.offset)?;
        self.cx.set_segment(SegReg::Cs, cs);
        Ok(())
    }

    /// CALL: to the same privilege level or an inner one.
    pub fn call_through(&mut self, gate: &CallGate) -> Res<()> {
        let (cs, mode, level) = self.gate_code(gate.selector, true, 0)?;
        let inner = level < self.cpl;
        let mut stack = match (inner, mode.is_64()) {
            (true, false) => self.inner_stack(mode, level, 0)?,
            (true, true) => Stack {
                ss: null_ss(level),
                sp: self.inner_rsp(level, 0)?,
                ..self.own_stack(mode, AccessKind::System)
            },
            (false, _) => self.own_stack(mode, AccessKind::Data),
        };
        let target = self.check_target(cs, mode, gate.offset)?;
        let old_cs = self.cx.segment(SegReg::Cs).selector;
        let size = gate.size;
        if inner {
            let old_ss = self.cx.segment(SegReg::Ss).selector;
            self.push_to(&mut stack, size, old_ss.into(), 0)?;
            self.push_to(&mut stack, size, self.reg(RSP), 0)?;
            self.copy_parameters(gate, &mut stack)?;
        }
        self.push_to(&mut stack, size, old_cs.into(), 0)?;
        self.push_to(&mut stack, size, self.rip, 0)?;
        self.rip = target;
        self.set_reg(RSP, stack.width, stack.sp);
        self.cx.set_segment(SegReg::Cs, cs);
        if inner {
            self.cx.set_segment(SegReg::Ss, stack.ss);
            self.cx.set_cpl(level);
        }
        Ok(())
    }

    /// The current stack, as code in `mode` addresses it.
    fn own_stack(&self, mode: Mode, kind: AccessKind) -> Stack {
        let ss = self.cx.segment(SegReg::Ss);
        Stack {
            ss,
            sp: self.reg(RSP),
            width: if mode.is_64() { 8 } else { stack_width(ss) },
            mode,
            selector: 0,
            kind,
        }
    }

    /// Copies the parameters from the current stack, the last one first.
    fn copy_parameters(&mut self, gate: &CallGate, stack: &mut Stack) -> Res<()> {
        let size = gate.size as u64;
        let width = self.stack_size();
        for n in (0..gate.parameters).rev() {
            let at = self.reg(RSP).wrapping_add(n * size) & mask(width);
            let linear = self.linear(SegReg::Ss, at, size, Use::Read)?;
            let value = self.read(linear, gate.size, AccessKind::Data)?;
            self.push_to(stack, gate.size, value, 0)?;
        }
        Ok(())
    }
}
