//! MADT: the local APICs, the I/O APIC and how ISA interrupts reach it (ACPI 5.2.12, "Multiple APIC Description Table (MADT)").
//!
//! There is an entry for every CPU that the machine can have; those that are not there from the start say that they can come.

use alloc::vec::Vec;
use hv_core::machine::{IOAPIC, IOAPIC_ID, LAPIC, MachineDesc, SCI_IRQ, Topology, irq};

const PCAT_COMPAT: u32 = 1;
/// Flags of a local APIC: the CPU is ready for use.
const ENABLED: u32 = 1 << 0;
/// Flags of a local APIC: the CPU can be plugged in (ACPI 6.3, "Local APIC Flags").
const ONLINE_CAPABLE: u32 = 1 << 1;
const LOCAL_APIC: u8 = 0;
const IO_APIC: u8 = 1;
const SOURCE_OVERRIDE: u8 = 2;
const LOCAL_APIC_NMI: u8 = 4;
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

/// All is as in ACPI 1.0, but what ACPI 6.3 added is said only where it is needed.
pub(super) fn revision(desc: &MachineDesc) -> u8 {
    if desc.max_cpus > desc.cpus { 5 } else { 1 }
}

/// The entry of a CPU: processor identifier, APIC ID, flags.
pub(super) fn local_apic(cpu: u32, present: bool) -> [u8; 8] {
    let id = Topology::apic_id(cpu) as u8;
    let [a, b, c, d] = if present { ENABLED } else { ONLINE_CAPABLE }.to_le_bytes();
    [LOCAL_APIC, 8, cpu as u8, id, a, b, c, d]
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
    for cpu in 0..desc.max_cpus {
        b.extend(local_apic(cpu, cpu < desc.cpus));
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
    b
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::machine;

    /// Entries as (type, bytes).
    fn entries(desc: &MachineDesc) -> Vec<(u8, Vec<u8>)> {
        let b = body(desc);
        let (mut rest, mut found) = (&b[8..], vec![]);
        while let [kind, len, ..] = rest {
            let (entry, tail) = rest.split_at(usize::from(*len));
            found.push((*kind, entry.to_vec()));
            rest = tail;
        }
        found
    }

    #[test]
    fn every_possible_cpu_has_one_entry_that_says_whether_it_is_there() {
        for (cpus, max_cpus) in [(1, 1), (4, 4), (1, 4), (3, 32), (32, 32)] {
            let desc = MachineDesc {
                max_cpus,
                ..machine(1 << 30, cpus)
            };
            let mut found = entries(&desc);
            found.retain(|e| e.0 == LOCAL_APIC);
            for (cpu, (_, entry)) in (0u8..).zip(&found) {
                let flags = if u32::from(cpu) < cpus { 1 } else { 2 };
                assert_eq!(*entry, [0, 8, cpu, cpu, flags, 0, 0, 0]);
            }
            assert_eq!(found.len(), max_cpus as usize);
            assert_eq!(revision(&desc), if cpus < max_cpus { 5 } else { 1 });
        }
    }

    #[test]
    fn nmis_come_to_lint1_of_all() {
        let nmi = vec![LOCAL_APIC_NMI, 6, 0xff, 0, 0, 1];
        let found = entries(&machine(1 << 30, 4));
        assert_eq!(found.last(), Some(&(LOCAL_APIC_NMI, nmi)));
    }

    #[test]
    fn irq_0_is_pin_2_and_level_interrupts_are_active_high() {
        let overrides: Vec<_> = entries(&machine(1 << 30, 1))
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
