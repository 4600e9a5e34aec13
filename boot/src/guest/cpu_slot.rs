//! A virtual CPU as the session schedules it: what the host's CPU holds of it, and how its time passed.

use super::Cpu;
use crate::host::ExtendedState;
use crate::{clock, host_cpu};
use hv_core::VmTime;
use hv_core::cpu::VcpuBackend;
use hv_core::stats::CpuFacts;

/// A virtual CPU, with what the host's CPU holds of it while it is loaded.
pub struct CpuSlot<B: VcpuBackend> {
    /// The virtual CPU.
    pub cpu: Cpu<B>,
    extended: ExtendedState,
    /// Since when it has halted, in ticks of the time-stamp counter, if it has.
    pub halted: Option<u64>,
    /// How long it had halted, likewise, when it woke last.
    halted_ticks: u64,
    /// It has halted, and no interrupt wakes it.
    ignores_interrupts: bool,
    /// Since when it could run and does not, likewise.
    ready: Option<u64>,
    /// How long it could have run while another had the host's CPU, and how often it had to wait so.
    steal: u64,
    waits: u64,
}

impl<B: VcpuBackend> CpuSlot<B> {
    /// A virtual CPU that has not run yet.
    pub fn new(cpu: Cpu<B>, extended: ExtendedState) -> Self {
        Self {
            cpu,
            extended,
            halted: None,
            halted_ticks: 0,
            ignores_interrupts: false,
            ready: None,
            steal: 0,
            waits: 0,
        }
    }

    /// Whether no interrupt of its own can wake it.
    pub fn has_halted_for_ever(&self) -> bool {
        self.halted.is_some() && self.ignores_interrupts
    }

    /// It gets the host's CPU.
    pub fn load(&mut self) {
        self.extended.restore(self.cpu.cpu.xcr0());
        self.cpu.cpu.load();
    }

    /// Another one gets the host's CPU.
    pub fn unload(&mut self) {
        self.cpu.cpu.unload();
        self.extended.save();
    }

    /// Does something with the CPU that takes the hardware. No CPU is loaded, before or after.
    pub fn while_loaded<R>(&mut self, f: impl FnOnce(&mut Cpu<B>) -> R) -> R {
        self.load();
        let result = f(&mut self.cpu);
        self.unload();
        result
    }

    /// The machine is reset when the time-stamp counter is `ticks`. No CPU is loaded.
    pub fn reset(&mut self, ticks: u64) {
        self.load();
        self.extended.reset();
        self.cpu.reset(ticks);
        self.unload();
    }

    /// It has halted, or waits for a start-up message. It is loaded.
    pub fn halt(&mut self) {
        self.halted.get_or_insert_with(clock::ticks);
        self.ignores_interrupts = self.cpu.ignores_interrupts();
        self.ready = None;
    }

    /// It has halted no longer: there may be something to be done.
    pub fn wake(&mut self) {
        if let Some(since) = self.halted.take() {
            let now = clock::ticks();
            self.halted_ticks += now - since;
            self.ready = Some(now);
        }
    }

    /// Its turn begins. It has been loaded.
    pub fn begin_turn(&mut self) {
        if let Some(since) = self.ready.take() {
            self.steal += clock::ticks().saturating_sub(since);
            self.waits += 1;
        }
        let steal = VmTime::of_ticks(self.steal, clock::tsc_hz().max(1));
        self.cpu.begin_turn(host_cpu::current().number, steal.0);
    }

    /// Its turn ended at `now`, though it can go on.
    pub fn preempt(&mut self, now: u64) {
        self.ready = Some(now);
    }

    /// It does not run while its VM does not.
    pub fn stop(&mut self) {
        self.wake();
        self.ready = None;
    }

    /// What it did, and how. `used` is how long it had the host's CPU.
    pub fn facts(&self, used: u64) -> CpuFacts {
        let stats = &self.cpu.stats;
        CpuFacts {
            state: self.cpu.activity().name(),
            exits: stats.exits.iter().sum(),
            used,
            hypervisor: stats.ticks.iter().sum(),
            halted: self.halted_ticks(),
            steal: self.steal,
            waits: self.waits,
            ipis: self.cpu.ipis(),
        }
    }

    /// How long it has halted so far, in ticks of the time-stamp counter.
    fn halted_ticks(&self) -> u64 {
        self.halted_ticks + self.halted.map_or(0, |since| clock::ticks() - since)
    }
}
