//! Guest memory as the hypervisor's own code sees it: bytes copied in and out by guest-physical address. Never a reference:
//! the guest may change memory at any moment.
//!
//! Accesses are what a CPU's would be (SDM vol 3A 9.1.1, "Guaranteed Atomic Operations"; 9.2.2, "Memory Ordering in P6 and More Recent
//! Processor Families"): 1, 2, 4 or 8 bytes that are aligned are read and written as one, and stores become visible in their order.

use crate::{Gpa, Hpa};
use core::fmt;

/// An access outside RAM (a hole, MMIO, or a write to ROM).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotRam(pub Gpa);

impl fmt::Display for NotRam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "guest-physical address {:#x} is not RAM", self.0)
    }
}

/// A piece of guest memory and where it lies in the host's, for a device of the host that accesses it by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Where the guest has it.
    pub gpa: Gpa,
    /// Where the host has it.
    pub hpa: Hpa,
    /// Its length in bytes, at least 1.
    pub len: usize,
}

/// Longer copies move whole aligned words up to this length, which no structure that a guest shares with its hypervisor exceeds. Beyond
/// it they are what DMA is: bytes in any order.
pub const STRUCTURE: usize = 64;

/// The guest's memory by guest-physical address.
pub trait GuestMemory: Send + Sync {
    /// Copies guest memory at `gpa` into `buf`. May cross pages.
    ///
    /// # Errors
    /// [`NotRam`] names the first byte that is neither RAM nor ROM; what precedes it may have been copied.
    fn read(&self, gpa: Gpa, buf: &mut [u8]) -> Result<(), NotRam>;

    /// Copies `buf` into guest RAM at `gpa`. May cross pages.
    ///
    /// # Errors
    /// [`NotRam`] names the first byte that is not RAM; what precedes it may have been written.
    fn write(&self, gpa: Gpa, buf: &[u8]) -> Result<(), NotRam>;

    /// Atomically replaces the `size`-byte (1, 2, 4, 8, 16) little-endian value at `gpa` by `new` if it equals `old`; answers whether it
    /// did. Up to 8 bytes need no alignment, as with LOCK on a CPU (SDM vol 3A 9.1.2.2, "Software Controlled Bus Locking").
    ///
    /// # Errors
    /// [`NotRam`] if the value is not in one piece of RAM, or 16 bytes are not aligned.
    fn compare_exchange(&self, gpa: Gpa, size: usize, old: u128, new: u128)
    -> Result<bool, NotRam>;

    /// Whether all of `[gpa, gpa + len)` can be read (or written, with `write`). False is always a safe answer.
    fn contains(&self, gpa: Gpa, len: usize, write: bool) -> bool {
        let _ = (gpa, len, write);
        false
    }

    /// Whether RAM or ROM belongs at `gpa`, be it that the host has it at present.
    fn belongs(&self, gpa: Gpa) -> bool {
        self.contains(gpa, 1, false)
    }

    /// The beginning of `[gpa, gpa + len)` that is contiguous in the host's memory, for a device of the host that reads it (or writes it,
    /// with `write`, which it has to tell by [`written`](Self::written)). None: that is not RAM or ROM (or not RAM), or nobody but the
    /// hypervisor may access it.
    fn piece(&self, gpa: Gpa, len: usize, write: bool) -> Option<Piece> {
        let _ = (gpa, len, write);
        None
    }

    /// A device of the host has written to `[gpa, gpa + len)`.
    fn written(&self, gpa: Gpa, len: usize) {
        let _ = (gpa, len);
    }

    /// Reads a little-endian `u16`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn read_u16(&self, gpa: Gpa) -> Result<u16, NotRam> {
        let mut b = [0; 2];
        self.read(gpa, &mut b)?;
        Ok(u16::from_le_bytes(b))
    }

    /// Whether the little-endian `u16` at `gpa` can be read and is `value`.
    fn is_u16(&self, gpa: Gpa, value: u16) -> bool {
        self.read_u16(gpa) == Ok(value)
    }

    /// Reads a little-endian `u32`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn read_u32(&self, gpa: Gpa) -> Result<u32, NotRam> {
        let mut b = [0; 4];
        self.read(gpa, &mut b)?;
        Ok(u32::from_le_bytes(b))
    }

    /// Reads a little-endian `u64`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn read_u64(&self, gpa: Gpa) -> Result<u64, NotRam> {
        let mut b = [0; 8];
        self.read(gpa, &mut b)?;
        Ok(u64::from_le_bytes(b))
    }

    /// Reads a little-endian value of `size` (1, 2, 4 or 8) bytes.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn read_value(&self, gpa: Gpa, size: usize) -> Result<u64, NotRam> {
        let mut b = [0; 8];
        self.read(gpa, b.get_mut(..size).unwrap_or_default())?;
        Ok(u64::from_le_bytes(b))
    }

    /// Writes a little-endian value of `size` (1, 2, 4 or 8) bytes.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    fn write_value(&self, gpa: Gpa, size: usize, value: u64) -> Result<(), NotRam> {
        let b = value.to_le_bytes();
        self.write(gpa, b.get(..size).unwrap_or_default())
    }

    /// Reads a little-endian `u128`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn read_u128(&self, gpa: Gpa) -> Result<u128, NotRam> {
        let mut b = [0; 16];
        self.read(gpa, &mut b)?;
        Ok(u128::from_le_bytes(b))
    }
}

/// Memory that belongs to a device and may be mapped into the guest (video RAM), addressed by offset from its start.
/// Accesses past the end read zeroes and write nothing.
pub trait DeviceRam: Send + Sync {
    /// Its length in bytes.
    fn len(&self) -> usize;
    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Copies from `offset` into `buf`.
    fn read(&self, offset: usize, buf: &mut [u8]);
    /// Copies `buf` to `offset`.
    fn write(&self, offset: usize, buf: &[u8]);
    /// Fills `len` bytes from `offset` with `byte`.
    fn fill(&self, offset: usize, len: usize, byte: u8);
}
