//! Entering the guest: what is decided before, and what is noted of the exit.

use super::{Activity, NO_EXIT, Vcpu};
use crate::cpu::{Entry, VcpuBackend};
use crate::event::Injection;
use crate::exit::{ExitReason, VmExit};
use crate::irq::Attention;
use crate::mmu::{Mmu, TlbFlush};
use crate::time::{Clock, VmTime};

/// What is to be done next.
pub(super) enum Next {
    /// Enter the guest.
    Enter(Injection),
    /// The guest has been run in software: look again.
    Again,
    /// Nothing: the guest has halted.
    Idle,
}

impl<B: VcpuBackend, M: Mmu, C: Clock> Vcpu<B, M, C> {
    /// Decides about events, and tells the CPU the task priority.
    #[cold]
    #[inline(never)]
    pub(super) fn prepare(&mut self, attention: Attention) -> Next {
        if attention.contains(Attention::FLUSH) && self.irqs.take_flush() {
            self.reload_paging();
        }
        let waits = self.activity != Activity::Active
            || attention.intersects(Attention::EVENTS)
            || !self.events.is_quiet();
        let injection = if waits {
            match self.injection(attention) {
                Some(i) if !self.cpu.can_inject(&i) && self.run_in_software(&i) => {
                    return Next::Again;
                }
                Some(i) => i,
                None => return Next::Idle,
            }
        } else {
            Injection::default()
        };
        if !self.cpu.can_run() && self.run_in_software(&injection) {
            return Next::Again;
        }
        let attention = self.irqs.attention();
        if self.cpu.has_tpr_shadow() {
            self.cpu
                .set_task_priority(attention.cr8(), attention.threshold());
        }
        if self.observed {
            return self.prepare_observed(attention, injection);
        }
        self.calm = if attention.intersects(Attention::EVENTS | Attention::FLUSH) {
            Attention::UNKNOWN
        } else {
            attention
        };
        Next::Enter(injection)
    }

    /// Runs the guest until it exits, and notes when that was; with an `EVENT`, mostly, or without. None: it has not been entered, since another CPU requests something.
    #[inline(always)]
    pub(super) fn enter<const EVENT: bool>(
        &mut self,
        injection: &Injection,
        deadline: VmTime,
        armed: &mut VmTime,
    ) -> Option<VmExit> {
        let timer = if self.cpu.has_timer() {
            self.clock.ticks_until(deadline, self.now)
        } else {
            if deadline != *armed {
                self.clock.arm(deadline, self.now);
                *armed = deadline;
            }
            u64::MAX
        };
        let mut flush = TlbFlush::None;
        if self.shadow || self.generation != self.vm.generation() {
            flush = self.look_up_root();
        }
        if !self.presence.enter(self.inside) {
            self.turned_back(flush);
            return None;
        }
        let entry = Entry {
            root: self.root,
            flush,
            inject: injection.event,
            irq_window: injection.irq_window,
            nmi_window: injection.nmi_window,
            timer,
        };
        self.account(self.clock.ticks());
        let injected = injection.event.map(|event| (event, self.cpu.rip()));
        let mut exit = match EVENT {
            false => self.cpu.run(&entry),
            true => self.cpu.run_with_event(&entry),
        };
        self.presence.leave();
        let ticks = self.clock.ticks();
        if exit.vectoring.is_some() && self.cpu.vectoring_may_be_stale() {
            self.drop_stale_vectoring(&mut exit, injected);
        }
        self.last = (exit.reason.index(), ticks);
        self.now = self.clock.time(ticks);
        Some(exit)
    }

    /// Something is requested of this CPU, which it has to see to before it enters.
    #[cold]
    #[inline(never)]
    fn turned_back(&mut self, flush: TlbFlush) {
        if flush != TlbFlush::None {
            self.owes_flush = true;
            self.generation = 0;
        }
    }

    /// Runs the guest until it exits, with an event or while somebody looks on, and acts on the exit. A function of its own, so that the usual way
    /// has the exit in registers.
    #[cold]
    #[inline(never)]
    pub(super) fn run_with(&mut self, injection: &Injection, deadline: VmTime, armed: &mut VmTime) {
        let Some(exit) = self.enter::<true>(injection, deadline, armed) else {
            if let Some(event) = injection.event {
                self.put_back(event);
            }
            return;
        };
        self.take_back_eoi();
        self.take_task_priority();
        if let Some(vector) = exit.untaken {
            self.irqs.unacknowledge(vector);
        }
        match self.observed {
            true => self.act_observed(exit),
            false => self.act_apart(&exit),
        }
    }

    /// [`act`](Self::act) in a function of its own, which is made to be fast where [`run_with`](Self::run_with) is made small.
    #[inline(never)]
    pub(super) fn act_apart(&mut self, exit: &VmExit) {
        self.act(*exit);
    }

    /// Tells the interrupt chips of the task priority that the guest has set.
    #[inline(always)]
    pub(super) fn take_task_priority(&mut self) {
        if let Some(cr8) = self.cpu.changed_task_priority() {
            self.irqs.set_cr8(cr8);
            self.calm = Attention::UNKNOWN;
        }
    }

    /// The root of the tables has changed, or may have, or this CPU has to forget what it remembers of them.
    #[inline(never)]
    pub(super) fn look_up_root(&mut self) -> TlbFlush {
        if self.shadow != self.vm.is_shadow() {
            self.follow_paging();
        }
        let mut mmu = self.vm.mmu();
        let (root, flush) = mmu.root(self.index());
        (self.root, self.generation) = (root, mmu.generation());
        let owes = core::mem::take(&mut self.owes_flush);
        if flush != TlbFlush::None || owes {
            self.stats.flushes += u64::from(!owes);
            if self.shadow {
                // Another CPU may have put the fence up or taken it down.
                self.cpu.set_fence(mmu.fence(self.index()));
            }
        }
        if owes { TlbFlush::Guest } else { flush }
    }

    /// Adds the time since the last exit to its reason. Another exit follows.
    #[inline(always)]
    pub(super) fn account(&mut self, ticks: u64) {
        let (reason, since) = self.last;
        if reason < ExitReason::KINDS {
            self.stats.exit(reason, ticks.wrapping_sub(since));
            self.account_accesses(reason);
        }
    }

    /// Adds the accesses to the control structure since the last exit to its reason.
    #[inline(always)]
    fn account_accesses(&mut self, reason: usize) {
        if let Some(now) = self.cpu.accesses() {
            let since = core::mem::replace(&mut self.accesses, now);
            self.stats
                .accesses(reason, (now.0 - since.0, now.1 - since.1));
        }
    }

    /// The last exit has been dealt with, and no entry follows.
    pub(super) fn finish(&mut self, ticks: u64) {
        if self.observed {
            self.end_observed();
        }
        let (reason, since) = self.last;
        if reason < ExitReason::KINDS {
            self.stats.last_exit(reason, ticks.wrapping_sub(since));
            self.account_accesses(reason);
        }
        self.last = NO_EXIT;
    }
}
