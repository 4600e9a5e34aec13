//! The simulated machine: guest memory, the map, CPUs that walk shadow tables and have a TLB each.

use super::choices::Choices;
use super::others::{Kicker, TestCpu, World};
use super::*;
use crate::reference::{self, Outcome};
use crate::walk;
use hv_core::testing::{Random, VecMemory};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

/// Table frames that are poisoned when they are free.
pub(super) struct TestFrames {
    pub(super) tables: Vec<[u64; 512]>,
    /// How many there may be.
    most: usize,
    /// A CPU in the guest sets the dirty flag of an entry that begins without, just before that is exchanged.
    pub(super) dirty_late: bool,
}

impl Frames for TestFrames {
    fn allocate(&mut self) -> Option<Hpa> {
        assert!(
            self.tables.len() < self.most,
            "more frames than the pool has"
        );
        self.tables.push([0; 512]);
        Some(Hpa((self.tables.len() as u64) << 12))
    }
    fn free(&mut self, frame: Hpa) {
        // The pool keeps its frames as long as it lives: a table that is read after this is poison.
        self.tables[(frame.0 >> 12) as usize - 1].fill(u64::MAX);
    }
    fn read(&self, frame: Hpa, index: usize) -> u64 {
        self.tables[(frame.0 >> 12) as usize - 1][index]
    }
    fn write(&mut self, frame: Hpa, index: usize, value: u64) {
        self.tables[(frame.0 >> 12) as usize - 1][index] = value;
    }
    fn exchange(&mut self, frame: Hpa, index: usize, value: u64) -> u64 {
        let mut old = self.read(frame, index);
        if self.dirty_late && old & (TRACKED | RW) == TRACKED | RW {
            old |= D;
        }
        self.write(frame, index, value);
        old
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

/// The machine, of whose CPUs one is at it.
pub(super) struct Machine {
    pub(super) memory: Arc<VecMemory>,
    pub(super) watched: Arc<WatchedMemory>,
    pub(super) mmu: ShadowMmu<TestFrames>,
    /// The CPU whose turn it is, and its number. The others are in the world.
    pub(super) cpu: TestCpu,
    pub(super) number: usize,
    world: Arc<Mutex<World>>,
    /// What the hardware does of its own accord.
    pub(super) weather: Random,
    /// What the program does.
    pub(super) choices: Choices,
    /// The TLB may forget at any time.
    pub(super) forgetful: bool,
    /// What the map has besides RAM.
    pub(super) special: HashMap<u64, Backing>,
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
    pub(super) fn new(algorithm: Algorithm, seed: u64, cpus: usize) -> Self {
        let memory = Arc::new(VecMemory::new((FRAMES << 12) as usize));
        let watched = WatchedMemory::new(memory.clone(), FRAMES).unwrap();
        let config = Config {
            algorithm,
            cpus,
            pages: 0,
            frames: FRAMES,
            physical_bits: 40,
        };
        let frames = TestFrames {
            tables: Vec::new(),
            most: config.least_frames() as usize,
            dirty_late: false,
        };
        let mut mmu = ShadowMmu::new(frames, watched.clone(), config).unwrap();
        let world = Arc::new(Mutex::new(World::new(memory.clone(), cpus, seed)));
        mmu.set_kick(Arc::new(Kicker(world.clone())));
        let mut machine = Self {
            memory,
            watched,
            mmu,
            cpu: TestCpu::default(),
            number: 0,
            world,
            weather: Random::new(!seed),
            choices: Choices::Random(Random::new(seed)),
            forgetful: true,
            special: HashMap::new(),
            log: Vec::new(),
        };
        machine.map_all();
        machine
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        // A test that has failed has no more to say.
        self.world
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    pub(super) fn cpus(&self) -> usize {
        self.world().cpus.len()
    }

    /// It is the turn of CPU `number`.
    pub(super) fn turn(&mut self, number: usize) {
        let mut world = self
            .world
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        core::mem::swap(&mut world.cpus[self.number], &mut self.cpu);
        core::mem::swap(&mut world.cpus[number], &mut self.cpu);
        drop(world);
        self.number = number;
    }

    /// The CPU leaves the guest.
    pub(super) fn leave(&mut self) {
        self.mmu.flushes.leave(self.number);
        self.cpu.inside = None;
    }

    /// The CPU is in the guest. Returns the root that it is on.
    fn enter(&mut self) -> Hpa {
        if let Some(root) = self.cpu.inside {
            return root;
        }
        let (root, flush) = self.mmu.root(self.number);
        self.check_entry(root);
        if flush != TlbFlush::None {
            self.cpu.forget();
        }
        assert!(
            self.mmu.flushes.is_admitted(self.number),
            "nobody has done anything since it asked"
        );
        self.cpu.inside = Some(root);
        root
    }

    /// The guest flushes, in whatever way, on this CPU.
    pub(super) fn flush_all(&mut self) {
        let now = self.world().judge.tick();
        self.cpu.flushed = now;
        self.cpu.pages.clear();
    }

    pub(super) fn flush_page(&mut self, va: u64) {
        let now = self.world().judge.tick();
        self.cpu.pages.insert(va >> 12, now);
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
        self.leave();
        self.special.insert(gfn, to);
        self.mmu.remap(Gpa(gfn << 12), 0x1000, to);
        let world = self.world();
        let inside = world.cpus.iter().filter(|cpu| cpu.inside.is_some());
        for cached in inside.flat_map(|cpu| cpu.tlb.values()) {
            let write = cached.rw;
            let access = Access {
                write,
                ..Access::default()
            };
            self.guest_address(cached.hpa, access);
        }
    }

    pub(super) fn wide(&self) -> bool {
        self.cpu.state.cr4.contains(Cr4::PAE)
    }

    /// VMRUN refuses reserved bits in page-directory-pointer entries (APM vol 2 5.2.3, "PAE Paging").
    fn check_entry(&self, root: Hpa) {
        if self.cpu.state.efer.contains(Efer::LMA) {
            return;
        }
        for index in 0..4 {
            let entry = self.mmu.frames.read(root, index);
            assert!(
                entry & P == 0 || entry & 0x1e6 == 0,
                "reserved bits in a PDPTE: {entry:x}"
            );
        }
    }

    /// The walk of the hardware through shadow tables.
    pub(super) fn hardware_walk(
        &mut self,
        root: Hpa,
        va: u64,
        access: Access,
    ) -> Result<(Cached, u64, usize), bool> {
        let long = self.cpu.state.efer.contains(Efer::LMA);
        let (mut table, mut level) = (root, if long { 4 } else { 3 });
        let (mut rw, mut us, mut nx) = (true, true, false);
        if let Some(known) = self.cpu.tables.get(&(va >> 21)) {
            (table, rw, us, nx) = *known;
            level = 1;
        }
        loop {
            if level == 1 {
                self.cpu.tables.insert(va >> 21, (table, rw, us, nx));
            }
            let mask = if level == 3 && !long { 3 } else { 511 };
            let index = (va >> (12 + 9 * (level - 1)) & mask) as usize;
            let entry = self.mmu.frames.read(table, index);
            if entry & P == 0 {
                return Err(false);
            }
            if level == 3 && !long {
                assert!(table.0 < LOW);
                // As QEMU's walker does, although the bit is reserved there.
                self.mmu.frames.write(table, index, entry | A);
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
            if !hardware_allows(&self.cpu.state, &cached, access) {
                return Err(true);
            }
            return Ok((cached, table.0, index));
        }
    }

    /// An access; if `value` is given, a write of that.
    pub(super) fn access_at(&mut self, va: u64, value: Option<u64>) {
        let told_apart = self.cpu.state.cr4.contains(Cr4::SMAP) && self.cpu.state.ac;
        let r = &mut self.choices;
        let write = value.is_some() || r.one_in(2);
        let user = self.cpu.cpl == 3 && (value.is_some() || !r.one_in(8));
        let access = Access {
            write,
            fetch: !write && r.one_in(3),
            user,
            // At level 0, SMAP with AC set tells explicit from implicit accesses, and the error code does not.
            implicit: !user
                && (self.cpu.cpl == 3 || !told_apart && value.is_none() && r.one_in(10)),
        };
        let delivering = !user && r.one_in(12);
        self.access_as(va, access, delivering, value);
    }

    /// An access of this kind; a write is of `value`, if that is given.
    pub(super) fn access_as(
        &mut self,
        va: u64,
        access: Access,
        delivering: bool,
        value: Option<u64>,
    ) {
        let mut error = PfError::empty();
        error.set(PfError::W, access.write);
        error.set(PfError::U, access.user);
        error.set(PfError::I, access.fetch);
        self.note(format!(
            "CPU {}: access {va:x} {access:?} cpl {} {delivering}",
            self.number, self.cpu.cpl
        ));
        // The table of a stuck fault resolves late.
        for round in 0..200 {
            let root = self.enter();
            if self.forgetful {
                let r = &mut self.weather;
                self.cpu.tlb.retain(|_, _| !r.one_in(50));
                self.cpu.tables.retain(|_, _| !r.one_in(10));
            }
            let page = va >> 12;
            let hit = self.cpu.tlb.get(&page).copied().filter(|c| {
                hardware_allows(&self.cpu.state, c, access) && (c.dirty || !access.write)
            });
            let found = match hit {
                Some(cached) => Ok(cached),
                None => {
                    self.cpu.tlb.remove(&page);
                    self.hardware_walk(root, va, access)
                        .map(|(cached, table, index)| {
                            if access.write {
                                let frame = Hpa(table);
                                let entry = self.mmu.frames.read(frame, index);
                                self.mmu.frames.write(frame, index, entry | D);
                            }
                            self.cpu.tlb.insert(page, cached);
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
                    if self.weather.one_in(2) {
                        self.leave();
                    }
                    return;
                }
                Err(present) => present,
            };
            self.leave();
            self.cpu.tlb.remove(&page);
            self.cpu.tables.remove(&(va >> 21));
            error.set(PfError::P, present);
            let fault = ShadowFault {
                gva: Gva(va),
                error,
                state: self.cpu.state,
                cpl: self.cpu.cpl,
                delivering,
                rip: 0,
            };
            let before = self.reference(va, access);
            self.judge_trails(root, va, access, &before);
            let resolve = self.mmu.page_fault(self.number, &fault);
            for step in &before.steps {
                let judge = &mut self.world().judge;
                judge.observe(&self.memory, step.place);
                judge.observe(&self.memory, step.place + 4);
            }
            let before = before.result;
            match resolve {
                Resolve::Retry => {}
                Resolve::Guest(fault) => {
                    assert_eq!(fault.gva.0, va);
                    assert_eq!(Err(fault.error), before, "{fault:x?}, and the tables say");
                    return;
                }
                Resolve::Mmio => {
                    let gpa = before.expect("MMIO where the tables do not allow the access");
                    assert!(
                        match self.backing(gpa >> 12) {
                            Some(Backing::Ram { writable, .. }) => access.write && !writable,
                            _ => true,
                        },
                        "RAM at {gpa:x} is not to be emulated",
                    );
                    return;
                }
                Resolve::Emulate => {
                    assert!(access.write, "only writes are emulated");
                    let lifted = !self.cpu.state.cr0.contains(Cr0::WP)
                        && self.cpu.state.cr4.contains(Cr4::SMAP);
                    assert!(
                        !delivering || lifted,
                        "there is no instruction to be emulated"
                    );
                    let gpa = before.expect("emulated where the tables do not allow it");
                    self.store(gpa, value, true);
                    return;
                }
            }
            assert!(round < 199, "the fault is never resolved");
        }
    }

    /// What a debugger is told of a fault: the guest's tables as the reference reads them, and the shadow as the hardware does.
    fn judge_trails(&mut self, root: Hpa, va: u64, access: Access, expected: &Outcome) {
        let case = || format!("{va:x} {access:?} {expected:x?}");
        let told = walk::trail(&*self.memory, &self.cpu.state, Gva(va), access);
        expected.assert_told(&told, &case);
        let Some(told) = self.mmu.trail(self.number, Gva(va)) else {
            return;
        };
        // The hardware without its memory of the upper levels.
        let known = core::mem::take(&mut self.cpu.tables);
        let found = self.hardware_walk(root, va, access);
        self.cpu.tables = known;
        match (told.end, found) {
            (End::NotPresent, Err(false)) => {}
            (End::Mapped { .. }, Err(true)) => {}
            (
                End::Mapped {
                    to,
                    writable,
                    user,
                    no_execute,
                },
                Ok((cached, table, index)),
            ) => {
                assert_eq!(to, cached.hpa | va & 0xfff, "{told:x?}");
                let rights = (cached.rw, cached.us, cached.nx);
                assert_eq!((writable, user, no_execute), rights, "{told:x?}");
                let last = told.steps().last().unwrap();
                assert_eq!(last.place, table + 8 * index as u64, "{told:x?}");
                assert_eq!(last.entry, self.mmu.frames.read(Hpa(table), index));
            }
            (end, found) => panic!("{end:?} is told, and the hardware finds {found:?}: {told:x?}"),
        }
    }

    /// What the tables as they are make of the access.
    pub(super) fn reference(&self, va: u64, access: Access) -> Outcome {
        let read = |gpa, size| self.memory.read_value(Gpa(gpa), size as usize).ok();
        reference::walk(read, &self.cpu.state, va, access)
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
            None if matters || self.choices.one_in(6) => self.some_entry(),
            None => return,
        };
        self.note(format!("store {gpa:x} {value:x} {len} emulated {emulated}"));
        let bytes = &value.to_le_bytes()[..len];
        self.world().judge.before_store(&self.memory, gpa, len);
        if emulated {
            self.watched.write(Gpa(gpa), bytes).unwrap();
        } else {
            self.memory.write(Gpa(gpa), bytes).unwrap();
        }
        self.world().judge.stored(&self.memory, gpa, len);
    }
}

/// Whether the hardware lets the access pass: CR0.WP and EFER.NXE are set.
pub(super) fn hardware_allows(state: &PagingState, c: &Cached, access: Access) -> bool {
    let paging = state.cr0.contains(Cr0::PG);
    let (smep, smap) = (
        paging && state.cr4.contains(Cr4::SMEP),
        paging && state.cr4.contains(Cr4::SMAP),
    );
    let user = access.user && !access.implicit;
    let right = if user {
        c.us
    } else if access.fetch {
        !(c.us && smep)
    } else {
        !(c.us && smap) || (state.ac && !access.implicit)
    };
    right && !(access.fetch && c.nx) && (!access.write || c.rw)
}
