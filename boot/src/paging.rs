//! The host's page tables: everything at its own address. The start code maps the first 4 GiB, to be written and executed; [`protect`] takes
//! away what is not needed, and RAM and device registers above are added here. Guests' RAM is data to Umbra, as all memory is but the image.

use crate::memory;
use core::sync::atomic::{AtomicBool, Ordering};
use host_memory::tables::{self, Rights, Tables};
use host_memory::{PAGE, Range};
use spin::Mutex;
use x86_64::registers::model_specific::{Efer, EferFlags};

unsafe extern "C" {
    static umbra_pml4: u64;
    static umbra_image_start: u8;
    static umbra_text: u8;
    static umbra_rodata: u8;
    static umbra_data: u8;
}

/// Where what the start code maps ends.
const END: u64 = 4 << 30;

/// The tables that CR3 points to.
struct Own;

impl Tables for Own {
    fn table(&mut self) -> Option<u64> {
        memory::frame()
    }
    fn read(&self, at: u64) -> u64 {
        // SAFETY: page tables of our own, mapped at their own addresses; only this file changes them.
        unsafe { (at as *const u64).read_volatile() }
    }
    fn write(&mut self, at: u64, entry: u64) {
        // SAFETY: as in `read`. What is mapped stays at its own address.
        unsafe { (at as *mut u64).write_volatile(entry) };
    }
    fn has_nx(&self) -> bool {
        NX.load(Ordering::Relaxed)
    }
}

/// One CPU at a time changes the tables, which are those of all CPUs.
static CHANGING: Mutex<()> = Mutex::new(());
/// Whether the start code has set EFER.NXE.
static NX: AtomicBool = AtomicBool::new(false);

fn root() -> u64 {
    &raw const umbra_pml4 as u64
}

/// Maps `[start, end)` at its own address. `device`: registers, not to be cached. False: no memory for tables.
pub fn map(start: u64, end: u64, device: bool) -> bool {
    let rights = if device { Rights::Device } else { Rights::Data };
    let _changing = CHANGING.lock();
    let done = tables::fill(&mut Own, root(), Range { start, end }, rights);
    x86_64::instructions::tlb::flush_all();
    done
}

/// Leaves execution to the code, and writing to data. False: no memory for tables.
pub fn protect() -> bool {
    NX.store(
        Efer::read().contains(EferFlags::NO_EXECUTE_ENABLE),
        Ordering::Relaxed,
    );
    let [image, text, rodata, data] = [
        &raw const umbra_image_start as u64,
        &raw const umbra_text as u64,
        &raw const umbra_rodata as u64,
        &raw const umbra_data as u64,
    ];
    // The code, which is this, stays executable throughout.
    let parts = [
        (0, image, Rights::Data),
        (image, text, Rights::ReadOnly),
        (text, rodata, Rights::Code),
        (rodata, data, Rights::ReadOnly),
        (data, END, Rights::Data),
    ];
    let mut done = true;
    for (start, end, rights) in parts {
        done &= tables::protect(&mut Own, root(), Range { start, end }, rights);
    }
    x86_64::instructions::tlb::flush_all();
    done
}

/// Takes a page away, so that a stack above it cannot grow into what is below. False: no memory for tables. CPUs that have used the page may
/// remember it.
pub fn guard(at: u64) -> bool {
    let page = Range {
        start: at,
        end: at + PAGE,
    };
    let _changing = CHANGING.lock();
    let done = tables::protect(&mut Own, root(), page, Rights::Guard);
    x86_64::instructions::tlb::flush(x86_64::VirtAddr::new(at));
    done
}

/// Walks the tables that the CPU has, and tells what is executable. A page that is writable too, or one of these guard pages that is mapped, is a defect of
/// ours, and ends Umbra.
pub fn audit(guards: &[u64]) {
    if !NX.load(Ordering::Relaxed) {
        return log::warn!("this CPU cannot forbid the execution of data (no NX bit)");
    }
    let (mut executable, mut read_only) = (0, 0);
    tables::walk(&Own, root(), &mut |m| {
        assert!(
            !(m.write && m.execute) && m.to == m.range.start,
            "Umbra's own tables: {m:x?}"
        );
        let is_guard = guards.contains(&m.range.start);
        assert!(!is_guard, "a guard page is mapped: {m:x?}");
        let kib = (m.range.end - m.range.start) >> 10;
        executable += if m.execute { kib } else { 0 };
        read_only += if m.write { 0 } else { kib };
    });
    log::info!(
        "own page tables: {executable} KiB executable, {} KiB of data read-only, no page writable and executable, {} guard pages",
        read_only - executable,
        guards.len()
    );
}
