//! The `acpi` crate, which guests written in Rust use, reads the tables that [`hvmloader_fw::place`] has put into RAM.
//!
//! Its handler maps physical memory by raw pointers; the `unsafe` here is only what that interface asks for.

use acpi::fadt::Fadt;
use acpi::madt::{Madt, MadtEntry};
use acpi::{AcpiHandler, AcpiTables, PhysicalMapping};
use hv_core::Gpa;
use hv_core::machine::{FloppyDrive, IdeDrive, MachineDesc, Nic};
use hv_core::mem::GuestMemory;
use hv_core::testing::VecMemory;
use hvmloader_fw::place::place;
use std::ptr::NonNull;
use std::rc::Rc;

const MEMORY: usize = 32 << 20;

/// A copy of the guest's memory, with room behind it for structures that are longer in the crate than in our RAM.
#[derive(Clone)]
struct Image(Rc<Vec<u8>>);

impl AcpiHandler for Image {
    unsafe fn map_physical_region<T>(&self, at: usize, size: usize) -> PhysicalMapping<Self, T> {
        assert!(
            at + size.max(size_of::<T>()) <= self.0.len(),
            "{at:#x} is outside of the memory"
        );
        let start = NonNull::from(&self.0[at]).cast();
        // SAFETY: the range lies within the vector, which the handler in the mapping keeps alive, and nobody writes to it.
        unsafe { PhysicalMapping::new(at, start, size, size, self.clone()) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

fn tables(cpus: u32) -> AcpiTables<Image> {
    let desc = MachineDesc {
        memory: MEMORY as u64,
        cpus,
        max_cpus: cpus,
        nics: MachineDesc::one_nic(Nic::Ne2k, [2, 0, 0, 0, 0, 1]),
        uuid: [7; 16],
        drives: [Some(IdeDrive::Disk { sectors: 1 << 20 }), None, None, None],
        sata: [None; 6],
        pci_disks: 0,
        floppy: FloppyDrive::M1440,
        boot: None,
        hpet: true,
        tablet: true,
    };
    let mem = VecMemory::new(MEMORY);
    let placement = place(&desc, &mem).unwrap();
    let mut image = vec![0; MEMORY + 4096];
    mem.read(Gpa(0), &mut image[..MEMORY]).unwrap();
    // SAFETY: the handler checks every range.
    unsafe { AcpiTables::from_rsdp(Image(Rc::new(image)), placement.rsdp.0 as usize) }.unwrap()
}

#[test]
fn the_fixed_hardware_is_found() {
    let tables = tables(1);
    assert_eq!(tables.revision(), 2);
    let fadt = tables.find_table::<Fadt>().unwrap();
    assert_eq!(
        (
            fadt.pm1a_event_block().unwrap().address,
            fadt.pm1a_control_block().unwrap().address
        ),
        (0x600, 0x604)
    );
    assert_eq!(fadt.pm_timer_block().unwrap().unwrap().address, 0x608);
    assert_eq!(fadt.gpe0_block().unwrap().unwrap().address, 0xafe0);
    assert_eq!(
        (fadt.reset_register().unwrap().address, fadt.reset_value),
        (0xcf9, 6)
    );
    let (flags, boot) = (fadt.flags, fadt.iapc_boot_arch);
    assert!(
        flags.supports_system_reset_via_fadt()
            && !flags.pm_timer_is_32_bit()
            && !flags.system_is_hw_reduced_acpi()
    );
    assert!(
        boot.motherboard_implements_8042()
            && boot.legacy_devices_are_accessible()
            && !boot.dont_probe_vga()
    );
    assert!(fadt.facs_address().is_ok());
    assert!(tables.dsdt().unwrap().length > 1000);
}

#[test]
fn every_cpu_and_the_io_apic_are_found() {
    for cpus in [1, 4, 32] {
        let tables = tables(cpus);
        let madt = tables.find_table::<Madt>().unwrap();
        let (mut ids, mut io_apics, mut overrides) = (vec![], vec![], vec![]);
        for entry in madt.get().entries() {
            match entry {
                MadtEntry::LocalApic(e) => ids.push(u32::from(e.apic_id)),
                MadtEntry::IoApic(e) => io_apics.push(e.io_apic_address),
                MadtEntry::InterruptSourceOverride(e) => {
                    overrides.push((e.irq, e.global_system_interrupt))
                }
                MadtEntry::LocalApicNmi(e) => assert_eq!(e.nmi_line, 1),
                other => panic!("unexpected {other:?}"),
            }
        }
        assert_eq!(ids, (0..cpus).collect::<Vec<_>>());
        assert_eq!(io_apics, [0xfec0_0000]);
        assert_eq!(overrides, [(0, 2), (5, 5), (9, 9), (10, 10), (11, 11)]);
        assert!(madt.get().supports_8259());
    }
}
