//! Somebody looks on: a recorder, a trace, a debugger. Each is told of an exit when the guest has been left, and of what came of it when it is entered again.
//!
//! Nobody is asked on the way of an exit otherwise: while somebody looks on, each entry goes the longer way by [`Vcpu::prepare`], where
//! `observed` is what tells. None of this is `cold`, so that it is made to be fast.

use super::entry::Next;
use super::{Stop, Vcpu};
use crate::cpu::VcpuBackend;
use crate::debug::Seen;
use crate::event::{Event, Injection};
use crate::exit::{ExitReason, VmExit};
use crate::irq::Attention;
use crate::mmu::Mmu;
use crate::record::{Before, Recorder};
use crate::regs::{SysReg, gpr};
use crate::time::Clock;
use crate::trace::{Came, Tracer};
use alloc::boxed::Box;

impl<B: VcpuBackend, M: Mmu, C: Clock> Vcpu<B, M, C> {
    /// Records exits from now on.
    pub fn record(&mut self, recorder: Recorder) {
        self.recorder = Some(Box::new(recorder));
        self.look_on();
    }

    /// What records exits.
    pub fn recorder(&self) -> Option<&Recorder> {
        self.recorder.as_deref()
    }

    /// Traces exits from now on, or no longer. What has been traced before is forgotten.
    pub fn trace(&mut self, tracer: Option<Box<Tracer>>) {
        self.tracer = tracer;
        self.look_on();
    }

    /// What traces exits.
    pub fn tracer(&self) -> Option<&Tracer> {
        self.tracer.as_deref()
    }

    /// See [`tracer`](Self::tracer): to take events.
    pub fn tracer_mut(&mut self) -> Option<&mut Tracer> {
        self.tracer.as_deref_mut()
    }

    /// The last exit since a debugger has come.
    pub fn why(&mut self) -> Option<Seen> {
        self.tell_exit(None);
        self.debug.as_ref()?.last
    }

    /// Notes whether somebody looks on.
    pub(super) fn look_on(&mut self) {
        self.observed = self.recorder.is_some() || self.tracer.is_some() || self.debug.is_some();
    }

    /// The guest is about to go on, and gets this event: nothing more comes of the last exit.
    #[inline(never)]
    pub(super) fn close_exit(&mut self, event: Option<Event>) {
        if let Some(recorder) = &mut self.recorder {
            recorder.end(self.cpu.rip(), self.cpu.gprs());
        }
        if self.tell_exit(event) {
            if let Some(debug) = &mut self.debug {
                debug.open = false;
            }
            if let Some(tracer) = &mut self.tracer {
                tracer.close();
            }
        }
    }

    /// What has come of the last exit so far. Whether anybody wants to know.
    #[inline(never)]
    pub(super) fn tell_exit(&mut self, event: Option<Event>) -> bool {
        let traces = self.tracer.as_ref().is_some_and(|tracer| tracer.is_open());
        let debugs = self.debug.as_ref().is_some_and(|debug| debug.open);
        if !traces && !debugs {
            return false;
        }
        let regs = &self.cpu.gprs().regs;
        let came = Came {
            pc: self.linear_pc(),
            rax: regs[gpr::RAX],
            rdx: regs[gpr::RDX],
            cr3: self.cpu.sysreg(SysReg::Cr3),
            event: event.or(self.events.exception()),
            at: self.clock.time(self.clock.ticks()),
        };
        if let Some(tracer) = &mut self.tracer {
            tracer.tell(&came);
        }
        if debugs
            && let Some(debug) = &mut self.debug
            && let Some(last) = &mut debug.last
        {
            last.came = came;
        }
        true
    }

    /// The last exit has been dealt with, and no entry follows at once.
    #[inline(never)]
    pub(super) fn end_observed(&mut self) {
        if let Some(recorder) = &mut self.recorder {
            recorder.end(self.cpu.rip(), self.cpu.gprs());
        }
        self.tell_exit(None);
    }

    /// Somebody looks on, and the guest is about to be entered.
    #[inline(never)]
    pub(super) fn prepare_observed(&mut self, injection: Injection) -> Next {
        self.calm = Attention::UNKNOWN;
        self.close_exit(injection.event);
        match &self.debug {
            Some(debug) if debug.by_hardware && injection.event.is_none() => {
                self.begin_hardware_step();
                Next::Enter(injection)
            }
            Some(debug) if debug.step => {
                self.debug_in_software(&injection);
                Next::Again
            }
            Some(_) => {
                self.follow_points();
                self.cpu.set_paging_exiting(true);
                Next::Enter(injection)
            }
            None => Next::Enter(injection),
        }
    }

    /// Somebody looks on, and the guest has been left. Whether that is all that there is to be done about the exit.
    #[inline(never)]
    pub(super) fn observe(&mut self, exit: &VmExit) -> bool {
        if let Some(recorder) = &mut self.recorder {
            let before = Before::new(self.cpu.rip(), self.cpu.gprs());
            recorder.begin(self.now, exit, &before);
        }
        if self.tracer.is_none() && self.debug.is_none() {
            return false;
        }
        let seen = self.see(exit);
        if let Some(tracer) = &mut self.tracer {
            tracer.begin(self.index, &seen);
            if tracer.is_filling() {
                self.stop.get_or_insert(Stop::Trace);
            }
        }
        let Some(debug) = &mut self.debug else {
            return false;
        };
        debug.open = true;
        debug.last = Some(seen);
        if let Some((trap, dr6)) = debug.entered.take() {
            return self.end_hardware_step(exit, trap, dr6);
        }
        if !self.is_watched(exit) {
            return false;
        }
        let result = match exit.vectoring {
            Some(event) => {
                self.put_back(event);
                self.in_software(true)
            }
            None => self.batch_under_debugger(true),
        };
        self.conclude(result);
        true
    }

    /// What there is to be seen of an exit.
    #[inline]
    fn see(&self, exit: &VmExit) -> Seen {
        let regs = &self.cpu.gprs().regs;
        let (pc, cr3) = (self.linear_pc(), self.cpu.sysreg(SysReg::Cr3));
        let operand = match exit.reason {
            ExitReason::CrAccess(access) | ExitReason::DrAccess(access) => {
                let gpr = access.gpr.unwrap_or(0);
                regs.get(usize::from(gpr)).copied().unwrap_or(0)
            }
            _ => 0,
        };
        Seen {
            exit: *exit,
            at: self.now,
            pc,
            cpl: self.cpu.cpl(),
            cr3,
            rax: regs[gpr::RAX],
            rcx: regs[gpr::RCX],
            rdx: regs[gpr::RDX],
            operand,
            came: Came {
                pc,
                rax: regs[gpr::RAX],
                rdx: regs[gpr::RDX],
                cr3,
                event: None,
                at: self.now,
            },
        }
    }
}
