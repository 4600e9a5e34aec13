//! Guest memory that notices when Umbra itself writes to page tables of the guest that are shadowed.
//!
//! The guest's own stores are noticed by the hardware, which faults on shadow entries without write permission. Everything else that
//! writes (emulated instructions, the DMA of devices, the paravirtual clock) goes through a [`GuestMemory`]; under shadow paging that
//! is a [`WatchedMemory`], so that there is one place that cannot be gone around. The shadow MMU acts on what was noticed before the guest
//! runs again.

use crate::room;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use hv_core::Gpa;
use hv_core::lock::{Lock, Rank};
use hv_core::mem::{GuestMemory, NotRam, Piece};

/// Writes that are remembered one by one.
const WRITES: usize = 32;

/// The writes to watched frames since they were last asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Writes {
    /// Guest-physical address and length of each.
    list: [(u64, u64); WRITES],
    len: usize,
    /// There were more: any watched frame may have been written.
    pub more: bool,
}

impl Writes {
    /// Guest-physical address and length of each write, in order.
    #[must_use]
    pub fn list(&self) -> &[(u64, u64)] {
        self.list.get(..self.len).unwrap_or_default()
    }

    fn note(&mut self, start: u64, len: u64) {
        match self.list.get_mut(self.len) {
            Some(slot) => {
                *slot = (start, len);
                self.len += 1;
            }
            None => self.more = true,
        }
    }
}

/// Guest memory with a watch on some of its frames.
pub struct WatchedMemory {
    inner: Arc<dyn GuestMemory>,
    /// One bit a frame.
    watched: Vec<AtomicU64>,
    writes: Lock<Writes>,
    /// Whether `writes` has anything.
    noticed: AtomicBool,
}

impl WatchedMemory {
    /// Memory around `inner`, whose frames below `frames` (guest-physical page numbers) can be watched. None: there is
    /// no memory for that.
    #[must_use]
    pub fn new(inner: Arc<dyn GuestMemory>, frames: u64) -> Option<Arc<Self>> {
        let words = frames.div_ceil(64) as usize;
        let mut watched = room::for_up_to(words)?;
        watched.resize_with(words, AtomicU64::default);
        Some(Arc::new(Self {
            inner,
            watched,
            writes: Lock::new(Rank::Watch, Writes::default()),
            noticed: AtomicBool::new(false),
        }))
    }

    /// The bytes that the watch takes.
    #[must_use]
    pub const fn bytes(frames: u64) -> u64 {
        room::bytes::<AtomicU64>(frames.div_ceil(64) as usize)
    }

    /// The memory itself: for accesses that change nothing a shadow could depend on, and for reading.
    #[must_use]
    pub fn inner(&self) -> &dyn GuestMemory {
        &*self.inner
    }

    /// Starts or ends the watch on a frame.
    pub fn watch(&self, gfn: u64, on: bool) {
        let bit = 1 << (gfn & 63);
        if let Some(word) = self.watched.get((gfn >> 6) as usize) {
            if on {
                word.fetch_or(bit, Ordering::Relaxed);
            } else {
                word.fetch_and(!bit, Ordering::Relaxed);
            }
        }
    }

    fn is_watched(&self, gfn: u64) -> bool {
        self.watched
            .get((gfn >> 6) as usize)
            .is_some_and(|word| word.load(Ordering::Relaxed) >> (gfn & 63) & 1 != 0)
    }

    /// The writes since the last call; None if there were none.
    #[inline]
    pub fn take(&self) -> Option<Writes> {
        if !self.noticed.load(Ordering::Acquire) {
            return None;
        }
        let mut writes = self.writes.lock();
        self.noticed.store(false, Ordering::Relaxed);
        Some(core::mem::take(&mut *writes))
    }

    fn note(&self, gpa: Gpa, len: u64) {
        if len == 0 {
            return;
        }
        let (first, last) = (gpa.0 >> 12, gpa.0.saturating_add(len - 1) >> 12);
        if (first..=last).any(|gfn| self.is_watched(gfn)) {
            self.writes.lock().note(gpa.0, len);
            self.noticed.store(true, Ordering::Release);
        }
    }
}

impl GuestMemory for WatchedMemory {
    fn read(&self, gpa: Gpa, buf: &mut [u8]) -> Result<(), NotRam> {
        self.inner.read(gpa, buf)
    }
    fn write(&self, gpa: Gpa, buf: &[u8]) -> Result<(), NotRam> {
        let result = self.inner.write(gpa, buf);
        // Even a write that failed may have begun.
        self.note(gpa, buf.len() as u64);
        result
    }
    fn write_value(&self, gpa: Gpa, size: usize, value: u64) -> Result<(), NotRam> {
        let result = self.inner.write_value(gpa, size, value);
        self.note(gpa, size as u64);
        result
    }
    fn compare_exchange(
        &self,
        gpa: Gpa,
        size: usize,
        old: u128,
        new: u128,
    ) -> Result<bool, NotRam> {
        let result = self.inner.compare_exchange(gpa, size, old, new);
        if result == Ok(true) {
            self.note(gpa, size as u64);
        }
        result
    }
    fn contains(&self, gpa: Gpa, len: usize, write: bool) -> bool {
        self.inner.contains(gpa, len, write)
    }
    fn belongs(&self, gpa: Gpa) -> bool {
        self.inner.belongs(gpa)
    }
    fn piece(&self, gpa: Gpa, len: usize, write: bool) -> Option<Piece> {
        self.inner.piece(gpa, len, write)
    }
    fn written(&self, gpa: Gpa, len: usize) {
        self.note(gpa, len as u64);
    }
    fn read_u16(&self, gpa: Gpa) -> Result<u16, NotRam> {
        self.inner.read_u16(gpa)
    }
    fn is_u16(&self, gpa: Gpa, value: u16) -> bool {
        self.inner.is_u16(gpa, value)
    }
    fn read_u32(&self, gpa: Gpa) -> Result<u32, NotRam> {
        self.inner.read_u32(gpa)
    }
    fn read_u64(&self, gpa: Gpa) -> Result<u64, NotRam> {
        self.inner.read_u64(gpa)
    }
    fn read_value(&self, gpa: Gpa, size: usize) -> Result<u64, NotRam> {
        self.inner.read_value(gpa, size)
    }
    fn read_u128(&self, gpa: Gpa) -> Result<u128, NotRam> {
        self.inner.read_u128(gpa)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::testing::VecMemory;

    fn memory() -> Arc<WatchedMemory> {
        WatchedMemory::new(Arc::new(VecMemory::new(0x10000)), 16).unwrap()
    }

    #[test]
    fn only_writes_to_watched_frames_are_noticed() {
        let m = memory();
        m.watch(3, true);
        m.write(Gpa(0x2ff0), &[1; 16]).unwrap();
        assert!(m.take().is_none());
        m.write(Gpa(0x2ff8), &[1; 16]).unwrap();
        m.compare_exchange(Gpa(0x3100), 8, 0, 1).unwrap();
        m.compare_exchange(Gpa(0x3100), 8, 7, 8).unwrap();
        m.write(Gpa(0x1000), &[0; 0x3000]).unwrap();
        m.write_value(Gpa(0x3ffc), 4, 5).unwrap();
        m.written(Gpa(0x4000), 0x1000);
        m.written(Gpa(0x3e00), 0x400);
        let writes = m.take().unwrap();
        let expected = [
            (0x2ff8, 16),
            (0x3100, 8),
            (0x1000, 0x3000),
            (0x3ffc, 4),
            (0x3e00, 0x400),
        ];
        assert_eq!(writes.list(), expected);
        assert!(!writes.more);
        assert!(m.take().is_none());
        m.watch(3, false);
        m.write(Gpa(0x3000), &[1]).unwrap();
        assert!(m.take().is_none());
    }

    #[test]
    fn more_writes_than_can_be_listed_are_not_forgotten() {
        let m = memory();
        m.watch(0, true);
        for _ in 0..=WRITES {
            m.write(Gpa(0), &[1]).unwrap();
        }
        assert!(m.take().unwrap().more);
    }

    #[test]
    fn frames_beyond_the_watch_are_never_noticed() {
        let m = memory();
        m.watch(1 << 40, true);
        assert!(m.write(Gpa(u64::MAX - 3), &[1; 8]).is_err());
        assert!(m.take().is_none());
    }
}
