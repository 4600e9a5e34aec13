//! One virtual machine as the session has it.

use super::breaks::Waiting;
use super::pointer::Pixel;
use crate::clock;
use crate::guest::{CpuSlot, Guest, Removable};
use crate::host::Virtualization;
use crate::loader::BootInfo;
use crate::media::Media;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use hv_core::VmTime;
use hv_core::cpu::VcpuBackend;
use hv_core::hyperv::CRASH_VALUES;
use hv_core::lock::Lock;
use hv_core::record::Recorder;
use hv_core::scratch::Scratch;
use hv_core::stats::Stats;
use protocol::options::{self, Paging};

/// Keys that wait at most.
const KEYS: usize = 64 << 10;
/// Set in the code of a key that is let go of, in scan code set 1.
const RELEASED: u8 = 0x80;
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
    /// A debugger has it stand still since then, or is waited for.
    Debugged(u64),
    /// The guest has suspended its machine to RAM. Its clock goes on, and may wake it.
    Suspended,
    /// It is to start when all of its RAM is there, which others have at present.
    Waiting,
    /// It has been switched off, or cannot go on.
    Off,
}

/// A virtual machine.
pub(super) struct Vm<B: VcpuBackend> {
    /// Its number, from 1.
    pub number: u8,
    pub guest: Guest<B>,
    pub state: State,
    /// The CPUs that its debugger keeps stopped while others run: bit n is CPU n.
    pub held: u32,
    pub media: Removable,
    /// What it is stopped at without a debugger.
    pub breaks: Option<Waiting>,
    /// Whether it wants RAM that the host does not have.
    pub lacks: bool,
    /// Keys that the guest's keyboard had no room for.
    keys: Vec<u8>,
    /// Resets in quick succession, and the last one.
    resets: u32,
    last_reset: VmTime,
    /// When nested and shadow paging took turns last, in the host's time.
    switched: VmTime,
    /// Where the pointer has been put last, unless a mouse has moved it since.
    pub pointer: Option<Pixel>,
}

impl<B: VcpuBackend> Vm<B> {
    /// A guest, not yet started, none of whose CPUs is loaded.
    ///
    /// # Errors
    /// A sentence that says what is missing.
    pub fn new(
        boot: &BootInfo,
        number: u8,
        options: &options::Vm<'static>,
        media: Media,
        scratch: Option<Arc<Lock<dyn Scratch>>>,
        virtualization: &mut impl Virtualization<Cpu = B>,
    ) -> Result<Self, String> {
        let (mut guest, removable) =
            Guest::new(boot, number, options, media, scratch, virtualization)?;
        if options.record != 0 || options.count {
            // All count, and the first has the lines.
            let lines = core::iter::once(options.record as usize).chain(core::iter::repeat(0));
            for (slot, lines) in guest.cpus.iter_mut().zip(lines) {
                slot.cpu.record(Recorder::new(lines));
            }
        }
        log::info!("VM {number}: {} MiB of RAM", guest.memory_size >> 20);
        let mut vm = Self {
            number,
            guest,
            state: match (options.later, options.gdb_wait) {
                (true, _) => State::Off,
                (false, true) => State::Debugged(clock::ticks()),
                (false, false) => State::Running,
            },
            held: 0,
            media: removable,
            breaks: None,
            lacks: false,
            keys: Vec::new(),
            resets: 0,
            last_reset: VmTime(0),
            switched: VmTime(0),
            pointer: None,
        };
        if let Some(words) = options.breaks {
            vm.break_at(words, options.break_ends)?;
        }
        if let Some(words) = options.trace {
            vm.begin_trace(words)?;
        }
        Ok(vm)
    }

    /// The guest's time.
    pub fn time(&self) -> VmTime {
        match self.state {
            State::Running | State::Suspended => self.guest.now(),
            State::Paused(_) | State::Debugged(_) | State::Waiting | State::Off => {
                self.guest.cpus[0].cpu.now()
            }
        }
    }

    /// Whether CPU `n` wants a CPU of the host.
    pub fn can_run(&self, n: usize) -> bool {
        self.state == State::Running
            && self.guest.cpus[n].halted.is_none()
            && self.held >> n & 1 == 0
    }

    /// How many CPUs want one of the host's.
    pub fn runnable(&self) -> usize {
        (0..self.guest.cpus.len())
            .filter(|&n| self.can_run(n))
            .count()
    }

    /// Whether its devices' time goes on.
    fn has_power(&self) -> bool {
        matches!(self.state, State::Running | State::Suspended)
    }

    /// Whether it is suspended, and something has come that wakes it.
    pub fn wakes(&self) -> bool {
        self.state == State::Suspended && self.guest.pm.lock().wakes()
    }

    /// It wakes: the firmware starts, and finds that it does. None of its CPUs is loaded.
    ///
    /// # Errors
    /// A sentence that says why it cannot.
    pub fn wake_up(&mut self) -> Result<(), String> {
        self.count_restart()?;
        self.state = State::Running;
        self.guest.wake_up()
    }

    /// Lets its devices do what is due, and wakes the CPUs that have something to do.
    pub fn poll(&mut self) {
        if !self.has_power() {
            return;
        }
        let vm = &self.guest.vm;
        let now = self.guest.now();
        if now >= vm.deadline() {
            vm.poll(now);
        }
        // A request of a device's is carried out by a CPU.
        if vm.unsettled() {
            self.guest.cpus[0].wake();
        }
        self.wake_cpus();
    }

    /// Wakes the CPUs that have something to do.
    pub fn wake_cpus(&mut self) {
        let wakeups = self.guest.vm.wakeups.take();
        for (n, slot) in self.guest.cpus.iter_mut().enumerate() {
            if wakeups >> n & 1 != 0 {
                slot.wake();
            }
        }
    }

    /// When it has to be [polled](Self::poll) next, in the host's time, which is `now`.
    pub fn poll_due(&self, now: VmTime) -> VmTime {
        match self.guest.vm.deadline() {
            due if due != VmTime::NEVER && self.has_power() => now + (due - self.guest.now()),
            _ => VmTime::NEVER,
        }
    }

    /// What all its CPUs did.
    pub fn stats(&self) -> Stats {
        let mut all = Stats::default();
        self.guest
            .cpus
            .iter()
            .for_each(|slot| all.add(&slot.cpu.stats));
        all
    }

    /// What its CPUs have recorded, if they record.
    pub fn recorded(&self) -> Option<Box<Recorder>> {
        let mut recorders = self.guest.cpus.iter().map(|slot| slot.cpu.recorder());
        let mut all = Box::new(recorders.next()??.clone());
        for recorder in recorders.flatten() {
            all.add_counts(recorder);
        }
        Some(all)
    }

    /// A device of its has got something from outside.
    pub fn wake_devices(&mut self) {
        let now = self.guest.now();
        self.guest.vm.bus().wake_at(now);
    }

    /// The guest does not run any more. Its CPUs find out anew whether they have halted when it does.
    pub fn stop(&mut self, state: State) {
        self.guest.cpus.iter_mut().for_each(CpuSlot::stop);
        self.state = state;
    }

    /// Keeps the guest from running; its time stands still.
    pub fn pause(&mut self) {
        if self.state == State::Running {
            self.stop(State::Paused(clock::ticks()));
        }
    }

    /// Lets a paused guest run again. None of its CPUs is loaded.
    pub fn resume(&mut self) {
        if let State::Paused(since) = self.state {
            self.state = State::Running;
            self.guest.skip(clock::ticks() - since);
        }
    }

    /// The machine starts again. None of its CPUs is loaded.
    ///
    /// # Errors
    /// A sentence that says why it cannot.
    pub fn reset(&mut self) -> Result<(), String> {
        self.guest.cpus[0].cpu.stats.resets += 1;
        self.count_restart()?;
        self.guest.reset()
    }

    /// The machine starts again, after a reset or from sleep: not as often as the guest likes.
    fn count_restart(&mut self) -> Result<(), String> {
        let now = self.guest.now();
        self.resets = if now < self.last_reset + RESET_PAUSE {
            self.resets + 1
        } else {
            0
        };
        self.last_reset = now;
        match self.resets > RESET_STORM {
            true => Err("the guest resets again and again".into()),
            false => Ok(()),
        }
    }

    /// A key has been pressed or released.
    pub fn key(&mut self, code: u8) {
        if self.keys.len() < KEYS {
            self.keys.push(code);
        }
    }

    /// Gives the guest's keyboard as many keys as it has room for. True: some have to wait.
    pub fn give_keys(&mut self) -> bool {
        if self.state == State::Suspended {
            // A key that is let go of is no reason.
            if self.keys.drain(..).any(|code| code & RELEASED == 0) {
                self.guest.pm.lock().press_key();
            }
            return false;
        }
        if !self.keys.is_empty() {
            let n = self.guest.keyboard.lock().key_scancodes(&self.keys);
            self.keys.drain(..n.min(self.keys.len()));
            if n > 0 {
                self.wake_devices();
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

    /// Nested and shadow paging take turns.
    pub fn take_turns(&mut self, now: VmTime) {
        self.switched = now;
        self.guest.switch_paging();
    }

    /// How the guest's memory is virtualized, as reports have it.
    pub fn paging_name(&self) -> &'static str {
        match self.guest.paging {
            Paging::Alternate(_) => self.guest.paging.name(),
            _ if self.guest.vm.is_shadow() => Paging::Shadow.name(),
            _ => Paging::Nested.name(),
        }
    }

    /// What the guest said of its crash, if it said that it has crashed.
    pub fn crash(&self) -> Option<[u64; CRASH_VALUES]> {
        self.guest.vm.hyperv.as_ref()?.crash().values()
    }

    /// Its state in a word.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Running if self.crash().is_some() => "crashed",
            State::Running => "running",
            State::Paused(_) => "paused",
            State::Debugged(_) => "debugged",
            State::Suspended => "suspended",
            State::Waiting => "waiting",
            State::Off => "off",
        }
    }
}
