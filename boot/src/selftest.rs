//! Failures of Umbra itself that the option `selftest=` asks for, so that a test sees how they end.

use crate::stacks::{DOUBLE_FAULT, IST, PAGE_FAULT};
use crate::{clock, control, host_cpu, interrupts, logger, memory, smp};
use core::arch::asm;
use core::fmt;
use core::hint::{black_box, spin_loop};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use protocol::options::{Failure, SelfTest};

/// The vector whose handler is to exhaust its stack, once.
static OVERFLOWING: AtomicU8 = AtomicU8::new(NONE);
/// No exception.
const NONE: u8 = 0xff;

/// The CPU that is to fail when another one runs a guest.
static BESIDE_GUEST: AtomicUsize = AtomicUsize::new(NOBODY);
const NOBODY: usize = usize::MAX;
/// Several CPUs run guests in this round.
static COMPANY: AtomicBool = AtomicBool::new(false);

/// A CPU holds the locks.
static HELD: AtomicBool = AtomicBool::new(false);

/// Umbra fails as `test` says, now or when guests run.
///
/// # Errors
/// There is no such CPU.
pub fn begin(test: SelfTest<'_>) -> Result<(), &'static str> {
    let SelfTest { failure, cpu } = test;
    let several = smp::used() > 1;
    if cpu >= smp::used() {
        return Err("selftest= names a CPU that is not used");
    }
    log::info!("host CPU {cpu} is to fail: {failure:?}");
    let mut fails = || match failure {
        Failure::Overflow(stack) => overflow(stack),
        Failure::Panic => {
            while several && !HELD.load(Ordering::Acquire) {
                spin_loop();
            }
            panic!("a test of panics");
        }
        Failure::PanicTwice => panic!("{}", Unspeakable),
        Failure::PanicBesideGuest => BESIDE_GUEST.store(cpu, Ordering::Relaxed),
    };
    let mut holds = || {
        if failure == Failure::Panic {
            hold();
            HELD.store(true, Ordering::Release);
            loop {
                spin_loop();
            }
        }
    };
    match cpu {
        0 if several => smp::together(&mut [(1, &mut holds)], fails),
        0 => fails(),
        _ => smp::together(&mut [(cpu, &mut fails)], holds),
    }
    Ok(())
}

/// A round begins, in which so many CPUs run guests.
pub fn begin_round(guests: usize) {
    COMPANY.store(guests > 1, Ordering::Relaxed);
}

/// The current CPU is about to run a guest.
pub fn run_guest() {
    let fails = BESIDE_GUEST.load(Ordering::Relaxed);
    if fails == NOBODY || fails != host_cpu::current().number || !COMPANY.load(Ordering::Relaxed) {
        return;
    }
    // The others have entered their guests by then.
    let end = clock::ticks() + clock::tsc_hz() / 10;
    while clock::ticks() < end {
        spin_loop();
    }
    hold();
    panic!("a test of panics beside a guest");
}

/// Takes for good what everybody needs: the locks of the control channel, in the middle of a frame, of the log and of the memory.
fn hold() {
    control::hold();
    logger::hold();
    memory::hold();
}

/// What panics when it is told.
struct Unspeakable;

impl fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("a test of panics while they are told");
    }
}

/// An exception of this vector has come, on its own stack.
fn excepted(vector: u8) {
    let once = OVERFLOWING.compare_exchange(vector, NONE, Ordering::Relaxed, Ordering::Relaxed);
    if once.is_ok() {
        exhaust();
    }
}

/// Uses up the stack.
fn exhaust() -> u64 {
    #[inline(never)]
    fn deeper(n: u64) -> u64 {
        if n == u64::MAX {
            return n;
        }
        let room = black_box([n; 32]);
        deeper(n + 1) + room[n as usize % room.len()]
    }
    black_box(deeper(0))
}

/// Lets the stack of this name overflow. A name that is none does nothing.
fn overflow(name: &str) {
    if name == "main" {
        exhaust();
    }
    if let Some(&(vector, _)) = IST.iter().find(|(_, of)| *of == name) {
        OVERFLOWING.store(vector, Ordering::Relaxed);
        interrupts::WITNESS.call_once(|| excepted);
        // SAFETY: exceptions are what is asked for. Those with an error code get none, and do not return.
        unsafe {
            match vector {
                DOUBLE_FAULT => asm!("int 8"),
                PAGE_FAULT => asm!("int 14"),
                18 => asm!("int 18"),
                // An NMI is counted, on a stack that nothing else uses.
                _ => {}
            }
        }
    }
}
