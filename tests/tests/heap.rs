//! A heap that is too small, at every allocation in turn. What a guest can do ends in an error value, or the guest goes on; nothing ends in
//! an abort, which is what an infallible allocation without memory is.
//!
//! A VM is built by infallible allocations. Before that, Umbra compares what they take with what is left, so the first test measures that
//! they take no more than that.

use device_model::vga;
use hv_core::exit::ExitReason;
use hv_core::mem::GuestMemory;
use hv_core::mmu::{Backing, Frames, Mmu, PagingState, PfError, ShadowFault};
use hv_core::testing::{Random, VecMemory};
use hv_core::vcpu::Stop;
use hv_core::{Gpa, Gva, Hpa};
use npt_shadow::paging::Kind;
use npt_shadow::shadow::{Config, MIN_PAGES};
use npt_shadow::{Algorithm, Format, NestedMmu, Paging, ShadowMmu, WatchedMemory};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::{Arc, Mutex};
use tests::feed::Feed;
use tests::pc::{self, Pc};
use tests::rig::Rig;

/// The system's allocator, which refuses when a thread has had as many allocations as it was allowed.
struct Limited;

thread_local! {
    /// How many allocations the thread may still make.
    static LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
    /// How many it has made or been refused; how many bytes in small pieces, and in large ones, it has taken and not given back.
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static SMALL: Cell<isize> = const { Cell::new(0) };
    static LARGE: Cell<isize> = const { Cell::new(0) };
}

/// From this many bytes on, Umbra's heap takes pages (`boot/src/memory/heap.rs`).
const PAGES: usize = 64 << 10;

fn count(layout: Layout, sign: isize) {
    let pool = if layout.size() < PAGES {
        &SMALL
    } else {
        &LARGE
    };
    let _ = pool.try_with(|bytes| bytes.set(bytes.get() + sign * layout.size() as isize));
}

// SAFETY: everything is the system allocator's, or refused; the counters are plain cells, which need no memory and no destructor.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = COUNT.try_with(|n| n.set(n.get() + 1));
        let refused = LEFT.try_with(|left| {
            let n = left.get();
            left.set(if n == u64::MAX {
                n
            } else {
                n.saturating_sub(1)
            });
            n == 0
        });
        if refused == Ok(true) {
            return std::ptr::null_mut();
        }
        count(layout, 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(layout, -1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Limited = Limited;

/// Does `f` with a heap that is full after `allowed` allocations.
fn with_heap_of<R>(allowed: u64, f: impl FnOnce() -> R) -> R {
    LEFT.set(allowed);
    let result = f();
    LEFT.set(u64::MAX);
    result
}

/// The number of allocations that `f` asks for, and what it answers.
fn counted<R>(f: impl FnOnce() -> R) -> (u64, R) {
    let before = COUNT.get();
    let result = f();
    (COUNT.get() - before, result)
}

/// What Umbra keeps for the devices of a VM: in small pieces (`VM_SIZE` in `boot/src/memory/heap.rs`), a quarter of which is left for what
/// is not built here, and in large ones (`DEVICES` in `boot/src/guest.rs`).
const SMALL_BUDGET: isize = (1 << 20) / 4 * 3;
const LARGE_BUDGET: isize = 4 << 20;

#[test]
fn the_devices_of_a_vm_take_no_more_than_is_kept_for_them() {
    let (small, large) = (SMALL.get(), LARGE.get());
    let pc = Pc::new();
    // These are not Umbra's heap, or not a VM's.
    let others = pc::RAM + vga::pci_id::VRAM_SIZE + vga::TEXT_RAM + pc::DISKS;
    let small = SMALL.get() - small;
    let large = LARGE.get() - large - others as isize;
    drop(pc);
    println!("{small} bytes in small pieces, {large} in large ones");
    assert!(small < SMALL_BUDGET, "{small} bytes in small pieces");
    assert!(
        (0..LARGE_BUDGET).contains(&large),
        "{large} bytes in large pieces"
    );
}

/// Steps of a guest and of the host's keyboard, mouse and screen, with one heap.
const STEPS: usize = 400;

#[test]
fn the_whole_pc_goes_on_with_a_heap_that_is_full() {
    let seeds = std::env::var("UMBRA_STEPS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(40);
    let mut random = Random::from_env("UMBRA_SEED", 0x4ea9);
    let mut pc = Pc::new();
    let (mut asked, mut tried) = (0, 0);
    for _ in 0..seeds {
        let mut script = vec![[0; 64]; STEPS];
        script.iter_mut().for_each(|step| random.fill(step));
        let play = |pc: &mut Pc| {
            for step in &script {
                pc.step(&mut Feed::new(step));
            }
            pc.look();
        };
        pc.reset();
        let (all, ()) = counted(|| play(&mut pc));
        asked += all;
        // A guest asks for memory so rarely that each time is the one that fails, and at last the heap is full from the beginning.
        for allowed in (0..all.max(1)).rev() {
            pc.reset();
            with_heap_of(allowed, || play(&mut pc));
            tried += 1;
        }
    }
    println!("{asked} allocations in {seeds} scripts; {tried} heaps that were too small");
}

/// Frames that are there from the start, and are counted.
#[derive(Clone)]
struct Pool(Arc<Mutex<Tables>>);

struct Tables {
    tables: Vec<[u64; 512]>,
    free: Vec<usize>,
}

impl Pool {
    fn new(frames: usize) -> Self {
        Self(Arc::new(Mutex::new(Tables {
            tables: vec![[0; 512]; frames],
            free: (0..frames).collect(),
        })))
    }

    fn free(&self) -> usize {
        self.0.lock().unwrap().free.len()
    }
}

impl Frames for Pool {
    fn allocate(&mut self) -> Option<Hpa> {
        let mut pool = self.0.lock().unwrap();
        let n = pool.free.pop()?;
        pool.tables[n] = [0; 512];
        Some(Hpa((n as u64 + 1) << 12))
    }
    fn free(&mut self, frame: Hpa) {
        let n = (frame.0 >> 12) as usize - 1;
        self.0.lock().unwrap().free.push(n);
    }
    fn read(&self, frame: Hpa, index: usize) -> u64 {
        self.0.lock().unwrap().tables[(frame.0 >> 12) as usize - 1][index]
    }
    fn write(&mut self, frame: Hpa, index: usize, value: u64) {
        self.0.lock().unwrap().tables[(frame.0 >> 12) as usize - 1][index] = value;
    }
}

/// The guest that no heap of fixed size has books for.
const GUEST: u64 = 16 << 30;

fn config() -> Config {
    Config {
        algorithm: Algorithm::Unsync,
        cpus: 1,
        pages: 4096,
        frames: GUEST >> 12,
        physical_bits: 40,
    }
}

fn memory() -> Arc<WatchedMemory> {
    WatchedMemory::new(Arc::new(VecMemory::new(1 << 20)), GUEST >> 12).unwrap()
}

#[test]
fn the_books_of_shadow_paging_take_what_they_are_said_to_or_are_refused() {
    let (memory, frames) = (memory(), Pool::new(MIN_PAGES + 1));
    let all = frames.free();
    let before = SMALL.get() + LARGE.get();
    let (asked, mmu) = counted(|| ShadowMmu::new(frames.clone(), memory.clone(), config()));
    let taken = (SMALL.get() + LARGE.get() - before) as u64;
    assert!(mmu.is_some());
    assert_eq!(taken, config().books());
    drop(mmu);
    assert_eq!(frames.free(), all, "all frames are given back");
    for allowed in 0..asked {
        let mmu = with_heap_of(allowed, || {
            ShadowMmu::new(frames.clone(), memory.clone(), config())
        });
        assert!(mmu.is_none(), "{allowed} of {asked} allocations are enough");
        assert_eq!(frames.free(), all, "what was taken is given back");
        assert_eq!((SMALL.get() + LARGE.get() - before) as u64, 0);
    }
    for few in 0..all {
        let frames = Pool::new(few);
        let small = Config {
            pages: MIN_PAGES,
            frames: 512,
            ..config()
        };
        assert!(ShadowMmu::new(frames.clone(), memory.clone(), small).is_none());
        assert_eq!(frames.free(), few);
    }
}

#[test]
fn shadow_paging_that_cannot_be_had_leaves_nested_paging_as_it_was() {
    let (memory, frames) = (memory(), Pool::new(MIN_PAGES + 40));
    let nested = NestedMmu::new(frames.clone(), Format::LongMode, 2).unwrap();
    let mut paging = Paging::new(Kind::Nested(nested));
    let ram = |hpa| Backing::Ram {
        hpa: Hpa(hpa),
        writable: true,
    };
    paging.remap(Gpa(0), GUEST, ram(0x4_0000_0000));
    assert!(!paging.exhausted());
    let free = frames.free();
    let shadow = || ShadowMmu::new(frames.clone(), memory.clone(), config());
    let add = |paging: &mut Paging<Pool>| {
        shadow().is_some_and(|shadow| paging.add(Kind::Shadow(Box::new(shadow))))
    };
    // The last allocation is the box, small and of fixed size, for which the heap keeps room.
    let (books, mmu) = counted(shadow);
    drop(mmu);
    for allowed in 0..books {
        assert!(!with_heap_of(allowed, || add(&mut paging)));
        assert!(!paging.is_shadow() && !paging.set_shadow(true));
        assert_eq!(frames.free(), free);
    }
    assert!(add(&mut paging) && paging.set_shadow(true));
    // From here on nothing is allocated, whatever the guest does and wherever it moves its devices.
    paging.load(0, &PagingState::unpaged(40));
    let (asked, ()) = counted(|| {
        for n in 0..2000u64 {
            let _ = paging.page_fault(
                0,
                &ShadowFault {
                    gva: Gva(n << 21 | n << 12),
                    error: PfError::empty(),
                    state: PagingState::unpaged(40),
                    cpl: 0,
                    delivering: false,
                    rip: n,
                },
            );
            let _ = paging.root(0);
            if n % 10 == 0 {
                let window = Gpa(0xe000_0000 + (n << 16));
                paging.remap(window, 0x100_0000, ram(0x7000_0000));
                paging.remap(window, 0x100_0000, Backing::Mmio);
            }
        }
    });
    assert_eq!(asked, 0);
}

#[test]
fn nested_tables_need_no_more_frames_than_are_counted_for_them() {
    for (largest, ram) in [(3, GUEST), (2, GUEST), (1, GUEST / 8), (2, 32 << 20)] {
        let frames = Pool::new(8192);
        let all = frames.free();
        let mut nested = NestedMmu::new(frames.clone(), Format::LongMode, largest).unwrap();
        // Aligned to 2 MiB, with the holes that devices and firmware make.
        let backing = |offset: u64| Backing::Ram {
            hpa: Hpa(0x6_0020_0000 + offset),
            writable: true,
        };
        let low = ram.min(0xe000_0000);
        nested.remap(Gpa(0), 0xa_0000, backing(0));
        nested.remap(Gpa(0xc_0000), low - 0xc_0000, backing(0xc_0000));
        nested.remap(Gpa(1 << 32), ram - low, backing(1 << 32));
        nested.remap(Gpa(0xfffc_0000), 0x4_0000, backing(1 << 36));
        nested.remap(Gpa(0xb_8000), 0x8000, backing(1 << 37));
        nested.remap(Gpa(0xfd00_0000), 0x100_0000, backing(1 << 38));
        assert!(!nested.exhausted());
        let used = (all - frames.free()) as u64;
        let counted = NestedMmu::<Pool>::tables(ram, largest);
        assert!(used <= counted, "{used} frames are used, {counted} counted");
        drop(nested);
        assert_eq!(frames.free(), all);
    }
}

#[test]
fn a_vm_that_cannot_go_on_says_so_without_memory_too() {
    let machine_check = ExitReason::exception(18, 0, 0);
    for reason in [ExitReason::EntryFailed, machine_check] {
        let mut rig = Rig::new();
        rig.bare(reason);
        let stop = rig.run();
        assert!(matches!(stop, Stop::Fatal(why) if !why.is_empty()));
        let mut rig = Rig::new();
        rig.bare(reason);
        // The script's own lists.
        rig.vcpu.cpu.entries.reserve(8);
        rig.probe.lock().polls.reserve(8);
        let stop = with_heap_of(0, || rig.run());
        assert_eq!(stop, Stop::Fatal(String::new()));
    }
}

#[test]
fn guest_memory_whose_watch_there_is_no_memory_for_is_refused() {
    let inner: Arc<dyn GuestMemory> = Arc::new(VecMemory::new(4096));
    let watched = with_heap_of(0, || WatchedMemory::new(inner.clone(), GUEST >> 12));
    assert!(watched.is_none());
}
