//! Runs the guest: lets host interrupts in, serves the control channel, the console and the screen, resets and stops.

mod commands;
mod console;
mod view;

use self::console::Console;
use self::view::View;
use crate::clock::{self};
use crate::control::{self, Request};
use crate::guest::{Guest, SecondStage};
use crate::interrupts::{self, TIMER_FIRED};
use crate::loader::BootInfo;
use crate::media::Cabinet;
use crate::options::{Options, PagingChoice};
use crate::{disk, keyboard, logger, memory, mouse, net};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::ControlFlow;
use core::sync::atomic::Ordering;
use hv_core::VmTime;
use hv_core::cpu::VcpuBackend;
use hv_core::device::PowerAction;
use hv_core::mmu::Mmu;
use hv_core::record::Recorder;
use hv_core::stats::Facts;
use hv_core::time::Clock;
use hv_core::vcpu::Stop;

/// How long keys wait for room in the guest's keyboard.
const KEY_INTERVAL: VmTime = VmTime::from_millis(5);
/// Keys that wait at most.
const KEYS: usize = 64 << 10;
/// Resets with less than this between them are a storm.
const RESET_PAUSE: VmTime = VmTime::from_millis(500);
/// Resets without a pause between them before the guest is called stuck.
const RESET_STORM: u32 = 50;

/// How the guest is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// It runs, or has halted and waits for an interrupt.
    Running,
    /// It is kept from running since the time-stamp counter had this value.
    Paused(u64),
    /// It has been switched off, or cannot go on.
    Off,
}

/// A guest with what shows it and serves it.
pub struct Session<B: VcpuBackend> {
    guest: Guest<B>,
    state: State,
    view: View,
    console: Console,
    cabinet: Cabinet,
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

/// Whether the session goes on.
type Flow = ControlFlow<()>;

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
        let (mut guest, cabinet) = Guest::new(boot, options, cpu, second_stage)?;
        guest.cpu.service_at = VmTime(0);
        guest.cpu.recorder = (options.record != 0).then(|| Box::new(Recorder::new(options.record)));
        log::info!(
            "guest: {} MiB of RAM; Umbra itself uses {} KiB",
            guest.memory_size >> 20,
            memory::own() >> 10
        );
        Ok(Self {
            view: View::new(options.window, guest.font()),
            guest,
            state: State::Running,
            console: Console::default(),
            cabinet,
            keys: Vec::new(),
            started: clock::ticks(),
            halted_ticks: 0,
            resets: 0,
            last_reset: VmTime(0),
            switched: VmTime(0),
        })
    }

    /// Runs the guest, and serves the host tool and the console, until the host tool says goodbye.
    pub fn run(&mut self) {
        loop {
            let flow = if self.state == State::Running {
                self.run_guest()
            } else {
                self.wait()
            };
            if flow.is_break() {
                return control::event("bye");
            }
        }
    }

    fn run_guest(&mut self) -> Flow {
        match self.guest.cpu.run() {
            // Bochs 2.7 does not leave a guest for a host interrupt while the guest's interrupt flag is clear: those are let
            // in when service is due.
            Stop::HostInterrupt | Stop::Service => {
                interrupts::window();
                return self.service();
            }
            Stop::Idle(_) => return self.idle(),
            Stop::Power(PowerAction::Reset) => self.reset("the guest reset the machine"),
            Stop::TripleFault => {
                let mut dump = String::new();
                self.guest.cpu.cpu.dump(&mut dump);
                log::warn!("the guest's CPU shut down (triple fault):\n{dump}");
                self.reset("the guest's CPU shut down (triple fault)");
            }
            Stop::Power(PowerAction::PowerOff) => {
                log::info!("the guest switched the machine off");
                self.switched_off("poweroff");
            }
            Stop::Fatal(why) => {
                let mut dump = String::new();
                self.guest.cpu.cpu.dump(&mut dump);
                log::error!("the guest cannot go on: {why}\n{dump}");
                self.switched_off(&alloc::format!("fatal: {why}"));
            }
        }
        Flow::Continue(())
    }

    /// The guest is off; the host tool is told of it as `event`.
    fn switched_off(&mut self, event: &str) {
        self.finish_output();
        self.state = State::Off;
        control::event(event);
        if !control::is_open() {
            log::info!("`reset` at Umbra's console (three Ctrl-A on COM1) starts it again");
        }
    }

    /// The guest does not run: serves, then waits for an interrupt.
    fn wait(&mut self) -> Flow {
        let flow = self.service();
        if flow.is_continue() && self.state != State::Running {
            let now = self.time();
            self.guest.cpu.clock.arm(self.guest.cpu.service_at, now);
            interrupts::idle();
        }
        flow
    }

    /// The time by which service is measured: the guest's, which goes on for this while the guest is kept from running.
    fn time(&self) -> VmTime {
        let cpu = &self.guest.cpu;
        match self.state {
            State::Running => cpu.now(),
            State::Paused(_) | State::Off => cpu.clock.time(cpu.clock.ticks()),
        }
    }

    fn idle(&mut self) -> Flow {
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

    /// Keeps the guest from running; its time stands still.
    fn pause(&mut self) {
        if self.state == State::Running {
            self.state = State::Paused(clock::ticks());
        }
    }

    /// Lets a paused guest run again.
    fn resume(&mut self) {
        if let State::Paused(since) = self.state {
            self.state = State::Running;
            self.guest.cpu.skip(clock::ticks() - since);
            self.guest.cpu.resume();
            let now = self.guest.cpu.now();
            self.view.rewind(now);
            self.console.rewind(now);
            self.switched = self.switched.min(now);
        }
    }

    fn reset(&mut self, why: &str) {
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
            return self.switched_off("fatal: the guest resets again and again");
        }
        match self.guest.reset() {
            Ok(()) => control::event("reset"),
            Err(e) => {
                log::error!("the guest cannot be started again: {e}");
                self.switched_off(&alloc::format!("fatal: {e}"));
            }
        }
    }

    /// Sends what is still to be sent.
    fn finish_output(&mut self) {
        control::flush_console();
        self.show_last();
    }

    /// Does what is due: requests, keys, console, screen; and says when to be called again.
    fn service(&mut self) -> Flow {
        if TIMER_FIRED.swap(false, Ordering::Relaxed) {
            self.guest.cpu.clock.fired();
        }
        while let Some(request) = control::request() {
            match request {
                Request::Keys(codes) => self.typed(&codes),
                Request::Mouse(movement) => self.mouse_moved(movement),
                Request::Console(bytes) => self.received(&bytes),
                Request::Screenshot => self.send_picture(),
                Request::Report => self.send_report(),
                Request::Quit => return Flow::Break(()),
            }
        }
        let codes = keyboard::take();
        self.typed(&codes);
        while let Some(movement) = mouse::next() {
            self.mouse_moved(movement);
        }
        let bytes = logger::received();
        self.received(&bytes);
        let now = self.time();
        let mut next = VmTime::NEVER;
        if let PagingChoice::Alternate(interval) = self.guest.paging
            && self.state == State::Running
        {
            if now >= self.switched + interval {
                self.switched = now;
                self.guest.cpu.switch_paging();
            }
            next = next.min(self.switched + interval);
        }
        if net::arrived() | disk::answered() {
            self.guest.cpu.bus.wake_at(self.guest.cpu.now());
        }
        self.give_keys();
        if self.view.on_host() {
            keyboard::set_leds(self.guest.keyboard.lock().leds());
        }
        if !self.keys.is_empty() && self.state == State::Running {
            next = next.min(now + KEY_INTERVAL);
        }
        control::flush_console();
        next = next.min(self.show_statistics(now)).min(self.show(now));
        self.guest.cpu.service_at = next;
        Flow::Continue(())
    }

    /// Keys have been typed: they are the guest's or the console's.
    fn typed(&mut self, codes: &[u8]) {
        if !codes.is_empty() {
            self.view.hurry();
        }
        for &code in codes {
            let keys = &mut self.keys;
            let command = self.console.key(code, &mut |code| {
                if keys.len() < KEYS {
                    keys.push(code);
                }
            });
            if let Some(command) = command {
                self.execute(command);
            }
        }
    }

    /// The mouse has been moved, or a button pressed: it is the guest's, unless the console hides its screen.
    fn mouse_moved(&mut self, m: mouse::Move) {
        if !self.console.on_screen() {
            self.view.hurry();
            let mut guest = self.guest.keyboard.lock();
            guest.mouse_move(m.dx, m.dy, m.wheel, m.buttons);
            drop(guest);
            self.guest.cpu.bus.wake_at(self.guest.cpu.now());
        }
    }

    /// Bytes have come on the serial line: they are the guest's or the console's.
    fn received(&mut self, bytes: &[u8]) {
        let mut guests = Vec::new();
        for &byte in bytes {
            let command = self.console.byte(byte, &mut |byte| guests.push(byte));
            if let Some(command) = command {
                self.execute(command);
            }
        }
        if !guests.is_empty() {
            self.guest.uart.lock().receive(&guests);
            self.guest.cpu.bus.wake_at(self.guest.cpu.now());
        }
    }

    /// Gives the guest's keyboard as many keys as it has room for.
    fn give_keys(&mut self) {
        if !self.keys.is_empty() {
            let n = self.guest.keyboard.lock().key_scancodes(&self.keys);
            self.keys.drain(..n.min(self.keys.len()));
            if n > 0 {
                self.guest.cpu.bus.wake_at(self.guest.cpu.now());
            }
        }
    }

    /// How the guest's memory is virtualized, as reports have it.
    fn paging_name(&self) -> &'static str {
        match self.guest.paging {
            PagingChoice::Alternate(_) => self.guest.paging.name(),
            _ if self.guest.cpu.mmu.is_shadow() => PagingChoice::Shadow.name(),
            _ => PagingChoice::Nested.name(),
        }
    }

    fn send_report(&mut self) {
        let facts = Facts {
            backend: B::NAME,
            paging: self.paging_name(),
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

/// Nothing more to do: the CPU stops, with interrupts off.
pub fn halt() -> ! {
    log::info!("Umbra has stopped");
    loop {
        x86_64::instructions::hlt();
    }
}
