//! How the VMCS fields that are not plain numbers are laid out.

use bitflags::bitflags;

bitflags! {
    /// A segment's access rights (SDM vol 3C 25.4.1, "Guest Register State", table "Format of Access Rights"). `TYPE` is the low
    /// four bits, as in a descriptor.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct AccessRights: u32 {
        /// Type bit 0: accessed.
        const ACCESSED = 1 << 0;
        /// Type bit 1: writable (data), readable (code).
        const RW = 1 << 1;
        /// Type bit 2: expand-down (data), conforming (code).
        const DC = 1 << 2;
        /// Type bit 3: code.
        const CODE = 1 << 3;
        /// S: code or data (not system).
        const S = 1 << 4;
        /// Descriptor privilege level.
        const DPL = 3 << 5;
        /// Present.
        const P = 1 << 7;
        /// Available to software.
        const AVL = 1 << 12;
        /// 64-bit code.
        const L = 1 << 13;
        /// Default operand size 32 (code), big (stack).
        const DB = 1 << 14;
        /// Granularity 4 KiB.
        const G = 1 << 15;
        /// Unusable: a null selector was loaded.
        const UNUSABLE = 1 << 16;
        const _ = !0;
    }

    /// What keeps events from the guest (SDM vol 3C 25.4.2, "Guest Non-Register State", table "Format of Interruptibility
    /// State").
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Interruptibility: u32 {
        /// Blocking by STI.
        const STI = 1 << 0;
        /// Blocking by MOV SS.
        const MOV_SS = 1 << 1;
        /// Blocking by SMI.
        const SMI = 1 << 2;
        /// Blocking by NMI: of virtual NMIs where there are such.
        const NMI = 1 << 3;
        /// The exit came from enclave mode.
        const ENCLAVE_INTERRUPTION = 1 << 4;
        const _ = !0;
    }

    /// Debug exceptions that the guest has met but not taken (SDM vol 3C 25.4.2, "Guest Non-Register State", table "Format of
    /// Pending-Debug-Exceptions").
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct PendingDebug: u64 {
        /// Breakpoint conditions 0 to 3 were met.
        const B = 0xf;
        /// At least one of them, or an I/O or data breakpoint, was enabled.
        const ENABLED_BREAKPOINT = 1 << 12;
        /// A single step.
        const BS = 1 << 14;
        /// Inside a transactional region.
        const RTM = 1 << 16;
        const _ = !0;
    }

    /// An event, as injected or as reported (SDM vol 3C 25.8.3, "VM-Entry Controls for Event Injection"; 25.9.2, "Information
    /// for VM Exits Due to Vectored Events"; 25.9.3, "Information for VM Exits That Occur During Event Delivery"). `VECTOR` and
    /// `TYPE` are numbers.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Interruption: u32 {
        /// The vector.
        const VECTOR = 0xff;
        /// The type, one of [`event_type`].
        const TYPE = 7 << 8;
        /// An error code is delivered.
        const ERROR_CODE = 1 << 11;
        /// In exit information only: IRET had ended the blocking of NMIs.
        const NMI_UNBLOCKED = 1 << 12;
        /// The field says something.
        const VALID = 1 << 31;
        const _ = !0;
    }

    /// The EPT pointer's low bits (SDM vol 3C 25.6.11, "Extended-Page-Table Pointer (EPTP)").
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct EptPointer: u64 {
        /// The memory type of the tables, as in the PAT.
        const MEMORY_TYPE = 7;
        /// The number of levels less one.
        const WALK_LENGTH = 7 << 3;
        /// Accessed and dirty flags are kept.
        const ACCESSED_DIRTY = 1 << 6;
        /// Access rights of supervisor shadow-stack pages are enforced.
        const SUPERVISOR_SHADOW_STACK = 1 << 7;
        const _ = !0;
    }
}

impl AccessRights {
    /// The four type bits.
    #[must_use]
    pub const fn kind(self) -> u8 {
        self.bits() as u8 & 0xf
    }

    /// The descriptor privilege level, 0 to 3.
    #[must_use]
    pub const fn dpl(self) -> u8 {
        (self.bits() >> 5) as u8 & 3
    }

    /// Whether the register can be used for memory accesses.
    #[must_use]
    pub const fn usable(self) -> bool {
        !self.contains(Self::UNUSABLE)
    }
}

impl Interruption {
    /// The vector.
    #[must_use]
    pub const fn vector(self) -> u8 {
        self.bits() as u8
    }

    /// The type, one of [`event_type`].
    #[must_use]
    pub const fn kind(self) -> u8 {
        (self.bits() >> 8) as u8 & 7
    }
}

/// Types of events in [`Interruption`].
#[allow(missing_docs)]
pub mod event_type {
    pub const EXTERNAL_INTERRUPT: u8 = 0;
    pub const NMI: u8 = 2;
    pub const HARDWARE_EXCEPTION: u8 = 3;
    pub const SOFTWARE_INTERRUPT: u8 = 4;
    pub const PRIVILEGED_SOFTWARE_EXCEPTION: u8 = 5;
    pub const SOFTWARE_EXCEPTION: u8 = 6;
    pub const OTHER: u8 = 7;
}

/// The guest's activity (SDM vol 3C 25.4.2, "Guest Non-Register State").
#[allow(missing_docs)]
pub mod activity {
    pub const ACTIVE: u32 = 0;
    pub const HLT: u32 = 1;
    pub const SHUTDOWN: u32 = 2;
    pub const WAIT_FOR_SIPI: u32 = 3;
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::regs::SegAttr;

    #[test]
    fn access_rights_are_descriptor_attributes_with_a_gap() {
        for (ours, attribute) in [
            (AccessRights::ACCESSED, SegAttr::ACCESSED),
            (AccessRights::RW, SegAttr::RW),
            (AccessRights::DC, SegAttr::DC),
            (AccessRights::CODE, SegAttr::CODE),
            (AccessRights::S, SegAttr::S),
            (AccessRights::DPL, SegAttr::DPL0 | SegAttr::DPL1),
            (AccessRights::P, SegAttr::P),
            (AccessRights::AVL, SegAttr::AVL),
            (AccessRights::L, SegAttr::L),
            (AccessRights::DB, SegAttr::DB),
            (AccessRights::G, SegAttr::G),
        ] {
            let bits = u32::from(attribute.bits());
            assert_eq!(ours.bits(), bits & 0xff | (bits & 0xf00) << 4);
        }
    }

    #[test]
    fn a_64_bit_users_code_segment_reads_as_the_manual_says() {
        let rights = AccessRights::from_bits_retain(0xa0fb);
        assert_eq!((rights.kind(), rights.dpl()), (11, 3));
        assert!(rights.usable() && rights.contains(AccessRights::L | AccessRights::G));
        assert!(!AccessRights::from_bits_retain(0x1_0000).usable());
    }

    #[test]
    fn an_injected_page_fault_reads_as_the_manual_says() {
        let event = Interruption::from_bits_retain(0x8000_0b0e);
        assert_eq!(event.vector(), 14);
        assert_eq!(event.kind(), event_type::HARDWARE_EXCEPTION);
        assert!(event.contains(Interruption::VALID | Interruption::ERROR_CODE));
    }
}
