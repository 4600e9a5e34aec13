//! A further CPU makes itself like the first one, or finds that it cannot be used.

use super::memory_types::MemoryTypes;
use super::state::State;
use crate::host_cpu::HostCpu;
use crate::{clock, host, lapic};
use alloc::string::String;
use core::sync::atomic::{AtomicU64, Ordering};
use host_cpus::Features;

/// Turns the virtualization of the current CPU on, as of the first.
pub type Enable = fn() -> Result<(), String>;

/// What all CPUs have in common besides [`Features`].
pub struct Common {
    memory_types: MemoryTypes,
}

/// What further CPUs are to be like: the current one, which is the first.
pub fn first(enable: Enable) -> (Features, Common, Enable) {
    let memory_types = MemoryTypes::read();
    (Features::of(host::cpuid), Common { memory_types }, enable)
}

/// Makes the current CPU, which is `cpu`, like the first one.
///
/// # Errors
/// Why it cannot be used.
pub fn join(
    cpu: &HostCpu,
    features: &Features,
    common: &Common,
    enable: Enable,
) -> Result<(), String> {
    lapic::init_further();
    let own = lapic::id();
    if own != cpu.apic_id() {
        return Err(alloc::format!("another one has come, APIC {own:#x}"));
    }
    if MemoryTypes::read() != common.memory_types {
        common.memory_types.load();
    }
    host::set_up_cr4();
    if let Some((leaf, subleaf)) = features.difference(&Features::of(host::cpuid)) {
        return Err(alloc::format!(
            "its features are not the first one's (CPUID {leaf:#x}.{subleaf})"
        ));
    }
    enable()?;
    State::Compares.set(cpu);
    match compare_clocks(1) {
        0 => Ok(()),
        behind => Err(alloc::format!(
            "its time-stamp counter and the first one's are {behind} ticks apart"
        )),
    }
}

/// Whose turn it is to read its time-stamp counter: even numbers are the first CPU's, odd ones the other's.
static TURN: AtomicU64 = AtomicU64::new(0);
/// What was read last.
static LAST: AtomicU64 = AtomicU64::new(0);
/// By how much a later reading was smaller.
static BACKWARDS: AtomicU64 = AtomicU64::new(0);
/// Readings of both. An even number, so that the first CPU begins with the next one too.
const READINGS: u64 = 64;

/// Reads the time-stamp counters of two CPUs in turn: time never goes backwards from one to the other. `side` is 0 for the first CPU, 1 for the
/// other, which is told by how much it did.
///
/// Guests move from one CPU to the other, and see no jump.
pub fn compare_clocks(side: u64) -> u64 {
    if side == 1 {
        BACKWARDS.store(0, Ordering::Relaxed);
    }
    for _ in 0..READINGS / 2 {
        let mut turn = TURN.load(Ordering::Acquire);
        while turn & 1 != side {
            core::hint::spin_loop();
            turn = TURN.load(Ordering::Acquire);
        }
        let now = clock::ticks();
        let before = LAST.swap(now, Ordering::AcqRel);
        BACKWARDS.fetch_max(before.saturating_sub(now), Ordering::AcqRel);
        TURN.store(turn + 1, Ordering::Release);
    }
    BACKWARDS.load(Ordering::Acquire)
}
