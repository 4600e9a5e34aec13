//! The local APIC's timer (SDM vol 3A 12.5.4, "APIC Timer"): one-shot, periodic, and TSC-deadline mode.

use hv_core::VmTime;
use hv_core::machine::LAPIC_HZ;

/// Nanoseconds of one tick of the undivided clock.
const NS_PER_TICK: u64 = 1_000_000_000 / LAPIC_HZ;
const _: () = assert!(NS_PER_TICK * LAPIC_HZ == 1_000_000_000);

/// The shortest period of the periodic timer in nanoseconds, so that a guest cannot keep us busy with nothing else.
pub(super) const MIN_PERIOD: u64 = 20_000;

/// Counts down whether or not its interrupt is masked.
#[derive(Default)]
pub(super) struct Timer {
    divide: u8,
    initial_count: u32,
    /// IA32_TSC_DEADLINE; 0 when it is not armed, and in the other modes.
    tsc_deadline: u64,
    /// When the count reaches zero, or the time-stamp counter that value; none when the timer stands.
    deadline: Option<VmTime>,
}

impl Timer {
    /// The divide configuration register.
    pub(super) fn divide(&self) -> u8 {
        self.divide
    }

    /// Writes the divide configuration register; the rest of the count runs on at the new rate.
    pub(super) fn set_divide(&mut self, now: VmTime, value: u8) {
        let left = self.current_count(now);
        self.divide = value & 0xb;
        if self.deadline.is_some() && self.tsc_deadline == 0 {
            self.start(now, left);
        }
    }

    /// The initial count register.
    pub(super) fn initial_count(&self) -> u32 {
        self.initial_count
    }

    /// Writes the initial count register, which starts the timer, or stops it with 0.
    pub(super) fn set_initial_count(&mut self, now: VmTime, value: u32) {
        self.initial_count = value;
        self.start(now, value);
    }

    /// IA32_TSC_DEADLINE. The timer must have been [advanced](Self::advance).
    pub(super) fn tsc_deadline(&self) -> u64 {
        self.tsc_deadline
    }

    /// Writes IA32_TSC_DEADLINE, whose moment is `at`; 0 disarms the timer.
    pub(super) fn set_tsc_deadline(&mut self, value: u64, at: VmTime) {
        self.tsc_deadline = value;
        self.deadline = (value != 0).then_some(at);
    }

    /// Disarms the timer: its mode has changed from or to TSC-deadline mode.
    pub(super) fn disarm(&mut self) {
        (self.initial_count, self.tsc_deadline, self.deadline) = (0, 0, None);
    }

    /// The current count register. The timer must have been [advanced](Self::advance).
    pub(super) fn current_count(&self, now: VmTime) -> u32 {
        let Some(deadline) = self.deadline else {
            return 0;
        };
        let left = (deadline - now).0.div_ceil(NS_PER_TICK << self.shift());
        u32::try_from(left)
            .unwrap_or(u32::MAX)
            .min(self.initial_count)
    }

    /// Runs up to `now`; true if the count has reached zero, once or more.
    pub(super) fn advance(&mut self, now: VmTime, periodic: bool) -> bool {
        let Some(deadline) = self.deadline else {
            return false;
        };
        if now < deadline {
            return false;
        }
        self.tsc_deadline = 0;
        self.deadline = if periodic && self.initial_count != 0 {
            let period = self.span(self.initial_count).max(MIN_PERIOD);
            let late = (now - deadline).0;
            Some(now + VmTime(period - late % period))
        } else {
            None
        };
        true
    }

    /// When the count reaches zero next.
    pub(super) fn deadline(&self) -> Option<VmTime> {
        self.deadline
    }

    /// The logarithm of the divider: bits 3, 1 and 0 of the register count 2 to 128, and then 1.
    pub(super) fn shift(&self) -> u32 {
        let code = u32::from(self.divide >> 1 & 4 | self.divide & 3);
        (code + 1) & 7
    }

    /// Nanoseconds that `count` ticks last.
    fn span(&self, count: u32) -> u64 {
        (u64::from(count) * NS_PER_TICK) << self.shift()
    }

    fn start(&mut self, now: VmTime, count: u32) {
        self.deadline = (count != 0).then(|| now + VmTime(self.span(count)));
    }
}
