//! What others have to know of a local APIC to send it something: one word, which its owner publishes.

use super::{ApicBase, LVT_MASKED, Lapic};
use crate::irq::{DeliveryMode, Message};

const LOGICAL: u32 = 8;
const MODEL: u32 = 16;
const ENABLED: u64 = 1 << 20;
const X2APIC: u64 = 1 << 21;
const SOFTWARE_ENABLED: u64 = 1 << 22;
const EXT_INT: u64 = 1 << 23;
const LINT0_EDGE: u64 = 1 << 24;
const LINT0_NMI: u64 = 1 << 25;

/// ID (bits 7:0), logical ID and model of xAPIC mode, and what the local APIC takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::irq) struct Address(pub u64);

impl Address {
    fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }

    fn id(self) -> u8 {
        self.0 as u8
    }

    /// Whether the CPU has its local APIC.
    pub fn enabled(self) -> bool {
        self.has(ENABLED)
    }

    /// Whether it takes fixed and lowest-priority messages.
    pub fn takes_interrupts(self) -> bool {
        self.has(SOFTWARE_ENABLED)
    }

    /// Whether LINT0 passes the PIC's interrupts on.
    pub fn takes_ext_int(self) -> bool {
        self.has(EXT_INT)
    }

    /// Whether LINT0 makes something else of the PIC's output.
    pub fn takes_edge_at_lint0(self) -> bool {
        self.has(LINT0_EDGE)
    }

    /// Whether that is an NMI.
    pub fn lint0_is_nmi(self) -> bool {
        self.has(LINT0_NMI)
    }

    /// Whether a message is addressed to this local APIC (SDM vol 3A 12.6.2, "Determining IPI Destination").
    pub fn is_destination(self, destination: u32, logical: bool) -> bool {
        if !self.enabled() {
            return false;
        }
        if destination == Message::BROADCAST {
            return true;
        }
        if !logical {
            return destination == self.id().into();
        }
        if self.has(X2APIC) {
            return is_in_cluster(self.id(), destination);
        }
        let Ok(destination) = u8::try_from(destination) else {
            return false;
        };
        let own = (self.0 >> LOGICAL) as u8;
        match self.0 >> MODEL & 0xf {
            0xf => destination & own != 0,
            0 => {
                let cluster = destination >> 4;
                (cluster == 0xf || cluster == own >> 4) && destination & own & 0xf != 0
            }
            _ => false,
        }
    }
}

/// SDM vol 3A 12.12.10.2, "Deriving Logical x2APIC ID from the Local x2APIC ID".
pub(super) fn logical_id(id: u8) -> u32 {
    let id = u32::from(id);
    id >> 4 << 16 | 1 << (id & 0xf)
}

/// SDM vol 3A 12.12.10.1, "Logical Destination Mode in x2APIC Mode": 16 bits of cluster, one bit each of its members.
fn is_in_cluster(id: u8, destination: u32) -> bool {
    let own = logical_id(id);
    destination >> 16 == own >> 16 && destination & own & 0xffff != 0
}

impl Lapic {
    /// What others have to know.
    pub(in crate::irq) fn address(&self) -> Address {
        let lint0 = DeliveryMode::of(self.lint0());
        let open = self.lint0() & LVT_MASKED == 0 && self.enabled();
        let nmi = open && lint0 == DeliveryMode::Nmi;
        let mut word = u64::from(self.id)
            | u64::from(self.ldr) << LOGICAL
            | u64::from(self.dfr >> 28) << MODEL;
        for (bit, set) in [
            (ENABLED, self.enabled()),
            (X2APIC, self.base.contains(ApicBase::EXTD)),
            (SOFTWARE_ENABLED, self.software_enabled()),
            (EXT_INT, self.ext_int()),
            (LINT0_EDGE, nmi || open && lint0 == DeliveryMode::Fixed),
            (LINT0_NMI, nmi),
        ] {
            if set {
                word |= bit;
            }
        }
        Address(word)
    }
}
