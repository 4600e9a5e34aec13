//! Microsoft's interface ([`hyperv`](crate::hyperv)) as one CPU uses it: model-specific registers and hypercalls.

use super::{Trouble, Vcpu, undefined};
use crate::cpu::VcpuBackend;
use crate::emulate::{Intercepted, Kind, Mode};
use crate::hyperv::{Moment, msr};
use crate::interface::Interfaces;
use crate::machine::LAPIC_HZ;
use crate::mmu::Mmu;
use crate::msr::MsrFault;
use crate::regs::{SysReg, gpr};
use crate::time::Clock;

/// HV_STATUS_INVALID_HYPERCALL_CODE.
const INVALID_HYPERCALL_CODE: u64 = 2;

impl<B: VcpuBackend, M: Mmu, C: Clock> Vcpu<B, M, C> {
    /// Whether the guest is offered KVM's interface.
    pub(super) fn has_kvm(&self) -> bool {
        self.vm.cpuid.interfaces().contains(Interfaces::KVM)
    }

    /// Whether the guest has said who it is, and makes hypercalls by Microsoft's interface from then on, even if it has KVM's too.
    pub(super) fn speaks_hyperv(&self) -> bool {
        let partition = self.vm.hyperv.as_ref();
        partition.is_some_and(|partition| partition.guest_os_id() != 0)
    }

    fn moment(&self) -> Moment {
        let ticks = self.clock.ticks();
        Moment {
            reference: self.reference,
            ticks: ticks.wrapping_sub(self.clock.origin()),
            tsc: ticks.wrapping_add(self.cpu.sysreg(SysReg::TscOffset)),
        }
    }

    /// The CPU's time-stamp counter has been set, or has been kept from running.
    pub(super) fn tell_tsc_offset(&mut self) {
        if let Some(partition) = &self.vm.hyperv {
            let offset = self.cpu.sysreg(SysReg::TscOffset);
            let now = self.moment();
            partition.set_tsc_offset(&*self.vm.memory, self.index(), offset, now);
        }
    }

    /// Back to the power-on state. The time-stamp counter has been set.
    pub(super) fn reset_hyperv(&mut self) {
        if let Some(partition) = &self.vm.hyperv
            && self.index == 0
        {
            partition.reset(&*self.vm.memory);
        }
        self.tell_tsc_offset();
    }

    /// RDMSR.
    #[cold]
    #[inline(never)]
    pub(super) fn hyperv_read(&mut self, msr: u32) -> Result<u64, MsrFault> {
        let partition = self.vm.hyperv.as_ref().ok_or(MsrFault)?;
        Ok(match msr {
            msr::GUEST_OS_ID => partition.guest_os_id(),
            msr::HYPERCALL => partition.hypercall(),
            msr::VP_INDEX => self.index.into(),
            msr::TIME_REF_COUNT => self.reference.of_ticks(self.moment().ticks),
            msr::REFERENCE_TSC => partition.reference_tsc(),
            msr::TSC_FREQUENCY => self.reference.tsc_hz(),
            msr::APIC_FREQUENCY => LAPIC_HZ,
            _ => return Err(MsrFault),
        })
    }

    /// WRMSR. What is not here is read-only, or not there.
    #[cold]
    #[inline(never)]
    pub(super) fn hyperv_write(&mut self, msr: u32, value: u64) -> Result<(), MsrFault> {
        let partition = self.vm.hyperv.as_ref().ok_or(MsrFault)?;
        let memory = &*self.vm.memory;
        match msr {
            msr::GUEST_OS_ID => partition.set_guest_os_id(memory, value),
            msr::HYPERCALL => partition.set_hypercall(memory, value)?,
            msr::REFERENCE_TSC => partition.set_reference_tsc(memory, value, self.moment()),
            _ => return Err(MsrFault),
        }
        Ok(())
    }

    /// VMCALL or VMMCALL (TLFS 3.8, "Legal Hypercall Environments"): from user code and real mode it is no instruction.
    #[cold]
    #[inline(never)]
    pub(super) fn hyperv_call(&mut self, next_rip: Option<u64>) -> Result<(), Trouble> {
        let next = self.next_rip(next_rip, Intercepted::Vmmcall)?;
        let mode = Mode::of(self);
        if self.cpu.cpl() != 0 || mode.kind == Kind::Real {
            return Err(undefined());
        }
        let regs = &mut self.cpu.gprs_mut().regs;
        regs[gpr::RAX] = INVALID_HYPERCALL_CODE;
        if !mode.is_64() {
            regs[gpr::RDX] = 0;
        }
        self.advance(next);
        Ok(())
    }
}
