//! What one virtual CPU has of the interface, and nobody else uses.

use super::{Synic, Timers};

/// What one virtual CPU has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Processor {
    /// HV_X64_MSR_VP_ASSIST_PAGE.
    pub assist: u64,
    /// The synthetic interrupt controller.
    pub synic: Synic,
    /// The synthetic timers.
    pub timers: Timers,
}
