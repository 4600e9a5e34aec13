//! The guest's memory, as host memory.

use super::MEMORY;
use crate::clock;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use host_memory::{MIB, PAGE};
use hv_core::mem::{GuestMemory, NotRam, Piece};
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

/// The guest's memory. Accesses are plain copies: with one CPU, the guest does not run while the hypervisor does.
pub struct GuestRam {
    extents: Vec<Extent>,
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
