//! Model-specific registers of KVM's interface. Its hypercalls are in `hypercall`.

use super::Vcpu;
use crate::cpu::VcpuBackend;
use crate::interface::Interfaces;
use crate::mmu::Mmu;
use crate::msr::MsrFault;
use crate::regs::SysReg;
use crate::time::Clock;
use crate::{pveoi, pvsteal};

impl<B: VcpuBackend, M: Mmu, C: Clock> Vcpu<B, M, C> {
    /// Whether the guest is offered KVM's interface.
    pub(super) fn has_kvm(&self) -> bool {
        self.vm.cpuid.interfaces().contains(Interfaces::KVM)
    }

    /// RDMSR.
    #[cold]
    #[inline(never)]
    pub(super) fn kvm_read(&mut self, msr: u32) -> Result<u64, MsrFault> {
        match msr {
            _ if !self.has_kvm() => self.unknown_read(msr),
            pveoi::MSR => Ok(self.pveoi.read()),
            pvsteal::MSR => Ok(self.steal.read()),
            _ => Ok(self.pvclock.read(msr)),
        }
    }

    /// WRMSR.
    #[cold]
    #[inline(never)]
    pub(super) fn kvm_write(&mut self, msr: u32, value: u64) -> Result<(), MsrFault> {
        let valid = match msr {
            _ if !self.has_kvm() => return self.unknown_write(msr),
            pveoi::MSR => self.pveoi.write(value),
            pvsteal::MSR => self.steal.write(value),
            _ => {
                let ticks = self.clock.ticks();
                let tsc = ticks.wrapping_add(self.cpu.sysreg(SysReg::TscOffset));
                self.pvclock
                    .write(&*self.vm.memory, msr, value, tsc, self.clock.time(ticks));
                true
            }
        };
        valid.then_some(()).ok_or(MsrFault)
    }
}
