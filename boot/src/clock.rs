//! Time on the host: the time-stamp counter, calibrated against the PIT, and the local APIC's timer for deadlines.

use crate::{host_cpu, lapic};
use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicU64, Ordering};
use hv_core::VmTime;
use hv_core::machine::PIT_HZ;
use hv_core::time::Clock;
use x86::io::{inb, outb};

static TSC_HZ: AtomicU64 = AtomicU64::new(0);
static TSC_START: AtomicU64 = AtomicU64::new(0);
static TIMER_HZ: AtomicU64 = AtomicU64::new(0);
/// How many clocks there have been.
static CLOCKS: AtomicU64 = AtomicU64::new(0);

/// The time-stamp counter.
pub fn ticks() -> u64 {
    // SAFETY: RDTSC has no effect.
    unsafe { _rdtsc() }
}

/// Ticks of the time-stamp counter in a second.
pub fn tsc_hz() -> u64 {
    TSC_HZ.load(Ordering::Relaxed)
}

/// Milliseconds since the clock was calibrated.
pub fn since_start_ms() -> u64 {
    let passed = ticks() - TSC_START.load(Ordering::Relaxed);
    let ms = (u128::from(passed) * 1000).checked_div(tsc_hz().into());
    ms.unwrap_or(0) as u64
}

/// PIT ticks that one calibration run lasts: about 50 ms. Its ends are uncertain by a microsecond or two, which guests' clocks are wrong by: some 40
/// in a million.
const RUN: u16 = 59_659;

/// One run: the ticks of the TSC and of the local APIC's timer in `RUN` PIT ticks. Channel 2, mode 0, gate by port 61h.
fn run() -> (u64, u64) {
    // SAFETY: ring 0; the PIT's second channel and the speaker gate are nobody else's.
    unsafe {
        outb(0x61, (inb(0x61) & !2) | 1);
        outb(0x43, 0xb0);
        outb(0x42, RUN as u8);
        lapic::arm(u32::MAX);
        outb(0x42, (RUN >> 8) as u8);
        let (tsc, timer) = (ticks(), lapic::remaining());
        while inb(0x61) & 0x20 == 0 {}
        let (tsc_end, timer_end) = (ticks(), lapic::remaining());
        lapic::arm(0);
        (tsc_end - tsc, u64::from(timer - timer_end))
    }
}

/// Runs at most: on a busy outer machine some are disturbed.
const RUNS: usize = 12;

/// Calibrates both. A disturbance only makes a run longer, so the shortest counts; two that agree to 1/16384 settle it.
pub fn init() {
    TSC_START.store(ticks(), Ordering::Relaxed);
    let mut best = run();
    for _ in 1..RUNS {
        let next = run();
        let agree = best.0.abs_diff(next.0) <= best.0 >> 14;
        best = best.min(next);
        if agree {
            break;
        }
    }
    let hz = |n: u64| (n.max(1) as u128 * PIT_HZ as u128 / RUN as u128) as u64;
    TSC_HZ.store(hz(best.0), Ordering::Relaxed);
    TIMER_HZ.store(hz(best.1), Ordering::Relaxed);
    log::info!(
        "time: TSC {} MHz, local APIC timer {} MHz",
        hz(best.0) / 1_000_000,
        hz(best.1) / 1_000_000
    );
}

/// The clock of one VM, or of the host. A clone tells the same time, and is not to be armed.
#[derive(Clone)]
pub struct HostClock {
    /// From 1; another one whenever it goes differently.
    number: u64,
    /// TSC at the VM's time 0.
    start: u64,
    /// Nanoseconds a tick, as a fixed-point number with 32 fraction bits.
    ns_per_tick: u64,
    /// The other way round.
    ticks_per_ns: u64,
    /// Timer ticks a nanosecond, likewise.
    timer_per_ns: u64,
}

/// The number of a further clock.
fn next_number() -> u64 {
    CLOCKS.fetch_add(1, Ordering::Relaxed) + 1
}

impl HostClock {
    /// A clock that starts now.
    pub fn new() -> Self {
        let ns_per_tick = ((1_000_000_000u128 << 32) / u128::from(tsc_hz().max(1))) as u64;
        let ticks_per_ns = ((u128::from(tsc_hz()) << 32) / 1_000_000_000) as u64;
        let timer_per_ns =
            ((u128::from(TIMER_HZ.load(Ordering::Relaxed)) << 32) / 1_000_000_000) as u64;
        Self {
            number: next_number(),
            start: ticks(),
            ns_per_tick,
            ticks_per_ns,
            timer_per_ns,
        }
    }

    /// The same clock for a further CPU.
    pub fn another(&self) -> Self {
        Self {
            number: next_number(),
            ..*self
        }
    }
}

impl Clock for HostClock {
    fn ticks(&self) -> u64 {
        ticks()
    }

    fn origin(&self) -> u64 {
        self.start
    }

    fn time(&self, ticks: u64) -> VmTime {
        VmTime(
            ((u128::from(ticks.wrapping_sub(self.start)) * u128::from(self.ns_per_tick)) >> 32)
                as u64,
        )
    }

    fn ticks_until(&self, deadline: VmTime, now: VmTime) -> u64 {
        if deadline == VmTime::NEVER {
            return u64::MAX;
        }
        // Guests choose deadlines, and any will do.
        let ticks = (u128::from((deadline - now).0) * u128::from(self.ticks_per_ns)) >> 32;
        u64::try_from(ticks).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn skip(&mut self, ticks: u64) {
        self.start = self.start.wrapping_add(ticks);
        // What it has armed any timer for was another moment.
        self.number = next_number();
    }

    fn arm(&mut self, deadline: VmTime, now: VmTime) {
        let armed = &host_cpu::current().armed;
        if !armed.change(self.number, deadline.0) {
            return;
        }
        if deadline == VmTime::NEVER {
            lapic::arm(0);
            return;
        }
        // At most a second at a time: an early interrupt is harmless, and the count stays within 32 bits.
        let ns = (deadline - now).0.clamp(1_000, 1_000_000_000);
        let count = ((u128::from(ns) * u128::from(self.timer_per_ns)) >> 32) as u64;
        lapic::arm(count.clamp(1, u64::from(u32::MAX)) as u32);
    }
}
