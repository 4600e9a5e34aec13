//! Who runs next on a processor: borrowed virtual time (BVT), as Xen had it first.
//!
//! K. J. Duda and D. R. Cheriton, "Borrowed-virtual-time (BVT) scheduling: supporting latency-sensitive threads in a general-purpose
//! scheduler", SOSP 1999. Each virtual machine has an *actual virtual time*, which grows by the processor time that it has used,
//! divided by its weight. The one with the least runs. One that has slept comes back at the *scheduler virtual time*, the least of those
//! that can run: sleeping earns no credit. A running one goes on until it is ahead by the *context switch allowance*, so that two
//! that compute do not change places all the time. Borrowing (the paper's "warp") is not built yet.

use alloc::vec::Vec;

/// One of those that want the processor.
#[derive(Clone, Copy, Debug)]
struct Contender {
    /// Actual virtual time: processor time used, in ticks divided by the weight.
    used: u64,
    weight: u64,
    can_run: bool,
}

/// The scheduler of one processor. Times are in ticks of any clock.
#[derive(Clone, Debug)]
pub struct Scheduler {
    contenders: Vec<Contender>,
    allowance: u64,
    /// Scheduler virtual time, kept for when nobody can run.
    virtual_time: u64,
    current: Option<usize>,
}

impl Scheduler {
    /// A scheduler with nobody to run. `allowance` is how far ahead of the others one may get before it has to make room.
    #[must_use]
    pub const fn new(allowance: u64) -> Self {
        Self {
            contenders: Vec::new(),
            allowance,
            virtual_time: 0,
            current: None,
        }
    }

    /// A further contender, which sleeps, with a weight of 1 or more: one of weight 2 gets twice the time of one of weight 1. Returns its
    /// index.
    pub fn add(&mut self, weight: u32) -> usize {
        self.contenders.push(Contender {
            used: 0,
            weight: u64::from(weight.max(1)),
            can_run: false,
        });
        self.contenders.len() - 1
    }

    /// Contender `index` can run from now on, or no longer.
    pub fn set_runnable(&mut self, index: usize, can_run: bool) {
        let now = self.virtual_time();
        let runs = self.current.and_then(|i| self.contenders.get(i)).copied();
        if let Some(c) = self.contenders.get_mut(index) {
            if can_run && !c.can_run {
                c.used = c.used.max(now);
                // The one that runs makes room for it, unless it is behind.
                if runs.is_some_and(|runs| c.used <= runs.used) {
                    self.current = Some(index);
                }
            }
            c.can_run = can_run;
        }
        self.virtual_time = self.virtual_time();
    }

    /// The least actual virtual time of those that can run.
    fn virtual_time(&self) -> u64 {
        let runnable = self.contenders.iter().filter(|c| c.can_run);
        let least = runnable.map(|c| c.used).min();
        least.map_or(self.virtual_time, |least| least.max(self.virtual_time))
    }

    /// Contender `index` has used the processor for `ticks`.
    pub fn charge(&mut self, index: usize, ticks: u64) {
        if let Some(c) = self.contenders.get_mut(index) {
            c.used += ticks / c.weight;
        }
        self.virtual_time = self.virtual_time();
    }

    /// Who runs now. None: nobody can.
    pub fn pick(&mut self) -> Option<usize> {
        let runnable = |&i: &usize| self.contenders[i].can_run;
        let least = (0..self.contenders.len())
            .filter(runnable)
            .min_by_key(|&i| self.contenders[i].used)?;
        let stays = self
            .current
            .filter(runnable)
            .filter(|&i| self.contenders[i].used <= self.contenders[least].used + self.allowance);
        self.current = Some(stays.unwrap_or(least));
        self.current
    }

    /// How many ticks the one that [`pick`](Self::pick) has chosen may run before another's turn comes. None: there is no other.
    #[must_use]
    pub fn slice(&self) -> Option<u64> {
        let current = self.current?;
        let c = self.contenders.get(current)?;
        let others = (0..).zip(&self.contenders);
        let least = others
            .filter(|&(i, other)| i != current && other.can_run)
            .map(|(_, other)| other.used)
            .min()?;
        Some((least.saturating_add(self.allowance).saturating_sub(c.used) + 1) * c.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    const ALLOWANCE: u64 = 100;

    /// All can run.
    fn scheduler(weights: &[u32]) -> Scheduler {
        let mut s = Scheduler::new(ALLOWANCE);
        for &weight in weights {
            let index = s.add(weight);
            s.set_runnable(index, true);
        }
        s
    }

    /// Lets everybody compute until `until` ticks have passed, and returns what each has used.
    fn run(s: &mut Scheduler, n: usize, until: u64) -> Vec<u64> {
        let mut used = alloc::vec![0; n];
        let mut now = 0;
        while now < until {
            let Some(i) = s.pick() else { break };
            let ticks = s.slice().unwrap_or(until - now).min(until - now);
            used[i] += ticks;
            s.charge(i, ticks);
            now += ticks;
        }
        used
    }

    #[test]
    fn nobody_runs_when_all_sleep() {
        let mut s = Scheduler::new(ALLOWANCE);
        assert_eq!(s.pick(), None);
        let i = s.add(1);
        assert_eq!(s.pick(), None);
        s.set_runnable(i, true);
        assert_eq!((s.pick(), s.slice()), (Some(i), None));
        s.set_runnable(i, false);
        assert_eq!(s.pick(), None);
    }

    #[test]
    fn one_that_wakes_runs_at_once_and_has_earned_no_credit() {
        let mut s = scheduler(&[1, 1]);
        s.set_runnable(1, false);
        assert_eq!(s.pick(), Some(0));
        s.charge(0, 1_000_000);
        s.set_runnable(1, true);
        assert_eq!(s.pick(), Some(1));
        assert_eq!(s.slice(), Some(ALLOWANCE + 1));
        s.charge(1, ALLOWANCE + 1);
        assert_eq!(s.pick(), Some(0));
    }

    #[test]
    fn one_that_keeps_waking_neither_starves_nor_is_starved() {
        let mut s = scheduler(&[1, 1]);
        let mut used = [0u64; 2];
        for _ in 0..10_000 {
            let i = s.pick().unwrap();
            used[i] += 7;
            s.charge(i, 7);
            // The second sleeps and wakes again whenever it has run.
            if i == 1 {
                s.set_runnable(1, false);
                s.set_runnable(1, true);
            }
        }
        assert!(used.iter().all(|&ticks| ticks > 70_000 / 4), "{used:?}");
    }

    #[test]
    fn time_is_shared_by_weight() {
        let mut random = Random::new(1);
        for _ in 0..200 {
            let n = 1 + random.below(5);
            let weights: Vec<u32> = (0..n).map(|_| 1 + random.below(7) as u32).collect();
            let mut s = scheduler(&weights);
            let total: u64 = weights.iter().map(|&w| u64::from(w)).sum();
            let used = run(&mut s, weights.len(), 100_000 * total);
            for (used, &weight) in used.iter().zip(&weights) {
                let fair = 100_000 * u64::from(weight);
                let slack = 2 * (ALLOWANCE + 1) * u64::from(weight) * n;
                assert!(
                    used.abs_diff(fair) <= slack,
                    "{used} for weight {weight} of {weights:?}"
                );
            }
        }
    }

    #[test]
    fn who_is_picked_can_run() {
        let mut random = Random::new(2);
        let mut s = scheduler(&[1, 2, 3, 4]);
        let mut can = [true; 4];
        for _ in 0..20_000 {
            let i = random.below(4) as usize;
            can[i] = random.below(2) == 0;
            s.set_runnable(i, can[i]);
            match s.pick() {
                Some(picked) => {
                    assert!(can[picked]);
                    assert!(s.slice().is_none_or(|slice| slice > 0));
                    s.charge(picked, random.below(1000));
                }
                None => assert!(can.iter().all(|&can| !can)),
            }
        }
    }
}
