//! A virtual CPU under a debugger: its registers and memory from outside, single steps, breakpoints and watchpoints.
//!
//! None of it changes the guest. A single step is one instruction of the [emulator](crate::emulate), so that no trap flag is there to be seen, and
//! PUSHF, SYSCALL, IRET, the shadow of MOV SS, and all else that meets the trap flag, is what it is without a debugger. The event that is due
//! comes first: the step is then its delivery. A breakpoint is no byte in memory and no debug register: the page that it lies in is taken out of the tables that
//! the hardware walks ([`Mmu::watch_page`]), and what the guest does there is done in software, where each instruction's address
//! is looked at. A page with a watchpoint can only be read, and what writes to it is done in software, with a look at the bytes before and after. One that is about
//! reads is not there for the hardware either, and each access of an instruction in software is compared.
//!
//! Addresses are linear, and mean the page that the CPU's own tables lead to. They are looked up again when a CPU has loaded CR3 or changed
//! its mode, and before each entry as long as one leads nowhere. So a breakpoint may be set where there are no tables yet.
//!
//! What the emulator does not have is stepped over by the hardware with the trap flag, while every exception leaves the guest: no such instruction shows the
//! flag.
//!
//! Not seen: what a device reads or writes.

use super::access::is_canonical;
use super::{Activity, Stop, Trouble, Vcpu};
use crate::cpu::VcpuBackend;
use crate::debug::{Breaks, DebugStop, Point, PointKind, Registers, SYSTEM, WIDEST, Why, refused};
use crate::emulate::{self, EmuCx, EmuFault, Intercepted, Mode, Touch, Watch};
use crate::event::{Event, Injection, vector};
use crate::exit::{ExitReason, VmExit};
use crate::irq::Attention;
use crate::mmu::{Access, Mmu, PagingState, View};
use crate::msr::nr;
use crate::regs::{Cr0, Efer, Rflags, SegReg, Segment, SysReg};
use crate::time::Clock;
use crate::{Gpa, Gva};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

/// Instructions in a watched page before interrupts and devices get their turn.
const BATCH: usize = 32;

/// What a debugger wants of a virtual CPU while it runs.
#[derive(Default)]
pub(super) struct Debug {
    /// It executes one instruction.
    pub(super) step: bool,
    points: Vec<Point>,
    /// What else it stops at.
    pub(super) breaks: Breaks,
    /// The paging registers with which they were looked up last.
    seen: Option<PagingState>,
    /// Some of them lead nowhere yet.
    pending: bool,
    /// The pages that are watched for them.
    pages: Vec<(Gpa, View)>,
    /// The last exit, and whether what came of it is still to be told.
    pub(super) last: Option<Why>,
    pub(super) open: bool,
    /// The hardware is to execute one instruction, which the emulator does not have.
    pub(super) by_hardware: bool,
    /// It does so: TF and DR6 as they were before.
    pub(super) entered: Option<(bool, u64)>,
}

impl Debug {
    fn breaks_at(&self, linear: u64) -> bool {
        let here = |p: &Point| p.kind == PointKind::Execute && p.at.0 == linear;
        self.points.iter().any(here)
    }

    /// Whether a breakpoint is in the page of `linear`.
    fn breaks_near(&self, linear: u64) -> bool {
        let near = |p: &Point| p.kind == PointKind::Execute && p.at.page() == Gva(linear).page();
        self.points.iter().any(near)
    }
}

/// Bytes under a watchpoint, and how many are there.
type Bytes = ([u8; WIDEST], usize);

impl<B: VcpuBackend, M: Mmu, C: Clock> Vcpu<B, M, C> {
    /// From the next [`run`](Self::run) on it stops at these points, or after one instruction (`step`).
    pub fn debug(&mut self, step: bool, points: &[Point]) {
        let (last, open) = self
            .debug
            .take()
            .map_or((None, false), |old| (old.last, old.open));
        self.debug = Some(Box::new(Debug {
            step,
            points: points.into(),
            last,
            open,
            ..Debug::default()
        }));
        self.look_on();
        self.cpu.set_paging_exiting(true);
    }

    /// From the next [`run`](Self::run) on it stops at these events; with `step` after one instruction, and at no address.
    pub fn break_at(&mut self, breaks: &Breaks, step: bool) {
        let points = if step { &[][..] } else { &breaks.points };
        self.debug(step, points);
        for &msr in &breaks.msrs {
            self.cpu.set_msr_exiting(msr);
        }
        if let Some(debug) = &mut self.debug {
            debug.breaks = breaks.clone();
        }
    }

    /// Nothing is waited for any more. The debugger is still there.
    pub fn pause_debugging(&mut self) {
        if self.debug.is_some() {
            self.debug(false, &[]);
        }
    }

    /// The guest gets an exception (vectors 0 to 31, 2 is an NMI) as soon as it runs, or an interrupt at once.
    ///
    /// # Errors
    /// A sentence that says why not.
    pub fn inject(&mut self, vector: u8) -> Result<(), String> {
        let no = |why: &str| Err(String::from(why));
        match vector {
            _ if self.activity == Activity::WaitForSipi => no("the CPU has not been started"),
            2 => {
                self.events.signal_nmi();
                Ok(())
            }
            0..32 => {
                let error = matches!(vector, 8 | 10..=14 | 17 | 21).then_some(0);
                self.raise(Event::exception(vector, error));
                Ok(())
            }
            _ if self.events.busy() => no("another event is due"),
            _ if !self.interruptibility().interrupts_enabled => no("RFLAGS.IF is clear"),
            _ if self.interruptibility().shadow => no("it is in the shadow of STI or MOV SS"),
            _ => {
                self.set_activity(Activity::Active);
                let result = self.deliver(&Event::interrupt(vector));
                self.conclude(result);
                Ok(())
            }
        }
    }

    /// No debugger wants anything of it any more. The pages are the [MMU's](Mmu::unwatch_pages) to give back.
    pub fn stop_debugging(&mut self) {
        if self.debug.take().is_some() {
            self.cpu.set_paging_exiting(false);
        }
        self.look_on();
    }

    /// Its registers.
    pub fn registers(&self) -> Registers {
        Registers {
            gprs: *self.cpu.gprs(),
            rip: self.cpu.rip(),
            rflags: self.cpu.rflags(),
            segments: SegReg::ALL.map(|seg| self.cpu.segment(seg)),
            system: SYSTEM.map(|reg| self.cpu.sysreg(reg)),
            cr8: self.irqs.cr8().into(),
            fx: *self.cpu.fx(),
            is_64: Mode::of(self).is_64(),
        }
    }

    /// Sets the registers that differ from what they are.
    ///
    /// # Errors
    /// A sentence that names one that cannot have its value. Those before it have been set.
    pub fn set_registers(&mut self, new: &Registers) -> Result<(), String> {
        let old = self.registers();
        if new.gprs != old.gprs {
            *self.cpu.gprs_mut() = new.gprs;
        }
        for ((&reg, new), old) in SYSTEM.iter().zip(new.system).zip(old.system) {
            if new != old {
                let set = self.set_system(reg, new);
                set.map_err(|_| refused("a system register"))?;
            }
        }
        for ((seg, new), old) in SegReg::ALL.into_iter().zip(new.segments).zip(old.segments) {
            if new != old {
                self.set_segment_from_outside(seg, new, old)?;
            }
        }
        if new.cr8 != old.cr8 {
            if new.cr8 > 15 {
                return Err(refused("CR8"));
            }
            self.irqs.set_cr8(new.cr8 as u8);
        }
        if new.rflags != old.rflags {
            // Whether it is in virtual-8086 mode is a matter of segments too.
            let changed = Rflags::DEFINED - Rflags::VM;
            let kept = old.rflags & !changed.bits();
            self.cpu
                .set_rflags(new.rflags & changed.bits() | kept | Rflags::ONE.bits());
        }
        if new.rip != old.rip {
            let fits = match old.is_64 {
                true => is_canonical(new.rip),
                false => new.rip >> 32 == 0,
            };
            if !fits {
                return Err(refused("RIP"));
            }
            self.cpu.set_rip(new.rip);
        }
        if new.fx != old.fx {
            let bytes = new.fx.saved(true);
            if !self.cpu.fx_mut().restore(&bytes, true) {
                return Err(refused("MXCSR"));
            }
        }
        Ok(())
    }

    fn set_system(&mut self, reg: SysReg, value: u64) -> Result<(), EmuFault> {
        match reg {
            SysReg::Cr0 => self.write_cr(0, value),
            SysReg::Cr3 => self.write_cr(3, value),
            SysReg::Cr4 => self.write_cr(4, value),
            SysReg::Efer => self.write_msr(nr::EFER, value),
            SysReg::Pat => self.write_msr(nr::PAT, value),
            SysReg::Dr6 | SysReg::Dr7 => {
                self.set_debug_register(reg, value);
                Ok(())
            }
            SysReg::Lstar
            | SysReg::Cstar
            | SysReg::KernelGsBase
            | SysReg::SysenterEsp
            | SysReg::SysenterEip
                if !is_canonical(value) =>
            {
                Err(EmuFault::GP0)
            }
            _ => {
                self.cpu.set_sysreg(reg, value);
                Ok(())
            }
        }
    }

    /// Only what a debugger can know the meaning of: the bases of FS and GS, and selectors where they are paragraphs.
    fn set_segment_from_outside(
        &mut self,
        seg: SegReg,
        new: Segment,
        old: Segment,
    ) -> Result<(), String> {
        let only_base = Segment {
            base: old.base,
            ..new
        } == old;
        let is_fs_or_gs = matches!(seg, SegReg::Fs | SegReg::Gs);
        if only_base && is_fs_or_gs && is_canonical(new.base) {
            self.cpu.set_segment(seg, new);
            return Ok(());
        }
        let paragraphs = !Mode::of(self).has_descriptors();
        if paragraphs && new.selector != old.selector && (seg as usize) <= SegReg::Gs as usize {
            self.cpu.set_segment(
                seg,
                Segment {
                    selector: new.selector,
                    base: u64::from(new.selector) << 4,
                    ..old
                },
            );
            return Ok(());
        }
        Err(refused("a segment register"))
    }

    /// Copies the guest's memory at a linear address into `buf`, as far as its tables lead to RAM or ROM; returns how far. Nothing of the guest
    /// changes, no accessed flag either.
    pub fn read_linear(&self, at: Gva, buf: &mut [u8]) -> usize {
        self.each_page(at, buf.len(), |gpa, range| {
            let part = buf.get_mut(range);
            part.is_some_and(|part| self.vm.memory.read(gpa, part).is_ok())
        })
    }

    /// Copies `bytes` into the guest's RAM at a linear address, whatever its tables allow; returns how far.
    pub fn write_linear(&self, at: Gva, bytes: &[u8]) -> usize {
        self.each_page(at, bytes.len(), |gpa, range| {
            let part = bytes.get(range);
            part.is_some_and(|part| self.vm.memory.write(gpa, part).is_ok())
        })
    }

    /// Where `at` leads by the guest's tables, to RAM or elsewhere.
    pub fn look_up(&self, at: Gva) -> Option<Gpa> {
        let state = PagingState {
            // SMAP does not keep a debugger out.
            ac: true,
            ..self.paging_state()
        };
        let is_address = match state.cr0.contains(Cr0::PG) && state.efer.contains(Efer::LMA) {
            true => is_canonical(at.0),
            false => at.0 >> 32 == 0,
        };
        if !is_address {
            return None;
        }
        let mmu = self.vm.mmu();
        let gpa = mmu.peek(&*self.vm.memory, &state, at, Access::default());
        drop(mmu);
        gpa.map(|gpa| self.decode(gpa))
    }

    /// Its paging registers.
    pub fn paging(&self) -> PagingState {
        self.paging_state()
    }

    /// Calls `f` with each page's part of `[at, at + len)` until it fails; how far it came.
    fn each_page(
        &self,
        at: Gva,
        len: usize,
        mut f: impl FnMut(Gpa, core::ops::Range<usize>) -> bool,
    ) -> usize {
        let mut done = 0;
        while done < len {
            let here = Gva(at.0.wrapping_add(done as u64));
            let n = (len - done).min(0x1000 - here.page_offset() as usize);
            match self.look_up(here) {
                Some(gpa) if f(gpa, done..done + n) => done += n,
                _ => break,
            }
        }
        done
    }

    /// The next instruction is the hardware's, with nothing watched.
    pub(super) fn begin_hardware_step(&mut self) {
        let rflags = self.cpu.rflags();
        let dr6 = self.cpu.sysreg(SysReg::Dr6);
        let Some(debug) = &mut self.debug else { return };
        debug.by_hardware = false;
        debug.entered = Some((rflags & Rflags::TF.bits() != 0, dr6));
        // They are looked up again afterwards.
        debug.seen = None;
        debug.pages.clear();
        self.vm.mmu().unwatch_pages();
        self.cpu.clear_interrupt_shadow();
        self.cpu.set_rflags(rflags | Rflags::TF.bits());
        self.cpu.set_exceptions_exiting(u32::MAX);
    }

    /// The guest has been left. Whether that was because the instruction is done.
    pub(super) fn end_hardware_step(&mut self, exit: &VmExit, trap: bool, dr6: u64) -> bool {
        const BS: u64 = 1 << 14;
        self.cpu.set_exceptions_exiting(0);
        let rflags = self.cpu.rflags();
        let tf = if trap { Rflags::TF.bits() } else { 0 };
        self.cpu.set_rflags(rflags & !Rflags::TF.bits() | tf);
        match exit.reason {
            ExitReason::Exception {
                vector: vector::DB,
                payload,
                ..
            } if payload & BS != 0 => {
                self.cpu.set_sysreg(SysReg::Dr6, dr6);
                if trap {
                    self.trap_single_step();
                }
                if self.debug.as_ref().is_some_and(|debug| debug.step) {
                    self.stop.get_or_insert(Stop::Debug(DebugStop::Step));
                }
                true
            }
            ExitReason::Exception {
                vector: vector::PF,
                payload,
                ..
            } if !self.shadow => {
                self.cpu.set_sysreg(SysReg::Cr2, payload);
                false
            }
            _ => false,
        }
    }

    /// Whether the guest was left because a page is watched.
    pub(super) fn is_watched(&self, exit: &VmExit) -> bool {
        let gpa = match exit.reason {
            ExitReason::NestedFault(fault) if !self.shadow => Some(fault.gpa),
            ExitReason::Exception {
                vector: vector::PF,
                error,
                payload,
                ..
            } if self.shadow && self.cpu.switched_tasks().is_none() => {
                let access = Access {
                    write: error & 2 != 0,
                    user: error & 4 != 0,
                    fetch: error & 16 != 0,
                    implicit: false,
                };
                let state = self.paging_state();
                let mmu = self.vm.mmu();
                mmu.peek(&*self.vm.memory, &state, Gva(payload), access)
            }
            _ => None,
        };
        gpa.is_some_and(|gpa| self.vm.mmu().is_watched(self.decode(gpa)))
    }

    /// The next thing is done in software: the event that is due, or instructions.
    #[cold]
    #[inline(never)]
    pub(super) fn debug_in_software(&mut self, injection: &Injection) {
        let start = self.clock.ticks();
        self.finish(start);
        let step = self.debug.as_ref().is_some_and(|debug| debug.step);
        let result = match injection.event {
            Some(event) => {
                if let Some(debug) = &mut self.debug {
                    debug.by_hardware = false;
                }
                self.deliver(&event)
            }
            None if step => self.instruction(),
            None => self.batch_under_debugger(false),
        };
        self.conclude(result);
        self.take_back_eoi();
        let end = self.clock.ticks();
        (self.now, self.now_is_old) = (self.clock.time(end), false);
        // What the instruction has raised is delivered first.
        let by_hardware = self.debug.as_ref().is_some_and(|debug| debug.by_hardware);
        if step && !by_hardware && !self.events.busy() {
            self.stop.get_or_insert(Stop::Debug(DebugStop::Step));
        }
    }

    /// Executes instructions until a breakpoint, or until something may be due; `near`: only as long as a breakpoint is in their page.
    pub(super) fn batch_under_debugger(&mut self, near: bool) -> Result<(), Trouble> {
        for n in 0..BATCH {
            let linear = self.linear_pc();
            let Some(debug) = &self.debug else {
                return Ok(());
            };
            if debug.breaks_at(linear) {
                self.stop = Some(Stop::Debug(DebugStop::Breakpoint));
                return Ok(());
            }
            // The first is what has left the guest, wherever it lies.
            if n > 0 && near && !debug.breaks_near(linear) {
                return Ok(());
            }
            self.instruction()?;
            if self.debug.as_ref().is_some_and(|debug| debug.by_hardware) {
                return Ok(());
            }
            let device_touched = !self.now_is_old;
            if device_touched
                || self.activity != Activity::Active
                || self.events.busy()
                || self.stop.is_some()
                || self.irqs.attention().intersects(Attention::EVENTS)
            {
                return Ok(());
            }
        }
        Ok(())
    }

    pub(super) fn linear_pc(&self) -> u64 {
        let rip = self.cpu.rip();
        match Mode::of(self).is_64() {
            true => rip,
            false => self.cpu.segment(SegReg::Cs).base.wrapping_add(rip) & 0xffff_ffff,
        }
    }

    /// One instruction, with a look at what is watched.
    fn instruction(&mut self) -> Result<(), Trouble> {
        let watched = self.watched();
        self.now_is_old = true;
        let result = match emulate::length(self, Intercepted::Vmmcall) {
            Ok(Some(_)) => self.hypercall(None),
            _ => self.emulate_or_leave(),
        };
        for (point, before) in watched {
            if self.bytes_at(&point) != before {
                self.stop = Some(Stop::Debug(DebugStop::Watchpoint(point)));
            }
        }
        result
    }

    /// Executes one instruction in software, or leaves it to the hardware.
    fn emulate_or_leave(&mut self) -> Result<(), Trouble> {
        self.stats.emulated += 1;
        let before = self.cpu.rip();
        match self.step() {
            Err(EmuFault::Unsupported(_)) if self.cpu.can_run() => {
                if let Some(debug) = &mut self.debug {
                    debug.by_hardware = true;
                }
                Ok(())
            }
            result => self.emulated(before, result),
        }
    }

    /// The watchpoints, and what is there.
    fn watched(&self) -> Vec<(Point, Bytes)> {
        let points = self.debug.iter().flat_map(|debug| &debug.points);
        points
            .filter(|point| point.kind == PointKind::Write)
            .map(|point| (*point, self.bytes_at(point)))
            .collect()
    }

    /// The points that are about accesses, and what they wait for.
    pub(super) fn access_points(&self) -> Vec<(Point, Watch)> {
        let points = self.debug.iter().flat_map(|debug| &debug.points);
        let watch = |point: &Point| {
            let on = match point.kind {
                PointKind::Read => Touch::READ,
                PointKind::Access => Touch::READ | Touch::WRITE,
                PointKind::Execute | PointKind::Write => return None,
            };
            let (at, len) = (point.at.0, point.len as u64);
            Some((*point, Watch { at, len, on }))
        };
        points.filter_map(watch).collect()
    }

    /// What is at a point, as far as something is there.
    fn bytes_at(&self, point: &Point) -> Bytes {
        let mut bytes = [0; WIDEST];
        let part = bytes.get_mut(..point.len).unwrap_or_default();
        let read = self.read_linear(point.at, part);
        (bytes, read)
    }

    /// Has the pages watched that the points lie in, by this CPU's tables.
    pub(super) fn follow_points(&mut self) {
        let now = PagingState {
            ac: false,
            ..self.paging_state()
        };
        let Some(mut debug) = self.debug.take() else {
            return;
        };
        if debug.seen != Some(now) || debug.pending {
            debug.seen = Some(now);
            debug.pending = false;
            for point in &debug.points {
                let view = match point.kind {
                    PointKind::Execute | PointKind::Read | PointKind::Access => View::Nothing,
                    PointKind::Write => View::ReadOnly,
                };
                let last = point.at.add(point.len.max(1) as u64 - 1);
                for at in [point.at, last] {
                    let Some(page) = self.look_up(at).map(Gpa::page) else {
                        debug.pending = true;
                        continue;
                    };
                    if !debug.pages.contains(&(page, view)) {
                        debug.pages.push((page, view));
                        self.vm.mmu().watch_page(page, view);
                    }
                }
            }
        }
        self.debug = Some(debug);
    }
}
