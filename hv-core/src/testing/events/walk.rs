//! Both processors side by side, through all states.

use super::{Bare, Chip, Insn, Tiny};
use crate::Gpa;
use crate::bus::{Bus, Width};
use crate::cpu::VcpuBackend;
use crate::cpuid::{Cpuid, CpuidResult};
use crate::emulate::Shadow;
use crate::lock::Lock;
use crate::machine::Topology;
use crate::mem::GuestMemory;
use crate::pvclock::PvClock;
use crate::regs::{SegReg, gpr};
use crate::testing::{LinearMmu, VecMemory};
use crate::time::{Clock, VmTime};
use crate::vcpu::{self, Stop, Vcpu};
use crate::vm::{self, Vm};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;
use std::collections::HashMap;

const STACK: u16 = 0x8000;
/// Where the next instruction is put, by the number of handlers that have not returned.
const CODE: u16 = 0x3000;
const HANDLERS: u16 = 0x1000;
const RAM: usize = 0x1_0000;

/// What a fake of the hardware works on.
pub struct Guest {
    /// The guest's memory.
    pub memory: VecMemory,
    /// The next delivery is interrupted by a fault that is not the guest's; whoever sees that clears it.
    pub disturb: bool,
    /// An event has been delivered or an instruction executed by the hardware: it leaves the guest before the next.
    pub done: bool,
}

impl Guest {
    /// Whether this delivery is to be interrupted.
    pub fn disturbed(&mut self) -> bool {
        core::mem::take(&mut self.disturb)
    }
}

/// The guest, as the harness and the fake share it.
pub type Shared = Arc<Mutex<Guest>>;

/// What decides how it goes on.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct State {
    interrupts_enabled: bool,
    shadow: u8,
    nmi_blocked: bool,
    halted: bool,
    chip: Chip,
    frames: Vec<bool>,
}

impl State {
    fn of(bare: &Bare) -> Self {
        Self {
            interrupts_enabled: bare.cpu.interrupts_enabled(),
            shadow: bare.cpu.shadow as u8,
            nmi_blocked: bare.nmi_blocked,
            halted: bare.halted,
            chip: bare.chip,
            frames: bare.frames.clone(),
        }
    }

    /// How many handlers there are and may follow without a further arrival.
    fn handlers(&self) -> usize {
        let requested = self.chip.requested.iter().filter(|r| **r).count();
        self.frames.len() + requested + usize::from(self.chip.nmi)
    }

    /// What can happen next, so that handlers do not nest too deep and HLT can end.
    fn allows(&self, s: Stimulus, depth: usize) -> bool {
        let more = usize::from(s.insn.raises().is_some()) + usize::from(s.arrival.is_some());
        if self.halted && s.insn != Insn::Nop {
            return false;
        }
        let wakes = self.halted && s.arrival == Some(Arrival::Nmi);
        match s.insn {
            Insn::Iret if self.frames.is_empty() => false,
            Insn::Hlt if self.nmi_blocked => false,
            _ => wakes || more == 0 || self.handlers() + more <= depth,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Arrival {
    Nmi,
    Input(usize),
}

/// What happens in one step: something may arrive, then there is this instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stimulus {
    insn: Insn,
    arrival: Option<Arrival>,
    disturb: bool,
}

fn stimuli() -> Vec<Stimulus> {
    const ARRIVALS: [Option<Arrival>; 4] = [
        None,
        Some(Arrival::Nmi),
        Some(Arrival::Input(0)),
        Some(Arrival::Input(1)),
    ];
    let mut all = Vec::new();
    for insn in Insn::ALL {
        for arrival in ARRIVALS {
            for disturb in [false, true] {
                all.push(Stimulus {
                    insn,
                    arrival,
                    disturb,
                });
            }
        }
    }
    all
}

/// A clock that ticks whenever it is looked at.
#[derive(Default)]
struct Ticking(AtomicU64);

impl Clock for Ticking {
    fn ticks(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
    fn time(&self, ticks: u64) -> VmTime {
        VmTime(ticks)
    }
    fn skip(&mut self, _ticks: u64) {}
    fn ticks_until(&self, deadline: VmTime, now: VmTime) -> u64 {
        (deadline - now).0
    }
    fn arm(&mut self, _deadline: VmTime, _now: VmTime) {}
}

struct Pair<B: VcpuBackend> {
    bare: Bare,
    vcpu: Vcpu<B, LinearMmu, Ticking>,
    guest: Shared,
    chip: Arc<Lock<Chip>>,
}

fn memory() -> VecMemory {
    let memory = VecMemory::new(RAM);
    for vector in 0..=255u8 {
        let handler = (HANDLERS + 16 * u16::from(vector)).to_le_bytes();
        memory
            .write(Gpa(4 * u64::from(vector)), &handler)
            .expect("a vector table");
    }
    memory
}

impl<B: VcpuBackend> Pair<B> {
    fn new(make: impl FnOnce(Shared) -> B) -> Self {
        let memory_of_vm = memory();
        let guest = Arc::new(Mutex::new(Guest {
            memory: memory_of_vm.clone(),
            disturb: false,
            done: false,
        }));
        let chip = Arc::new(Lock::device(Chip::default()));
        let shared = Arc::new(memory_of_vm);
        let mut bus = Bus::new(shared.clone());
        let id = bus.add(chip.clone());
        bus.add_ports(id, Chip::MASK, 2, Width::Native);
        let vm = Vm::new(vm::Parts {
            number: 1,
            mmu: LinearMmu,
            bus,
            memory: shared,
            cpuid: Cpuid::new(|_, _| CpuidResult::default(), Topology::new(1)),
            wakeups: Arc::default(),
            scratch: None,
        });
        let parts = vcpu::Parts {
            cpu: make(guest.clone()),
            clock: Ticking::default(),
            pvclock: PvClock::new(1_000_000_000, 0),
            irqs: Box::new(chip.clone()),
        };
        let mut vcpu = Vcpu::new(Arc::new(vm), 0, parts);
        let mut cs = vcpu.cpu.segment(SegReg::Cs);
        (cs.selector, cs.base) = (0, 0);
        vcpu.cpu.set_segment(SegReg::Cs, cs);
        vcpu.cpu.gprs_mut().regs[gpr::RSP] = STACK.into();
        let bare = Bare {
            cpu: Tiny {
                ip: 0,
                sp: STACK,
                flags: 2,
                shadow: Shadow::None,
            },
            memory: memory(),
            chip: Chip::default(),
            halted: false,
            nmi_blocked: false,
            frames: Vec::new(),
        };
        Self {
            bare,
            vcpu,
            guest,
            chip,
        }
    }

    /// Lets both do one step.
    fn step(&mut self, s: Stimulus) {
        let at = CODE + 0x100 * self.bare.frames.len() as u16;
        self.bare.cpu.ip = at;
        self.vcpu.cpu.set_rip(at.into());
        for memory in [&self.bare.memory, &self.guest.lock().memory] {
            memory
                .write(Gpa(at.into()), s.insn.bytes())
                .expect("code lies in RAM");
        }
        for chip in [&mut self.bare.chip, &mut *self.chip.lock()] {
            match s.arrival {
                Some(Arrival::Nmi) => chip.nmi = true,
                Some(Arrival::Input(n)) => chip.requested[n] = true,
                None => {}
            }
        }
        self.bare.step();
        {
            let mut guest = self.guest.lock();
            (guest.done, guest.disturb) = (false, s.disturb);
        }
        for _ in 0..12 {
            // After each exit, and what is done in software, the run loop comes back.
            self.vcpu.service_at = self.vcpu.now() + VmTime(1);
            match self.vcpu.run() {
                Stop::Service | Stop::HostInterrupt => {}
                Stop::Idle(_) => return,
                stop => panic!("{s:?}: {stop:?}"),
            }
            if self.guest.lock().done || self.vcpu.cpu.rip() != at.into() {
                return;
            }
        }
        panic!("{s:?}: nothing comes of it");
    }

    fn compare(&self, before: &State, s: Stimulus) {
        let registers = |ip: u64, sp: u64, flags: u64, shadow| {
            alloc::format!(
                "ip={ip:x} sp={sp:x} flags={:x} shadow={shadow}",
                flags & 0x202
            )
        };
        let (bare, cpu) = (&self.bare.cpu, &self.vcpu.cpu);
        let want = registers(
            bare.ip.into(),
            bare.sp.into(),
            bare.flags.into(),
            bare.shadow != Shadow::None,
        );
        let got = registers(
            cpu.rip(),
            cpu.gprs().regs[gpr::RSP],
            cpu.rflags(),
            cpu.interrupt_shadow(),
        );
        assert_eq!(got, want, "{before:?}: {s:?}");
        let stack = |memory: &VecMemory| {
            let mut bytes = [0; 0x40];
            memory
                .read(Gpa(u64::from(STACK) - 0x40), &mut bytes)
                .expect("a stack");
            bytes
        };
        let guest = self.guest.lock();
        assert_eq!(
            stack(&guest.memory),
            stack(&self.bare.memory),
            "{before:?}: {s:?}"
        );
    }
}

/// Walks all states in which at most `depth` handlers wait or have not returned, on a backend that `make` makes: in real mode, on a fake
/// of its hardware. Returns how many states there are, and how many steps were taken from one to another.
///
/// # Panics
/// The backend, or the run loop on it, differs from the bare processor.
pub fn walk<B: VcpuBackend>(depth: usize, make: impl FnOnce(Shared) -> B) -> (usize, usize) {
    let stimuli = stimuli();
    let mut pair = Pair::new(make);
    let mut numbers = HashMap::new();
    // For each state, what each stimulus leads to; what is not allowed leads back.
    let mut steps: Vec<Vec<Option<usize>>> = Vec::new();
    let mut here = State::of(&pair.bare);
    let mut taken = 0;
    loop {
        let mut number = |state: &State, steps: &mut Vec<Vec<Option<usize>>>| {
            *numbers.entry(state.clone()).or_insert_with(|| {
                let number = steps.len();
                let allowed = stimuli
                    .iter()
                    .map(|&s| (!state.allows(s, depth)).then_some(number));
                steps.push(allowed.collect());
                number
            })
        };
        let from = number(&here, &mut steps);
        let Some(way) = way_to_untried(&steps, from) else {
            return (steps.len(), taken);
        };
        for s in way {
            let from = number(&here, &mut steps);
            pair.step(stimuli[s]);
            pair.compare(&here, stimuli[s]);
            here = State::of(&pair.bare);
            steps[from][s] = Some(number(&here, &mut steps));
            taken += 1;
        }
    }
}

/// The stimuli that lead from state `from` to the nearest one of which something is not known, and that.
fn way_to_untried(steps: &[Vec<Option<usize>>], from: usize) -> Option<Vec<usize>> {
    let mut reached: Vec<Option<(usize, usize)>> = alloc::vec![None; steps.len()];
    let mut queue = VecDeque::from([from]);
    while let Some(state) = queue.pop_front() {
        if let Some(untried) = steps[state].iter().position(Option::is_none) {
            let mut way = alloc::vec![untried];
            let mut at = state;
            while at != from {
                let (before, s) = reached[at].expect("on the way");
                way.push(s);
                at = before;
            }
            way.reverse();
            return Some(way);
        }
        for (s, next) in steps[state].iter().enumerate() {
            if let Some(next) = *next
                && next != from
                && reached[next].is_none()
            {
                reached[next] = Some((state, s));
                queue.push_back(next);
            }
        }
    }
    None
}
