//! A chain of buffers: those that the device reads, then those that it writes.

use super::{Fault, LONGEST, Token};
use alloc::vec::Vec;
use hv_core::Gpa;
use hv_core::mem::GuestMemory;

/// A piece of guest memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buffer {
    /// Its address.
    pub address: Gpa,
    /// Its length, perhaps 0.
    pub len: u32,
}

/// A chain, as it was when it was taken.
#[derive(Default, Debug)]
pub struct Chain {
    buffers: Vec<Buffer>,
    /// How many of them the device reads.
    read: usize,
    pub(super) token: Token,
}

impl Chain {
    /// Whether it has no buffers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffers.is_empty()
    }

    /// Forgets the buffers.
    pub fn clear(&mut self) {
        self.buffers.clear();
        self.read = 0;
    }

    /// Adds a buffer to its end.
    pub(super) fn add(&mut self, buffer: Buffer, writable: bool) -> Result<(), Fault> {
        if self.buffers.len() >= LONGEST {
            return Err(Fault::Chain);
        }
        self.buffers.try_reserve(1).map_err(|_| Fault::NoMemory)?;
        if !writable {
            if self.read != self.buffers.len() {
                return Err(Fault::Order);
            }
            self.read += 1;
        }
        self.buffers.push(buffer);
        Ok(())
    }

    /// Looks whether all buffers are RAM that the device may access so, and together no longer than a driver may make a chain (2.7.5: "the
    /// total length of all descriptors in a chain" stays below 4 GiB).
    pub(super) fn check(&self, memory: &dyn GuestMemory) -> Result<(), Fault> {
        let mut total = 0u32;
        for (i, buffer) in self.buffers.iter().enumerate() {
            total = total.checked_add(buffer.len).ok_or(Fault::Chain)?;
            let write = i >= self.read;
            if buffer.len != 0 && !memory.contains(buffer.address, buffer.len as usize, write) {
                return Err(Fault::NotRam);
            }
        }
        Ok(())
    }

    /// The buffers that the device reads.
    #[must_use]
    pub fn readable(&self) -> &[Buffer] {
        self.buffers.get(..self.read).unwrap_or_default()
    }

    /// The buffers that the device writes.
    #[must_use]
    pub fn writable(&self) -> &[Buffer] {
        self.buffers.get(self.read..).unwrap_or_default()
    }
}

/// The length of `buffers`. Those of a chain are shorter than 4 GiB together.
#[must_use]
pub fn len(buffers: &[Buffer]) -> usize {
    buffers.iter().map(|b| b.len as usize).sum()
}

/// The parts of `buffers` that make up their bytes from `start` on, `len` at most.
pub fn part(buffers: &[Buffer], start: usize, len: usize) -> impl Iterator<Item = Buffer> + '_ {
    let (mut skip, mut left) = (start, len);
    buffers.iter().filter_map(move |b| {
        let whole = b.len as usize;
        let skipped = skip.min(whole);
        skip -= skipped;
        let n = left.min(whole - skipped);
        left -= n;
        (n != 0).then(|| Buffer {
            address: Gpa(b.address.0.wrapping_add(skipped as u64)),
            len: n as u32,
        })
    })
}

/// Copies from `start` of `buffers` on into `to`, and says how many bytes there were.
///
/// # Errors
/// They are not RAM.
pub fn read(
    memory: &dyn GuestMemory,
    buffers: &[Buffer],
    start: usize,
    to: &mut [u8],
) -> Result<usize, Fault> {
    let mut done = 0;
    for b in part(buffers, start, to.len()) {
        let end = done + b.len as usize;
        memory.read(b.address, to.get_mut(done..end).unwrap_or_default())?;
        done = end;
    }
    Ok(done)
}

/// Copies `from` to `start` of `buffers`, and says how many bytes had room.
///
/// # Errors
/// They are not RAM.
pub fn write(
    memory: &dyn GuestMemory,
    buffers: &[Buffer],
    start: usize,
    from: &[u8],
) -> Result<usize, Fault> {
    let mut done = 0;
    for b in part(buffers, start, from.len()) {
        let end = done + b.len as usize;
        memory.write(b.address, from.get(done..end).unwrap_or_default())?;
        done = end;
    }
    Ok(done)
}
