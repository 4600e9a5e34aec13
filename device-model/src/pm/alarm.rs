//! The wire from the clock's alarm to power management, with the status bit at its end (82371AB datasheet 7.2, "Power Management IO Space
//! Registers", RTC_STS): the clock sets the bit by itself, also while the rest of the machine sleeps.
//!
//! The clock rings on its own CPU's time and never takes the lock of power management. Both are called under the bus's lock, so that
//! the SCI's level is what the last of them made it.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use hv_core::irq::IrqLine;

/// The wire. Clones are the same.
#[derive(Clone)]
pub struct RtcAlarm(Arc<Latch>);

struct Latch {
    status: AtomicBool,
    enabled: AtomicBool,
    sci: IrqLine,
}

impl RtcAlarm {
    pub(super) fn new(sci: IrqLine) -> Self {
        Self(Arc::new(Latch {
            status: AtomicBool::new(false),
            enabled: AtomicBool::new(false),
            sci,
        }))
    }

    /// The alarm's interrupt is asserted.
    pub fn ring(&self) {
        self.0.status.store(true, Relaxed);
        if self.0.enabled.load(Relaxed) {
            self.0.sci.set(true);
        }
    }

    /// RTC_STS.
    #[must_use]
    pub fn rings(&self) -> bool {
        self.0.status.load(Relaxed)
    }

    pub(super) fn clear(&self) {
        self.0.status.store(false, Relaxed);
    }

    pub(super) fn enable(&self, enabled: bool) {
        self.0.enabled.store(enabled, Relaxed);
    }
}
