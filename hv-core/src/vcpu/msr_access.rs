//! RDMSR and WRMSR exits: the registers that are more than storage.

use super::{Trouble, Vcpu, general_protection};
use crate::Gpa;
use crate::cpu::VcpuBackend;
use crate::emulate::Intercepted;
use crate::mmu::Mmu;
use crate::msr::{self, MsrFault, Special};
use crate::regs::{Cr0, Efer, SysReg, gpr};
use crate::time::{Clock, VmTime};

/// EFER bits that guests may set: SCE, LME, LMA (unchanged), NXE.
const EFER_ALLOWED: Efer = Efer::SCE.union(Efer::LME).union(Efer::LMA).union(Efer::NXE);

impl<B: VcpuBackend, M: Mmu, C: Clock> Vcpu<B, M, C> {
    pub(super) fn rdmsr(&mut self, next_rip: Option<u64>) -> Result<(), Trouble> {
        let next = self.next_rip(next_rip, Intercepted::Rdmsr)?;
        let msr = self.cpu.gprs().regs[gpr::RCX] as u32;
        let value = self.msr_read(msr);
        let value = value.map_err(|MsrFault| general_protection())?;
        let regs = &mut self.cpu.gprs_mut().regs;
        regs[gpr::RAX] = value & 0xffff_ffff;
        regs[gpr::RDX] = value >> 32;
        self.advance(next);
        Ok(())
    }

    pub(super) fn wrmsr(&mut self, next_rip: Option<u64>) -> Result<(), Trouble> {
        let next = self.next_rip(next_rip, Intercepted::Wrmsr)?;
        let regs = &self.cpu.gprs().regs;
        let (msr, value) = (
            regs[gpr::RCX] as u32,
            regs[gpr::RDX] << 32 | regs[gpr::RAX] & 0xffff_ffff,
        );
        self.msr_write(msr, value).map_err(|MsrFault| {
            log::debug!("guest writes {value:#x} to MSR {msr:#x}: refused");
            general_protection()
        })?;
        self.advance(next);
        Ok(())
    }

    /// RDMSR of a register that is not there.
    pub(super) fn unknown_read(&self, msr: u32) -> Result<u64, MsrFault> {
        let unknown = &self.vm.unknown_msrs;
        unknown.tell(self.vm.number, msr, false);
        unknown.ignored.then_some(0).ok_or(MsrFault)
    }

    /// WRMSR to a register that is not there.
    pub(super) fn unknown_write(&self, msr: u32) -> Result<(), MsrFault> {
        let unknown = &self.vm.unknown_msrs;
        unknown.tell(self.vm.number, msr, true);
        unknown.ignored.then_some(()).ok_or(MsrFault)
    }

    pub(super) fn msr_read(&mut self, msr: u32) -> Result<u64, MsrFault> {
        match msr::special(msr) {
            None => self.msrs.read(msr).or_else(|_| match self.msrs.has(msr) {
                true => Err(MsrFault),
                false => self.unknown_read(msr),
            }),
            Some(Special::Tsc) => Ok(self
                .clock
                .ticks()
                .wrapping_add(self.cpu.sysreg(SysReg::TscOffset))),
            Some(Special::TscDeadline) => Ok(self.irqs.tsc_deadline(self.now)),
            Some(Special::ApicBase) => Ok(self.irqs.apic_base()),
            Some(Special::X2Apic) => self.irqs.x2apic_read(msr, self.now).ok_or(MsrFault),
            Some(Special::Kvm) => self.kvm_read(msr),
            Some(Special::HyperV) => self.hyperv_read(msr),
            Some(Special::Speculation) => self.speculation_read(msr),
            Some(Special::Efer) => Ok(self.cpu.sysreg(SysReg::Efer)),
            Some(Special::Sys(reg)) => Ok(self.cpu.sysreg(reg)),
        }
    }

    /// Brings the local APIC's register page to where IA32_APIC_BASE says (SDM vol 3A 12.4.5, "Relocating the Local APIC Registers").
    pub(super) fn place_local_apic(&mut self) {
        const EXTD: u64 = 1 << 10;
        const ENABLE: u64 = 1 << 11;
        let base = self.irqs.apic_base();
        let has_page = base & (ENABLE | EXTD) == ENABLE;
        self.apic_page = has_page.then_some(Gpa(base).page());
        self.vm.bus().move_cpu_page(self.index, self.apic_page);
    }

    /// Writes IA32_TSC_DEADLINE: says when the guest's counter will have that value.
    fn set_tsc_deadline(&mut self, value: u64) {
        // Years. What is farther away never comes, and would overflow the clock's arithmetic.
        const FAR: u64 = 1 << 56;
        let ticks = self.clock.ticks();
        let tsc = ticks.wrapping_add(self.cpu.sysreg(SysReg::TscOffset));
        let ahead = value.saturating_sub(tsc);
        let at = if ahead < FAR {
            // The clock rounds down, and an interrupt before its deadline would make the guest set it again.
            self.clock.time(ticks.wrapping_add(ahead)) + VmTime(1)
        } else {
            VmTime::NEVER
        };
        self.irqs.set_tsc_deadline(value, at, self.now);
        self.set_timer();
    }

    pub(super) fn msr_write(&mut self, msr: u32, value: u64) -> Result<(), MsrFault> {
        match msr::special(msr) {
            None => {
                return self
                    .msrs
                    .write(msr, value)
                    .or_else(|_| match self.msrs.has(msr) {
                        true => Err(MsrFault),
                        false => self.unknown_write(msr),
                    });
            }
            Some(Special::Tsc) => {
                let offset = value.wrapping_sub(self.clock.ticks());
                self.cpu.set_sysreg(SysReg::TscOffset, offset);
                self.pvclock
                    .publish(&*self.vm.memory, value, self.clock.time(self.clock.ticks()));
                self.tell_tsc_offset();
                // The counter reaches an armed deadline at another moment now.
                let deadline = self.irqs.tsc_deadline(self.now);
                if deadline != 0 {
                    self.set_tsc_deadline(deadline);
                }
            }
            Some(Special::TscDeadline) => self.set_tsc_deadline(value),
            Some(Special::Speculation) => return self.speculation_write(msr, value),
            Some(Special::Kvm) => return self.kvm_write(msr, value),
            Some(Special::HyperV) => return self.hyperv_write(msr, value),
            Some(Special::X2Apic) => {
                if !self.irqs.x2apic_write(msr, value, self.now) {
                    return Err(MsrFault);
                }
                self.apic_written(u64::from(msr - msr::nr::X2APIC) << 4);
            }
            Some(Special::ApicBase) => {
                if value >> self.vm.cpuid.physical_bits() != 0 || !self.irqs.set_apic_base(value) {
                    return Err(MsrFault);
                }
                self.place_local_apic();
            }
            Some(Special::Efer) => {
                let (old, new) = (self.efer(), Efer::from_bits_retain(value));
                let paging = self.cpu.sysreg(SysReg::Cr0) & Cr0::PG.bits() != 0;
                if !EFER_ALLOWED.contains(new) || (paging && (old ^ new).contains(Efer::LME)) {
                    return Err(MsrFault);
                }
                let lma = old & Efer::LMA;
                self.cpu
                    .set_sysreg(SysReg::Efer, ((new - Efer::LMA) | lma).bits());
                if self.shadow && (old ^ new).contains(Efer::NXE) {
                    self.reload_paging();
                }
            }
            Some(Special::Sys(reg)) if !msr::is_valid(reg, value) => return Err(MsrFault),
            Some(Special::Sys(reg)) => self.cpu.set_sysreg(reg, value),
        }
        Ok(())
    }
}
