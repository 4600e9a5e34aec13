//! Who runs next on a processor: virtual machines by weight, warp and cap, and the virtual CPUs of each in turn.
//!
//! There are two levels, both shared by borrowed virtual time (`fair.rs`). A virtual machine competes with the others as *one*, with the time that all its virtual CPUs use:
//! so a machine with eight of them gets no more than one of the same weight with one, as long as that one can use its share. Who of
//! a machine's virtual CPUs runs is settled among them, where all are equal. (With a weight for each virtual CPU, the machine's divided by those that
//! can run, the same would come out for those that compute; but each that goes to sleep would change the rest's, and what one has saved is lost
//! for the others.)
//!
//! *Weight* is the share, *warp* the head start: a machine with warp is run as if it had used so much less, so it runs at once when it wakes
//! though it has had its share already. It pays for it later, and its share stays the same. *Cap* is the most a machine gets, even of
//! an idle processor (`cap.rs`).
//!
//! The scheduler has no clock: all times are given, in ticks of any clock that does not go back. Several processors share one: it gives them
//! virtual CPUs one after the other ([`pick_beside`](Scheduler::pick_beside)). A machine whose turn it is gets as many processors as it has virtual
//! CPUs that can run; so those of one machine run at the same time, and weights hold whatever the numbers are.

mod cap;
mod fair;
#[cfg(test)]
mod tests;

use self::cap::Cap;
use self::fair::{Fair, Limits};
use alloc::vec::Vec;

/// How far one that computes gets ahead of others that compute, before it makes room for them: in milliseconds.
pub const ALLOWANCE_MS: u64 = 5;
/// How much of its time one that sleeps keeps.
pub const CREDIT_MS: u64 = 100;
/// What a cap is counted over: in any span it holds for the span and so much more.
pub const CAP_WINDOW_MS: u64 = 100;
/// What counts of one charge at most.
const CHARGE_MS: u64 = 1000;

/// A virtual CPU of a virtual machine, by their indices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entity {
    /// The virtual machine.
    pub vm: usize,
    /// Its virtual CPU.
    pub vcpu: usize,
}

/// What a virtual machine is to get.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Share {
    /// Its share, beside the weights of the others: 1 or more.
    pub weight: u32,
    /// The most it gets, in percent of one processor. 0: all that is there.
    pub cap: u32,
    /// How many milliseconds of its time it may borrow.
    pub warp: u32,
}

/// Whose turn it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turn {
    /// Who runs.
    pub entity: Entity,
    /// When another's turn comes, or may come. None: there is no other.
    pub until: Option<u64>,
}

#[derive(Clone, Debug)]
struct Vm {
    share: Share,
    cap: Cap,
    vcpus: Fair,
    /// Ticks that each has used.
    used: Vec<u64>,
}

/// The scheduler.
#[derive(Clone, Debug)]
pub struct Scheduler {
    vms: Vec<Vm>,
    level: Fair,
    ticks_per_ms: u64,
}

impl Scheduler {
    /// A scheduler with nobody to run, by a clock of this frequency.
    #[must_use]
    pub const fn new(hz: u64) -> Self {
        let ticks_per_ms = hz.div_ceil(1000);
        Self {
            vms: Vec::new(),
            level: Fair::new(Self::limits(ticks_per_ms)),
            ticks_per_ms,
        }
    }

    const fn limits(ticks_per_ms: u64) -> Limits {
        Limits {
            allowance: ticks_per_ms.saturating_mul(ALLOWANCE_MS),
            turn: ticks_per_ms / 20,
            credit: ticks_per_ms.saturating_mul(CREDIT_MS),
            charge: ticks_per_ms.saturating_mul(CHARGE_MS),
        }
    }

    /// A further virtual machine, yet without virtual CPUs. Returns its index.
    pub fn add_vm(&mut self, share: Share) -> usize {
        let index = self.level.add();
        self.vms.push(Vm {
            share,
            cap: Cap::none(self.ticks_per_ms.saturating_mul(CAP_WINDOW_MS)),
            vcpus: Fair::new(Self::limits(self.ticks_per_ms)),
            used: Vec::new(),
        });
        self.set_share(index, share);
        index
    }

    /// A further virtual CPU of a machine that is there; it sleeps.
    ///
    /// # Panics
    /// There is no such machine.
    pub fn add_vcpu(&mut self, vm: usize) -> Entity {
        let machine = &mut self.vms[vm];
        machine.used.push(0);
        let vcpu = machine.vcpus.add();
        Entity { vm, vcpu }
    }

    /// What a virtual machine is to get.
    #[must_use]
    pub fn share(&self, vm: usize) -> Share {
        self.vms.get(vm).map_or(Share::default(), |vm| vm.share)
    }

    /// A virtual machine is to get this from now on.
    pub fn set_share(&mut self, index: usize, share: Share) {
        if let Some(vm) = self.vms.get_mut(index) {
            vm.share = share;
            vm.cap.set(share.cap);
            let warp = self.ticks_per_ms.saturating_mul(share.warp.into());
            self.level.set(index, share.weight, warp);
        }
    }

    /// A virtual CPU can run. One that could already stays in its place.
    pub fn wake(&mut self, entity: Entity) {
        self.set_runnable(entity, true);
    }

    /// A virtual CPU can run no longer.
    pub fn sleep(&mut self, entity: Entity) {
        self.set_runnable(entity, false);
    }

    fn set_runnable(&mut self, entity: Entity, can_run: bool) {
        if let Some(vm) = self.vms.get_mut(entity.vm) {
            vm.vcpus.set_runnable(entity.vcpu, can_run);
        }
    }

    /// A virtual CPU has used the processor for `ticks`.
    pub fn charge(&mut self, entity: Entity, ticks: u64) {
        if let Some(vm) = self.vms.get_mut(entity.vm)
            && let Some(used) = vm.used.get_mut(entity.vcpu)
        {
            *used = used.saturating_add(ticks);
            vm.vcpus.charge(entity.vcpu, ticks);
            vm.cap.charge(ticks);
            self.level.charge(entity.vm, ticks);
        }
    }

    /// How many ticks a virtual CPU has used.
    #[must_use]
    pub fn used(&self, entity: Entity) -> u64 {
        let vm = self.vms.get(entity.vm);
        vm.and_then(|vm| vm.used.get(entity.vcpu))
            .copied()
            .unwrap_or(0)
    }

    /// Who runs from `now` on. None: nobody can, or may before [`release`](Self::release).
    pub fn pick(&mut self, now: u64) -> Option<Turn> {
        for (index, vm) in self.vms.iter_mut().enumerate() {
            let allowed = vm.cap.allows(now);
            if !allowed {
                self.level.forfeit(index);
            }
            let may_run = allowed && vm.vcpus.any_runnable();
            self.level.set_runnable(index, may_run);
        }
        let index = self.level.pick()?;
        let vm = self.vms.get_mut(index)?;
        let vcpu = vm.vcpus.pick()?;
        let slices = [self.level.slice(), vm.vcpus.slice(), vm.cap.left()];
        let slice = slices.into_iter().flatten().min();
        let end = slice.map(|slice| now.saturating_add(slice));
        Some(Turn {
            entity: Entity { vm: index, vcpu },
            until: end.into_iter().chain(self.release()).min(),
        })
    }

    /// Who runs on another processor from `now` on, beside those that are `taken`, the first of which [`pick`](Self::pick) has chosen just now. One of `kept`,
    /// which had a processor last, goes on until another is so far behind that a change is worth its while.
    pub fn pick_beside(
        &mut self,
        now: u64,
        taken: &[Option<Turn>],
        kept: &[Option<Entity>],
    ) -> Option<Turn> {
        let taken = |entity| taken.iter().flatten().any(|turn| turn.entity == entity);
        let kept = |entity| kept.contains(&Some(entity));
        let vms = &self.vms;
        let vcpus = |vm: usize| (0..vms[vm].used.len()).map(move |vcpu| Entity { vm, vcpu });
        let (index, slice) = self.level.pick_beside(
            |vm| vcpus(vm).any(|e| vms[vm].vcpus.is_runnable(e.vcpu) && !taken(e)),
            |vm| vcpus(vm).any(kept),
        )?;
        let vm = vms.get(index)?;
        let (vcpu, own) = vm.vcpus.pick_beside(
            |vcpu| !taken(Entity { vm: index, vcpu }),
            |vcpu| kept(Entity { vm: index, vcpu }),
        )?;
        let slices = [slice, own, vm.cap.left()];
        let slice = slices.into_iter().flatten().min();
        Some(Turn {
            entity: Entity { vm: index, vcpu },
            until: slice.map(|slice| now.saturating_add(slice)),
        })
    }

    /// When the next of those that wait for their cap may run again. None: nobody waits for it.
    #[must_use]
    pub fn release(&self) -> Option<u64> {
        let waiting = self.vms.iter().filter(|vm| vm.vcpus.any_runnable());
        waiting.filter_map(|vm| vm.cap.release()).min()
    }

    /// A virtual CPU lets all others of its machine run first that can: it waits for one of them.
    pub fn yield_now(&mut self, entity: Entity) {
        if let Some(vm) = self.vms.get_mut(entity.vm) {
            vm.vcpus.yield_now(entity.vcpu);
        }
    }

    /// A virtual CPU lets another of its machine run next, in its own place, if that one can run.
    pub fn yield_to(&mut self, entity: Entity, vcpu: usize) {
        if let Some(vm) = self.vms.get_mut(entity.vm) {
            vm.vcpus.yield_to(entity.vcpu, vcpu);
        }
    }
}
