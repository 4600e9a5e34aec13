//! Faults at the tables that Umbra has made, and whatever makes the guest's own tables count anew.

use super::{Trouble, Vcpu};
use crate::Gva;
use crate::cpu::VcpuBackend;
use crate::emulate::{EmuCx, EmuFault};
use crate::event::{Event, vector};
use crate::exit::{ExitReason, NestedFault};
use crate::mmu::{Mmu, PfError, Resolve, ShadowFault};
use crate::regs::SysReg;
use crate::time::Clock;

impl<B: VcpuBackend, M: Mmu, C: Clock> Vcpu<B, M, C> {
    /// Does what the MMU wants done about a fault.
    pub(super) fn resolve(
        &mut self,
        resolve: Resolve,
        vectoring: Option<Event>,
    ) -> Result<(), Trouble> {
        match resolve {
            Resolve::Retry => Ok(()),
            Resolve::Guest(fault) => {
                self.cpu.set_sysreg(SysReg::Cr2, fault.gva.0);
                let error = Some(fault.error.bits());
                if let Some(event) = vectoring {
                    self.lose(event);
                }
                Err(Trouble::Exception(Event::exception(vector::PF, error)))
            }
            Resolve::Mmio | Resolve::Emulate => self.in_software(vectoring.is_some()),
        }
    }

    /// Does in software what the CPU was at: the delivery of an event, which has been put back, or the instruction at RIP.
    #[cold]
    #[inline(never)]
    pub(super) fn in_software(&mut self, delivering: bool) -> Result<(), Trouble> {
        if !delivering {
            return self.emulate();
        }
        let attention = self.irqs.attention();
        match self.injection(attention).and_then(|i| i.event) {
            Some(event) => self.deliver(&event),
            None => Ok(()),
        }
    }

    /// The hardware has faulted on the nested tables below shadow tables: there are none where it has loaded CR3 from.
    #[cold]
    #[inline(never)]
    pub(super) fn at_fence(
        &mut self,
        fault: NestedFault,
        vectoring: Option<Event>,
    ) -> Result<(), Trouble> {
        match self.cpu.switched_tasks() {
            Some(cr3) => self.complete_task_switch(cr3, vectoring),
            None => Err(self.fatal(
                "shadow tables lead out of the guest's fence",
                ExitReason::NestedFault(fault),
            )),
        }
    }

    /// The hardware has faulted on shadow tables.
    pub(super) fn shadow_fault(
        &mut self,
        gva: Gva,
        error: u32,
        vectoring: Option<Event>,
    ) -> Result<(), Trouble> {
        if let Some(cr3) = self.cpu.switched_tasks() {
            return self.complete_task_switch(cr3, vectoring);
        }
        let fault = ShadowFault {
            gva,
            error: PfError::from_bits_retain(error),
            state: self.paging_state(),
            cpl: self.cpu.cpl(),
            delivering: vectoring.is_some(),
            rip: self.cpu.rip(),
        };
        let resolve = self.vm.mmu().page_fault(self.index(), &fault);
        if resolve != Resolve::Emulate || fault.delivering {
            return self.resolve(resolve, vectoring);
        }
        self.stats.emulated += 1;
        match self.step() {
            Err(EmuFault::Unsupported(_)) if self.vm.mmu().cannot_emulate(self.index(), &fault) => {
                Ok(())
            }
            result => self.emulated(fault.rip, result),
        }
    }

    /// The VM has gone from nested to shadow paging or back, between two exits. The guest does not notice: its own tables are the truth, and
    /// events that wait go on waiting.
    #[cold]
    pub(super) fn follow_paging(&mut self) {
        self.shadow = self.vm.is_shadow();
        self.cpu.set_shadow_paging(self.shadow);
        self.reload_paging();
        if !self.shadow {
            self.reload_pdptes();
        }
        self.stats.paging_switches += 1;
    }

    /// INVLPG. Without the address or the next RIP it is decoded.
    pub(super) fn invlpg_exit(
        &mut self,
        gva: Option<Gva>,
        next_rip: Option<u64>,
    ) -> Result<(), Trouble> {
        let (Some(gva), Some(next)) = (gva, next_rip) else {
            return self.emulate();
        };
        match self.invlpg(gva) {
            Ok(()) => {
                self.advance(next);
                Ok(())
            }
            Err(fault) => Err(self.trouble(fault)),
        }
    }

    /// The guest has loaded CR3, or changed how its tables are read: under shadow paging the shadows follow; where the hardware
    /// walks the guest's tables itself, it forgets what it remembers of them.
    pub(super) fn reload_paging(&mut self) {
        if self.shadow {
            let state = self.paging_state();
            let mut mmu = self.vm.mmu();
            mmu.load(self.index(), &state);
            self.cpu.set_fence(mmu.fence(self.index()));
        } else {
            self.cpu.flush_linear();
        }
    }
}
