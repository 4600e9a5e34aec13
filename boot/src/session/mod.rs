//! Runs the guests: shares the CPU among them, lets host interrupts in, serves the control channel, the console and the screen, resets and
//! stops.
//!
//! One VM has the *focus*: keyboard, mouse, screen and the host's serial line are its, and the console's commands are about it. One VM, which
//! may be another, has the CPU. Times here are the host's; a guest's own time stands still while it is paused.

mod answers;
mod balloon;
mod breaks;
mod commands;
mod console;
mod debugger;
mod pointer;
mod run;
mod statistics;
mod trace;
mod view;
mod vm;

use self::answers::{Answers, Waiting};
use self::console::Console;
use self::pointer::{Deed, Pixel};
use self::view::View;
use self::vm::{State, Vm};
use crate::clock::{self, HostClock};
use crate::host::{self, Virtualization};
use crate::interrupts::{self, Concerns, TIMER_FIRED};
use crate::loader::BootInfo;
use crate::memory::HostFrames;
use crate::{control, keyboard, logger, media, memory, mouse, smp, tablet};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::ControlFlow;
use core::sync::atomic::Ordering;
use hv_core::VmTime;
use hv_core::cpu::VcpuBackend;
use hv_core::lock::{Lock, Rank};
use hv_core::mmu::Mmu;
use hv_core::sched::{Entity, Scheduler, Share, Turn};
use hv_core::scratch::{Scratch, ScratchGuest};
use hv_core::stats::{CpuFacts, Facts};
use hv_core::time::Clock;
use protocol::options::{self, Options};
use protocol::{Event, MAX_PAYLOAD, Message, Report, Request};

/// How long keys wait for room in the guest's keyboard.
const KEY_INTERVAL: VmTime = VmTime::from_millis(5);
/// How much later than due service may be while a guest runs.
const SLACK: VmTime = VmTime::from_millis(10);

/// All VMs with what shows them and serves them.
pub struct Session<B: VcpuBackend> {
    vms: Vec<Vm<B>>,
    /// The VM that has the focus, by index.
    focus: usize,
    /// The virtual CPU that each of the host's CPUs in use has.
    loaded: Vec<Option<Entity>>,
    /// Who is to run on each of them next.
    turns: Vec<Option<Turn>>,
    /// How many of the first of these CPUs run no guests, and only serve them.
    serves: usize,
    scheduler: Scheduler,
    /// The VMs, as far as their devices wait for answers.
    waiting: Vec<Waiting>,
    /// The host's time, from the session's start.
    clock: HostClock,
    /// When service is due.
    due: VmTime,
    view: View,
    console: Console,
    /// Those of the VMs, by index.
    debuggers: Vec<debugger::Slot<B>>,
    started: u64,
    /// For messages on their way to the host tool.
    buffer: Box<[u8; MAX_PAYLOAD]>,
}

/// A CPU's registers, as text that is made while it is logged.
struct Dump<'a, B: VcpuBackend>(&'a B);

impl<B: VcpuBackend> fmt::Display for Dump<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.dump(f);
        Ok(())
    }
}

/// What of the CPU a VM is to get, as the scheduler has it.
const fn share(options::Share { weight, cap, warp }: options::Share) -> Share {
    Share { weight, cap, warp }
}

/// Whether the session goes on.
type Flow = ControlFlow<()>;

/// Where the CPU executes what the emulator leaves to it, for all VMs.
fn scratch<B: VcpuBackend>(
    virtualization: &mut impl Virtualization<Cpu = B>,
) -> Option<Arc<Lock<dyn Scratch>>> {
    let guest = virtualization
        .spare_vcpu()
        .and_then(|cpu| ScratchGuest::new(cpu, HostFrames, host::has_osxsave()));
    let Some(guest) = guest else {
        log::warn!(
            "the emulator has no CPU for x87, MMX, SSE and AVX: they are undefined where they need it"
        );
        return None;
    };
    Some(Arc::new(Lock::new(Rank::Scratch, guest)))
}

impl<B: VcpuBackend> Session<B> {
    /// The guests, not yet started.
    ///
    /// # Errors
    /// A sentence that says what is missing.
    pub fn new(
        boot: &BootInfo,
        options: &Options<'static>,
        mut virtualization: impl Virtualization<Cpu = B>,
    ) -> Result<Self, String> {
        let mut scheduler = Scheduler::new(clock::tsc_hz());
        let mut vms = Vec::new();
        let media = media::find(boot, options)?;
        let scratch = scratch(&mut virtualization);
        for ((number, media), vm) in (1..).zip(media).zip(&options.vms) {
            let index = scheduler.add_vm(share(vm.share));
            let vm = Vm::new(
                boot,
                number,
                vm,
                media,
                scratch.clone(),
                &mut virtualization,
            )?;
            for _ in &vm.guest.cpus {
                let entity = scheduler.add_vcpu(index);
                scheduler.wake(entity);
            }
            vms.push(vm);
        }
        log::info!(
            "Umbra itself uses {} KiB; of the heap, {} KiB are used",
            memory::own() >> 10,
            memory::heap_in_use() >> 10
        );
        let serves = usize::from(smp::used() > 1 && host::first_only_serves());
        if serves != 0 {
            log::info!(
                "the host's first CPU runs no guests: QEMU's emulation lets others change its flags"
            );
        }
        let font = vms.first().and_then(|vm| vm.guest.font());
        Ok(Self {
            view: View::new(options.window, font),
            waiting: vms
                .iter()
                .map(|vm: &Vm<B>| Waiting::new(&vm.guest))
                .collect(),
            debuggers: vms.iter().map(|_| None).collect(),
            vms,
            focus: 0,
            loaded: vec![None; smp::used()],
            turns: vec![None; smp::used()],
            serves,
            scheduler,
            clock: HostClock::new(),
            due: VmTime(0),
            console: Console::default(),
            started: clock::ticks(),
            buffer: Box::new([0; MAX_PAYLOAD]),
        })
    }

    /// Runs the guests, and serves the host tool and the console, until the host tool says goodbye.
    pub fn run(&mut self) {
        loop {
            let flow = match self.share_out(clock::ticks()) {
                true => self.run_cpus(),
                false => self.wait(),
            };
            if flow.is_break() {
                self.send_traces(true);
                return control::event(1, Event::Bye);
            }
        }
    }

    /// The VM that has the focus.
    fn vm(&mut self) -> &mut Vm<B> {
        &mut self.vms[self.focus]
    }

    /// The host's time.
    fn time(&self) -> VmTime {
        self.clock.time(clock::ticks())
    }

    /// When something is to be done though no interrupt comes: service, something is due in a VM that does not run, or one that has used
    /// up its cap may run again. `running`: those that have turns run.
    fn next(&self, now: VmTime, running: bool) -> VmTime {
        // A guest that runs has deadlines of its own, at which it can be left without a further exit.
        let slack = if running { SLACK } else { VmTime(0) };
        let runs = |index| {
            let mut turns = self.turns.iter().flatten();
            running && turns.any(|turn| turn.entity.vm == index)
        };
        let others = self.vms.iter().enumerate();
        let others = others.filter(|&(index, _)| !runs(index));
        let polls = others.map(|(_, vm)| vm.poll_due(now));
        let release = self.scheduler.release();
        let release = release.map(|ticks| self.clock.time(ticks));
        polls.chain(release).fold(self.due + slack, VmTime::min)
    }

    /// Tells the scheduler which CPUs of VM `index` can run.
    fn schedule(&mut self, index: usize) {
        let vm = &self.vms[index];
        for vcpu in 0..vm.guest.cpus.len() {
            let entity = Entity { vm: index, vcpu };
            if vm.can_run(vcpu) {
                self.scheduler.wake(entity);
            } else {
                self.scheduler.sleep(entity);
            }
        }
    }

    /// VM `index` is off; the host tool is told of it as `event`.
    fn switched_off(&mut self, index: usize, event: Event<&str>) {
        self.finish_output(index);
        let vm = &mut self.vms[index];
        vm.stop(State::Off);
        if event == Event::PowerOff {
            vm.guest.give_all();
        }
        control::event(vm.number, event);
        if !control::is_open() {
            log::info!("`reset` at Umbra's console (three Ctrl-A on COM1) starts it again");
        }
    }

    /// The guest in VM `index` says that its system has crashed. It goes on: what it does then is its own affair.
    fn crashed(&mut self, index: usize) {
        let Some(values) = self.vms[index].crash() else {
            return;
        };
        self.finish_output(index);
        let number = self.vms[index].number;
        let [what, rest @ ..] = values.map(|value| alloc::format!("{value:#x}"));
        let said = alloc::format!("{what} ({})", rest.join(", "));
        log::error!("VM {number}: the guest says that its system has crashed: {said}");
        control::event(number, Event::Crashed(&said));
    }

    /// No guest wants the CPU: waits for an interrupt, and serves.
    fn wait(&mut self) -> Flow {
        if control::console_waiting() {
            control::flush_console();
        }
        if !TIMER_FIRED.load(Ordering::Relaxed) {
            let now = self.time();
            let next = self.next(now, false);
            self.clock.arm(next, now);
            interrupts::idle();
        }
        self.service()
    }

    /// VM `index` starts again.
    fn reset(&mut self, index: usize, why: &str) {
        self.finish_output(index);
        self.unload();
        let vm = &mut self.vms[index];
        log::info!("VM {}: {why}: starting again", vm.number);
        if !vm.guest.want_all() {
            vm.stop(State::Waiting);
            return;
        }
        match vm.reset() {
            Ok(()) => control::event(vm.number, Event::Reset),
            Err(e) => {
                log::error!("VM {}: the guest cannot be started again: {e}", vm.number);
                self.switched_off(index, Event::Fatal(&e));
            }
        }
    }

    /// VM `index` wakes from S3.
    fn wake_up(&mut self, index: usize) {
        self.unload();
        let vm = &mut self.vms[index];
        log::info!("VM {}: it wakes", vm.number);
        match vm.wake_up() {
            Ok(()) => control::event(vm.number, Event::Woken),
            Err(e) => {
                log::error!("VM {}: the guest cannot be woken: {e}", vm.number);
                self.switched_off(index, Event::Fatal(&e));
            }
        }
    }

    /// Sends what VM `index` has still to send.
    fn finish_output(&mut self, index: usize) {
        control::flush_console();
        if index == self.focus {
            self.show_last();
        }
    }

    /// VM `index` gets the focus.
    fn set_focus(&mut self, index: usize) {
        if index != self.focus {
            self.focus = index;
            let number = self.vms[index].number;
            self.console.turn_to(number);
            self.view.forget();
            control::set_focus(number);
            control::event(number, Event::Focus);
        }
    }

    /// Does what is due: requests, keys, console, screen; wakes guests; and says when to be called again.
    fn service(&mut self) -> Flow {
        TIMER_FIRED.store(false, Ordering::Relaxed);
        interrupts::take_news_for(Concerns::Session);
        while let Some(flow) = control::request(|request| self.serve(request)) {
            flow?;
        }
        let codes = keyboard::take();
        self.typed(&codes);
        while let Some(movement) = mouse::next() {
            self.mouse_moved(movement);
        }
        while let Some(touch) = tablet::next() {
            self.touched(touch);
        }
        let bytes = logger::received();
        self.received(&bytes);
        self.send_traces(false);
        let now = self.time();
        let mut next = VmTime::NEVER;
        let answers = Answers::take();
        for index in 0..self.vms.len() {
            let vm = &mut self.vms[index];
            if now >= vm.turn_due() {
                vm.take_turns(now);
            }
            next = next.min(vm.turn_due());
            if answers.is_for(vm.number, vm.guest.ports) {
                vm.wake_devices();
            }
            if vm.give_keys() {
                next = next.min(now + KEY_INTERVAL);
            }
            vm.poll();
            next = next.min(self.move_ram(index, now));
            let vm = &mut self.vms[index];
            if vm.wakes() {
                self.wake_up(index);
            }
            if self.vms[index].guest.has_answered() {
                self.unload();
                self.vms[index].guest.take_away_cpus();
            }
        }
        if self.view.on_host() {
            keyboard::set_leds(self.vm().guest.keyboard.lock().leds());
        }
        control::flush_console();
        next = next.min(self.show_statistics(now)).min(self.show(now));
        self.due = next;
        (0..self.vms.len()).for_each(|index| self.schedule(index));
        Flow::Continue(())
    }

    /// Does what the host tool asks for.
    fn serve(&mut self, request: Request<&[u8]>) -> Flow {
        match request {
            Request::Hello(_) => {}
            Request::Keys(codes) => self.typed(codes),
            Request::Mouse(protocol::Mouse {
                dx,
                dy,
                wheel,
                buttons,
            }) => self.mouse_moved(mouse::Move {
                dx: dx.into(),
                dy: dy.into(),
                wheel: wheel.into(),
                buttons,
            }),
            Request::Point(protocol::Point {
                x,
                y,
                wheel,
                buttons,
            }) => {
                let pixel = Pixel {
                    x: x.into(),
                    y: y.into(),
                };
                let deed = Deed {
                    wheel: wheel.into(),
                    buttons,
                };
                self.pointed(pixel, deed);
            }
            Request::Input(bytes) => self.received(bytes),
            Request::Focus(number) => {
                let index = usize::from(number).wrapping_sub(1);
                if index < self.vms.len() {
                    self.set_focus(index);
                }
            }
            Request::Attach(number) => self.debugger_comes(number),
            Request::Debugger(number, bytes) => self.debugger_says(number, bytes),
            Request::Detach(number) => self.debugger_goes(number),
            Request::Screenshot => self.send_picture(),
            Request::Report => self.send_reports(),
            Request::Quit => return Flow::Break(()),
        }
        Flow::Continue(())
    }

    /// Keys have been typed: they are the guest's or the console's.
    fn typed(&mut self, codes: &[u8]) {
        if !codes.is_empty() {
            self.view.hurry();
        }
        for &code in codes {
            let vm = &mut self.vms[self.focus];
            let command = self.console.key(vm.number, code, &mut |code| vm.key(code));
            if let Some(command) = command {
                self.execute(command);
            }
        }
    }

    /// Bytes have come on the serial line: they are the guest's or the console's.
    fn received(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            let vm = &mut self.vms[self.focus];
            let command = self.console.byte(vm.number, byte, &mut |byte| {
                vm.guest.typed(byte);
                vm.wake_devices();
            });
            if let Some(command) = command {
                self.execute(command);
            }
        }
    }

    /// What the CPUs of VM `index` did.
    fn cpu_facts(&self, index: usize) -> Vec<CpuFacts> {
        let slots = self.vms[index].guest.cpus.iter().enumerate();
        slots
            .map(|(vcpu, slot)| slot.facts(self.scheduler.used(Entity { vm: index, vcpu })))
            .collect()
    }

    fn send_reports(&mut self) {
        self.send_traces(false);
        let ticks_total = clock::ticks() - self.started;
        for (index, vm) in self.vms.iter().enumerate() {
            let cpus = self.cpu_facts(index);
            let mmu = vm.guest.vm.mmu();
            let facts = Facts {
                backend: B::NAME,
                paging: vm.paging_name(),
                guest_ram: vm.guest.memory_size,
                own_memory: memory::own(),
                video_ram: vm.guest.vga.lock().vram().len() as u64,
                table_frames: mmu.frames_used(),
                ticks_total,
                tsc_hz: clock::tsc_hz(),
                share: self.scheduler.share(index),
                shadow: mmu.shadow_report(),
                crash: vm.crash(),
                cpus: &cpus,
            };
            drop(mmu);
            let recorded = vm.recorded();
            let send = &mut |message: Message<'_>| control::send(vm.number, &message);
            let mut report = Report::begin(&mut self.buffer, send);
            let _ = vm.stats().json(&facts, recorded.as_deref(), &mut report);
            report.end();
        }
    }
}

/// Nothing more to do: all CPUs stop, with interrupts off.
pub fn halt() -> ! {
    smp::stop_others();
    log::info!("Umbra has stopped");
    smp::stop()
}
