//! The scheduler under loads, in a simulation: a tick is 10 ns.

use super::*;
use crate::testing::Random;

const HZ: u64 = 100_000_000;
const US: u64 = HZ / 1_000_000;
const MS: u64 = HZ / 1000;
const SECOND: u64 = HZ;

/// What a virtual CPU does.
#[derive(Clone, Copy, Debug)]
enum Load {
    /// It computes all the time.
    Spins,
    /// At the end of each period there is so much to do: a timer, or packets that come. What is not done yet stays to be done, up to the work
    /// of a tenth of a second.
    Served { burst: u64, period: u64 },
    /// It computes for so long, and then sleeps for so long.
    Thinks { burst: u64, pause: u64 },
}

impl Load {
    /// What it wants of the processor, in parts of one.
    fn demand(self) -> f64 {
        let of = |part: u64, all: u64| part as f64 / all as f64;
        match self {
            Load::Spins => 1.0,
            Load::Served { burst, period } => of(burst, period),
            Load::Thinks { burst, pause } => of(burst, burst + pause),
        }
    }
}

struct Runner {
    entity: Entity,
    load: Load,
    /// What it has to do now.
    todo: u64,
    /// When there is more to do.
    next: u64,
    /// Since when it can run and has not.
    since: Option<u64>,
    used: u64,
    /// The longest that it could run and did not.
    delay: u64,
}

/// A processor with its scheduler.
struct Simulation {
    s: Scheduler,
    runners: Vec<Runner>,
    now: u64,
    switches: u64,
    last: Option<Entity>,
}

fn share(weight: u32, cap: u32) -> Share {
    Share {
        weight,
        cap,
        warp: 0,
    }
}

impl Simulation {
    fn new() -> Self {
        Self {
            s: Scheduler::new(HZ),
            runners: Vec::new(),
            now: 0,
            switches: 0,
            last: None,
        }
    }

    /// Machines of equal weight with one virtual CPU each.
    fn of(loads: &[Load]) -> Self {
        let mut this = Self::new();
        for &load in loads {
            let vm = this.s.add_vm(share(1, 0));
            this.add(vm, load, 0);
        }
        this
    }

    /// A further virtual CPU, which begins at `start`.
    fn add(&mut self, vm: usize, load: Load, start: u64) {
        let entity = self.s.add_vcpu(vm);
        self.runners.push(Runner {
            entity,
            load,
            todo: 0,
            next: start,
            since: None,
            used: 0,
            delay: 0,
        });
    }

    fn wake(&mut self) {
        for r in &mut self.runners {
            while self.now >= r.next {
                let idle = r.todo == 0;
                match r.load {
                    Load::Spins => (r.todo, r.next) = (u64::MAX, u64::MAX),
                    Load::Served { burst, period } => {
                        r.todo = (r.todo + burst).min(burst * (1 + 100 * MS / period));
                        r.next += period;
                    }
                    Load::Thinks { burst, .. } => (r.todo, r.next) = (burst, u64::MAX),
                }
                if idle {
                    self.s.wake(r.entity);
                    r.since = Some(self.now);
                }
            }
        }
    }

    /// Goes on until `end`.
    fn run(&mut self, end: u64) {
        while self.now < end {
            self.wake();
            let event = self.runners.iter().map(|r| r.next).min();
            let event = event.unwrap_or(end).min(end);
            let Some(turn) = self.s.pick(self.now) else {
                let release = self.s.release().unwrap_or(end);
                assert!(release > self.now);
                self.now = event.min(release);
                continue;
            };
            if self.last.replace(turn.entity) != Some(turn.entity) {
                self.switches += 1;
            }
            let until = turn.until.unwrap_or(end).min(event);
            assert!(until > self.now);
            let now = self.now;
            let runner = |r: &&mut Runner| r.entity == turn.entity;
            let r = self.runners.iter_mut().find(runner).unwrap();
            assert!(r.todo > 0, "one that sleeps was picked");
            r.delay = r.delay.max(now - r.since.unwrap_or(now));
            let ticks = (until - now).min(r.todo);
            self.now += ticks;
            r.used += ticks;
            r.todo -= ticks;
            r.since = Some(self.now);
            self.s.charge(turn.entity, ticks);
            if r.todo == 0 {
                self.s.sleep(turn.entity);
                r.since = None;
                if let Load::Thinks { pause, .. } = r.load {
                    r.next = self.now + pause;
                }
            }
        }
    }

    /// What part of the processor each machine had from now to `end`.
    fn parts(&mut self, end: u64) -> Vec<f64> {
        let used = |this: &Self| {
            let mut used = alloc::vec![0; this.s.vms.len()];
            for r in &this.runners {
                used[r.entity.vm] += r.used;
            }
            used
        };
        let (before, since) = (used(self), self.now);
        self.run(end);
        let passed = (self.now - since) as f64;
        let after = used(self);
        let parts = before.into_iter().zip(after);
        parts
            .map(|(b, a): (u64, u64)| (a - b) as f64 / passed)
            .collect()
    }
}

/// What each of some (weight, most that it can use) gets of a processor that is shared ideally: each by its weight, and what one leaves over goes to the others.
fn ideal(wants: &[(f64, f64)]) -> Vec<f64> {
    let mut parts = alloc::vec![0.0; wants.len()];
    let mut open: Vec<usize> = (0..wants.len()).collect();
    let mut left = 1.0;
    loop {
        let weights: f64 = open.iter().map(|&i| wants[i].0).sum();
        let level = left / weights;
        let full = |i: &usize| wants[*i].1 <= level * wants[*i].0;
        let (done, more): (Vec<_>, Vec<_>) = open.iter().copied().partition(full);
        if done.is_empty() {
            for i in more {
                parts[i] = level * wants[i].0;
            }
            return parts;
        }
        for i in done {
            parts[i] = wants[i].1;
            left -= wants[i].1;
        }
        if more.is_empty() {
            return parts;
        }
        open = more;
    }
}

#[test]
fn ideal_sharing_fills_up_from_the_least_demand() {
    assert_eq!(ideal(&[(1.0, 1.0), (3.0, 1.0)]), [0.25, 0.75]);
    assert_eq!(ideal(&[(1.0, 1.0), (3.0, 0.5)]), [0.5, 0.5]);
    assert_eq!(ideal(&[(1.0, 0.25), (1.0, 0.25)]), [0.25, 0.25]);
    assert_eq!(
        ideal(&[(1.0, 0.125), (1.0, 1.0), (6.0, 1.0)]),
        [0.125, 0.125, 0.75]
    );
}

#[test]
fn nobody_runs_when_all_sleep() {
    let mut s = Scheduler::new(HZ);
    assert_eq!(s.pick(0), None);
    let vm = s.add_vm(share(1, 0));
    assert_eq!(s.pick(0), None);
    let entity = s.add_vcpu(vm);
    assert_eq!(s.pick(0), None);
    s.wake(entity);
    let until = None;
    assert_eq!(s.pick(0), Some(Turn { entity, until }));
    s.sleep(entity);
    assert_eq!(s.pick(0), None);
}

/// The two examples by which the fault was found: 4 % and 17 % in place of half.
#[test]
fn one_that_wants_a_little_more_than_its_share_in_short_bursts_gets_its_share() {
    for (burst, pause) in [(110, 90), (600, 400)] {
        let (burst, pause) = (burst * US, pause * US);
        for load in [
            Load::Thinks { burst, pause },
            Load::Served {
                burst,
                period: burst + pause,
            },
        ] {
            let mut sim = Simulation::of(&[load, Load::Spins]);
            let parts = sim.parts(5 * SECOND);
            assert!((parts[0] - 0.5).abs() < 0.02, "{load:?}: {parts:?}");
        }
    }
}

#[test]
fn those_that_compute_change_places_no_oftener_than_the_allowance() {
    let mut sim = Simulation::of(&[Load::Spins; 3]);
    let parts = sim.parts(10 * SECOND);
    assert!(parts.iter().all(|part| (part - 1.0 / 3.0).abs() < 0.01));
    assert!(
        sim.switches <= 10_000 / ALLOWANCE_MS + 1,
        "{}",
        sim.switches
    );
}

#[test]
fn one_that_sleeps_keeps_no_more_than_the_credit() {
    let mut sim = Simulation::of(&[Load::Spins]);
    let vm = sim.s.add_vm(share(1, 0));
    sim.add(vm, Load::Spins, 60 * SECOND);
    sim.run(60 * SECOND);
    let parts = sim.parts(61 * SECOND);
    // The credit, and half of the rest.
    let credit = CREDIT_MS as f64 / 1000.0;
    assert!((parts[1] - (0.5 + credit / 2.0)).abs() < 0.01, "{parts:?}");
}

/// A machine with one virtual CPU: what it does, its weight, and its cap in parts of the processor.
type Want = (Load, f64, f64);

/// A mix of some machines in a simulation, and what they are. With `thinks`, those that sleep are of that kind.
fn mix(random: &mut Random, thinks: bool) -> (Simulation, Vec<Want>) {
    let mut sim = Simulation::new();
    let mut wants = Vec::new();
    for _ in 0..1 + random.below(7) {
        let weight = random.pick(&[1, 1, 1, 2, 3, 5, 10]);
        let cap = match random.below(4) {
            0 => 5 + random.below(90) as u32,
            _ => 0,
        };
        let unit = random.pick(&[20, 100, 1_000]) * US;
        let (burst, pause) = (unit * (1 + random.below(20)), unit * (1 + random.below(40)));
        let period = burst + pause;
        let load = match random.below(3) {
            0 => Load::Spins,
            _ if thinks => Load::Thinks { burst, pause },
            _ => Load::Served { burst, period },
        };
        let vm = sim.s.add_vm(share(weight, cap));
        sim.add(vm, load, random.below(20 * MS));
        let most = if cap == 0 {
            1.0
        } else {
            f64::from(cap) / 100.0
        };
        wants.push((load, f64::from(weight), most));
    }
    (sim, wants)
}

/// What each gets when its demand is filled as far as can be.
fn filled(wants: &[Want]) -> Vec<f64> {
    let wants = wants.iter();
    let wants = wants.map(|&(load, weight, most)| (weight, load.demand().min(most)));
    ideal(&wants.collect::<Vec<_>>())
}

/// What each gets of a processor that serves all at the same time, by their weights (generalized processor sharing), if those that sleep are
/// of the kind that thinks.
fn served_at_once(wants: &[Want], end: f64) -> Vec<f64> {
    // What each has to do, or else how long it sleeps.
    let mut todo: Vec<_> = wants.iter().map(|_| (0.0, 0.0)).collect();
    let mut used = alloc::vec![0.0; wants.len()];
    let mut now = 0.0;
    while now < end {
        for (&(load, ..), (todo, sleep)) in wants.iter().zip(&mut todo) {
            if *todo <= 0.0 && *sleep <= 0.0 {
                *todo = match load {
                    Load::Thinks { burst, .. } => burst as f64,
                    _ => f64::INFINITY,
                };
            }
        }
        let active = wants.iter().zip(&todo);
        let active = active.map(|(&(_, w, most), t)| (w, if t.0 > 0.0 { most } else { 0.0 }));
        let rates = ideal(&active.collect::<Vec<_>>());
        let ends = todo.iter().zip(&rates);
        let ends = ends.map(|(&(todo, sleep), rate)| if todo > 0.0 { todo / rate } else { sleep });
        let step = ends.fold(end - now, f64::min).max(1.0);
        now += step;
        for (i, (todo, sleep)) in todo.iter_mut().enumerate() {
            if *todo > 0.0 {
                used[i] += step * rates[i];
                *todo -= step * rates[i];
                if let (true, Load::Thinks { pause, .. }) = (*todo < 0.5, wants[i].0) {
                    (*todo, *sleep) = (0.0, pause as f64);
                }
            } else {
                *sleep -= step;
            }
        }
    }
    used.into_iter().map(|used| used / now).collect()
}

/// Each gets its due within 5 %, whatever the mix: work that waits until it is done.
#[test]
fn any_mix_is_shared_by_weight_and_cap() {
    let mut random = Random::from_env("UMBRA_SEED", 1);
    for _ in 0..60 {
        let (mut sim, wants) = mix(&mut random, false);
        sim.run(SECOND);
        let parts = sim.parts(11 * SECOND);
        for (part, due) in parts.iter().zip(filled(&wants)) {
            assert!(
                (part - due).abs() < 0.05 * due,
                "{due}: {parts:?} of {wants:?}"
            );
        }
    }
}

/// One that sleeps for a time after each burst loses what it waits for the others: nobody can give it its whole demand. It gets what a
/// processor would give it that served all at the same time, or what is its due if that is less, within 5 % of the processor; one that
/// computes takes the rest.
#[test]
fn any_mix_of_those_that_sleep_after_their_work_is_shared_as_if_all_were_served_at_once() {
    let mut random = Random::from_env("UMBRA_SEED", 2);
    for _ in 0..60 {
        let (mut sim, mut wants) = mix(&mut random, true);
        let vm = sim.s.add_vm(share(1, 0));
        sim.add(vm, Load::Spins, 0);
        wants.push((Load::Spins, 1.0, 1.0));
        sim.run(SECOND);
        let parts = sim.parts(11 * SECOND);
        let due = filled(&wants);
        for (i, at_once) in served_at_once(&wants, (2 * SECOND) as f64)
            .into_iter()
            .enumerate()
        {
            let least = due[i].min(at_once);
            assert!(
                parts[i] > least - 0.05,
                "{i}, {least}: {parts:?} of {wants:?}"
            );
        }
    }
}

/// With less than its share used, it runs at once when it wakes, unless another waits that has used no more; then within the
/// allowance of each of these.
#[test]
fn one_that_uses_less_than_its_share_waits_no_longer_than_the_allowance() {
    let short = Load::Served {
        burst: 100 * US,
        period: 10 * MS,
    };
    let long = Load::Thinks {
        burst: 30 * MS,
        pause: 70 * MS,
    };
    let spins = Load::Spins;
    for (loads, most) in [
        (&[short, spins, spins, spins][..], 1),
        (&[short, long, spins], 100 * US),
        (&[short, short, long, long, spins], ALLOWANCE_MS * MS),
    ] {
        let mut sim = Simulation::of(loads);
        sim.run(SECOND);
        sim.runners.iter_mut().for_each(|r| r.delay = 0);
        sim.run(11 * SECOND);
        let delay = sim.runners[0].delay;
        assert!(delay <= most, "{delay} of {most} ticks: {loads:?}");
    }
}

#[test]
fn a_cap_holds_on_an_idle_processor_in_every_span_of_time() {
    for cap in [1, 20, 50, 99] {
        let mut sim = Simulation::new();
        let vm = sim.s.add_vm(share(1, cap));
        sim.add(vm, Load::Spins, 0);
        let mut used = alloc::vec![0];
        for ms in 1..=3_000 {
            sim.run(ms * MS);
            used.push(sim.runners[0].used);
        }
        for span in [1, 10, 100, 1_000, 2_000] {
            let most = (span + CAP_WINDOW_MS) * MS * u64::from(cap) / 100;
            for (from, to) in used.iter().zip(&used[span as usize..]) {
                assert!(to - from <= most + 1, "{cap} %, {span} ms: {}", to - from);
            }
        }
        let due = 2 * SECOND * u64::from(cap) / 100;
        let got = used[3_000] - used[1_000];
        assert!(got.abs_diff(due) < due / 20, "{cap} %: {got} of {due}");
    }
}

#[test]
fn a_cap_beside_others_is_reached_and_not_passed() {
    let mut sim = Simulation::of(&[Load::Spins, Load::Spins]);
    let vm = sim.s.add_vm(share(4, 20));
    sim.add(vm, Load::Spins, 0);
    sim.run(SECOND);
    let parts = sim.parts(11 * SECOND);
    for (part, due) in parts.iter().zip([0.4, 0.4, 0.2]) {
        assert!((part - due).abs() < 0.01, "{parts:?}");
    }
    // Without its cap it gets its weight's share, and with a new one that.
    for (cap, due) in [(0, 4.0 / 6.0), (30, 0.3)] {
        sim.s.set_share(vm, share(4, cap));
        sim.run(sim.now + SECOND);
        let parts = sim.parts(sim.now + 10 * SECOND);
        assert!((parts[vm] - due).abs() < 0.01, "{parts:?}");
    }
}

/// Otherwise it would come before those who leave their share of their own accord.
#[test]
fn waiting_for_a_cap_earns_nothing() {
    let often = Load::Served {
        burst: 40 * US,
        period: 190 * US,
    };
    let mut sim = Simulation::of(&[often]);
    let vm = sim.s.add_vm(share(3, 40));
    sim.add(vm, Load::Spins, 0);
    sim.run(SECOND);
    sim.runners[0].delay = 0;
    let parts = sim.parts(11 * SECOND);
    assert!((parts[1] - 0.4).abs() < 0.005, "{parts:?}");
    let delay = sim.runners[0].delay;
    assert!(delay < MS, "{delay}");
}

#[test]
fn a_new_weight_counts_from_now_on() {
    let mut sim = Simulation::of(&[Load::Spins, Load::Spins]);
    sim.run(10 * SECOND);
    for (weight, due) in [(3, 0.75), (1, 0.5), (10_000, 0.9999)] {
        sim.s.set_share(1, share(weight, 0));
        let parts = sim.parts(sim.now + 2 * SECOND);
        assert!((parts[1] - due).abs() < 0.01, "{weight}: {parts:?}");
    }
}

#[test]
fn a_machine_gets_its_share_however_many_virtual_cpus_it_has() {
    let served = Load::Served {
        burst: 3 * MS,
        period: 10 * MS,
    };
    let mut sim = Simulation::new();
    let machines = [&[Load::Spins][..], &[Load::Spins; 8], &[served; 6]];
    for loads in machines {
        let vm = sim.s.add_vm(share(1, 0));
        loads.iter().for_each(|&load| sim.add(vm, load, 0));
    }
    sim.run(SECOND);
    let parts = sim.parts(11 * SECOND);
    assert!(
        parts.iter().all(|part| (part - 1.0 / 3.0).abs() < 0.01),
        "{parts:?}"
    );
    // Those of one machine are equal.
    let of = |vm| {
        let vcpus = sim.runners.iter().filter(move |r| r.entity.vm == vm);
        vcpus.map(|r| r.used)
    };
    for vm in 0..machines.len() {
        let (least, most) = (of(vm).min().unwrap(), of(vm).max().unwrap());
        assert!(most - least < most / 20, "{least} and {most}");
        let used = |vcpu| sim.s.used(Entity { vm, vcpu });
        assert_eq!(of(vm).sum::<u64>(), (0..8).map(used).sum());
    }
}

/// A scheduler with two machines: the first has so many virtual CPUs, all of which can run.
fn machine(vcpus: usize) -> (Scheduler, Vec<Entity>) {
    let mut s = Scheduler::new(HZ);
    let vm = s.add_vm(share(1, 0));
    let vcpus: Vec<_> = (0..vcpus).map(|_| s.add_vcpu(vm)).collect();
    vcpus.iter().for_each(|&vcpu| s.wake(vcpu));
    (s, vcpus)
}

fn picked(s: &mut Scheduler) -> Entity {
    s.pick(0).unwrap().entity
}

#[test]
fn one_that_yields_lets_all_others_of_its_machine_run() {
    let (mut s, vcpus) = machine(4);
    for round in 0..100 {
        for &vcpu in &vcpus {
            assert_eq!(picked(&mut s), vcpu, "{round}");
            s.charge(vcpu, 10 * US);
            s.yield_now(vcpu);
        }
    }
    // Alone, it goes on.
    vcpus[1..].iter().for_each(|&vcpu| s.sleep(vcpu));
    s.yield_now(vcpus[0]);
    assert_eq!(picked(&mut s), vcpus[0]);
}

#[test]
fn one_that_yields_to_another_lends_it_its_place() {
    let (mut s, vcpus) = machine(3);
    assert_eq!(picked(&mut s), vcpus[0]);
    s.charge(vcpus[0], MS);
    s.yield_to(vcpus[0], 2);
    assert_eq!(picked(&mut s), vcpus[2]);
    s.charge(vcpus[2], MS / 2);
    // One that sleeps cannot run.
    s.sleep(vcpus[1]);
    s.yield_to(vcpus[2], 1);
    s.yield_to(vcpus[2], 7);
    assert_eq!(picked(&mut s), vcpus[2]);
    // The place that it had lent comes back: it is half a millisecond behind, and may get ahead by as much.
    s.yield_to(vcpus[2], 0);
    assert_eq!(picked(&mut s), vcpus[0]);
    assert_eq!(s.pick(0).unwrap().until, Some(MS));
}

/// How long a burst that is longer than the credit takes beside two that compute.
#[test]
fn warp_gives_the_processor_earlier_and_not_longer() {
    let load = Load::Served {
        burst: 300 * MS,
        period: 1500 * MS,
    };
    let run = |load, warp| {
        let mut sim = Simulation::of(&[load, Load::Spins, Load::Spins]);
        let new = Share {
            warp,
            ..share(1, 0)
        };
        sim.s.set_share(0, new);
        assert_eq!(sim.s.share(0), new);
        sim.run(3 * SECOND);
        sim.runners[0].delay = 0;
        let part = sim.parts(33 * SECOND)[0];
        (part, sim.runners[0].delay)
    };
    for (warp, delay) in [(0, ALLOWANCE_MS * MS..20 * MS), (250, 0..1)] {
        let (part, longest) = run(load, warp);
        assert!((part - 0.2).abs() < 0.001, "{part}");
        assert!(delay.contains(&longest), "{warp} ms: {longest}");
        // One that computes gets no more by it.
        let (part, _) = run(Load::Spins, warp);
        assert!((part - 1.0 / 3.0).abs() < 0.005, "{part}");
    }
}

#[test]
fn nobody_pays_for_a_leap_of_the_clock() {
    let mut sim = Simulation::of(&[Load::Spins, Load::Spins]);
    sim.run(SECOND);
    sim.s.charge(sim.runners[0].entity, 8 * 3600 * SECOND);
    sim.run(4 * SECOND);
    let parts = sim.parts(6 * SECOND);
    assert!((parts[0] - 0.5).abs() < 0.01, "{parts:?}");
}

/// Whatever is asked of it: who is picked can run, and may; if nobody is picked, nobody can or may.
#[test]
fn who_is_picked_can_run() {
    let mut random = Random::from_env("UMBRA_SEED", 3);
    let mut s = Scheduler::new(HZ);
    let mut can = Vec::new();
    for vm in 0..4 {
        s.add_vm(share(1, 0));
        for _ in 0..=vm {
            can.push((s.add_vcpu(vm), false));
        }
    }
    let mut now = 0u64;
    for _ in 0..100_000 {
        let any = random.pick(&[0, 1, 100, 10 * MS, u64::MAX]);
        let (entity, state) = &mut can[random.below(10) as usize];
        match random.below(8) {
            0 => s.set_share(
                entity.vm,
                Share {
                    weight: random.pick(&[0, 1, 3, 10_000, u32::MAX]),
                    cap: random.pick(&[0, 1, 50, 100, 3_200, u32::MAX]),
                    warp: random.pick(&[0, 10, u32::MAX]),
                },
            ),
            1 => s.yield_now(*entity),
            2 => s.yield_to(*entity, random.below(5) as usize),
            3 => s.charge(*entity, any),
            4 | 5 => {
                s.sleep(*entity);
                *state = false;
            }
            _ => {
                s.wake(*entity);
                *state = true;
            }
        }
        now = now.saturating_add(any.min(SECOND));
        match s.pick(now) {
            Some(turn) => {
                assert!(can.contains(&(turn.entity, true)));
                assert!(turn.until.is_none_or(|until| until > now));
            }
            None if can.iter().any(|&(_, can)| can) => assert!(s.release().unwrap() > now),
            None => assert_eq!(s.release(), None),
        }
    }
}

/// Machines of these weights and numbers of virtual CPUs that compute, on so many processors, for ten seconds: how long each has run, and how often a
/// virtual CPU got a processor that it did not have.
fn on_several(machines: &[(u32, usize)], processors: usize) -> (Vec<u64>, usize, u64) {
    let mut s = Scheduler::new(HZ);
    for &(weight, cpus) in machines {
        let vm = s.add_vm(share(weight, 0));
        for _ in 0..cpus {
            let entity = s.add_vcpu(vm);
            s.wake(entity);
        }
    }
    let all = machines.iter().map(|&(_, cpus)| cpus).sum::<usize>();
    let (mut now, mut changes, mut used) = (0, 0, vec![0; machines.len()]);
    let mut kept = vec![None; processors];
    while now < 10 * SECOND {
        let mut turns = vec![None; processors];
        turns[0] = s.pick(now);
        for n in 1..processors {
            turns[n] = s.pick_beside(now, &turns[..n], &kept);
        }
        let chosen: Vec<_> = turns.iter().flatten().map(|turn| turn.entity).collect();
        assert_eq!(chosen.len(), all.min(processors));
        for (n, one) in chosen.iter().enumerate() {
            assert!(!chosen[..n].contains(one), "{chosen:?}");
        }
        changes += chosen.iter().filter(|&&e| !kept.contains(&Some(e))).count();
        // A round ends with the shortest turn, and after a millisecond for another reason.
        let ends = turns.iter().flatten().filter_map(|turn| turn.until);
        let round = ends.fold(now + MS, u64::min).max(now + 1) - now;
        for &entity in &chosen {
            s.charge(entity, round);
            used[entity.vm] += round;
        }
        now += round;
        kept = turns.iter().map(|turn| turn.map(|t| t.entity)).collect();
    }
    (used, changes, now)
}

#[test]
fn several_processors_share_what_there_is() {
    for (machines, processors) in [(1, 2), (2, 2), (3, 2), (5, 2), (5, 4)] {
        let (used, changes, now) = on_several(&vec![(1, 1); machines], processors);
        let fair = now * machines.min(processors) as u64 / machines as u64;
        for &used in &used {
            assert!(
                used.abs_diff(fair) <= fair / 20,
                "{machines} on {processors}: {used} of {fair}"
            );
        }
        let most = machines + 10_000 * processors / 2;
        assert!(changes <= most, "{machines} on {processors}: {changes}");
    }
}

#[test]
fn weights_hold_on_several_processors() {
    for (cpus, processors) in [(2, 2), (3, 2), (4, 4), (2, 3)] {
        let (used, _, now) = on_several(&[(1, cpus), (3, cpus)], processors);
        // What the heavier one cannot use is the other's.
        let all = now * processors.min(2 * cpus) as u64;
        let heavy = (all * 3 / 4).min(now * cpus as u64);
        assert!(
            used[1].abs_diff(heavy) <= all * 3 / 100,
            "{cpus} on {processors}: {used:?}"
        );
    }
    let (used, _, now) = on_several(&[(1, 1), (1, 4)], 2);
    assert!(
        used[0].abs_diff(now) <= now / 20,
        "one that has one processor: {used:?}"
    );
}
