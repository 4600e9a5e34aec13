//! Somebody looks on: a recorder, a trace, a debugger. Each is told of an exit when the guest has been left, and of what came of it when it is entered again.
//!
//! Nobody is asked on the way of an exit otherwise: while a recorder or a debugger looks on, each entry goes the longer way by [`Vcpu::prepare`], where
//! `observed` is what tells; and a trace has a run loop of its own ([`Vcpu::run_traced`]). None of this is `cold`, so that it is made to be fast.

use super::entry::Next;
use super::{Stop, Vcpu};
use crate::Gva;
use crate::cpu::VcpuBackend;
use crate::debug::{DebugStop, Seen, Why};
use crate::event::{Event, Injection, vector};
use crate::exit::{ExitReason, VmExit};
use crate::irq::Attention;
use crate::mmu::{Access, Mmu, PfError};
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
    pub fn why(&mut self) -> Option<Why> {
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
        let came = self.came(event.or(self.events.exception()));
        if let Some(tracer) = &mut self.tracer {
            tracer.tell(&came);
        }
        if debugs
            && let Some(debug) = &mut self.debug
            && let Some(last) = &mut debug.last
        {
            last.seen.came = came;
        }
        true
    }

    /// What has come of an exit.
    #[inline(always)]
    fn came(&self, event: Option<Event>) -> Came {
        let regs = &self.cpu.gprs().regs;
        Came {
            pc: self.linear_pc(),
            rax: regs[gpr::RAX],
            rdx: regs[gpr::RDX],
            cr3: self.cpu.sysreg(SysReg::Cr3),
            event,
            at: self.clock.time(self.clock.ticks()),
        }
    }

    /// The guest is about to be entered by the usual way, while exits are traced.
    #[inline(always)]
    pub(super) fn trace_entry(&mut self) {
        let came = self.came(None);
        if let Some(tracer) = &mut self.tracer {
            tracer.tell(&came);
            tracer.close();
        }
    }

    /// The guest has been left, while exits are traced.
    #[inline(always)]
    pub(super) fn trace_exit(&mut self, exit: &VmExit) {
        let Some(mut tracer) = self.tracer.take() else {
            return;
        };
        tracer.begin(self.index, || self.see(exit));
        let fills = tracer.is_filling();
        self.tracer = Some(tracer);
        if fills {
            self.stop.get_or_insert(Stop::Trace);
        }
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
    pub(super) fn prepare_observed(&mut self, attention: Attention, injection: Injection) -> Next {
        // A trace looks on there, too.
        let usual = self.recorder.is_none() && self.debug.is_none();
        let waits = attention.intersects(Attention::EVENTS | Attention::FLUSH);
        self.calm = match usual && !waits {
            true => attention,
            false => Attention::UNKNOWN,
        };
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
            Some(debug) => {
                let page_faults = debug.breaks.page_fault;
                self.follow_points();
                self.cpu.set_paging_exiting(true);
                if page_faults {
                    self.cpu.set_exceptions_exiting(1 << vector::PF);
                }
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
        self.trace_exit(exit);
        if self.debug.is_none() {
            return false;
        }
        let why = self.explain(exit);
        let Some(debug) = &mut self.debug else {
            return false;
        };
        debug.open = true;
        debug.last = Some(why);
        if let Some((trap, dr6)) = debug.entered.take() {
            return self.end_hardware_step(exit, trap, dr6);
        }
        if !self.shadow
            && let ExitReason::Exception {
                vector: vector::PF,
                payload,
                ..
            } = exit.reason
        {
            // It has left the guest in place of loading CR2 (APM vol 2 15.12.15, "#PF (Page Fault)"; SDM vol 3C 28.1, "Architectural State Before a
            // VM Exit").
            self.cpu.set_sysreg(SysReg::Cr2, payload);
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

    /// Somebody looks on, and the guest has been left: acts on the exit.
    #[inline(never)]
    pub(super) fn act_observed(&mut self, exit: VmExit) {
        if !self.observe(&exit) {
            self.act_apart(&exit);
        }
        if let Some(debug) = &self.debug
            && let Some(last) = &debug.last
            && debug.breaks.meets(&last.seen, self.events.exception())
        {
            self.stop.get_or_insert(Stop::Debug(DebugStop::Event));
        }
    }

    /// An exit with the translations that it is about.
    fn explain(&self, exit: &VmExit) -> Why {
        let seen = self.see(exit);
        let (memory, state) = (&*self.vm.memory, self.paging_state());
        let guest = |gva, access| M::trail(memory, &state, Gva(gva), access);
        let shadow = |gva| {
            self.vm
                .mmu()
                .shadow_trail(usize::from(self.index), Gva(gva))
        };
        let (guest, own) = match exit.reason {
            ExitReason::Exception {
                vector: vector::PF,
                error,
                payload,
                ..
            } => {
                let error = PfError::from_bits_retain(error);
                let access = Access {
                    write: error.contains(PfError::W),
                    fetch: error.contains(PfError::I),
                    user: error.contains(PfError::U),
                    implicit: false,
                };
                (guest(payload, access), shadow(payload))
            }
            ExitReason::Invlpg(Some(address)) => {
                (guest(address.0, Access::default()), shadow(address.0))
            }
            ExitReason::NestedFault(fault) => {
                let fetch = Access {
                    fetch: true,
                    user: seen.cpl == 3,
                    ..Access::default()
                };
                let code = (fault.fetch && !fault.table_walk).then(|| guest(seen.pc, fetch));
                (code.flatten(), self.vm.mmu().nested_trail(fault.gpa))
            }
            _ => (None, None),
        };
        Why { seen, guest, own }
    }

    /// What there is to be seen of an exit.
    #[inline(always)]
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
