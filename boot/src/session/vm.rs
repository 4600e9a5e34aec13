//! One virtual machine as the session has it.

use crate::clock;
use crate::guest::{Guest, Removable};
use crate::host::{ExtendedState, Virtualization};
use crate::loader::BootInfo;
use crate::media::Media;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use hv_core::VmTime;
use hv_core::cpu::VcpuBackend;
use hv_core::mmu::Mmu;
use hv_core::record::Recorder;
use hv_core::time::Clock;
use protocol::options::{self, Paging};

/// Keys that wait at most.
const KEYS: usize = 64 << 10;
/// Resets with less than this between them are a storm.
const RESET_PAUSE: VmTime = VmTime::from_millis(500);
/// Resets without a pause between them before the guest is called stuck.
const RESET_STORM: u32 = 50;

/// How the guest is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// It runs, or has halted and waits for an interrupt.
    Running,
    /// It is kept from running since the time-stamp counter had this value.
    Paused(u64),
    /// It has been switched off, or cannot go on.
    Off,
}

/// A guest that has halted.
#[derive(Clone, Copy)]
pub(super) struct Halted {
    /// Since when, in ticks of the time-stamp counter.
    since: u64,
    /// When it wakes by itself, in the host's time.
    pub until: VmTime,
}

/// A virtual machine.
pub(super) struct Vm<B: VcpuBackend> {
    /// Its number, from 1.
    pub number: u8,
    pub guest: Guest<B>,
    pub state: State,
    pub media: Removable,
    /// Whether it has halted.
    pub halted: Option<Halted>,
    /// How long it had halted, in ticks, when it woke last.
    halted_ticks: u64,
    /// The CPU's state that is not in `guest` while another VM runs.
    extended: ExtendedState,
    /// Keys that the guest's keyboard had no room for.
    keys: Vec<u8>,
    /// Resets in quick succession, and the last one.
    resets: u32,
    last_reset: VmTime,
    /// When nested and shadow paging took turns last, in the host's time.
    switched: VmTime,
}

impl<B: VcpuBackend> Vm<B> {
    /// A guest, not yet started, whose CPU is put aside.
    ///
    /// # Errors
    /// A sentence that says what is missing.
    pub fn new(
        boot: &BootInfo,
        number: u8,
        options: &options::Vm<'static>,
        media: Media,
        virtualization: &mut impl Virtualization<Cpu = B>,
    ) -> Result<Self, String> {
        let (mut guest, removable) = Guest::new(boot, number, options, media, virtualization)?;
        let record = options.record as usize;
        guest.cpu.recorder =
            (record != 0 || options.count).then(|| Box::new(Recorder::new(record)));
        let components = guest.cpu.cpuid.xcr0_allowed() | virtualization.unguarded_components();
        let extended =
            ExtendedState::new(components).ok_or("no memory for the CPU's extended state")?;
        guest.cpu.cpu.put_aside();
        log::info!("VM {number}: {} MiB of RAM", guest.memory_size >> 20);
        Ok(Self {
            number,
            guest,
            state: State::Running,
            media: removable,
            halted: None,
            halted_ticks: 0,
            extended,
            keys: Vec::new(),
            resets: 0,
            last_reset: VmTime(0),
            switched: VmTime(0),
        })
    }

    /// Another VM gets the CPU.
    pub fn put_aside(&mut self) {
        self.guest.cpu.cpu.put_aside();
        self.extended.save();
    }

    /// This VM gets the CPU.
    pub fn take_up(&mut self) {
        self.extended.restore(self.guest.cpu.cpu.xcr0());
        self.guest.cpu.cpu.take_up();
    }

    /// The guest's time.
    pub fn time(&self) -> VmTime {
        let cpu = &self.guest.cpu;
        match self.state {
            State::Running => cpu.clock.time(cpu.clock.ticks()),
            State::Paused(_) | State::Off => cpu.now(),
        }
    }

    /// Whether it wants the CPU.
    pub fn can_run(&self) -> bool {
        self.state == State::Running && self.halted.is_none()
    }

    /// It has halted, and wakes by itself at `until` of the host's time.
    pub fn halt(&mut self, until: VmTime) {
        let since = clock::ticks();
        self.halted = Some(Halted { since, until });
    }

    /// It has halted no longer: there may be something to be done.
    pub fn wake(&mut self) {
        if let Some(halted) = self.halted.take() {
            self.halted_ticks += clock::ticks() - halted.since;
        }
    }

    /// How long it has halted so far, in ticks of the time-stamp counter.
    pub fn halted_ticks(&self) -> u64 {
        let since = self.halted.map(|halted| clock::ticks() - halted.since);
        self.halted_ticks + since.unwrap_or(0)
    }

    /// A device of its has got something from outside.
    pub fn rouse(&mut self) {
        let cpu = &mut self.guest.cpu;
        cpu.bus.wake_at(cpu.now());
        self.wake();
    }

    /// Keeps the guest from running; its time stands still.
    pub fn pause(&mut self) {
        if self.state == State::Running {
            self.wake();
            self.state = State::Paused(clock::ticks());
        }
    }

    /// Lets a paused guest, which has the CPU, run again.
    pub fn resume(&mut self) {
        if let State::Paused(since) = self.state {
            self.state = State::Running;
            self.guest.cpu.skip(clock::ticks() - since);
            self.guest.cpu.resume();
        }
    }

    /// The machine starts again. The guest has the CPU.
    ///
    /// # Errors
    /// A sentence that says why it cannot.
    pub fn reset(&mut self) -> Result<(), String> {
        self.wake();
        self.guest.cpu.stats.resets += 1;
        let now = self.guest.cpu.now();
        self.resets = if now < self.last_reset + RESET_PAUSE {
            self.resets + 1
        } else {
            0
        };
        self.last_reset = now;
        if self.resets > RESET_STORM {
            return Err("the guest resets again and again".into());
        }
        self.extended.reset();
        self.guest.reset()
    }

    /// A key has been pressed or released.
    pub fn key(&mut self, code: u8) {
        if self.keys.len() < KEYS {
            self.keys.push(code);
        }
    }

    /// Gives the guest's keyboard as many keys as it has room for. True: some have to wait.
    pub fn give_keys(&mut self) -> bool {
        if !self.keys.is_empty() {
            let n = self.guest.keyboard.lock().key_scancodes(&self.keys);
            self.keys.drain(..n.min(self.keys.len()));
            if n > 0 {
                self.rouse();
            }
        }
        !self.keys.is_empty() && self.state == State::Running
    }

    /// When nested and shadow paging have to take turns next, in the host's time.
    pub fn turn_due(&self) -> VmTime {
        match self.guest.paging {
            Paging::Alternate(time) if self.state == State::Running => {
                self.switched + VmTime::from_millis(time.into())
            }
            _ => VmTime::NEVER,
        }
    }

    /// Nested and shadow paging take turns. The guest has the CPU.
    pub fn take_turns(&mut self, now: VmTime) {
        self.switched = now;
        self.guest.cpu.switch_paging();
    }

    /// How the guest's memory is virtualized, as reports have it.
    pub fn paging_name(&self) -> &'static str {
        match self.guest.paging {
            Paging::Alternate(_) => self.guest.paging.name(),
            _ if self.guest.cpu.mmu.is_shadow() => Paging::Shadow.name(),
            _ => Paging::Nested.name(),
        }
    }

    /// Its state in a word.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Running => "running",
            State::Paused(_) => "paused",
            State::Off => "off",
        }
    }
}
