//! Delivery of interrupts and exceptions: through the vector table of real mode (SDM vol 3A 21.1.4, "Interrupt and Exception
//! Handling"), and through interrupt and trap gates, to the same or an inner privilege level (SDM vol 3A 6.12.1, "Exception- or
//! Interrupt-Handler Procedures"; 6.14, "Exception and Interrupt Handling in 64-bit Mode"; vol 2A, "INT n/INTO/INT3/INT1—Call to
//! Interrupt Procedure", whose order of checks this is).
//!
//! Task gates lead to a [task switch](super::task). Not implemented: redirection of software interrupts in virtual-8086 mode (VME); shadow stacks.

use super::Res;
use super::alu::mask;
use super::descriptor::Descriptor;
use super::exec::Exec;
use super::segment::{Use, canonical, check_segment};
use super::task::TASK_GATE;
use super::{AccessKind, EmuCx, EmuFault, Kind, Mode, Step};
use crate::event::{Event, EventKind, vector};
use crate::regs::gpr::RSP;
use crate::regs::{Rflags, SegAttr, SegReg, Segment};

/// Bit 0 of an error code: the event came from outside the program.
const EXT: u16 = 1;
/// Bit 1 of an error code: its index is one of the IDT.
const IDT: u16 = 2;

/// Delivers `event` to the guest: the frame is on the stack and the CPU at the handler's first instruction.
///
/// # Errors
/// The fault that the delivery raises, or a kind of gate that is not implemented. The guest's registers have not been changed, unless a task
/// gate has led to another task, whose fault it then is.
pub fn deliver<C: EmuCx + ?Sized>(cx: &mut C, event: &Event) -> Result<Step, EmuFault> {
    let mode = Mode::of(cx);
    let mut exec = Exec::new(cx, mode);
    // Software events return behind the instruction that raised them.
    exec.rip = mode.next_rip(exec.start, event.insn_len.into());
    // Delivery clears TF before a single step of the interrupted instruction could be reported.
    (exec.keep_rf, exec.trap) = (true, false);
    if mode.kind == Kind::Real {
        exec.real_interrupt(event.vector)?;
    } else {
        exec.through_gate(event)?;
    }
    Ok(exec.commit())
}

/// Where the entry of a vector leads.
enum Entry {
    Handler(Gate),
    /// The TSS with this selector.
    Task(u16),
}

/// An interrupt or trap gate.
struct Gate {
    selector: u16,
    offset: u64,
    /// The size of what is pushed in bytes: 2, 4 or 8.
    size: usize,
    /// The interrupt-stack-table entry, 0 for none.
    ist: u8,
    /// An interrupt gate, not a trap gate.
    clears_if: bool,
}

impl Gate {
    /// The gate of descriptor type `kind` whose bytes are `raw` and, with 64-bit offsets, `upper`.
    fn new(raw: u64, upper: u64, kind: u16, size: usize) -> Self {
        let offset = raw & 0xffff | raw >> 32 & 0xffff_0000 | upper << 32;
        Self {
            selector: (raw >> 16) as u16,
            offset: if size == 2 { offset & 0xffff } else { offset },
            size,
            ist: if size == 8 { (raw >> 32 & 7) as u8 } else { 0 },
            clears_if: kind & 1 == 0,
        }
    }
}

/// A stack that a frame is pushed to.
pub(super) struct Stack {
    pub ss: Segment,
    pub sp: u64,
    /// The size of its addresses in bytes.
    pub width: usize,
    /// The mode that the handler runs in, by whose rules the stack is addressed.
    pub mode: Mode,
    /// The error code's selector if the stack has no room.
    pub selector: u16,
    pub kind: AccessKind,
}

/// The size of a stack's addresses in bytes, outside 64-bit mode.
pub(super) fn stack_width(ss: Segment) -> usize {
    if ss.attr.contains(SegAttr::DB) { 4 } else { 2 }
}

/// SS after a change to an inner privilege level in long mode.
pub(super) fn null_ss(level: u8) -> Segment {
    Segment {
        selector: level.into(),
        attr: SegAttr::from_bits_retain(u16::from(level) << 5),
        ..Segment::default()
    }
}

impl<C: EmuCx + ?Sized> Exec<'_, C> {
    /// Delivers a vector in real mode.
    pub fn real_interrupt(&mut self, vector: u8) -> Res<()> {
        let table = self.cx.segment(SegReg::Idtr);
        let entry = u64::from(vector) * 4;
        if entry + 3 > u64::from(table.limit) {
            return Err(self.gp());
        }
        let handler = self.read(self.table_address(table.base, entry), 4, AccessKind::System)?;
        // Delivery clears TF before a single step of the interrupting instruction could be reported.
        self.trap = false;
        self.push(2, self.flags)?;
        self.push(2, self.cx.segment(SegReg::Cs).selector.into())?;
        self.push(2, self.rip)?;
        self.flags &= !(Rflags::IF | Rflags::TF | Rflags::AC).bits();
        let cs = self.segment_by_paragraph(SegReg::Cs, (handler >> 16) as u16);
        self.rip = self.check_target(cs, self.mode, handler & 0xffff)?;
        self.cx.set_segment(SegReg::Cs, cs);
        Ok(())
    }

    /// Delivers an event through its gate in the IDT.
    fn through_gate(&mut self, event: &Event) -> Res<()> {
        // INT1 is not among those whose privilege is checked against the gate's.
        let software = matches!(
            event.kind,
            EventKind::SoftwareInterrupt | EventKind::SoftwareException
        );
        let ext = if software { 0 } else { EXT };
        let gate = match self.gate(event.vector, software, ext)? {
            Entry::Handler(gate) => gate,
            Entry::Task(selector) => {
                let flags = self.flags | resume_flag(event);
                return self.interrupt_to_task(selector, flags, event.error, ext);
            }
        };
        let (cs, mode, level) = self.gate_code(gate.selector, true, ext)?;
        if !mode.is_64() && gate.offset > u64::from(cs.limit) {
            return Err(self.fault(vector::GP, ext));
        }
        if mode.is_64() && !canonical(&*self.cx, gate.offset) {
            return Err(self.fault(vector::GP, ext));
        }
        let inner = level < self.cpl;
        let from_vm86 = self.mode.kind == Kind::Vm86;
        let mut stack = self.handler_stack(&gate, mode, level, ext)?;
        let size = gate.size;
        if from_vm86 {
            for seg in [SegReg::Gs, SegReg::Fs, SegReg::Ds, SegReg::Es] {
                let selector = self.cx.segment(seg).selector;
                self.push_to(&mut stack, size, selector.into(), ext)?;
            }
        }
        if inner || mode.is_64() {
            let ss = self.cx.segment(SegReg::Ss).selector;
            self.push_to(&mut stack, size, ss.into(), ext)?;
            self.push_to(&mut stack, size, self.reg(RSP), ext)?;
        }
        let back = [
            self.flags | resume_flag(event),
            self.cx.segment(SegReg::Cs).selector.into(),
            self.rip,
        ];
        for value in back {
            self.push_to(&mut stack, size, value, ext)?;
        }
        if let Some(code) = event.error {
            self.push_to(&mut stack, size, code.into(), ext)?;
        }
        self.enter_handler(&gate, cs, level, &stack);
        Ok(())
    }

    /// Reads and checks the gate of `vector`.
    fn gate(&mut self, vector: u8, software: bool, ext: u16) -> Res<Entry> {
        let error = u16::from(vector) << 3 | IDT | ext;
        let table = self.cx.segment(SegReg::Idtr);
        let len = if self.lma() { 16 } else { 8 };
        let at = u64::from(vector) * len;
        if at + len - 1 > u64::from(table.limit) {
            return Err(self.fault(vector::GP, error));
        }
        let linear = self.table_address(table.base, at);
        let raw = self.read(linear, 8, AccessKind::System)?;
        let upper = match self.lma() {
            true => self.read(linear.wrapping_add(8), 4, AccessKind::System)?,
            false => 0,
        };
        let descriptor = Descriptor { raw, linear };
        let handler = |kind, size| Entry::Handler(Gate::new(raw, upper, kind, size));
        let entry = match (descriptor.system_type(), self.lma()) {
            (Some(TASK_GATE), false) => Entry::Task((raw >> 16) as u16),
            (Some(kind @ (6 | 7)), false) => handler(kind, 2),
            (Some(kind @ (14 | 15)), false) => handler(kind, 4),
            (Some(kind @ (14 | 15)), true) => handler(kind, 8),
            _ => return Err(self.fault(vector::GP, error)),
        };
        if software && descriptor.attr().dpl() < self.cpl {
            return Err(self.fault(vector::GP, error));
        }
        if !descriptor.attr().contains(SegAttr::P) {
            return Err(self.fault(vector::NP, error));
        }
        Ok(entry)
    }

    /// The code segment that a gate leads to, its mode and its privilege level, which may be an `inner` one.
    pub(super) fn gate_code(
        &mut self,
        selector: u16,
        inner: bool,
        ext: u16,
    ) -> Res<(Segment, Mode, u8)> {
        if selector & !3 == 0 {
            return Err(self.fault(vector::GP, ext));
        }
        let bad = self.fault(vector::GP, selector & !3 | ext);
        let d = self.descriptor_or(selector, bad)?;
        let attr = d.attr();
        let long = self.lma() && attr.contains(SegAttr::L) && !attr.contains(SegAttr::DB);
        let code = attr.contains(SegAttr::S | SegAttr::CODE);
        if !code || attr.dpl() > self.cpl || (self.lma() && !long) {
            return Err(bad);
        }
        let level = match attr.contains(SegAttr::DC) {
            true => self.cpl,
            false => attr.dpl(),
        };
        if level != self.cpl && !inner {
            return Err(bad);
        }
        if !attr.contains(SegAttr::P) {
            return Err(self.fault(vector::NP, selector & !3 | ext));
        }
        if self.mode.kind == Kind::Vm86 && level != 0 {
            return Err(bad);
        }
        let cs = self
            .mark_accessed(d)?
            .segment(selector & !3 | u16::from(level));
        Ok((cs, self.code_mode(attr), level))
    }

    /// The stack of a handler at `level`: the current one, or an inner one from the task-state segment.
    fn handler_stack(&mut self, gate: &Gate, mode: Mode, level: u8, ext: u16) -> Res<Stack> {
        let inner = level < self.cpl;
        let old = self.cx.segment(SegReg::Ss);
        let kind = if inner {
            AccessKind::System
        } else {
            AccessKind::Data
        };
        if mode.is_64() {
            let sp = match (gate.ist, inner) {
                (0, false) => self.reg(RSP),
                (0, true) => self.inner_rsp(level, ext)?,
                (ist, _) => self.task_state(28 + 8 * u64::from(ist), 8, ext)?,
            };
            return Ok(Stack {
                ss: if inner { null_ss(level) } else { old },
                // The CPU aligns the frame.
                sp: sp & !15,
                width: 8,
                mode,
                selector: 0,
                kind,
            });
        }
        match inner {
            true => self.inner_stack(mode, level, ext),
            false => Ok(Stack {
                selector: 0,
                ss: old,
                sp: self.reg(RSP),
                width: stack_width(old),
                mode,
                kind,
            }),
        }
    }

    /// The stack of an inner privilege level outside long mode, from the task-state segment.
    pub(super) fn inner_stack(&mut self, mode: Mode, level: u8, ext: u16) -> Res<Stack> {
        let wide = self.cx.segment(SegReg::Tr).attr.bits() & 8 != 0;
        let (at, size) = match wide {
            true => (4 + 8 * u64::from(level), 4),
            false => (2 + 4 * u64::from(level), 2),
        };
        let sp = self.task_state(at, size, ext)?;
        let selector = self.task_state(at + size as u64, 2, ext)? as u16;
        let ss = self.inner_stack_segment(selector, level, ext)?;
        Ok(Stack {
            selector: selector & !3,
            ss,
            sp,
            width: stack_width(ss),
            mode,
            kind: AccessKind::System,
        })
    }

    /// The stack pointer of an inner privilege level in long mode.
    pub(super) fn inner_rsp(&mut self, level: u8, ext: u16) -> Res<u64> {
        self.task_state(4 + 8 * u64::from(level), 8, ext)
    }

    /// Reads the task-state segment; #TS beyond its limit.
    fn task_state(&mut self, at: u64, size: usize, ext: u16) -> Res<u64> {
        let tr = self.cx.segment(SegReg::Tr);
        if at + size as u64 - 1 > u64::from(tr.limit) {
            return Err(self.fault(vector::TS, tr.selector & !3 | ext));
        }
        self.read(self.table_address(tr.base, at), size, AccessKind::System)
    }

    /// The stack segment of an inner privilege level.
    fn inner_stack_segment(&mut self, selector: u16, level: u8, ext: u16) -> Res<Segment> {
        if selector & !3 == 0 {
            return Err(self.fault(vector::TS, ext));
        }
        let bad = self.fault(vector::TS, selector & !3 | ext);
        let d = self.descriptor_or(selector, bad)?;
        let attr = d.attr();
        let data = attr.contains(SegAttr::S | SegAttr::RW) && !attr.contains(SegAttr::CODE);
        if selector as u8 & 3 != level || attr.dpl() != level || !data {
            return Err(bad);
        }
        if !attr.contains(SegAttr::P) {
            return Err(self.fault(vector::SS, selector & !3 | ext));
        }
        Ok(self.mark_accessed(d)?.segment(selector))
    }

    pub(super) fn push_to(
        &mut self,
        stack: &mut Stack,
        size: usize,
        value: u64,
        ext: u16,
    ) -> Res<()> {
        let sp = stack.sp.wrapping_sub(size as u64) & mask(stack.width);
        let (mode, ss) = (stack.mode, stack.ss);
        let linear = check_segment(&*self.cx, mode, SegReg::Ss, ss, sp, size as u64, Use::Write)
            .ok_or_else(|| self.fault(vector::SS, stack.selector | ext))?;
        self.write(linear, size, value, stack.kind)?;
        stack.sp = sp;
        Ok(())
    }

    /// Nothing fails any more: the handler's registers.
    fn enter_handler(&mut self, gate: &Gate, cs: Segment, level: u8, stack: &Stack) {
        self.set_reg(RSP, stack.width, stack.sp);
        self.rip = gate.offset;
        self.cx.set_segment(SegReg::Cs, cs);
        self.cx.set_segment(SegReg::Ss, stack.ss);
        if self.mode.kind == Kind::Vm86 {
            for seg in [SegReg::Gs, SegReg::Fs, SegReg::Ds, SegReg::Es] {
                self.cx.set_segment(seg, Segment::default());
            }
        }
        if level != self.cpl {
            self.cx.set_cpl(level);
        }
        self.flags &= !(Rflags::TF | Rflags::NT | Rflags::RF | Rflags::VM).bits();
        if gate.clears_if {
            self.flags &= !Rflags::IF.bits();
        }
    }
}

/// What is pushed in RF beyond what is there.
fn resume_flag(event: &Event) -> u64 {
    if event.is_fault() {
        Rflags::RF.bits()
    } else {
        0
    }
}
