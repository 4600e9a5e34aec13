//! Virtual time. Devices never ask for the time: they are told it ([`DevCx::now`](crate::device::DevCx)) and answer with
//! the moment at which they next want to be called.

use core::ops::{Add, Sub};

/// A moment of a VM's time, or a span of it, in nanoseconds since the VM was created.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct VmTime(pub u64);

impl VmTime {
    /// The end of time: a deadline that never comes.
    pub const NEVER: VmTime = VmTime(u64::MAX);

    /// A span of `us` microseconds.
    #[must_use]
    pub const fn from_micros(us: u64) -> Self {
        Self(us * 1_000)
    }

    /// A span of `ms` milliseconds.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms * 1_000_000)
    }

    /// How many whole ticks of a clock of `hz` hertz fit into this span. Exact for any span.
    #[must_use]
    pub const fn ticks(self, hz: u64) -> u64 {
        (self.0 as u128 * hz as u128 / 1_000_000_000) as u64
    }

    /// The first moment at which `ticks` ticks of a clock of `hz` hertz have passed (rounded up, saturating).
    #[must_use]
    pub const fn of_ticks(ticks: u64, hz: u64) -> Self {
        let ns = (ticks as u128 * 1_000_000_000).div_ceil(hz as u128);
        if ns > u64::MAX as u128 {
            Self::NEVER
        } else {
            Self(ns as u64)
        }
    }
}

impl Add for VmTime {
    type Output = VmTime;
    fn add(self, rhs: VmTime) -> VmTime {
        VmTime(self.0.saturating_add(rhs.0))
    }
}

impl Sub for VmTime {
    type Output = VmTime;
    fn sub(self, rhs: VmTime) -> VmTime {
        VmTime(self.0.saturating_sub(rhs.0))
    }
}

/// The host's clock as the run loop uses it.
pub trait Clock: Send {
    /// The time-stamp counter.
    fn ticks(&self) -> u64;
    /// The time-stamp counter at the VM's time 0.
    fn origin(&self) -> u64 {
        0
    }
    /// The VM's time at a value of the time-stamp counter.
    fn time(&self, ticks: u64) -> VmTime;
    /// How many ticks of the time-stamp counter pass until `deadline`, rounded up; `u64::MAX` if it never comes.
    fn ticks_until(&self, deadline: VmTime, now: VmTime) -> u64;
    /// The VM's time stands still for `ticks` ticks of the time-stamp counter, which have just passed.
    fn skip(&mut self, ticks: u64);
    /// Makes a host interrupt leave the guest at `deadline`; cheap if that is what was armed last.
    fn arm(&mut self, deadline: VmTime, now: VmTime);
}

#[cfg(test)]
mod tests {
    use super::VmTime;

    #[test]
    fn ticks_and_back_never_come_early() {
        for hz in [1, 32_768, 1_193_182, 3_579_545, 1_000_000_000] {
            for t in [0, 1, 7, 1_000, 123_456_789] {
                assert_eq!(VmTime::of_ticks(t, hz).ticks(hz), t, "{t} ticks at {hz} Hz");
            }
        }
    }
}
