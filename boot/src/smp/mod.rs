//! The host's CPUs: what each of them has of its own, which is found through GS, and how all are stopped.
//!
//! [`start()`] starts those besides the first, and each makes itself like the first one ([`join`]). Then it waits for an interrupt, and
//! does what it is called for ([`together`]): to run a virtual CPU.

mod join;
mod memory_types;
mod round;
mod start;

use crate::clock::{self, Armed};
use crate::interrupts::{self, Concerns};
use crate::lapic::{self, Ipi};
use crate::stacks::{Stack, Stacks};
use alloc::boxed::Box;
use alloc::string::String;
use core::arch::asm;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};
use host_cpus::MAX_HOST_CPUS;
pub use round::{goes_on, halt, is_ending, together};
use spin::Mutex;
pub use start::start;
use x86::msr::{IA32_GS_BASE, wrmsr};

/// How far a CPU has come.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum State {
    /// It has not been heard of.
    Silent,
    /// It makes itself like the first one.
    Joins,
    /// Its time-stamp counter is compared with the first one's.
    Compares,
    /// It waits for interrupts, or does what it is called for.
    Ready,
    /// It cannot be used, and has stopped.
    Unfit,
}

impl State {
    const ALL: [State; 5] = [
        State::Silent,
        State::Joins,
        State::Compares,
        State::Ready,
        State::Unfit,
    ];
}

/// A CPU of the host's. GS points to it on that CPU.
#[repr(C)]
pub struct HostCpu {
    /// Where this is.
    this: AtomicPtr<HostCpu>,
    /// Where its usual stack begins: [`start()`] reads it.
    stack_top: u64,
    /// It has stopped for good: the handler of NMIs sets this ([`STOPPED`]).
    stopped: AtomicBool,
    /// Its number, from 0. 0 is the one that Umbra was started on.
    pub number: usize,
    apic_id: AtomicU32,
    stacks: Stacks,
    state: AtomicU8,
    /// Why it is unfit.
    why: Mutex<String>,
    /// How often it was called, and which call it has answered last.
    calls: AtomicU64,
    answered: AtomicU64,
    /// What it is called for, if there is something.
    job: round::Job,
    /// What its timer is armed for.
    pub armed: Armed,
}

const _: () = assert!(core::mem::offset_of!(HostCpu, this) == 0);
const _: () = assert!(core::mem::offset_of!(HostCpu, stack_top) == 8);

/// Where `HostCpu::stopped` is.
pub const STOPPED: usize = core::mem::offset_of!(HostCpu, stopped);

static CPUS: [AtomicPtr<HostCpu>; MAX_HOST_CPUS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; MAX_HOST_CPUS];

/// All CPUs that were to be used, whatever has become of them.
fn all() -> impl Iterator<Item = &'static HostCpu> {
    CPUS.iter().filter_map(|cpu| {
        // SAFETY: null, or what `HostCpu::new` has leaked.
        unsafe { cpu.load(Ordering::Acquire).as_ref() }
    })
}

/// All CPUs' stacks, with the CPUs' numbers.
pub fn stacks() -> impl Iterator<Item = (usize, Stack)> {
    all().flat_map(|cpu| cpu.stacks.iter().map(|stack| (cpu.number, stack)))
}

/// How many CPUs are in use.
pub fn used() -> usize {
    all().filter(|cpu| cpu.state() == State::Ready).count()
}

/// This CPU. There is one from [`init`] on.
pub fn current() -> &'static HostCpu {
    let this: *const HostCpu;
    // SAFETY: GS points to a `HostCpu`, which begins with its own address, from `init` and `umbra_ap_main` on; the world switches keep it.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) this, options(nostack, pure, readonly, preserves_flags));
        &*this
    }
}

/// The number of this CPU, even before [`init`].
pub fn number() -> usize {
    all().next().map_or(0, |_| current().number)
}

/// Gives the first CPU its descriptor tables, and its place among the others.
pub fn init() {
    let cpu = HostCpu::new(0, 0, Stacks::of_first());
    cpu.set_state(State::Ready);
    cpu.make_current();
}

impl HostCpu {
    /// CPU `number`, which is to be known from now on.
    fn new(number: usize, apic_id: u32, stacks: Stacks) -> &'static Self {
        let cpu = Box::leak(Box::new(Self {
            this: AtomicPtr::new(ptr::null_mut()),
            stack_top: stacks.top(),
            stopped: AtomicBool::new(false),
            number,
            apic_id: AtomicU32::new(apic_id),
            stacks,
            state: AtomicU8::new(State::Silent as u8),
            why: Mutex::new(String::new()),
            calls: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            job: round::Job::default(),
            armed: Armed::default(),
        }));
        let at = ptr::from_mut(cpu);
        cpu.this.store(at, Ordering::Relaxed);
        if let Some(place) = CPUS.get(number) {
            place.store(at, Ordering::Release);
        }
        cpu
    }

    /// This CPU is `self` from now on.
    fn make_current(&'static self) {
        // SAFETY: ring 0; nobody uses GS but `current` and the handler of NMIs.
        unsafe { wrmsr(IA32_GS_BASE, ptr::from_ref(self) as u64) };
        interrupts::load_tables(&self.stacks);
    }

    fn apic_id(&self) -> u32 {
        self.apic_id.load(Ordering::Relaxed)
    }

    fn state(&self) -> State {
        let state = usize::from(self.state.load(Ordering::Acquire));
        State::ALL.get(state).copied().unwrap_or(State::Silent)
    }

    fn set_state(&self, state: State) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// Waits for interrupts, and does what it is called for. It is the current CPU, and not the first.
    fn idle(&self) -> ! {
        loop {
            let calls = self.calls.load(Ordering::Acquire);
            if calls == self.answered.load(Ordering::Relaxed) {
                // A call that has come since then is followed by an interrupt, which waits for this.
                interrupts::idle();
                continue;
            }
            // The interrupt of the call, and then those that have ended what it was called for, are not to end what comes next.
            interrupts::window();
            self.job.run();
            interrupts::window();
            round::ended();
            self.answered.store(calls, Ordering::Release);
        }
    }

    /// Calls it; returns the number of the call.
    fn call(&self) -> u64 {
        let call = self.calls.fetch_add(1, Ordering::AcqRel) + 1;
        lapic::send(self.apic_id(), Ipi::Fixed(lapic::KICK_VECTOR));
        call
    }

    /// Whether it has answered this call.
    fn has_answered(&self, call: u64) -> bool {
        self.answered.load(Ordering::Acquire) >= call
    }
}

/// Interrupts CPU `number`, so that the guest there is left.
pub fn interrupt(number: usize) {
    if let Some(cpu) = all().find(|cpu| cpu.number == number) {
        lapic::send(cpu.apic_id(), Ipi::Fixed(lapic::KICK_VECTOR));
    }
}

/// Interrupts the first CPU, so that it looks soon who has been answered.
pub fn kick_first() {
    interrupts::concern(Concerns::Devices);
    interrupt(0);
}

/// Stops all other CPUs for good, whatever they are doing, and waits until they have stopped: a second at most.
pub fn stop_others() {
    interrupts::stop_at_nmi();
    if running().next().is_none() {
        return;
    }
    for cpu in others() {
        lapic::send(cpu.apic_id(), Ipi::Nmi);
    }
    let end = clock::ticks() + clock::tsc_hz();
    while running().next().is_some() && clock::ticks() < end {
        core::hint::spin_loop();
    }
}

/// The numbers of the other CPUs that [`stop_others`] has not stopped.
pub fn running() -> impl Iterator<Item = usize> {
    let runs = |cpu: &&HostCpu| !cpu.stopped.load(Ordering::Acquire);
    others().filter(runs).map(|cpu| cpu.number)
}

/// All other CPUs that have been heard of.
fn others() -> impl Iterator<Item = &'static HostCpu> {
    let own = number();
    all().filter(move |cpu| cpu.number != own && cpu.state() != State::Silent)
}

/// Stops the current CPU for good.
pub fn stop() -> ! {
    x86_64::instructions::interrupts::disable();
    if all().next().is_some() {
        current().stopped.store(true, Ordering::Release);
    }
    loop {
        x86_64::instructions::hlt();
    }
}
