//! Virtual CPUs that are plugged in and taken away while the guest runs.
//!
//! All that there can be exist from the start. One that is not plugged in waits for a start-up message, and the interrupt chips let
//! none through to it.

use super::Guest;
use device_model::pm::{CpuHotplug, Cpus};
use hv_core::cpu::VcpuBackend;
use hv_core::regs::SysReg;

impl<B: VcpuBackend> Guest<B> {
    /// The virtual CPUs that are plugged in.
    pub fn present_cpus(&self) -> Cpus {
        let one = Cpus::first(1);
        self.pm.lock().cpus(|cpus| cpus.present()).unwrap_or(one)
    }

    /// Asks for `count` virtual CPUs: those that lack are there at once, and the guest is asked to let go of those that are too many.
    pub fn want_cpus(&mut self, count: u32) {
        let come = self.pm.lock().cpus(|cpus| cpus.want(count));
        for cpu in come.unwrap_or_default().iter() {
            self.chips.lock().set_present(cpu as usize, true);
            self.pm.lock().cpus(|cpus| cpus.plug(cpu));
        }
    }

    /// Whether the guest has answered that CPUs go or stay.
    pub fn has_answered(&self) -> bool {
        self.cpus.len() > 1 && self.pm.lock().cpus(|cpus| cpus.has_answer()) == Some(true)
    }

    /// Takes away the virtual CPUs that the guest has let go of. None of its CPUs is loaded.
    pub fn take_away_cpus(&mut self) {
        let number = self.vm.number;
        while let Some(cpu) = self.take(CpuHotplug::take_ejected) {
            log::info!("VM {number}: the guest has let go of CPU {cpu}");
            self.chips.lock().set_present(cpu as usize, false);
            // Its time-stamp counter goes on with the others'.
            let offset = self.cpus[0].while_loaded(|first| first.cpu.sysreg(SysReg::TscOffset));
            let since = 0u64.wrapping_sub(offset);
            if let Some(slot) = self.cpus.get_mut(cpu as usize) {
                slot.wake();
                slot.reset(since);
            }
        }
        while let Some(cpu) = self.take(CpuHotplug::take_refused) {
            log::warn!("VM {number}: the guest does not let go of CPU {cpu}");
        }
    }

    fn take(&self, what: fn(&mut CpuHotplug) -> Option<u32>) -> Option<u32> {
        self.pm.lock().cpus(what).flatten()
    }

    /// The machine has been reset: the interrupt chips hear which CPUs there are.
    pub(super) fn tell_chips(&self) {
        let present = self.present_cpus();
        for cpu in 0..self.cpus.len() {
            let present = present.contains(cpu as u32);
            self.chips.lock().set_present(cpu, present);
        }
    }
}
