//! Virtual CPUs on the host's CPUs.
//!
//! They run in rounds ([`smp::together`]): each of the host's CPUs runs one, at most one of each VM, until one of them stops. Then all stop, and the
//! first CPU sees to what has become of each. So nothing runs while it does, and nothing of a VM is used by two CPUs at once.

use super::{Dump, Flow, Session};
use crate::clock;
use crate::guest::{Cpu, CpuSlot};
use crate::{interrupts, smp};
use alloc::vec::Vec;
use core::ops::ControlFlow;
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
    /// The host's time when the round begins; when it is to end, and from when on if the guest has been left anyway.
    now: VmTime,
    end: VmTime,
    soft_end: VmTime,
    /// Why it ended, and how long it took.
    stop: Option<Stop>,
    used: u64,
}

impl<B: VcpuBackend> Part<'_, B> {
    /// Does it, on the host's CPU that it is for.
    fn run(&mut self) {
        let slot = &mut *self.slot;
        if self.load {
            slot.load();
            slot.begin_turn();
        }
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
        let stop = run(cpu);
        let after = clock::ticks();
        self.used = after - before;
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
        let Some(first) = self.scheduler.pick(now) else {
            return false;
        };
        let hosts = self.turns.len();
        if hosts == 1 {
            self.turns[0] = Some(first);
            return true;
        }
        let mut chosen = alloc::vec![first];
        let mut taken = alloc::vec![first.entity.vm];
        let kept = self.loaded.iter().flatten().map(|entity| entity.vm);
        let kept: Vec<usize> = kept.collect();
        while chosen.len() < hosts
            && let Some(turn) = self.scheduler.pick_beside(now, &taken, &kept)
        {
            chosen.push(turn);
            taken.push(turn.entity.vm);
        }
        place(chosen, &self.loaded, &mut self.turns);
        true
    }

    /// Those that have turns run.
    pub(super) fn run_cpus(&mut self) -> Flow {
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
        let now = self.time();
        let service = self.due;
        let next = self.next(now, true);
        let end_of = |turn: &Turn| {
            turn.until
                .map_or(VmTime::NEVER, |ticks| self.clock.time(ticks))
        };
        let mut parts: Vec<Option<Part<'_, B>>> = Vec::new();
        parts.resize_with(self.turns.len(), || None);
        for (index, vm) in self.vms.iter_mut().enumerate() {
            let mut turns = (0..).zip(&self.turns);
            let turn = turns.find_map(|(host, turn)| {
                let turn = turn.as_ref().filter(|turn| turn.entity.vm == index)?;
                Some((host, turn))
            });
            let Some((host, turn)): Option<(usize, &Turn)> = turn else {
                continue;
            };
            let Entity { vcpu: n, .. } = turn.entity;
            let sibling_waits = (0..vm.guest.cpus.len()).any(|m| m != n && vm.can_run(m));
            let load = self.loaded[host] != Some(turn.entity);
            self.loaded[host] = Some(turn.entity);
            // Service is the first CPU's, which ends the round for it.
            let (end, soft_end) = match host {
                0 => (next.min(end_of(turn)), service),
                _ => (end_of(turn), VmTime::NEVER),
            };
            parts[host] = Some(Part {
                entity: turn.entity,
                slot: &mut vm.guest.cpus[n],
                load,
                sibling_waits,
                now,
                end,
                soft_end,
                stop: None,
                used: 0,
            });
        }
        let mut parts = parts.into_iter();
        let mut first = parts.next().flatten();
        let mut others: Vec<(usize, Part<'_, B>)> = (1..)
            .zip(parts)
            .filter_map(|(host, part)| Some((host, part?)))
            .collect();
        let mut own = || {
            if let Some(part) = &mut first {
                part.run();
            }
        };
        if others.is_empty() {
            own();
        } else {
            let mut works: Vec<_> = others
                .iter_mut()
                .map(|(host, part)| (*host, move || part.run()))
                .collect();
            let mut works: Vec<(usize, &mut (dyn FnMut() + Send))> = works
                .iter_mut()
                .map(|(host, work)| (*host, work as &mut (dyn FnMut() + Send)))
                .collect();
            smp::together(&mut works, own);
        }
        let stops: Vec<(Entity, u64, Option<Stop>, bool)> = first
            .into_iter()
            .map(|part| (part, true))
            .chain(others.into_iter().map(|(_, part)| (part, false)))
            .map(|(part, is_first)| (part.entity, part.used, part.stop, is_first))
            .collect();
        for &(entity, used, ..) in &stops {
            self.scheduler.charge(entity, used);
        }
        let mut serve = false;
        for (entity, _, stop, is_first) in stops {
            if let Some(stop) = stop {
                serve |= self.stopped(entity, stop, is_first);
            }
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
                self.reset(index, "the guest's CPU shut down (triple fault)");
            }
            Stop::Power(PowerAction::PowerOff) => {
                let number = self.vms[index].number;
                log::info!("VM {number}: the guest switched the machine off");
                self.switched_off(index, Event::PowerOff);
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

/// Gives each of those chosen a CPU of the host's: the one that it has. The first CPU always gets one, as it is there anyway.
fn place(chosen: Vec<Turn>, loaded: &[Option<Entity>], turns: &mut [Option<Turn>]) {
    let mut rest = Vec::new();
    for turn in chosen {
        let host = loaded.iter().position(|&has| has == Some(turn.entity));
        match host.and_then(|host| turns.get_mut(host)) {
            Some(place) => *place = Some(turn),
            None => rest.push(turn),
        }
    }
    for turn in rest {
        if let Some(place) = turns.iter_mut().find(|place| place.is_none()) {
            *place = Some(turn);
        }
    }
    if turns.first().is_some_and(Option::is_none)
        && let Some(host) = turns.iter().position(Option::is_some)
    {
        turns.swap(0, host);
    }
}
