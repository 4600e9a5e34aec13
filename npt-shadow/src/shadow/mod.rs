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
//! Rules that hold everywhere:
//!
//! * All changes of shadow entries go through `ShadowMmu::set`, which knows when the TLB has to be flushed: when an entry that was
//!   present has changed in anything but a permission added.
//! * The entries of upper levels allow everything. What the guest's upper levels forbid is in the role of the pages below, and counts at
//!   the leaf.
//! * Accessed and dirty flags of shadow entries are always set, so that the hardware never writes to them; only writable entries for
//!   tables that are out of step begin without the dirty flag, which then tells whether the table has been written. An entry exists only
//!   where the guest's entries have the accessed flag, and is writable only where they have the dirty flag: the first access faults,
//!   and the walker sets the flags.
//! * The PAE root's entries have nothing but P and an address whenever the guest is entered: bit 5, accessed in other entries, is reserved
//!   there, and VMRUN may refuse it (APM vol 2 5.2.3, "PAE Paging"; KVM does). QEMU's walker sets it.
//! * A page that is given up is used again only after a flush. Room is made before tables are touched, and the guest runs (and flushes)
//!   in between.
//! * The number of shadow pages is bounded by [`Config::pages`], and nothing is allocated for the guest's doings besides them.
//! * The hardware has CR0.PG, CR0.WP, CR4.PAE and EFER.NXE set. SMEP and SMAP are the guest's.

mod audit;
mod fault;
mod lists;
mod mutants;
mod pool;
mod role;
mod sync;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use audit::Violation;

use crate::NestedMmu;
use crate::fence::{self, Fenced};
use crate::map::Map;
use crate::room;
use crate::walk;
use crate::watch::WatchedMemory;
use alloc::sync::Arc;
use alloc::vec::Vec;
use hv_core::exit::NestedFault;
use hv_core::flush::Flushes;
use hv_core::mem::GuestMemory;
use hv_core::mmu::{
    Access, Backing, Frames, Mmu, PageFault, PagingState, Resolve, ShadowFault, ShadowFaults,
    ShadowReport, TlbFlush,
};
use hv_core::regs::{Cr0, Cr4};
use hv_core::{Gpa, Gva, Hpa};
use lists::{Lists, Owner, Slot};
use mutants::{Mutant, mutant};
use pool::{PAE_ROOT, PageId, Pool};
use role::{A, ADDRESS, D, Key, NX, P, PS, RW, Reading, Rights, Role, TRACKED, US};

/// How shadows are kept up to date.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    /// A virtual TLB: empty after each load of CR3.
    Vtlb,
    /// Shadow pages are kept, and the tables below them write-protected.
    Cached,
    /// Tables that are written may be out of step until the guest flushes.
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
    /// How many virtual CPUs there are, 1 to [`MAX_CPUS`](hv_core::flush::MAX_CPUS).
    pub cpus: usize,
    /// The most shadow pages that there may be, 4 KiB and about as much again for bookkeeping each; at least [`MIN_PAGES`].
    pub pages: usize,
    /// The guest's RAM ends below this page number: tables can be there.
    pub frames: u64,
    /// The width of the guest's physical addresses, 32 to 52.
    pub physical_bits: u8,
}

impl Config {
    /// How many shadow pages there may be.
    fn most_pages(&self) -> usize {
        self.pages.clamp(MIN_PAGES, MAX_PAGES)
    }

    /// The bytes that the books of shadow paging take. They grow with the guest's RAM; the shadow pages themselves are frames besides, of which
    /// there are as many as the host has, [`MIN_PAGES`] at least and [`Config::pages`] at most.
    #[must_use]
    pub fn books(&self) -> u64 {
        let (pages, frames) = (self.most_pages(), self.frames as usize);
        Pool::bytes(pages)
            + Lists::bytes(pages + 1, frames)
            + room::bytes::<u16>(frames)
            + room::bytes::<u16>(frames.div_ceil(512))
            + room::bytes::<PageId>(UNSYNC)
    }
}

/// The fewest shadow pages that a guest can run with: an instruction may need two pages for each of a handful of addresses.
pub const MIN_PAGES: usize = 128;

/// The most shadow pages: bookkeeping has 30 bits for the number of an entry.
const MAX_PAGES: usize = (1 << 21) - 2;

/// PAE roots must be below 4 GiB, as CR3 has 32 bits then.
const LOW: u64 = 1 << 32;

/// The most tables that are out of step.
const UNSYNC: usize = 64;

/// The shadow tables of one VM with one virtual CPU.
pub struct ShadowMmu<F: Frames> {
    frames: Fenced<F>,
    memory: Arc<WatchedMemory>,
    map: Map,
    pool: Pool,
    lists: Lists,
    algorithm: Algorithm,
    physical_bits: u8,
    /// How many shadow pages there are of each guest frame, as a table. Write-protected if there are any, unless out of step.
    tables: Vec<u16>,
    /// How many frames of each 2 MiB region are tables: large entries are for regions without any.
    table_regions: Vec<u16>,
    /// The guest's paging registers as of the last load.
    state: PagingState,
    reading: Reading,
    /// What the hardware's CR3 points to; None: it has to be made.
    root: Option<PageId>,
    /// What the CPUs have to flush.
    flushes: Flushes,
    /// The pages that are out of step, oldest first.
    unsync: Vec<PageId>,
    /// The last fault and how often it has come again since.
    last: Option<(ShadowFault, u32)>,
    faults: ShadowFaults,
    zapped: u64,
    reclaimed: u64,
}

impl<F: Frames> ShadowMmu<F> {
    /// A shadow MMU of a guest whose paging is off and whose map is empty. None: there is no memory for its books, there are not enough
    /// frames, or there is none below 4 GiB. What was taken for it has then been given back.
    pub fn new(frames: F, memory: Arc<WatchedMemory>, config: Config) -> Option<Self> {
        let mut frames = Fenced::new(frames);
        let pages = config.most_pages();
        let guest_frames = config.frames as usize;
        let lists = Lists::new(pages + 1, guest_frames)?;
        let tables = room::filled(0, guest_frames)?;
        let table_regions = room::filled(0, guest_frames.div_ceil(512))?;
        let unsync = room::for_up_to(UNSYNC)?;
        let root = frames.allocate()?;
        let pool = (root.0 < LOW).then(|| Pool::new(pages, root)).flatten();
        let Some(pool) = pool else {
            frames.free(root);
            return None;
        };
        let mut mmu = Self {
            frames,
            memory,
            map: Map::default(),
            pool,
            lists,
            algorithm: config.algorithm,
            physical_bits: config.physical_bits,
            tables,
            table_regions,
            state: PagingState::unpaged(config.physical_bits),
            reading: Reading::NONE,
            root: Some(PAE_ROOT),
            flushes: Flushes::new(),
            unsync,
            last: None,
            faults: ShadowFaults::default(),
            zapped: 0,
            reclaimed: 0,
        };
        mmu.pool.provide(MIN_PAGES, &mut mmu.frames).then_some(mmu)
    }

    /// Whether there was no memory for what the map should have.
    #[must_use]
    pub fn exhausted(&self) -> bool {
        self.map.exhausted() || self.frames.exhausted()
    }

    /// Puts a [fence] of these empty nested tables, which are in the long-mode format, around the guest. Before anything is
    /// mapped. Returns whether there was memory for it.
    #[must_use]
    pub fn enclose(&mut self, nested: NestedMmu<F>) -> bool {
        let root = self.pool.page(PAE_ROOT).frame;
        let frames = self.pool.ids().map(|id| self.pool.page(id).frame);
        let built = self.frames.build(nested, root, frames);
        self.frames.put_up(!self.reading.long);
        built
    }

    /// The frames of all shadow tables, the PAE root's first.
    #[cfg(test)]
    pub(crate) fn table_frames(&self) -> Vec<Hpa> {
        self.pool.ids().map(|id| self.pool.page(id).frame).collect()
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
        let written = old & (TRACKED | D) == TRACKED | D;
        if old == new || written && old & !D == new {
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
        self.frames.write(page.frame, index, new);
        if written
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

    /// An empty page for `key`.
    fn create(&mut self, key: Key) -> Option<PageId> {
        if !key.role.direct && self.algorithm != Algorithm::Vtlb {
            // Shadows of one table are in step or out of it together.
            self.protect(key.gfn);
            if let Some(count) = self.tables.get_mut(key.gfn as usize) {
                *count += 1;
                if *count == 1 {
                    self.memory.watch(key.gfn, true);
                    self.close_region(key.gfn >> 9);
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

    /// Gives a shadow page up.
    fn zap(&mut self, id: PageId) {
        let Some(key) = self.pool.page(id).key else {
            return;
        };
        for index in 0..512 {
            if self.pool.page(id).present == 0 {
                break;
            }
            self.clear(id, index);
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
        if self.root == Some(id) && !mutant(Mutant::RootKept) {
            self.root = None;
        }
        self.pool.retire(id);
        self.flushes.require();
    }

    fn zap_all(&mut self) {
        for id in self.pool.ids() {
            self.zap(id);
        }
    }

    /// Gives up all shadow pages.
    pub fn empty(&mut self) {
        self.zap_all();
        self.flushes.require();
    }

    /// Gives up all shadows of the table at `gfn`: it is one no longer, or too much trouble.
    fn unshadow(&mut self, gfn: u64) {
        while let Some(id) = self.shadow(gfn, 0) {
            self.zap(id);
            self.zapped += 1;
        }
    }

    /// Gives up `count` pages that have not been used for long. Returns whether there were any.
    pub fn reclaim(&mut self, count: usize) -> bool {
        for done in 0..count {
            let Some(id) = self.pool.oldest(self.root) else {
                return done != 0;
            };
            self.zap(id);
            self.reclaimed += 1;
        }
        true
    }

    /// What entry `index` of the PAE root leads to; `pdpte` is the guest's entry, where it has any.
    fn pae_child(&self, index: usize, pdpte: u64) -> Option<Key> {
        let mut role = Role {
            level: 2,
            direct: false,
            quadrant: 0,
            rights: Rights::ALL,
            reading: self.reading,
        };
        let gfn = if !self.state.cr0.contains(Cr0::PG) {
            role.direct = true;
            (index as u64) << 18
        } else if self.reading.wide {
            if pdpte & P == 0 {
                return None;
            }
            (pdpte & ADDRESS) >> 12
        } else {
            role.quadrant = index as u8;
            (self.state.cr3 & 0xffff_f000) >> 12
        };
        Some(Key { gfn, role })
    }

    /// What the root shadows, with four or five levels.
    fn long_root(&self) -> Key {
        Key {
            gfn: (self.state.cr3 & ADDRESS) >> 12,
            role: Role {
                level: if self.state.cr4.contains(Cr4::LA57) {
                    5
                } else {
                    4
                },
                direct: false,
                quadrant: 0,
                rights: Rights::ALL,
                reading: self.reading,
            },
        }
    }

    /// Makes the root. What has been given up is used again: the TLB is flushed before the guest runs.
    fn make_root(&mut self) -> PageId {
        let key = self.long_root();
        self.flushes.require();
        self.pool.flushed();
        loop {
            if let Some(id) = self.create(key) {
                self.root = Some(id);
                return id;
            }
            // There are at least MIN_PAGES pages, and none of them is the root.
            self.reclaim(1);
            self.pool.flushed();
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

impl<F: Frames> Mmu for ShadowMmu<F> {
    // Not among what every exit under nested paging goes through too.
    #[inline(never)]
    fn root(&mut self, cpu: usize) -> (Hpa, TlbFlush) {
        if let Some(writes) = self.memory.take()
            && !mutant(Mutant::WritesUnnoticed)
        {
            self.written(&writes);
        }
        let root = match self.root {
            Some(root) => root,
            None => self.make_root(),
        };
        if root == PAE_ROOT {
            self.clean_pae_root();
        }
        let flush = self.flushes.acknowledge(cpu);
        if flush != TlbFlush::None {
            self.pool.flushed();
        }
        let fenced = root == PAE_ROOT && self.frames.is_up();
        let frame = if fenced {
            fence::ROOT
        } else {
            self.pool.page(root).frame
        };
        (frame, flush)
    }

    fn generation(&self) -> u64 {
        self.flushes.generation()
    }

    fn fault(&mut self, _fault: &NestedFault) -> Resolve {
        Resolve::Mmio
    }

    fn is_shadow(&self) -> bool {
        true
    }

    fn fence(&mut self, _cpu: usize) -> Option<Hpa> {
        self.frames.root()
    }

    fn page_fault(&mut self, _cpu: usize, fault: &ShadowFault) -> Resolve {
        self.resolve(fault)
    }

    fn cannot_emulate(&mut self, _cpu: usize, fault: &ShadowFault) -> bool {
        self.let_through(fault)
    }

    fn load(&mut self, cpu: usize, state: &PagingState) {
        self.state = *state;
        self.reading = if state.cr0.contains(Cr0::PG) {
            Reading::of(state)
        } else {
            Reading::NONE
        };
        if self.frames.exists() && self.frames.is_up() == self.reading.long {
            self.zap_all();
            self.frames.put_up(!self.reading.long);
        }
        match self.algorithm {
            _ if mutant(Mutant::LoadIgnored) => {}
            Algorithm::Vtlb => self.zap_all(),
            Algorithm::Cached | Algorithm::Unsync => self.sync_all(),
        }
        self.flushes.require_of(cpu);
        if self.reading.long {
            self.root = self.pool.find(&self.long_root());
            if let Some(root) = self.root {
                self.pool.page_mut(root).used = true;
            }
        } else {
            self.load_pae_root();
        }
    }

    fn invalidate_page(&mut self, _cpu: usize, _state: &PagingState, gva: Gva) {
        match self.algorithm {
            _ if mutant(Mutant::InvlpgIgnored) => {}
            Algorithm::Vtlb => self.drop_page(gva.0),
            Algorithm::Cached | Algorithm::Unsync => self.sync_page_of(gva.0),
        }
    }

    fn translate(
        &mut self,
        _mem: &dyn GuestMemory,
        state: &PagingState,
        gva: Gva,
        access: Access,
    ) -> Result<Gpa, PageFault> {
        // Setting accessed and dirty flags needs no notice: a shadow entry depends on them only by lacking.
        walk::translate(self.memory.inner(), state, gva, access)
    }

    fn remap(&mut self, start: Gpa, len: u64, backing: Backing) {
        self.map.set(start, len, backing);
        self.frames.admit(len, backing);
        if mutant(Mutant::RemapKeepsEntries) {
            return;
        }
        self.zapped += self.pool.in_use() as u64;
        self.zap_all();
        self.flushes.require();
    }

    fn frames_used(&self) -> u64 {
        self.pool.frames() as u64 + self.frames.used()
    }

    fn shadow_report(&self) -> Option<ShadowReport> {
        Some(ShadowReport {
            algorithm: self.algorithm.name(),
            faults: self.faults,
            zapped: self.zapped,
            reclaimed: self.reclaimed,
            pages: self.pool.in_use() as u64,
            pages_most: self.pool.most as u64,
            pages_capacity: self.pool.capacity() as u64,
        })
    }
}
