//! Hypercalls of KVM's interface, with which the CPUs of a guest help each other (Linux Documentation/virt/kvm/x86, "Linux KVM Hypercall").

use super::{Activity, Stop, Trouble, Vcpu};
use crate::cpu::VcpuBackend;
use crate::emulate::Intercepted;
use crate::emulate::Mode;
use crate::hypercall::{KICK_CPU, NO_SUCH_CALL, NOT_PERMITTED, SCHED_YIELD, SEND_IPI};
use crate::machine::{MAX_CPUS, Topology};
use crate::mmu::Mmu;
use crate::regs::gpr;
use crate::time::Clock;

/// Delivery mode and vector of the interrupt command register: fixed and NMI.
const ICR_NMI: u64 = 4 << 8;
const ICR_MODE: u64 = 7 << 8;

impl<B: VcpuBackend, M: Mmu, C: Clock> Vcpu<B, M, C> {
    /// VMCALL or VMMCALL: the number is in RAX, arguments are in RBX, RCX, RDX and RSI, the result is in RAX.
    #[cold]
    #[inline(never)]
    pub(super) fn hypercall(&mut self, next_rip: Option<u64>) -> Result<(), Trouble> {
        if self.speaks_hyperv() {
            return self.hyperv_call(next_rip);
        }
        let next = self.next_rip(next_rip, Intercepted::Vmmcall)?;
        let mask = if Mode::of(self).is_64() {
            u64::MAX
        } else {
            u32::MAX.into()
        };
        let regs = &self.cpu.gprs().regs;
        let [number, a, b, c, d] =
            [gpr::RAX, gpr::RBX, gpr::RCX, gpr::RDX, gpr::RSI].map(|r| regs[r] & mask);
        let result = match number {
            _ if self.cpu.cpl() != 0 => NOT_PERMITTED,
            _ if !self.has_kvm() => NO_SUCH_CALL,
            KICK_CPU => {
                self.irqs.kick(b as u32);
                0
            }
            SEND_IPI => self.send_ipis(u128::from(b) << mask.count_ones() | u128::from(a), c, d),
            SCHED_YIELD => {
                self.yield_to(a);
                0
            }
            _ => NO_SUCH_CALL,
        };
        self.cpu.gprs_mut().regs[gpr::RAX] = result & mask;
        self.advance(next);
        Ok(())
    }

    /// Sends what `icr` says to the CPUs with the APIC IDs `first` + n, for each bit n of `set`. Returns how many there are.
    fn send_ipis(&mut self, set: u128, first: u64, icr: u64) -> u64 {
        if !matches!(icr & ICR_MODE, 0 | ICR_NMI) {
            return NO_SUCH_CALL;
        }
        let mut sent = 0;
        for id in 0..MAX_CPUS {
            let bit = u64::from(id).checked_sub(first).filter(|&n| n < 128);
            if bit.is_some_and(|n| set >> n & 1 != 0)
                && self.irqs.send_ipi(id, (icr & (ICR_MODE | 0xff)) as u32)
            {
                sent += 1;
            }
        }
        sent
    }

    /// The CPU with this APIC ID is to run before this one goes on.
    fn yield_to(&mut self, apic_id: u64) {
        let all = self.vm.cpuid.topology().cores();
        let cpu = (0..all).find(|&cpu| u64::from(Topology::apic_id(cpu)) == apic_id);
        if let Some(cpu) = cpu.filter(|&cpu| cpu != u32::from(self.index)) {
            self.stop.get_or_insert(Stop::YieldTo(cpu as usize));
        }
    }

    /// Another CPU has [kicked](crate::hypercall::KICK_CPU) this one.
    #[cold]
    #[inline(never)]
    pub(super) fn kicked(&mut self) {
        match self.activity {
            Activity::Halted | Activity::Idle => self.set_activity(Activity::Active),
            Activity::Active => self.kicked = true,
            Activity::WaitForSipi => {}
        }
    }
}
