//! What the host does with a virtual CPU between runs: power-on, turns on its CPUs, pauses, halts.

use super::{Activity, Vcpu};
use crate::VmTime;
use crate::cpu::VcpuBackend;
use crate::event::EventQueue;
use crate::kick::Presence;
use crate::mmu::Mmu;
use crate::msr::MsrStore;
use crate::pveoi::PvEoi;
use crate::pvsteal::StealTime;
use crate::regs::{SysReg, gpr};
use crate::time::Clock;

impl<B: VcpuBackend, M: Mmu, C: Clock> Vcpu<B, M, C> {
    /// Back to the power-on state. The time-stamp counter starts at 0 when the host's has the value `ticks`: the same for all CPUs of a VM.
    pub fn reset(&mut self, ticks: u64) {
        self.set_power_on_state();
        self.cpu
            .set_sysreg(SysReg::TscOffset, 0u64.wrapping_sub(ticks));
        self.msrs = MsrStore::new(self.pvclock.tsc_hz());
        self.pvclock.reset();
        self.pveoi = PvEoi::default();
        self.steal = StealTime::default();
        self.reset_hyperv();
        self.kicked = false;
        self.stop = None;
        self.irqs.reset();
        self.set_timer();
        self.vm.wakeups.set_timer(self.index(), VmTime::NEVER);
        self.set_activity(match self.index {
            0 => Activity::Active,
            _ => Activity::WaitForSipi,
        });
        self.place_local_apic();
    }

    /// What a reset and an INIT have in common.
    pub(super) fn set_power_on_state(&mut self) {
        self.shadow = self.vm.is_shadow();
        self.cpu.set_shadow_paging(self.shadow);
        self.cpu.reset();
        let leaf1 = self.vm.cpuid.leaf1();
        self.cpu.gprs_mut().regs[gpr::RDX] = u64::from(leaf1.eax);
        self.events = EventQueue::default();
        self.reload_paging();
    }

    /// The CPU has halted until `deadline` at most ([`Stop::Idle`](super::Stop::Idle)), and keeps the host's CPU, which `halt` halts until an interrupt comes; it says
    /// whether to wait on. Whoever has something for this CPU interrupts it. Returns whether it is to [run](Self::run) again.
    pub fn wait(&mut self, deadline: VmTime, mut halt: impl FnMut() -> bool) -> bool {
        self.vm.wakeups.set_timer(self.index(), VmTime::NEVER);
        let mut waits = true;
        while waits && self.presence.enter(self.inside) {
            self.clock.arm(deadline, self.now);
            waits = halt();
            self.presence.leave();
            self.resume();
            waits &= self.now < deadline;
        }
        if self.presence.is_requested() || self.now >= deadline {
            return true;
        }
        self.vm.wakeups.set_timer(self.index(), self.timer);
        false
    }

    /// After a pause in which the guest did not run: brings the time up to date.
    pub fn resume(&mut self) {
        self.now = self.clock.time(self.clock.ticks());
        self.now_is_old = false;
    }

    /// CPU `host` of the host's is its from now on; in all, others have had it for `steal` nanoseconds while this one could have run.
    pub fn begin_turn(&mut self, host: usize, steal: u64) {
        self.inside = Presence::inside(host);
        if self.steal.begin(&*self.vm.memory, steal) {
            self.reload_paging();
        }
    }

    /// The host's CPU is its no longer.
    pub fn end_turn(&mut self) {
        self.steal.end(&*self.vm.memory);
    }

    /// Takes `ticks` ticks of the time-stamp counter, during which the guest was paused and which have just passed, out of its time: it
    /// sees neither its clocks nor its time-stamp counter jump.
    pub fn skip(&mut self, ticks: u64) {
        self.clock.skip(ticks);
        let offset = self.cpu.sysreg(SysReg::TscOffset);
        self.cpu
            .set_sysreg(SysReg::TscOffset, offset.wrapping_sub(ticks));
        self.tell_tsc_offset();
    }
}
