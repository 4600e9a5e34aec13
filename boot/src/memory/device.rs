//! The memory of devices: video memory, and what Umbra's own drivers share with the host's devices.

use super::{MEMORY, take_own};
use alloc::sync::Arc;
use host_memory::MIB;
use hv_core::Hpa;
use hv_core::mem::DeviceRam;

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
