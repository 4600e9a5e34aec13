//! The interfaces of other hypervisors that a guest is offered: what makes a system that knows one of them run better here.

use bitflags::bitflags;

bitflags! {
    /// Interfaces of hypervisors, which CPUID tells of.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Interfaces: u8 {
        /// KVM's: [`pvclock`](crate::pvclock), [`pveoi`](crate::pveoi), [`pvsteal`](crate::pvsteal), [`hypercall`](crate::hypercall).
        const KVM = 1 << 0;
        /// Microsoft's: [`hyperv`](crate::hyperv).
        const HYPERV = 1 << 1;
    }
}

impl Default for Interfaces {
    fn default() -> Self {
        Self::KVM
    }
}
