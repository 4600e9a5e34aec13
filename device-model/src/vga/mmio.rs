//! The registers in memory behind base address register 2: EDID, the VGA's ports, the display interface.
//!
//! QEMU docs/specs/standard-vga, "PCI spec" and "Memory region 2". The frame buffer is little-endian only: the register that
//! chooses its byte order is read-only, which tells a big-endian guest so.

use super::{Vga, edid};
use hv_core::time::VmTime;

/// EDID: one block, then zeroes.
const EDID: core::ops::Range<u64> = 0x000..0x400;
/// Ports 3C0h to 3DFh.
const PORTS: core::ops::Range<u64> = 0x400..0x420;
/// The port at the beginning of [`PORTS`].
const FIRST_PORT: u16 = 0x3c0;
/// The display interface's registers, 16 bits each.
const DISPI: core::ops::Range<u64> = 0x500..0x516;
/// "QEMU extended registers": their size in bytes, then the byte order.
const EXTENDED: core::ops::Range<u64> = 0x600..0x608;
/// What [`EXTENDED`] reads.
const EXTENDED_BYTES: [u8; 8] = [8, 0, 0, 0, 0x1e, 0x1e, 0x1e, 0x1e];

/// The EDID that is shown.
static EDID_BLOCK: [u8; edid::LEN] = edid::block();

impl Vga {
    /// Reads `size` bytes at `offset`, all ones where nothing is.
    pub(super) fn read_registers(&mut self, now: VmTime, offset: u64, size: usize) -> u64 {
        let mut bytes = [0xff; 8];
        for (b, o) in bytes.iter_mut().take(size).zip(offset & 0xfff..) {
            *b = self.read_register_byte(now, o);
        }
        u64::from_le_bytes(bytes)
    }

    fn read_register_byte(&mut self, now: VmTime, o: u64) -> u8 {
        if EDID.contains(&o) {
            EDID_BLOCK.get(o as usize).copied().unwrap_or(0)
        } else if PORTS.contains(&o) {
            self.read_port(now, FIRST_PORT + (o - PORTS.start) as u16)
        } else if DISPI.contains(&o) {
            let [low, high] = self
                .dispi
                .read(((o - DISPI.start) / 2) as u16)
                .to_le_bytes();
            if o.is_multiple_of(2) { low } else { high }
        } else if EXTENDED.contains(&o) {
            EXTENDED_BYTES
                .get((o - EXTENDED.start) as usize)
                .copied()
                .unwrap_or(0)
        } else {
            0xff
        }
    }

    /// Writes `size` bytes at `offset`.
    pub(super) fn write_registers(&mut self, offset: u64, size: usize, value: u64) {
        let bytes = value.to_le_bytes();
        let mut bytes = bytes.get(..size).unwrap_or(&bytes);
        let mut o = offset & 0xfff;
        while let Some((&low, rest)) = bytes.split_first() {
            bytes = rest;
            if PORTS.contains(&o) {
                self.write_port(FIRST_PORT + (o - PORTS.start) as u16, low);
            } else if DISPI.contains(&o) {
                let index = ((o - DISPI.start) / 2) as u16;
                let old = self.dispi.read(index).to_le_bytes();
                // A single byte leaves the other half as it is.
                let new = match rest.split_first() {
                    _ if !o.is_multiple_of(2) => [old[0], low],
                    Some((&high, rest)) => {
                        bytes = rest;
                        o += 1;
                        [low, high]
                    }
                    None => [low, old[1]],
                };
                self.write_dispi(index, u16::from_le_bytes(new));
            }
            o += 1;
        }
    }
}
