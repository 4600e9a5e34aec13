//! The host's page tables: everything at its own address. The start code maps the first 4 GiB; RAM and device registers above
//! are added here, in 2 MiB pages.

use crate::memory;

unsafe extern "C" {
    static umbra_pml4: u64;
}

const LARGE: u64 = 2 << 20;
const PRESENT_WRITABLE: u64 = 3;
const PAGE_SIZE_2M: u64 = 1 << 7;
const CACHE_DISABLE: u64 = 1 << 4;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The table below entry `index` of `table`, made if there is none.
fn descend(table: u64, index: u64) -> Option<u64> {
    let entry = (table + 8 * index) as *mut u64;
    // SAFETY: page tables of our own, identity-mapped; only this file changes them.
    let value = unsafe { entry.read_volatile() };
    if value & 1 != 0 {
        return Some(value & ADDRESS);
    }
    let new = memory::frame()?;
    // SAFETY: as above.
    unsafe { entry.write_volatile(new | PRESENT_WRITABLE) };
    Some(new)
}

/// Maps `[start, end)` at its own address. `device`: registers, not to be cached. False: no memory for tables.
pub fn map(start: u64, end: u64, device: bool) -> bool {
    let mut at = start & !(LARGE - 1);
    while at < end {
        let page = descend(&raw const umbra_pml4 as u64, at >> 39 & 511)
            .and_then(|pdpt| descend(pdpt, at >> 30 & 511))
            .map(|pd| (pd + 8 * (at >> 21 & 511)) as *mut u64);
        let Some(entry) = page else { return false };
        // SAFETY: as in `descend`. An entry that exists already maps the same address.
        unsafe {
            if entry.read_volatile() & 1 == 0 {
                entry.write_volatile(
                    at | PRESENT_WRITABLE | PAGE_SIZE_2M | if device { CACHE_DISABLE } else { 0 },
                );
            }
        }
        at += LARGE;
    }
    x86_64::instructions::tlb::flush_all();
    true
}
