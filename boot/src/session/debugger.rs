//! Debuggers at the virtual machines: what they say comes from the host tool, and what is answered goes there.
//!
//! A machine with a debugger stands still or runs, all of its CPUs alike. It is lent to the [`Debugger`] while that answers. When the debugger
//! goes, in whatever way, the machine goes on.

mod monitor;

use super::Session;
use super::vm::{State, Vm};
use crate::{clock, control};
use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;
use gdb::{Action, Debuggee, Debugger};
use hv_core::cpu::VcpuBackend;
use hv_core::debug::{DebugStop, Point, Registers};
use hv_core::mmu::Mmu;
use hv_core::{Gpa, Gva};
use protocol::Message;

/// The debugger of a VM, if it has one.
pub(super) type Slot<B> = Option<Box<Debugger<Debugged<B>>>>;

/// A VM while it is lent to its debugger. None of its CPUs is loaded.
pub(super) struct Debugged<B: VcpuBackend> {
    vm: Vm<B>,
    /// The machine is to be reset.
    reset: bool,
}

impl<B: VcpuBackend> Debuggee for Debugged<B> {
    fn cpus(&self) -> usize {
        self.vm.guest.cpus.len()
    }

    fn state(&self, cpu: usize) -> &'static str {
        self.vm.guest.cpus[cpu].cpu.activity().name()
    }

    fn registers(&mut self, cpu: usize) -> Registers {
        self.vm.guest.cpus[cpu].while_loaded(|cpu| cpu.registers())
    }

    fn set_registers(&mut self, cpu: usize, registers: &Registers) -> Result<(), String> {
        let slot = &mut self.vm.guest.cpus[cpu];
        let set = slot.while_loaded(|cpu| cpu.set_registers(registers));
        if let Err(why) = &set {
            log::warn!("VM {}: a debugger is refused: {why}", self.vm.number);
        }
        set
    }

    fn read(&mut self, cpu: usize, physical: bool, at: u64, buf: &mut [u8]) -> usize {
        if physical {
            let memory = &self.vm.guest.vm.memory;
            return match memory.read(Gpa(at), buf) {
                Ok(()) => buf.len(),
                Err(_) => 0,
            };
        }
        let slot = &mut self.vm.guest.cpus[cpu];
        slot.while_loaded(|cpu| cpu.read_linear(Gva(at), buf))
    }

    fn write(&mut self, cpu: usize, physical: bool, at: u64, bytes: &[u8]) -> usize {
        if physical {
            let memory = &self.vm.guest.vm.memory;
            return match memory.write(Gpa(at), bytes) {
                Ok(()) => bytes.len(),
                Err(_) => 0,
            };
        }
        let slot = &mut self.vm.guest.cpus[cpu];
        slot.while_loaded(|cpu| cpu.write_linear(Gva(at), bytes))
    }

    fn command(&mut self, cpu: usize, line: &str, out: &mut dyn fmt::Write) {
        // Nothing can be done about a debugger that does not listen.
        let _ = self.monitor(cpu, line, out);
    }

    fn resume(&mut self, points: &[Point], actions: &[Action]) {
        self.vm.held = 0;
        for (n, action) in actions.iter().enumerate() {
            if *action == Action::Hold {
                self.vm.held |= 1 << n;
            }
            if let Some(slot) = self.vm.guest.cpus.get_mut(n) {
                let step = *action == Action::Step;
                slot.while_loaded(|cpu| cpu.debug(step, points));
            }
        }
        self.vm.resume_debugged();
    }
}

impl<B: VcpuBackend> Vm<B> {
    /// It stands still for its debugger. None of its CPUs is loaded.
    fn stop_for_debugger(&mut self) {
        if self.state == State::Running {
            self.stop(State::Debugged(clock::ticks()));
        }
        self.held = 0;
        self.guest.vm.mmu().unwatch_pages();
        for slot in &mut self.guest.cpus {
            slot.while_loaded(|cpu| cpu.pause_debugging());
        }
    }

    /// Goes on after its debugger has had it stopped. None of its CPUs is loaded.
    fn resume_debugged(&mut self) {
        if let State::Debugged(since) = self.state {
            self.state = State::Running;
            self.guest.skip(clock::ticks() - since);
        }
    }
}

impl<B: VcpuBackend> Session<B> {
    /// The VM of this number, by index.
    fn index_of(&self, number: u8) -> Option<usize> {
        let index = usize::from(number).wrapping_sub(1);
        (index < self.vms.len()).then_some(index)
    }

    /// A debugger has come to VM `number`, which stops.
    pub(super) fn debugger_comes(&mut self, number: u8) {
        let Some(index) = self.index_of(number) else {
            return;
        };
        self.unload();
        self.vms[index].stop_for_debugger();
        self.vms[index].breaks = None;
        self.debuggers[index] = Debugger::new().map(Box::new);
        match &self.debuggers[index] {
            Some(_) => log::info!("VM {number}: a debugger is there"),
            None => self.let_go(index),
        }
    }

    /// It has said something.
    pub(super) fn debugger_says(&mut self, number: u8, bytes: &[u8]) {
        if let Some(index) = self.index_of(number) {
            self.with_debugger(index, |debugger, vm| {
                debugger.hear(vm, bytes, &mut |part| answer(number, part))
            });
        }
    }

    /// It has gone.
    pub(super) fn debugger_goes(&mut self, number: u8) {
        if let Some(index) = self.index_of(number)
            && self.debuggers[index].is_some()
        {
            self.unload();
            self.let_go(index);
        }
    }

    /// CPU `cpu` of VM `index` has met what its debugger waits for.
    pub(super) fn debugged(&mut self, index: usize, cpu: usize, stop: DebugStop) {
        if self.vms[index].state != State::Running {
            return;
        }
        if self.debuggers[index].is_none() {
            return self.broke(index, cpu, stop);
        }
        self.unload();
        let vm = &mut self.vms[index];
        vm.stop_for_debugger();
        let number = vm.number;
        self.with_debugger(index, |debugger, vm| {
            debugger.stopped(vm, cpu, stop, &mut |part| answer(number, part))
        });
    }

    /// Lends VM `index` to its debugger, and sees to what has come of it.
    fn with_debugger(
        &mut self,
        index: usize,
        f: impl FnOnce(&mut Debugger<Debugged<B>>, Debugged<B>) -> Debugged<B>,
    ) {
        let Some(mut debugger) = self.debuggers[index].take() else {
            return;
        };
        self.unload();
        let lent = Debugged {
            vm: self.vms.remove(index),
            reset: false,
        };
        let Debugged { vm, reset } = f(&mut debugger, lent);
        self.vms.insert(index, vm);
        let state = debugger.state();
        self.debuggers[index] = Some(debugger);
        if reset {
            self.reset(index, "reset by a debugger");
        }
        match state {
            gdb::State::Gone => self.let_go(index),
            gdb::State::Stopped => self.vms[index].stop_for_debugger(),
            gdb::State::Running => {}
        }
    }

    /// VM `index` goes on without a debugger. None of its CPUs is loaded.
    fn let_go(&mut self, index: usize) {
        self.debuggers[index] = None;
        let vm = &mut self.vms[index];
        log::info!("VM {}: its debugger has gone", vm.number);
        vm.stop_for_debugger();
        for slot in &mut vm.guest.cpus {
            slot.while_loaded(|cpu| cpu.stop_debugging());
        }
        vm.resume_debugged();
        control::send(vm.number, &Message::Debug(&[]));
    }
}

/// Bytes for the debugger of VM `number`.
fn answer(number: u8, bytes: &[u8]) {
    control::send(number, &Message::Debug(bytes));
}
