//! The Bochs display interface (DISPI): VBE modes by writing width, height and depth.
//!
//! Bochs, "VBE Display API" (version B0C5h), and QEMU docs/specs/standard-vga, "Standard VGA". Whatever is written while a mode
//! is enabled is bent into one that video memory can show; what is written before is stored and bent when it is enabled.

use bitflags::bitflags;

/// Register indices.
pub(super) mod reg {
    pub const ID: u16 = 0;
    pub const XRES: u16 = 1;
    pub const YRES: u16 = 2;
    pub const BPP: u16 = 3;
    pub const ENABLE: u16 = 4;
    pub const BANK: u16 = 5;
    pub const VIRT_WIDTH: u16 = 6;
    pub const VIRT_HEIGHT: u16 = 7;
    pub const X_OFFSET: u16 = 8;
    pub const Y_OFFSET: u16 = 9;
    pub const VIDEO_MEMORY_64K: u16 = 10;
}

/// The first and the last version of the interface: what the ID register accepts.
const IDS: core::ops::RangeInclusive<u16> = 0xb0c0..=0xb0c5;

/// The widest mode, in pixels.
pub const MAX_WIDTH: u32 = 2560;
/// The highest mode, in pixels.
pub const MAX_HEIGHT: u32 = 1600;
/// The deepest mode, in bits.
const MAX_BPP: u16 = 32;
/// Banks are of 64 KiB.
const BANK_SHIFT: u32 = 16;

bitflags! {
    /// The enable register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(super) struct Enable: u16 {
        const ENABLED = 1 << 0;
        /// Width, height and depth read as the largest possible.
        const GETCAPS = 1 << 1;
        const DAC_8BIT = 1 << 5;
        const LFB = 1 << 6;
        const NO_CLEAR = 1 << 7;
    }
}

/// What a write has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// Nothing that anybody sees.
    Nothing,
    /// The bank.
    Bank,
    /// The picture.
    Picture,
    /// A mode was enabled; whether video memory is to be cleared.
    Enabled {
        /// Whether the screen is to be cleared.
        clear: bool,
    },
    /// The mode was disabled: VGA drives the screen.
    Disabled,
}

/// The mode that is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mode {
    /// In pixels: a multiple of 8 up to [`MAX_WIDTH`].
    pub width: u32,
    /// In pixels: 1 to [`MAX_HEIGHT`].
    pub height: u32,
    /// 4, 8, 15, 16, 24 or 32.
    pub bpp: u32,
    /// From line to line, in bytes of video memory.
    pub pitch: u32,
    /// Where the picture begins, in bytes of video memory.
    pub start: u32,
}

/// The interface's registers.
#[derive(Debug)]
pub(super) struct Dispi {
    index: u16,
    id: u16,
    xres: u16,
    yres: u16,
    bpp: u16,
    enable: Enable,
    bank: u16,
    virt_width: u16,
    x_offset: u16,
    y_offset: u16,
    /// Video memory in bytes.
    vram: u32,
}

impl Dispi {
    /// The registers at power-on, for `vram` bytes of video memory. The mode that they describe is off, yet sane: Windows 98's
    /// VBE driver divides by what it finds.
    pub fn new(vram: usize) -> Self {
        Self {
            index: 0,
            id: *IDS.end(),
            xres: 640,
            yres: 480,
            bpp: 8,
            enable: Enable::empty(),
            bank: 0,
            virt_width: 640,
            x_offset: 0,
            y_offset: 0,
            vram: u32::try_from(vram).unwrap_or(1 << 31),
        }
    }

    pub fn index(&self) -> u16 {
        self.index
    }

    pub fn set_index(&mut self, value: u16) {
        self.index = value;
    }

    /// Whether a VBE mode is on.
    pub fn enabled(&self) -> bool {
        self.enable.contains(Enable::ENABLED)
    }

    /// Whether DAC components have eight bits.
    pub fn dac_8bit(&self) -> bool {
        self.enable.contains(Enable::DAC_8BIT)
    }

    /// Whether the mode that is on has four planes.
    pub fn planar(&self) -> bool {
        self.bpp == 4
    }

    /// What the bank adds to an address in the legacy window. In a planar mode that is an address in the planes.
    pub fn bank_base(&self) -> u32 {
        if self.enabled() {
            u32::from(self.bank) << BANK_SHIFT
        } else {
            0
        }
    }

    /// The mode, if one is on.
    pub fn mode(&self) -> Option<Mode> {
        self.enabled().then(|| {
            let pitch = self.pitch();
            let start = u32::from(self.y_offset) * pitch + self.bytes(u32::from(self.x_offset));
            Mode {
                width: self.xres.into(),
                height: self.yres.into(),
                bpp: self.bpp.into(),
                pitch,
                start,
            }
        })
    }

    /// Bits that a pixel takes in memory.
    fn bits(&self) -> u32 {
        match self.bpp {
            4 => 4,
            15 | 16 => 16,
            24 => 24,
            32 => 32,
            _ => 8,
        }
    }

    fn bytes(&self, pixels: u32) -> u32 {
        pixels * self.bits() / 8
    }

    fn pitch(&self) -> u32 {
        self.bytes(u32::from(self.virt_width)).max(1)
    }

    fn virt_height(&self) -> u16 {
        u16::try_from((self.vram / self.pitch()).max(1)).unwrap_or(u16::MAX)
    }

    /// Reads register `index` as the guest sees it.
    pub fn read(&self, index: u16) -> u16 {
        let caps = self.enable.contains(Enable::GETCAPS);
        match index {
            reg::XRES if caps => MAX_WIDTH as u16,
            reg::YRES if caps => MAX_HEIGHT as u16,
            reg::BPP if caps => MAX_BPP,
            reg::ID => self.id,
            reg::XRES => self.xres,
            reg::YRES => self.yres,
            reg::BPP => self.bpp,
            reg::ENABLE => self.enable.bits(),
            reg::BANK => self.bank,
            // Never 0: see `new`.
            reg::VIRT_WIDTH if self.virt_width == 0 => self.xres.max(8),
            reg::VIRT_WIDTH => self.virt_width,
            reg::VIRT_HEIGHT => self.virt_height(),
            reg::X_OFFSET => self.x_offset,
            reg::Y_OFFSET => self.y_offset,
            reg::VIDEO_MEMORY_64K => u16::try_from(self.vram >> BANK_SHIFT).unwrap_or(u16::MAX),
            _ => 0,
        }
    }

    /// Writes register `index`.
    pub fn write(&mut self, index: u16, value: u16) -> Change {
        let before = self.mode();
        match index {
            reg::ID if IDS.contains(&value) => self.id = value,
            reg::XRES => self.xres = value,
            reg::YRES => self.yres = value,
            reg::BPP => self.bpp = value,
            reg::ENABLE => return self.write_enable(Enable::from_bits_truncate(value)),
            reg::BANK => {
                // In a planar mode a bank is 64 KiB of each of the four planes.
                let banks = if self.planar() {
                    self.vram >> (BANK_SHIFT + 2)
                } else {
                    self.vram >> BANK_SHIFT
                };
                self.bank = (u32::from(value) % banks.max(1)) as u16;
                return Change::Bank;
            }
            reg::VIRT_WIDTH => self.virt_width = value,
            reg::X_OFFSET => self.x_offset = value,
            reg::Y_OFFSET => self.y_offset = value,
            _ => return Change::Nothing,
        }
        if self.enabled() {
            self.bend();
        }
        if self.mode() == before {
            Change::Nothing
        } else {
            Change::Picture
        }
    }

    fn write_enable(&mut self, value: Enable) -> Change {
        let old = core::mem::replace(&mut self.enable, value);
        match (
            old.contains(Enable::ENABLED),
            value.contains(Enable::ENABLED),
        ) {
            (false, true) => {
                self.bank = 0;
                self.virt_width = 0;
                self.x_offset = 0;
                self.y_offset = 0;
                self.bend();
                Change::Enabled {
                    clear: !value.contains(Enable::NO_CLEAR),
                }
            }
            (true, false) => {
                self.bank = 0;
                Change::Disabled
            }
            _ if (old ^ value).contains(Enable::DAC_8BIT) => Change::Picture,
            _ => Change::Nothing,
        }
    }

    /// Makes the mode one that video memory can show: first the size shown, then the width in memory, then the offsets.
    fn bend(&mut self) {
        if !matches!(self.bpp, 4 | 8 | 15 | 16 | 24 | 32) {
            self.bpp = 8;
        }
        let pixels = u64::from(self.vram) * 8 / u64::from(self.bits());
        let width = u64::from(self.xres & !7).clamp(8, u64::from(MAX_WIDTH));
        let height =
            u64::from(self.yres).clamp(1, (pixels / width).clamp(1, u64::from(MAX_HEIGHT)));
        let widest = ((pixels / height) & !7).clamp(width, 0xfff8);
        self.xres = width as u16;
        self.yres = height as u16;
        self.virt_width = u64::from(self.virt_width & !7).clamp(width, widest) as u16;
        if self.x_offset >= self.virt_width {
            self.x_offset = 0;
        }
        self.y_offset = self
            .y_offset
            .min(self.virt_height().saturating_sub(self.yres));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB16: usize = 16 << 20;

    fn set_mode(d: &mut Dispi, x: u16, y: u16, bpp: u16) -> Change {
        d.write(reg::ENABLE, 0);
        d.write(reg::XRES, x);
        d.write(reg::YRES, y);
        d.write(reg::BPP, bpp);
        d.write(reg::ENABLE, 0x41)
    }

    #[test]
    fn seavgabios_probes_the_version() {
        let mut d = Dispi::new(MIB16);
        d.write(reg::ID, 0xb0c0);
        assert_eq!(d.read(reg::ID), 0xb0c0);
        d.write(reg::ID, 0xb0c5);
        d.write(reg::ID, 0xb0c6);
        assert_eq!(d.read(reg::ID), 0xb0c5);
        assert_eq!(d.read(reg::VIDEO_MEMORY_64K), 256);
    }

    #[test]
    fn getcaps_reads_maxima_and_does_not_disturb_the_mode() {
        let mut d = Dispi::new(MIB16);
        set_mode(&mut d, 1024, 768, 32);
        assert_eq!(d.write(reg::ENABLE, 0x43), Change::Nothing);
        assert_eq!([1, 2, 3].map(|i| d.read(i)), [2560, 1600, 32]);
        d.write(reg::ENABLE, 0x41);
        assert_eq!([1, 2, 3].map(|i| d.read(i)), [1024, 768, 32]);
    }

    #[test]
    fn enabling_sets_the_virtual_size_and_clears_the_offsets() {
        let mut d = Dispi::new(MIB16);
        d.write(reg::X_OFFSET, 5);
        d.write(reg::VIRT_WIDTH, 4000);
        assert_eq!(
            set_mode(&mut d, 1024, 768, 32),
            Change::Enabled { clear: true }
        );
        assert_eq!([6, 7, 8, 9].map(|i| d.read(i)), [1024, 4096, 0, 0]);
    }

    #[test]
    fn width_is_a_multiple_of_eight_within_limits() {
        let mut d = Dispi::new(MIB16);
        for (x, seen) in [(1366, 1360), (0, 8), (7, 8), (65_535, 2560)] {
            set_mode(&mut d, x, 480, 8);
            assert_eq!(d.read(reg::XRES), seen, "{x}");
        }
    }

    #[test]
    fn the_largest_mode_fits_16_mib() {
        let mut d = Dispi::new(MIB16);
        set_mode(&mut d, 65_535, 65_535, 32);
        let m = d.mode().unwrap();
        assert_eq!((m.width, m.height), (2560, 1600));
        assert!(m.pitch * m.height <= MIB16 as u32);
    }

    #[test]
    fn height_is_bounded_by_video_memory() {
        let mut d = Dispi::new(1 << 20);
        set_mode(&mut d, 1024, 768, 32);
        assert_eq!(d.read(reg::YRES), 256);
    }

    #[test]
    fn virtual_size_is_never_zero() {
        let mut d = Dispi::new(MIB16);
        d.write(reg::VIRT_WIDTH, 0);
        assert_ne!(d.read(reg::VIRT_WIDTH), 0);
        set_mode(&mut d, 640, 480, 16);
        d.write(reg::VIRT_WIDTH, 0);
        d.write(reg::VIRT_HEIGHT, 0);
        assert_eq!(d.read(reg::VIRT_WIDTH), 640);
        assert_ne!(d.read(reg::VIRT_HEIGHT), 0);
    }

    #[test]
    fn offsets_keep_the_picture_within_video_memory() {
        let mut d = Dispi::new(MIB16);
        set_mode(&mut d, 640, 480, 8);
        d.write(reg::Y_OFFSET, 480);
        assert_eq!(d.mode().unwrap().start, 480 * 640);
        d.write(reg::Y_OFFSET, 65_535);
        let m = d.mode().unwrap();
        assert!(m.start + m.pitch * m.height <= MIB16 as u32);
    }

    #[test]
    fn bank_wraps_at_the_end_of_video_memory() {
        let mut d = Dispi::new(MIB16);
        set_mode(&mut d, 640, 480, 8);
        d.write(reg::BANK, 257);
        assert_eq!((d.read(reg::BANK), d.bank_base()), (1, 0x1_0000));
        d.write(reg::ENABLE, 0);
        assert_eq!(d.bank_base(), 0);
    }
}
