//! What the screen shows: the guest's picture, or the console. It is drawn on the host's screen, and sent to the host tool.

use super::Session;
use crate::{control, screen};
use console::{PngWriter, Screen};
use device_model::vga::Painter;
use hv_core::VmTime;
use hv_core::cpu::VcpuBackend;
use protocol::{Bands, Message, Rows, Size, TextRows};

/// How often the text screen is sent to the host tool at most.
const TEXT_INTERVAL: VmTime = VmTime::from_millis(100);
const TEXT_INTERVAL_MAX: VmTime = VmTime::from_millis(5000);
/// How often the screen is drawn at most.
const DRAW_INTERVAL: VmTime = VmTime::from_millis(60);
const DRAW_INTERVAL_MAX: VmTime = VmTime::from_millis(500);
/// How often a screen that does not change is looked at.
const LOOK_INTERVAL_MAX: VmTime = VmTime::from_millis(240);
/// Drawing and sending take at most one part each in this many of the time.
const SHARE: u64 = 5;

/// What a picture is of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// The guest's screen, with its generation.
    Guest(u64),
    /// The console's, likewise.
    Console(u64),
    /// Nothing has been shown.
    Nothing,
}

/// What has been shown, and when.
pub(super) struct View {
    window: bool,
    painter: Painter,
    png: PngWriter,
    /// Columns, rows and checksum of the text screen that was sent last; no columns stand for graphics.
    text: Option<(Option<u32>, u16, u64)>,
    /// The pause between two text screens, likewise.
    text_interval: VmTime,
    sent: (Shown, VmTime),
    drawn: VmTime,
    /// What of the console the host's screen shows, if it shows the console.
    console: Option<u64>,
    /// The pause between two pictures: a slow screen must not keep the guest from running.
    draw_interval: VmTime,
    /// Characters for the console: the VGA BIOS's.
    font: &'static [u8],
}

impl View {
    /// Nothing has been shown. With `window`, it is to be drawn on the host's screen.
    pub fn new(window: bool, font: Option<&'static [u8]>) -> Self {
        Self {
            window: window && screen::has_framebuffer(),
            painter: Painter::default(),
            png: PngWriter::default(),
            text: None,
            text_interval: TEXT_INTERVAL,
            sent: (Shown::Nothing, VmTime(0)),
            drawn: VmTime(0),
            console: None,
            draw_interval: DRAW_INTERVAL,
            font: font.unwrap_or_default(),
        }
    }

    /// Something was typed or the mouse moved: the answer is to be seen at once.
    pub fn hurry(&mut self) {
        self.draw_interval = self.draw_interval.min(DRAW_INTERVAL);
    }

    /// Whether the host's screen shows it.
    pub fn on_host(&self) -> bool {
        self.window
    }

    /// Another guest's screen is shown from now on.
    pub fn forget(&mut self) {
        self.sent = (Shown::Nothing, VmTime(0));
        self.text = None;
        self.painter.forget();
        self.hurry();
    }
}

impl<B: VcpuBackend> Session<B> {
    /// What there is to be seen, and whether it changes without a new generation.
    fn shown(&self) -> (Shown, bool) {
        if self.console.on_screen() {
            return (Shown::Console(self.console.screen.generation()), false);
        }
        let vga = self.vms[self.focus].guest.vga.lock();
        (Shown::Guest(vga.generation()), vga.is_live())
    }

    /// Shows what has changed, and returns when to look again.
    pub(super) fn show(&mut self, now: VmTime) -> VmTime {
        let mut next = VmTime::NEVER;
        if !control::is_open() && !self.view.window {
            return next;
        }
        let (shown, live) = self.shown();
        if control::is_open() && (live || shown != self.view.sent.0) {
            let due = self.view.sent.1 + self.view.text_interval;
            if now >= due {
                self.view.sent = (shown, now);
                self.send_text();
            } else {
                next = next.min(due);
            }
        }
        if self.view.window {
            if now >= self.view.drawn + self.view.draw_interval {
                self.draw();
                self.view.drawn = now;
            }
            next = next.min(self.view.drawn + self.view.draw_interval);
        } else {
            // Changes are looked at a few times a second while the guest runs.
            next = next.min(now + TEXT_INTERVAL);
        }
        next
    }

    /// The last that there is to be seen.
    pub(super) fn show_last(&mut self) {
        self.send_text();
        if self.view.window {
            self.draw();
        }
    }

    /// Sends the text screen, if it is not the one that was sent last. It is read twice and kept nowhere: a guest's may be large.
    fn send_text(&mut self) {
        if !control::is_open() {
            return;
        }
        let before = self.time();
        let vm = &self.vms[self.focus];
        let vga = vm.guest.vga.lock();
        let (console, screen) = (self.console.on_screen(), &self.console.screen);
        let text = |row: &mut dyn FnMut(&[u8])| {
            if console {
                screen.cells().chunks(console::COLUMNS).for_each(row);
                return Some(console::COLUMNS as u32);
            }
            vga.text_rows(row)
        };
        let (mut sum, mut rows) = (SUM, 0);
        let columns = text(&mut |row| {
            sum = summed(sum, row);
            rows += 1;
        });
        let shown = Some((columns, rows, sum));
        if core::mem::replace(&mut self.view.text, shown) == shown {
            return;
        }
        let send = &mut |message: Message<'_>| control::send(vm.number, &message);
        let Some(columns) = columns else {
            return send(Message::Text(TextRows::NONE));
        };
        let mut parts = Rows::begin(columns as u16, rows, &mut self.buffer);
        text(&mut |row| parts.row(row, send));
        parts.end(send);
        drop(vga);
        let spent = self.time() - before;
        self.view.text_interval =
            VmTime(spent.0.saturating_mul(SHARE)).clamp(TEXT_INTERVAL, TEXT_INTERVAL_MAX);
    }

    /// Draws on the host's screen what has changed.
    fn draw(&mut self) {
        let before = self.time();
        let changed = self.paint();
        let spent = self.time() - before;
        // What stands still is looked at less and less often.
        let least = if changed {
            DRAW_INTERVAL
        } else {
            VmTime(self.view.draw_interval.0 * 2).min(LOOK_INTERVAL_MAX)
        };
        self.view.draw_interval =
            VmTime(spent.0.saturating_mul(SHARE)).clamp(least, DRAW_INTERVAL_MAX);
    }

    fn paint(&mut self) -> bool {
        let View {
            painter,
            console,
            font,
            ..
        } = &mut self.view;
        if self.console.on_screen() {
            let generation = self.console.screen.generation();
            if console.replace(generation) == Some(generation) {
                return false;
            }
            let (size, text) = (Screen::size(), &self.console.screen);
            screen::prepare(size.0, size.1);
            let draw = &mut |y, row: &mut [u32]| text.draw_row(font, y, row);
            painter.paint(size, draw, &mut screen::row);
            return true;
        }
        *console = None;
        let vm = &self.vms[self.focus];
        let vga = vm.guest.vga.lock();
        let size = vga.screen();
        screen::prepare(size.width, size.height);
        vga.paint(vm.time(), painter, &mut screen::row)
    }

    /// Sends the picture that there is to be seen to the host tool.
    pub(super) fn send_picture(&mut self) {
        let vm = &self.vms[self.focus];
        let send = &mut |message: Message<'_>| control::send(vm.number, &message);
        let vga = vm.guest.vga.lock();
        let (width, height) = if self.console.on_screen() {
            Screen::size()
        } else {
            let screen = vga.screen();
            (screen.width, screen.height)
        };
        let Some(size) = Size::new(width, height) else {
            return log::warn!("a picture of {width}x{height} cannot be sent");
        };
        let mut bands = Bands::begin(size, &mut self.buffer, send);
        if self.console.on_screen() {
            let mut row = [0; Screen::size().0 as usize];
            for y in 0..height {
                self.console.screen.draw_row(self.view.font, y, &mut row);
                bands.row(&row, send);
            }
        } else {
            vga.draw(vm.time(), &mut self.view.painter, &mut |_, row| {
                bands.row(row, send);
            });
        }
        bands.end(send);
    }

    /// Writes the guest's picture to the log, as a PNG in base64.
    pub(super) fn log_picture(&mut self, line: &mut dyn FnMut(&str)) {
        let vm = &self.vms[self.focus];
        let vga = vm.guest.vga.lock();
        let View { painter, png, .. } = &mut self.view;
        let size = vga.screen();
        png.begin(size.width, size.height, line);
        vga.draw(vm.time(), painter, &mut |_, row| png.row(row, line));
        png.end(line);
    }
}

// What guests and the console show can be sent.
const _: () = {
    use device_model::vga::{MAX_HEIGHT, MAX_WIDTH};
    assert!(MAX_WIDTH <= protocol::MAX_WIDTH as u32 && MAX_HEIGHT <= protocol::MAX_HEIGHT as u32);
    let (columns, rows) = (protocol::MAX_COLUMNS as usize, protocol::MAX_ROWS as usize);
    assert!(console::COLUMNS <= columns && console::ROWS <= rows);
};

/// The checksum of nothing, and a prime: FNV-1a (RFC 9923) in 64 bits.
const SUM: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

/// The checksum `sum` with `bytes` behind what it is of.
fn summed(sum: u64, bytes: &[u8]) -> u64 {
    let step = |sum: u64, &byte: &u8| (sum ^ u64::from(byte)).wrapping_mul(PRIME);
    bytes.iter().fold(sum, step)
}
