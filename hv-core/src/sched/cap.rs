//! The most that one virtual machine may use: a bucket of tokens.
//!
//! The bucket fills with time, by so many percent of it, and holds what comes in one *window*. A tick of the processor costs a token. When the bucket
//! is empty, the machine waits until a quarter of it is full again, so that it runs for a while then. In any span of time it gets no more than
//! its percentage of that span and of one window.

/// A cap, and what may be used now. Times are in ticks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cap {
    /// Of one processor. 0: there is no cap.
    percent: u32,
    window: u64,
    /// Hundredths of tokens. Below 0: more was used than there was.
    tokens: i64,
    /// When they were counted.
    counted: u64,
    /// The bucket was empty and has to fill again.
    waits: bool,
}

impl Cap {
    /// No cap; one that is set later is for a window of this length.
    pub const fn none(window: u64) -> Self {
        Self {
            percent: 0,
            window,
            tokens: 0,
            counted: 0,
            waits: false,
        }
    }

    /// A full bucket.
    fn full(&self) -> i64 {
        let full = self.window.saturating_mul(self.percent.into());
        i64::try_from(full).unwrap_or(i64::MAX)
    }

    /// What there has to be when the machine may run again.
    fn enough(&self) -> i64 {
        self.full() / 4
    }

    /// Changes the cap. 0: none. A bucket that was there stays as it is, as far as the new one holds it.
    pub fn set(&mut self, percent: u32) {
        let new = self.percent == 0;
        self.percent = percent;
        self.tokens = if new {
            self.full()
        } else {
            self.tokens.min(self.full())
        };
        self.waits &= percent != 0;
    }

    /// The machine has used the processor for `ticks`.
    pub fn charge(&mut self, ticks: u64) {
        if self.percent != 0 {
            let cost = i64::try_from(ticks.saturating_mul(100)).unwrap_or(i64::MAX);
            self.tokens = self.tokens.saturating_sub(cost);
        }
    }

    /// Whether the machine may run at `now`.
    pub fn allows(&mut self, now: u64) -> bool {
        if self.percent == 0 {
            return true;
        }
        let passed = now.saturating_sub(self.counted);
        let more = passed.saturating_mul(self.percent.into());
        let more = i64::try_from(more).unwrap_or(i64::MAX);
        self.tokens = self.tokens.saturating_add(more).min(self.full());
        self.counted = now;
        self.waits = if self.waits {
            self.tokens < self.enough()
        } else {
            self.tokens <= 0
        };
        !self.waits
    }

    /// How long the machine may run from the last count on. None: there is no end.
    pub fn left(&self) -> Option<u64> {
        // The bucket fills while it runs.
        let drain = 100u64.checked_sub(self.percent.into())?;
        let tokens = u64::try_from(self.tokens).unwrap_or(0);
        (self.percent != 0 && drain != 0).then(|| tokens.div_ceil(drain))
    }

    /// When the machine may run again. None: it may already.
    pub fn release(&self) -> Option<u64> {
        let short = u64::try_from(self.enough().saturating_sub(self.tokens)).unwrap_or(0);
        let wait = short.div_ceil(u64::from(self.percent).max(1)).max(1);
        self.waits.then(|| self.counted.saturating_add(wait))
    }
}
