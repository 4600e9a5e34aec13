//! Nested or shadow paging, as the VM is set up; or both, of which one is used at a time.

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
    /// One or the other.
    Both {
        /// Always up to date.
        nested: NestedMmu<F>,
        /// Empty while it is not used.
        shadow: Box<ShadowMmu<F>>,
        /// Which is used.
        shadowing: bool,
    },
}

/// Calls a method of whichever is used.
macro_rules! either {
    ($paging:expr, $mmu:ident => $call:expr) => {
        match $paging {
            Paging::Nested($mmu) => $call,
            Paging::Shadow($mmu) => $call,
            Paging::Both {
                shadow: $mmu,
                shadowing: true,
                ..
            } => $call,
            Paging::Both { nested: $mmu, .. } => $call,
        }
    };
}

impl<F: Frames> Paging<F> {
    /// Whether the host ran out of frames while nested tables were built.
    #[must_use]
    pub fn exhausted(&self) -> bool {
        match self {
            Paging::Nested(nested) | Paging::Both { nested, .. } => nested.exhausted(),
            Paging::Shadow(_) => false,
        }
    }
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
        matches!(
            self,
            Paging::Shadow(_)
                | Paging::Both {
                    shadowing: true,
                    ..
                }
        )
    }

    fn set_shadow(&mut self, on: bool) -> bool {
        let Paging::Both {
            shadow, shadowing, ..
        } = self
        else {
            return on == self.is_shadow();
        };
        if *shadowing != on {
            // What it has would be out of date when it is used again.
            shadow.empty();
            *shadowing = on;
        }
        true
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
        match self {
            Paging::Nested(mmu) => mmu.remap(start, len, backing),
            Paging::Shadow(mmu) => mmu.remap(start, len, backing),
            Paging::Both { nested, shadow, .. } => {
                nested.remap(start, len, backing);
                shadow.remap(start, len, backing);
            }
        }
    }

    fn frames_used(&self) -> u64 {
        match self {
            Paging::Nested(mmu) => mmu.frames_used(),
            Paging::Shadow(mmu) => mmu.frames_used(),
            Paging::Both { nested, shadow, .. } => nested.frames_used() + shadow.frames_used(),
        }
    }

    fn shadow_report(&self) -> Option<ShadowReport> {
        match self {
            Paging::Nested(_) => None,
            Paging::Shadow(mmu) | Paging::Both { shadow: mmu, .. } => mmu.shadow_report(),
        }
    }
}
