//! Events of the guest: which one is injected, and what becomes of one that was not delivered.

use super::{Activity, Stop, Trouble, Vcpu};
use crate::cpu::VcpuBackend;
use crate::emulate::{self, Intercepted, Step};
use crate::event::{Event, EventKind, Injection, Interruptibility, TripleFault, vector};
use crate::exit::{ExitReason, VmExit};
use crate::irq::Attention;
use crate::mmu::Mmu;
use crate::regs::Rflags;
use crate::sentence::sentence;
use crate::time::Clock;

/// DR6.BS: a single step.
const BS: u64 = 1 << 14;

impl<B: VcpuBackend, M: Mmu, C: Clock> Vcpu<B, M, C> {
    /// What to inject at the next entry. None: the guest has halted and nothing wakes it.
    #[inline(always)]
    pub(super) fn injection(&mut self, attention: Attention) -> Option<Injection> {
        if attention.intersects(Attention::INIT.union(Attention::START_UP)) {
            self.start_or_stop();
        }
        if attention.contains(Attention::KICK) && self.irqs.take_kick() {
            self.kicked();
        }
        if self.activity == Activity::WaitForSipi {
            return None;
        }
        if attention.contains(Attention::NMI) && self.irqs.take_nmi() {
            self.events.signal_nmi();
        }
        if self.events.nmi_blocked() && self.cpu.nmi_blocked() == Some(false) {
            self.events.nmi_done();
        }
        let pending = attention.contains(Attention::INTERRUPT);
        let state = self.interruptibility();
        if self.activity != Activity::Active {
            let wakes = state.interrupts_enabled || self.activity == Activity::Idle;
            if !(self.events.busy() || self.events.nmi_waiting() || (pending && wakes)) {
                return None;
            }
            self.set_activity(Activity::Active);
        }
        let mut acknowledged = false;
        let injection = self.events.next(state, pending, || {
            acknowledged = true;
            let vector = self.irqs.acknowledge();
            // Another one, from the other chip or with automatic end of interrupt, does not wait for the end of this one.
            (vector, self.irqs.attention().contains(Attention::INTERRUPT))
        });
        if acknowledged
            && let Some(e) = &injection.event
            && self.ends_by_itself(e.vector)
        {
            self.irqs.end_of_interrupt();
        } else if acknowledged && self.pveoi.enabled() && self.may_skip_eoi() {
            self.pveoi.offer(&*self.vm.memory);
        }
        if let Some(e) = &injection.event {
            self.stats.injected[match e.kind {
                EventKind::Exception => 0,
                EventKind::ExternalInterrupt => 1,
                EventKind::Nmi => 2,
                _ => 3,
            }] += 1;
            if e.is_fault() {
                let rflags = self.cpu.rflags();
                self.cpu.set_rflags(rflags | Rflags::RF.bits());
            }
        }
        Some(injection)
    }

    pub(super) fn interruptibility(&self) -> Interruptibility {
        Interruptibility {
            interrupts_enabled: self.cpu.rflags() & Rflags::IF.bits() != 0,
            shadow: self.cpu.interrupt_shadow(),
        }
    }

    /// Where INT n is at RIP, its own event is what was being delivered, unless another was `injected` there, or a fault of it has met a
    /// task gate. The instruction runs again, and a fault of it comes again. For [CPUs that tell the event before
    /// it](VcpuBackend::vectoring_may_be_stale).
    #[cold]
    #[inline(never)]
    pub(super) fn drop_stale_vectoring(
        &mut self,
        exit: &mut VmExit,
        injected: Option<(Event, u64)>,
    ) {
        let Some(event) = exit.vectoring else { return };
        let at_task_gate = exit.reason == ExitReason::TaskSwitch && event.error.is_some();
        if event.kind.is_software() || at_task_gate || Some((event, self.cpu.rip())) == injected {
            return;
        }
        if let Ok(Some(_)) = emulate::length(self, Intercepted::SoftwareInterrupt) {
            exit.vectoring = None;
        }
    }

    /// The event has not been delivered: it waits where it came from.
    #[cold]
    #[inline(never)]
    pub(super) fn put_back(&mut self, event: Event) {
        match event.kind {
            EventKind::ExternalInterrupt => self.irqs.unacknowledge(event.vector),
            _ => self.events.put_back(event),
        }
    }

    /// The event that has been put back has met a fault of the guest's on its way in. It counts as taken, as on a CPU: an interrupt
    /// stays in service, and NMIs stay blocked until the next IRET.
    #[cold]
    #[inline(never)]
    pub(super) fn lose(&mut self, event: Event) {
        match event.kind {
            EventKind::ExternalInterrupt => {
                let _ = self.irqs.acknowledge();
            }
            EventKind::Nmi => {
                self.events.lose_nmi();
                self.cpu.set_nmi_blocked(true);
            }
            // What two exceptions come to, the queue knows; a software event's instruction runs again.
            _ => {}
        }
    }

    /// Notices that the guest has skipped an EOI that it did not need to write.
    #[inline(always)]
    pub(super) fn take_back_eoi(&mut self) {
        if self.pveoi.offered() && self.pveoi.take_back(&*self.vm.memory) {
            self.irqs.end_of_interrupt();
        }
    }

    /// Raises an exception in the guest.
    pub(super) fn raise(&mut self, event: Event) {
        if self.events.raise(event) == Err(TripleFault) {
            self.stop = Some(Stop::TripleFault);
        }
    }

    /// An exception that was intercepted only to keep the CPU from looping goes to the guest as it is. Where the instruction's length
    /// is not known, one that an instruction raised is executed in software.
    #[cold]
    #[inline(never)]
    pub(super) fn reflect(
        &mut self,
        kind: EventKind,
        v: u8,
        error: u32,
        insn_len: u8,
    ) -> Result<(), Trouble> {
        if kind.is_software() {
            return match insn_len {
                0 => self.emulate(),
                insn_len => Err(Trouble::Exception(Event {
                    kind,
                    vector: v,
                    error: None,
                    insn_len,
                })),
            };
        }
        let error = matches!(v, 8 | 10..=14 | 17 | 21).then_some(error);
        if v == vector::MC {
            return Err(Trouble::Fatal(sentence(format_args!(
                "the host reported a machine check while the guest ran"
            ))));
        }
        Err(Trouble::Exception(Event::exception(v, error)))
    }

    /// Raises the debug exception that an instruction or event in software leaves to be raised, if any.
    pub(super) fn trap(&mut self, step: &Step) {
        const BT: u64 = 1 << 15;
        let single_step = if step.single_step { BS } else { 0 };
        let task = if step.task_trap { BT } else { 0 };
        let why = single_step | task | u64::from(step.breakpoints);
        if why != 0 {
            self.debug_trap(why);
        }
    }

    #[cold]
    #[inline(never)]
    pub(super) fn trap_single_step(&mut self) {
        self.debug_trap(BS);
    }

    /// The NMI handler is about to end. Its IRET is executed here, so that the next NMI comes right behind it. A fault of the IRET
    /// ends the blocking too (SDM vol 3A 6.7.1, "Handling Multiple NMIs").
    #[cold]
    #[inline(never)]
    pub(super) fn iret(&mut self) -> Result<(), Trouble> {
        self.events.nmi_done();
        self.emulate()
    }

    /// The NMI handler has ended: the next NMI may come.
    #[cold]
    #[inline(never)]
    pub(super) fn nmi_window(&mut self) -> Result<(), Trouble> {
        self.events.nmi_done();
        Ok(())
    }
}
