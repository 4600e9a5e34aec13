//! Microsoft's interface ([`hyperv`](crate::hyperv)) as one CPU uses it: model-specific registers and hypercalls.

use super::{Activity, Stop, Trouble, Vcpu, undefined};
use crate::cpu::VcpuBackend;
use crate::emulate::{Intercepted, Kind, Mode};
use crate::flush::Kick;
use crate::hyperv::hypercall::{self, Call};
use crate::hyperv::{Expired, Moment, Partition, Processor, Slot, Synic, msr, placed};
use crate::machine::{LAPIC_HZ, Topology};
use crate::mmu::Mmu;
use crate::msr::{MsrFault, nr};
use crate::regs::{SysReg, gpr};
use crate::time::{Clock, VmTime};
use alloc::boxed::Box;

/// IA32_APIC_BASE: enabled, and in x2APIC mode.
const XAPIC: u64 = 1 << 11;
const X2APIC: u64 = XAPIC | 1 << 10;
/// Offsets of the local APIC's registers.
const TPR: u64 = 0x80;
const EOI: u64 = 0xb0;
const ICR: u64 = 0x300;

impl<B: VcpuBackend, M: Mmu, C: Clock> Vcpu<B, M, C> {
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
        self.hyperv = Some(Box::default());
        self.synthetic_timer = VmTime::NEVER;
        self.tell_tsc_offset();
    }

    /// Whether nobody would notice if the interrupt in service ended without a word, and the guest sees where it can say so.
    pub(super) fn may_skip_eoi(&self) -> bool {
        let is_covered = |partition: &Partition| partition.is_covered(self.index());
        self.irqs.eoi_may_be_skipped() && !(self.vm.hyperv.as_ref().is_some_and(is_covered))
    }

    /// Writes HV_X64_MSR_VP_ASSIST_PAGE (TLFS, "EOI Assist").
    fn set_assist(&mut self, value: u64) -> Result<(), MsrFault> {
        let partition = self.vm.hyperv.as_ref().ok_or(MsrFault)?;
        let at = placed(value);
        if !partition.place_assist(&*self.vm.memory, self.index(), at) {
            return Err(MsrFault);
        }
        // The word has been taken back at the exit.
        self.processor()?.assist = value;
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
        let Some(partition) = &self.vm.hyperv else {
            return self.unknown_read(msr);
        };
        Ok(match msr {
            msr::GUEST_OS_ID => partition.guest_os_id(),
            msr::HYPERCALL => partition.hypercall(),
            msr::VP_INDEX => self.index.into(),
            msr::TIME_REF_COUNT => self.reference_time(),
            msr::REFERENCE_TSC => partition.reference_tsc(),
            msr::TSC_FREQUENCY => self.reference.tsc_hz(),
            msr::APIC_FREQUENCY => LAPIC_HZ,
            msr::ICR => self.apic_read(ICR)?,
            msr::TPR => self.apic_read(TPR)?,
            msr::VP_ASSIST_PAGE => self.processor()?.assist,
            msr::GUEST_IDLE => {
                self.set_activity(Activity::Idle);
                0
            }
            msr::SCONTROL..=msr::SINT15 => self.processor()?.synic.read(msr).ok_or(MsrFault)?,
            msr::STIMER0_CONFIG..=msr::STIMER3_COUNT => {
                self.processor()?.timers.read(msr).ok_or(MsrFault)?
            }
            _ => partition.crash().read(msr).ok_or(MsrFault)?,
        })
    }

    /// WRMSR. What is not here is read-only, or not there.
    #[cold]
    #[inline(never)]
    pub(super) fn hyperv_write(&mut self, msr: u32, value: u64) -> Result<(), MsrFault> {
        let Some(partition) = &self.vm.hyperv else {
            return self.unknown_write(msr);
        };
        let memory = &*self.vm.memory;
        match msr {
            msr::GUEST_OS_ID => partition.set_guest_os_id(memory, value),
            msr::HYPERCALL => partition.set_hypercall(memory, value)?,
            msr::REFERENCE_TSC => partition.set_reference_tsc(memory, value, self.moment()),
            msr::EOI if value >> 32 == 0 => {
                self.apic_write(EOI, 0)?;
                self.apic_written(EOI);
            }
            msr::ICR => self.apic_write(ICR, value)?,
            msr::TPR if value >> 8 == 0 => self.apic_write(TPR, value)?,
            msr::VP_ASSIST_PAGE => self.set_assist(value)?,
            msr::EOM => self.retry_messages(),
            msr::SCONTROL..=msr::SINT15 => self.synic_write(msr, value)?,
            msr::STIMER0_CONFIG..=msr::STIMER3_COUNT => {
                let now = self.reference_time();
                self.processor()?.timers.write(msr, value, now)?;
                self.arm_synthetic_timers();
            }
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
        let regs = &self.cpu.gprs().regs;
        let pair = |high: usize, low: usize| regs[high] << 32 | regs[low] & 0xffff_ffff;
        let (input, registers) = match mode.is_64() {
            true => (regs[gpr::RCX], [regs[gpr::RDX], regs[gpr::R8]]),
            false => (
                pair(gpr::RDX, gpr::RAX),
                [pair(gpr::RBX, gpr::RCX), pair(gpr::RDI, gpr::RSI)],
            ),
        };
        let registers = hypercall::registers(registers, |n| self.cpu.fx().xmm(n));
        let memory = &self.vm.memory;
        let read = &mut |gpa, buf: &mut [u8]| memory.read(gpa, buf).is_ok();
        let call = hypercall::parse(input, registers, read);
        let result = hypercall::result(input, call.map(|call| self.carry_out(call)));
        let regs = &mut self.cpu.gprs_mut().regs;
        if mode.is_64() {
            regs[gpr::RAX] = result;
        } else {
            (regs[gpr::RDX], regs[gpr::RAX]) = (result >> 32, result & 0xffff_ffff);
        }
        self.advance(next);
        Ok(())
    }

    fn carry_out(&mut self, call: Call) {
        match call {
            Call::Flush(cpus) => self.flush_cpus(cpus),
            Call::Ipi(cpus, vector) => {
                for cpu in self.cpus(cpus) {
                    self.irqs.send_ipi(Topology::apic_id(cpu), vector.into());
                }
            }
            Call::LongSpinWait => {
                self.stop.get_or_insert(Stop::Yield);
            }
        }
    }

    /// Those of `set` that there can be.
    fn cpus(&self, set: u32) -> impl Iterator<Item = u32> + use<B, M, C> {
        let all = self.vm.cpuid.topology().cores();
        (0..all).filter(move |&cpu| set >> cpu & 1 != 0)
    }

    /// Makes CPUs forget their translations of linear addresses. When it returns, none is in the guest that has not.
    fn flush_cpus(&mut self, set: u32) {
        let own = u32::from(self.index);
        let mut others = 0;
        for cpu in self.cpus(set) {
            if cpu == own {
                self.reload_paging();
            } else {
                self.irqs.ask_to_flush(Topology::apic_id(cpu));
                others |= 1 << cpu;
            }
        }
        if others != 0 {
            self.vm.wakeups.kicks.kick(others);
        }
    }

    /// What it has of the interface.
    fn processor(&mut self) -> Result<&mut Processor, MsrFault> {
        self.hyperv.as_deref_mut().ok_or(MsrFault)
    }

    /// Whether an interrupt with this vector ends when it is delivered.
    pub(super) fn ends_by_itself(&self, vector: u8) -> bool {
        let own = self.hyperv.as_ref();
        own.is_some_and(|own| own.synic.ends_by_itself(vector))
    }

    fn reference_time(&self) -> u64 {
        self.reference.of_ticks(self.moment().ticks)
    }

    fn synic_write(&mut self, msr: u32, value: u64) -> Result<(), MsrFault> {
        self.processor()?.synic.write(msr, value)?;
        let slot = match msr {
            msr::SIMP => Slot::Messages(self.index()),
            msr::SIEFP => Slot::Events(self.index()),
            _ => return Ok(()),
        };
        if let Some(partition) = &self.vm.hyperv {
            partition.place_synic(&*self.vm.memory, slot, placed(value));
        }
        Ok(())
    }

    /// Finds out when the first of the synthetic timers is due.
    fn arm_synthetic_timers(&mut self) {
        let due = self.hyperv.as_ref().and_then(|own| own.timers.due());
        self.synthetic_timer = due.map_or(VmTime::NEVER, |due| {
            match self.reference.ticks_of(due) {
                // The clock rounds down, and no timer is early.
                Some(ticks) => self.clock.time(ticks.wrapping_add(self.clock.origin())) + VmTime(1),
                None => VmTime::NEVER,
            }
        });
        self.set_timer();
    }

    /// Lets the synthetic timers do what is due.
    #[cold]
    #[inline(never)]
    pub(super) fn poll_synthetic_timers(&mut self) {
        // What is due by the VM's time is due, however the two clocks are rounded.
        let now = self.reference_time().saturating_add(1);
        if let Some(mut own) = self.hyperv.take() {
            let Processor { synic, timers, .. } = &mut *own;
            timers.poll(now, |expired| self.reaches(synic, expired));
            self.hyperv = Some(own);
        }
        self.arm_synthetic_timers();
    }

    /// The local APIC's register at this offset of its page has been written. The end of an interrupt lets the next message come (TLFS, "SynIC
    /// Message Page").
    pub(super) fn apic_written(&mut self, offset: u64) {
        if offset & !0xf == EOI {
            self.retry_messages();
        }
        self.set_timer();
    }

    /// The guest has taken a message: the next one may have its place.
    fn retry_messages(&mut self) {
        if let Some(mut own) = self.hyperv.take() {
            let Processor { synic, timers, .. } = &mut *own;
            timers.retry(|expired| self.reaches(synic, expired));
            self.hyperv = Some(own);
        }
    }

    /// Lets the guest know of a timer. False: its message has no place.
    fn reaches(&mut self, synic: &Synic, expired: Expired) -> bool {
        let (source, timer, due) = match expired {
            Expired::Direct(vector) => {
                self.irqs.request(vector);
                return true;
            }
            Expired::Message { source, timer, due } => (source, timer, due),
        };
        let Some(partition) = self.vm.hyperv.as_ref().filter(|_| synic.takes_messages()) else {
            // Nobody listens.
            return true;
        };
        let message = timer_message(timer, due, self.reference_time());
        let placed = partition.post(&*self.vm.memory, self.index(), source, &message);
        if placed && let Some(vector) = synic.vector(source) {
            self.irqs.request(vector);
        }
        placed
    }
}

/// HvMessageTimerExpired (TLFS, "Synthetic Timer Expiration Messages"), with its header.
fn timer_message(timer: usize, due: u64, now: u64) -> [u8; 40] {
    const TIMER_EXPIRED: u32 = 0x8000_0010;
    const PAYLOAD: u8 = 24;
    let mut message = [0; 40];
    message[..4].copy_from_slice(&TIMER_EXPIRED.to_le_bytes());
    message[4] = PAYLOAD;
    message[16..20].copy_from_slice(&(timer as u32).to_le_bytes());
    message[24..32].copy_from_slice(&due.to_le_bytes());
    message[32..].copy_from_slice(&now.to_le_bytes());
    message
}
