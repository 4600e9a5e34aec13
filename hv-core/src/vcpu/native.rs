//! Instructions that the CPU executes for the emulator, while the guest is unloaded.

use super::{Stop, Vcpu};
use crate::cpu::VcpuBackend;
use crate::emulate::{Executed, NativeInsn};
use crate::mmu::Mmu;
use crate::time::Clock;

impl<B: VcpuBackend, M: Mmu, C: Clock> Vcpu<B, M, C> {
    #[cold]
    #[inline(never)]
    pub(super) fn execute_natively(&mut self, insn: &mut NativeInsn) -> Executed {
        let Some(scratch) = &self.vm.scratch else {
            return Executed::Impossible;
        };
        self.stats.native += 1;
        self.cpu.unload();
        let executed = scratch.lock().execute(insn);
        self.cpu.load();
        if executed == Executed::Interrupted {
            // The host's interrupt first; then the guest meets its instruction again.
            self.stop.get_or_insert(Stop::HostInterrupt);
        }
        executed
    }
}
