//! Interrupts: their causes, the mask, and the timers that make fewer of them (317453, "Interrupts", "Interrupt Throttling" and "Delayed
//! interrupts").
//!
//! The pin is asserted while a cause is set and unmasked, though not before ITR's interval has passed since it was last asserted.

use hv_core::VmTime;

bitflags::bitflags! {
    /// The causes, as in the registers ICR, ICS, IMS and IMC.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub(super) struct Cause: u32 {
        /// A transmit descriptor that asked for it was written back.
        const TXDW = 1 << 0;
        /// The transmit ring is empty.
        const TXQE = 1 << 1;
        /// The link came or went.
        const LSC = 1 << 2;
        /// Framing error on receive, which there is none.
        const RXSEQ = 1 << 3;
        /// Few receive descriptors are left.
        const RXDMT0 = 1 << 4;
        /// A frame was lost for want of descriptors.
        const RXO = 1 << 6;
        /// Frames have been received.
        const RXT0 = 1 << 7;
        /// MDIC is ready.
        const MDAC = 1 << 9;
        /// Control words of fiber, which there are none; general purpose pins; transmit descriptors low; small packet.
        const OTHERS = 1 << 10 | 0xf << 11 | 3 << 15;
    }
}

/// A tick of ITR in nanoseconds, and of the other timers.
const THROTTLE_TICK: u64 = 256;
const DELAY_TICK: u64 = 1024;

/// ICR, IMS and ITR.
#[derive(Default)]
pub(super) struct Interrupts {
    pub(super) cause: Cause,
    pub(super) mask: Cause,
    pub(super) throttle: u16,
    asserted: bool,
    /// Before this the pin is not asserted again.
    earliest: VmTime,
}

impl Interrupts {
    pub(super) fn raise(&mut self, cause: Cause) {
        self.cause |= cause;
    }

    /// Reading ICR takes the causes away.
    pub(super) fn take(&mut self) -> Cause {
        core::mem::take(&mut self.cause)
    }

    /// When a cause that will be there at `at` asserts the pin, if it does: not while it is masked, and not before the interval is over. Nobody
    /// has to be woken earlier.
    pub(super) fn matters(&self, cause: Cause, at: Option<VmTime>) -> Option<VmTime> {
        let at = at.filter(|_| self.mask.intersects(cause))?;
        Some(at.max(self.earliest))
    }

    /// The level of the pin now, and when to look again.
    pub(super) fn level(&mut self, now: VmTime) -> (bool, Option<VmTime>) {
        let wanted = self.cause.intersects(self.mask);
        if wanted && !self.asserted {
            if now < self.earliest {
                return (false, Some(self.earliest));
            }
            self.earliest = now + VmTime(u64::from(self.throttle) * THROTTLE_TICK);
        }
        self.asserted = wanted;
        (wanted, None)
    }
}

/// The two timers that put an interrupt off: one begins again with each event, the other ends all waiting.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Delay {
    /// Their registers, in ticks: RDTR and RADV, or TIDV and TADV.
    pub(super) each: u16,
    pub(super) most: u16,
    quiet: Option<VmTime>,
    end: Option<VmTime>,
}

impl Delay {
    /// Something has happened. True: the interrupt is not put off.
    pub(super) fn event(&mut self, now: VmTime) -> bool {
        if self.each == 0 {
            self.stop();
            return true;
        }
        let after = |ticks: u16| now + VmTime(u64::from(ticks) * DELAY_TICK);
        self.quiet = Some(after(self.each));
        if self.most != 0 {
            self.end = self.end.or(Some(after(self.most)));
        }
        false
    }

    /// Waiting is over, if it was. True: the interrupt is due.
    pub(super) fn stop(&mut self) -> bool {
        self.end = None;
        self.quiet.take().is_some()
    }

    /// When it will be.
    pub(super) fn next(&self) -> Option<VmTime> {
        let quiet = self.quiet?;
        Some(self.end.map_or(quiet, |end| end.min(quiet)))
    }

    /// Whether the interrupt is due by `now`.
    pub(super) fn due(&mut self, now: VmTime) -> bool {
        self.next().is_some_and(|at| at <= now) && self.stop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_follows_what_is_set_and_unmasked() {
        let mut i = Interrupts::default();
        i.raise(Cause::LSC);
        assert_eq!(i.level(VmTime(0)), (false, None));
        i.mask = Cause::LSC;
        assert_eq!(i.level(VmTime(0)), (true, None));
        assert_eq!(i.take(), Cause::LSC);
        assert_eq!(i.level(VmTime(0)), (false, None));
    }

    #[test]
    fn throttled_pin_is_asserted_once_an_interval() {
        let mut i = Interrupts {
            mask: Cause::RXT0,
            throttle: 100,
            ..Interrupts::default()
        };
        let end = VmTime(25_600);
        i.raise(Cause::RXT0);
        assert_eq!(i.level(VmTime(0)), (true, None));
        i.take();
        assert_eq!(i.level(VmTime(0)), (false, None));
        i.raise(Cause::RXT0);
        assert_eq!(i.level(VmTime(1)), (false, Some(end)));
        assert_eq!(i.level(end), (true, None));
    }

    #[test]
    fn each_event_puts_it_off_and_the_absolute_timer_ends_that() {
        let mut d = Delay {
            each: 10,
            most: 15,
            ..Delay::default()
        };
        assert!(!d.event(VmTime(0)));
        assert_eq!(d.next(), Some(VmTime(10_240)));
        assert!(!d.event(VmTime(9_000)));
        assert_eq!(d.next(), Some(VmTime(15_360)));
        assert!(!d.due(VmTime(15_359)) && d.due(VmTime(15_360)) && !d.due(VmTime(20_000)));
        d.each = 0;
        assert!(d.event(VmTime(0)));
    }
}
