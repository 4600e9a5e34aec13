//! Virtual CPUs on the host's CPUs.
//!
//! They run in rounds ([`smp::together`]): each of the host's CPUs runs one, until one of them stops. Then all stop, and the first CPU sees to what has
//! become of each, while nothing runs.

use super::answers::{self, Waiting};
use super::{Dump, Flow, Session, State, Vm};
use crate::guest::{Cpu, CpuSlot};
use crate::interrupts::{self, Concerns, TIMER_FIRED};
use crate::{clock, control};
use crate::{selftest, smp};
use alloc::vec::Vec;
use core::ops::ControlFlow;
use core::sync::atomic::Ordering;
use hv_core::VmTime;
use hv_core::cpu::VcpuBackend;
use hv_core::device::PowerAction;
use hv_core::sched::{Entity, Turn};
use hv_core::time::Clock;
use hv_core::vcpu::Stop;
use protocol::Event;

/// What one of the host's CPUs does in a round.
struct Part<'a, B: VcpuBackend> {
    entity: Entity,
    slot: &'a mut CpuSlot<B>,
    /// It has to be loaded first.
    load: bool,
    /// Another CPU of its VM could run.
    sibling_waits: bool,
    /// Nobody waits for a CPU of the host's: when it halts, it keeps its own.
    may_wait: bool,
    /// The host's time when the round begins; when it is to end, and from when on if the guest has been left anyway.
    now: VmTime,
    end: VmTime,
    soft_end: VmTime,
    /// Whose devices the first CPU sees to meanwhile.
    waiting: &'a [Waiting],
    /// Why it ended, and how long it took.
    stop: Option<Stop>,
    used: u64,
}

/// What a part of a round came to, on this CPU of the host's.
type Ended = (usize, Entity, u64, Option<Stop>);

impl<B: VcpuBackend> Part<'_, B> {
    /// Does it, on the host's CPU that it is for.
    fn run(&mut self) {
        let slot = &mut *self.slot;
        if self.load {
            slot.load();
            slot.begin_turn();
        }
        selftest::run_guest();
        let before = clock::ticks();
        let cpu = &mut slot.cpu;
        cpu.cpu.set_pause_exiting(self.sibling_waits);
        cpu.resume();
        let now = self.now;
        let guests_time = |cpu: &Cpu<B>, time| match time {
            VmTime::NEVER => time,
            time => cpu.now() + (time - now),
        };
        cpu.service_at = guests_time(cpu, self.end);
        cpu.service_from = guests_time(cpu, self.soft_end);
        let mut waited = 0;
        let waiting = self.waiting;
        let stop = loop {
            match run(&mut slot.cpu) {
                // What has come may be from another virtual CPU, and has been seen to when the interrupt is let in.
                Stop::HostInterrupt if smp::goes_on() && answers::pass_on(waiting) => {}
                Stop::Idle(until) if self.may_wait && !control::console_waiting() => {
                    let since = clock::ticks();
                    slot.halt();
                    let halt = || smp::halt() && answers::pass_on(waiting);
                    let goes_on = slot.cpu.wait(until, halt);
                    waited += clock::ticks() - since;
                    if !goes_on {
                        break Stop::Idle(until);
                    }
                    slot.wake();
                    if smp::is_ending() {
                        break Stop::HostInterrupt;
                    }
                }
                stop => break stop,
            }
        };
        let after = clock::ticks();
        self.used = (after - before).saturating_sub(waited);
        slot.preempt(after);
        if matches!(stop, Stop::Idle(_)) {
            slot.halt();
        }
        self.stop = Some(stop);
    }
}

/// [`Vcpu::run`](hv_core::vcpu::Vcpu::run) in a function of its own: it has all registers for itself.
#[inline(never)]
fn run<B: VcpuBackend>(cpu: &mut Cpu<B>) -> Stop {
    cpu.run()
}

/// Takes the current CPU of the host's away from a virtual CPU.
fn unload<B: VcpuBackend>(slot: &mut CpuSlot<B>) {
    slot.cpu.end_turn();
    slot.unload();
}

impl<B: VcpuBackend> Session<B> {
    /// Takes all of the host's CPUs away from whoever has them.
    pub(super) fn unload(&mut self) {
        (0..self.loaded.len()).for_each(|host| self.unload_from(host));
    }

    /// Takes a CPU of the host's away from whoever has it.
    fn unload_from(&mut self, host: usize) {
        if let Some(Entity { vm, vcpu }) = self.loaded[host].take() {
            let slot = &mut self.vms[vm].guest.cpus[vcpu];
            match host {
                0 => unload(slot),
                _ => smp::together(&mut [(host, &mut || unload(slot))], || {}),
            }
        }
    }

    /// Decides who runs next, and where: on the CPU that it has, if it has one. Whether anybody does.
    pub(super) fn share_out(&mut self, now: u64) -> bool {
        self.turns.fill(None);
        let turns = &mut self.turns[self.serves..];
        let loaded = &self.loaded[self.serves..];
        let first = self.scheduler.pick(now);
        turns[0] = first;
        for next in 1..turns.len() {
            let (chosen, rest) = turns.split_at_mut(next);
            rest[0] = self.scheduler.pick_beside(now, chosen, loaded);
        }
        place(turns, loaded);
        first.is_some()
    }

    /// Takes CPUs of the host's away from those who have them and shall not, or another.
    fn make_room(&mut self) {
        for host in 0..self.turns.len() {
            let Some(Turn { entity, .. }) = self.turns[host] else {
                continue;
            };
            if self.loaded[host] == Some(entity) {
                continue;
            }
            self.unload_from(host);
            let elsewhere = self.loaded.iter().position(|&has| has == Some(entity));
            if let Some(other) = elsewhere {
                self.unload_from(other);
            }
        }
    }

    /// Those that have turns run.
    pub(super) fn run_cpus(&mut self) -> Flow {
        self.make_room();
        if self.turns.len() > 1 {
            for (waiting, vm) in self.waiting.iter_mut().zip(&self.vms) {
                let clock = &vm.guest.cpus[0].cpu.clock;
                waiting.begin(clock, vm.state == State::Running);
            }
        }
        let now = self.time();
        let service = self.due;
        let next = self.next(now, true);
        let end_of = |turn: &Turn| {
            turn.until
                .map_or(VmTime::NEVER, |ticks| self.clock.time(ticks))
        };
        let hosts = self.turns.len() - self.serves;
        let may_wait =
            self.turns.len() > 1 && self.vms.iter().map(Vm::runnable).sum::<usize>() <= hosts;
        let waiting = &self.waiting[..];
        let part = |host: usize, turn: &Turn, load, sibling_waits, slot| {
            // Service is the first CPU's, which ends the round for it.
            let (end, soft_end) = match host {
                0 => (next.min(end_of(turn)), service),
                _ => (end_of(turn), VmTime::NEVER),
            };
            Part {
                entity: turn.entity,
                slot,
                load,
                sibling_waits,
                may_wait,
                now,
                end,
                soft_end,
                waiting,
                stop: None,
                used: 0,
            }
        };
        let turns = &self.turns;
        let loaded = &mut self.loaded;
        let mut load = |host: usize, entity| loaded[host].replace(entity) != Some(entity);
        // Whether a CPU of this VM's could run and does not.
        let sibling_waits = |vm: &Vm<B>, index| {
            let is_chosen = |vcpu| {
                let entity = Entity { vm: index, vcpu };
                turns.iter().flatten().any(|turn| turn.entity == entity)
            };
            (0..vm.guest.cpus.len()).any(|n| vm.can_run(n) && !is_chosen(n))
        };
        if let [Some(turn)] = turns[..] {
            let Entity { vm: index, vcpu } = turn.entity;
            let vm = &mut self.vms[index];
            let waits = sibling_waits(vm, index);
            let load = load(0, turn.entity);
            let mut part = part(0, &turn, load, waits, &mut vm.guest.cpus[vcpu]);
            part.run();
            let ended = (0, part.entity, part.used, part.stop);
            return self.ended(&mut [ended], false);
        }
        let mut parts: Vec<(usize, Part<'_, B>)> = Vec::with_capacity(turns.len());
        for (index, vm) in self.vms.iter_mut().enumerate() {
            let waits = sibling_waits(vm, index);
            for (vcpu, slot) in vm.guest.cpus.iter_mut().enumerate() {
                let entity = Entity { vm: index, vcpu };
                let mut all = (0..).zip(turns);
                let its = all.find_map(|(host, turn)| {
                    let turn = turn.as_ref().filter(|turn| turn.entity == entity)?;
                    Some((host, turn))
                });
                let Some((host, turn)) = its else {
                    continue;
                };
                let load = load(host, entity);
                parts.push((host, part(host, turn, load, waits, slot)));
            }
        }
        parts.sort_unstable_by_key(|&(host, _)| host);
        selftest::begin_round(parts.len());
        let clock = &mut self.clock;
        together(&mut parts, || {
            clock.arm(next, now);
            let fired = || TIMER_FIRED.load(Ordering::Relaxed);
            while !fired() && smp::halt() && answers::pass_on(waiting) {}
        });
        let serve =
            TIMER_FIRED.load(Ordering::Relaxed) || interrupts::take_news_for(Concerns::Session);
        let ended = parts
            .into_iter()
            .map(|(host, part)| (host, part.entity, part.used, part.stop));
        let mut ended: Vec<Ended> = ended.collect();
        self.ended(&mut ended, serve)
    }

    /// A round has ended so for those that ran. `serve`: the first CPU has something to see to.
    fn ended(&mut self, ended: &mut [Ended], mut serve: bool) -> Flow {
        for &mut (_, entity, used, _) in &mut *ended {
            self.scheduler.charge(entity, used);
        }
        // Once a machine has been reset or switched off, what its other CPUs came to is of the past.
        let mut over = 0u64;
        for (host, entity, _, stop) in ended {
            let machine = 1 << (entity.vm % 64);
            let Some(stop) = stop.take().filter(|_| over & machine == 0) else {
                continue;
            };
            if matches!(stop, Stop::Power(_) | Stop::TripleFault | Stop::Fatal(_)) {
                over |= machine;
            }
            serve |= self.stopped(*entity, stop, *host == 0);
        }
        match serve {
            true => self.service(),
            false => ControlFlow::Continue(()),
        }
    }

    /// A virtual CPU has stopped; its slot knows when, and whether it has halted. Whether there is to be service.
    fn stopped(&mut self, entity: Entity, stop: Stop, is_first: bool) -> bool {
        let Entity { vm: index, vcpu: n } = entity;
        match stop {
            // The end of its turn, or of the round.
            Stop::HostInterrupt | Stop::Service if !is_first => return false,
            // Bochs 2.7 does not leave a guest for a host interrupt while the guest's interrupt flag is clear: those are let
            // in when service is due.
            Stop::HostInterrupt | Stop::Service => interrupts::window(),
            Stop::Idle(_) | Stop::Wakeup | Stop::Yield | Stop::YieldTo(_) => {
                let vm = &mut self.vms[index];
                vm.wake_cpus();
                if vm.guest.is_dead() {
                    log::info!(
                        "VM {}: all CPUs have halted with interrupts off: the machine is off",
                        vm.number
                    );
                    self.switched_off(index, Event::PowerOff);
                }
                self.schedule(index);
                match stop {
                    Stop::Yield => self.scheduler.yield_now(entity),
                    Stop::YieldTo(vcpu) => self.scheduler.yield_to(entity, vcpu),
                    _ => {}
                }
                return false;
            }
            Stop::Power(PowerAction::Reset) => self.reset(index, "the guest reset the machine"),
            Stop::TripleFault => {
                let number = self.vms[index].number;
                self.with_registers(entity, |dump| {
                    log::warn!(
                        "VM {number}: the guest's CPU {n} shut down (triple fault):\n{dump}"
                    );
                });
                if !self.breaks_at_triple_fault(index, n) {
                    self.reset(index, "the guest's CPU shut down (triple fault)");
                }
            }
            Stop::Trace => {
                self.vms[index].send_trace(false, &mut self.buffer);
                return false;
            }
            Stop::Debug(stop) => self.debugged(index, n, stop),
            Stop::Crashed => {
                self.crashed(index);
                return false;
            }
            Stop::Power(PowerAction::PowerOff) => {
                let number = self.vms[index].number;
                log::info!("VM {number}: the guest switched the machine off");
                self.switched_off(index, Event::PowerOff);
            }
            Stop::Power(PowerAction::Suspend) => {
                self.finish_output(index);
                let vm = &mut self.vms[index];
                log::info!(
                    "VM {}: the guest has suspended the machine to RAM: a key, the power button or its clock wakes it",
                    vm.number
                );
                vm.stop(State::Suspended);
                control::event(vm.number, Event::Suspended);
            }
            Stop::Fatal(why) => {
                let number = self.vms[index].number;
                self.with_registers(entity, |dump| {
                    log::error!("VM {number}: the guest cannot go on: {why}\n{dump}");
                });
                self.switched_off(index, Event::Fatal(&why));
            }
        }
        true
    }

    /// Calls `f` with a virtual CPU's registers, which only the CPU of the host's that has it can read.
    fn with_registers(&mut self, entity: Entity, f: impl FnOnce(&Dump<'_, B>)) {
        self.unload();
        let slot = &mut self.vms[entity.vm].guest.cpus[entity.vcpu];
        slot.while_loaded(|cpu| f(&Dump(&cpu.cpu)));
    }
}

/// All do their parts, each on its CPU of the host's; the first of these may be the first CPU, which otherwise does what is `free`.
fn together<B: VcpuBackend>(parts: &mut [(usize, Part<'_, B>)], free: impl FnOnce()) {
    let (own, others) = match parts {
        [(0, own), others @ ..] => (Some(own), others),
        others => (None, others),
    };
    let mut works: Vec<_> = others
        .iter_mut()
        .map(|(host, part)| (*host, move || part.run()))
        .collect();
    let mut works: Vec<(usize, &mut (dyn FnMut() + Send))> = works
        .iter_mut()
        .map(|(host, work)| (*host, work as &mut (dyn FnMut() + Send)))
        .collect();
    smp::together(&mut works, || match own {
        Some(own) => own.run(),
        None => free(),
    });
}

/// Gives each of those chosen the CPU of the host's that it has. The first CPU always gets one, as it is there anyway.
fn place(turns: &mut [Option<Turn>], loaded: &[Option<Entity>]) {
    for (host, &has) in loaded.iter().enumerate() {
        let its = |turn: &Option<Turn>| turn.is_some_and(|turn| Some(turn.entity) == has);
        if let Some(at) = turns.iter().position(its) {
            turns.swap(host, at);
        }
    }
    if turns.first().is_some_and(Option::is_none)
        && let Some(host) = turns.iter().position(Option::is_some)
    {
        turns.swap(0, host);
    }
}
