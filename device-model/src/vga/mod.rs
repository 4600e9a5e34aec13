//! A VGA with the Bochs display interface, as PCI function 1234h:1111h: what QEMU calls "standard VGA".
//!
//! Implemented: the VGA's registers and planes, text and graphics, the VBE modes of the display interface with their linear
//! and banked frame buffer, EDID. *Not* implemented: sync timing, the vertical interrupt, the light pen, the border, interlace,
//! video memory layouts that mix packed and unpacked addressing (see `memory.rs`), the second head.
//!
//! The device owns no memory: video memory is given to it, and others map it at base address register 0. What the guest writes
//! there is invisible to [`Vga::generation`]; [`Vga::is_lfb_mode`] tells when that matters.
//!
//! Invariant: `pipeline` is what `Pipeline::new` makes of the registers.

mod attribute;
mod crtc;
mod dac;
mod dispi;
pub mod edid;
mod graphics;
mod memory;
mod mmio;
mod picture;
mod retrace;
mod rows;
mod scan;
mod screen;
mod sequencer;
mod text;
mod textmap;

#[cfg(test)]
mod tests;

pub use dispi::{MAX_HEIGHT, MAX_WIDTH};
pub use picture::{Painter, Picture};
pub use screen::{Screen, ScreenKind};
pub use text::TextScreen;
pub use textmap::TEXT_RAM;
use textmap::TextMap;

use alloc::sync::Arc;
use attribute::Attribute;
use core::ops::Range;
use crtc::Crtc;
use dac::Dac;
use dispi::{Change, Dispi};
use graphics::Graphics;
use hv_core::device::{AccessSize, DevCx, Device, WindowId};
use hv_core::mem::DeviceRam;
use hv_core::time::VmTime;
use memory::Pipeline;
use retrace::Retrace;
use sequencer::Sequencer;

/// The identity of the PCI function, for its configuration space. It has no interrupt pin and no ROM: the VGA BIOS comes by
/// fw_cfg.
pub mod pci_id {
    /// Vendor ID.
    pub const VENDOR: u16 = 0x1234;
    /// Device ID.
    pub const DEVICE: u16 = 0x1111;
    /// Class code: display controller, VGA compatible, programming interface 0.
    pub const CLASS: u32 = 0x03_00_00;
    /// Revision ID; 2 says that there are the registers behind base address register 2.
    pub const REVISION: u8 = 2;
    /// Subsystem vendor ID.
    pub const SUBSYSTEM_VENDOR: u16 = 0x1af4;
    /// Subsystem ID.
    pub const SUBSYSTEM: u16 = 0x1100;
    /// The base address register of video memory: 32-bit, prefetchable.
    pub const VRAM_BAR: u8 = 0;
    /// The size of video memory in bytes.
    pub const VRAM_SIZE: usize = 16 << 20;
    /// The base address register of the registers in memory: 32-bit, not prefetchable.
    pub const MMIO_BAR: u8 = 2;
    /// The size of the registers' window in bytes.
    pub const MMIO_SIZE: usize = 4 << 10;
}

/// The VGA's ports, of bytes.
pub const VGA_PORTS: Range<u16> = 0x3b0..0x3e0;
/// The display interface's ports, of words; accesses of 32 bits are understood too.
pub const DISPI_PORTS: Range<u16> = 0x1ce..0x1d2;

/// Ports of the display interface: the index, the data on x86, and the data where software wants it aligned.
const DISPI_INDEX: u16 = 0x1ce;
const DISPI_DATA: u16 = 0x1cf;
const DISPI_DATA_ALIGNED: u16 = 0x1d0;

/// Input status 0, bit 4: a monitor is sensed.
const SWITCH_SENSE: u8 = 1 << 4;
/// Miscellaneous output, bit 0: the CRT controller is at 3Dxh, not at 3Bxh.
const MISC_COLOR: u8 = 1 << 0;
/// CR22, which is documented nowhere and which programs that save the VGA's state read: the selected plane's latch.
const CR_LATCH: u8 = 0x22;
/// CR24, likewise: bit 7 is the attribute controller's flip-flop.
const CR_FLIP_FLOP: u8 = 0x24;
/// CR26, likewise: the attribute controller's index.
const CR_ATTRIBUTE_INDEX: u8 = 0x26;

/// Bytes of video memory that are zero after a reset.
const POWER_ON_CLEARED: usize = 256 << 10;

/// The display adapter.
pub struct Vga {
    // Wiring.
    vram: Arc<dyn DeviceRam>,
    vram_len: usize,
    legacy: WindowId,
    registers: WindowId,
    frame_buffer: Option<WindowId>,
    // State.
    misc: u8,
    feature: u8,
    seq: Sequencer,
    gfx: Graphics,
    crtc: Crtc,
    attr: Attribute,
    dac: Dac,
    dispi: Dispi,
    retrace: Retrace,
    /// The bytes of the four planes that were read last, plane 0 in bits 7:0.
    latches: u32,
    pipeline: Pipeline,
    text: Option<TextMap>,
    generation: u64,
}

impl Vga {
    /// An adapter at power-on with zeroed video memory `vram` (a power of two, up to 2 GiB). `legacy` is the window at A0000h
    /// to BFFFFh, `registers` the one of base address register 2.
    #[must_use]
    pub fn new(vram: Arc<dyn DeviceRam>, legacy: WindowId, registers: WindowId) -> Self {
        let vram_len = vram.len();
        let (seq, gfx, dispi) = (
            Sequencer::default(),
            Graphics::default(),
            Dispi::new(vram_len),
        );
        let pipeline = Pipeline::new(&seq, &gfx, &dispi, vram_len);
        Self {
            vram,
            vram_len,
            legacy,
            registers,
            frame_buffer: None,
            misc: 0,
            feature: 0,
            seq,
            gfx,
            crtc: Crtc::default(),
            attr: Attribute::default(),
            dac: Dac::default(),
            dispi,
            retrace: Retrace::default(),
            latches: 0,
            pipeline,
            text: None,
            generation: 0,
        }
    }

    /// With the window of base address register 0, for instructions that are emulated: others reach the memory itself.
    #[must_use]
    pub fn with_frame_buffer(mut self, window: WindowId) -> Self {
        self.frame_buffer = Some(window);
        self
    }

    fn in_frame_buffer(&self, window: WindowId, offset: u64, size: usize) -> bool {
        let end = offset.saturating_add(size as u64);
        self.frame_buffer == Some(window) && end <= self.vram_len as u64
    }

    /// Video memory: what base address register 0 shows.
    #[must_use]
    pub fn vram(&self) -> &Arc<dyn DeviceRam> {
        &self.vram
    }

    /// A number that changes whenever the guest changes something visible through ports, registers or the legacy window.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether a VBE mode is on, so that the picture may change without [`generation`](Self::generation) changing.
    #[must_use]
    pub fn is_lfb_mode(&self) -> bool {
        self.dispi.enabled()
    }

    fn touch(&mut self, changed: bool) {
        self.generation = self.generation.wrapping_add(u64::from(changed));
    }

    /// Works out the memory pipeline after a register that it depends on has changed.
    fn renew(&mut self, changed: bool) {
        if changed {
            self.pipeline = Pipeline::new(&self.seq, &self.gfx, &self.dispi, self.vram_len);
            self.touch(true);
        }
    }

    /// Whether `port`, one of those that move with the miscellaneous output register, is where that register says.
    fn is_here(&self, port: u16) -> bool {
        (port >= 0x3d0) == (self.misc & MISC_COLOR != 0)
    }

    /// Reads one byte of the VGA's ports.
    fn read_port(&mut self, now: VmTime, port: u16) -> u8 {
        match port {
            0x3c0 => self.attr.index(),
            0x3c1 => self.attr.read(),
            0x3c2 => SWITCH_SENSE,
            // Video subsystem enable: always.
            0x3c3 => 1,
            0x3c4 => self.seq.index(),
            0x3c5 => self.seq.read(),
            0x3c6 => self.dac.mask(),
            0x3c7 => self.dac.state(),
            0x3c8 => self.dac.write_index(),
            0x3c9 => self.dac.read(),
            0x3ca => self.feature,
            0x3cc => self.misc,
            0x3ce => self.gfx.index(),
            0x3cf => self.gfx.read(),
            0x3b4 | 0x3d4 if self.is_here(port) => self.crtc.index(),
            0x3b5 | 0x3d5 if self.is_here(port) => self.read_crtc(),
            0x3ba | 0x3da if self.is_here(port) => {
                self.attr.reset_flip_flop();
                self.retrace.read(now)
            }
            _ => 0xff,
        }
    }

    fn read_crtc(&self) -> u8 {
        match self.crtc.index() {
            CR_LATCH => (self.latches >> (8 * u32::from(self.gfx.read_plane() & 3))) as u8,
            CR_FLIP_FLOP => u8::from(self.attr.data_next()) << 7,
            CR_ATTRIBUTE_INDEX => self.attr.index(),
            _ => self.crtc.read(),
        }
    }

    /// Writes one byte of the VGA's ports.
    fn write_port(&mut self, port: u16, value: u8) {
        let changed = match port {
            0x3c0 => self.attr.write(value),
            0x3c2 => core::mem::replace(&mut self.misc, value) != value,
            0x3c6 => self.dac.set_mask(value),
            0x3c9 => self.dac.write(value),
            0x3b5 | 0x3d5 if self.is_here(port) => self.crtc.write(value),
            0x3c5 => {
                let changed = self.seq.write(value);
                return self.renew(changed);
            }
            0x3cf => {
                let changed = self.gfx.write(value);
                return self.renew(changed);
            }
            0x3c4 => return self.seq.set_index(value),
            0x3c7 => return self.dac.set_read_index(value),
            0x3c8 => return self.dac.set_write_index(value),
            0x3ce => return self.gfx.set_index(value),
            0x3b4 | 0x3d4 if self.is_here(port) => return self.crtc.set_index(value),
            0x3ba | 0x3da if self.is_here(port) => {
                self.feature = value;
                return;
            }
            _ => return,
        };
        self.touch(changed);
    }

    /// Reads one word of the display interface's ports.
    fn read_dispi_port(&self, port: u16) -> u16 {
        match port {
            DISPI_INDEX => self.dispi.index(),
            DISPI_DATA | DISPI_DATA_ALIGNED => self.dispi.read(self.dispi.index()),
            _ => 0xffff,
        }
    }

    /// Writes one word of the display interface's ports.
    fn write_dispi_port(&mut self, port: u16, value: u16) {
        match port {
            DISPI_INDEX => self.dispi.set_index(value),
            DISPI_DATA | DISPI_DATA_ALIGNED => self.write_dispi(self.dispi.index(), value),
            _ => {}
        }
    }

    /// Writes one register of the display interface.
    fn write_dispi(&mut self, index: u16, value: u16) {
        let was_planar = self.dispi.planar();
        let change = self.dispi.write(index, value);
        if change == Change::Nothing {
            return;
        }
        self.dac.set_eight_bits(self.dispi.dac_8bit());
        let planar = self.dispi.planar();
        if let Some(m) = self.dispi.mode() {
            let enabled = matches!(change, Change::Enabled { .. });
            if enabled || planar != was_planar {
                self.seq.set_for_vbe(planar);
                self.gfx.set_for_vbe(planar);
            }
            if change != Change::Bank {
                self.crtc.set_for_vbe(m.width, m.height, m.pitch);
            }
            if change == (Change::Enabled { clear: true }) {
                self.vram.fill(0, m.pitch as usize * m.height as usize, 0);
            }
        }
        self.renew(true);
    }
}

impl Device for Vga {
    fn name(&self) -> &'static str {
        "vga"
    }

    fn reset(&mut self, cx: &mut DevCx<'_>) {
        self.text_end(cx);
        // Video memory keeps what it has, but for what a VGA shows.
        self.vram.fill(0, POWER_ON_CLEARED.min(self.vram_len), 0);
        let fresh = Self::new(self.vram.clone(), self.legacy, self.registers);
        let (text, generation) = (self.text.take(), self.generation.wrapping_add(1));
        *self = Self {
            text,
            generation,
            frame_buffer: self.frame_buffer,
            ..fresh
        };
    }

    /// The VGA has power while the machine sleeps: SeaVGABIOS's set-up, which follows, chooses no mode, and a system without a driver
    /// for it (Linux in text mode) goes on with the picture that there was.
    fn wake(&mut self, _: &mut DevCx<'_>) {}

    fn port_read(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize) -> u32 {
        if DISPI_PORTS.contains(&port) {
            let low = u32::from(self.read_dispi_port(port));
            return match size {
                AccessSize::Byte => low & 0xff,
                AccessSize::Word => low,
                AccessSize::Dword => {
                    low | u32::from(self.read_dispi_port(port.wrapping_add(2))) << 16
                }
            };
        }
        let mut value = 0;
        for i in 0..size.bytes() as u16 {
            value |= u32::from(self.read_port(cx.now, port.wrapping_add(i))) << (8 * i);
        }
        value
    }

    fn port_write(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize, value: u32) {
        if DISPI_PORTS.contains(&port) {
            self.write_dispi_port(port, value as u16);
            if size == AccessSize::Dword {
                self.write_dispi_port(port.wrapping_add(2), (value >> 16) as u16);
            }
        } else {
            for i in 0..size.bytes() as u16 {
                self.write_port(port.wrapping_add(i), (value >> (8 * i)) as u8);
            }
        }
        self.text_settle(cx);
    }

    fn mmio_read(&mut self, cx: &mut DevCx<'_>, window: WindowId, offset: u64, size: usize) -> u64 {
        if window == self.legacy {
            if let Some((ram, at)) = self.text_access(cx, offset, size) {
                let mut bytes = [0; 8];
                ram.read(at, &mut bytes[..size.min(8)]);
                return u64::from_le_bytes(bytes);
            }
            self.pipeline
                .read(&*self.vram, &mut self.latches, offset, size)
        } else if window == self.registers {
            self.read_registers(cx.now, offset, size)
        } else if self.in_frame_buffer(window, offset, size) {
            let mut bytes = [0; 8];
            self.vram.read(offset as usize, &mut bytes[..size.min(8)]);
            u64::from_le_bytes(bytes)
        } else {
            u64::MAX
        }
    }

    fn mmio_write(
        &mut self,
        cx: &mut DevCx<'_>,
        window: WindowId,
        offset: u64,
        size: usize,
        value: u64,
    ) {
        if window == self.legacy {
            if let Some((ram, at)) = self.text_access(cx, offset, size) {
                ram.write(at, &value.to_le_bytes()[..size.min(8)]);
                self.touch(true);
                return;
            }
            let changed = self
                .pipeline
                .write(&*self.vram, self.latches, offset, size, value);
            self.touch(changed);
        } else if window == self.registers {
            self.write_registers(offset, size, value);
            self.text_settle(cx);
        } else if self.in_frame_buffer(window, offset, size) {
            let bytes = &value.to_le_bytes()[..size.min(8)];
            self.vram.write(offset as usize, bytes);
            self.touch(true);
        }
    }
}
