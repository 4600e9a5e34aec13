//! Which virtual CPUs of a VM have to flush their TLBs, and from when on nobody remembers what was given up.
//!
//! A CPU may remember any entry of the tables that Umbra makes for the guest (SDM vol 3A 4.10, "Caching Translation Information"; APM
//! vol 2 15.16, "TLB Control"). Once an entry has lost a right or is gone, all CPUs of the VM have to forget it. Each such change begins
//! a *generation*. A CPU acknowledges the generation when it asks for its root, on its way into the guest; if one has begun since it last
//! did, it flushes. So a CPU outside the guest needs no message: it cannot use what it remembers before it has flushed. A CPU in the
//! guest has to be kicked, and has acknowledged when it is out.
//!
//! What was given up (a page table, a frame) in generation *n* is used again only when [`Flushes::settled`] is *n* or more: then every CPU in the
//! guest has flushed since. That is the whole protocol:
//!
//! ```text
//! CPU      acknowledge ─► enter ─► (in the guest) ─► leave        enter fails if it has to flush again: back to acknowledge
//! changer  change entries ─► require ─► kick whoever is behind, and wait until it has left ─► what was given up is free
//! ```
//!
//! All steps happen under the lock of the VM's MMU.

use crate::mmu::TlbFlush;

/// The most virtual CPUs that a VM can have.
pub const MAX_CPUS: usize = 32;

/// A set of virtual CPUs: one bit each.
pub type CpuSet = u32;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Cpu {
    /// The last generation that it has flushed for; 0 if it has to flush in any case.
    acknowledged: u64,
    /// It executes the guest, or is about to.
    inside: bool,
}

/// What the CPUs of a VM have to flush.
#[derive(Clone, Debug)]
pub struct Flushes {
    /// Counts every reason to ask for the root.
    generation: u64,
    /// The last generation that all CPUs have to flush for.
    required: u64,
    cpus: [Cpu; MAX_CPUS],
}

impl Default for Flushes {
    fn default() -> Self {
        Self::new()
    }
}

impl Flushes {
    /// Every CPU is outside the guest, and has to flush before it first enters.
    #[must_use]
    pub const fn new() -> Self {
        const OUTSIDE: Cpu = Cpu {
            acknowledged: 0,
            inside: false,
        };
        Self {
            generation: 1,
            required: 1,
            cpus: [OUTSIDE; MAX_CPUS],
        }
    }

    /// Changes whenever a CPU has to flush. Never 0.
    #[inline]
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// All CPUs have to flush: an entry has lost a right, or is gone. What is given up with it belongs to the generation that is returned.
    #[inline]
    pub const fn require(&mut self) -> u64 {
        self.generation += 1;
        self.required = self.generation;
        self.required
    }

    /// CPU `cpu` has to flush: it uses other tables, or the guest has asked it to.
    #[inline]
    pub const fn require_of(&mut self, cpu: usize) {
        self.generation += 1;
        self.cpus[cpu].acknowledged = 0;
    }

    /// CPU `cpu`, which is outside the guest, is about to enter it, and flushes then if this says so.
    #[inline]
    pub const fn acknowledge(&mut self, cpu: usize) -> TlbFlush {
        let cpu = &mut self.cpus[cpu];
        let behind = cpu.acknowledged < self.required;
        cpu.acknowledged = self.generation;
        if behind {
            TlbFlush::Guest
        } else {
            TlbFlush::None
        }
    }

    /// CPU `cpu` enters the guest. False: it has to flush, since it last acknowledged, and must not.
    #[must_use]
    pub const fn enter(&mut self, cpu: usize) -> bool {
        let required = self.required;
        let cpu = &mut self.cpus[cpu];
        cpu.inside = cpu.acknowledged >= required;
        cpu.inside
    }

    /// CPU `cpu` is outside the guest.
    pub const fn leave(&mut self, cpu: usize) {
        self.cpus[cpu].inside = false;
    }

    /// The CPUs in the guest that have to flush. To be kicked; they have flushed for all that matters when they have left.
    #[must_use]
    pub fn behind(&self) -> CpuSet {
        let behind = |cpu: &Cpu| cpu.inside && cpu.acknowledged < self.required;
        self.set_of(behind)
    }

    fn set_of(&self, which: impl Fn(&Cpu) -> bool) -> CpuSet {
        let bits = self.cpus.iter().enumerate();
        bits.fold(0, |set, (n, cpu)| set | CpuSet::from(which(cpu)) << n)
    }

    /// The last generation that no CPU in the guest has still to flush for: what was given up in it or before is free.
    #[must_use]
    pub fn settled(&self) -> u64 {
        let inside = self.cpus.iter().filter(|cpu| cpu.inside);
        let oldest = inside.map(|cpu| cpu.acknowledged).min();
        oldest.unwrap_or(self.generation)
    }
}
