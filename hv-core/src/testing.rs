//! Fakes for tests: dumber than what they stand in for.

pub mod conformance;
mod cpu;
pub mod events;
mod medium;
mod random;
mod vm;

pub use cpu::ScriptedCpu;
pub use medium::ManyDisk;
pub use random::Random;
pub use vm::{FakeInterrupts, FlatMmu, LinearMmu, ManualClock};

use crate::backend::{BlockBackend, BlockError, ConsoleBackend};
use crate::device::{DevCx, Requests};
use crate::irq::IrqSink;
use crate::mem::{DeviceRam, GuestMemory, NotRam, Piece};
use crate::{Gpa, Hpa, VmTime};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use std::sync::Mutex;

/// Bytes that know which of their pages were written.
struct Pages {
    bytes: Vec<u8>,
    dirty: Vec<bool>,
}

impl Pages {
    const PAGE: usize = 4096;

    fn new(len: usize) -> Self {
        Self {
            bytes: vec![0; len],
            dirty: vec![false; len.div_ceil(Self::PAGE)],
        }
    }

    /// The bytes of `range`, to be written.
    fn write(&mut self, range: core::ops::Range<usize>) -> &mut [u8] {
        let pages = range.start / Self::PAGE..range.end.div_ceil(Self::PAGE);
        if let Some(dirty) = self.dirty.get_mut(pages) {
            dirty.fill(true);
        }
        self.bytes.get_mut(range).unwrap_or_default()
    }

    /// All zeros again. It costs as much as was written.
    fn clear(&mut self) {
        let pages = self.bytes.chunks_mut(Self::PAGE).zip(&mut self.dirty);
        for (page, dirty) in pages.filter(|(_, dirty)| **dirty) {
            page.fill(0);
            *dirty = false;
        }
    }
}

/// Guest RAM from address 0 in a vector.
#[derive(Clone)]
pub struct VecMemory {
    bytes: Arc<Mutex<Pages>>,
    written: Arc<Mutex<Vec<(u64, usize)>>>,
}

impl VecMemory {
    /// `len` bytes of zeroed RAM at guest-physical address 0. Clones are the same memory.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self {
            bytes: Arc::new(Mutex::new(Pages::new(len))),
            written: Arc::default(),
        }
    }

    /// Clears it, for a test that would otherwise make a new one again and again.
    pub fn clear(&self) {
        self.bytes.lock().unwrap().clear();
        self.take_written();
    }

    /// What [`GuestMemory::written`] was told since the last call.
    pub fn take_written(&self) -> Vec<(u64, usize)> {
        core::mem::take(&mut self.written.lock().unwrap())
    }

    fn range(len: usize, gpa: Gpa, n: usize) -> Result<core::ops::Range<usize>, NotRam> {
        let start = usize::try_from(gpa.0).map_err(|_| NotRam(gpa))?;
        let end = start
            .checked_add(n)
            .filter(|&e| e <= len)
            .ok_or(NotRam(gpa))?;
        Ok(start..end)
    }
}

impl GuestMemory for VecMemory {
    fn read(&self, gpa: Gpa, buf: &mut [u8]) -> Result<(), NotRam> {
        let m = &self.bytes.lock().unwrap().bytes;
        let r = Self::range(m.len(), gpa, buf.len())?;
        buf.copy_from_slice(&m[r]);
        Ok(())
    }
    fn write(&self, gpa: Gpa, buf: &[u8]) -> Result<(), NotRam> {
        let mut m = self.bytes.lock().unwrap();
        let r = Self::range(m.bytes.len(), gpa, buf.len())?;
        m.write(r).copy_from_slice(buf);
        Ok(())
    }
    fn contains(&self, gpa: Gpa, len: usize, _write: bool) -> bool {
        Self::range(self.bytes.lock().unwrap().bytes.len(), gpa, len).is_ok()
    }
    fn piece(&self, gpa: Gpa, len: usize, write: bool) -> Option<Piece> {
        let hpa = Hpa(gpa.0);
        self.contains(gpa, len, write)
            .then_some(Piece { gpa, hpa, len })
    }
    fn written(&self, gpa: Gpa, len: usize) {
        self.written.lock().unwrap().push((gpa.0, len));
    }
    fn compare_exchange(
        &self,
        gpa: Gpa,
        size: usize,
        old: u128,
        new: u128,
    ) -> Result<bool, NotRam> {
        let mut m = self.bytes.lock().unwrap();
        if !matches!(size, 1 | 2 | 4 | 8 | 16) || size == 16 && !gpa.0.is_multiple_of(16) {
            return Err(NotRam(gpa));
        }
        let r = Self::range(m.bytes.len(), gpa, size)?;
        let same = m.bytes[r.clone()] == old.to_le_bytes()[..size];
        if same {
            m.write(r).copy_from_slice(&new.to_le_bytes()[..size]);
        }
        Ok(same)
    }
}

/// Device RAM in a vector.
pub struct VecDeviceRam(Mutex<Pages>);

impl VecDeviceRam {
    /// `len` zeroed bytes.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self(Mutex::new(Pages::new(len)))
    }

    /// Clears it, for a test that would otherwise make a new one again and again.
    pub fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}

impl DeviceRam for VecDeviceRam {
    fn len(&self) -> usize {
        self.0.lock().unwrap().bytes.len()
    }
    fn read(&self, offset: usize, buf: &mut [u8]) {
        let m = &self.0.lock().unwrap().bytes;
        let start = offset.min(m.len());
        let inside = &m[start..offset.saturating_add(buf.len()).min(m.len())];
        let (there, beyond) = buf.split_at_mut(inside.len());
        there.copy_from_slice(inside);
        beyond.fill(0);
    }
    fn write(&self, offset: usize, buf: &[u8]) {
        let mut m = self.0.lock().unwrap();
        let len = m.bytes.len();
        let inside = m.write(offset.min(len)..offset.saturating_add(buf.len()).min(len));
        inside.copy_from_slice(&buf[..inside.len()]);
    }
    fn fill(&self, offset: usize, len: usize, byte: u8) {
        let mut m = self.0.lock().unwrap();
        let end = m.bytes.len();
        m.write(offset.min(end)..offset.saturating_add(len).min(end))
            .fill(byte);
    }
}

/// Remembers every change of every interrupt line.
#[derive(Default)]
pub struct RecordingIrqs {
    state: Mutex<(u32, Vec<(u8, bool)>)>,
}

impl RecordingIrqs {
    /// A shared recorder.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }
    /// The level of `pin`.
    #[must_use]
    pub fn level(&self, pin: u8) -> bool {
        self.state.lock().unwrap().0 >> pin & 1 != 0
    }
    /// All changes since the last call.
    pub fn take(&self) -> Vec<(u8, bool)> {
        core::mem::take(&mut self.state.lock().unwrap().1)
    }
}

impl IrqSink for RecordingIrqs {
    fn set(&self, pin: u8, level: bool) {
        let mut s = self.state.lock().unwrap();
        if (s.0 >> pin & 1 != 0) != level {
            s.0 ^= 1 << pin;
            s.1.push((pin, level));
        }
    }
}

/// A disk in a vector; `fail` makes every access an error.
pub struct RamDisk {
    /// The contents.
    pub data: Vec<u8>,
    /// Refuse writes.
    pub read_only: bool,
    /// Fail every access.
    pub fail: bool,
}

impl BlockBackend for RamDisk {
    fn sectors(&self) -> u64 {
        self.data.len() as u64 / 512
    }
    fn read_only(&self) -> bool {
        self.read_only
    }
    fn read(&mut self, sector: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        let start = sector as usize * 512;
        let src = self
            .data
            .get(start..start + buf.len())
            .filter(|_| !self.fail)
            .ok_or(BlockError)?;
        buf.copy_from_slice(src);
        Ok(())
    }
    fn write(&mut self, sector: u64, buf: &[u8]) -> Result<(), BlockError> {
        let start = sector as usize * 512;
        if self.fail || self.read_only {
            return Err(BlockError);
        }
        self.data
            .get_mut(start..start + buf.len())
            .ok_or(BlockError)?
            .copy_from_slice(buf);
        Ok(())
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        if self.fail { Err(BlockError) } else { Ok(()) }
    }
}

/// A disk that its clones share, so that it stays readable from outside.
#[derive(Clone)]
pub struct SharedDisk(Arc<Mutex<(RamDisk, u32)>>);

impl SharedDisk {
    /// Sector `n` has `n` in its first bytes.
    #[must_use]
    pub fn new(sectors: usize) -> Self {
        let mut data = vec![0; sectors * 512];
        for (i, s) in data.chunks_exact_mut(512).enumerate() {
            s[..4].copy_from_slice(&(i as u32).to_le_bytes());
            s[511] = i as u8;
        }
        Self::of(data)
    }
    /// One with these contents.
    #[must_use]
    pub fn of(data: Vec<u8>) -> Self {
        let disk = RamDisk {
            data,
            read_only: false,
            fail: false,
        };
        Self(Arc::new(Mutex::new((disk, 0))))
    }
    /// What it has.
    #[must_use]
    pub fn contents(&self) -> Vec<u8> {
        self.0.lock().unwrap().0.data.clone()
    }
    /// What `sectors` sectors from `sector` on have.
    #[must_use]
    pub fn bytes(&self, sector: usize, sectors: usize) -> Vec<u8> {
        self.0.lock().unwrap().0.data[sector * 512..(sector + sectors) * 512].to_vec()
    }
    /// Whether every access fails from now on; returns whether it did.
    pub fn set_fail(&self, fail: bool) -> bool {
        core::mem::replace(&mut self.0.lock().unwrap().0.fail, fail)
    }
    /// Writes fail from now on.
    pub fn set_read_only(&self) {
        self.0.lock().unwrap().0.read_only = true;
    }
    /// How often it was flushed.
    #[must_use]
    pub fn flushes(&self) -> u32 {
        self.0.lock().unwrap().1
    }
    /// A clone for a device.
    #[must_use]
    pub fn boxed(&self) -> Box<dyn BlockBackend> {
        Box::new(self.clone())
    }
}

impl BlockBackend for SharedDisk {
    fn sectors(&self) -> u64 {
        self.0.lock().unwrap().0.sectors()
    }
    fn read_only(&self) -> bool {
        self.0.lock().unwrap().0.read_only
    }
    fn read(&mut self, sector: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        assert!(buf.len().is_multiple_of(512) && !buf.is_empty());
        self.0.lock().unwrap().0.read(sector, buf)
    }
    fn write(&mut self, sector: u64, buf: &[u8]) -> Result<(), BlockError> {
        assert!(buf.len().is_multiple_of(512) && !buf.is_empty());
        self.0.lock().unwrap().0.write(sector, buf)
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        let mut disk = self.0.lock().unwrap();
        disk.1 += 1;
        disk.0.flush()
    }
}

/// A console that remembers, shared by its clones.
#[derive(Clone, Default)]
pub struct VecConsole(pub Arc<Mutex<Vec<u8>>>);

impl ConsoleBackend for VecConsole {
    fn write(&mut self, byte: u8) {
        self.0.lock().unwrap().push(byte);
    }
}

/// A bench for one device: memory, time and the requests it made.
pub struct Bench {
    /// The guest's memory.
    pub mem: VecMemory,
    /// The time that the device is told.
    pub now: VmTime,
    /// What the device has asked for.
    pub requests: Requests,
}

impl Bench {
    /// One MiB of memory at time 0.
    #[must_use]
    pub fn new() -> Self {
        Self {
            mem: VecMemory::new(1 << 20),
            now: VmTime(0),
            requests: Requests::default(),
        }
    }
    /// The context for one call.
    pub fn cx(&mut self) -> DevCx<'_> {
        DevCx {
            now: self.now,
            dma: &self.mem,
            requests: &mut self.requests,
        }
    }
}

impl Default for Bench {
    fn default() -> Self {
        Self::new()
    }
}
