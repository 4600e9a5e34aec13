//! The host's ACPI tables, by the `acpi` crate: reported in the log, and the way to switch the host off.

use acpi::fadt::Fadt;
use acpi::madt::{Madt, MadtEntry};
use acpi::{AcpiHandler, AcpiTables, PhysicalMapping};
use alloc::vec::Vec;
use core::ptr::NonNull;
use host_cpus::Local;

#[derive(Clone)]
struct IdentityMap;

impl AcpiHandler for IdentityMap {
    unsafe fn map_physical_region<T>(
        &self,
        address: usize,
        size: usize,
    ) -> PhysicalMapping<Self, T> {
        crate::paging::map(address as u64, (address + size) as u64, false);
        let virtual_start =
            NonNull::new(address as *mut T).expect("no ACPI table lies at address 0");
        // SAFETY: memory is mapped at its own address, for ever.
        unsafe { PhysicalMapping::new(address, virtual_start, size, size, self.clone()) }
    }
    fn unmap_physical_region<T>(_region: &PhysicalMapping<Self, T>) {}
}

/// Looks at the host's tables, and returns the CPUs that they tell of. `rsdp` is what the boot loader told; else the BIOS areas are searched.
pub fn survey(rsdp: Option<u64>) -> Vec<Local> {
    // SAFETY: the address is the boot loader's, or the BIOS areas that a PC has.
    let tables = unsafe {
        match rsdp {
            Some(at) => AcpiTables::from_rsdp(IdentityMap, at as usize),
            None => AcpiTables::search_for_rsdp_bios(IdentityMap),
        }
    };
    let tables = match tables {
        Ok(t) => t,
        Err(e) => {
            log::info!("host ACPI: none ({e:?})");
            return Vec::new();
        }
    };
    let madt = tables.find_table::<Madt>();
    let cpus: Vec<Local> = madt.map_or(Vec::new(), |madt| {
        madt.get().entries().filter_map(|e| local(&e)).collect()
    });
    let pm = tables.find_table::<Fadt>().is_ok();
    let count = cpus.len();
    log::info!(
        "host ACPI: {count} CPU{}, FADT {}",
        if count == 1 { "" } else { "s" },
        if pm { "found" } else { "missing" }
    );
    cpus
}

/// The CPU that an entry of the MADT is about.
fn local(entry: &MadtEntry<'_>) -> Option<Local> {
    match entry {
        MadtEntry::LocalApic(e) => Some(Local {
            apic_id: e.apic_id.into(),
            flags: e.flags,
        }),
        MadtEntry::LocalX2Apic(e) => Some(Local {
            apic_id: e.x2apic_id,
            flags: e.flags,
        }),
        _ => None,
    }
}
