//! The console's `stats`: what the guest has done since the last look, every second.

use super::commands::{Shown, say};
use super::{Session, State};
use crate::clock;
use alloc::vec::Vec;
use hv_core::VmTime;
use hv_core::cpu::VcpuBackend;
use hv_core::exit::ExitReason;
use hv_core::mmu::Mmu;
use hv_core::stats::{CpuFacts, Stats};

/// How often it is shown.
const INTERVAL: VmTime = VmTime::from_millis(1000);
/// Reasons of exits that are shown.
const REASONS: usize = 14;
/// The same, if the virtual CPUs are shown too: both fit on the screen.
const REASONS_OF_SEVERAL: usize = 9;
/// Virtual CPUs that are shown: those with the most exits.
const CPUS: usize = 8;

/// What has been counted up to a moment.
pub(super) struct Watch {
    /// When it is shown next.
    due: VmTime,
    /// The moment, in TSC ticks.
    at: u64,
    stats: Stats,
    cpus: Vec<CpuFacts>,
}

/// A time that has passed, to which counts are set in relation.
#[derive(Clone, Copy)]
struct Passed(u64);

impl Passed {
    /// How many a second.
    fn rate(self, count: u64) -> u64 {
        (u128::from(count) * u128::from(clock::tsc_hz()) / u128::from(self.0)) as u64
    }

    /// Per cent of the time, and its tenths.
    fn percent(self, ticks: u64) -> (u64, u64) {
        let tenths = (1000 * u128::from(ticks) / u128::from(self.0)) as u64;
        (tenths / 10, tenths % 10)
    }
}

impl<B: VcpuBackend> Session<B> {
    /// Begins to watch VM `index`; what it does is shown from `due` on.
    pub(super) fn begin_to_watch(&mut self, index: usize, due: VmTime) {
        self.console.watch = Some(self.watch(index, due));
    }

    fn watch(&self, index: usize, due: VmTime) -> Watch {
        Watch {
            due,
            at: clock::ticks(),
            stats: self.vms[index].stats(),
            cpus: self.cpu_facts(index),
        }
    }

    /// Shows what the guest does, if somebody watches, and returns when to do it again.
    pub(super) fn show_statistics(&mut self, now: VmTime) -> VmTime {
        let Some(old) = self.console.watch.take() else {
            return VmTime::NEVER;
        };
        let due = old.due;
        if now < due {
            self.console.watch = Some(old);
            return due;
        }
        let next = now + INTERVAL;
        let new = self.watch(self.focus, next);
        let passed = new.at - old.at;
        // The first time there is nothing to compare with.
        if passed > clock::tsc_hz() / 4 {
            self.console.screen.clear();
            self.show_between(Passed(passed), &old, &new);
        }
        self.console.watch = Some(new);
        next
    }

    /// Shows what was between two moments.
    fn show_between(&mut self, passed: Passed, old: &Watch, new: &Watch) {
        let vm = &self.vms[self.focus];
        let mut reasons: Vec<(u64, u64, &str)> = (0..ExitReason::KINDS)
            .map(|i| {
                let count = new.stats.exits[i].saturating_sub(old.stats.exits[i]);
                let ticks = new.stats.ticks[i].saturating_sub(old.stats.ticks[i]);
                (count, ticks, ExitReason::NAMES[i])
            })
            .filter(|&(count, ..)| count != 0)
            .collect();
        reasons.sort_unstable_by(|a, b| b.cmp(a));
        let all = reasons.iter().map(|&(count, ..)| count).sum();
        let spent = reasons.iter().map(|&(_, ticks, _)| ticks).sum();
        let between = |of: fn(&CpuFacts) -> u64| {
            let sum = |cpus: &[CpuFacts]| cpus.iter().map(of).sum::<u64>();
            passed.percent(sum(&new.cpus).saturating_sub(sum(&old.cpus)))
        };
        let (hypervisor, halted) = (passed.percent(spent), between(|cpu| cpu.halted));
        say!(
            self,
            "VM {} {}: {} exits/s; hypervisor {}.{} %, halted {}.{} %  (a key ends this)",
            vm.number,
            vm.state_name(),
            passed.rate(all),
            hypervisor.0,
            hypervisor.1,
            halted.0,
            halted.1
        );
        if vm.state == State::Running {
            let (ran, waited) = (between(|cpu| cpu.used), between(|cpu| cpu.steal));
            say!(
                self,
                "it had the CPU for {}.{} %, waited for it {}.{} %; {}",
                ran.0,
                ran.1,
                waited.0,
                waited.1,
                Shown(self.scheduler.share(self.focus))
            );
        }
        let mut most = REASONS;
        if new.cpus.len() > 1 {
            most = REASONS_OF_SEVERAL;
            self.show_cpus(passed, &old.cpus, &new.cpus);
        }
        say!(self, "  exits/s  ticks each  reason");
        for (count, ticks, name) in reasons.into_iter().take(most) {
            say!(
                self,
                "{:9} {:11}  {name}",
                passed.rate(count),
                ticks / count
            );
        }
        let guest = &self.vms[self.focus].guest.vm;
        if guest.is_shadow()
            && let Some(report) = guest.mmu().shadow_report()
        {
            say!(
                self,
                "shadow pages: {} of {}",
                report.pages,
                report.pages_capacity
            );
        }
    }

    /// What the virtual CPUs did, a line each.
    fn show_cpus(&mut self, passed: Passed, old: &[CpuFacts], new: &[CpuFacts]) {
        let mut cpus: Vec<_> = old.iter().zip(new).enumerate().collect();
        cpus.sort_by_key(|(_, (old, new))| core::cmp::Reverse(new.exits.saturating_sub(old.exits)));
        cpus.truncate(CPUS);
        cpus.sort_unstable_by_key(|&(n, _)| n);
        say!(
            self,
            "  CPU state       used % hyperv% halted % waited %  waits/s   IPIs/s  exits/s"
        );
        for (n, (old, new)) in cpus {
            let share = |of: fn(&CpuFacts) -> u64| {
                let (whole, tenths) = passed.percent(of(new).saturating_sub(of(old)));
                alloc::format!("{whole}.{tenths}")
            };
            let rate = |of: fn(&CpuFacts) -> u64| passed.rate(of(new).saturating_sub(of(old)));
            say!(
                self,
                "  {n:3} {:11} {:>6} {:>7} {:>8} {:>8} {:8} {:8} {:8}",
                new.state,
                share(|cpu| cpu.used),
                share(|cpu| cpu.hypervisor),
                share(|cpu| cpu.halted),
                share(|cpu| cpu.steal),
                rate(|cpu| cpu.waits),
                rate(|cpu| cpu.ipis),
                rate(|cpu| cpu.exits)
            );
        }
        if new.len() > CPUS {
            say!(self, "  the {CPUS} of {} with the most exits", new.len());
        }
    }
}
