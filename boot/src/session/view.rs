//! What the screen shows: the guest's picture, or the console. It is drawn on the host's screen, and sent to the host tool.

use super::Session;
use crate::{control, screen};
use alloc::vec::Vec;
use console::Screen;
use device_model::vga::{Picture, TextScreen};
use hv_core::VmTime;
use hv_core::cpu::VcpuBackend;

/// How often the text screen is sent to the host tool at most.
const TEXT_INTERVAL: VmTime = VmTime::from_millis(100);
/// How often the screen is drawn at most.
const DRAW_INTERVAL: VmTime = VmTime::from_millis(60);
const DRAW_INTERVAL_MAX: VmTime = VmTime::from_millis(500);
/// How often a screen that does not change is looked at.
const LOOK_INTERVAL_MAX: VmTime = VmTime::from_millis(240);
/// Drawing takes at most one part in this many of the time.
const DRAW_SHARE: u64 = 5;

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
    picture: Picture,
    text: TextScreen,
    /// The last text frame that was sent.
    text_sent: Vec<u8>,
    sent: (Shown, VmTime),
    drawn: VmTime,
    /// What of the console the picture shows, if it shows the console.
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
            picture: Picture::default(),
            text: TextScreen::default(),
            text_sent: Vec::new(),
            sent: (Shown::Nothing, VmTime(0)),
            drawn: VmTime(0),
            console: None,
            draw_interval: DRAW_INTERVAL,
            font: font.unwrap_or_default(),
        }
    }

    /// Sends a text screen, if it is not the one that was sent last.
    fn send_frame(&mut self, vm: u8, columns: usize, rows: usize, cells: &[u8]) {
        let mut frame = Vec::with_capacity(4 + cells.len());
        frame.extend_from_slice(&(columns as u16).to_le_bytes());
        frame.extend_from_slice(&(rows as u16).to_le_bytes());
        frame.extend_from_slice(cells);
        if frame != self.text_sent {
            control::send(vm, b'T', &frame);
            self.text_sent = frame;
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
        self.text_sent.clear();
        self.picture.forget();
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
            let due = self.view.sent.1 + TEXT_INTERVAL;
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

    fn send_text(&mut self) {
        if !control::is_open() {
            return;
        }
        let vm = &self.vms[self.focus];
        if self.console.on_screen() {
            let cells = self.console.screen.cells();
            let (columns, rows) = (console::COLUMNS, console::ROWS);
            return self.view.send_frame(vm.number, columns, rows, cells);
        }
        if !vm.guest.vga.lock().text_screen(&mut self.view.text) {
            // No text on the screen: that is a screen of no columns and no rows.
            if self.view.text_sent.len() != 4 {
                control::send(vm.number, b'T', &[0; 4]);
                self.view.text_sent = [0; 4].into();
            }
            return;
        }
        let text = core::mem::take(&mut self.view.text);
        let (columns, rows) = (text.cols as usize, text.rows as usize);
        self.view.send_frame(vm.number, columns, rows, &text.chars);
        self.view.text = text;
    }

    /// Renders what there is to be seen, and tells whether it has changed since. None: there is no memory for a picture of its size.
    fn render(&mut self) -> Option<bool> {
        if !self.console.on_screen() {
            return self.render_guest();
        }
        let generation = self.console.screen.generation();
        let same = self.view.console.replace(generation) == Some(generation);
        if !same {
            let (width, height) = Screen::size();
            let (screen, font) = (&self.console.screen, self.view.font);
            let picture = &mut self.view.picture;
            picture.replace(width, height, |pixels| screen.draw(font, pixels));
        }
        Some(!same)
    }

    fn render_guest(&mut self) -> Option<bool> {
        self.view.console = None;
        let vm = &self.vms[self.focus];
        let vga = vm.guest.vga.lock();
        let s = vga.screen();
        let pixels = s.width as usize * s.height as usize;
        let more = pixels.saturating_sub(self.view.picture.pixels.len());
        if self.view.picture.pixels.try_reserve_exact(more).is_err() {
            log::warn!("no memory for a picture of {}x{}", s.width, s.height);
            return None;
        }
        Some(vga.picture(vm.time(), &mut self.view.picture))
    }

    fn draw(&mut self) {
        let before = self.time();
        let changed = self.render();
        if changed.is_some() {
            screen::draw(&self.view.picture);
        }
        let spent = self.time() - before;
        // What stands still is looked at less and less often.
        let least = match changed {
            Some(false) => VmTime(self.view.draw_interval.0 * 2).min(LOOK_INTERVAL_MAX),
            _ => DRAW_INTERVAL,
        };
        self.view.draw_interval =
            VmTime(spent.0.saturating_mul(DRAW_SHARE)).clamp(least, DRAW_INTERVAL_MAX);
    }

    pub(super) fn send_picture(&mut self) {
        let vm = self.vm().number;
        if self.render().is_none() {
            return control::send(vm, b'S', &[0; 8]);
        }
        let p = &self.view.picture;
        // Counted first, then sent as it is made: noise takes more memory than the picture itself.
        let mut runs = 0;
        each_run(&p.pixels, |_, _| runs += 1);
        control::send_parts(vm, b'S', 8 + 5 * runs, |send| {
            send(&p.width.to_le_bytes());
            send(&p.height.to_le_bytes());
            each_run(&p.pixels, |len, color| {
                let ([low, high], [b, g, r, _]) = (len.to_le_bytes(), color.to_le_bytes());
                send(&[low, high, r, g, b]);
            });
        });
    }

    /// Writes the guest's picture to the log, as a PNG in base64. False: there is no memory for it.
    pub(super) fn log_picture(&mut self, mut line: impl FnMut(&str)) -> bool {
        let there = self.render_guest();
        if there.is_some() {
            let p = &self.view.picture;
            console::write_png(p.width, &p.pixels, &mut line);
        }
        there.is_some()
    }
}

/// Calls `f` with the length and colour of every run of equal pixels.
fn each_run(pixels: &[u32], mut f: impl FnMut(u16, u32)) {
    for run in pixels.chunk_by(|a, b| a == b) {
        for piece in run.chunks(usize::from(u16::MAX)) {
            f(piece.len() as u16, piece[0]);
        }
    }
}
