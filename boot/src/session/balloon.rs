//! RAM that goes from one guest to another: what each gives and wants is seen to when nothing runs, a little at a time.

use super::{Session, State};
use crate::clock;
use host_memory::MIB;
use hv_core::VmTime;
use hv_core::cpu::VcpuBackend;
use hv_core::sched::Entity;

/// When there is more to be moved: the guests run meanwhile.
const MORE: VmTime = VmTime::from_millis(1);
/// How often it is looked whether a guest has given what it is asked for.
const ASKED: VmTime = VmTime::from_millis(20);
/// How often it is looked whether a guest wants back what it has given, or somebody has given what one lacks.
const AWAY: VmTime = VmTime::from_millis(100);

impl<B: VcpuBackend> Session<B> {
    /// Moves some of the RAM that VM `index` gives or wants, and starts it if it has waited for the last of it. Says when to do so again, in the
    /// host's time, which is `now`.
    pub(super) fn move_ram(&mut self, index: usize, now: VmTime) -> VmTime {
        let vm = &mut self.vms[index];
        let Some(before) = vm.guest.filling() else {
            return VmTime::NEVER;
        };
        if before.ripe != 0 || before.wanted != 0 {
            let begin = clock::ticks();
            let moved = vm.guest.move_ram();
            let wants = vm.guest.filling().map_or(0, |filling| filling.wanted);
            if moved.lacks && !vm.lacks {
                log::warn!(
                    "VM {}: it waits for {} MiB of its memory, which others have",
                    vm.number,
                    wants * host_memory::CHUNK / MIB
                );
            }
            vm.lacks = moved.lacks;
            if moved.chunks != 0 {
                vm.wake_devices();
            }
            let used = clock::ticks() - begin;
            self.scheduler.charge(Entity { vm: index, vcpu: 0 }, used);
            if moved.chunks != 0 && !moved.lacks {
                return self.started(index, now + MORE);
            }
        }
        let vm = &self.vms[index];
        let waits_for_guest = before.inside != u64::from(before.target);
        let next = match vm.state {
            _ if vm.lacks => AWAY,
            State::Running if waits_for_guest => ASKED,
            _ if before.away != 0 || before.ripe != 0 => AWAY,
            _ => return self.started(index, VmTime::NEVER),
        };
        self.started(index, now + next)
    }

    /// VM `index` starts if it has waited for its RAM, and that is there.
    fn started(&mut self, index: usize, next: VmTime) -> VmTime {
        let vm = &mut self.vms[index];
        if vm.state == State::Waiting && vm.guest.is_whole() {
            vm.state = State::Running;
            self.reset(index, "its memory is there");
        }
        next
    }
}
