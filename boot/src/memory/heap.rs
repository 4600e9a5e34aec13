//! Umbra's heap: small things in a region of their own, large ones in pages of the host's memory, which go back there.
//!
//! The region is taken at the start, and holds the devices of all VMs; what is larger than [`LARGE`] (the books of shadow paging, pictures)
//! or finds no room in it takes pages. `alloc` ends Umbra when there is no memory at all. So whatever a guest can make larger is asked for
//! with `try_reserve`.

use super::{give, take};
use core::alloc::{GlobalAlloc, Layout};
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};
use host_memory::MIB;
use linked_list_allocator::LockedHeap;

/// From this many bytes on an allocation has pages of its own.
const LARGE: usize = 64 << 10;
/// Bytes of the region of small things, with one VM.
const SIZE: u64 = 3 * MIB;
/// More of them for each further VM. A test measures that the devices of a VM take less (`tests/tests/heap.rs`).
pub const VM_SIZE: u64 = MIB;

/// Bytes of the region for so many VMs.
pub const fn size(vms: usize) -> u64 {
    SIZE + VM_SIZE * (vms as u64).saturating_sub(1)
}

struct Heap {
    small: LockedHeap,
    /// Where the region of small things begins and ends.
    region: [AtomicU64; 2],
}

#[global_allocator]
static HEAP: Heap = Heap {
    small: LockedHeap::empty(),
    region: [AtomicU64::new(0), AtomicU64::new(0)],
};

/// Gives the heap its region.
///
/// # Safety
/// The `size` bytes at `at` are mapped and nobody else's.
pub unsafe fn init(at: u64, size: u64) {
    HEAP.region[0].store(at, Ordering::Relaxed);
    HEAP.region[1].store(at + size, Ordering::Relaxed);
    // SAFETY: the caller's promise.
    unsafe { HEAP.small.lock().init(at as *mut u8, size as usize) };
}

/// Holds the heap for good: a test of Umbra itself.
pub fn hold() {
    core::mem::forget(HEAP.small.lock());
}

/// Bytes of small things that are in use.
pub fn small_in_use() -> u64 {
    HEAP.small.lock().used() as u64
}

// SAFETY: the region is the small heap's alone, and pages come from the free memory and go back there. Which of the two an allocation came
// from is seen at its address.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() < LARGE {
            // SAFETY: the caller's promises are passed on.
            let small = unsafe { self.small.alloc(layout) };
            if !small.is_null() {
                return small;
            }
        }
        take(layout.size() as u64, layout.align() as u64)
            .map_or(ptr::null_mut(), |at| at as *mut u8)
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        let [start, end] = [0, 1].map(|i| self.region[i].load(Ordering::Relaxed));
        if (start..end).contains(&(at as u64)) {
            // SAFETY: it came from there; the caller's promises are passed on.
            unsafe { self.small.dealloc(at, layout) };
        } else {
            // SAFETY: it came from `take`, and the caller does not use it any more.
            unsafe { give(at as u64, layout.size() as u64) };
        }
    }
}
