//! The simulated machine: guest memory, the map, a CPU that walks shadow tables and has a TLB.

use super::judge::Judge;
use super::*;
use crate::walk::Walk;
use hv_core::mem::NotRam;
use hv_core::testing::VecMemory;
use std::collections::{BTreeMap, HashMap};

/// Table frames that are poisoned when they are free.
#[derive(Default)]
pub(super) struct TestFrames {
    pub(super) tables: Vec<[u64; 512]>,
}

impl Frames for TestFrames {
    fn allocate(&mut self) -> Option<Hpa> {
        assert!(self.tables.len() <= POOL, "more frames than the pool has");
        self.tables.push([0; 512]);
        Some(Hpa((self.tables.len() as u64) << 12))
    }
    fn free(&mut self, _frame: Hpa) {
        unreachable!("the pool keeps its frames");
    }
    fn read(&self, frame: Hpa, index: usize) -> u64 {
        self.tables[(frame.0 >> 12) as usize - 1][index]
    }
    fn write(&mut self, frame: Hpa, index: usize, value: u64) {
        self.tables[(frame.0 >> 12) as usize - 1][index] = value;
    }
}

/// Memory that the reference walker looks at: it does not set flags, which is what the shadow MMU's walk has to do.
pub(super) struct LookOnly<'a>(&'a VecMemory);

impl GuestMemory for LookOnly<'_> {
    fn read(&self, gpa: Gpa, buf: &mut [u8]) -> Result<(), NotRam> {
        self.0.read(gpa, buf)
    }
    fn write(&self, gpa: Gpa, _buf: &[u8]) -> Result<(), NotRam> {
        Err(NotRam(gpa))
    }
    fn compare_exchange(&self, _: Gpa, _: usize, _: u64, _: u64) -> Result<bool, NotRam> {
        Ok(true)
    }
}

/// What a TLB remembers of a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cached {
    pub(super) hpa: u64,
    pub(super) rw: bool,
    pub(super) us: bool,
    pub(super) nx: bool,
    pub(super) dirty: bool,
}

/// An access and what it may come to.
pub(super) struct Machine {
    pub(super) memory: Arc<VecMemory>,
    pub(super) watched: Arc<WatchedMemory>,
    pub(super) mmu: ShadowMmu<TestFrames>,
    pub(super) state: PagingState,
    pub(super) roots: Vec<u64>,
    pub(super) tlb: BTreeMap<u64, Cached>,
    /// What paging-structure caches remember: tables of level 1, by address bits 47:21.
    pub(super) tables: BTreeMap<u64, (Hpa, bool, bool, bool)>,
    pub(super) judge: Judge,
    pub(super) random: Random,
    pub(super) cpl: u8,
    /// What the map has besides RAM.
    pub(super) special: HashMap<u64, Backing>,
    /// The address of the last access.
    pub(super) va: u64,
    pub(super) log: Vec<String>,
}

pub(super) fn backing(gfn: u64) -> Backing {
    match gfn {
        ROM => Backing::Ram {
            hpa: Hpa(RAM + (gfn << 12)),
            writable: false,
        },
        MMIO => Backing::Mmio,
        _ => Backing::Ram {
            hpa: Hpa(RAM + (gfn << 12)),
            writable: true,
        },
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    Unpaged,
    TwoLevel,
    Pae,
    Long,
}

impl Machine {
    pub(super) fn new(algorithm: Algorithm, seed: u64) -> Self {
        let memory = Arc::new(VecMemory::new((FRAMES << 12) as usize));
        let watched = WatchedMemory::new(memory.clone(), FRAMES);
        let config = Config {
            algorithm,
            pages: POOL,
            frames: FRAMES,
            physical_bits: 40,
        };
        let mmu = ShadowMmu::new(TestFrames::default(), watched.clone(), config).unwrap();
        let mut machine = Self {
            memory,
            watched,
            mmu,
            state: PagingState {
                cr0: Cr0::PE,
                cr3: 0,
                cr4: Cr4::empty(),
                efer: Efer::empty(),
                ac: false,
                physical_bits: 40,
            },
            roots: Vec::new(),
            tlb: BTreeMap::new(),
            tables: BTreeMap::new(),
            judge: Judge::default(),
            random: Random::new(seed),
            cpl: 0,
            special: HashMap::new(),
            va: 0,
            log: Vec::new(),
        };
        machine.map_all();
        machine
    }

    /// RAM, with a page of ROM and one of MMIO.
    pub(super) fn map_all(&mut self) {
        self.special.clear();
        let ram = Backing::Ram {
            hpa: Hpa(RAM),
            writable: true,
        };
        self.mmu.remap(Gpa(0), FRAMES << 12, ram);
        for gfn in [ROM, MMIO] {
            self.map(gfn, backing(gfn));
        }
    }

    pub(super) fn backing(&self, gfn: u64) -> Option<Backing> {
        let special = self.special.get(&gfn).copied();
        (gfn < FRAMES).then(|| special.unwrap_or(backing(gfn)))
    }

    pub(super) fn map(&mut self, gfn: u64, to: Backing) {
        self.special.insert(gfn, to);
        self.mmu.remap(Gpa(gfn << 12), 0x1000, to);
    }

    pub(super) fn wide(&self) -> bool {
        self.state.cr4.contains(Cr4::PAE)
    }

    /// The walk of the hardware through shadow tables.
    pub(super) fn hardware_walk(
        &mut self,
        root: Hpa,
        va: u64,
        access: Access,
    ) -> Result<(Cached, u64, usize), bool> {
        let long = self.state.efer.contains(Efer::LMA);
        let (mut table, mut level) = (root, if long { 4 } else { 3 });
        let (mut rw, mut us, mut nx) = (true, true, false);
        if let Some(known) = self.tables.get(&(va >> 21)) {
            (table, rw, us, nx) = *known;
            level = 1;
        }
        loop {
            if level == 1 {
                self.tables.insert(va >> 21, (table, rw, us, nx));
            }
            let mask = if level == 3 && !long { 3 } else { 511 };
            let index = (va >> (12 + 9 * (level - 1)) & mask) as usize;
            let entry = self.mmu.frames.read(table, index);
            if entry & P == 0 {
                return Err(false);
            }
            if level == 3 && !long {
                assert_eq!(entry & 0x1e6, 0, "reserved bits in a PDPTE: {entry:x}");
                assert!(table.0 < LOW);
                (table, level) = (Hpa(entry & ADDRESS), level - 1);
                continue;
            }
            assert!(entry & A != 0, "the hardware would set A in {entry:x}");
            rw &= entry & RW != 0;
            us &= entry & US != 0;
            nx |= entry & NX != 0;
            if level > 1 && entry & PS == 0 {
                (table, level) = (Hpa(entry & ADDRESS), level - 1);
                continue;
            }
            let size = 1 << (12 + 9 * (level - 1));
            let cached = Cached {
                hpa: (entry & ADDRESS & !(size - 1)) + (va & (size - 1) & !0xfff),
                rw,
                us,
                nx,
                dirty: entry & D != 0 || access.write,
            };
            if !self.hardware_allows(&cached, access) {
                return Err(true);
            }
            return Ok((cached, table.0, index));
        }
    }

    /// Whether the hardware lets the access pass: CR0.WP and EFER.NXE are set.
    pub(super) fn hardware_allows(&self, c: &Cached, access: Access) -> bool {
        let paging = self.state.cr0.contains(Cr0::PG);
        let (smep, smap) = (
            paging && self.state.cr4.contains(Cr4::SMEP),
            paging && self.state.cr4.contains(Cr4::SMAP),
        );
        let user = access.user && !access.implicit;
        let right = if user {
            c.us
        } else if access.fetch {
            !(c.us && smep)
        } else {
            !(c.us && smap) || (self.state.ac && !access.implicit)
        };
        right && !(access.fetch && c.nx) && (!access.write || c.rw)
    }

    /// An access; if `value` is given, a write of that.
    pub(super) fn access_at(&mut self, va: u64, value: Option<u64>) {
        let told_apart = self.state.cr4.contains(Cr4::SMAP) && self.state.ac;
        let r = &mut self.random;
        let write = value.is_some() || r.one_in(2);
        let user = self.cpl == 3 && (value.is_some() || !r.one_in(8));
        let access = Access {
            write,
            fetch: !write && r.one_in(3),
            user,
            // At level 0, SMAP with AC set tells explicit from implicit accesses, and the error code does not.
            implicit: !user && (self.cpl == 3 || !told_apart && value.is_none() && r.one_in(10)),
        };
        let delivering = !user && r.one_in(12);
        let mut error = PfError::empty();
        error.set(PfError::W, access.write);
        error.set(PfError::U, access.user);
        error.set(PfError::I, access.fetch);
        self.note(format!(
            "access {va:x} {access:?} cpl {} {delivering}",
            self.cpl
        ));
        // The table of a stuck fault resolves late.
        for round in 0..200 {
            let (root, flush) = self.mmu.root();
            if flush != TlbFlush::None {
                self.tlb.clear();
                self.tables.clear();
            } else {
                // A TLB may forget.
                let r = &mut self.random;
                self.tlb.retain(|_, _| !r.one_in(50));
                self.tables.retain(|_, _| !r.one_in(10));
            }
            let page = va >> 12;
            let hit = self
                .tlb
                .get(&page)
                .copied()
                .filter(|c| self.hardware_allows(c, access) && (c.dirty || !access.write));
            let found = match hit {
                Some(cached) => Ok(cached),
                None => {
                    self.tlb.remove(&page);
                    self.hardware_walk(root, va, access)
                        .map(|(cached, table, index)| {
                            if access.write {
                                let frame = Hpa(table);
                                let entry = self.mmu.frames.read(frame, index);
                                self.mmu.frames.write(frame, index, entry | D);
                            }
                            self.tlb.insert(page, cached);
                            cached
                        })
                }
            };
            let present = match found {
                Ok(cached) => {
                    let gpa = self.guest_address(cached.hpa | va & 0xfff, access);
                    self.judge_success(va, access, gpa);
                    if access.write {
                        self.store(gpa, value, false);
                    }
                    return;
                }
                Err(present) => present,
            };
            self.tlb.remove(&page);
            self.tables.remove(&(va >> 21));
            error.set(PfError::P, present);
            let fault = ShadowFault {
                gva: Gva(va),
                error,
                state: self.state,
                cpl: self.cpl,
                delivering,
                rip: 0,
            };
            self.va = va;
            let before = self.reference(va, access);
            let resolve = self.mmu.page_fault(&fault);
            if let Ok(walk) = &before {
                self.flags_set(walk);
            }
            match resolve {
                Resolve::Retry => {}
                Resolve::Guest(fault) => {
                    let Err(expected) = before else {
                        panic!("{fault:x?} where the tables allow the access: {before:x?}");
                    };
                    assert_eq!(fault, expected);
                    return;
                }
                Resolve::Mmio => {
                    let walk = before.expect("MMIO where the tables do not allow the access");
                    assert!(
                        match self.backing(walk.gpa.0 >> 12) {
                            Some(Backing::Ram { writable, .. }) => access.write && !writable,
                            _ => true,
                        },
                        "RAM at {:?} is not to be emulated",
                        walk.gpa
                    );
                    return;
                }
                Resolve::Emulate => {
                    assert!(access.write, "only writes are emulated");
                    let lifted =
                        !self.state.cr0.contains(Cr0::WP) && self.state.cr4.contains(Cr4::SMAP);
                    assert!(
                        !delivering || lifted,
                        "there is no instruction to be emulated"
                    );
                    let walk = before.expect("emulated where the tables do not allow it");
                    self.store(walk.gpa.0, value, true);
                    return;
                }
            }
            assert!(round < 199, "the fault is never resolved");
        }
    }

    /// What the tables as they are make of the access.
    pub(super) fn reference(&self, va: u64, access: Access) -> Result<Walk, PageFault> {
        walk::walk(&LookOnly(&self.memory), &self.state, Gva(va), access)
    }

    /// Accessed and dirty flags on the way to `va` may have been set.
    pub(super) fn flags_set(&mut self, walk: &Walk) {
        let size = if self.wide() { 8 } else { 4 };
        for level in walk.leaf..=walk.top {
            let Some(level) = (level as usize).checked_sub(1) else {
                return;
            };
            let bits = if size == 8 { 9 } else { 10 };
            let index = self.va >> (12 + bits * level as u64) & ((1 << bits) - 1);
            let at = walk.tables[level].0 + index * size;
            for word in (at..at + size).step_by(4) {
                self.judge.observe(&self.memory, word);
            }
        }
    }

    pub(super) fn guest_address(&self, hpa: u64, access: Access) -> u64 {
        let gpa = hpa
            .checked_sub(RAM)
            .expect("a frame that is not the guest's");
        match self.backing(gpa >> 12) {
            Some(Backing::Ram { writable, .. }) => {
                assert!(writable || !access.write, "ROM at {gpa:x} is written");
            }
            other => panic!("{gpa:x} is {other:?} and mapped"),
        }
        gpa
    }

    /// The guest writes 8 or 4 bytes that may be an entry; `emulated`: through Umbra.
    pub(super) fn store(&mut self, gpa: u64, value: Option<u64>, emulated: bool) {
        let len = if self.wide() { 8 } else { 4 };
        let place = gpa & 0xfff;
        // Entries that matter, mostly.
        let matters = TABLES.contains(&(gpa >> 12)) && (place < 0x20 || place & 0x7f8 == 0);
        let value = match value {
            _ if place >= PDPT => return,
            Some(value) => value,
            None if matters || self.random.one_in(6) => self.some_entry(),
            None => return,
        };
        self.note(format!("store {gpa:x} {value:x} {len} emulated {emulated}"));
        let bytes = &value.to_le_bytes()[..len];
        self.judge.before_store(&self.memory, gpa, len);
        if emulated {
            self.watched.write(Gpa(gpa), bytes).unwrap();
        } else {
            self.memory.write(Gpa(gpa), bytes).unwrap();
        }
        self.judge.stored(&self.memory, gpa, len);
    }
}
