//! Nested or shadow paging, as the VM is set up.

use crate::{NestedMmu, ShadowMmu};
use alloc::boxed::Box;
use hv_core::exit::NestedFault;
use hv_core::mem::GuestMemory;
use hv_core::mmu::{
    Access, Backing, Frames, Mmu, PageFault, PagingState, Resolve, ShadowFault, ShadowReport,
    TlbFlush,
};
use hv_core::{Gpa, Gva, Hpa};

/// How a VM's memory is virtualized.
pub enum Paging<F: Frames> {
    /// The hardware walks a second set of tables.
    Nested(NestedMmu<F>),
    /// The hardware walks shadows of the guest's tables.
    Shadow(Box<ShadowMmu<F>>),
}

/// Calls a method of whichever it is.
macro_rules! either {
    ($paging:expr, $mmu:ident => $call:expr) => {
        match $paging {
            Paging::Nested($mmu) => $call,
            Paging::Shadow($mmu) => $call,
        }
    };
}

impl<F: Frames> Mmu for Paging<F> {
    #[inline]
    fn root(&mut self) -> (Hpa, TlbFlush) {
        either!(self, mmu => mmu.root())
    }

    fn fault(&mut self, fault: &NestedFault) -> Resolve {
        either!(self, mmu => mmu.fault(fault))
    }

    #[inline]
    fn is_shadow(&self) -> bool {
        matches!(self, Paging::Shadow(_))
    }

    fn page_fault(&mut self, fault: &ShadowFault) -> Resolve {
        either!(self, mmu => mmu.page_fault(fault))
    }

    fn cannot_emulate(&mut self, fault: &ShadowFault) -> bool {
        either!(self, mmu => mmu.cannot_emulate(fault))
    }

    fn load(&mut self, state: &PagingState) {
        either!(self, mmu => mmu.load(state));
    }

    fn invalidate_page(&mut self, state: &PagingState, gva: Gva) {
        either!(self, mmu => mmu.invalidate_page(state, gva));
    }

    fn translate(
        &mut self,
        mem: &dyn GuestMemory,
        state: &PagingState,
        gva: Gva,
        access: Access,
    ) -> Result<Gpa, PageFault> {
        either!(self, mmu => mmu.translate(mem, state, gva, access))
    }

    fn remap(&mut self, start: Gpa, len: u64, backing: Backing) {
        either!(self, mmu => mmu.remap(start, len, backing));
    }

    fn frames_used(&self) -> u64 {
        either!(self, mmu => mmu.frames_used())
    }

    fn shadow_report(&self) -> Option<ShadowReport> {
        either!(self, mmu => mmu.shadow_report())
    }
}
