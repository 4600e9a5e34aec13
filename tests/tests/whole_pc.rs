//! The whole virtual PC under random accesses: no panic, no hang, no growing memory.

use hv_core::testing::Random;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tests::feed::Feed;
use tests::pc::Pc;

/// The system's allocator, with a count of the bytes in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system allocator's; counting does not touch memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What buffers may need beyond what they have needed in the first half.
const SLACK: usize = 64 << 10;

#[test]
fn random_accesses_neither_panic_nor_hang_nor_take_more_and_more_memory() {
    let steps = std::env::var("UMBRA_STEPS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(300_000);
    let mut r = Random::from_env("UMBRA_SEED", 0x9c_5eed);
    let mut pc = Pc::new();
    let (mut first, mut second) = (0, 0);
    let mut longest = Duration::ZERO;
    let mut data = [0; 64];
    for n in 0..steps {
        r.fill(&mut data);
        let start = Instant::now();
        pc.step(&mut Feed::new(&data));
        longest = longest.max(start.elapsed());
        let peak = if n < steps / 2 {
            &mut first
        } else {
            &mut second
        };
        *peak = IN_USE.load(Relaxed).max(*peak);
    }
    println!("longest step {longest:?}; in use: {first} bytes, then {second}");
    assert!(
        second <= first + SLACK,
        "memory in use grows from {first} to {second} bytes"
    );
    assert!(
        longest < Duration::from_secs(5),
        "one access took {longest:?}"
    );
}
