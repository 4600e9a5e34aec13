//! What a guest says of its crash (TLFS, "Hypervisor Feature Identification", guest crash registers): five values whose meaning is the system's own,
//! and then that they are there.

use super::msr::{CRASH_CTL, CRASH_P0};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How many values there are.
pub const VALUES: usize = 5;
/// HV_X64_MSR_CRASH_CTL bit 63, CrashNotify: the values are there. Nothing else is offered.
pub const NOTIFY: u64 = 1 << 63;

/// The registers, which the CPUs share.
#[derive(Debug, Default)]
pub struct Crash {
    values: [AtomicU64; VALUES],
    happened: AtomicBool,
}

impl Crash {
    /// Back to the power-on state.
    pub(super) fn reset(&self) {
        self.values
            .iter()
            .for_each(|v| v.store(0, Ordering::Relaxed));
        self.happened.store(false, Ordering::Release);
    }

    fn value(&self, msr: u32) -> Option<&AtomicU64> {
        self.values.get(msr.checked_sub(CRASH_P0)? as usize)
    }

    /// RDMSR. The control register tells what can be said.
    #[must_use]
    pub fn read(&self, msr: u32) -> Option<u64> {
        match msr {
            CRASH_CTL => Some(NOTIFY),
            _ => Some(self.value(msr)?.load(Ordering::Relaxed)),
        }
    }

    /// WRMSR: whether the guest has crashed with this write. It does so once, until it is reset.
    #[must_use]
    pub fn write(&self, msr: u32, value: u64) -> bool {
        match self.value(msr) {
            Some(own) => own.store(value, Ordering::Relaxed),
            None => return value & NOTIFY != 0 && !self.happened.swap(true, Ordering::AcqRel),
        }
        false
    }

    /// The five values, if the guest has crashed.
    #[must_use]
    pub fn values(&self) -> Option<[u64; VALUES]> {
        let happened = self.happened.load(Ordering::Acquire);
        happened.then(|| self.values.each_ref().map(|v| v.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_crashes_once_until_it_is_reset() {
        let c = Crash::default();
        for n in 0..5 {
            assert!(!c.write(CRASH_P0 + n, 10 + u64::from(n)));
        }
        assert!(!c.write(CRASH_CTL, NOTIFY >> 1), "no message can be given");
        assert_eq!(c.values(), None);
        assert!(c.write(CRASH_CTL, NOTIFY));
        assert!(!c.write(CRASH_CTL, NOTIFY));
        assert_eq!(c.values(), Some([10, 11, 12, 13, 14]));
        assert_eq!(c.read(CRASH_CTL), Some(NOTIFY));
        c.reset();
        assert_eq!((c.values(), c.read(CRASH_P0)), (None, Some(0)));
        assert!(c.write(CRASH_CTL, NOTIFY));
    }
}
