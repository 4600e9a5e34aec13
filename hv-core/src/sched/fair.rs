//! Borrowed virtual time (BVT) among some that want one processor.
//!
//! K. J. Duda and D. R. Cheriton, "Borrowed-virtual-time (BVT) scheduling: supporting latency-sensitive threads in a general-purpose
//! scheduler", SOSP 1999. Each contender has an *actual virtual time*, which grows by the time that it uses, divided by its weight. Its
//! *effective virtual time* is that, less its *warp*. The one with the least effective virtual time runs. The *scheduler virtual time* is the
//! least actual virtual time of those that can run; it never goes back.
//!
//! Two rules differ from the paper, where a contender that wakes is set to the scheduler virtual time, and one that runs may always get ahead of the
//! others by the *context switch allowance*. There, one that sleeps often for a short time loses what it had not used, and then waits
//! for a whole allowance, at every second burst: beside one that computes, it gets a few percent in place of half.
//!
//! * One that sleeps keeps what it has not used, up to the *credit*. What is beyond is lost: nobody saves up for a siege.
//! * The allowance is for those that compute, so that they do not change places all the time. Against one that has just woken it is next to nothing, and
//!   grows with what that one has used since: one that wants little gets it at once.

use alloc::vec::Vec;

/// Units of virtual time in a tick, for a contender of weight 1. A tick of one with the greatest weight still counts a few.
const SCALE: i64 = 1 << 16;

/// So many ticks in the virtual time of one of weight 1.
fn in_virtual_time(ticks: u64) -> i64 {
    i64::try_from(ticks)
        .unwrap_or(i64::MAX)
        .saturating_mul(SCALE)
}

/// Limits, in ticks of any clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How far one that computes may get ahead of others that compute.
    pub allowance: u64,
    /// How far one gets ahead of any other, so that a turn is worth its while: no more than the allowance.
    pub turn: u64,
    /// How much of its time one that sleeps keeps.
    pub credit: u64,
    /// What counts of one charge at most: when the clock has leapt since the outer machine stood still, nobody pays for it.
    pub charge: u64,
}

/// One of those that want the processor.
#[derive(Clone, Copy, Debug)]
struct Contender {
    /// Its actual virtual time, less the scheduler's.
    ahead: i64,
    weight: u32,
    /// In ticks.
    warp: u64,
    can_run: bool,
    /// Ticks that it has used since it woke.
    used: u64,
}

impl Contender {
    /// So many ticks of its time in virtual time.
    fn virtually(&self, ticks: u64) -> i64 {
        in_virtual_time(ticks) / i64::from(self.weight)
    }

    /// Its effective virtual time, less the scheduler's actual one.
    fn effective(&self) -> i64 {
        self.ahead.saturating_sub(self.virtually(self.warp))
    }
}

/// Those that want a processor.
#[derive(Clone, Debug)]
pub(super) struct Fair {
    contenders: Vec<Contender>,
    limits: Limits,
    /// How far behind the scheduler virtual time one that sleeps may be: the limit's, for one of mean weight. It is the same for all: whoever has slept
    /// for long comes first.
    credit: i64,
    current: Option<usize>,
}

impl Fair {
    pub const fn new(limits: Limits) -> Self {
        Self {
            contenders: Vec::new(),
            limits,
            credit: 0,
            current: None,
        }
    }

    /// A further contender, of weight 1, which sleeps. Returns its index.
    pub fn add(&mut self) -> usize {
        let index = self.contenders.len();
        self.contenders.push(Contender {
            ahead: 0,
            weight: 1,
            warp: 0,
            can_run: false,
            used: 0,
        });
        self.set(index, 1, 0);
        index
    }

    /// Contender `index` gets this weight, which is not 0, and this warp. What it is ahead or behind stays the same in ticks of its time.
    pub fn set(&mut self, index: usize, weight: u32, warp: u64) {
        if let Some(c) = self.contenders.get_mut(index) {
            let (old, new) = (i128::from(c.weight), i128::from(weight.max(1)));
            c.ahead = i64::try_from(i128::from(c.ahead) * old / new).unwrap_or(i64::MAX);
            c.weight = weight.max(1);
            c.warp = warp;
        }
        let all: i64 = self.contenders.iter().map(|c| i64::from(c.weight)).sum();
        let count = self.contenders.len() as i64;
        self.credit = in_virtual_time(self.limits.credit).saturating_mul(count) / all.max(1);
        self.advance();
    }

    /// Contender `index` can run from now on, or no longer.
    pub fn set_runnable(&mut self, index: usize, can_run: bool) {
        if let Some(c) = self.contenders.get_mut(index)
            && c.can_run != can_run
        {
            (c.can_run, c.used) = (can_run, 0);
            self.advance();
        }
    }

    pub fn is_runnable(&self, index: usize) -> bool {
        self.contenders.get(index).is_some_and(|c| c.can_run)
    }

    pub fn any_runnable(&self) -> bool {
        self.contenders.iter().any(|c| c.can_run)
    }

    /// Contender `index` has used the processor for `ticks`.
    pub fn charge(&mut self, index: usize, ticks: u64) {
        if let Some(c) = self.contenders.get_mut(index) {
            let ticks = ticks.min(self.limits.charge);
            c.used = c.used.saturating_add(ticks);
            c.ahead = c.ahead.saturating_add(c.virtually(ticks));
            self.advance();
        }
    }

    /// Contender `index` loses what it has not used.
    pub fn forfeit(&mut self, index: usize) {
        if let Some(c) = self.contenders.get_mut(index) {
            c.ahead = c.ahead.max(0);
        }
    }

    /// The scheduler virtual time follows those that can run, and those that sleep lose what is beyond the credit.
    fn advance(&mut self) {
        let runnable = self.contenders.iter().filter(|c| c.can_run);
        let passed = runnable.map(|c| c.ahead).min().unwrap_or(0).max(0);
        for c in &mut self.contenders {
            c.ahead = c.ahead.saturating_sub(passed).max(-self.credit);
        }
    }

    /// For how many ticks the one that runs may go on beside `other`, which can run too.
    fn room(&self, current: &Contender, other: &Contender) -> u64 {
        let behind = other.effective().saturating_sub(current.effective());
        let own = i128::from(behind) * i128::from(current.weight) / i128::from(SCALE);
        let Limits {
            turn, allowance, ..
        } = self.limits;
        let allowance = other.used.clamp(turn, allowance);
        u64::try_from(own + i128::from(allowance)).unwrap_or(0)
    }

    /// For how many ticks the one that runs may go on beside all others. None: there are no others.
    pub fn slice(&self) -> Option<u64> {
        let index = self.current?;
        let current = self.contenders.get(index)?;
        let others = (0..).zip(&self.contenders);
        others
            .filter(|&(i, other)| i != index && other.can_run)
            .map(|(_, other)| self.room(current, other))
            .min()
    }

    /// Who runs now. None: nobody can.
    pub fn pick(&mut self) -> Option<usize> {
        let can_run = |&i: &usize| self.contenders.get(i).is_some_and(|c| c.can_run);
        let stays = self.current.filter(can_run);
        let stays = stays.filter(|_| self.slice() != Some(0));
        let least = || {
            let runnable = (0..).zip(&self.contenders).filter(|(_, c)| c.can_run);
            let first = runnable.min_by_key(|(_, c)| (c.effective(), c.used));
            first.map(|(i, _)| i)
        };
        self.current = stays.or_else(least);
        self.current
    }

    /// Who of those that are `free` runs on another processor, and for how many ticks it may go on beside those that then wait, if there are any.
    /// One that was `kept` is preferred while it may still go on.
    pub fn pick_beside(
        &self,
        free: impl Fn(usize) -> bool,
        kept: impl Fn(usize) -> bool,
    ) -> Option<(usize, Option<u64>)> {
        let waiting = || {
            let all = (0..).zip(&self.contenders);
            all.filter(|&(i, c)| c.can_run && free(i))
        };
        let least = |only_kept: bool| {
            let those = waiting().filter(|&(i, _)| !only_kept || kept(i));
            those.min_by_key(|(_, c)| (c.effective(), c.used))
        };
        let slice = |(index, current): (usize, &Contender)| {
            let others = waiting().filter(|&(i, _)| i != index);
            others.map(|(_, other)| self.room(current, other)).min()
        };
        let stays = least(true).filter(|&one| slice(one) != Some(0));
        let chosen = stays.or_else(|| least(false))?;
        Some((chosen.0, slice(chosen)))
    }

    /// Contender `index` goes behind all others that can run.
    pub fn yield_now(&mut self, index: usize) {
        let others = (0..).zip(&self.contenders);
        let others = others.filter(|&(i, other)| i != index && other.can_run);
        let Some(last) = others.map(|(_, other)| other.effective()).max() else {
            return;
        };
        if let Some(c) = self.contenders.get_mut(index) {
            let short = last.saturating_add(1).saturating_sub(c.effective());
            c.ahead = c.ahead.saturating_add(short.max(0));
        }
        self.current = None;
        self.advance();
    }

    /// Contender `index` lends its place to `to`: if that one is ahead, they change places. Both have the same weight and no warp.
    pub fn yield_to(&mut self, index: usize, to: usize) {
        let place = |i: usize| self.contenders.get(i).filter(|c| c.can_run);
        let (Some(from), Some(target)) = (place(index), place(to)) else {
            return;
        };
        let (near, far) = (from.ahead.min(target.ahead), from.ahead.max(target.ahead));
        for (i, ahead) in [(index, far), (to, near)] {
            if let Some(c) = self.contenders.get_mut(i) {
                c.ahead = ahead;
            }
        }
        self.current = Some(to);
    }
}
