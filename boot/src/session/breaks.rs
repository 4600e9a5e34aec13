//! Events at which a VM is stopped without a debugger: it is said what has happened, and the VM goes on or stays stopped.

use super::Session;
use super::vm::Vm;
use crate::control;
use alloc::string::{String, ToString};
use core::fmt::Write;
use hv_core::cpu::VcpuBackend;
use hv_core::debug::{Breaks, DebugStop, PointKind};
use protocol::Event;

/// The events of a VM.
pub(super) struct Waiting {
    breaks: Breaks,
    /// It stays stopped at the first.
    ends: bool,
}

impl<B: VcpuBackend> Vm<B> {
    /// It is stopped at the events that `words` say. None of its CPUs is loaded.
    ///
    /// # Errors
    /// A sentence that says which is wrong.
    pub fn break_at(&mut self, words: &str, ends: bool) -> Result<(), String> {
        let breaks = Breaks::parse(words).map_err(|wrong| wrong.to_string())?;
        for slot in &mut self.guest.cpus {
            slot.while_loaded(|cpu| cpu.break_at(&breaks, false));
        }
        self.breaks = Some(Waiting { breaks, ends });
        Ok(())
    }
}

impl<B: VcpuBackend> Session<B> {
    /// CPU `cpu` of VM `index` has come to what it is stopped at.
    pub(super) fn broke(&mut self, index: usize, cpu: usize, stop: DebugStop) {
        self.unload();
        let vm = &mut self.vms[index];
        let (Some(waiting), Some(slot)) = (&vm.breaks, vm.guest.cpus.get_mut(cpu)) else {
            return;
        };
        if stop == DebugStop::Step {
            return slot.while_loaded(|cpu| cpu.break_at(&waiting.breaks, false));
        }
        let what = match stop {
            DebugStop::Breakpoint => {
                // The next time it is past the instruction.
                slot.while_loaded(|cpu| cpu.break_at(&waiting.breaks, true));
                let pc = slot.while_loaded(|cpu| cpu.registers().pc());
                alloc::format!("it is about to execute {pc:#x}")
            }
            DebugStop::Watchpoint(point) => {
                let done = match point.kind {
                    PointKind::Execute | PointKind::Write => "changed",
                    PointKind::Read => "read",
                    PointKind::Access => "accessed",
                };
                alloc::format!("it has {done} {:#x}", point.at.0)
            }
            DebugStop::Step | DebugStop::Event => String::from("this exit"),
        };
        self.tell_break(index, cpu, &what);
    }

    /// The CPU of VM `index` has shut down. Whether the VM is to stay stopped.
    pub(super) fn breaks_at_triple_fault(&mut self, index: usize, cpu: usize) -> bool {
        let wanted = |waiting: &Waiting| waiting.breaks.triple_fault;
        if !self.vms[index].breaks.as_ref().is_some_and(wanted) {
            return false;
        }
        self.unload();
        self.tell_break(index, cpu, "its CPU shuts down: a triple fault");
        self.vms[index].breaks.as_ref().is_some_and(|w| w.ends)
    }

    /// Says what has happened, and stops the VM if it is to stay stopped.
    fn tell_break(&mut self, index: usize, cpu: usize, what: &str) {
        let vm = &mut self.vms[index];
        let number = vm.number;
        // The guest's time stands still: it may take longer than its timer's period, and the interrupt would come before the instruction, each time.
        vm.pause();
        let mut text = alloc::format!("VM {number}, CPU {cpu}: {what}\n");
        if let Some(seen) = vm.guest.cpus[cpu].while_loaded(|cpu| cpu.why()) {
            let _ = write!(text, "{seen}");
        }
        log::info!("stopped: {}", text.trim_end());
        control::event(number, Event::Break(&text));
        if !vm.breaks.as_ref().is_some_and(|waiting| waiting.ends) {
            vm.resume();
        }
    }
}
