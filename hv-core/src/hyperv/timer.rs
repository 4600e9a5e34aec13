//! The four synthetic timers of one virtual CPU (TLFS, "Synthetic Timers"): in units of reference time, to a vector of the local APIC (direct
//! mode) or as a message. A timer that is lazy is as punctual as another.

use super::msr;
use crate::msr::MsrFault;

/// How many there are.
pub const TIMERS: usize = 4;

/// Periods are at least so long, in units of 100 ns: a guest that asks for shorter ones would only leave itself no time to run.
const SHORTEST: u64 = 200;

/// Bits of a configuration register.
mod config {
    pub const ENABLE: u64 = 1 << 0;
    pub const PERIODIC: u64 = 1 << 1;
    pub const AUTO_ENABLE: u64 = 1 << 3;
    pub const DIRECT: u64 = 1 << 12;
    pub const RESERVED: u64 = !0xf_1fff;
}

/// One timer.
#[derive(Clone, Copy, Debug, Default)]
struct Timer {
    config: u64,
    count: u64,
    /// When it expires next.
    due: Option<u64>,
    /// When it has expired, if its message had no place.
    waits: Option<u64>,
}

/// How a timer's expiration reaches the CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expired {
    /// By this vector of its local APIC.
    Direct(u8),
    /// By a message from this source of the synthetic interrupt controller.
    Message {
        /// The source.
        source: usize,
        /// The timer.
        timer: usize,
        /// When it was due.
        due: u64,
    },
}

impl Timer {
    fn is(&self, bits: u64) -> bool {
        self.config & bits != 0
    }

    fn source(&self) -> usize {
        (self.config >> 16 & 0xf) as usize
    }

    /// Starts it, or stops it.
    fn settle(&mut self, now: u64) {
        self.waits = None;
        // Source 0 tells nobody.
        if !self.is(config::DIRECT) && self.source() == 0 {
            self.config &= !config::ENABLE;
        }
        let starts = self.is(config::ENABLE) && self.count != 0;
        self.due = starts.then(|| match self.is(config::PERIODIC) {
            true => now.saturating_add(self.period()),
            false => self.count,
        });
    }

    fn period(&self) -> u64 {
        self.count.max(SHORTEST)
    }

    /// Its next expiration, if it is due at `now`: when that was.
    fn expire(&mut self, now: u64) -> Option<u64> {
        let due = self.due.filter(|&due| due <= now)?;
        if self.is(config::PERIODIC) {
            // What was missed is left out; the others stay where they would be.
            let late = (now - due) % self.period();
            self.due = Some(now.saturating_add(self.period() - late));
        } else {
            self.due = None;
            self.config &= !config::ENABLE;
        }
        Some(due)
    }

    fn reaches(&self, timer: usize, due: u64) -> Expired {
        match self.is(config::DIRECT) {
            true => Expired::Direct((self.config >> 4) as u8),
            false => Expired::Message {
                source: self.source(),
                timer,
                due,
            },
        }
    }
}

/// The timers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timers([Timer; TIMERS]);

impl Timers {
    /// The timer of a register, and whether it is the one with its count.
    fn place(msr: u32) -> Option<(usize, bool)> {
        let n = msr.checked_sub(msr::STIMER0_CONFIG)? as usize;
        (n < 2 * TIMERS).then_some((n / 2, n & 1 != 0))
    }

    /// RDMSR.
    #[must_use]
    pub fn read(&self, msr: u32) -> Option<u64> {
        let (n, counts) = Self::place(msr)?;
        let timer = self.0.get(n)?;
        Some(if counts { timer.count } else { timer.config })
    }

    /// WRMSR at the reference time `now`.
    ///
    /// # Errors
    /// [`MsrFault`]: there is no such register, or reserved bits are set.
    pub fn write(&mut self, msr: u32, value: u64, now: u64) -> Result<(), MsrFault> {
        let (n, counts) = Self::place(msr).ok_or(MsrFault)?;
        let timer = self.0.get_mut(n).ok_or(MsrFault)?;
        if counts {
            timer.count = value;
            if value == 0 {
                timer.config &= !config::ENABLE;
            } else if timer.is(config::AUTO_ENABLE) {
                timer.config |= config::ENABLE;
            }
        } else if value & config::RESERVED != 0 {
            return Err(MsrFault);
        } else {
            timer.config = value;
        }
        timer.settle(now);
        Ok(())
    }

    /// When the first one expires.
    #[must_use]
    pub fn due(&self) -> Option<u64> {
        self.0.iter().filter_map(|timer| timer.due).min()
    }

    /// Hands what is due at `now` to `reaches`, which says whether it has reached the CPU. What has not waits.
    pub fn poll(&mut self, now: u64, mut reaches: impl FnMut(Expired) -> bool) {
        for (n, timer) in self.0.iter_mut().enumerate() {
            if let Some(due) = timer.expire(now)
                && timer.waits.is_none()
                && !reaches(timer.reaches(n, due))
            {
                timer.waits = Some(due);
            }
        }
    }

    /// Messages have a place again: hands those that wait to `reaches`, likewise.
    pub fn retry(&mut self, mut reaches: impl FnMut(Expired) -> bool) {
        for (n, timer) in self.0.iter_mut().enumerate() {
            if let Some(due) = timer.waits
                && reaches(timer.reaches(n, due))
            {
                timer.waits = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const CONFIG: u32 = msr::STIMER0_CONFIG;
    const COUNT: u32 = msr::STIMER0_CONFIG + 1;
    /// Direct mode with vector EDh, as Linux has it.
    const DIRECT: u64 = config::DIRECT | 0xed << 4;

    fn poll(t: &mut Timers, now: u64) -> Vec<Expired> {
        let mut all = Vec::new();
        t.poll(now, |expired| {
            all.push(expired);
            true
        });
        all
    }

    #[test]
    fn one_shot_timer_that_linux_sets_expires_once() {
        let mut t = Timers::default();
        t.write(CONFIG, DIRECT | config::AUTO_ENABLE, 0).unwrap();
        assert_eq!(t.due(), None);
        for count in [1_000, 2_000] {
            t.write(COUNT, count, 500).unwrap();
            assert_eq!((t.due(), t.read(CONFIG).unwrap() & 1), (Some(count), 1));
            assert!(poll(&mut t, count - 1).is_empty());
            assert_eq!(poll(&mut t, count), [Expired::Direct(0xed)]);
            assert_eq!((t.due(), t.read(CONFIG).unwrap() & 1), (None, 0));
        }
        // One whose time has passed.
        t.write(COUNT, 7, 5_000).unwrap();
        assert_eq!(poll(&mut t, 5_000), [Expired::Direct(0xed)]);
        t.write(COUNT, 7_000, 5_000).unwrap();
        t.write(COUNT, 0, 5_000).unwrap();
        assert_eq!((t.due(), t.read(CONFIG).unwrap() & 1), (None, 0));
    }

    #[test]
    fn periods_stay_where_they_are_when_some_are_missed() {
        let mut t = Timers::default();
        t.write(COUNT, 1_000, 0).unwrap();
        let periodic = config::ENABLE | config::PERIODIC | 3 << 16;
        t.write(CONFIG, periodic, 100).unwrap();
        let message = |due| Expired::Message {
            source: 3,
            timer: 0,
            due,
        };
        assert_eq!(poll(&mut t, 1_100), [message(1_100)]);
        assert_eq!(poll(&mut t, 4_350), [message(2_100)]);
        assert_eq!(t.due(), Some(5_100));
        // A period of nothing leaves the guest time to run.
        t.write(COUNT, 1, 5_000).unwrap();
        assert_eq!(poll(&mut t, 9_000).len(), 1);
        assert!(t.due().unwrap() > 9_000);
    }

    #[test]
    fn message_without_a_place_waits_until_there_is_one() {
        let mut t = Timers::default();
        t.write(COUNT + 2, 1_000, 0).unwrap();
        t.write(CONFIG + 2, config::ENABLE | 1 << 16, 0).unwrap();
        t.poll(1_500, |_| false);
        let mut seen = Vec::new();
        t.retry(|expired| {
            seen.push(expired);
            true
        });
        let message = Expired::Message {
            source: 1,
            timer: 1,
            due: 1_000,
        };
        assert_eq!(seen, [message]);
        t.retry(|_| panic!("nothing waits"));
    }

    #[test]
    fn configurations_that_cannot_be_are_refused() {
        let mut t = Timers::default();
        for bit in (13..16).chain(20..64) {
            assert_eq!(t.write(CONFIG, 1 << bit, 0), Err(MsrFault), "bit {bit}");
        }
        assert_eq!(t.write(CONFIG + 8, 0, 0), Err(MsrFault));
        t.write(COUNT, 5, 0).unwrap();
        t.write(CONFIG, config::ENABLE, 0).unwrap();
        assert_eq!(t.read(CONFIG), Some(0), "source 0 is off");
    }
}
