//! Devices of guests whose requests the host's disks and its network card have answered. They go on while guests run: no CPU has to stop for that.

use crate::clock::HostClock;
use crate::guest::{self, Guest};
use crate::interrupts::{self, Concerns};
use crate::{disk, host_cpu, net};
use alloc::sync::Arc;
use hv_core::cpu::VcpuBackend;
use hv_core::time::Clock;
use switch::Ports;

/// Who has been answered.
pub(super) struct Answers {
    frames: Ports,
    disks: u8,
}

impl Answers {
    /// What has come since this was last asked.
    pub fn take() -> Self {
        Self {
            frames: net::arrived(),
            disks: disk::answered(),
        }
    }

    /// Whether something is for VM `number`, whose network cards are at `ports`.
    pub fn is_for(&self, number: u8, ports: Ports) -> bool {
        self.disks >> (number - 1) & 1 != 0 || self.frames.any_of(ports)
    }
}

/// A VM, as far as its devices wait for answers.
pub(super) struct Waiting {
    vm: Arc<guest::Vm>,
    ports: Ports,
    clock: HostClock,
    runs: bool,
}

impl Waiting {
    /// That of `guest`, which does not run yet.
    pub fn new<B: VcpuBackend>(guest: &Guest<B>) -> Self {
        Self {
            vm: guest.vm.clone(),
            ports: guest.ports,
            clock: guest.cpus[0].cpu.clock.clone(),
            runs: false,
        }
    }

    /// A round begins, in which this is the guest's time, if it `runs`.
    pub fn begin(&mut self, clock: &HostClock, runs: bool) {
        self.clock.clone_from(clock);
        self.runs = runs;
    }

    /// The devices take what has come. Whether that is all: otherwise the session has to see to it.
    fn take(&self) -> bool {
        let vm = &self.vm;
        let now = self.clock.time(self.clock.ticks());
        let deadline = vm.deadline();
        vm.bus().wake_at(now);
        if !self.runs {
            return true;
        }
        vm.poll(now);
        // A CPU that runs has armed its timer for the deadline before; one that does not run is for the session to wake.
        vm.deadline() >= deadline && !vm.unsettled() && !vm.wakeups.any(u32::MAX)
    }
}

/// Has devices take what has come for them, if this is the first CPU. Whether the round can go on.
pub(super) fn pass_on(all: &[Waiting]) -> bool {
    if host_cpu::current().number != 0 || !interrupts::take_news_for(Concerns::Devices) {
        return true;
    }
    let answers = Answers::take();
    let its = all.iter().filter(|w| answers.is_for(w.vm.number, w.ports));
    let left = its.filter(|waiting| !waiting.take()).count();
    if left > 0 {
        interrupts::concern(Concerns::Session);
    }
    left == 0
}
