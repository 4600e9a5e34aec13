//! What CPUs do on the buses: reads and writes of ports and of devices' memory.

use super::{Bus, Width};
use crate::device::{AccessSize, WindowId};
use crate::{Gpa, VmTime};

impl Bus {
    /// IN.
    pub fn port_read(&mut self, now: VmTime, port: u16, size: AccessSize) -> u32 {
        match self.port_handler(port, size) {
            Some(h) => self.with(h, now, |d, cx| d.port_read(cx, port, size)) & size.ones(),
            None => self.port_read_by_bytes(now, port, size),
        }
    }

    #[cold]
    #[inline(never)]
    fn port_read_by_bytes(&mut self, now: VmTime, port: u16, size: AccessSize) -> u32 {
        (0..size.bytes()).fold(0, |value, i| {
            let p = port.wrapping_add(i as u16);
            let byte = match self.port_handler(p, AccessSize::Byte) {
                Some(h) => self.with(h, now, |d, cx| d.port_read(cx, p, AccessSize::Byte)) & 0xff,
                None => 0xff,
            };
            value | byte << (8 * i)
        })
    }

    /// OUT.
    pub fn port_write(&mut self, now: VmTime, port: u16, size: AccessSize, value: u32) {
        let value = value & size.ones();
        match self.port_handler(port, size) {
            Some(h) => self.with(h, now, |d, cx| d.port_write(cx, port, size, value)),
            None => self.port_write_by_bytes(now, port, size, value),
        }
    }

    #[cold]
    #[inline(never)]
    fn port_write_by_bytes(&mut self, now: VmTime, port: u16, size: AccessSize, value: u32) {
        for (i, byte) in value
            .to_le_bytes()
            .into_iter()
            .enumerate()
            .take(size.bytes())
        {
            let p = port.wrapping_add(i as u16);
            if let Some(h) = self.port_handler(p, AccessSize::Byte) {
                self.with(h, now, |d, cx| {
                    d.port_write(cx, p, AccessSize::Byte, byte.into())
                });
            }
        }
    }

    /// The device that takes an access of this width as one; none if it has to be split (or nobody is there).
    fn port_handler(&self, port: u16, size: AccessSize) -> Option<u8> {
        let n = self.ports[usize::from(port)];
        let h = self.handlers.get(usize::from(n))?;
        if size == AccessSize::Byte {
            return Some(h.device);
        }
        let last = self.ports.get(usize::from(port) + size.bytes() - 1);
        (h.width == Width::Native && last == Some(&n)).then_some(h.device)
    }

    /// REP INS: fills `buf` from one port.
    pub fn port_read_block(&mut self, now: VmTime, port: u16, size: AccessSize, buf: &mut [u8]) {
        if let Some(h) = self.port_handler(port, size) {
            self.with(h, now, |d, cx| d.port_read_block(cx, port, size, buf));
            return;
        }
        for chunk in buf.chunks_exact_mut(size.bytes()) {
            let v = self.port_read(now, port, size).to_le_bytes();
            chunk.copy_from_slice(&v[..chunk.len()]);
        }
    }

    /// REP OUTS: writes `buf` to one port.
    pub fn port_write_block(&mut self, now: VmTime, port: u16, size: AccessSize, buf: &[u8]) {
        if let Some(h) = self.port_handler(port, size) {
            self.with(h, now, |d, cx| d.port_write_block(cx, port, size, buf));
            return;
        }
        for chunk in buf.chunks_exact(size.bytes()) {
            let mut v = [0; 4];
            v[..chunk.len()].copy_from_slice(chunk);
            self.port_write(now, port, size, u32::from_le_bytes(v));
        }
    }

    fn mmio_at(&self, gpa: Gpa, size: usize) -> Option<(u8, WindowId, u64)> {
        let at = gpa.0;
        self.mmio.iter().find_map(|r| {
            let offset = at.wrapping_sub(r.base);
            (offset < r.len && size as u64 <= r.len - offset)
                .then_some((r.device, r.window, offset))
        })
    }

    /// Reads `size` (1, 2, 4 or 8) bytes of MMIO; all ones where nobody is.
    pub fn mmio_read(&mut self, now: VmTime, gpa: Gpa, size: usize) -> u64 {
        let ones = if size >= 8 {
            u64::MAX
        } else {
            (1 << (8 * size)) - 1
        };
        match self.mmio_at(gpa, size) {
            Some((device, window, offset)) => {
                self.with(device, now, |d, cx| d.mmio_read(cx, window, offset, size)) & ones
            }
            None => ones,
        }
    }

    /// Writes `size` (1, 2, 4 or 8) bytes of MMIO; dropped where nobody is.
    pub fn mmio_write(&mut self, now: VmTime, gpa: Gpa, size: usize, value: u64) {
        let value = if size >= 8 {
            value
        } else {
            value & ((1 << (8 * size)) - 1)
        };
        if let Some((device, window, offset)) = self.mmio_at(gpa, size) {
            self.with(device, now, |d, cx| {
                d.mmio_write(cx, window, offset, size, value)
            });
        }
    }
}
