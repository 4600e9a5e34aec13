//! The host's screen: the guest's picture in the middle of it, and messages.
//!
//! The frame buffer comes from the boot loader (GRUB, UEFI) or, where QEMU starts us directly, from its VGA through the Bochs
//! display interface; then the mode follows the size of the guest's picture. Without one there is the text screen at B8000h.
//! Only rows that have changed are given to it, because frame buffers are slow to write.

use crate::loader::{BootInfo, Framebuffer};
use crate::pci::Ports;
use crate::tablet::Part;
use core::fmt::{self, Write};
use hvmloader_fw::vga_text::{self, FONT_HEIGHT};
use spin::Mutex;
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};
use x86::io::{inw, outw};

/// A screen with a frame buffer.
struct Screen {
    buffer: Framebuffer,
    /// The mode can be set through the Bochs display interface.
    bochs: bool,
    /// Size of the picture that is shown.
    shown: (u32, u32),
    /// The VGA BIOS's font, 8 by 16 dots a character.
    font: Option<&'static [u8]>,
}

static SCREEN: Mutex<Option<Screen>> = Mutex::new(None);

const TEXT: u64 = 0xb_8000;
const TEXT_COLUMNS: usize = 80;
const TEXT_ROWS: usize = 25;
/// White on red.
const ALARM: u8 = 0x4f;
const ALARM_PAPER: u32 = 0xa0_0000;
const ALARM_INK: u32 = 0xff_ffff;
const FONT_WIDTH: usize = 8;
/// The least video memory that an adapter with the Bochs display interface has.
const BOCHS_MEMORY: u64 = 16 << 20;

/// Finds the frame buffer. With `window` and none from the boot loader, QEMU's VGA is switched to graphics.
pub fn init(boot: &BootInfo, window: bool) {
    let given = boot.framebuffer;
    let Some(buffer) = given.or_else(|| if window { bochs_display() } else { None }) else {
        return;
    };
    let len = if given.is_some() {
        u64::from(buffer.pitch) * u64::from(buffer.height)
    } else {
        BOCHS_MEMORY
    };
    crate::paging::map(buffer.address, buffer.address + len, true);
    log::info!(
        "screen: {}x{} at {:#x}",
        buffer.width,
        buffer.height,
        buffer.address
    );
    let font = boot
        .module(1, "vgabios")
        .and_then(|m| vga_text::find_font(m.bytes()));
    *SCREEN.lock() = Some(Screen {
        buffer,
        bochs: given.is_none(),
        shown: (0, 0),
        font,
    });
}

/// Sets 1024x768 on a VGA with the Bochs display interface (PCI 1234:1111).
fn bochs_display() -> Option<Framebuffer> {
    let vga = (0..32)
        .map(|device| DeviceFunction {
            bus: 0,
            device,
            function: 0,
        })
        .find(|&f| Ports.read_word(f, 0) == 0x1111_1234)?;
    let address = u64::from(Ports.read_word(vga, 0x10) & !0xf);
    // SAFETY: ring 0; the adapter has the display interface's ports (its PCI identity says so) and is ours.
    let version = unsafe {
        outw(0x1ce, 0);
        inw(0x1cf)
    };
    (version & 0xfff0 == 0xb0c0).then(|| bochs_mode(address, 1024, 768))
}

/// Sets a mode with 32 bits a pixel through the Bochs display interface; its screen is black. `width` is a multiple of 8.
fn bochs_mode(address: u64, width: u32, height: u32) -> Framebuffer {
    for (index, value) in [
        (4, 0),
        (1, width as u16),
        (2, height as u16),
        (3, 32),
        (4, 0x41),
    ] {
        // SAFETY: ring 0; the caller has found the adapter, which is ours.
        unsafe {
            outw(0x1ce, index);
            outw(0x1cf, value);
        }
    }
    Framebuffer {
        address,
        width,
        height,
        pitch: width * 4,
    }
}

/// Whether there is a frame buffer to draw on.
pub fn has_framebuffer() -> bool {
    SCREEN.lock().is_some()
}

/// A picture of this size is to be shown from now on: where it is another than before, the screen is black.
pub fn prepare(width: u32, height: u32) {
    if let Some(s) = SCREEN.lock().as_mut()
        && s.shown != (width, height)
    {
        s.prepare(width, height);
    }
}

/// Shows row `y` of the picture, as far as it fits in the middle.
pub fn row(y: u32, pixels: &[u32]) {
    if let Some(s) = SCREEN.lock().as_mut() {
        s.row(y, pixels);
    }
}

/// The pixel of the picture that is shown there on the screen. What is to the left of the picture or above it is at its edge. None: there
/// is no screen.
pub fn within(x: Part, y: Part) -> Option<(u32, u32)> {
    let screen = SCREEN.lock();
    let s = screen.as_ref()?;
    let pixel = |at: Part, size: u32, shown: u32| {
        let from = (size - shown.min(size)) / 2;
        at.pixel(size).saturating_sub(from)
    };
    let (f, (width, height)) = (s.buffer, s.shown);
    Some((pixel(x, f.width, width), pixel(y, f.height, height)))
}

impl Screen {
    fn row(&mut self, y: u32, pixels: &[u32]) {
        let (width, height) = self.shown;
        let f = self.buffer;
        let (w, h) = (width.min(f.width), height.min(f.height));
        let (left, top) = ((f.width - w) / 2, (f.height - h) / 2);
        if y >= h {
            return;
        }
        let row = &pixels[..pixels.len().min(w as usize)];
        // SAFETY: the frame buffer is mapped, belongs to us, and has `height` lines of at least `width` pixels.
        unsafe {
            core::ptr::copy_nonoverlapping(
                row.as_ptr(),
                f.line(top + y).add(left as usize),
                row.len(),
            )
        };
    }

    /// Blackens the screen for a picture of another size. QEMU's window takes that size where the adapter can.
    fn prepare(&mut self, width: u32, height: u32) {
        self.shown = (width, height);
        let aligned = width.next_multiple_of(8);
        if self.bochs && u64::from(aligned) * u64::from(height) * 4 <= BOCHS_MEMORY {
            self.buffer = bochs_mode(self.buffer.address, aligned, height);
        }
        self.buffer.fill(0);
    }
}

impl Framebuffer {
    fn line(&self, y: u32) -> *mut u32 {
        (self.address + u64::from(y) * u64::from(self.pitch)) as *mut u32
    }

    fn fill(&self, color: u32) {
        for y in 0..self.height {
            for x in 0..self.width {
                // SAFETY: as in `Screen::row`.
                unsafe { self.line(y).add(x as usize).write_volatile(color) };
            }
        }
    }
}

/// Writes to the screen, from the top: on the frame buffer with the guest's VGA font, or on the text screen.
struct Words {
    at: usize,
    columns: usize,
    rows: usize,
    buffer: Option<(Framebuffer, &'static [u8])>,
}

impl Words {
    fn put(&self, character: u8) {
        let (row, column) = (self.at / self.columns, self.at % self.columns);
        let Some((f, font)) = self.buffer else {
            // SAFETY: a PC's text screen; the caller keeps the index within it.
            return unsafe {
                (TEXT as *mut u16)
                    .add(self.at)
                    .write_volatile(u16::from(character) | u16::from(ALARM) << 8)
            };
        };
        let glyph = font
            .chunks_exact(FONT_HEIGHT)
            .nth(character.into())
            .unwrap_or(&[]);
        for (y, dots) in glyph.iter().enumerate() {
            for x in (0..FONT_WIDTH).filter(|x| dots << x & 0x80 != 0) {
                let line = f.line((row * FONT_HEIGHT + y) as u32);
                // SAFETY: as in `Screen::row`; rows and columns are those that fit.
                unsafe { line.add(column * FONT_WIDTH + x).write_volatile(ALARM_INK) };
            }
        }
    }
}

impl Write for Words {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for b in s.bytes() {
            if b == b'\n' {
                self.at = (self.at / self.columns + 1) * self.columns;
            } else if self.at < self.columns * self.rows {
                self.put(b);
                self.at += 1;
            }
        }
        Ok(())
    }
}

/// Shows a message. On a frame buffer without a font the screen turns red, and COM1 has the words.
pub fn message(text: &str) {
    say(format_args!("{text}\n"));
}

fn say(args: fmt::Arguments<'_>) {
    let mut words = Words {
        at: 0,
        columns: TEXT_COLUMNS,
        rows: TEXT_ROWS,
        buffer: None,
    };
    if let Some((f, font)) = SCREEN
        .try_lock()
        .and_then(|s| s.as_ref().map(|s| (s.buffer, s.font)))
    {
        f.fill(ALARM_PAPER);
        let Some(font) = font else { return };
        words.columns = f.width as usize / FONT_WIDTH;
        words.rows = f.height as usize / FONT_HEIGHT;
        words.buffer = Some((f, font));
    }
    if words.columns > 0 {
        let _ = words.write_fmt(args);
    }
}

/// Shows what of Umbra has failed.
pub fn failure(what: &dyn fmt::Display) {
    say(format_args!(
        "Umbra has failed. This is a defect of Umbra, not of the guest:\n{what}\n"
    ));
}
