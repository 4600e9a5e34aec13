//! MADT: the local APICs, the I/O APIC and how ISA interrupts reach it (ACPI 5.2.12, "Multiple APIC Description Table (MADT)").
//!
//! A CPU's APIC ID is its number. From 255 on it takes an x2APIC entry.

use alloc::vec::Vec;
use hv_core::machine::{IOAPIC, IOAPIC_ID, LAPIC, MachineDesc, SCI_IRQ, irq};

/// The first APIC ID that an xAPIC entry cannot name.
pub(super) const FIRST_X2APIC: u32 = 255;

const PCAT_COMPAT: u32 = 1;
const ENABLED: u32 = 1;
const LOCAL_APIC: u8 = 0;
const IO_APIC: u8 = 1;
const SOURCE_OVERRIDE: u8 = 2;
const LOCAL_APIC_NMI: u8 = 4;
const LOCAL_X2APIC: u8 = 9;
const LOCAL_X2APIC_NMI: u8 = 10;
const ALL_PROCESSORS: u8 = 0xff;
const NMI_LINT: u8 = 1;

/// INTI flags: polarity and trigger mode as the bus has them.
const CONFORMING: u16 = 0;
/// INTI flags: active high, level triggered.
const HIGH_LEVEL: u16 = 0xd;
/// The I/O APIC's input for the PIT: ISA interrupt 0 ends at pin 2.
const PIT_PIN: u32 = 2;
/// The third choice of the interrupt links besides those that firmware gives them.
pub(super) const SPARE_PIRQ: u8 = 5;

/// The first revision with x2APIC entries is ACPI 4.0's; all else is as in ACPI 1.0.
pub(super) fn revision(desc: &MachineDesc) -> u8 {
    if desc.cpus > FIRST_X2APIC { 3 } else { 1 }
}

/// ISA interrupts that are level triggered: the SCI and what the interrupt links can take.
pub(super) fn level_irqs() -> Vec<u8> {
    let mut irqs = Vec::from(irq::PIRQ);
    irqs.extend([SPARE_PIRQ, SCI_IRQ]);
    irqs.sort_unstable();
    irqs.dedup();
    irqs
}

/// All after the header.
pub(super) fn body(desc: &MachineDesc) -> Vec<u8> {
    let mut b = Vec::new();
    b.extend((LAPIC as u32).to_le_bytes());
    b.extend(PCAT_COMPAT.to_le_bytes());
    for id in 0..desc.cpus.min(FIRST_X2APIC) {
        b.extend([LOCAL_APIC, 8, id as u8, id as u8]);
        b.extend(ENABLED.to_le_bytes());
    }
    for id in FIRST_X2APIC..desc.cpus {
        b.extend([LOCAL_X2APIC, 16, 0, 0]);
        for value in [id, ENABLED, id] {
            b.extend(value.to_le_bytes());
        }
    }
    b.extend([IO_APIC, 12, IOAPIC_ID, 0]);
    b.extend((IOAPIC as u32).to_le_bytes());
    b.extend(0u32.to_le_bytes());
    let mut source_override = |irq: u8, pin: u32, flags: u16| {
        b.extend([SOURCE_OVERRIDE, 10, 0, irq]);
        b.extend(pin.to_le_bytes());
        b.extend(flags.to_le_bytes());
    };
    source_override(irq::PIT, PIT_PIN, CONFORMING);
    for irq in level_irqs() {
        source_override(irq, u32::from(irq), HIGH_LEVEL);
    }
    b.extend([LOCAL_APIC_NMI, 6, ALL_PROCESSORS, 0, 0, NMI_LINT]);
    if desc.cpus > FIRST_X2APIC {
        b.extend([
            LOCAL_X2APIC_NMI,
            12,
            0,
            0,
            0xff,
            0xff,
            0xff,
            0xff,
            NMI_LINT,
            0,
            0,
            0,
        ]);
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::machine;

    /// Entries as (type, bytes).
    fn entries(cpus: u32) -> Vec<(u8, Vec<u8>)> {
        let b = body(&machine(1 << 30, cpus));
        let (mut rest, mut found) = (&b[8..], vec![]);
        while let [kind, len, ..] = rest {
            let (entry, tail) = rest.split_at(usize::from(*len));
            found.push((*kind, entry.to_vec()));
            rest = tail;
        }
        found
    }

    #[test]
    fn every_cpu_has_one_entry_and_large_ids_an_x2apic_entry() {
        for (cpus, x, x2) in [(1, 1, 0), (255, 255, 0), (256, 255, 1), (300, 255, 45)] {
            let count = |kind| entries(cpus).iter().filter(|e| e.0 == kind).count();
            assert_eq!((count(LOCAL_APIC), count(LOCAL_X2APIC)), (x, x2));
        }
    }

    #[test]
    fn irq_0_is_pin_2_and_level_interrupts_are_active_high() {
        let overrides: Vec<_> = entries(1)
            .into_iter()
            .filter(|e| e.0 == SOURCE_OVERRIDE)
            .map(|e| e.1)
            .collect();
        assert_eq!(overrides[0], [2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
        let level: Vec<_> = overrides[1..].iter().map(|o| (o[3], o[4], o[8])).collect();
        assert_eq!(
            level,
            [(5, 5, 0xd), (9, 9, 0xd), (10, 10, 0xd), (11, 11, 0xd)]
        );
    }
}
