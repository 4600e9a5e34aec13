//! CPUID, and XCR0, which says what of it is on.

use super::{Trouble, Vcpu, general_protection};
use crate::cpu::VcpuBackend;
use crate::cpuid::CpuidState;
use crate::emulate::{EmuFault, Intercepted};
use crate::machine::Topology;
use crate::mmu::Mmu;
use crate::regs::{Cr4, SysReg, gpr};
use crate::time::Clock;

impl<B: VcpuBackend, M: Mmu, C: Clock> Vcpu<B, M, C> {
    #[inline(always)]
    pub(super) fn cpuid_exit(&mut self, next_rip: Option<u64>) -> Result<(), Trouble> {
        let next = self.next_rip(next_rip, Intercepted::Cpuid)?;
        let regs = &self.cpu.gprs().regs;
        let r = self
            .vm
            .cpuid
            .get(regs[gpr::RAX] as u32, regs[gpr::RCX] as u32, || {
                self.cpuid_state()
            });
        let regs = &mut self.cpu.gprs_mut().regs;
        regs[gpr::RAX] = r.eax.into();
        regs[gpr::RBX] = r.ebx.into();
        regs[gpr::RCX] = r.ecx.into();
        regs[gpr::RDX] = r.edx.into();
        self.advance(next);
        Ok(())
    }

    pub(super) fn cpuid_state(&self) -> CpuidState {
        CpuidState {
            apic_id: Topology::apic_id(self.index.into()),
            osxsave: self.cpu.sysreg(SysReg::Cr4) & Cr4::OSXSAVE.bits() != 0,
            apic_enabled: self.irqs.apic_base() & 1 << 11 != 0,
            xcr0: self.cpu.xcr0(),
        }
    }

    /// XSETBV (SDM vol 2D, "XSETBV—Set Extended Control Register"): the combination of features must be one that exists.
    #[cold]
    #[inline(never)]
    pub(super) fn xsetbv(&mut self, next_rip: Option<u64>) -> Result<(), Trouble> {
        let next = self.next_rip(next_rip, Intercepted::Xsetbv)?;
        let regs = &self.cpu.gprs().regs;
        let value = regs[gpr::RDX] << 32 | regs[gpr::RAX] & 0xffff_ffff;
        if regs[gpr::RCX] as u32 != 0 || self.cpu.cpl() != 0 {
            return Err(general_protection());
        }
        if let Err(fault) = self.write_xcr0(value) {
            return Err(self.trouble(fault));
        }
        self.advance(next);
        Ok(())
    }

    /// Sets XCR0, if the value is one that it can have.
    pub(super) fn write_xcr0(&mut self, value: u64) -> Result<(), EmuFault> {
        let valid = value & 1 != 0
            && value & !self.vm.cpuid.xcr0_allowed() == 0
            && (value & 0b100 == 0 || value & 0b10 != 0);
        if !valid {
            return Err(EmuFault::GP0);
        }
        self.cpu.set_xcr0(value);
        Ok(())
    }
}
