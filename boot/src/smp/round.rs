//! CPUs work together in *rounds*: the first CPU gives others something to do, does something itself, has them come to an end, and waits until
//! all have. Outside a round only the first CPU does anything, so that all that the session has is its alone.

use super::state::ready;
use crate::host_cpu::{self, HostCpu, all};
use crate::interrupts::{self, Concerns};
use crate::lapic::{self, Ipi};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use host_cpus::MAX_HOST_CPUS;
use hv_core::kick::PATIENCE;

/// What a CPU is to do. It lives until that CPU has answered.
type Work<'a> = dyn FnMut() + Send + 'a;

/// What a CPU is called for, and how often it was.
struct Post {
    /// How often it was called, and which call it has answered last.
    calls: AtomicU64,
    answered: AtomicU64,
    job: UnsafeCell<Option<*mut Work<'static>>>,
}

// SAFETY: the first CPU writes the job only while the other has no call to answer, and the other reads it only while it has one. Both are told apart by
// `calls` and `answered`, which are stored with release and loaded with acquire ordering.
unsafe impl Sync for Post {}

/// Those of all CPUs, by number.
static POSTS: [Post; MAX_HOST_CPUS] = [const { Post::new() }; MAX_HOST_CPUS];

impl Post {
    const fn new() -> Self {
        Self {
            calls: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            job: UnsafeCell::new(None),
        }
    }

    fn of(cpu: &HostCpu) -> &'static Self {
        &POSTS[cpu.number]
    }

    /// Does what there is to do, on the CPU whose post it is, which has been called.
    fn work(&self) {
        // SAFETY: this CPU has a call to answer, so the first CPU does not touch the cell.
        let work = unsafe { (*self.job.get()).take() };
        if let Some(work) = work {
            // SAFETY: `together` keeps it alive and leaves it alone until this CPU has answered.
            unsafe { (*work)() };
        }
    }

    /// Whether this call has been answered.
    fn has_answered(&self, call: u64) -> bool {
        self.answered.load(Ordering::Acquire) >= call
    }

    /// Whether all calls have been answered.
    fn is_free(&self) -> bool {
        self.has_answered(self.calls.load(Ordering::Relaxed))
    }
}

/// Waits for interrupts, and does what this CPU, which is not the first, is called for.
pub(super) fn idle(cpu: &HostCpu) -> ! {
    let post = Post::of(cpu);
    loop {
        let calls = post.calls.load(Ordering::Acquire);
        if calls == post.answered.load(Ordering::Relaxed) {
            // A call that has come since then is followed by an interrupt, which waits for this.
            interrupts::idle();
            continue;
        }
        // The interrupt of the call, and then those that have ended what it was called for, are not to end what comes next.
        interrupts::window();
        post.work();
        interrupts::window();
        ended();
        post.answered.store(calls, Ordering::Release);
    }
}

/// Calls a CPU; returns the number of the call.
pub(super) fn call(cpu: &HostCpu) -> u64 {
    let call = Post::of(cpu).calls.fetch_add(1, Ordering::AcqRel) + 1;
    kick(cpu);
    call
}

/// Whether a CPU has answered this call.
pub(super) fn has_answered(cpu: &HostCpu, call: u64) -> bool {
    Post::of(cpu).has_answered(call)
}

fn kick(cpu: &HostCpu) {
    lapic::send(cpu.apic_id(), Ipi::Fixed(lapic::KICK_VECTOR));
}

/// Interrupts CPU `number`, so that the guest there is left.
pub fn interrupt(number: usize) {
    if let Some(cpu) = all().find(|cpu| cpu.number == number) {
        kick(cpu);
    }
}

/// Interrupts the first CPU, so that it looks soon who has been answered.
pub fn kick_first() {
    interrupts::concern(Concerns::Devices);
    interrupt(0);
}

/// Several CPUs have worked together.
static ROUNDS: AtomicBool = AtomicBool::new(false);
/// The round is to end: all are to come to an end.
static ENDING: AtomicBool = AtomicBool::new(false);

/// This CPU has done what it was to do: the others need not go on for it.
fn ended() {
    if !ENDING.swap(true, Ordering::SeqCst) {
        interrupt(0);
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
    let serves = host_cpu::current().number == 0 && interrupts::has_news_for(Concerns::Session);
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
        let post = Post::of(cpu);
        assert!(
            post.is_free(),
            "host CPU {number} still does something else"
        );
        // SAFETY: the CPU has no call to answer, so it does not touch the cell.
        unsafe { *post.job.get() = Some(work) };
        call(cpu);
    }
    own();
    ENDING.store(true, Ordering::SeqCst);
    let busy = || {
        called
            .iter()
            .flatten()
            .filter(|cpu| !Post::of(cpu).is_free())
    };
    let mut looks = 0u32;
    while busy().next().is_some() {
        if looks.is_multiple_of(PATIENCE) {
            busy().for_each(|cpu| kick(cpu));
        }
        looks = looks.wrapping_add(1);
        core::hint::spin_loop();
    }
}

/// The one of the CPUs in use at this place.
fn cpu(place: usize) -> &'static HostCpu {
    ready()
        .nth(place)
        .expect("only CPUs that are in use are called")
}
