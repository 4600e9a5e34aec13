//! Host memory: who has which frames, the heap, and the guest's RAM.

use crate::loader::{BootInfo, Range};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use hv_core::mem::{DeviceRam, GuestMemory, NotRam, Piece};
use hv_core::mmu::Frames;
use hv_core::{Gpa, Hpa};
use linked_list_allocator::LockedHeap;
use spin::Mutex;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

/// Bytes of the heap. Everything that Umbra allocates while it runs comes from here or is bounded by the guest's size.
const HEAP_SIZE: u64 = 12 << 20;
/// More of it for each VM but the first.
const VM_HEAP: u64 = 2 << 20;
/// More of it for the books of a VM's shadow paging. It lies behind the heap from the start.
const SHADOW_HEAP: u64 = 28 << 20;
const MIB: u64 = 1 << 20;
const RANGES: usize = 128;

unsafe extern "C" {
    static umbra_image_start: u8;
    static umbra_image_end: u8;
}

/// The free physical memory.
pub struct Memory {
    free: [Range; RANGES],
    len: usize,
    /// Bytes that Umbra itself uses: image, heap, tables, device memory.
    own: u64,
    /// Bytes behind the heap that it may still grow by.
    behind_heap: u64,
    recycled: Vec<u64>,
}

static MEMORY: Mutex<Memory> = Mutex::new(Memory {
    free: [Range { start: 0, end: 0 }; RANGES],
    len: 0,
    own: 0,
    behind_heap: 0,
    recycled: Vec::new(),
});

/// The image's place.
fn image() -> Range {
    Range {
        start: &raw const umbra_image_start as u64,
        end: &raw const umbra_image_end as u64,
    }
}

impl Memory {
    fn cut(&mut self, hole: Range) {
        let (start, end) = (hole.start & !0xfff, (hole.end + 0xfff) & !0xfff);
        let mut i = 0;
        while i < self.len {
            let r = self.free[i];
            if r.start < end && start < r.end {
                self.free[i] = Range {
                    start: r.start,
                    end: start.max(r.start),
                };
                let rest = Range {
                    start: end.min(r.end),
                    end: r.end,
                };
                if rest.start < rest.end && self.len < RANGES {
                    self.free[self.len] = rest;
                    self.len += 1;
                }
            }
            i += 1;
        }
    }

    /// Takes `len` bytes aligned to `align` from the top of the highest range that has them, below `limit`.
    fn take(&mut self, len: u64, align: u64, limit: u64) -> Option<u64> {
        let fit = |r: &Range| {
            let at = r.end.min(limit).checked_sub(len)? & !(align - 1);
            (at >= r.start && at + len <= r.end).then_some(at)
        };
        let at = self.free[..self.len].iter().filter_map(fit).max()?;
        self.cut(Range {
            start: at,
            end: at + len,
        });
        Some(at)
    }
}

/// Takes over the memory that the boot loader left, and sets up the heap for so many VMs.
pub fn init(boot: &BootInfo, vms: usize) {
    let mut m = MEMORY.lock();
    for r in boot.usable() {
        let r = Range {
            start: (r.start.max(MIB) + 0xfff) & !0xfff,
            end: r.end & !0xfff,
        };
        if r.start < r.end && m.len < RANGES {
            let n = m.len;
            m.free[n] = r;
            m.len += 1;
        }
    }
    m.cut(image());
    m.cut(boot.info);
    for module in boot.modules() {
        m.cut(module.range);
    }
    // Strings that boot information points to lie near it, below 1 MiB or right behind the modules.
    let line = boot.cmdline.as_ptr() as u64;
    m.cut(Range {
        start: line,
        end: line + boot.cmdline.len() as u64 + 1,
    });
    for module in boot.modules() {
        let role = module.role.as_ptr() as u64;
        m.cut(Range {
            start: role,
            end: role + module.role.len() as u64 + 1,
        });
    }
    let size = HEAP_SIZE + VM_HEAP * (vms as u64 - 1);
    let behind = SHADOW_HEAP * vms as u64;
    let Some(heap) = m.take(size + behind, 4096, 1 << 32) else {
        panic!(
            "this machine has too little memory: Umbra needs {} MiB for itself",
            (size + behind) / MIB + 8
        );
    };
    m.behind_heap = behind;
    m.own = size + image().end - image().start;
    // SAFETY: the range has just been taken from the free memory and belongs to nobody else.
    unsafe { HEAP.lock().init(heap as *mut u8, size as usize) };
}

/// Makes the heap larger for the books of a VM's shadow paging: once for each VM, and no more.
pub fn grow_heap() {
    let mut m = MEMORY.lock();
    if m.behind_heap != 0 {
        m.behind_heap -= SHADOW_HEAP;
        m.own += SHADOW_HEAP;
        // SAFETY: the heap's end is followed by as much that was taken with it and belongs to nobody else.
        unsafe { HEAP.lock().extend(SHADOW_HEAP as usize) };
    }
}

/// Bytes that Umbra itself uses.
pub fn own() -> u64 {
    MEMORY.lock().own
}

/// Bytes that are still free.
pub fn available() -> u64 {
    let m = MEMORY.lock();
    m.free[..m.len].iter().map(|r| r.end - r.start).sum()
}

/// The highest address of RAM.
pub fn top(boot: &BootInfo) -> u64 {
    boot.usable().iter().map(|r| r.end).max().unwrap_or(0)
}

/// Takes zeroed, physically contiguous memory for Umbra itself, never to be given back.
///
/// Memory below 4 GiB is preferred: the start code has mapped it, so that page tables for the rest can be made there.
pub fn take_own(len: u64, align: u64) -> Option<u64> {
    let at = {
        let mut m = MEMORY.lock();
        let (len, align) = ((len + 0xfff) & !0xfff, align.max(4096));
        let at = m
            .take(len, align, 1 << 32)
            .or_else(|| m.take(len, align, u64::MAX))?;
        m.own += (len + 0xfff) & !0xfff;
        at
    };
    // SAFETY: the range has just been taken and is mapped.
    unsafe { core::ptr::write_bytes(at as *mut u8, 0, len as usize) };
    Some(at)
}

/// Takes one zeroed frame.
pub fn frame() -> Option<u64> {
    let recycled = MEMORY.lock().recycled.pop();
    match recycled {
        Some(at) => {
            // SAFETY: a frame that was given back is nobody's.
            unsafe { core::ptr::write_bytes(at as *mut u8, 0, 4096) };
            Some(at)
        }
        None => take_own(4096, 4096),
    }
}

/// Table frames from host memory.
pub struct HostFrames;

impl Frames for HostFrames {
    fn allocate(&mut self) -> Option<Hpa> {
        frame().map(Hpa)
    }
    fn free(&mut self, frame: Hpa) {
        MEMORY.lock().recycled.push(frame.0);
    }
    fn read(&self, frame: Hpa, index: usize) -> u64 {
        // SAFETY: table frames come from `frame`, are mapped, and the index is masked.
        unsafe { (frame.0 as *const u64).add(index & 511).read_volatile() }
    }
    fn write(&mut self, frame: Hpa, index: usize, value: u64) {
        // SAFETY: as in `read`; the frame belongs to the table builder.
        unsafe { (frame.0 as *mut u64).add(index & 511).write_volatile(value) };
    }
}

/// A piece of guest memory that is contiguous on the host.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Its guest-physical address.
    pub gpa: Gpa,
    /// Its host-physical address.
    pub hpa: Hpa,
    /// Its length in bytes.
    pub len: u64,
    /// RAM, not ROM.
    pub writable: bool,
}

/// The guest's memory. Accesses are plain copies: with one CPU, the guest does not run while the hypervisor does.
pub struct GuestRam {
    extents: Vec<Extent>,
}

impl GuestRam {
    /// Takes host memory for RAM at `[gpa, gpa + len)` for each of `ranges`, in large pages. It is not cleared, as a PC's is not:
    /// nothing but firmware and boot loader has used it since power-on.
    pub fn allocate(ranges: &[(u64, u64)]) -> Option<Self> {
        let mut extents = Vec::new();
        for &(gpa, len) in ranges {
            let mut done = 0;
            while done < len {
                let mut piece = len - done;
                // The whole rest if possible, aligned to the largest page; else ever smaller pieces.
                let hpa = loop {
                    let align = if piece >= 1 << 30 { 1 << 30 } else { 2 * MIB };
                    let mut m = MEMORY.lock();
                    if let Some(at) = m
                        .take(piece, align, u64::MAX)
                        .or_else(|| m.take(piece, 2 * MIB, u64::MAX))
                    {
                        break at;
                    }
                    if piece <= 2 * MIB {
                        return None;
                    }
                    piece = (piece / 2 + 2 * MIB - 1) & !(2 * MIB - 1);
                };
                extents.push(Extent {
                    gpa: Gpa(gpa + done),
                    hpa: Hpa(hpa),
                    len: piece,
                    writable: true,
                });
                done += piece;
            }
        }
        Some(Self { extents })
    }

    /// Takes `hole` out of the RAM: it belongs to a device.
    pub fn punch(&mut self, hole: core::ops::Range<u64>) {
        for e in core::mem::take(&mut self.extents) {
            let end = e.gpa.0 + e.len;
            let below = Extent {
                len: hole.start.clamp(e.gpa.0, end) - e.gpa.0,
                ..e
            };
            let skip = hole.end.clamp(e.gpa.0, end) - e.gpa.0;
            let above = Extent {
                gpa: e.gpa.add(skip),
                hpa: e.hpa.add(skip),
                len: e.len - skip,
                ..e
            };
            self.extents
                .extend([below, above].into_iter().filter(|e| e.len != 0));
        }
        // Most accesses are to the largest piece: it is looked at first.
        self.extents.sort_by_key(|e| core::cmp::Reverse(e.len));
    }

    /// Adds a ROM whose contents lie at `hpa`.
    pub fn add_rom(&mut self, gpa: Gpa, hpa: Hpa, len: u64) {
        self.extents.push(Extent {
            gpa,
            hpa,
            len,
            writable: false,
        });
    }

    /// The pieces.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// The host address of `gpa` and how many bytes from there on are contiguous.
    fn find(&self, gpa: Gpa, write: bool) -> Option<(u64, u64)> {
        self.extents.iter().find_map(|e| {
            let offset = gpa.0.wrapping_sub(e.gpa.0);
            (offset < e.len && (e.writable || !write)).then(|| (e.hpa.0 + offset, e.len - offset))
        })
    }
}

impl GuestMemory for GuestRam {
    fn read(&self, gpa: Gpa, buf: &mut [u8]) -> Result<(), NotRam> {
        let mut done = 0;
        while done < buf.len() {
            let at = gpa.add(done as u64);
            let (hpa, room) = self.find(at, false).ok_or(NotRam(at))?;
            let n = (buf.len() - done).min(room as usize);
            // SAFETY: `find` answers only with memory that belongs to the guest and is mapped; `buf` is the hypervisor's own.
            unsafe {
                core::ptr::copy_nonoverlapping(hpa as *const u8, buf[done..].as_mut_ptr(), n)
            };
            done += n;
        }
        Ok(())
    }

    fn write(&self, gpa: Gpa, buf: &[u8]) -> Result<(), NotRam> {
        let mut done = 0;
        while done < buf.len() {
            let at = gpa.add(done as u64);
            let (hpa, room) = self.find(at, true).ok_or(NotRam(at))?;
            let n = (buf.len() - done).min(room as usize);
            // SAFETY: as in `read`; and no reference into guest memory exists anywhere.
            unsafe { core::ptr::copy_nonoverlapping(buf[done..].as_ptr(), hpa as *mut u8, n) };
            done += n;
        }
        Ok(())
    }

    fn read_value(&self, gpa: Gpa, size: usize) -> Result<u64, NotRam> {
        let (hpa, room) = self.find(gpa, false).ok_or(NotRam(gpa))?;
        if room < size as u64 {
            let mut b = [0; 8];
            self.read(gpa, &mut b[..size])?;
            return Ok(u64::from_le_bytes(b));
        }
        // SAFETY: as in `read`; `room` has been compared.
        unsafe {
            Ok(match size {
                1 => (hpa as *const u8).read().into(),
                2 => (hpa as *const u16).read_unaligned().into(),
                4 => (hpa as *const u32).read_unaligned().into(),
                _ => (hpa as *const u64).read_unaligned(),
            })
        }
    }

    fn write_value(&self, gpa: Gpa, size: usize, value: u64) -> Result<(), NotRam> {
        let (hpa, room) = self.find(gpa, true).ok_or(NotRam(gpa))?;
        if room < size as u64 {
            return self.write(gpa, &value.to_le_bytes()[..size]);
        }
        // SAFETY: as in `write`; `room` has been compared.
        unsafe {
            match size {
                1 => (hpa as *mut u8).write(value as u8),
                2 => (hpa as *mut u16).write_unaligned(value as u16),
                4 => (hpa as *mut u32).write_unaligned(value as u32),
                _ => (hpa as *mut u64).write_unaligned(value),
            }
        }
        Ok(())
    }

    fn read_u128(&self, gpa: Gpa) -> Result<u128, NotRam> {
        let (hpa, room) = self.find(gpa, false).ok_or(NotRam(gpa))?;
        if room < 16 {
            return Err(NotRam(gpa));
        }
        // SAFETY: as in `read`; `room` has been compared.
        unsafe { Ok((hpa as *const u128).read_unaligned()) }
    }

    fn contains(&self, gpa: Gpa, len: usize, write: bool) -> bool {
        self.find(gpa, write)
            .is_some_and(|(_, room)| room >= len as u64)
    }

    fn piece(&self, gpa: Gpa, len: usize, write: bool) -> Option<Piece> {
        let (hpa, room) = self.find(gpa, write)?;
        Some(Piece {
            gpa,
            hpa: Hpa(hpa),
            len: len.min(room as usize),
        })
    }

    fn read_u16(&self, gpa: Gpa) -> Result<u16, NotRam> {
        match self.find(gpa, false) {
            // SAFETY: as in `read`; at least two bytes are there.
            Some((hpa, room)) if room >= 2 => Ok(unsafe { (hpa as *const u16).read_unaligned() }),
            _ => Err(NotRam(gpa)),
        }
    }

    fn read_u64(&self, gpa: Gpa) -> Result<u64, NotRam> {
        match self.find(gpa, false) {
            // SAFETY: as in `read`; at least eight bytes are there.
            Some((hpa, room)) if room >= 8 => Ok(unsafe { (hpa as *const u64).read_unaligned() }),
            _ => Err(NotRam(gpa)),
        }
    }

    fn compare_exchange(&self, gpa: Gpa, size: usize, old: u64, new: u64) -> Result<bool, NotRam> {
        let aligned = matches!(size, 1 | 2 | 4 | 8) && gpa.0 & (size as u64 - 1) == 0;
        let (hpa, room) = self
            .find(gpa, true)
            .filter(|_| aligned)
            .ok_or(NotRam(gpa))?;
        if room < size as u64 {
            return Err(NotRam(gpa));
        }
        const SEQ: Ordering = Ordering::SeqCst;
        // SAFETY: guest memory as in `read`, naturally aligned; extents are page-aligned, so the host address is aligned too.
        let done = unsafe {
            match size {
                1 => AtomicU8::from_ptr(hpa as *mut u8)
                    .compare_exchange(old as u8, new as u8, SEQ, SEQ)
                    .is_ok(),
                2 => AtomicU16::from_ptr(hpa as *mut u16)
                    .compare_exchange(old as u16, new as u16, SEQ, SEQ)
                    .is_ok(),
                4 => AtomicU32::from_ptr(hpa as *mut u32)
                    .compare_exchange(old as u32, new as u32, SEQ, SEQ)
                    .is_ok(),
                _ => AtomicU64::from_ptr(hpa as *mut u64)
                    .compare_exchange(old, new, SEQ, SEQ)
                    .is_ok(),
            }
        };
        Ok(done)
    }
}

/// Contiguous memory of a device, which may be mapped into the guest.
pub struct HostDeviceRam {
    hpa: u64,
    len: usize,
}

impl HostDeviceRam {
    /// Takes `len` zeroed bytes, aligned to 2 MiB.
    pub fn allocate(len: u64) -> Option<Arc<Self>> {
        let hpa = take_own(len, 2 * MIB)?;
        // It is the guest's.
        MEMORY.lock().own -= len;
        Some(Arc::new(Self {
            hpa,
            len: len as usize,
        }))
    }

    /// Takes `len` zeroed bytes for Umbra's own use.
    pub fn own(len: u64) -> Option<Arc<Self>> {
        let hpa = take_own(len, 4096)?;
        let len = len as usize;
        Some(Arc::new(Self { hpa, len }))
    }

    /// Where it is.
    pub fn hpa(&self) -> Hpa {
        Hpa(self.hpa)
    }

    /// How many of `n` bytes at `offset` exist.
    fn clip(&self, offset: usize, n: usize) -> usize {
        n.min(self.len.saturating_sub(offset))
    }
}

impl DeviceRam for HostDeviceRam {
    fn len(&self) -> usize {
        self.len
    }
    fn read(&self, offset: usize, buf: &mut [u8]) {
        let n = self.clip(offset, buf.len());
        // SAFETY: the memory is this object's for ever, mapped, and `clip` keeps the copy within it.
        unsafe {
            core::ptr::copy_nonoverlapping(
                (self.hpa as usize).wrapping_add(offset) as *const u8,
                buf.as_mut_ptr(),
                n,
            )
        };
        buf[n..].fill(0);
    }
    fn write(&self, offset: usize, buf: &[u8]) {
        let n = self.clip(offset, buf.len());
        // SAFETY: as in `read`.
        unsafe {
            core::ptr::copy_nonoverlapping(
                buf.as_ptr(),
                (self.hpa as usize).wrapping_add(offset) as *mut u8,
                n,
            )
        };
    }
    fn fill(&self, offset: usize, len: usize, byte: u8) {
        let n = self.clip(offset, len);
        // SAFETY: as in `read`.
        unsafe {
            core::ptr::write_bytes((self.hpa as usize).wrapping_add(offset) as *mut u8, byte, n)
        };
    }
}
