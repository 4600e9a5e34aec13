//! The registers of [speculation](crate::speculation) controls.

use super::Vcpu;
use crate::cpu::VcpuBackend;
use crate::mmu::Mmu;
use crate::msr::{MsrFault, nr};
use crate::regs::SysReg;
use crate::speculation::IBPB;
use crate::time::Clock;

impl<B: VcpuBackend, M: Mmu, C: Clock> Vcpu<B, M, C> {
    /// RDMSR.
    pub(super) fn speculation_read(&mut self, msr: u32) -> Result<u64, MsrFault> {
        let has = self.vm.cpuid.speculation();
        match msr {
            nr::SPEC_CTRL if has.control != 0 => Ok(self.cpu.sysreg(SysReg::SpecCtrl)),
            // It can be written only.
            nr::PRED_CMD if has.barrier => Err(MsrFault),
            nr::ARCH_CAPABILITIES => match has.capabilities {
                Some(value) => Ok(value),
                None => self.unknown_read(msr),
            },
            _ => self.unknown_read(msr),
        }
    }

    /// WRMSR.
    pub(super) fn speculation_write(&mut self, msr: u32, value: u64) -> Result<(), MsrFault> {
        let has = self.vm.cpuid.speculation();
        match msr {
            nr::SPEC_CTRL if has.control != 0 => {
                if value & !has.control != 0 {
                    return Err(MsrFault);
                }
                self.cpu.set_sysreg(SysReg::SpecCtrl, value);
            }
            nr::PRED_CMD if has.barrier => {
                if value & !IBPB != 0 {
                    return Err(MsrFault);
                }
                if value & IBPB != 0 {
                    self.cpu.prediction_barrier();
                }
            }
            nr::ARCH_CAPABILITIES if has.capabilities.is_some() => return Err(MsrFault),
            _ => return self.unknown_write(msr),
        }
        Ok(())
    }
}
