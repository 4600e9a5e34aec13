//! CPUs work together in *rounds*: the first CPU gives others something to do, does something itself, has them come to an end, and waits until
//! all have. Outside a round only the first CPU does anything, so that all that the session has is its alone.

use super::{HostCpu, State, all};
use crate::interrupts::{self, Concerns};
use crate::lapic::{self, Ipi};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};
use host_cpus::MAX_HOST_CPUS;
use hv_core::kick;

/// What a CPU is to do. It lives until that CPU has answered.
type Work<'a> = dyn FnMut() + Send + 'a;

/// What a CPU is called for.
#[derive(Default)]
pub(super) struct Job(UnsafeCell<Option<*mut Work<'static>>>);

// SAFETY: the first CPU writes it only while the other has no call to answer, and the other reads it only while it has one. Both are told apart by
// `HostCpu::calls` and `HostCpu::answered`, which are stored with release and loaded with acquire ordering.
unsafe impl Sync for Job {}

impl Job {
    /// Does it, on the CPU whose it is, which has been called.
    pub(super) fn run(&self) {
        // SAFETY: this CPU has a call to answer, so the first CPU does not touch the cell.
        let work = unsafe { (*self.0.get()).take() };
        if let Some(work) = work {
            // SAFETY: `together` keeps it alive and leaves it alone until this CPU has answered.
            unsafe { (*work)() };
        }
    }
}

/// Several CPUs have worked together.
static ROUNDS: AtomicBool = AtomicBool::new(false);
/// The round is to end: all are to come to an end.
static ENDING: AtomicBool = AtomicBool::new(false);

/// This CPU has done what it was to do: the others need not go on for it.
pub(super) fn ended() {
    if !ENDING.swap(true, Ordering::SeqCst) {
        super::interrupt(0);
    }
}

/// An interrupt waits, and is let in if there are several CPUs. Whether the current one, which runs a guest, goes on with that: others have kicked it, and
/// the round is not to end.
pub fn goes_on() -> bool {
    if !ROUNDS.load(Ordering::Relaxed) {
        return false;
    }
    let_in(interrupts::window)
}

/// Lets interrupts in by `how`. Whether the current CPU goes on: the round is not to end, and the session has nothing to see to.
fn let_in(how: fn()) -> bool {
    how();
    let serves = super::current().number == 0 && interrupts::has_news_for(Concerns::Session);
    !serves && !is_ending()
}

/// Whether the round is to end.
pub fn is_ending() -> bool {
    ENDING.load(Ordering::SeqCst)
}

/// Halts the current CPU, whose guest has nothing to do, until an interrupt comes. Whether it may go on waiting.
pub fn halt() -> bool {
    // The interrupt that ends the round comes after that, and waits until the CPU halts.
    !is_ending() && let_in(interrupts::idle)
}

/// Has each of these CPUs, by its place among those in use, do its work, while the first CPU, which is the current one, does `own`. Then they are interrupted, which leaves a
/// guest, and waited for. When one of them has ended, the first CPU is interrupted, so that it leaves its guest.
pub fn together<'a>(others: &mut [(usize, &mut Work<'a>)], own: impl FnOnce()) {
    ROUNDS.store(true, Ordering::Relaxed);
    ENDING.store(false, Ordering::SeqCst);
    let mut called = [None; MAX_HOST_CPUS];
    for ((number, work), called) in others.iter_mut().zip(&mut called) {
        let work: *mut Work<'a> = core::ptr::from_mut(*work);
        // SAFETY: only the lifetime is another one: the work is used up to this function's end, which waits for it.
        let work = unsafe { core::mem::transmute::<*mut Work<'a>, *mut Work<'static>>(work) };
        let cpu = *called.insert(cpu(*number));
        assert!(cpu.is_free(), "host CPU {number} still does something else");
        // SAFETY: the CPU has no call to answer, so it does not touch the cell.
        unsafe { *cpu.job.0.get() = Some(work) };
        cpu.call();
    }
    own();
    ENDING.store(true, Ordering::SeqCst);
    let busy = || called.iter().flatten().filter(|cpu| !cpu.is_free());
    let mut looks = 0u32;
    while busy().next().is_some() {
        if looks.is_multiple_of(kick::PATIENCE) {
            busy().for_each(|cpu| lapic::send(cpu.apic_id(), Ipi::Fixed(lapic::KICK_VECTOR)));
        }
        looks = looks.wrapping_add(1);
        core::hint::spin_loop();
    }
}

/// The one of the CPUs in use at this place.
fn cpu(place: usize) -> &'static HostCpu {
    let mut used = all().filter(|cpu| cpu.state() == State::Ready);
    used.nth(place)
        .expect("only CPUs that are in use are called")
}

impl HostCpu {
    /// Whether it has answered all calls.
    fn is_free(&self) -> bool {
        self.has_answered(self.calls.load(Ordering::Relaxed))
    }
}
