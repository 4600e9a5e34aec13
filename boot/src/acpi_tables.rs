//! The host's ACPI tables, by the `acpi` crate: reported in the log, and the way to switch the host off.

use acpi::fadt::Fadt;
use acpi::madt::Madt;
use acpi::{AcpiHandler, AcpiTables, PhysicalMapping};
use core::ptr::NonNull;

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

/// Looks at the host's tables. `rsdp` is what the boot loader told; else the BIOS areas are searched.
pub fn survey(rsdp: Option<u64>) {
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
            return;
        }
    };
    let cpus = tables.find_table::<Madt>().map_or(1, |m| {
        let local =
            |e: &acpi::madt::MadtEntry<'_>| matches!(e, acpi::madt::MadtEntry::LocalApic(_));
        m.get().entries().filter(local).count()
    });
    let pm = tables.find_table::<Fadt>().is_ok();
    log::info!(
        "host ACPI: {cpus} CPU{}, FADT {}",
        if cpus == 1 { "" } else { "s" },
        if pm { "found" } else { "missing" }
    );
}
