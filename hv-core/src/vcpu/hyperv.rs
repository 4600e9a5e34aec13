//! Microsoft's interface ([`hyperv`](crate::hyperv)) as one CPU uses it: model-specific registers and hypercalls.

use super::{Stop, Trouble, Vcpu, undefined};
use crate::cpu::VcpuBackend;
use crate::emulate::{Intercepted, Kind, Mode};
use crate::hyperv::{Moment, Partition, msr, placed};
use crate::interface::Interfaces;
use crate::machine::LAPIC_HZ;
use crate::mmu::Mmu;
use crate::msr::{MsrFault, nr};
use crate::regs::{SysReg, gpr};
use crate::time::Clock;

/// IA32_APIC_BASE: enabled, and in x2APIC mode.
const XAPIC: u64 = 1 << 11;
const X2APIC: u64 = XAPIC | 1 << 10;
/// Offsets of the local APIC's registers.
const TPR: u64 = 0x80;
const EOI: u64 = 0xb0;
const ICR: u64 = 0x300;

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
        let Some(partition) = &self.vm.hyperv else {
            return;
        };
        let memory = &*self.vm.memory;
        partition.reset_cpu(memory, self.index());
        if self.index == 0 {
            partition.reset(memory);
        }
        self.assist = 0;
        self.tell_tsc_offset();
    }

    /// Whether nobody would notice if the interrupt in service ended without a word, and the guest sees where it can say so.
    pub(super) fn may_skip_eoi(&self) -> bool {
        let is_covered = |partition: &Partition| partition.is_covered(self.index());
        self.irqs.eoi_may_be_skipped()
            && !(self.assist & 1 != 0 && self.vm.hyperv.as_ref().is_some_and(is_covered))
    }

    /// Writes HV_X64_MSR_VP_ASSIST_PAGE (TLFS, "EOI Assist").
    fn set_assist(&mut self, value: u64) -> Result<(), MsrFault> {
        let partition = self.vm.hyperv.as_ref().ok_or(MsrFault)?;
        let at = placed(value);
        if !partition.place_assist(&*self.vm.memory, self.index(), at) {
            return Err(MsrFault);
        }
        // The word has been taken back at the exit.
        self.assist = value;
        self.pveoi.place(at);
        Ok(())
    }

    /// Reads the local APIC's register at this offset of its page (TLFS, "MSR-based APIC Access"), and of the interrupt command
    /// register both halves.
    fn apic_read(&mut self, offset: u64) -> Result<u64, MsrFault> {
        let now = self.now;
        let base = self.irqs.apic_base();
        if base & X2APIC == X2APIC {
            let msr = nr::X2APIC + (offset >> 4) as u32;
            return self.irqs.x2apic_read(msr, now).ok_or(MsrFault);
        }
        if base & X2APIC != XAPIC {
            return Err(MsrFault);
        }
        let low = self.irqs.mmio_read(now, offset) & 0xffff_ffff;
        let high = match offset {
            ICR => self.irqs.mmio_read(now, ICR + 0x10),
            _ => 0,
        };
        Ok(high << 32 | low)
    }

    /// Writes it, likewise.
    fn apic_write(&mut self, offset: u64, value: u64) -> Result<(), MsrFault> {
        let now = self.now;
        let base = self.irqs.apic_base();
        if base & X2APIC == X2APIC {
            let msr = nr::X2APIC + (offset >> 4) as u32;
            let valid = self.irqs.x2apic_write(msr, value, now);
            return if valid { Ok(()) } else { Err(MsrFault) };
        }
        if base & X2APIC != XAPIC {
            return Err(MsrFault);
        }
        if offset == ICR {
            self.irqs.mmio_write(now, ICR + 0x10, 4, value >> 32);
        }
        self.irqs.mmio_write(now, offset, 4, value & 0xffff_ffff);
        Ok(())
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
            msr::ICR => self.apic_read(ICR)?,
            msr::TPR => self.apic_read(TPR)?,
            msr::VP_ASSIST_PAGE => self.assist,
            _ => partition.crash().read(msr).ok_or(MsrFault)?,
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
            msr::EOI if value >> 32 == 0 => self.apic_write(EOI, 0)?,
            msr::ICR => self.apic_write(ICR, value)?,
            msr::TPR if value >> 8 == 0 => self.apic_write(TPR, value)?,
            msr::VP_ASSIST_PAGE => self.set_assist(value)?,
            msr::CRASH_P0..=msr::CRASH_CTL => {
                if partition.crash().write(msr, value) {
                    self.stop.get_or_insert(Stop::Crashed);
                }
            }
            _ => return Err(MsrFault),
        }
        Ok(())
    }

    /// VMCALL or VMMCALL (TLFS, "Legal Hypercall Environments"): from user code and real mode it is no instruction.
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
