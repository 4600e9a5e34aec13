//! The host's screen: the guest's picture in a window of it, and messages.
//!
//! The frame buffer comes from the boot loader (GRUB, UEFI) or, where QEMU starts us directly, from its VGA through the Bochs
//! display interface. Without one there is the text screen at B8000h.

use crate::loader::{BootInfo, Framebuffer};
use crate::pci::Ports;
use core::fmt::{self, Write};
use core::panic::PanicInfo;
use spin::Mutex;
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};
use x86::io::{inw, outw};

static SCREEN: Mutex<Option<Framebuffer>> = Mutex::new(None);

const TEXT: u64 = 0xb_8000;
const TEXT_COLUMNS: usize = 80;
const TEXT_ROWS: usize = 25;
/// White on red.
const ALARM: u8 = 0x4f;

/// Finds the frame buffer. With `window` and none from the boot loader, QEMU's VGA is switched to graphics.
pub fn init(boot: &BootInfo, window: bool) {
    let fb = boot.framebuffer.or_else(|| if window { bochs_display() } else { None });
    if let Some(f) = fb {
        let len = u64::from(f.pitch) * u64::from(f.height);
        crate::paging::map(f.address, f.address + len, true);
        log::info!("screen: {}x{} at {:#x}", f.width, f.height, f.address);
    }
    *SCREEN.lock() = fb;
}

/// Sets 1024x768 with 32 bits on a VGA with the Bochs display interface (PCI 1234:1111).
fn bochs_display() -> Option<Framebuffer> {
    let vga = (0..32).map(|device| DeviceFunction { bus: 0, device, function: 0 }).find(|&f| Ports.read_word(f, 0) == 0x1111_1234)?;
    let address = u64::from(Ports.read_word(vga, 0x10) & !0xf);
    let (width, height) = (1024u32, 768u32);
    // SAFETY: ring 0; the adapter has the display interface's ports (its PCI identity says so) and is ours.
    unsafe {
        for (index, value) in [(4, 0), (1, width as u16), (2, height as u16), (3, 32), (4, 0x41)] {
            outw(0x1ce, index);
            outw(0x1cf, value);
        }
        outw(0x1ce, 0);
        if inw(0x1cf) & 0xfff0 != 0xb0c0 {
            return None;
        }
    }
    Some(Framebuffer { address, width, height, pitch: width * 4 })
}

/// Whether there is a frame buffer to draw on.
pub fn has_framebuffer() -> bool {
    SCREEN.lock().is_some()
}

/// Draws a picture in the middle, as far as it fits.
pub fn draw(width: u32, height: u32, pixels: &[u32]) {
    let Some(f) = *SCREEN.lock() else { return };
    let (w, h) = (width.min(f.width), height.min(f.height));
    let (left, top) = ((f.width - w) / 2, (f.height - h) / 2);
    for y in 0..f.height {
        let line = f.address + u64::from(y) * u64::from(f.pitch);
        let row = y.checked_sub(top).filter(|&r| r < h).and_then(|r| pixels.get((r * width) as usize..(r * width + w) as usize));
        // SAFETY: the frame buffer is mapped, belongs to us, and has `height` lines of at least `width` pixels.
        unsafe {
            match row {
                Some(row) => {
                    core::ptr::write_bytes(line as *mut u32, 0, left as usize);
                    core::ptr::copy_nonoverlapping(row.as_ptr(), (line as *mut u32).add(left as usize), row.len());
                    let right = (left + w) as usize;
                    core::ptr::write_bytes((line as *mut u32).add(right), 0, f.width as usize - right);
                }
                None => core::ptr::write_bytes(line as *mut u32, 0, f.width as usize),
            }
        }
    }
}

/// Writes to the text screen, from the top.
struct TextScreen {
    at: usize,
}

impl Write for TextScreen {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for b in s.bytes() {
            if b == b'\n' {
                self.at = (self.at / TEXT_COLUMNS + 1) * TEXT_COLUMNS;
            } else if self.at < TEXT_COLUMNS * TEXT_ROWS {
                // SAFETY: a PC's text screen; the index is within it.
                unsafe { ((TEXT as *mut u16).add(self.at)).write_volatile(u16::from(b) | u16::from(ALARM) << 8) };
                self.at += 1;
            }
        }
        Ok(())
    }
}

/// Shows a message. On a frame buffer the firmware's font is not at hand, so the screen turns red and COM1 has the words.
pub fn message(text: &str) {
    say(format_args!("{text}\n"));
}

fn say(args: fmt::Arguments<'_>) {
    match SCREEN.try_lock().and_then(|s| *s) {
        Some(f) => {
            for y in 0..f.height {
                for x in 0..f.width {
                    // SAFETY: as in `draw`.
                    unsafe { ((f.address + u64::from(y) * u64::from(f.pitch)) as *mut u32).add(x as usize).write_volatile(0xa0_0000) };
                }
            }
        }
        None => {
            let _ = TextScreen { at: 0 }.write_fmt(args);
        }
    }
}

/// The panic screen.
pub fn panic(info: &PanicInfo<'_>) {
    say(format_args!("Umbra has failed. This is a defect of Umbra, not of the guest:\n{info}\n"));
}
