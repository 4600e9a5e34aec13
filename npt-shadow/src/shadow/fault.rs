//! Page faults on shadow tables.

use super::role::{Leaf, Target, pages_below};
use super::*;
use crate::walk::Walk;
use hv_core::mmu::PfError;

/// Shadow pages that one fault may need: a table for each level, and direct pages below a large page of 1 GiB.
const PAGES_A_FAULT: usize = 6;

/// A fault that comes again so often is not repaired by what is done about it.
const REPEATS: u32 = 64;

/// Writes to a table after which its shadow is given up, if it has not been used meanwhile.
const FLOOD: u8 = 3;

/// Entries that are filled together.
const AROUND: usize = 16;

impl<F: Frames> ShadowMmu<F> {
    pub(super) fn resolve(&mut self, cpu: usize, fault: &ShadowFault) -> Resolve {
        let user = fault.error.contains(PfError::U);
        let access = Access {
            write: fault.error.contains(PfError::W),
            fetch: fault.error.contains(PfError::I),
            user,
            implicit: !user && fault.cpl == 3,
        };
        let walk = match self.walk(fault, access) {
            Ok(walk) => walk,
            Err(fault) => {
                self.faults.guest += 1;
                return Resolve::Guest(fault);
            }
        };
        let gfn = walk.gpa.0 >> 12;
        if !self
            .map
            .get(gfn)
            .is_some_and(|p| p.writable || !access.write)
        {
            self.faults.mmio += 1;
            return Resolve::Mmio;
        }
        if self.repeats(cpu, fault) {
            return self.stuck(cpu, fault, access);
        }
        // Only a supervisor with CR0.WP clear writes where it is not allowed.
        let lifted = access.write && !walk.rw;
        if lifted && walk.us && fault.state.cr4.contains(Cr4::SMAP) {
            // The entry would have to be a supervisor's, which SMAP does not protect.
            self.faults.write_protect_off += 1;
            return Resolve::Emulate;
        }
        if access.write
            && self.is_protected(gfn)
            && let Some(resolve) = self.table_write(gfn, fault, &walk)
        {
            return resolve;
        }
        *if lifted {
            &mut self.faults.write_protect_off
        } else if walk.set_dirty {
            &mut self.faults.dirty
        } else if walk.set_accessed {
            &mut self.faults.accessed
        } else {
            &mut self.faults.fill
        } += 1;
        self.fill(cpu, fault.gva.0, &walk, lifted);
        Resolve::Retry
    }

    fn walk(&self, fault: &ShadowFault, access: Access) -> Result<Walk, PageFault> {
        walk::walk(self.memory.inner(), &fault.state, fault.gva, access)
    }

    /// Whether this fault has come too often without another between.
    fn repeats(&mut self, cpu: usize, fault: &ShadowFault) -> bool {
        let last = &mut self.cpus[cpu].last;
        let count = match last {
            Some((last, count)) if last == fault => *count + 1,
            _ => 0,
        };
        *last = Some((*fault, count));
        count > REPEATS
    }

    /// The guest's tables allow what the hardware does not. With EFLAGS.AC set, SMAP lets explicit accesses pass and implicit ones
    /// not, and the error code does not tell which this was.
    fn stuck(&mut self, cpu: usize, fault: &ShadowFault, access: Access) -> Resolve {
        self.cpus[cpu].last = None;
        let implicit = Access {
            implicit: true,
            ..access
        };
        match self.walk(fault, implicit) {
            Err(fault) if !access.user => Resolve::Guest(fault),
            _ => Resolve::Emulate,
        }
    }

    /// The guest writes a table that is protected. None: it is no longer.
    fn table_write(&mut self, gfn: u64, fault: &ShadowFault, walk: &Walk) -> Option<Resolve> {
        let on_the_way = walk.entries.iter().zip(&walk.tables);
        let in_use = on_the_way
            .filter(|(entry, _)| **entry & P != 0)
            .any(|(_, table)| table.0 >> 12 == gfn);
        let (mut orphan, mut most) = (true, 0);
        let (lists, cpus) = (&self.lists, &self.cpus);
        self.pool.for_each(gfn, |id, page| {
            page.writes = page.writes.saturating_add(1);
            most = most.max(page.writes);
            let is_root = cpus.iter().any(|cpu| cpu.root == Some(id));
            orphan &= !is_root && lists.first(Owner::Page(id)).is_none();
        });
        if orphan && !in_use {
            self.faults.table_write += 1;
            self.unshadow(gfn);
            return None;
        }
        if self.algorithm == Algorithm::Unsync {
            self.faults.resync += 1;
            self.unsync_table(gfn);
            return None;
        }
        self.faults.table_write += 1;
        let no_table = fault.delivering || fault.error.contains(PfError::U) || most > FLOOD;
        if no_table && !in_use {
            self.unshadow(gfn);
            None
        } else if fault.delivering {
            self.unsync_table(gfn);
            None
        } else {
            Some(Resolve::Emulate)
        }
    }

    /// The emulator does not have the instruction that writes here: the hardware has to execute it.
    pub(super) fn let_through(&mut self, fault: &ShadowFault) -> bool {
        let access = Access {
            write: true,
            user: fault.error.contains(PfError::U),
            ..Access::default()
        };
        let Ok(walk) = self.walk(fault, access) else {
            return false;
        };
        let gfn = walk.gpa.0 >> 12;
        let protected = self.is_protected(gfn);
        if protected {
            self.unsync_table(gfn);
        }
        protected
    }

    /// Makes the shadow entries for an access that the guest's tables allow.
    fn fill(&mut self, cpu: usize, va: u64, walk: &Walk, lifted: bool) {
        if self.pool.available() < PAGES_A_FAULT {
            // What is given up can be used again when this CPU enters: the guest will fault once more.
            self.reclaim(PAGES_A_FAULT.max(self.pool.capacity() / 16));
            return;
        }
        let Some(mut id) = self.cpus[cpu].root else {
            return;
        };
        let mut level = if self.pool.is_root(id) {
            3
        } else {
            walk.top as u8
        };
        loop {
            let index = (va >> (12 + 9 * (u32::from(level) - 1)) & 511) as usize;
            let entry = walk
                .entries
                .get(usize::from(level) - 1)
                .copied()
                .unwrap_or(0);
            let target = match self.pool.page(id).key {
                None => self
                    .pae_child(cpu, index & 3, entry)
                    .map_or(Target::Nothing, Target::Table),
                Some(key) if key.role.direct => key.direct(index),
                Some(key) if !self.is_still(&key, index, entry) => return,
                Some(key) => key.target(index, entry, self.physical_bits),
            };
            let index = if self.pool.is_root(id) {
                index & 3
            } else {
                index
            };
            let below = match target {
                Target::Nothing => return,
                Target::Table(key) => key,
                Target::Page(mut leaf) => {
                    let Some(key) = self.pool.page(id).key else {
                        return;
                    };
                    if lifted && !key.role.direct {
                        lift(&mut leaf, key.role.reading.smep);
                    }
                    if level == 1 {
                        self.set_page(id, index, &leaf, 1);
                        return self.fill_around(id, index);
                    }
                    if self.fits_large(&leaf, level) {
                        self.set_page(id, index, &leaf, level);
                        return;
                    }
                    key.below(&leaf)
                }
            };
            let Some(next) = self.link(id, index, below, entry) else {
                return;
            };
            (id, level) = (next, level - 1);
        }
    }

    /// Whether the guest's entry that belongs to entry `index` of a shadow page is what the walk has found. Between the walk and the
    /// write protection of its table, another CPU may have changed it, and nobody would notice later: the guest faults again. In ROM it
    /// does not have the flags that the walk could not set.
    fn is_still(&self, key: &Key, index: usize, entry: u64) -> bool {
        let size = key.entry_size();
        let at = Gpa((key.gfn << 12) + key.guest_index(index) as u64 * size);
        let Ok(now) = self.memory.inner().read_value(at, size as usize) else {
            return false;
        };
        let rom = || self.map.get(key.gfn).is_some_and(|place| !place.writable);
        now == entry || now | A | D == entry | A | D && rom() || mutant(Mutant::WalkBelieved)
    }

    /// Makes entry `index` of page `id` point to the page for `key`, if the guest's is still `entry`.
    fn link(&mut self, id: PageId, index: usize, key: Key, entry: u64) -> Option<PageId> {
        if let Some(child) = self.child(id, index)
            && (self.pool.page(child).key == Some(key) || mutant(Mutant::LinkAcceptsAnyChild))
        {
            let page = self.pool.page_mut(child);
            (page.used, page.writes) = (true, 0);
            return Some(child);
        }
        let known = if self.algorithm == Algorithm::Vtlb {
            // What is out of date elsewhere may not come in here.
            None
        } else {
            self.pool.find(&key)
        };
        let child = match known {
            Some(child) => {
                self.sync_before_link(child);
                child
            }
            None => {
                let child = self.create(key)?;
                if key.role.direct && key.role.level == 1 {
                    for i in 0..512 {
                        if let Target::Page(leaf) = key.direct(i) {
                            self.set_page(child, i, &leaf, 1);
                        }
                    }
                }
                child
            }
        };
        // The table that `id` shadows may have been brought up to date by this, and is not looked at again before the guest writes it.
        if self
            .pool
            .page(id)
            .key
            .is_some_and(|parent| !parent.role.direct && !self.is_still(&parent, index, entry))
            && !mutant(Mutant::LinkBelieved)
        {
            return None;
        }
        let page = self.pool.page_mut(child);
        (page.used, page.writes) = (true, 0);
        let frame = page.frame.0;
        let entry = frame | self.table_flags(id);
        self.unlink(id, index);
        self.set(id, index, entry, Some(Owner::Page(child)));
        Some(child)
    }

    /// What an entry of page `id` has besides the address of a table.
    pub(super) fn table_flags(&self, id: PageId) -> u64 {
        if self.pool.is_root(id) {
            P
        } else {
            P | RW | US | A
        }
    }

    /// Whether a shadow entry at `level` can map all of the page: RAM in one piece, without a table.
    pub(super) fn fits_large(&self, leaf: &Leaf, level: u8) -> bool {
        let pages = pages_below(2);
        level == 2
            && leaf.gfn & (pages - 1) == 0
            && self
                .table_regions
                .get((leaf.gfn >> 9) as usize)
                .is_some_and(|&tables| tables == 0 || mutant(Mutant::LargeOverTable))
            && self.map.get(leaf.gfn).is_some_and(|place| {
                place.writable && place.pages >= pages && place.hpa.0 & ((pages << 12) - 1) == 0
            })
    }

    /// Makes entry `index` of page `id` map a page, or nothing if there is no memory.
    pub(super) fn set_page(&mut self, id: PageId, index: usize, leaf: &Leaf, level: u8) {
        let Some(place) = self.map.get(leaf.gfn) else {
            return self.clear(id, index);
        };
        let rights = &leaf.rights;
        // A lifted page is the only one that is written without a dirty flag's having been looked at; the walker has set it.
        let rw = rights.rw
            && (leaf.dirty || mutant(Mutant::DirtyIgnored))
            && (place.writable || mutant(Mutant::RomWritable))
            && (!self.is_protected(leaf.gfn) || mutant(Mutant::TableMappedWritable));
        let tracked = rw && self.is_table(leaf.gfn);
        let mut entry = place.hpa.0 | P | A;
        for (right, bit) in [
            (rw, RW),
            (tracked, TRACKED),
            (!tracked, D),
            (rights.us, US),
            (rights.nx, NX),
            (level > 1, PS),
        ] {
            if right {
                entry |= bit;
            }
        }
        let owner = match level {
            1 => Owner::Frame(leaf.gfn as u32),
            _ => Owner::Region((leaf.gfn >> 9) as u32),
        };
        let listed = rw && leaf.gfn < self.tables.len() as u64;
        self.set(id, index, entry, listed.then_some(owner));
    }

    /// Fills entries near one that was needed: they will be needed too.
    fn fill_around(&mut self, id: PageId, index: usize) {
        let Some(key) = self.pool.page(id).key.filter(|key| !key.role.direct) else {
            return;
        };
        let first = index & !(AROUND - 1);
        let size = key.entry_size() as usize;
        let table = Gpa(key.gfn << 12);
        let at = table.add((key.guest_index(first) * size) as u64);
        let mut bytes = [0; AROUND * 8];
        let bytes = bytes.get_mut(..AROUND * size).unwrap_or_default();
        if self.memory.inner().read(at, bytes).is_err() {
            return;
        }
        for (i, entry) in bytes.chunks(size).enumerate() {
            let at = first + i;
            if entry.iter().any(|&b| b != 0)
                && self.entry(id, at) == 0
                && let Target::Page(leaf) = key.target(at, value(entry), self.physical_bits)
            {
                self.set_page(id, at, &leaf, 1);
            }
        }
    }
}

/// A supervisor writes a page that is read-only, with CR0.WP clear. The hardware's is set: the page becomes the supervisor's and
/// writable, until the user's next access faults. The supervisor may execute it only if it could before: with SMEP not, if it is the user's.
fn lift(leaf: &mut Leaf, smep: bool) {
    leaf.rights = Rights {
        rw: true,
        us: mutant(Mutant::LiftedForUser),
        nx: leaf.rights.nx || leaf.rights.us && smep && !mutant(Mutant::LiftedExecutable),
    };
}

/// A little-endian guest entry of 4 or 8 bytes.
pub(super) fn value(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, &b| value << 8 | u64::from(b))
}
