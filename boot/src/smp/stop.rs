//! How the host's CPUs are stopped for good.

use super::state::State;
use crate::host_cpu::{self, HostCpu, all};
use crate::lapic::{self, Ipi};
use crate::{clock, interrupts};
use core::sync::atomic::Ordering;

/// Stops all other CPUs for good, whatever they are doing, and waits until they have stopped: a second at most.
pub fn stop_others() {
    interrupts::stop_at_nmi();
    for cpu in others() {
        lapic::send(cpu.apic_id(), Ipi::Nmi);
    }
    let end = clock::ticks() + clock::tsc_hz();
    while running().next().is_some() && clock::ticks() < end {
        core::hint::spin_loop();
    }
}

/// The numbers of the other CPUs that [`stop_others`] has not stopped.
pub fn running() -> impl Iterator<Item = usize> {
    let runs = |cpu: &&HostCpu| !cpu.stopped.load(Ordering::Acquire);
    others().filter(runs).map(|cpu| cpu.number)
}

/// All other CPUs that have been heard of.
fn others() -> impl Iterator<Item = &'static HostCpu> {
    let own = host_cpu::number();
    all().filter(move |cpu| cpu.number != own && State::of(cpu) != State::Silent)
}

/// Stops the current CPU for good.
pub fn stop() -> ! {
    x86_64::instructions::interrupts::disable();
    if all().next().is_some() {
        host_cpu::current().stopped.store(true, Ordering::Release);
    }
    loop {
        x86_64::instructions::hlt();
    }
}
