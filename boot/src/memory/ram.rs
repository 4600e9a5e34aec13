//! The guest's memory, as host memory.

use super::MEMORY;
use crate::clock;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::arch::asm;
use core::ops::Range;
use host_memory::{CHUNK, Chunks, Found, MIB, PAGE};
use hv_core::mem::{GuestMemory, NotRam, Piece, STRUCTURE};
use hv_core::{Gpa, Hpa};

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

/// Clears a piece of RAM, and answers how many bytes of it were in pages that were not clear. A page that is clear is read only: an outer
/// hypervisor that gives memory when it is written keeps it.
fn clear(extent: &Extent) -> u64 {
    let mut used = 0;
    for at in (extent.hpa.0..extent.hpa.0 + extent.len).step_by(PAGE as usize) {
        // SAFETY: the piece has just been taken from the free memory, is mapped, and is nobody else's.
        let page = unsafe { &mut *(at as *mut [u64; PAGE as usize / 8]) };
        if page.iter().fold(0, |all, word| all | word) != 0 {
            page.fill(0);
            used += PAGE;
        }
    }
    used
}

/// The chunks of RAM at `[gpa, gpa + len)` for each of `ranges` that can come and go: whole ones, but for the first, in which firmware and devices have
/// their parts.
pub fn chunks(ranges: &[(u64, u64)]) -> impl Iterator<Item = Range<u64>> {
    ranges.iter().map(|&(gpa, len)| {
        let first = if gpa == 0 { CHUNK } else { gpa };
        first..((gpa + len) & !(CHUNK - 1)).max(first)
    })
}

/// What of `ranges` is not in [`chunks`].
pub fn fixed(ranges: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let parts = ranges.iter().zip(chunks(ranges));
    let parts = parts.flat_map(|(&(gpa, len), chunks)| {
        let end = gpa + len;
        let first = chunks.start.min(end);
        [
            (gpa, first - gpa),
            (chunks.end.min(end), end - chunks.end.min(end)),
        ]
    });
    parts.filter(|&(_, len)| len != 0).collect()
}

/// The guest's memory. Other CPUs of the guest may run while it is accessed.
pub struct GuestRam {
    /// What is always there.
    extents: Vec<Extent>,
    /// What comes and goes, for guests where anything does.
    chunks: Option<Arc<Chunks>>,
}

impl GuestRam {
    /// Takes host memory for RAM at `[gpa, gpa + len)` for each of `ranges`, in large pages, and clears it: what was in it is
    /// another's. None: there is not as much.
    pub fn allocate(ranges: &[(u64, u64)]) -> Option<Self> {
        let mut extents = Vec::new();
        for &(gpa, len) in ranges {
            let mut done = 0;
            while done < len {
                extents.try_reserve(1).ok()?;
                let mut piece = len - done;
                // The whole rest if possible, aligned to the largest page; else ever smaller pieces.
                let hpa = loop {
                    let align = if piece >= 1 << 30 { 1 << 30 } else { 2 * MIB };
                    let mut m = MEMORY.lock();
                    if let Some(at) = m
                        .free
                        .take(piece, align, u64::MAX)
                        .or_else(|| m.free.take(piece, 2 * MIB, u64::MAX))
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
        let before = clock::since_start_ms();
        let used: u64 = extents.iter().map(clear).sum();
        log::info!(
            "guest RAM: cleared in {} ms, {} KiB of it had been used",
            clock::since_start_ms() - before,
            used >> 10
        );
        Some(Self {
            extents,
            chunks: None,
        })
    }

    /// From now on those of the RAM's chunks at `ranges` that are here are `chunks`, and can go; those that are not are away.
    pub fn divide(&mut self, ranges: &[(u64, u64)], chunks: Arc<Chunks>) {
        for range in self::chunks(ranges) {
            for gpa in range.clone().step_by(CHUNK as usize) {
                let chunk = (gpa / CHUNK) as usize;
                match self.find(Gpa(gpa), true) {
                    Some((hpa, _)) => chunks.put(chunk, hpa),
                    None => chunks.lacks(chunk),
                }
            }
            self.punch(range);
        }
        self.chunks = Some(chunks);
    }

    /// Takes a chunk away from the guest, and says where it was. None: it is not here, a device of the host is at work on it, or it cannot be
    /// given back. It is still mapped. No CPU of the guest runs, and nobody is within an access.
    pub fn take(&self, chunk: usize) -> Option<Hpa> {
        let chunks = self.chunks.as_ref().filter(|_| super::has_room())?;
        chunks.take(chunk).map(Hpa)
    }

    /// Gives the host back what [`take`](Self::take) has taken.
    ///
    /// # Safety
    /// No CPU reaches it any more.
    pub unsafe fn give(chunk: Hpa) {
        // SAFETY: that is the caller's promise for CPUs; no code of Umbra's finds it since it was taken, and no device had it then.
        unsafe { super::give_chunk(chunk.0) };
    }

    /// Brings a chunk back that is away, clear, and says where it is. It is not mapped yet. None: the host has no memory for it.
    pub fn bring(&self, chunk: usize) -> Option<Hpa> {
        let chunks = self.chunks.as_ref()?;
        let hpa = super::take_chunk()?;
        clear(&Extent {
            gpa: Gpa(chunk as u64 * CHUNK),
            hpa: Hpa(hpa),
            len: CHUNK,
            writable: true,
        });
        chunks.put(chunk, hpa);
        Some(Hpa(hpa))
    }

    /// Takes `hole` out of the RAM: it belongs to a device.
    pub fn punch(&mut self, hole: Range<u64>) {
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
    #[inline(always)]
    fn find(&self, gpa: Gpa, write: bool) -> Option<(u64, u64)> {
        match &self.chunks {
            None => self.find_extent(gpa, write),
            Some(chunks) => self.find_chunk(chunks, gpa, write),
        }
    }

    /// [`find`](Self::find) for RAM that comes and goes. The other kind does not pay for it.
    #[inline(never)]
    fn find_chunk(&self, chunks: &Chunks, gpa: Gpa, write: bool) -> Option<(u64, u64)> {
        match chunks.find(gpa.0) {
            Found::At(hpa, room) => Some((hpa, room)),
            Found::Away => None,
            Found::Other => self.find_extent(gpa, write),
        }
    }

    /// [`GuestMemory::read_value`] where the value is not in one piece of RAM that is always there.
    #[inline(never)]
    fn read_elsewhere(&self, gpa: Gpa, size: usize) -> Result<u64, NotRam> {
        let (hpa, room) = self.find(gpa, false).ok_or(NotRam(gpa))?;
        if room < size as u64 {
            let mut b = [0; 8];
            self.read(gpa, &mut b[..size])?;
            return Ok(u64::from_le_bytes(b));
        }
        // SAFETY: as in `read`; `room` has been compared.
        Ok(unsafe { load(hpa, size) })
    }

    #[inline(always)]
    fn find_extent(&self, gpa: Gpa, write: bool) -> Option<(u64, u64)> {
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
            let to = &mut buf[done..done + n];
            if n <= STRUCTURE {
                let mut i = 0;
                while i < n {
                    let len = word(hpa + i as u64, n - i);
                    // SAFETY: `find` answers only with memory that belongs to the guest and is mapped.
                    let value = unsafe { load(hpa + i as u64, len) };
                    to[i..i + len].copy_from_slice(&value.to_le_bytes()[..len]);
                    i += len;
                }
            } else {
                // SAFETY: as above; `buf` is the hypervisor's own.
                unsafe { core::ptr::copy_nonoverlapping(hpa as *const u8, to.as_mut_ptr(), n) };
            }
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
            let from = &buf[done..done + n];
            if n <= STRUCTURE {
                let mut i = 0;
                while i < n {
                    let len = word(hpa + i as u64, n - i);
                    let mut value = [0; 8];
                    value[..len].copy_from_slice(&from[i..i + len]);
                    // SAFETY: as in `read`; and no reference into guest memory exists anywhere.
                    unsafe { store(hpa + i as u64, len, u64::from_le_bytes(value)) };
                    i += len;
                }
            } else {
                // SAFETY: as above.
                unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), hpa as *mut u8, n) };
            }
            done += n;
        }
        Ok(())
    }

    #[inline(always)]
    fn read_value(&self, gpa: Gpa, size: usize) -> Result<u64, NotRam> {
        let whole = |&(_, room): &(u64, u64)| room >= size as u64;
        let extent = || self.find_extent(gpa, false).filter(whole);
        match self.chunks.is_none().then(extent).flatten() {
            // SAFETY: as in `read`; `room` has been compared.
            Some((hpa, _)) => Ok(unsafe { load(hpa, size) }),
            None => self.read_elsewhere(gpa, size),
        }
    }

    fn write_value(&self, gpa: Gpa, size: usize, value: u64) -> Result<(), NotRam> {
        let (hpa, room) = self.find(gpa, true).ok_or(NotRam(gpa))?;
        if room < size as u64 {
            return self.write(gpa, &value.to_le_bytes()[..size]);
        }
        // SAFETY: as in `write`; `room` has been compared.
        unsafe { store(hpa, size, value) };
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
        let (mut gpa, mut left) = (gpa, len as u64);
        while let Some((_, room)) = self.find(gpa, write) {
            if room >= left {
                return true;
            }
            if self.chunks.is_none() {
                return false;
            }
            (gpa, left) = (gpa.add(room), left - room);
        }
        false
    }

    fn belongs(&self, gpa: Gpa) -> bool {
        let comes = |chunks: &Arc<Chunks>| chunks.is_chunk((gpa.0 / CHUNK) as usize);
        self.chunks.as_ref().is_some_and(comes) || self.find(gpa, false).is_some()
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
        self.read_value(gpa, 2).map(|value| value as u16)
    }

    fn read_u32(&self, gpa: Gpa) -> Result<u32, NotRam> {
        self.read_value(gpa, 4).map(|value| value as u32)
    }

    fn read_u64(&self, gpa: Gpa) -> Result<u64, NotRam> {
        self.read_value(gpa, 8)
    }

    fn compare_exchange(
        &self,
        gpa: Gpa,
        size: usize,
        old: u128,
        new: u128,
    ) -> Result<bool, NotRam> {
        let (hpa, room) = self.find(gpa, true).ok_or(NotRam(gpa))?;
        if room < size as u64 || size == 16 && hpa & 15 != 0 {
            return Err(NotRam(gpa));
        }
        // SAFETY: as in `write`; `room` has been compared, and the alignment of 16 bytes.
        Ok(unsafe { compare_exchange(hpa, size, old, new) })
    }
}

/// The length of the longest aligned word, at most 8 bytes, that begins at `hpa` and ends within `len`, which is not 0.
fn word(hpa: u64, len: usize) -> usize {
    let aligned = 1 << (hpa | 8).trailing_zeros();
    let fits = 1 << len.min(8).ilog2();
    if aligned < fits { aligned } else { fits }
}

/// One load of `size` (1, 2, 4 or 8) bytes, as single as the CPU's own is: in assembly, since to Rust the guest's CPUs are threads that do not keep to
/// its rules, and addresses need not be aligned.
///
/// # Safety
/// The bytes are guest memory, and mapped.
#[inline(always)]
unsafe fn load(hpa: u64, size: usize) -> u64 {
    let value: u64;
    // SAFETY: guest memory is read, says the caller.
    unsafe {
        match size {
            1 => {
                asm!("movzx {v:e}, byte ptr [{p}]", p = in(reg) hpa, v = out(reg) value, options(nostack, preserves_flags))
            }
            2 => {
                asm!("movzx {v:e}, word ptr [{p}]", p = in(reg) hpa, v = out(reg) value, options(nostack, preserves_flags))
            }
            4 => {
                asm!("mov {v:e}, dword ptr [{p}]", p = in(reg) hpa, v = out(reg) value, options(nostack, preserves_flags))
            }
            _ => {
                asm!("mov {v}, qword ptr [{p}]", p = in(reg) hpa, v = out(reg) value, options(nostack, preserves_flags))
            }
        }
    }
    value
}

/// One store of `size` (1, 2, 4 or 8) bytes, like [`load`].
///
/// # Safety
/// The bytes are guest RAM, and mapped.
#[inline(always)]
unsafe fn store(hpa: u64, size: usize, value: u64) {
    // SAFETY: guest memory is written, says the caller.
    unsafe {
        match size {
            1 => {
                asm!("mov byte ptr [{p}], {v}", p = in(reg) hpa, v = in(reg_byte) value as u8, options(nostack, preserves_flags))
            }
            2 => {
                asm!("mov word ptr [{p}], {v:x}", p = in(reg) hpa, v = in(reg) value, options(nostack, preserves_flags))
            }
            4 => {
                asm!("mov dword ptr [{p}], {v:e}", p = in(reg) hpa, v = in(reg) value, options(nostack, preserves_flags))
            }
            _ => {
                asm!("mov qword ptr [{p}], {v}", p = in(reg) hpa, v = in(reg) value, options(nostack, preserves_flags))
            }
        }
    }
}

/// LOCK CMPXCHG of 1, 2, 4 or 8 bytes anywhere, or LOCK CMPXCHG16B. Whether `old` was there, and `new` is now.
///
/// # Safety
/// The bytes are guest RAM, and mapped; 16 are aligned.
unsafe fn compare_exchange(hpa: u64, size: usize, old: u128, new: u128) -> bool {
    let value = new as u64;
    let found: u64;
    // SAFETY: guest memory is read and written, says the caller; 16 bytes are aligned, and every CPU with virtualization has CMPXCHG16B.
    unsafe {
        match size {
            1 => {
                asm!("lock cmpxchg byte ptr [{p}], {v}", p = in(reg) hpa, v = in(reg_byte) value as u8, inout("rax") old as u64 => found, options(nostack))
            }
            2 => {
                asm!("lock cmpxchg word ptr [{p}], {v:x}", p = in(reg) hpa, v = in(reg) value, inout("rax") old as u64 => found, options(nostack))
            }
            4 => {
                asm!("lock cmpxchg dword ptr [{p}], {v:e}", p = in(reg) hpa, v = in(reg) value, inout("rax") old as u64 => found, options(nostack))
            }
            8 => {
                asm!("lock cmpxchg qword ptr [{p}], {v}", p = in(reg) hpa, v = in(reg) value, inout("rax") old as u64 => found, options(nostack))
            }
            _ => {
                let high: u64;
                // RBX is the compiler's.
                asm!("xchg rbx, {b}", "lock cmpxchg16b [rdi]", "mov rbx, {b}",
                    b = inout(reg) value => _, in("rcx") (new >> 64) as u64, in("rdi") hpa,
                    inout("rax") old as u64 => found, inout("rdx") (old >> 64) as u64 => high, options(nostack));
                return old == u128::from(high) << 64 | u128::from(found);
            }
        }
    }
    let mask = u64::MAX >> (64 - 8 * size as u32);
    (found ^ old as u64) & mask == 0
}
