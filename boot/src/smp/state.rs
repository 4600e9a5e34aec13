//! How far each of the host's CPUs has come.

use crate::host_cpu::{HostCpu, all};
use core::sync::atomic::{AtomicU8, Ordering};
use host_cpus::MAX_HOST_CPUS;

/// How far a CPU has come.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    /// It has not been heard of.
    Silent,
    /// It makes itself like the first one.
    Joins,
    /// Its time-stamp counter is compared with the first one's.
    Compares,
    /// It waits for interrupts, or does what it is called for.
    Ready,
    /// It cannot be used, and has stopped.
    Unfit,
}

impl State {
    const ALL: [State; 5] = [
        State::Silent,
        State::Joins,
        State::Compares,
        State::Ready,
        State::Unfit,
    ];

    /// How far `cpu` has come.
    pub(super) fn of(cpu: &HostCpu) -> Self {
        let state = usize::from(STATES[cpu.number].load(Ordering::Acquire));
        State::ALL.get(state).copied().unwrap_or(State::Silent)
    }

    /// `cpu` has come so far.
    pub(super) fn set(self, cpu: &HostCpu) {
        STATES[cpu.number].store(self as u8, Ordering::Release);
    }
}

/// The states, by the CPUs' numbers.
static STATES: [AtomicU8; MAX_HOST_CPUS] =
    [const { AtomicU8::new(State::Silent as u8) }; MAX_HOST_CPUS];

/// The CPUs that are in use.
pub(super) fn ready() -> impl Iterator<Item = &'static HostCpu> {
    all().filter(|cpu| State::of(cpu) == State::Ready)
}

/// How many CPUs are in use.
pub fn used() -> usize {
    ready().count()
}
