//! Host memory: who has which part of it.
//!
//! What is free is in [`Ranges`]. From there come Umbra's heap ([`heap`]), table frames, the memory of devices ([`device`]) and the guests'
//! RAM ([`ram`]). What a VM needs is compared with what is left before it is started ([`Demand`](host_memory::Demand)).

mod device;
mod heap;
mod ram;

pub use device::HostDeviceRam;
pub use heap::small_in_use as heap_in_use;
pub use ram::{GuestRam, chunks, fixed};

use crate::loader::BootInfo;
use core::sync::atomic::{AtomicU64, Ordering};
use host_memory::{CHUNK, MIB, PAGE, Range, Ranges};
use hv_core::Hpa;
use hv_core::mmu::Frames;
use spin::Mutex;

/// What is left free whatever VMs need, and whatever their shadow tables grow to: for what Umbra is asked for at the console, such as to
/// compress a picture.
const SPARE: u64 = 4 * MIB;
/// Below this address is what 32-bit registers can name, and what the start code has mapped.
const LOW: u64 = 1 << 32;

unsafe extern "C" {
    static umbra_image_start: u8;
    static umbra_image_end: u8;
}

/// The host's memory.
struct Memory {
    free: Ranges,
    /// Bytes that Umbra itself uses: image, heap, tables, device memory.
    own: u64,
    /// Frames that were given back, below [`LOW`] and above: each begins with the address of the next, and the last with 0.
    recycled: [u64; 2],
    /// A page of the first mebibyte, where further CPUs begin.
    low_page: Option<u64>,
}

static MEMORY: Mutex<Memory> = Mutex::new(Memory {
    free: Ranges::new(),
    own: 0,
    recycled: [0; 2],
    low_page: None,
});

/// Holds the memory and the heap for good: a test of Umbra itself.
pub fn hold() {
    core::mem::forget(MEMORY.lock());
    heap::hold();
}

/// The image's place.
fn image() -> Range {
    Range {
        start: &raw const umbra_image_start as u64,
        end: &raw const umbra_image_end as u64,
    }
}

/// Takes over the memory that the boot loader left, and sets up the heap for so many VMs.
pub fn init(boot: &BootInfo, vms: usize) {
    let mut m = MEMORY.lock();
    for r in boot.usable() {
        m.free.give(*r);
    }
    m.free.cut(image());
    m.free.cut(boot.info);
    // Strings that boot information points to lie near it, below 1 MiB or right behind the modules.
    let string = |text: &str| Range {
        start: text.as_ptr() as u64,
        end: text.as_ptr() as u64 + text.len() as u64 + 1,
    };
    m.free.cut(string(boot.cmdline));
    for module in boot.modules() {
        m.free.cut(module.range);
        m.free.cut(string(module.role));
    }
    // The first page is the firmware's: its interrupt vectors and data area.
    m.free.cut(Range {
        start: 0,
        end: PAGE,
    });
    m.low_page = m.free.take(PAGE, PAGE, MIB);
    // Of the rest below 1 MiB Umbra makes no use.
    m.free.cut(Range { start: 0, end: MIB });
    let size = heap::size(vms);
    let Some(at) = m.free.take(size, PAGE, LOW) else {
        panic!(
            "this machine has too little memory: Umbra needs {} MiB for itself",
            size / MIB + 8
        );
    };
    m.own = size + image().end - image().start;
    // SAFETY: the range has just been taken from the free memory and belongs to nobody else.
    unsafe { heap::init(at, size) };
}

/// A page of the first mebibyte that is nobody else's, if the firmware leaves one: where further CPUs begin.
pub fn low_page() -> Option<u64> {
    MEMORY.lock().low_page
}

/// Bytes that Umbra itself uses.
pub fn own() -> u64 {
    MEMORY.lock().own
}

/// Bytes that are still free.
pub fn available() -> u64 {
    MEMORY.lock().free.total()
}

/// Bytes that VMs can have: those in whole large pages, which their RAM is taken in, but for [`SPARE`].
pub fn left() -> u64 {
    MEMORY.lock().free.total_in(2 * MIB).saturating_sub(SPARE)
}

/// Takes a [`CHUNK`] for a guest, with anything in it. None: there is no memory, but for [`SPARE`] and what its tables may need.
fn take_chunk() -> Option<u64> {
    let mut m = MEMORY.lock();
    let enough = m.free.total_in(CHUNK) >= SPARE + 2 * CHUNK;
    enough.then(|| m.free.take(CHUNK, CHUNK, u64::MAX))?
}

/// Whether a guest can give a chunk back, wherever it is.
fn has_room() -> bool {
    MEMORY.lock().free.has_room()
}

/// Gives a chunk of a guest's back.
///
/// # Safety
/// Nobody uses it any more: neither a CPU, nor a device, nor code of Umbra's.
unsafe fn give_chunk(at: u64) {
    let (start, end) = (at, at + CHUNK);
    MEMORY.lock().free.give(Range { start, end });
}

/// The highest address of RAM.
pub fn top(boot: &BootInfo) -> u64 {
    boot.usable().iter().map(|r| r.end).max().unwrap_or(0)
}

/// Takes physically contiguous memory for Umbra itself, with anything in it.
///
/// Memory below 4 GiB is preferred: the start code has mapped it, so that page tables for the rest can be made there.
fn take(len: u64, align: u64) -> Option<u64> {
    let (len, align) = (len.next_multiple_of(PAGE), align.max(PAGE));
    let mut m = MEMORY.lock();
    let at = m.free.take(len, align, LOW);
    let at = at.or_else(|| m.free.take(len, align, u64::MAX))?;
    m.own += len;
    Some(at)
}

/// Gives back what [`take`] has given.
///
/// # Safety
/// Nobody uses it any more.
unsafe fn give(at: u64, len: u64) {
    let len = len.next_multiple_of(PAGE);
    let mut m = MEMORY.lock();
    m.own -= len;
    m.free.give(Range {
        start: at,
        end: at + len,
    });
}

/// Takes zeroed, physically contiguous memory for Umbra itself, never to be given back.
pub fn take_own(len: u64, align: u64) -> Option<u64> {
    let at = take(len, align)?;
    // SAFETY: the range has just been taken and is mapped.
    unsafe { core::ptr::write_bytes(at as *mut u8, 0, len as usize) };
    Some(at)
}

/// A page directory of 32-bit paging that maps 4 GiB at their own addresses in 4 MiB pages, accessed and dirty, for all to write.
pub fn identity_table() -> Option<Hpa> {
    const ENTRY: u32 = 0xe7;
    let at = take_own(4096, 4096)?;
    for n in 0..1024u32 {
        // SAFETY: the frame has just been taken for ever, and is mapped.
        unsafe {
            (at as *mut u32)
                .add(n as usize)
                .write_volatile(n << 22 | ENTRY)
        };
    }
    Some(Hpa(at))
}

/// Takes one zeroed frame, below 4 GiB if there is one.
pub fn frame() -> Option<u64> {
    let recycled = |list: usize| {
        let mut m = MEMORY.lock();
        let at = m.recycled[list];
        if at == 0 {
            return None;
        }
        // SAFETY: a frame that was given back is nobody's, and begins with the address of the next.
        m.recycled[list] = unsafe { (at as *const u64).read_volatile() };
        m.own += PAGE;
        drop(m);
        // SAFETY: as above.
        unsafe { core::ptr::write_bytes(at as *mut u8, 0, PAGE as usize) };
        Some(at)
    };
    recycled(0)
        .or_else(|| take_own(PAGE, PAGE))
        .or_else(|| recycled(1))
}

/// Table frames from host memory.
pub struct HostFrames;

impl Frames for HostFrames {
    /// A guest can make its shadow tables grow: they leave [`SPARE`] alone.
    fn allocate(&mut self) -> Option<Hpa> {
        let m = MEMORY.lock();
        let enough = m.free.total() >= SPARE + PAGE || m.recycled != [0; 2];
        drop(m);
        enough.then(frame).flatten().map(Hpa)
    }
    fn free(&mut self, frame: Hpa) {
        let mut m = MEMORY.lock();
        let list = usize::from(frame.0 >= LOW);
        // SAFETY: the frame came from `frame`, is mapped, and is nobody's any more.
        unsafe { (frame.0 as *mut u64).write_volatile(m.recycled[list]) };
        m.recycled[list] = frame.0;
        m.own -= PAGE;
    }
    fn read(&self, frame: Hpa, index: usize) -> u64 {
        // SAFETY: table frames come from `frame`, are mapped, and the index is masked.
        unsafe { (frame.0 as *const u64).add(index & 511).read_volatile() }
    }
    fn write(&mut self, frame: Hpa, index: usize, value: u64) {
        // SAFETY: as in `read`; the frame belongs to the table builder.
        unsafe { (frame.0 as *mut u64).add(index & 511).write_volatile(value) };
    }
    fn exchange(&mut self, frame: Hpa, index: usize, value: u64) -> u64 {
        // SAFETY: as in `write`; entries are aligned, and others who have them are CPUs that walk the table.
        let entry = unsafe { AtomicU64::from_ptr((frame.0 as *mut u64).add(index & 511)) };
        entry.swap(value, Ordering::AcqRel)
    }
}
