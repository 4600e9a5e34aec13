//! The MP table, for kernels without ACPI (Intel, "MultiProcessor Specification" 1.4, chapter 4, "MP Configuration Table").
//!
//! Processors, a PCI and an ISA bus, the I/O APIC, the interrupts of PCI functions and the ISA interrupts, and the local
//! interrupts. All that SeaBIOS writes when it boots a guest, from the same wiring ([`crate::pci_setup::interrupts`]).

use crate::blob::Blob;
use crate::pci_setup::interrupts;
use alloc::vec::Vec;
use hv_core::Gpa;
use hv_core::machine::{IOAPIC, IOAPIC_ID, LAPIC, MachineDesc, Topology, irq};

/// Length of the floating pointer structure, in bytes.
pub const POINTER_LEN: usize = 16;
const HEADER_LEN: usize = 44;
const SPEC_1_4: u8 = 4;

const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IO_APIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

const PCI_BUS: u8 = 0;
const ISA_BUS: u8 = 1;
const LAPIC_VERSION: u8 = 0x14;
const IOAPIC_VERSION: u8 = 0x11;
const CPU_ENABLED: u8 = 1 << 0;
const CPU_BOOTSTRAP: u8 = 1 << 1;
const IOAPIC_ENABLED: u8 = 1;
/// Family 6, and FPU and APIC present: who wants to know more asks CPUID.
const CPU_SIGNATURE: u32 = 0x600;
const CPU_FEATURES: u32 = 1 << 0 | 1 << 9;
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;
const ALL_LAPICS: u8 = 0xff;
/// The I/O APIC's input for the PIT.
const PIT_PIN: u8 = 2;

/// The floating pointer and the configuration table behind it, for placement at `at` (16-byte aligned, below 1 MiB).
#[must_use]
pub fn build(desc: &MachineDesc, at: Gpa) -> Vec<u8> {
    let mut pointer = Blob::zeroed(POINTER_LEN);
    pointer
        .set(0, b"_MP_")
        .set32(4, at.add(POINTER_LEN as u64).0 as u32)
        .set8(8, 1)
        .set8(9, SPEC_1_4);
    pointer.fix_sum(10, 0..POINTER_LEN);
    pointer.push(&table(desc));
    pointer.0
}

fn table(desc: &MachineDesc) -> Vec<u8> {
    let mut b = Blob::zeroed(HEADER_LEN);
    let mut entries = 0u16;
    let mut add = |entry: &[u8]| {
        b.push(entry);
        entries += 1;
    };
    // Those that are there from the start: whoever reads this table knows nothing of the others.
    for cpu in 0..desc.cpus {
        let id = Topology::apic_id(cpu) as u8;
        let flags = if cpu == 0 {
            CPU_ENABLED | CPU_BOOTSTRAP
        } else {
            CPU_ENABLED
        };
        let mut p = Blob::zeroed(20);
        p.set(0, &[PROCESSOR, id, LAPIC_VERSION, flags])
            .set32(4, CPU_SIGNATURE)
            .set32(8, CPU_FEATURES);
        add(&p.0);
    }
    add(&[BUS, PCI_BUS, b'P', b'C', b'I', b' ', b' ', b' ']);
    add(&[BUS, ISA_BUS, b'I', b'S', b'A', b' ', b' ', b' ']);
    let a = (IOAPIC as u32).to_le_bytes();
    add(&[
        IO_APIC,
        IOAPIC_ID,
        IOAPIC_VERSION,
        IOAPIC_ENABLED,
        a[0],
        a[1],
        a[2],
        a[3],
    ]);

    let mut taken_by_pci = 0u16;
    for i in interrupts(desc) {
        let source = i.slot.device << 2 | i.pin;
        add(&[IO_INTERRUPT, INT, 0, 0, PCI_BUS, source, IOAPIC_ID, i.irq]);
        taken_by_pci |= 1 << i.irq;
    }
    for irq in (0..16u8).filter(|irq| taken_by_pci >> irq & 1 == 0) {
        let pin = match irq {
            irq::PIT => PIT_PIN,
            // The cascade's pin has the PIT.
            PIT_PIN => continue,
            irq => irq,
        };
        add(&[IO_INTERRUPT, INT, 0, 0, ISA_BUS, irq, IOAPIC_ID, pin]);
    }
    add(&[LOCAL_INTERRUPT, EXT_INT, 0, 0, ISA_BUS, 0, 0, 0]);
    add(&[LOCAL_INTERRUPT, NMI, 0, 0, ISA_BUS, 0, ALL_LAPICS, 1]);

    let len = b.0.len();
    b.set(0, b"PCMP")
        .set16(4, len as u16)
        .set8(6, SPEC_1_4)
        .set(8, b"UMBRA   ")
        .set(16, b"VIRTUAL PC  ");
    b.set16(34, entries).set32(36, LAPIC as u32);
    b.fix_sum(7, 0..len);
    b.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::sum;
    use crate::testing::{machine, pluggable};

    fn entries(cpus: u32) -> Vec<Vec<u8>> {
        let t = table(&machine(1 << 30, cpus));
        let (mut rest, mut found) = (&t[HEADER_LEN..], vec![]);
        while let Some(kind) = rest.first() {
            let (entry, tail) = rest.split_at(if *kind == PROCESSOR { 20 } else { 8 });
            found.push(entry.to_vec());
            rest = tail;
        }
        assert_eq!(usize::from(u16::from_le_bytes([t[34], t[35]])), found.len());
        found
    }

    #[test]
    fn pointer_and_table_add_up_and_meet() {
        let b = build(&machine(1 << 30, 4), Gpa(0xf_0100));
        assert_eq!(sum(&b[..16]), 0);
        assert_eq!(b[4..8], 0xf_0110u32.to_le_bytes());
        let len = usize::from(u16::from_le_bytes([b[20], b[21]]));
        assert_eq!(len, b.len() - 16);
        assert_eq!(sum(&b[16..]), 0);
    }

    #[test]
    fn the_pit_is_at_pin_2_and_no_pin_has_two_isa_sources() {
        let e = entries(2);
        assert!(e.contains(&vec![IO_INTERRUPT, INT, 0, 0, ISA_BUS, 0, IOAPIC_ID, 2]));
        let mut pins: Vec<_> = e
            .iter()
            .filter(|e| e[0] == IO_INTERRUPT && e[4] == ISA_BUS)
            .map(|e| e[7])
            .collect();
        let count = pins.len();
        pins.sort_unstable();
        pins.dedup();
        assert_eq!(pins.len(), count);
    }

    #[test]
    fn the_network_card_has_the_interrupt_of_its_link() {
        // Device 3, INTA: PIRQC, interrupt 11.
        assert!(entries(1).contains(&vec![
            IO_INTERRUPT,
            INT,
            0,
            0,
            PCI_BUS,
            3 << 2,
            IOAPIC_ID,
            11
        ]));
    }

    #[test]
    fn only_the_first_cpu_is_the_bootstrap_processor() {
        let flags: Vec<_> = entries(3)
            .iter()
            .filter(|e| e[0] == PROCESSOR)
            .map(|e| (e[1], e[3]))
            .collect();
        assert_eq!(flags, [(0, 3), (1, 1), (2, 1)]);
        let processors = |desc: &MachineDesc| {
            let t = table(desc);
            let entries = t[HEADER_LEN..].chunks(20);
            entries.take_while(|e| e[0] == PROCESSOR).count()
        };
        assert_eq!(processors(&machine(1 << 30, 32)), 32);
        assert_eq!(processors(&pluggable(2, 32)), 2);
    }
}
