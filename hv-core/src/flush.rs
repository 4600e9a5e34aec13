//! Which virtual CPUs of a VM have to flush their TLBs, and from when on nobody remembers what was given up.
//!
//! A CPU may remember any entry of the tables that Umbra makes for the guest (SDM vol 3A 4.10, "Caching Translation Information"; APM
//! vol 2 15.16, "TLB Control"). Once an entry has lost a right or is gone, all CPUs of the VM have to forget it. Each such change begins
//! a *generation*. A CPU acknowledges the generation when it asks for its root, on its way into the guest; if one has begun since it last
//! did, it flushes. With that it is *admitted*: from then on it may enter, leave and enter again without asking. Who is admitted and behind has
//! to be [kicked](crate::kick): then it is out of the guest, and asks again before it enters.
//!
//! What was given up (a page table, a frame) in generation *n* is used again only when [`Flushes::settled`] is *n* or more: then every CPU that is
//! admitted has flushed since. That is the whole protocol:
//!
//! ```text
//! CPU      acknowledge ─► enter ─► (in the guest) ─► leave ─► enter …        once it is kicked: back to acknowledge
//! changer  change entries ─► require ─► kick whoever is admitted and behind, and wait until it is out ─► what was given up is free
//! ```
//!
//! To acknowledge, to change and to kick takes the lock of the VM's MMU. To enter and to leave does not.

use crate::machine;
use crate::mmu::TlbFlush;

/// The most virtual CPUs that a VM can have.
pub const MAX_CPUS: usize = machine::MAX_CPUS as usize;

/// A set of virtual CPUs: one bit each.
pub type CpuSet = u32;

/// Makes virtual CPUs leave the guest.
pub trait Kick: Send + Sync {
    /// Returns when none of these CPUs is in the guest any more. Each of them asks for its root before it enters again.
    fn kick(&self, cpus: CpuSet);
}

/// What the CPUs of a VM have to flush.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Flushes {
    /// Counts every reason to ask for the root.
    generation: u64,
    /// The last generation that all CPUs have to flush for.
    required: u64,
    /// The last generation that each CPU has flushed for; 0 if it has to flush in any case.
    acknowledged: [u64; MAX_CPUS],
    /// Which CPUs may be in the guest.
    admitted: CpuSet,
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
        Self {
            generation: 1,
            required: 1,
            acknowledged: [0; MAX_CPUS],
            admitted: 0,
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
        self.acknowledged[cpu] = 0;
    }

    /// CPU `cpu`, which is outside the guest, may enter it from now on, and flushes then if this says so.
    #[inline]
    pub const fn acknowledge(&mut self, cpu: usize) -> TlbFlush {
        let behind = self.is_behind(cpu);
        self.acknowledged[cpu] = self.generation;
        self.admitted |= 1 << cpu;
        if behind {
            TlbFlush::Guest
        } else {
            TlbFlush::None
        }
    }

    /// CPU `cpu` is outside the guest, and acknowledges before it enters again.
    #[inline]
    pub const fn leave(&mut self, cpu: usize) {
        self.admitted &= !(1 << cpu);
    }

    /// Whether CPU `cpu` may be in the guest, or enter it without asking.
    #[must_use]
    pub const fn is_admitted(&self, cpu: usize) -> bool {
        self.admitted >> cpu & 1 != 0
    }

    const fn is_behind(&self, cpu: usize) -> bool {
        self.acknowledged[cpu] < self.required
    }

    fn admitted(&self) -> impl Iterator<Item = usize> {
        (0..MAX_CPUS).filter(|&cpu| self.is_admitted(cpu))
    }

    /// Returns when no CPU in the guest has anything left to flush: those that may have are kicked, and flush before they enter again. From then on
    /// nobody uses an entry as it was before the last [`require`](Self::require).
    #[inline]
    pub fn shoot_down(&mut self, kick: Option<&dyn Kick>) {
        if self.admitted == 0 {
            return;
        }
        let behind = self.admitted().filter(|&cpu| self.is_behind(cpu));
        let behind = behind.fold(0, |set, cpu| set | 1 << cpu);
        if let Some(kick) = kick
            && behind != 0
        {
            kick.kick(behind);
        }
        self.admitted &= !behind;
    }

    /// The last generation that no CPU in the guest has still to flush for: what was given up in it or before is free.
    #[inline]
    #[must_use]
    pub fn settled(&self) -> u64 {
        if self.admitted == 0 {
            return self.generation;
        }
        let oldest = self.admitted().map(|cpu| self.acknowledged[cpu]).min();
        oldest.unwrap_or(self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const CPUS: usize = 2;
    const PAGES: usize = 2;

    /// What could be done wrong.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Mistake {
        None,
        /// What was given up is free as soon as a flush is required.
        FreedAtOnce,
        /// A CPU that was kicked enters without asking again.
        EntersAnyway,
        /// The first CPU that flushes does so for all.
        OneForAll,
        /// Whoever is kicked stays in the guest.
        KickIsLost,
    }

    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    enum Place {
        Outside,
        /// It is about to enter, and flushes then, or not.
        Ready(bool),
        Inside,
    }

    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    enum Page {
        Free,
        Mapped,
        GivenUp(u64),
    }

    /// One entry that maps a page or nothing, CPUs that remember it, pages that are used again.
    #[derive(Clone, PartialEq, Eq, Hash)]
    struct World {
        flushes: Flushes,
        cpus: [Place; CPUS],
        /// The page that each CPU remembers, and which of the page's lives it remembers.
        tlbs: [Option<(usize, u8)>; CPUS],
        pages: [Page; PAGES],
        lives: [u8; PAGES],
    }

    struct Nobody;
    impl Kick for Nobody {
        fn kick(&self, _cpus: CpuSet) {}
    }

    impl World {
        fn mapped(&self) -> Option<usize> {
            self.pages.iter().position(|&page| page == Page::Mapped)
        }

        /// Everything that can happen next.
        fn next(&self, mistake: Mistake) -> Vec<World> {
            let mut all = Vec::new();
            let mut step = |f: &dyn Fn(&mut World)| {
                let mut world = self.clone();
                f(&mut world);
                all.push(world);
            };
            for cpu in 0..CPUS {
                match self.cpus[cpu] {
                    Place::Outside => {
                        step(&|w| {
                            let flush = w.flushes.acknowledge(cpu) != TlbFlush::None;
                            w.cpus[cpu] = Place::Ready(flush);
                            if flush && mistake == Mistake::OneForAll {
                                for cpu in 0..CPUS {
                                    let _ = w.flushes.acknowledge(cpu);
                                }
                            }
                        });
                        step(&|w| w.flushes.leave(cpu));
                        if self.flushes.is_admitted(cpu) {
                            step(&|w| w.cpus[cpu] = Place::Ready(false));
                        }
                    }
                    Place::Ready(flush) => step(&|w| {
                        let may = w.flushes.is_admitted(cpu);
                        w.cpus[cpu] = Place::Outside;
                        if may || mistake == Mistake::EntersAnyway {
                            w.cpus[cpu] = Place::Inside;
                            w.tlbs[cpu] = w.tlbs[cpu].filter(|_| !flush);
                        }
                    }),
                    Place::Inside => {
                        step(&|w| w.cpus[cpu] = Place::Outside);
                        step(&|w| {
                            let entry = w.mapped().map(|page| (page, w.lives[page]));
                            w.tlbs[cpu] = w.tlbs[cpu].or(entry);
                        });
                    }
                }
                step(&|w| w.flushes.require_of(cpu));
            }
            match self.mapped() {
                Some(page) => step(&|w| w.pages[page] = Page::GivenUp(w.flushes.require())),
                None => {
                    if let Some(page) = self.pages.iter().position(|&page| page == Page::Free) {
                        step(&|w| {
                            w.pages[page] = Page::Mapped;
                            w.lives[page] += 1;
                        });
                    }
                }
            }
            step(&|w| {
                let settled = match mistake {
                    Mistake::FreedAtOnce => w.flushes.generation(),
                    _ => w.flushes.settled(),
                };
                for page in &mut w.pages {
                    if matches!(*page, Page::GivenUp(generation) if generation <= settled) {
                        *page = Page::Free;
                    }
                }
            });
            step(&|w| {
                let before = w.flushes.admitted;
                w.flushes.shoot_down(Some(&Nobody));
                let kicked = before & !w.flushes.admitted;
                for cpu in 0..CPUS {
                    let inside = w.cpus[cpu] == Place::Inside;
                    if kicked >> cpu & 1 != 0 && inside && mistake != Mistake::KickIsLost {
                        w.cpus[cpu] = Place::Outside;
                    }
                }
                // After it nobody may hold anything back.
                assert!(w.flushes.settled() >= w.flushes.required);
            });
            all
        }

        /// Nobody in the guest remembers a page that is free, or an earlier life of one.
        fn is_sound(&self) -> bool {
            (0..CPUS).all(|cpu| {
                self.cpus[cpu] != Place::Inside
                    || self.tlbs[cpu].is_none_or(|(page, life)| {
                        self.pages[page] != Page::Free && self.lives[page] == life
                    })
            })
        }
    }

    /// Walks through all that can happen until so many generations have begun. Returns how many states there are, or None: in one of them a
    /// CPU uses what is no longer there.
    fn walk(mistake: Mistake) -> Option<usize> {
        const GENERATIONS: u64 = 4;
        let start = World {
            flushes: Flushes::new(),
            cpus: [Place::Outside; CPUS],
            tlbs: [None; CPUS],
            pages: [Page::Free; PAGES],
            lives: [0; PAGES],
        };
        let mut seen = HashSet::from([start.clone()]);
        let mut open = vec![start];
        while let Some(world) = open.pop() {
            for next in world.next(mistake) {
                if !next.is_sound() {
                    return None;
                }
                if next.flushes.generation() <= GENERATIONS && seen.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
        Some(seen.len())
    }

    #[test]
    fn in_no_interleaving_is_anything_used_that_was_given_up() {
        let states = walk(Mistake::None);
        assert!(states.is_some_and(|n| n > 1000), "{states:?}");
    }

    #[test]
    fn every_mistake_shows_in_some_interleaving() {
        for mistake in [
            Mistake::FreedAtOnce,
            Mistake::EntersAnyway,
            Mistake::OneForAll,
            Mistake::KickIsLost,
        ] {
            assert_eq!(walk(mistake), None, "{mistake:?}");
        }
    }
}
