//! Runs the guest: lets host interrupts in, serves the control channel and the screen, resets and stops.

use crate::clock::{self};
use crate::control::{self, Request};
use crate::guest::{Guest, SecondStage};
use crate::interrupts::{self, TIMER_FIRED};
use crate::loader::BootInfo;
use crate::options::{Options, PagingChoice};
use crate::{keyboard, memory, net, screen};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use device_model::vga::{Picture, TextScreen};
use hv_core::VmTime;
use hv_core::cpu::VcpuBackend;
use hv_core::device::PowerAction;
use hv_core::mmu::Mmu;
use hv_core::record::Recorder;
use hv_core::stats::Facts;
use hv_core::time::Clock;
use hv_core::vcpu::Stop;

/// How often the text screen is sent to the host tool at most.
const TEXT_INTERVAL: VmTime = VmTime::from_millis(100);
/// How often the screen is drawn at most.
const DRAW_INTERVAL: VmTime = VmTime::from_millis(60);
const DRAW_INTERVAL_MAX: VmTime = VmTime::from_millis(500);
/// Drawing takes at most one part in this many of the time.
const DRAW_SHARE: u64 = 5;
/// How long bytes of the guest's COM1 wait for company.
const CONSOLE_INTERVAL: VmTime = VmTime::from_millis(20);
/// Resets with less than this between them are a storm.
const RESET_PAUSE: VmTime = VmTime::from_millis(500);
/// Resets without a pause between them before the guest is called stuck.
const RESET_STORM: u32 = 50;

/// A running guest.
pub struct Session<B: VcpuBackend> {
    guest: Guest<B>,
    window: bool,
    picture: Picture,
    text: TextScreen,
    /// The last text frame that was sent.
    text_sent: Vec<u8>,
    /// Generation of the screen that was sent, and when.
    sent: (u64, VmTime),
    drawn: (u64, VmTime),
    /// The pause between two pictures: a slow screen must not keep the guest from running.
    draw_interval: VmTime,
    /// Keys that the guest's keyboard had no room for.
    keys: Vec<u8>,
    started: u64,
    halted_ticks: u64,
    /// Resets in quick succession, and the last one.
    resets: u32,
    last_reset: VmTime,
    /// When nested and shadow paging took turns last.
    switched: VmTime,
}

/// What became of the session.
enum Verdict {
    Continue,
    Stopped,
    Quit,
}

impl<B: VcpuBackend> Session<B> {
    /// A guest, not yet started.
    ///
    /// # Errors
    /// A sentence that says what is missing.
    pub fn new(
        boot: &BootInfo,
        options: &Options,
        cpu: B,
        second_stage: Option<SecondStage>,
    ) -> Result<Self, String> {
        let mut guest = Guest::new(boot, options, cpu, second_stage)?;
        guest.cpu.service_at = VmTime(0);
        guest.cpu.recorder = (options.record != 0).then(|| Box::new(Recorder::new(options.record)));
        log::info!(
            "guest: {} MiB of RAM; Umbra itself uses {} KiB",
            guest.memory_size >> 20,
            memory::own() >> 10
        );
        Ok(Self {
            guest,
            window: options.window && screen::has_framebuffer(),
            picture: Picture::default(),
            text: TextScreen::default(),
            text_sent: Vec::new(),
            sent: (0, VmTime(0)),
            drawn: (u64::MAX, VmTime(0)),
            draw_interval: DRAW_INTERVAL,
            keys: Vec::new(),
            started: clock::ticks(),
            halted_ticks: 0,
            resets: 0,
            last_reset: VmTime(0),
            switched: VmTime(0),
        })
    }

    /// Runs the guest until it is switched off or cannot go on, then serves the host tool until it says goodbye.
    pub fn run(&mut self) {
        loop {
            let verdict = match self.guest.cpu.run() {
                // Bochs 2.7 does not leave a guest for a host interrupt while the guest's interrupt flag is clear: those are let
                // in when service is due.
                Stop::HostInterrupt | Stop::Service => {
                    interrupts::window();
                    self.service()
                }
                Stop::Idle(_) => self.idle(),
                Stop::Power(PowerAction::Reset) => self.reset("the guest reset the machine"),
                Stop::TripleFault => {
                    let mut dump = String::new();
                    self.guest.cpu.cpu.dump(&mut dump);
                    log::warn!("the guest's CPU shut down (triple fault):\n{dump}");
                    self.reset("the guest's CPU shut down (triple fault)")
                }
                Stop::Power(PowerAction::PowerOff) => {
                    log::info!("the guest switched the machine off");
                    self.finish_output();
                    control::event("poweroff");
                    Verdict::Stopped
                }
                Stop::Fatal(why) => {
                    let mut dump = String::new();
                    self.guest.cpu.cpu.dump(&mut dump);
                    log::error!("the guest cannot go on: {why}\n{dump}");
                    self.finish_output();
                    control::event(&alloc::format!("fatal: {why}"));
                    Verdict::Stopped
                }
            };
            match verdict {
                Verdict::Continue => {}
                Verdict::Stopped => return self.linger(),
                Verdict::Quit => return control::event("bye"),
            }
        }
    }

    /// The guest has stopped: serve the host tool.
    fn linger(&mut self) {
        if !control::is_open() {
            return;
        }
        loop {
            if matches!(self.service(), Verdict::Quit) {
                return control::event("bye");
            }
            interrupts::idle();
        }
    }

    fn idle(&mut self) -> Verdict {
        if control::console_waiting() {
            control::flush_console();
        }
        if TIMER_FIRED.load(Ordering::Relaxed) {
            return self.service();
        }
        let before = clock::ticks();
        interrupts::idle();
        self.halted_ticks += clock::ticks() - before;
        self.guest.cpu.resume();
        self.service()
    }

    fn reset(&mut self, why: &str) -> Verdict {
        log::info!("{why}: starting again");
        self.finish_output();
        self.guest.cpu.stats.resets += 1;
        let now = self.guest.cpu.now();
        self.resets = if now < self.last_reset + RESET_PAUSE {
            self.resets + 1
        } else {
            0
        };
        self.last_reset = now;
        if self.resets > RESET_STORM {
            control::event("fatal: the guest resets again and again");
            return Verdict::Stopped;
        }
        match self.guest.reset() {
            Ok(()) => {
                control::event("reset");
                Verdict::Continue
            }
            Err(e) => {
                log::error!("the guest cannot be started again: {e}");
                control::event(&alloc::format!("fatal: {e}"));
                Verdict::Stopped
            }
        }
    }

    /// Sends what is still to be sent.
    fn finish_output(&mut self) {
        control::flush_console();
        self.send_text();
        if self.window {
            self.draw();
        }
    }

    /// Does what is due: requests, keys, console, screen; and says when to be called again.
    fn service(&mut self) -> Verdict {
        if TIMER_FIRED.swap(false, Ordering::Relaxed) {
            self.guest.cpu.clock.fired();
        }
        let now = self.guest.cpu.now();
        let mut next = VmTime::NEVER;
        while let Some(request) = control::request() {
            match request {
                Request::Keys(codes) => self.keys.extend_from_slice(&codes),
                Request::Console(bytes) => {
                    self.guest.uart.lock().receive(&bytes);
                    self.guest.cpu.bus.wake_at(now);
                }
                Request::Screenshot => self.send_picture(),
                Request::Report => self.send_report(),
                Request::Quit => return Verdict::Quit,
            }
        }
        if let PagingChoice::Alternate(interval) = self.guest.paging {
            if now >= self.switched + interval {
                self.switched = now;
                self.guest.cpu.switch_paging();
            }
            next = next.min(self.switched + interval);
        }
        if net::arrived() {
            self.guest.cpu.bus.wake_at(now);
        }
        self.type_keys(now);
        if !self.keys.is_empty() || keyboard::waiting() {
            next = next.min(now + VmTime::from_millis(5));
        }
        if control::is_open() {
            control::flush_console();
            let (generation, live) = {
                let vga = self.guest.vga.lock();
                (vga.generation(), vga.is_live())
            };
            if live || generation != self.sent.0 {
                let due = self.sent.1 + TEXT_INTERVAL;
                if now >= due {
                    self.sent = (generation, now);
                    self.send_text();
                } else {
                    next = next.min(due);
                }
            }
        }
        if self.window {
            let (generation, live) = {
                let vga = self.guest.vga.lock();
                (vga.generation(), vga.is_live())
            };
            let due = self.drawn.1 + self.draw_interval;
            if now >= due {
                if live || generation != self.drawn.0 {
                    self.draw();
                }
                self.drawn = (generation, now);
            }
            next = next.min(self.drawn.1 + self.draw_interval);
        } else if control::is_open() {
            // Changes of the screen and of COM1 are looked at a few times a second while the guest runs.
            next = next.min(
                now + if control::console_waiting() {
                    CONSOLE_INTERVAL
                } else {
                    TEXT_INTERVAL
                },
            );
        }
        self.guest.cpu.service_at = next;
        Verdict::Continue
    }

    fn type_keys(&mut self, now: VmTime) {
        let mut typed = false;
        if !self.keys.is_empty() {
            let n = self.guest.keyboard.lock().key_scancodes(&self.keys);
            self.keys.drain(..n.min(self.keys.len()));
            typed = n > 0;
        }
        if keyboard::waiting() {
            keyboard::drain(|codes| self.guest.keyboard.lock().key_scancodes(codes));
            typed = true;
        }
        if typed {
            self.guest.cpu.bus.wake_at(now);
        }
    }

    fn send_text(&mut self) {
        if !control::is_open() {
            return;
        }
        if !self.guest.vga.lock().text_screen(&mut self.text) {
            // No text on the screen: that is a screen of no columns and no rows.
            if self.text_sent.len() != 4 {
                control::send(b'T', &[0; 4]);
                self.text_sent = [0; 4].into();
            }
            return;
        }
        let mut frame = Vec::with_capacity(4 + self.text.chars.len());
        frame.extend_from_slice(&(self.text.cols as u16).to_le_bytes());
        frame.extend_from_slice(&(self.text.rows as u16).to_le_bytes());
        frame.extend_from_slice(&self.text.chars);
        if frame != self.text_sent {
            control::send(b'T', &frame);
            self.text_sent = frame;
        }
    }

    /// Renders the guest's screen. False: there is no memory for a picture of its size.
    fn render(&mut self) -> bool {
        let vga = self.guest.vga.lock();
        let s = vga.screen();
        let pixels = s.width as usize * s.height as usize;
        let more = pixels.saturating_sub(self.picture.pixels.len());
        if self.picture.pixels.try_reserve_exact(more).is_err() {
            log::warn!("no memory for a picture of {}x{}", s.width, s.height);
            return false;
        }
        vga.picture(self.guest.cpu.now(), &mut self.picture);
        true
    }

    fn draw(&mut self) {
        let clock = &self.guest.cpu.clock;
        let before = clock.time(clock.ticks());
        if self.render() {
            screen::draw(
                self.picture.width,
                self.picture.height,
                &self.picture.pixels,
            );
        }
        let clock = &self.guest.cpu.clock;
        let spent = clock.time(clock.ticks()) - before;
        self.draw_interval =
            VmTime(spent.0.saturating_mul(DRAW_SHARE)).clamp(DRAW_INTERVAL, DRAW_INTERVAL_MAX);
    }

    fn send_picture(&mut self) {
        if !self.render() {
            return control::send(b'S', &[0; 8]);
        }
        let p = &self.picture;
        // Counted first, then sent as it is made: noise takes more memory than the picture itself.
        let mut runs = 0;
        each_run(&p.pixels, |_, _| runs += 1);
        control::send_parts(b'S', 8 + 5 * runs, |send| {
            send(&p.width.to_le_bytes());
            send(&p.height.to_le_bytes());
            each_run(&p.pixels, |len, color| {
                let ([low, high], [b, g, r, _]) = (len.to_le_bytes(), color.to_le_bytes());
                send(&[low, high, r, g, b]);
            });
        });
    }

    fn send_report(&mut self) {
        let facts = Facts {
            backend: B::NAME,
            paging: self.guest.paging.name(),
            guest_ram: self.guest.memory_size,
            own_memory: memory::own(),
            video_ram: self.guest.vga.lock().vram().len() as u64,
            table_frames: self.guest.cpu.mmu.frames_used(),
            ticks_total: clock::ticks() - self.started,
            tsc_hz: clock::tsc_hz(),
            ticks_halted: self.halted_ticks,
            shadow: self.guest.cpu.mmu.shadow_report(),
        };
        let mut json = String::new();
        let recording = self
            .guest
            .cpu
            .recorder
            .as_ref()
            .map_or(&[][..], |r| r.lines());
        let _ = self.guest.cpu.stats.json(&facts, recording, &mut json);
        control::send(b'R', json.as_bytes());
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

/// Nothing more to do: the CPU stops, with interrupts off.
pub fn halt() -> ! {
    log::info!("Umbra has stopped");
    loop {
        x86_64::instructions::hlt();
    }
}
