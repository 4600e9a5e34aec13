//! The guest in software, while the hardware cannot run it in its present state: real mode and odd segments on Intel CPUs
//! without unrestricted guest ([`VcpuBackend::can_run`]); or cannot inject what is due ([`VcpuBackend::can_inject`]).
//!
//! What an entry does with the hardware is done here by the emulator: the event of the entry is delivered, or a batch of
//! instructions executed. Between two batches the run loop goes its usual way, so that devices, interrupts and the caller get
//! their turn. A batch ends early when something may have changed that the run loop has to see: an instruction has touched a
//! device, an exception is due, the guest has halted, or an event that waited can be taken.

use super::{Activity, Stop, Trouble, Vcpu};
use crate::cpu::VcpuBackend;
use crate::emulate::{self, EmuFault, Step};
use crate::event::{Event, EventKind, Injection};
use crate::irq::Attention;
use crate::mmu::Mmu;
use crate::regs::SysReg;
use crate::time::Clock;

/// The most instructions in a batch.
const BATCH: u64 = 64;

/// After so many instructions host interrupts are let in.
const HOST_TURN: u64 = 2048;

impl<B: VcpuBackend, M: Mmu, C: Clock> Vcpu<B, M, C> {
    /// Does in software what the hardware would do between an entry and an exit. False: nothing was done, and the hardware can.
    #[cold]
    #[inline(never)]
    pub(super) fn run_in_software(&mut self, injection: &Injection) -> bool {
        if self.observed {
            self.close_exit(injection.event);
            if self.debug.is_some() {
                self.debug_in_software(injection);
                return true;
            }
        }
        let start = self.clock.ticks();
        self.finish(start);
        let before = self.stats.software_instructions;
        let result = match injection.event {
            Some(event) => self.deliver(&event),
            None => self.batch(injection.irq_window || injection.nmi_window),
        };
        let done = injection.event.is_some() || before != self.stats.software_instructions;
        self.conclude(result);
        self.take_back_eoi();
        let end = self.clock.ticks();
        self.stats.software_ticks += end.wrapping_sub(start);
        (self.now, self.now_is_old) = (self.clock.time(end), false);
        if before / HOST_TURN != self.stats.software_instructions / HOST_TURN && self.stop.is_none()
        {
            self.stop = Some(Stop::HostInterrupt);
        }
        done
    }

    /// Executes instructions; `waiting`: until a waiting event can be taken.
    fn batch(&mut self, waiting: bool) -> Result<(), Trouble> {
        // Where the hardware only cannot inject, it goes on as soon as it can.
        let most = if self.cpu.can_run() { 1 } else { BATCH };
        self.look_at_breakpoints();
        for _ in 0..most {
            self.now_is_old = true;
            let before = self.cpu.rip();
            match self.step_again() {
                Ok(Step::DONE) if !self.cpu.interrupt_shadow() => {
                    self.stats.software_instructions += 1;
                }
                // Just after a mode switch: here the hardware takes over.
                Err(EmuFault::Unsupported(_)) if self.cpu.can_run() => break,
                result => {
                    self.stats.software_instructions += 1;
                    self.emulated(before, result)?;
                    if self.activity != Activity::Active
                        || self.events.busy()
                        || self.stop.is_some()
                    {
                        break;
                    }
                }
            }
            let device_touched = !self.now_is_old;
            if device_touched || (waiting && self.can_take_event()) {
                break;
            }
        }
        Ok(())
    }

    fn can_take_event(&self) -> bool {
        let state = self.interruptibility();
        !state.shadow && (state.interrupts_enabled || self.events.nmi_waiting())
    }

    /// Delivers an event to the guest. Of a fault meanwhile and an exception the double-fault rules make one; an interrupt that
    /// was acknowledged is lost, and an instruction is executed again.
    pub(super) fn deliver(&mut self, event: &Event) -> Result<(), Trouble> {
        let result = emulate::deliver(self, event);
        self.delivered(Some(event), result)
    }

    /// The CPU has done half of a task switch.
    pub(super) fn complete_task_switch(
        &mut self,
        cr3: u64,
        vectoring: Option<Event>,
    ) -> Result<(), Trouble> {
        // The event that has led there has been put back, and is delivered. RFLAGS is the new task's already.
        let event = match vectoring {
            Some(e) if e.kind == EventKind::ExternalInterrupt => {
                self.irqs.acknowledge().map(Event::interrupt)
            }
            Some(_) => self.injection(Attention::NONE).and_then(|i| i.event),
            None => None,
        };
        let error = event.and_then(|e| e.error);
        let result = emulate::complete_task_switch(self, cr3, event.is_some(), error);
        self.delivered(event.as_ref(), result)
    }

    /// What the delivery of an event, or a task switch without one, comes to.
    fn delivered(
        &mut self,
        event: Option<&Event>,
        result: Result<Step, EmuFault>,
    ) -> Result<(), Trouble> {
        let rip = self.cpu.rip();
        let is = |kind| event.is_some_and(|e| e.kind == kind);
        match result {
            Ok(step) => {
                self.cpu.clear_interrupt_shadow();
                if is(EventKind::Nmi) {
                    self.cpu.set_nmi_blocked(true);
                }
                self.trap(&step);
                Ok(())
            }
            Err(fault) => match self.or_undefined(rip, fault) {
                EmuFault::Exception { vector, error, cr2 } => {
                    match event {
                        Some(event) if is(EventKind::Exception) => self.put_back(*event),
                        Some(_) if is(EventKind::Nmi) => self.cpu.set_nmi_blocked(true),
                        _ => {}
                    }
                    if let Some(cr2) = cr2 {
                        self.cpu.set_sysreg(SysReg::Cr2, cr2);
                    }
                    Err(Trouble::Exception(Event::exception(vector, error)))
                }
                _ => {
                    if let Some(event) = event {
                        self.put_back(*event);
                    }
                    Ok(())
                }
            },
        }
    }
}
