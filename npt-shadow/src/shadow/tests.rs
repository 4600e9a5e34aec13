//! Random guest programs on shadow tables, against what the manual lets a CPU do.
//!
//! A program stores to its tables (through its own mappings, by DMA, by emulated instructions), loads CR3, executes INVLPG, changes its
//! paging mode and rights, and accesses memory. The hardware is simulated: it walks the *shadow* tables and keeps a TLB that is flushed
//! only when the MMU says so. The judge ([`Judge`]) knows all values that each guest entry has had since the last flush: a translation
//! is right if a CPU could have it from any of them. A page fault must be that of the tables as they are.

use super::mutants::ACTIVE;
use super::*;
use crate::walk::Walk;
use hv_core::mem::NotRam;
use hv_core::mmu::PfError;
use hv_core::testing::{Random, VecMemory};
use std::collections::{BTreeMap, HashMap};

/// Guest frames: six megabytes, so that there are large pages, and which of them are used as tables.
const FRAMES: u64 = 1536;
const TABLES: [u64; 14] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 512, 1026];
const ROM: u64 = 62;
const MMIO: u64 = 63;
/// Where guest frame 0 is on the host.
const RAM: u64 = 0x4000_0000;
/// Where in a frame page-directory-pointer entries are.
const PDPT: u64 = 0xfe0;
/// Shadow pages that there may be.
const POOL: usize = MIN_PAGES;

/// Table frames that are poisoned when they are free.
#[derive(Default)]
struct TestFrames {
    tables: Vec<[u64; 512]>,
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
struct LookOnly<'a>(&'a VecMemory);

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
struct Cached {
    hpa: u64,
    rw: bool,
    us: bool,
    nx: bool,
    dirty: bool,
}

/// Every value that guest entries have had, with the time since when.
#[derive(Default)]
struct Judge {
    /// By guest-physical address of an aligned 4-byte word.
    history: HashMap<u64, Vec<(u64, u32)>>,
    now: u64,
    /// When everything was flushed last.
    flushed: u64,
    /// When single pages were.
    pages: BTreeMap<u64, u64>,
}

impl Judge {
    fn flush_all(&mut self) {
        self.now += 1;
        self.flushed = self.now;
        self.pages.clear();
    }

    fn flush_page(&mut self, va: u64) {
        self.now += 1;
        self.pages.insert(va >> 12, self.now);
    }

    /// Memory at `gpa` is about to be stored to.
    fn before_store(&mut self, memory: &VecMemory, gpa: u64, len: usize) {
        for at in (gpa & !3..gpa + len as u64).step_by(4) {
            let value = memory.read_u32(Gpa(at)).unwrap_or(0);
            self.history.entry(at).or_insert_with(|| vec![(0, value)]);
            // A walk that ended in a fault may have set an accessed flag.
            self.observe(memory, at);
        }
    }

    /// Memory at `gpa` has been stored to.
    fn stored(&mut self, memory: &VecMemory, gpa: u64, len: usize) {
        self.now += 1;
        for at in (gpa & !3..gpa + len as u64).step_by(4) {
            let value = memory.read_u32(Gpa(at)).unwrap_or(0);
            self.history.entry(at).or_default().push((self.now, value));
        }
    }

    /// A word may have been changed by the shadow MMU, which sets flags.
    fn observe(&mut self, memory: &VecMemory, at: u64) {
        let value = memory.read_u32(Gpa(at)).unwrap_or(0);
        if let Some(history) = self.history.get_mut(&at)
            && history.last().is_some_and(|&(_, last)| last != value)
        {
            self.now += 1;
            history.push((self.now, value));
        }
    }

    /// The values of a word since `from`, the one that it had then among them; without accessed and dirty flags' changes these are
    /// few.
    /// Each with the time since when.
    fn words(&self, memory: &VecMemory, gpa: u64, from: u64) -> Vec<(u64, u32)> {
        let now = memory.read_u32(Gpa(gpa)).unwrap_or(0);
        let Some(history) = self.history.get(&gpa) else {
            return vec![(from, now)];
        };
        let first = history.partition_point(|&(at, _)| at <= from);
        // The value at `from` is that of the store before, or what was there at first.
        let mut values: Vec<_> = history[first.saturating_sub(1)..]
            .iter()
            .map(|&(at, value)| (at.max(from), value))
            .collect();
        values.push((self.now.max(from), now));
        values
    }
}

/// An access and what it may come to.
struct Machine {
    memory: Arc<VecMemory>,
    watched: Arc<WatchedMemory>,
    mmu: ShadowMmu<TestFrames>,
    state: PagingState,
    roots: Vec<u64>,
    tlb: BTreeMap<u64, Cached>,
    /// What paging-structure caches remember: tables of level 1, by address bits 47:21.
    tables: BTreeMap<u64, (Hpa, bool, bool, bool)>,
    judge: Judge,
    random: Random,
    cpl: u8,
    /// What the map has besides RAM.
    special: HashMap<u64, Backing>,
    /// The address of the last access.
    va: u64,
    log: Vec<String>,
}

fn backing(gfn: u64) -> Backing {
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
enum Mode {
    Unpaged,
    TwoLevel,
    Pae,
    Long,
}

impl Machine {
    fn new(algorithm: Algorithm, seed: u64) -> Self {
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
    fn map_all(&mut self) {
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

    fn backing(&self, gfn: u64) -> Option<Backing> {
        let special = self.special.get(&gfn).copied();
        (gfn < FRAMES).then(|| special.unwrap_or(backing(gfn)))
    }

    fn map(&mut self, gfn: u64, to: Backing) {
        self.special.insert(gfn, to);
        self.mmu.remap(Gpa(gfn << 12), 0x1000, to);
    }

    fn wide(&self) -> bool {
        self.state.cr4.contains(Cr4::PAE)
    }

    /// An address among those that the tables are filled for.
    fn address(&mut self) -> u64 {
        let wide = self.wide();
        let r = &mut self.random;
        let offset = r.below(0x200) * 8;
        let page = r.below(4);
        if !self.state.cr0.contains(Cr0::PG) {
            return (r.below(FRAMES + 4) << 12) + offset;
        }
        if self.state.efer.contains(Efer::LMA) {
            (r.below(2) << 39 | r.below(2) << 30 | r.below(3) << 21 | page << 12) + offset
        } else if wide {
            (r.below(4) << 30 | r.below(3) << 21 | page << 12) + offset
        } else {
            let table = r.pick(&[0, 1, 256, 1023]);
            let page = r.pick(&[0, 1, 2, 512, 513]);
            (table << 22 | page << 12) + offset
        }
    }

    /// A plausible entry.
    fn some_entry(&mut self) -> u64 {
        let r = &mut self.random;
        let frame = if r.one_in(2) {
            r.pick(&TABLES)
        } else if r.one_in(2) {
            r.below(64)
        } else {
            r.below(FRAMES)
        };
        let mut entry = frame << 12 | r.next() & 0xe7;
        if !r.one_in(6) {
            entry |= P;
        }
        if !r.one_in(4) {
            entry |= RW | US;
        }
        if !r.one_in(3) {
            entry |= A;
        }
        // Large pages: the first, or one of those without a table, mostly.
        if entry & PS != 0 {
            if r.one_in(3) {
                entry = entry & 0xfff | r.below(3) << 21;
            } else {
                entry &= !PS;
            }
        }
        if r.one_in(6) {
            entry |= NX;
        }
        if r.one_in(100) {
            entry |= 1 << r.below(64);
        }
        entry
    }

    /// Where an entry that the addresses use may be.
    fn some_entry_place(&mut self) -> (u64, usize) {
        let wide = self.wide();
        let r = &mut self.random;
        let frame = r.pick(&TABLES) << 12;
        if wide {
            (frame + r.below(4) * 8, 8)
        } else {
            let index = r.pick(&[0, 1, 2, 256, 512, 513, 1023]);
            (frame + index * 4, 4)
        }
    }

    /// Other programs in memory, another mode.
    fn restart(&mut self) {
        let r = &mut self.random;
        let mode = r.pick(&[
            Mode::Long,
            Mode::Long,
            Mode::Pae,
            Mode::TwoLevel,
            Mode::Unpaged,
        ]);
        let wp = !r.one_in(3);
        self.state.cr0 = Cr0::PE;
        self.state.cr0.set(Cr0::PG, mode != Mode::Unpaged);
        self.state.cr0.set(Cr0::WP, wp);
        self.state.cr4 = Cr4::empty();
        self.state.efer = Efer::empty();
        if matches!(mode, Mode::Pae | Mode::Long) {
            self.state.cr4 |= Cr4::PAE;
        }
        if mode == Mode::Long {
            self.state.efer |= Efer::LME | Efer::LMA;
        }
        self.some_rights();
        for _ in 0..120 {
            let ((gpa, len), entry) = (self.some_entry_place(), self.some_entry());
            self.memory
                .write(Gpa(gpa), &entry.to_le_bytes()[..len])
                .unwrap();
        }
        self.map_all();
        self.roots = (0..3).map(|_| self.random.pick(&TABLES) << 12).collect();
        if mode == Mode::Pae {
            // Where no other entries are: these have no accessed flags, and a load of CR3 checks them.
            for root in &mut self.roots {
                *root += PDPT;
                for i in 0..4 {
                    let entry = self.random.pick(&TABLES) << 12 | u64::from(!self.random.one_in(8));
                    self.memory
                        .write(Gpa(*root + 8 * i), &entry.to_le_bytes())
                        .unwrap();
                }
            }
        }
        self.judge = Judge::default();
        // What was written behind the MMU's back is not the guest's doing.
        self.mmu.empty();
        self.load_cr3();
    }

    fn some_rights(&mut self) {
        let r = &mut self.random;
        self.state.efer.set(Efer::NXE, !r.one_in(3));
        let wide = self.state.cr4.contains(Cr4::PAE);
        self.state.cr4.set(Cr4::PSE, wide || !r.one_in(4));
        self.state.cr4.set(Cr4::SMEP, r.one_in(2));
        self.state.cr4.set(Cr4::SMAP, r.one_in(2));
    }

    fn load_cr3(&mut self) {
        self.state.cr3 = self.random.pick(&self.roots.clone());
        self.note(format!("load {:x?}", self.state));
        self.mmu.load(&self.state);
        self.judge.flush_all();
    }

    fn note(&mut self, what: String) {
        if self.log.len() > 60 {
            self.log.remove(0);
        }
        self.log.push(what);
    }

    /// One step of a program.
    fn step(&mut self) {
        match self.random.below(100) {
            0..50 => self.access(),
            50..58 => self.change_mapping(),
            58..62 => self.share_table(),
            // Stores by devices and emulated instructions.
            62..76 => {
                let ((gpa, len), entry) = (self.some_entry_place(), self.some_entry());
                self.dma(gpa, len, entry);
            }
            76..84 => {
                let va = self.address();
                self.invlpg(va);
            }
            84..93 => self.load_cr3(),
            93..95 => {
                self.some_rights();
                let wp = self.random.one_in(2);
                self.state.cr0.set(Cr0::WP, wp);
                self.load_cr3();
            }
            95 => {
                self.mmu.reclaim(3);
            }
            96 => {
                let gfn = 12 + self.random.below(52);
                let ram = Backing::Ram {
                    hpa: Hpa(RAM + (gfn << 12)),
                    writable: self.random.one_in(2),
                };
                let to = self.random.pick(&[Backing::Mmio, ram, ram]);
                self.note(format!("remap {gfn:x} {to:x?}"));
                self.map(gfn, to);
            }
            _ => {
                self.cpl = if self.random.one_in(2) { 3 } else { 0 };
                self.state.ac = self.random.one_in(2);
            }
        }
    }

    /// The walk of the hardware through shadow tables.
    fn hardware_walk(
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
    fn hardware_allows(&self, c: &Cached, access: Access) -> bool {
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

    fn access(&mut self) {
        let va = self.address();
        self.access_at(va, None);
    }

    /// The guest changes the entry that maps an address, as it does: through a mapping of the table if it has one. Then it flushes, or
    /// not, and accesses the address, or not.
    fn change_mapping(&mut self) {
        let va = self.address();
        let Ok(walk) = self.reference(va, Access::default()) else {
            return;
        };
        if walk.top == 0 {
            return;
        }
        self.access_at(va, None);
        let level = if self.random.one_in(4) {
            walk.top.min(walk.leaf + 1)
        } else {
            walk.leaf
        };
        let (bits, size) = if self.wide() { (9, 8) } else { (10, 4) };
        let index = va >> (12 + bits * (level as u64 - 1)) & ((1 << bits) - 1);
        let place = walk.tables[level as usize - 1].0 + index * size;
        let entry = if self.random.one_in(3) {
            walk.entries[level as usize - 1] ^ self.random.pick(&[P, RW, US, A, D, 1 << 12])
        } else {
            self.some_entry()
        };
        self.store_entry(place, entry);
        if self.random.one_in(2) {
            self.invlpg(va);
        }
        if self.random.one_in(2) {
            self.access_at(va, None);
        }
    }

    /// The guest changes an entry and then lets another entry of the table above lead to the same table: what is reached by that is new,
    /// and needs no flush.
    fn share_table(&mut self) {
        let va = self.address();
        let Ok(walk) = self.reference(va, Access::default()) else {
            return;
        };
        if walk.leaf != 1 {
            return;
        }
        let (bits, size) = if self.wide() { (9, 8) } else { (10, 4) };
        let index = |va: u64, level: u64| va >> (12 + bits * level) & ((1 << bits) - 1);
        let other = va ^ 1 << (12 + bits);
        self.access_at(va, None);
        let entry = self.some_entry();
        self.store_entry(walk.tables[0].0 + index(va, 0) * size, entry);
        self.store_entry(walk.tables[1].0 + index(other, 1) * size, walk.entries[1]);
        self.access_at(other ^ 0x1000, None);
        self.access_at(other, None);
    }

    /// Changes an entry through a mapping of the table, if there is one that is soon found.
    fn store_entry(&mut self, place: u64, entry: u64) {
        if place & 0xfff >= PDPT {
            return;
        }
        let write = Access {
            write: true,
            user: self.cpl == 3,
            ..Access::default()
        };
        let mapping = (0..40).find_map(|_| {
            let at = self.address() & !0xfff;
            let walk = self.reference(at, write).ok()?;
            (walk.gpa.0 >> 12 == place >> 12).then_some(at + (place & 0xfff))
        });
        match mapping {
            Some(at) => self.access_at(at, Some(entry)),
            None => self.dma(place, if self.wide() { 8 } else { 4 }, entry),
        }
    }

    fn dma(&mut self, gpa: u64, len: usize, entry: u64) {
        self.note(format!("DMA {gpa:x} {entry:x} {len}"));
        self.judge.before_store(&self.memory, gpa, len);
        self.watched
            .write(Gpa(gpa), &entry.to_le_bytes()[..len])
            .unwrap();
        self.judge.stored(&self.memory, gpa, len);
    }

    fn invlpg(&mut self, va: u64) {
        self.note(format!("invlpg {va:x}"));
        self.mmu.invalidate_page(&self.state, Gva(va));
        self.judge.flush_page(va);
    }

    /// An access; if `value` is given, a write of that.
    fn access_at(&mut self, va: u64, value: Option<u64>) {
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
    fn reference(&self, va: u64, access: Access) -> Result<Walk, PageFault> {
        walk::walk(&LookOnly(&self.memory), &self.state, Gva(va), access)
    }

    /// Accessed and dirty flags on the way to `va` may have been set.
    fn flags_set(&mut self, walk: &Walk) {
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

    fn guest_address(&self, hpa: u64, access: Access) -> u64 {
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
    fn store(&mut self, gpa: u64, value: Option<u64>, emulated: bool) {
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

    /// An access has reached `gpa`: some entries since the last flush must lead there.
    fn judge_success(&self, va: u64, access: Access, gpa: u64) {
        if !self.state.cr0.contains(Cr0::PG) {
            return assert_eq!(gpa, va & 0xffff_ffff);
        }
        let page = self.judge.pages.get(&(va >> 12)).copied().unwrap_or(0);
        let from = self.judge.flushed.max(page);
        let wide = self.wide();
        let long = self.state.efer.contains(Efer::LMA);
        let top = match (wide, long) {
            (true, true) => 4,
            (true, false) => 3,
            _ => 2,
        };
        let cr3 = self.state.cr3 & if top == 3 { !0x1f } else { ADDRESS };
        let start = (cr3, true, true, false);
        let (rights, ok) = self.leads(va, access, gpa, from, top, start);
        assert!(
            ok,
            "{va:x} {access:?} reached {gpa:x}, which no entries since the last flush allow ({rights})"
        );
    }

    /// Whether some values of the entries from `level` on lead to `gpa` with the rights for the access.
    fn leads(
        &self,
        va: u64,
        access: Access,
        gpa: u64,
        from: u64,
        level: u64,
        (table, rw, us, nx): (u64, bool, bool, bool),
    ) -> (u32, bool) {
        let wide = self.wide();
        let (bits, size) = if wide { (9, 8) } else { (10, 4) };
        let long = self.state.efer.contains(Efer::LMA);
        let shift = 12 + bits * (level - 1);
        let at = table + (va >> shift & ((1 << bits) - 1)) * size;
        let low = self.judge.words(&self.memory, at, from);
        let high = if wide {
            self.judge.words(&self.memory, at + 4, from)
        } else {
            vec![(0, 0)]
        };
        let mut tried = 0;
        // A walk reads the upper levels first, or remembers them from before: what is below was read when they were there, or later.
        for (since, entry) in low.iter().flat_map(|&(a, l)| {
            high.iter()
                .map(move |&(b, h)| (a.max(b), u64::from(h) << 32 | u64::from(l)))
        }) {
            tried += 1;
            let pdpte = level == 3 && !long;
            if entry & P == 0 || entry & A == 0 && !pdpte {
                continue;
            }
            let (rw, us, nx) = if pdpte {
                (rw, us, nx)
            } else {
                (
                    rw && entry & RW != 0,
                    us && entry & US != 0,
                    nx || wide && entry & NX != 0,
                )
            };
            let large = level > 1
                && level <= 3
                && !pdpte
                && entry & PS != 0
                && (wide || self.state.cr4.contains(Cr4::PSE));
            if level > 1 && !large {
                let next = (entry & ADDRESS & 0xff_ffff_ffff, rw, us, nx);
                let (n, ok) = self.leads(va, access, gpa, since, level - 1, next);
                tried += n;
                if ok {
                    return (tried, true);
                }
                continue;
            }
            let mask = (1 << shift) - 1;
            let frame = if large && !wide {
                entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32
            } else {
                entry & ADDRESS & !mask
            };
            let user = access.user && !access.implicit;
            let cached = Cached {
                hpa: 0,
                rw: rw || !user && !self.state.cr0.contains(Cr0::WP),
                us,
                nx,
                dirty: true,
            };
            let flagged = !access.write || entry & D != 0;
            if frame | va & mask == gpa && flagged && self.hardware_allows(&cached, access) {
                return (tried, true);
            }
        }
        (tried, false)
    }
}

/// Runs programs.
fn run(algorithm: Algorithm, seed: u64, steps: u32) {
    let mut machine = Machine::new(algorithm, seed);
    for step in 0..steps {
        if step % 250 == 0 {
            machine.restart();
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            machine.step();
            if step % 16 == 0 {
                if machine.mmu.root().1 != TlbFlush::None {
                    machine.tlb.clear();
                    machine.tables.clear();
                }
                machine.mmu.audit().unwrap();
            }
        }));
        if let Err(panic) = result {
            if ACTIVE.get().is_none() {
                for line in &machine.log {
                    println!("{line}");
                }
                println!("{algorithm:?}, seed {seed}, step {step}");
            }
            std::panic::resume_unwind(panic);
        }
    }
}

/// All mistakes.
const MUTANTS: [Mutant; 22] = [
    Mutant::LinkAcceptsAnyChild,
    Mutant::LinkOutOfStep,
    Mutant::RightsNotInRole,
    Mutant::ParentsForgotten,
    Mutant::RootKept,
    Mutant::NoFlush,
    Mutant::WritesUnnoticed,
    Mutant::NoWriteProtection,
    Mutant::TableMappedWritable,
    Mutant::LargeOverTable,
    Mutant::LargeKept,
    Mutant::AccessedIgnored,
    Mutant::DirtyIgnored,
    Mutant::RomWritable,
    Mutant::RemapKeepsEntries,
    Mutant::InvlpgIgnored,
    Mutant::LoadIgnored,
    Mutant::LiftedForUser,
    Mutant::LiftedExecutable,
    Mutant::SmapNotInRole,
    Mutant::SmepNotInRole,
    Mutant::WrittenForgotten,
];

/// Whether the random programs notice `mutant`, with one of the algorithms.
fn is_caught(mutant: Mutant) -> bool {
    let caught = |algorithm, seed| {
        ACTIVE.set(Some(mutant));
        let result = std::panic::catch_unwind(|| run(algorithm, seed, 60_000));
        ACTIVE.set(None);
        result.is_err()
    };
    let algorithms = [Algorithm::Unsync, Algorithm::Cached, Algorithm::Vtlb];
    (1..=12).any(|seed| algorithms.iter().any(|&algorithm| caught(algorithm, seed)))
}

#[test]
fn every_mistake_is_caught() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if ACTIVE.get().is_none() {
            previous(info);
        }
    }));
    let survivors: Vec<_> = MUTANTS
        .into_iter()
        .filter(|&mutant| !is_caught(mutant))
        .collect();
    assert!(survivors.is_empty(), "not caught: {survivors:?}");
}

fn steps() -> u32 {
    std::env::var("UMBRA_STEPS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(300_000)
}

fn seed() -> u64 {
    Random::from_env("UMBRA_SEED", 1).next()
}

/// A page of 2 MiB that the host cannot map as one is changed, and INVLPG executed for one address in it.
fn large_page_goes_as_a_whole() -> bool {
    let mut m = Machine::new(Algorithm::Vtlb, 1);
    m.state.cr0 |= Cr0::PG | Cr0::WP;
    m.state.cr4 |= Cr4::PAE;
    m.state.efer |= Efer::LME | Efer::LMA;
    for table in 0..3u64 {
        let entry = (table + 1) << 12 | P | RW | A;
        m.memory
            .write(Gpa(table << 12), &entry.to_le_bytes())
            .unwrap();
    }
    let large = |gfn: u64| (gfn << 12 | P | RW | A | D | PS).to_le_bytes();
    m.memory.write(Gpa(0x2000), &large(0)).unwrap();
    m.map(ROM, Backing::Mmio);
    m.mmu.load(&m.state);
    let reached = |m: &mut Machine, va: u64| {
        for _ in 0..4 {
            let (root, _) = m.mmu.root();
            m.tables.clear();
            if let Ok((cached, ..)) = m.hardware_walk(root, va, Access::default()) {
                return (cached.hpa - RAM) >> 12;
            }
            let fault = ShadowFault {
                gva: Gva(va),
                error: PfError::empty(),
                state: m.state,
                cpl: 0,
                delivering: false,
                rip: 0,
            };
            assert_eq!(m.mmu.page_fault(&fault), Resolve::Retry);
        }
        unreachable!("the fault is never resolved")
    };
    assert_eq!((reached(&mut m, 0x5000), reached(&mut m, 0x6000)), (5, 6));
    m.memory.write(Gpa(0x2000), &large(512)).unwrap();
    m.mmu.invalidate_page(&m.state, Gva(0x5000));
    reached(&mut m, 0x6000) == 518
}

#[test]
fn a_large_page_goes_as_a_whole() {
    assert!(large_page_goes_as_a_whole());
    ACTIVE.set(Some(Mutant::InvlpgDropsPart));
    let caught = !large_page_goes_as_a_whole();
    ACTIVE.set(None);
    assert!(caught);
}

#[test]
fn random_programs_on_a_virtual_tlb() {
    run(Algorithm::Vtlb, seed(), steps());
}

#[test]
fn random_programs_on_cached_shadows() {
    run(Algorithm::Cached, seed(), steps());
}

#[test]
fn random_programs_on_shadows_out_of_step() {
    run(Algorithm::Unsync, seed(), steps());
}
