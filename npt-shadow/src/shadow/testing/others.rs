//! The CPUs whose turn it is not. They may be in the guest, and go on with what they remember until they are kicked.

use super::judge::Judge;
use super::machine::{Cached, hardware_allows};
use super::*;
use hv_core::flush::CpuSet;
use hv_core::testing::{Random, VecMemory};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// A CPU.
pub(super) struct TestCpu {
    pub(super) state: PagingState,
    /// What it loads into CR3.
    pub(super) roots: Vec<u64>,
    pub(super) cpl: u8,
    /// The root that it is on, if it is in the guest.
    pub(super) inside: Option<Hpa>,
    pub(super) tlb: BTreeMap<u64, Cached>,
    /// What paging-structure caches remember: tables of level 1, by address bits 47:21.
    pub(super) tables: BTreeMap<u64, (Hpa, bool, bool, bool)>,
    /// When the guest flushed everything last.
    pub(super) flushed: u64,
    /// When it flushed single pages.
    pub(super) pages: BTreeMap<u64, u64>,
}

impl Default for TestCpu {
    fn default() -> Self {
        Self {
            state: PagingState::unpaged(40),
            roots: Vec::new(),
            cpl: 0,
            inside: None,
            tlb: BTreeMap::new(),
            tables: BTreeMap::new(),
            flushed: 0,
            pages: BTreeMap::new(),
        }
    }
}

impl TestCpu {
    /// The TLB is flushed.
    pub(super) fn forget(&mut self) {
        self.tlb.clear();
        self.tables.clear();
    }

    /// Tables that it can write without asking anybody.
    fn writable_tables(&self) -> Vec<u64> {
        let store = |cached: &Cached| Access {
            write: true,
            user: cached.us,
            ..Access::default()
        };
        let free = self
            .tlb
            .values()
            .filter(|cached| cached.dirty && hardware_allows(&self.state, cached, store(cached)));
        let frames = free.filter_map(|cached| Some(cached.hpa.checked_sub(RAM)? >> 12));
        frames.filter(|gfn| TABLES.contains(gfn)).collect()
    }
}

/// All CPUs and what they have in common.
pub(super) struct World {
    /// In the place of the one whose turn it is there is another.
    pub(super) cpus: Vec<TestCpu>,
    pub(super) judge: Judge,
    memory: Arc<VecMemory>,
    random: Random,
}

impl World {
    pub(super) fn new(memory: Arc<VecMemory>, cpus: usize, seed: u64) -> Self {
        Self {
            cpus: (0..cpus).map(|_| TestCpu::default()).collect(),
            judge: Judge::default(),
            memory,
            random: Random::new(seed.rotate_left(32)),
        }
    }

    /// A CPU in the guest stores to a table through what it remembers.
    fn store(&mut self, cpu: usize) {
        let (cpu, r) = (&self.cpus[cpu], &mut self.random);
        let tables = cpu.writable_tables();
        if tables.is_empty() {
            return;
        }
        let wide = cpu.state.cr4.contains(Cr4::PAE);
        let place = match wide {
            true => r.below(4) * 8,
            false => r.pick(&[0, 1, 2, 256, 512, 513, 1023]) * 4,
        };
        let gpa = r.pick(&tables) << 12 | place;
        let mut entry = r.pick(&TABLES) << 12 | r.next() & 0x67;
        if r.one_in(2) {
            entry = r.below(64) << 12 | P | RW | US | A | D;
        }
        let bytes = entry.to_le_bytes();
        let bytes = &bytes[..if wide { 8 } else { 4 }];
        self.judge.before_store(&self.memory, gpa, bytes.len());
        self.memory.write(Gpa(gpa), bytes).unwrap();
        self.judge.stored(&self.memory, gpa, bytes.len());
    }

    /// Those that are in the guest store to tables now and then.
    pub(super) fn go_on(&mut self) {
        for cpu in 0..self.cpus.len() {
            if self.cpus[cpu].inside.is_some() && self.random.one_in(2) {
                self.store(cpu);
            }
        }
    }
}

/// Kicks take their time: until they arrive, CPUs store to tables.
pub(super) struct Kicker(pub(super) Arc<Mutex<World>>);

impl Kick for Kicker {
    fn kick(&self, cpus: CpuSet) {
        let mut world = self.0.lock().unwrap();
        for cpu in 0..world.cpus.len() {
            // One that is outside has only been admitted.
            if cpus >> cpu & 1 == 0 || world.cpus[cpu].inside.is_none() {
                continue;
            }
            for _ in 0..world.random.below(4) {
                world.store(cpu);
            }
            world.cpus[cpu].inside = None;
        }
    }
}
