//! What the driver needs of the machine.

use crate::prd;
use alloc::sync::Arc;
use hv_core::mem::DeviceRam;

/// Ports and a clock.
pub trait Host: Send {
    /// Reads a byte from `port`.
    fn in8(&mut self, port: u16) -> u8;
    /// Writes a byte to `port`.
    fn out8(&mut self, port: u16, value: u8);
    /// Writes a double word to `port`.
    fn out32(&mut self, port: u16, value: u32);
    /// Fills `buf` with words from `port` (REP INSW). Its length is even.
    fn in16s(&mut self, port: u16, buf: &mut [u8]);
    /// Writes `buf` to `port` as words (REP OUTSW). Its length is even.
    fn out16s(&mut self, port: u16, buf: &[u8]);
    /// Microseconds since some moment. It goes on, however slowly, with every call.
    fn now(&mut self) -> u64;
}

/// Bytes of the table of physical region descriptors at the end of a [`DmaBuffer`].
const TABLE: usize = 256;

/// Physically contiguous memory that a bus master reaches: data, then the descriptor table.
pub struct DmaBuffer {
    ram: Arc<dyn DeviceRam>,
    address: u32,
    /// Bytes of data.
    len: usize,
}

impl DmaBuffer {
    /// Bytes that a buffer for the longest transfer has: 256 sectors, and the page with the table.
    pub const SIZE: usize = 256 * 512 + 4096;

    /// `ram`, which lies at the physical address `address`, as a buffer. None if the address is not page-aligned, `ram` is too
    /// small to be of use, or it does not end below 4 GiB.
    #[must_use]
    pub fn new(ram: Arc<dyn DeviceRam>, address: u64) -> Option<Self> {
        let len = ram.len().checked_sub(TABLE)? & !0xfff;
        let end = address.checked_add(ram.len() as u64)?;
        let fits = len != 0 && address & 0xfff == 0 && end <= 1 << 32;
        fits.then_some(Self {
            ram,
            address: address as u32,
            len,
        })
    }

    /// Bytes of the longest transfer.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Writes the descriptors for the first `bytes` bytes and answers where the table is. None if there is no room for so many.
    pub(crate) fn describe(&self, bytes: usize) -> Option<u32> {
        let mut table = [0; TABLE];
        let n = prd::build(self.address, bytes.min(self.len) as u32, &mut table)?;
        self.ram.write(self.len, &table[..n]);
        Some(self.address + self.len as u32)
    }

    /// Copies data out.
    pub(crate) fn read(&self, offset: usize, buf: &mut [u8]) {
        self.ram.read(offset, buf);
    }

    /// Copies data in.
    pub(crate) fn write(&self, offset: usize, buf: &[u8]) {
        self.ram.write(offset, buf);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::testing::VecDeviceRam;

    #[test]
    fn buffer_lies_below_4_gib_and_on_a_page() {
        let ram = |len| Arc::new(VecDeviceRam::new(len));
        for (len, address, good) in [
            (DmaBuffer::SIZE, 0x10_0000, true),
            (DmaBuffer::SIZE, 0x10_0800, false),
            (DmaBuffer::SIZE, (1 << 32) - 0x2_1000, true),
            (DmaBuffer::SIZE, (1 << 32) - 0x2_0000, false),
            (DmaBuffer::SIZE, !0xfff, false),
            (4096, 0x1000, false),
            (0, 0x1000, false),
        ] {
            let buffer = DmaBuffer::new(ram(len), address);
            assert_eq!(buffer.is_some(), good, "{len:#x} at {address:#x}");
        }
    }

    #[test]
    fn table_follows_the_data() {
        let ram = Arc::new(VecDeviceRam::new(DmaBuffer::SIZE));
        let buffer = DmaBuffer::new(ram.clone(), 0x1234_5000).unwrap();
        assert_eq!(buffer.len(), 256 * 512);
        assert_eq!(buffer.describe(512), Some(0x1234_5000 + 256 * 512));
        let mut entry = [0; 8];
        ram.read(256 * 512, &mut entry);
        assert_eq!(entry, [0, 0x50, 0x34, 0x12, 0, 2, 0, 0x80]);
    }
}
