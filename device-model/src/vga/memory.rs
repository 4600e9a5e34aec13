//! The way of the processor's data through the legacy window into the planes and back.
//!
//! IBM PS/2 Hardware Interface Technical Reference, Video Subsystem, "Graphics Controller Registers" and "Video Memory
//! Organization". Byte `a` of plane `p` is byte `4 * a + p` of video memory. Odd/even and chain-4 addresses are packed (a text
//! cell's character and attribute are bytes 0 and 1 of one group of four; chain-4 is linear), where a real VGA leaves gaps and
//! skips them when it draws: neither this file nor the picture has the gaps.
//!
//! Wide accesses are what their bytes would be, low address first. The common cases take one or two copies.

use super::dispi::Dispi;
use super::graphics::Graphics;
use super::sequencer::Sequencer;
use hv_core::mem::DeviceRam;

/// All four planes.
const ALL: u8 = 0x0f;
/// The planes of even addresses in odd/even mode; those of odd addresses are the next ones.
const EVEN: u8 = 0x05;
/// Bytes that a real VGA's planes have together.
const VGA_BYTES: u32 = 256 << 10;
/// What wrapping needs at least: more than the groups of one access.
const SMALLEST: u32 = 64;
/// The widest access, in bytes.
const WIDEST: usize = 8;

/// How an address chooses planes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Layout {
    Planar,
    OddEven,
    Chain4,
}

impl Layout {
    /// The group of four bytes that address `a` is in, as an offset in video memory.
    fn group(self, a: u32) -> u32 {
        match self {
            Layout::Planar => a << 2,
            Layout::OddEven => a >> 1 << 2,
            Layout::Chain4 => a & !3,
        }
    }

    /// The planes of `mask` that a write to address `a` reaches.
    fn planes(self, a: u32, mask: u8) -> u8 {
        match self {
            Layout::Planar => mask,
            Layout::OddEven => mask & EVEN << (a & 1),
            Layout::Chain4 => mask & 1 << (a & 3),
        }
    }

    /// The plane that a read of address `a` shows if plane `selected` is selected.
    fn plane(self, a: u32, selected: u8) -> u32 {
        match self {
            Layout::Planar => u32::from(selected),
            Layout::OddEven => u32::from(selected & 2) | a & 1,
            Layout::Chain4 => a & 3,
        }
    }
}

/// Four bits as four bytes, bit p becoming byte p.
fn spread(bits: u8) -> u32 {
    let b = u32::from(bits);
    (b & 1 | (b & 2) << 7 | (b & 4) << 14 | (b & 8) << 21) * 0xff
}

/// One byte four times.
fn repeat(byte: u8) -> u32 {
    u32::from(byte) * 0x0101_0101
}

/// The registers' meaning for the window, worked out when they change.
#[derive(Debug)]
pub(super) struct Pipeline {
    /// Where in the window the decoded part begins, and its length.
    start: u32,
    len: u32,
    /// What is added to an address.
    bank: u32,
    /// Offsets in video memory are taken modulo this plus one.
    wrap: u32,
    write_layout: Layout,
    read_layout: Layout,
    map_mask: u8,
    /// Whether written data reach memory unchanged.
    plain: bool,
    write_mode: u8,
    rotate: u32,
    function: u8,
    bit_mask: u32,
    set_reset: u32,
    enable_set_reset: u32,
    read_plane: u8,
    read_compare: bool,
    compare: u32,
    care: u32,
}

impl Pipeline {
    /// The pipeline for these registers and `vram` bytes of video memory.
    pub fn new(seq: &Sequencer, gfx: &Graphics, dispi: &Dispi, vram: usize) -> Self {
        let (start, len) = gfx.window();
        let size = u32::try_from(vram).unwrap_or(1 << 31).max(SMALLEST);
        let size = 1 << size.ilog2();
        let layout = |odd_even| match (seq.chain4(), odd_even) {
            (true, _) => Layout::Chain4,
            (false, true) => Layout::OddEven,
            (false, false) => Layout::Planar,
        };
        Self {
            start,
            len,
            bank: dispi.bank_base(),
            wrap: if dispi.enabled() {
                size - 1
            } else {
                size.min(VGA_BYTES) - 1
            },
            write_layout: layout(seq.odd_even()),
            read_layout: layout(gfx.odd_even()),
            map_mask: seq.map_mask() & ALL,
            plain: gfx.write_mode() == 0
                && gfx.rotate() == 0
                && gfx.function() == 0
                && gfx.enable_set_reset() == 0
                && gfx.bit_mask() == 0xff,
            write_mode: gfx.write_mode(),
            rotate: gfx.rotate(),
            function: gfx.function(),
            bit_mask: repeat(gfx.bit_mask()),
            set_reset: spread(gfx.set_reset()),
            enable_set_reset: spread(gfx.enable_set_reset()),
            read_plane: gfx.read_plane(),
            read_compare: gfx.read_compare(),
            compare: spread(gfx.color_compare()),
            care: spread(gfx.color_dont_care()),
        }
    }

    /// Whether the window is text memory and nothing else: at B8000h, even addresses to plane 0 and odd ones to plane 1.
    pub fn is_text(&self) -> bool {
        self.plain
            && !self.read_compare
            && (self.start, self.len) == (0x1_8000, 0x8000)
            && self.bank == 0
            && (self.write_layout, self.read_layout) == (Layout::OddEven, Layout::OddEven)
            && self.map_mask == 3
            && self.read_plane & 2 == 0
            && self.wrap == VGA_BYTES - 1
    }

    /// The address of `size` bytes at `offset` of the window, if all of them are decoded.
    fn address(&self, offset: u64, size: usize) -> Option<u32> {
        let rel = u32::try_from(offset).ok()?.checked_sub(self.start)?;
        (rel.checked_add(size as u32)? <= self.len).then(|| rel + self.bank)
    }

    /// Reads `size` (up to 8) bytes at `offset` of the window; `latches` get the last group read. All ones where nothing is
    /// decoded.
    pub fn read(&self, vram: &dyn DeviceRam, latches: &mut u32, offset: u64, size: usize) -> u64 {
        let size = size.min(WIDEST);
        let Some(a) = self.address(offset, size) else {
            return self.read_outside(vram, latches, offset, size);
        };
        // At most eight groups of four bytes, one behind the other unless they wrap.
        let first = self.read_layout.group(a) & self.wrap;
        let last = self.read_layout.group(a + (size as u32).max(1) - 1) & self.wrap;
        let mut groups = [0u8; 4 * WIDEST];
        let span = (last.wrapping_sub(first) as usize).saturating_add(4);
        let Some(buf) = groups.get_mut(..span) else {
            return self.read_outside(vram, latches, offset, size);
        };
        vram.read(first as usize, buf);
        let mut value = 0;
        for i in 0..size as u32 {
            let at = ((self.read_layout.group(a + i) & self.wrap) - first) as usize;
            if let Some(g) = groups.get(at..).and_then(|g| g.first_chunk::<4>()) {
                *latches = u32::from_le_bytes(*g);
            }
            value |= u64::from(self.see(*latches, a + i)) << (8 * i);
        }
        value
    }

    /// As [`read`](Self::read), for accesses that are not decoded as a whole or wrap.
    #[cold]
    fn read_outside(
        &self,
        vram: &dyn DeviceRam,
        latches: &mut u32,
        offset: u64,
        size: usize,
    ) -> u64 {
        let mut value = 0;
        for i in 0..size as u64 {
            let byte = offset
                .checked_add(i)
                .and_then(|o| self.address(o, 1))
                .map_or(0xff, |a| {
                    let mut g = [0; 4];
                    vram.read((self.read_layout.group(a) & self.wrap) as usize, &mut g);
                    *latches = u32::from_le_bytes(g);
                    self.see(*latches, a)
                });
            value |= u64::from(byte) << (8 * i);
        }
        value
    }

    /// What the processor sees of a group: one plane, or where all planes that matter have the compared colour.
    fn see(&self, group: u32, a: u32) -> u8 {
        if self.read_compare {
            let d = (group ^ self.compare) & self.care;
            let d = d | d >> 16;
            !(d | d >> 8) as u8
        } else {
            (group >> (8 * self.read_layout.plane(a, self.read_plane))) as u8
        }
    }

    /// Writes `size` (up to 8) bytes at `offset` of the window. Answers whether anything was decoded.
    pub fn write(
        &self,
        vram: &dyn DeviceRam,
        latches: u32,
        offset: u64,
        size: usize,
        value: u64,
    ) -> bool {
        let bytes = value.to_le_bytes();
        let bytes = bytes.get(..size).unwrap_or(&bytes);
        let Some(a) = self.address(offset, bytes.len()) else {
            return self.write_outside(vram, latches, offset, bytes);
        };
        match self.write_layout {
            Layout::OddEven
                if self.plain && self.map_mask == 3 && a % 2 == 0 && bytes.len() % 2 == 0 =>
            {
                for (i, cell) in bytes.chunks_exact(2).enumerate() {
                    vram.write(
                        (Layout::OddEven.group(a + 2 * i as u32) & self.wrap) as usize,
                        cell,
                    );
                }
            }
            Layout::Chain4
                if self.plain
                    && self.map_mask == ALL
                    && (a & self.wrap) + bytes.len() as u32 <= self.wrap =>
            {
                vram.write((a & self.wrap) as usize, bytes);
            }
            _ => {
                for (i, byte) in bytes.iter().enumerate() {
                    self.store(vram, latches, a + i as u32, *byte);
                }
            }
        }
        true
    }

    /// As [`write`](Self::write), for accesses that are not decoded as a whole.
    #[cold]
    fn write_outside(&self, vram: &dyn DeviceRam, latches: u32, offset: u64, bytes: &[u8]) -> bool {
        let mut any = false;
        for (i, byte) in bytes.iter().enumerate() {
            if let Some(a) = offset
                .checked_add(i as u64)
                .and_then(|o| self.address(o, 1))
            {
                self.store(vram, latches, a, *byte);
                any = true;
            }
        }
        any
    }

    /// Writes one byte to the planes that it reaches.
    fn store(&self, vram: &dyn DeviceRam, latches: u32, a: u32, byte: u8) {
        let at = (self.write_layout.group(a) & self.wrap) as usize;
        let group = self.merge(latches, byte).to_le_bytes();
        let mut planes = self.write_layout.planes(a, self.map_mask);
        while planes != 0 {
            let first = planes.trailing_zeros() as usize;
            let behind = first + (planes >> first).trailing_ones() as usize;
            if let Some(run) = group.get(first..behind) {
                vram.write(at + first, run);
            }
            planes &= u8::MAX.checked_shl(behind as u32).unwrap_or(0);
        }
    }

    /// What `byte` makes of the latches.
    fn merge(&self, latches: u32, byte: u8) -> u32 {
        let rotated = repeat(byte.rotate_right(self.rotate));
        let (data, mask) = match self.write_mode {
            0 => (
                rotated & !self.enable_set_reset | self.set_reset & self.enable_set_reset,
                self.bit_mask,
            ),
            1 => return latches,
            2 => (spread(byte & ALL), self.bit_mask),
            _ => (self.set_reset, self.bit_mask & rotated),
        };
        let data = match self.function {
            0 => data,
            1 => data & latches,
            2 => data | latches,
            _ => data ^ latches,
        };
        data & mask | latches & !mask
    }
}
