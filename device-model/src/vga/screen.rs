//! What is on the screen, in short: its kind and its size.

use super::Vga;
use super::dispi::{MAX_HEIGHT, MAX_WIDTH};
use super::graphics::Shift;
use super::retrace::FRAME;
use hv_core::time::VmTime;

/// The kinds of pictures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScreenKind {
    /// Black.
    Blank,
    /// Characters.
    Text {
        /// Characters in a row: 1 to 256.
        columns: u32,
        /// Rows: 1 to 1,024; the last may be cut.
        rows: u32,
    },
    /// Sixteen colours from four planes.
    Planar,
    /// Four colours as the CGA has them.
    Cga,
    /// 256 colours: mode 13h and its relatives.
    Bytes,
    /// A VBE mode.
    Vbe {
        /// Bits of a pixel: 4, 8, 15, 16, 24 or 32.
        bpp: u32,
    },
}

/// What is on the screen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Screen {
    /// The kind of picture.
    pub kind: ScreenKind,
    /// In pixels, 1 to 2560, as the monitor has them: dots of doubled width count twice.
    pub width: u32,
    /// In pixels, 1 to 1600: scan lines, repeated ones too.
    pub height: u32,
}

impl Screen {
    /// What a screen without a mode looks like.
    const NO_MODE: (u32, u32) = (640, 480);
    /// The smallest size of a blank screen that is taken for a mode's.
    const SMALLEST: (u32, u32) = (160, 100);
}

impl Vga {
    /// What is on the screen.
    #[must_use]
    pub fn screen(&self) -> Screen {
        let mut s = self.mode();
        s.width = s.width.clamp(1, MAX_WIDTH);
        s.height = s.height.clamp(1, MAX_HEIGHT);
        // A VBE mode needs no sequencer: drivers that set one may never have heard of it.
        if !self.attr.screen_on() || self.seq.screen_off() && !self.dispi.enabled() {
            s.kind = ScreenKind::Blank;
            if s.width < Screen::SMALLEST.0 || s.height < Screen::SMALLEST.1 {
                (s.width, s.height) = Screen::NO_MODE;
            }
        }
        s
    }

    fn mode(&self) -> Screen {
        if let Some(m) = self.dispi.mode() {
            return Screen {
                kind: ScreenKind::Vbe { bpp: m.bpp },
                width: m.width,
                height: m.height,
            };
        }
        let (columns, lines) = (self.crtc.columns(), self.crtc.lines());
        if !self.gfx.is_graphics() {
            let rows = lines.div_ceil(self.crtc.row_lines() << u32::from(self.crtc.double_scan()));
            let width = (columns * self.seq.cell_dots()) << u32::from(self.seq.half_dot_clock());
            return Screen {
                kind: ScreenKind::Text { columns, rows },
                width,
                height: lines,
            };
        }
        let kind = match self.gfx.shift() {
            Shift::Planar => ScreenKind::Planar,
            Shift::Interleaved => ScreenKind::Cga,
            Shift::Bytes => ScreenKind::Bytes,
        };
        Screen {
            kind,
            width: (columns * 8) << u32::from(self.wide_dots() && kind != ScreenKind::Bytes),
            height: lines,
        }
    }

    /// Whether each pixel of a graphics mode is two dots wide.
    pub(super) fn wide_dots(&self) -> bool {
        self.gfx.shift() == Shift::Bytes || self.seq.half_dot_clock()
    }

    /// A number that differs between moments at which the screen looks different although [`generation`](Vga::generation) is
    /// the same: the phase of what blinks. Always 0 outside text.
    #[must_use]
    pub fn blink_phase(&self, now: VmTime) -> u8 {
        if self.gfx.is_graphics() || self.dispi.enabled() {
            return 0;
        }
        u8::from(cursor_hidden(now)) | u8::from(text_hidden(now)) << 1
    }
}

/// Whether a blinking cursor is in its dark half: 16 of 32 frames.
pub(super) fn cursor_hidden(now: VmTime) -> bool {
    (now.0 / FRAME) & 16 != 0
}

/// Whether blinking characters are in their dark half: 32 of 64 frames.
pub(super) fn text_hidden(now: VmTime) -> bool {
    (now.0 / FRAME) & 32 != 0
}
