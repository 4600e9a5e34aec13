//! Shadow paging: the hardware walks tables that Umbra makes from the guest's, so that it needs no second stage.
//!
//! A *shadow page* is the shadow of one guest table (or a part of one) in one role; its entries have host-physical
//! addresses and never more rights than the guest's. Shadow entries are made when the hardware faults for the lack of them (`fault`),
//! after the guest's tables have been walked: if the guest's tables do not allow the access either, the guest gets the fault. So the shadow
//! is a cache, like a TLB, and may lack anything. What it has must be as fresh as a TLB has to be (SDM vol 3A 4.10), which is what the
//! three [`Algorithm`]s do in different ways:
//!
//! * **vtlb** throws all shadow pages away whenever the guest loads CR3. Nothing else is ever out of date, in the sense of a TLB.
//! * **cached** keeps shadow pages. The tables that they shadow are write-protected; a write to one is emulated, and the shadow entry
//!   follows. A table that is written again and again, or by user code, or while an event is delivered, is no longer shadowed.
//! * **unsync** lets the guest write a table after the first write, and reads it again when the guest has to flush: at CR3 loads and
//!   INVLPG. A table that was found unchanged is write-protected again.
//!
//! The virtual CPUs of a VM share the shadow pages, as they share the guest's tables; root, paging mode and last fault are each one's own, and
//! so are the shadow pages of **vtlb**, which are a TLB. Which CPU has to flush when is decided by [`Flushes`].
//!
//! Rules that hold everywhere:
//!
//! * All changes of shadow entries go through `ShadowMmu::set`, which knows when TLBs have to be flushed: when an entry that was
//!   present has changed in anything but a permission added. All CPUs then flush before they next enter the guest, whichever of them
//!   caused it: any of them may remember the entry. So a CPU that loads CR3 or executes INVLPG after another one has brought the shadow
//!   up to date still forgets what it remembers from before.
//! * A CPU in the guest may go on with what it remembers, as any CPU may until it is told to flush. It must not where Umbra relies on its having
//!   forgotten: when a table has been write-protected and is to be read, when a dirty flag that tells of later writes has been cleared, or is gone
//!   with its entry, when memory is taken away, and when a page that was given up is used again. There it is kicked first
//!   (`ShadowMmu::shoot_down`).
//! * A table that has been brought up to date is not looked at again before the guest writes it. So what goes into a shadow entry is read after
//!   everything that may bring its own table up to date.
//! * The entries of upper levels allow everything. What the guest's upper levels forbid is in the role of the pages below, and counts at
//!   the leaf.
//! * Accessed and dirty flags of shadow entries are always set, so that the hardware never writes to them; only writable entries for
//!   tables that are out of sync begin without the dirty flag, which then tells whether the table has been written. An entry exists only
//!   where the guest's entries have the accessed flag, and is writable only where they have the dirty flag: the first access faults,
//!   and the walker sets the flags.
//! * The PAE root's entries have nothing but P and an address whenever the guest is entered: bit 5, accessed in other entries, is reserved
//!   there, and VMRUN may refuse it (APM vol 2 5.2.3, "PAE Paging"; KVM does). QEMU's walker sets it.
//! * A page that is given up is used again only when no CPU in the guest can remember it. Room is made before tables are touched, and the CPU
//!   enters (and flushes) in between. The roots of CPUs, and what their PAE roots lead to, are not given up for room.
//! * The number of shadow pages is bounded by [`Config::pages`], and nothing is allocated for the guest's doings besides them.
//! * The hardware has CR0.PG, CR0.WP, CR4.PAE and EFER.NXE set. SMEP and SMAP are the guest's.

mod audit;
mod fault;
mod lists;
mod mmu;
mod mutants;
mod pool;
mod role;
mod root;
mod sync;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use audit::Violation;

use crate::NestedMmu;
use crate::fence::Fenced;
use crate::map::Map;
use crate::room;
use crate::walk;
use crate::watch::WatchedMemory;
use alloc::sync::Arc;
use alloc::vec::Vec;
use hv_core::flush::{Flushes, Kick, MAX_CPUS};
use hv_core::mem::GuestMemory;
use hv_core::mmu::{
    Access, Backing, Frames, Mmu, PageFault, PagingState, Resolve, ShadowFault, ShadowFaults,
    ShadowReport, TlbFlush,
};
use hv_core::regs::{Cr0, Cr4};
use hv_core::trail::{End, Step, Tables, Trail};
use hv_core::{Gpa, Gva, Hpa};
use lists::{Lists, Owner, Slot};
use mutants::{Mutant, mutant};
use pool::{PageId, Pool, pae_root};
use role::{A, ADDRESS, D, Key, NX, P, PS, RW, Reading, Rights, Role, TRACKED, US};
use root::Cpu;

/// How shadows are kept up to date.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    /// A virtual TLB: empty after each load of CR3.
    Vtlb,
    /// Shadow pages are kept, and the tables below them write-protected.
    Cached,
    /// Tables that are written may be out of sync until the guest flushes.
    Unsync,
}

impl Algorithm {
    /// Its name on command lines and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Vtlb => "vtlb",
            Algorithm::Cached => "cached",
            Algorithm::Unsync => "unsync",
        }
    }
}

/// What a shadow MMU is made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// How shadows are kept up to date.
    pub algorithm: Algorithm,
    /// How many virtual CPUs there are, 1 to [`MAX_CPUS`].
    pub cpus: usize,
    /// The most shadow pages that there may be, 4 KiB and about as much again for bookkeeping each; at least [`MIN_PAGES`] for each CPU.
    pub pages: usize,
    /// The guest's RAM ends below this page number: tables can be there.
    pub frames: u64,
    /// The width of the guest's physical addresses, 32 to 52.
    pub physical_bits: u8,
}

impl Config {
    /// How many shadow pages there may be.
    fn most_pages(&self) -> usize {
        self.pages.clamp(self.cpus * MIN_PAGES, MAX_PAGES)
    }

    /// How many frames for tables there have to be: [`MIN_PAGES`] and a PAE root for each CPU.
    #[must_use]
    pub const fn least_frames(&self) -> u64 {
        (self.cpus * (MIN_PAGES + 1)) as u64
    }

    /// The bytes that the books of shadow paging take. They grow with the guest's RAM; the shadow pages themselves are frames besides, of which
    /// there are as many as the host has, [`Config::least_frames`] at least and [`Config::pages`] at most.
    #[must_use]
    pub fn books(&self) -> u64 {
        let (pages, frames) = (self.most_pages(), self.frames as usize);
        Pool::bytes(pages, self.cpus)
            + Lists::bytes(pages + self.cpus, frames)
            + room::bytes::<Cpu>(self.cpus)
            + room::bytes::<u16>(frames)
            + room::bytes::<u16>(frames.div_ceil(512))
            + room::bytes::<PageId>(Limits::USUAL.unsync)
    }
}

/// The fewest shadow pages that a CPU of a guest can run with: an instruction may need two pages for each of a handful of addresses.
pub const MIN_PAGES: usize = 128;

/// The most shadow pages: bookkeeping has 30 bits for the number of an entry, and one number stands for none.
const MAX_PAGES: usize = (1 << 21) - 1 - MAX_CPUS;

/// PAE roots must be below 4 GiB, as CR3 has 32 bits then.
const LOW: u64 = 1 << 32;

/// What keeps the work of a flush small: all tables out of sync are looked at.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// The most shadow pages that are out of sync.
    unsync: usize,
    /// A table that was found unchanged at more flushes in a row is protected again.
    idle: u8,
}

impl Limits {
    const USUAL: Limits = Limits {
        unsync: 64,
        idle: 16,
    };
}

/// The shadow tables of one VM.
pub struct ShadowMmu<F: Frames> {
    frames: Fenced<F>,
    memory: Arc<WatchedMemory>,
    map: Map,
    pool: Pool,
    lists: Lists,
    algorithm: Algorithm,
    physical_bits: u8,
    /// How many shadow pages there are of each guest frame, as a table. Write-protected if there are any, unless out of sync.
    tables: Vec<u16>,
    /// How many frames of each 2 MiB region are tables: large entries are for regions without any.
    table_regions: Vec<u16>,
    cpus: Vec<Cpu>,
    /// What the CPUs have to flush.
    flushes: Flushes,
    /// Makes CPUs leave the guest. None: while the MMU is at work no CPU is there.
    kick: Option<Arc<dyn Kick>>,
    /// The pages that are out of sync, oldest first.
    unsync: Vec<PageId>,
    limits: Limits,
    faults: ShadowFaults,
    zapped: u64,
    reclaimed: u64,
}

impl<F: Frames> ShadowMmu<F> {
    /// A shadow MMU of a guest whose paging is off and whose map is empty. None: there is no memory for its books, there are not enough
    /// frames, or there is none below 4 GiB. What was taken for it has then been given back.
    pub fn new(frames: F, memory: Arc<WatchedMemory>, config: Config) -> Option<Self> {
        let frames = Fenced::new(frames);
        let pages = config.most_pages();
        let guest_frames = config.frames as usize;
        let cpu = Cpu {
            state: PagingState::unpaged(config.physical_bits),
            reading: Reading::NONE,
            root: None,
            last: None,
        };
        let mut mmu = Self {
            lists: Lists::new(pages + config.cpus, guest_frames)?,
            tables: room::filled(0, guest_frames)?,
            table_regions: room::filled(0, guest_frames.div_ceil(512))?,
            unsync: room::for_up_to(Limits::USUAL.unsync)?,
            cpus: room::filled(cpu, config.cpus)?,
            pool: Pool::new(pages, config.cpus)?,
            frames,
            memory,
            map: Map::default(),
            algorithm: config.algorithm,
            limits: Limits::USUAL,
            physical_bits: config.physical_bits,
            flushes: Flushes::new(),
            kick: None,
            faults: ShadowFaults::default(),
            zapped: 0,
            reclaimed: 0,
        };
        for cpu in 0..config.cpus {
            let frame = mmu.frames.allocate()?;
            // From here on it is given back with the others.
            mmu.pool.add_root(frame);
            mmu.cpus[cpu].root = Some(mmu.pae_root(cpu));
            if frame.0 >= LOW {
                return None;
            }
        }
        let least = config.cpus * MIN_PAGES;
        mmu.pool.provide(least, &mut mmu.frames).then_some(mmu)
    }

    /// From now on CPUs may be in the guest while the MMU is at work, and `kick` makes them leave it.
    pub fn set_kick(&mut self, kick: Arc<dyn Kick>) {
        self.kick = Some(kick);
    }

    /// Returns when no CPU in the guest remembers an entry that has lost a right or is gone.
    pub(super) fn shoot_down(&mut self) {
        self.flushes.shoot_down(self.kick.as_deref());
    }

    /// Whether there was no memory for what the map should have.
    #[must_use]
    pub fn exhausted(&self) -> bool {
        self.map.exhausted() || self.frames.exhausted()
    }

    /// From now on there is room for so many pieces of the map. False: there is no memory for them.
    #[must_use]
    pub(crate) fn reserve(&mut self, pieces: usize) -> bool {
        self.map.reserve(pieces)
    }

    /// Puts a [fence](crate::fence) of these empty nested tables, which are in the long-mode format, around the guest. Before anything is
    /// mapped. Returns whether there was memory for it.
    #[must_use]
    pub fn enclose(&mut self, nested: NestedMmu<F>) -> bool {
        let frames = self.pool.ids().map(|id| self.pool.page(id).frame);
        let built = self.frames.build(nested, self.cpus.len(), frames);
        self.raise_fence();
        built
    }

    /// The frames of all shadow tables, the PAE roots' first.
    #[cfg(test)]
    pub(crate) fn table_frames(&self) -> Vec<Hpa> {
        self.pool.ids().map(|id| self.pool.page(id).frame).collect()
    }

    /// The entries on the way to `gva` from the root of CPU `cpu`, as the hardware reads them. None: the CPU has no root.
    #[must_use]
    pub fn trail(&self, cpu: usize, gva: Gva) -> Option<Trail> {
        let mut trail = Trail::new(Tables::Shadow, gva.0);
        let (mut writable, mut user, mut no_execute) = (true, true, false);
        let mut id = self.cpus.get(cpu)?.root?;
        loop {
            let (level, index) = self.place(id, gva.0);
            let entry = self.entry(id, index);
            trail.read(Step {
                level: level.into(),
                place: self.pool.page(id).frame.0 + 8 * index as u64,
                entry,
            });
            if entry & P == 0 {
                trail.end = End::NotPresent;
                return Some(trail);
            }
            // The entries of a PAE root have no rights.
            if !self.pool.is_root(id) {
                writable &= entry & RW != 0;
                user &= entry & US != 0;
                no_execute |= entry & NX != 0;
            }
            let Some(child) = self.child(id, index) else {
                let offset = (1 << (12 + 9 * (u32::from(level) - 1))) - 1;
                trail.end = End::Mapped {
                    to: entry & ADDRESS & !offset | gva.0 & offset,
                    writable,
                    user,
                    no_execute,
                };
                return Some(trail);
            };
            id = child;
        }
    }

    fn slot(id: PageId, index: usize) -> Slot {
        id * 512 + index as Slot
    }

    fn entry(&self, id: PageId, index: usize) -> u64 {
        self.frames.read(self.pool.page(id).frame, index)
    }

    /// Makes entry `index` of page `id` `new`, which `owner` lists.
    fn set(&mut self, id: PageId, index: usize, new: u64, owner: Option<Owner>) {
        let page = self.pool.page_mut(id);
        let old = self.frames.read(page.frame, index);
        let tracked = old & TRACKED != 0;
        if old == new || tracked && old & !D == new {
            return;
        }
        if old & P != 0 {
            self.lists.remove(Self::slot(id, index));
            page.present -= 1;
            // A permission more needs no flush: the CPU forgets an entry that it faults at (SDM vol 3A 4.10.4.1).
            if old | RW != new && !mutant(Mutant::NoFlush) {
                self.flushes.require();
            }
        }
        if new & P != 0 {
            page.present += 1;
            page.known[index / 64] |= 1 << (index % 64);
        }
        // A CPU in the guest may have set the dirty flag meanwhile.
        let last = self.frames.exchange(page.frame, index, new);
        let last = if mutant(Mutant::DirtyLost) { old } else { last };
        if last & (TRACKED | D) == TRACKED | D
            && !mutant(Mutant::WrittenForgotten)
            && let Some(gfn) = self.map.page_of(Hpa(old & ADDRESS))
        {
            self.pool.for_each(gfn, |_, page| page.written = true);
        }
        if let Some(owner) = owner {
            self.lists.insert(owner, Self::slot(id, index));
        }
    }

    fn clear(&mut self, id: PageId, index: usize) {
        self.set(id, index, 0, None);
    }

    fn clear_slot(&mut self, slot: Slot) {
        self.clear(slot / 512, slot as usize % 512);
    }

    /// The page below entry `index` of page `id`, if the entry points to one.
    fn child(&self, id: PageId, index: usize) -> Option<PageId> {
        let entry = self.entry(id, index);
        let leaf = entry & PS != 0
            || self
                .pool
                .page(id)
                .key
                .is_some_and(|key| key.role.level == 1);
        if entry & P == 0 || leaf {
            return None;
        }
        self.pool.at(entry & ADDRESS)
    }

    /// Whether the guest frame is a table with a shadow.
    fn is_table(&self, gfn: u64) -> bool {
        self.tables.get(gfn as usize).is_some_and(|&n| n != 0)
    }

    /// Whether the guest must not write the frame.
    fn is_protected(&self, gfn: u64) -> bool {
        self.is_table(gfn) && !self.pool.of(gfn).any(|id| self.pool.page(id).unsync)
    }

    /// One of the shadow pages of the table at `gfn`.
    fn shadow(&self, gfn: u64, nth: usize) -> Option<PageId> {
        self.shadows(gfn).nth(nth)
    }

    /// The shadow pages of the table at `gfn`.
    fn shadows(&self, gfn: u64) -> impl Iterator<Item = PageId> {
        self.pool
            .of(gfn)
            .filter(|&id| self.pool.page(id).key.is_some_and(|key| !key.role.direct))
    }

    /// An empty page for `key`. If it is for a table, nobody can write that unnoticed any more.
    fn create(&mut self, key: Key) -> Option<PageId> {
        if !key.role.direct && self.algorithm != Algorithm::Vtlb {
            // Shadows of one table are in sync or out of it together.
            self.protect(key.gfn);
            if let Some(count) = self.tables.get_mut(key.gfn as usize) {
                *count += 1;
                if *count == 1 {
                    self.memory.watch(key.gfn, true);
                    self.close_region(key.gfn >> 9);
                    // A CPU in the guest may write the table until it has flushed: only what is read after that stays true.
                    if !mutant(Mutant::ProtectionTrustedEarly) {
                        self.shoot_down();
                    }
                }
            }
        }
        let id = self.pool.take(key, &mut self.frames);
        if id.is_none() {
            self.forget_table(&key);
        }
        id
    }

    /// From now on there is a table in the 2 MiB region.
    fn close_region(&mut self, region: u64) {
        if let Some(tables) = self.table_regions.get_mut(region as usize) {
            *tables += 1;
        }
        while !mutant(Mutant::LargeKept)
            && let Some(slot) = self.lists.first(Owner::Region(region as u32))
        {
            self.clear_slot(slot);
        }
    }

    /// A shadow of a table is no more.
    fn forget_table(&mut self, key: &Key) {
        if key.role.direct || self.algorithm == Algorithm::Vtlb {
            return;
        }
        if let Some(count) = self.tables.get_mut(key.gfn as usize) {
            *count -= 1;
            if *count == 0 {
                self.memory.watch(key.gfn, false);
                if let Some(tables) = self.table_regions.get_mut((key.gfn >> 9) as usize) {
                    *tables -= 1;
                }
            }
        }
    }

    /// Makes entry `index` of page `id` lead nowhere. In a virtual TLB nothing else leads to what is below: it is given up.
    fn unlink(&mut self, id: PageId, index: usize) {
        let child = match self.algorithm {
            Algorithm::Vtlb => self.child(id, index),
            Algorithm::Cached | Algorithm::Unsync => None,
        };
        self.clear(id, index);
        if let Some(child) = child {
            self.zap(child);
        }
    }

    /// Gives a shadow page up.
    fn zap(&mut self, id: PageId) {
        let Some(key) = self.pool.page(id).key else {
            return;
        };
        for index in 0..512 {
            if self.pool.page(id).present == 0 {
                break;
            }
            self.unlink(id, index);
        }
        while !mutant(Mutant::ParentsForgotten)
            && let Some(slot) = self.lists.first(Owner::Page(id))
        {
            self.clear_slot(slot);
        }
        if self.pool.page(id).unsync {
            self.unsync.retain(|&u| u != id);
        }
        self.forget_table(&key);
        for cpu in &mut self.cpus {
            if cpu.root == Some(id) && !mutant(Mutant::RootKept) {
                cpu.root = None;
                if mutant(Mutant::OthersRootKept) {
                    break;
                }
            }
        }
        let generation = self.flushes.require();
        self.pool.retire(id, generation);
    }

    fn zap_all(&mut self) {
        for id in self.pool.ids() {
            self.zap(id);
        }
    }

    /// Gives up all shadow pages. No CPU uses them any more.
    pub fn empty(&mut self) {
        self.zap_all();
        self.flushes.require();
        self.shoot_down();
    }

    /// Gives up all shadows of the table at `gfn`: it is one no longer, or too much trouble.
    fn unshadow(&mut self, gfn: u64) {
        while let Some(id) = self.shadow(gfn, 0) {
            self.zap(id);
            self.zapped += 1;
        }
    }

    /// Gives up `count` pages that have not been used for long, so that they can be used again when the CPU next enters. Returns whether
    /// there were any.
    pub fn reclaim(&mut self, count: usize) -> bool {
        let mut done = 0;
        while done < count
            && let Some(id) = self.oldest()
        {
            self.zap(id);
            done += 1;
        }
        self.reclaimed += done as u64;
        self.shoot_down();
        done != 0
    }

    /// Pages that were given up, and that nobody can remember, are free.
    fn release(&mut self) {
        let settled = if mutant(Mutant::QuarantineTooShort) {
            self.flushes.generation()
        } else {
            self.flushes.settled()
        };
        self.pool.release(settled);
    }

    /// Brings shadows up to date with what Umbra itself has written to the guest's tables.
    fn catch_up(&mut self) {
        if let Some(writes) = self.memory.take()
            && !mutant(Mutant::WritesUnnoticed)
        {
            self.written(&writes);
        }
    }
}

impl<F: Frames> Drop for ShadowMmu<F> {
    fn drop(&mut self) {
        for id in self.pool.ids() {
            self.frames.free(self.pool.page(id).frame);
        }
    }
}
