//! The hardware task switch: by JMP, CALL and IRET, and through task gates (SDM vol 3A 8.3, "Task Switching"; APM vol 2 12.3,
//! "Hardware Task-Management in Legacy Mode"). There is none in long mode.
//!
//! It has two halves. In the first, all is read and checked, and whatever will be written is tried: a fault is the old task's, and
//! nothing has been changed. In the second, the new task's segment registers are loaded: the CPU is in the new task already, and
//! a fault is the new task's (SDM vol 3A table 8-1, "Exception Conditions Checked During a Task Switch"). Until a segment register is
//! loaded it has its selector, and nothing can be reached through it.
//!
//! Shadow stacks are not implemented.

use super::Res;
use super::descriptor::{BUSY, Descriptor, LDT};
use super::exec::Exec;
use super::segment::{Use, check_segment};
use super::{AccessKind, EmuCx, EmuFault, Kind, Mode, Step};
use crate::event::vector;
use crate::regs::gpr::RSP;
use crate::regs::{Cr0, Rflags, SegAttr, SegReg, Segment, SysReg};

/// A descriptor's type: a task gate.
pub(super) const TASK_GATE: u16 = 5;

/// The flags that a TSS can set.
const FLAGS: u64 = Rflags::DEFINED.bits();

/// Where the previous task link is.
const LINK: u64 = 0;

/// What leads from one task to another.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// JMP: the old task has ended.
    Jump,
    /// CALL, or an event: the old task waits, and the new one links back to it.
    Nested,
    /// IRET: the task that is linked to goes on.
    Return,
}

/// Where a task-state segment has what (SDM vol 3A 8.2.1, "Task-State Segment (TSS)"; 8.6, "16-Bit Task-State Segment (TSS)").
struct Layout {
    /// The size of registers in bytes.
    size: usize,
    /// How many segment registers there are.
    segments: usize,
    ip: u64,
    flags: u64,
    registers: u64,
    selectors: u64,
    ldt: u64,
    /// The smallest limit.
    limit: u32,
}

const WIDE: Layout = Layout {
    size: 4,
    segments: 6,
    ip: 0x20,
    flags: 0x24,
    registers: 0x28,
    selectors: 0x48,
    ldt: 0x60,
    limit: 0x67,
};
const NARROW: Layout = Layout {
    size: 2,
    segments: 4,
    ip: 0x0e,
    flags: 0x10,
    registers: 0x12,
    selectors: 0x22,
    ldt: 0x2a,
    limit: 0x2b,
};
/// CR3, and the debug trap flag, of a 32-bit TSS.
const CR3: u64 = 0x1c;
const TRAP: u64 = 0x64;

impl Layout {
    /// That of a TSS whose descriptor has these attributes.
    const fn of(attr: SegAttr) -> &'static Self {
        if attr.bits() & 8 != 0 { &WIDE } else { &NARROW }
    }

    const fn register(&self, n: usize) -> u64 {
        self.registers + (n * self.size) as u64
    }

    const fn selector(&self, n: usize) -> u64 {
        self.selectors + (n * self.size) as u64
    }
}

/// What a TSS says of its task.
struct State {
    ip: u64,
    flags: u64,
    registers: [u64; 8],
    selectors: [u16; 6],
    ldt: u16,
    /// If it is loaded.
    cr3: Option<u64>,
    trap: bool,
}

/// Whether a descriptor is that of a TSS, and whether it is busy.
fn task(d: Descriptor) -> Option<bool> {
    match d.system_type() {
        Some(1 | 9) => Some(false),
        Some(3 | 11) => Some(true),
        _ => None,
    }
}

/// Completes a task switch of which the CPU has done the first half, and has loaded CR3, but for CR3 itself: `cx` has the old
/// task's. `event`: an event has led to it, with this error code.
///
/// # Errors
/// The fault of the new task.
pub fn complete_task_switch<C: EmuCx + ?Sized>(
    cx: &mut C,
    cr3: u64,
    event: bool,
    error: Option<u32>,
) -> Result<Step, EmuFault> {
    let mode = Mode {
        kind: Kind::Protected { lma: false },
        bits: 32,
    };
    let mut exec = Exec::new(cx, mode);
    let mut tr = exec.cx.segment(SegReg::Tr);
    let layout = Layout::of(tr.attr);
    let state = exec.task_state_of(tr, layout)?;
    tr.attr |= SegAttr::RW;
    exec.cx.set_segment(SegReg::Tr, tr);
    let checked = exec.cx.check_cr3(cr3);
    exec.cx.enter_task(Some(cr3));
    checked?;
    let link = exec.flags & Rflags::NT.bits();
    exec.load_task(&state, layout, link, event.into(), error)?;
    Ok(exec.commit())
}

impl<C: EmuCx + ?Sized> Exec<'_, C> {
    /// The descriptor that the selector of a JMP or CALL names, if it leads to another task.
    pub fn leads_to_task(&mut self, selector: u16) -> Res<Option<Descriptor>> {
        if !self.mode.has_descriptors() || self.lma() || selector & !3 == 0 {
            return Ok(None);
        }
        let d = self.descriptor(selector)?;
        Ok((task(d).is_some() || d.system_type() == Some(TASK_GATE)).then_some(d))
    }

    /// JMP or CALL (`nested`) to a TSS or a task gate (SDM vol 2A, "JMP—Jump", "CALL—Call Procedure").
    pub fn jump_to_task(&mut self, selector: u16, d: Descriptor, nested: bool) -> Res<()> {
        let how = if nested { How::Nested } else { How::Jump };
        let bad = self.selector_fault(vector::GP, selector);
        if d.attr().dpl() < self.cpl.max(selector as u8 & 3) {
            return Err(bad);
        }
        if d.system_type() == Some(TASK_GATE) {
            if !d.attr().contains(SegAttr::P) {
                return Err(self.selector_fault(vector::NP, selector));
            }
            let selector = (d.raw >> 16) as u16;
            let d = self.task_segment(selector, vector::GP, false, 0)?;
            return self.switch_task(selector, d, how, 0, self.flags, None);
        }
        let d = self.task_segment(selector, vector::GP, false, 0)?;
        self.switch_task(selector, d, how, 0, self.flags, None)
    }

    /// An event goes through a task gate, which has been checked, to the TSS that `selector` names. `flags` are those that the old task
    /// will go on with.
    pub fn interrupt_to_task(
        &mut self,
        selector: u16,
        flags: u64,
        error: Option<u32>,
        ext: u16,
    ) -> Res<()> {
        let d = self.task_segment(selector, vector::GP, false, ext)?;
        self.switch_task(selector, d, How::Nested, ext, flags, error)
    }

    /// IRET in a nested task (SDM vol 2A, "IRET/IRETD/IRETQ—Interrupt Return").
    pub fn return_to_task(&mut self) -> Res<()> {
        let tr = self.cx.segment(SegReg::Tr);
        let selector = self.task_value(tr.base, LINK, 2)? as u16;
        let d = self.task_segment(selector, vector::TS, true, 0)?;
        self.iret = true;
        self.switch_task(selector, d, How::Return, 0, self.flags, None)
    }

    /// The descriptor of a TSS in the GDT that is present and `busy`, or not; else `fault`.
    fn task_segment(&mut self, selector: u16, fault: u8, busy: bool, ext: u16) -> Res<Descriptor> {
        let bad = self.fault(fault, selector & !3 | ext);
        if selector & 4 != 0 {
            return Err(bad);
        }
        let d = self.descriptor_or(selector, bad)?;
        if task(d) != Some(busy) {
            return Err(bad);
        }
        if !d.attr().contains(SegAttr::P) {
            return Err(self.fault(vector::NP, selector & !3 | ext));
        }
        Ok(d)
    }

    fn task_value(&mut self, base: u64, at: u64, size: usize) -> Res<u64> {
        self.read(self.table_address(base, at), size, AccessKind::System)
    }

    fn set_task_value(&mut self, base: u64, at: u64, size: usize, value: u64) -> Res<()> {
        let linear = self.table_address(base, at);
        self.write(linear, size, value, AccessKind::System)
    }

    /// Whether the byte can be written: the fault, if not.
    fn try_task_byte(&mut self, base: u64, at: u64) -> Res<()> {
        let linear = self.table_address(base, at);
        self.read(linear, 1, AccessKind::SystemUpdate).map(drop)
    }

    fn switch_task(
        &mut self,
        selector: u16,
        d: Descriptor,
        how: How,
        ext: u16,
        flags: u64,
        error: Option<u32>,
    ) -> Res<()> {
        let old = self.cx.segment(SegReg::Tr);
        let new = d.segment(selector);
        let (from, to) = (Layout::of(old.attr), Layout::of(new.attr));
        if new.limit < to.limit {
            return Err(self.fault(vector::TS, selector & !3 | ext));
        }
        if !old.attr.contains(SegAttr::P) || old.limit < from.limit {
            return Err(self.fault(vector::TS, old.selector & !3 | ext));
        }
        let state = self.task_state_of(new, to)?;
        let table = self.cx.segment(SegReg::Gdtr).base;
        let old_descriptor = u64::from(old.selector & !7);
        for at in [from.ip, from.ldt - 1] {
            self.try_task_byte(old.base, at)?;
        }
        match how {
            How::Nested => {
                self.try_task_byte(new.base, LINK)?;
                self.try_task_byte(new.base, LINK + 1)?;
            }
            How::Jump | How::Return => self.try_task_byte(table, old_descriptor + 5)?,
        }
        if how != How::Return {
            self.try_task_byte(d.linear, 5)?;
        }
        if let Some(cr3) = state.cr3 {
            self.cx.check_cr3(cr3)?;
        }

        // The old task's state, and who waits for whom.
        let nt = Rflags::NT.bits();
        let saved = if how == How::Return {
            flags & !nt
        } else {
            flags
        };
        self.save_task(old, from, saved)?;
        if how == How::Nested {
            self.set_task_value(new.base, LINK, 2, old.selector.into())?;
        } else {
            let at = self.table_address(table, old_descriptor + 5);
            self.update_descriptor_byte(at, 0, BUSY >> 40)?;
        }
        if how != How::Return {
            let at = self.table_address(d.linear, 5);
            self.update_descriptor_byte(at, BUSY >> 40, 0)?;
        }
        let link = if how == How::Nested { nt } else { 0 };
        self.cx.set_segment(
            SegReg::Tr,
            Segment {
                attr: new.attr | SegAttr::RW,
                ..new
            },
        );
        self.cx.enter_task(state.cr3);
        self.load_task(&state, to, link, ext, error)
    }

    /// What the TSS `tr` says.
    fn task_state_of(&mut self, tr: Segment, layout: &Layout) -> Res<State> {
        let Layout { size, .. } = *layout;
        let wide = size == WIDE.size;
        let paging = self.cx.sysreg(SysReg::Cr0) & Cr0::PG.bits() != 0;
        let cr3 = match wide && paging {
            true => Some(self.task_value(tr.base, CR3, 4)?),
            false => None,
        };
        let mut registers = [0; 8];
        for (n, register) in registers.iter_mut().enumerate() {
            // The upper halves, which a 16-bit TSS does not have, are undefined; this is what CPUs leave there.
            let upper = if wide { 0 } else { 0xffff_0000 };
            *register = self.task_value(tr.base, layout.register(n), size)? | upper;
        }
        let mut selectors = [0; 6];
        for (n, s) in selectors.iter_mut().take(layout.segments).enumerate() {
            *s = self.task_value(tr.base, layout.selector(n), 2)? as u16;
        }
        Ok(State {
            ip: self.task_value(tr.base, layout.ip, size)?,
            flags: self.task_value(tr.base, layout.flags, size)? & FLAGS,
            registers,
            selectors,
            ldt: self.task_value(tr.base, layout.ldt, 2)? as u16,
            cr3,
            trap: wide && self.task_value(tr.base, TRAP, 2)? & 1 != 0,
        })
    }

    /// Saves the state of the task that is left in its TSS `tr`.
    fn save_task(&mut self, tr: Segment, layout: &Layout, flags: u64) -> Res<()> {
        let Layout { size, .. } = *layout;
        self.set_task_value(tr.base, layout.ip, size, self.rip)?;
        self.set_task_value(tr.base, layout.flags, size, flags)?;
        for n in 0..8 {
            self.set_task_value(tr.base, layout.register(n), size, self.reg(n))?;
        }
        for (n, seg) in SegReg::ALL.into_iter().take(layout.segments).enumerate() {
            let selector = self.cx.segment(seg).selector;
            self.set_task_value(tr.base, layout.selector(n), 2, selector.into())?;
        }
        Ok(())
    }

    /// The CPU is in the new task. `link`: the flag that tells a nested task.
    fn load_task(
        &mut self,
        state: &State,
        layout: &Layout,
        link: u64,
        ext: u16,
        error: Option<u32>,
    ) -> Res<()> {
        for (n, value) in state.registers.into_iter().enumerate() {
            self.set_reg(n, 4, value);
        }
        self.flags = state.flags | link | Rflags::ONE.bits();
        self.rip = state.ip;
        (self.keep_rf, self.trap) = (true, false);
        *self.cx.gprs_mut() = self.regs;
        self.cx.set_rflags(Rflags::from_bits_retain(self.flags));
        self.cx.set_rip(self.rip);

        let vm86 = self.flag(Rflags::VM);
        self.cpl = match state.selectors {
            _ if vm86 => 3,
            [_, cs, ..] => cs as u8 & 3,
        };
        self.mode = Mode {
            kind: if vm86 {
                Kind::Vm86
            } else {
                Kind::Protected { lma: false }
            },
            bits: 16,
        };
        for (seg, selector) in SegReg::ALL.into_iter().zip(state.selectors) {
            let value = match vm86 {
                true => self.segment_by_paragraph(seg, selector),
                false => not_loaded(seg, selector, self.cpl),
            };
            self.cx.set_segment(seg, value);
        }
        self.cx.set_cpl(self.cpl);
        let nothing = Segment {
            selector: state.ldt,
            ..Segment::default()
        };
        self.cx.set_segment(SegReg::Ldtr, nothing);

        if state.ldt & !3 != 0 {
            let ldt = self.task_ldt(state.ldt, ext)?;
            self.cx.set_segment(SegReg::Ldtr, ldt);
        }
        if !vm86 {
            let [es, cs, ss, ds, fs, gs] = state.selectors;
            let code = self.task_code(cs, ext)?;
            self.cx.set_segment(SegReg::Cs, code);
            self.mode = self.code_mode(code.attr);
            let stack = self.task_stack(ss, ext)?;
            self.cx.set_segment(SegReg::Ss, stack);
            for (seg, selector) in [
                (SegReg::Es, es),
                (SegReg::Ds, ds),
                (SegReg::Fs, fs),
                (SegReg::Gs, gs),
            ] {
                let data = self.task_data(selector, ext)?;
                self.cx.set_segment(seg, data);
            }
        }
        if let Some(code) = error {
            self.push_task_error(layout.size, code, ext)?;
        }
        if self.rip > u64::from(self.cx.segment(SegReg::Cs).limit) {
            return Err(self.fault(vector::GP, ext));
        }
        self.task_trap = state.trap;
        Ok(())
    }

    /// The segment behind a selector in a TSS; #TS beyond the table.
    fn task_descriptor(&mut self, selector: u16, ext: u16) -> Res<Descriptor> {
        let bad = self.fault(vector::TS, selector & !3 | ext);
        self.descriptor_or(selector, bad)
    }

    fn task_ldt(&mut self, selector: u16, ext: u16) -> Res<Segment> {
        let bad = self.fault(vector::TS, selector & !3 | ext);
        if selector & 4 != 0 {
            return Err(bad);
        }
        let d = self.task_descriptor(selector, ext)?;
        if d.system_type() != Some(LDT) || !d.attr().contains(SegAttr::P) {
            return Err(bad);
        }
        Ok(d.segment(selector))
    }

    fn task_code(&mut self, selector: u16, ext: u16) -> Res<Segment> {
        let bad = self.fault(vector::TS, selector & !3 | ext);
        if selector & !3 == 0 {
            return Err(bad);
        }
        let d = self.task_descriptor(selector, ext)?;
        let attr = d.attr();
        let level = match attr.contains(SegAttr::DC) {
            true => attr.dpl() <= self.cpl,
            false => attr.dpl() == self.cpl,
        };
        if !attr.contains(SegAttr::S | SegAttr::CODE) || !level {
            return Err(bad);
        }
        if !attr.contains(SegAttr::P) {
            return Err(self.fault(vector::NP, selector & !3 | ext));
        }
        Ok(self.mark_accessed(d)?.segment(selector))
    }

    fn task_stack(&mut self, selector: u16, ext: u16) -> Res<Segment> {
        let bad = self.fault(vector::TS, selector & !3 | ext);
        if selector & !3 == 0 {
            return Err(bad);
        }
        let d = self.task_descriptor(selector, ext)?;
        let attr = d.attr();
        let data = attr.contains(SegAttr::S | SegAttr::RW) && !attr.contains(SegAttr::CODE);
        if !data || attr.dpl() != self.cpl || selector as u8 & 3 != self.cpl {
            return Err(bad);
        }
        if !attr.contains(SegAttr::P) {
            return Err(self.fault(vector::SS, selector & !3 | ext));
        }
        Ok(self.mark_accessed(d)?.segment(selector))
    }

    fn task_data(&mut self, selector: u16, ext: u16) -> Res<Segment> {
        if selector & !3 == 0 {
            return Ok(Segment {
                selector,
                ..Segment::default()
            });
        }
        let d = self.task_descriptor(selector, ext)?;
        let attr = d.attr();
        let readable = !attr.contains(SegAttr::CODE) || attr.contains(SegAttr::RW);
        let conforming = attr.contains(SegAttr::CODE | SegAttr::DC);
        let reachable = conforming || attr.dpl() >= self.cpl.max(selector as u8 & 3);
        if !attr.contains(SegAttr::S) || !readable || !reachable {
            return Err(self.fault(vector::TS, selector & !3 | ext));
        }
        if !attr.contains(SegAttr::P) {
            return Err(self.fault(vector::NP, selector & !3 | ext));
        }
        Ok(self.mark_accessed(d)?.segment(selector))
    }

    /// Pushes an event's error code to the new task's stack.
    fn push_task_error(&mut self, size: usize, code: u32, ext: u16) -> Res<()> {
        let width = self.stack_size();
        let sp = self.reg(RSP).wrapping_sub(size as u64) & super::alu::mask(width);
        let (mode, ss) = (self.mode, self.cx.segment(SegReg::Ss));
        let linear = check_segment(&*self.cx, mode, SegReg::Ss, ss, sp, size as u64, Use::Write)
            .ok_or_else(|| self.fault(vector::SS, ext))?;
        self.write(linear, size, code.into(), AccessKind::Data)?;
        self.set_sp(width, sp);
        Ok(())
    }
}

/// A segment register of a new task that is still to be loaded. The CPU can raise an exception with it: in CS no code can
/// be executed, and SS has the privilege level.
fn not_loaded(seg: SegReg, selector: u16, cpl: u8) -> Segment {
    let level = SegAttr::from_bits_retain(u16::from(cpl) << 5);
    let attr = match seg {
        SegReg::Cs => {
            level | SegAttr::P | SegAttr::S | SegAttr::CODE | SegAttr::RW | SegAttr::ACCESSED
        }
        SegReg::Ss => level,
        _ => SegAttr::empty(),
    };
    Segment {
        selector,
        attr,
        ..Segment::default()
    }
}
