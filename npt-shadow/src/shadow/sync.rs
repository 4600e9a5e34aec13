//! Bringing shadows up to date with the guest's tables.

use super::fault::value;
use super::role::Target;
use super::*;
use crate::watch::Writes;

impl<F: Frames> ShadowMmu<F> {
    /// Umbra itself has written to tables: an emulated instruction, or a device.
    pub(super) fn written(&mut self, writes: &Writes) {
        if writes.more {
            return self.zap_all();
        }
        for &(start, len) in writes.list() {
            let end = start.saturating_add(len);
            for gfn in start >> 12..=(end - 1) >> 12 {
                let page = gfn << 12;
                let (from, to) = (start.max(page) - page, end.min(page + 0x1000) - page);
                self.table_written(gfn, from as usize, to as usize);
            }
        }
    }

    /// Bytes `from` to `to` of the table at `gfn` have been written.
    fn table_written(&mut self, gfn: u64, from: usize, to: usize) {
        if !self.is_table(gfn) {
            return;
        }
        let mut table = [0; 0x1000];
        if self
            .memory
            .inner()
            .read(Gpa(gfn << 12), &mut table)
            .is_err()
        {
            return self.unshadow(gfn);
        }
        let mut i = 0;
        // Entries change, and pages of other tables with them, but not which pages there are.
        while let Some(id) = self.shadow(gfn, i) {
            i += 1;
            let Some(key) = self.pool.page(id).key else {
                continue;
            };
            let size = key.entry_size() as usize;
            for (n, bytes) in table.chunks(size).enumerate() {
                if n * size >= to || (n + 1) * size <= from {
                    continue;
                }
                let (first, count) = key.shadow_entries(n);
                for index in first..first + count {
                    self.sync_entry(id, &key, index, value(bytes));
                }
            }
        }
    }

    /// Brings entry `index` of page `id` up to date; the guest's entry is `entry`.
    fn sync_entry(&mut self, id: PageId, key: &Key, index: usize, entry: u64) {
        let old = self.entry(id, index);
        if old == 0 && entry & P == 0 {
            return;
        }
        let child = self.child(id, index);
        let below = |id| self.pool.page(id).key;
        match key.target(index, entry, self.physical_bits) {
            Target::Table(table) if child.and_then(below) == Some(table) => {}
            Target::Page(leaf) if key.role.level == 1 => self.set_page(id, index, &leaf, 1),
            // An entry that points to direct pages for the parts of a large page.
            Target::Page(leaf)
                if child.is_some()
                    && child.and_then(below) == Some(key.below(&leaf))
                    && !self.fits_large(&leaf, key.role.level) => {}
            Target::Page(leaf)
                if old != 0 && child.is_none() && self.fits_large(&leaf, key.role.level) =>
            {
                self.set_page(id, index, &leaf, key.role.level);
            }
            _ => self.clear(id, index),
        }
    }

    /// Brings a page up to date. Returns whether the table has been written since the last time.
    fn sync_page(&mut self, id: PageId) -> bool {
        let Some(key) = self.pool.page(id).key else {
            return false;
        };
        if self.take_dirty(key.gfn) {
            // All shadows of the table are to know.
            self.pool.for_each(key.gfn, |_, page| page.written = true);
        }
        if !core::mem::take(&mut self.pool.page_mut(id).written) {
            return false;
        }
        // A CPU in the guest that remembers the flag does not set it again, and one that remembers an entry that is gone may use it: what
        // these write would never be noticed, until they have flushed.
        if !mutant(Mutant::DirtyTrustedEarly) {
            self.shoot_down();
        }
        let size = key.entry_size();
        for word in 0..8 {
            let mut bits = self.pool.page(id).known[word];
            while bits != 0 {
                let index = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let at = Gpa((key.gfn << 12) + key.guest_index(index) as u64 * size);
                // A table that is no memory any more has no shadow entries.
                if let Ok(entry) = self.memory.inner().read_value(at, size as usize) {
                    self.sync_entry(id, &key, index, entry);
                }
            }
        }
        true
    }

    /// Whether the guest has written the frame since the last call.
    fn take_dirty(&mut self, gfn: u64) -> bool {
        let mut dirty = false;
        let mut next = self.lists.first(Owner::Frame(gfn as u32));
        while let Some(slot) = next {
            next = self.lists.next(slot);
            let (id, index) = (slot / 512, slot as usize % 512);
            let entry = self.entry(id, index);
            if entry & (TRACKED | D) == TRACKED | D {
                dirty = true;
                // The CPU sets the flag again only when it has forgotten that it was set.
                let frame = self.pool.page(id).frame;
                self.frames.write(frame, index, entry & !D);
                self.flushes.require();
            }
        }
        dirty
    }

    /// Lets the guest write the table at `gfn` from now on. Its shadows are out of sync until the guest flushes.
    pub(super) fn unsync_table(&mut self, gfn: u64) {
        let count = self.shadows(gfn).count();
        if count > self.limits.unsync {
            return self.unshadow(gfn);
        }
        while self.unsync.len() + count > self.limits.unsync
            && let Some(key) = self.unsync.first().and_then(|&id| self.pool.page(id).key)
        {
            self.protect(key.gfn);
        }
        let unsync = &mut self.unsync;
        self.pool.for_each(gfn, |id, page| {
            (page.unsync, page.written, page.idle) = (true, false, 0);
            unsync.push(id);
        });
    }

    /// Forbids the guest to write the frame, and brings the shadows of the table at `gfn`, if any, back in sync.
    pub(super) fn protect(&mut self, gfn: u64) {
        // What a guest entry points to need not exist.
        let exists = gfn < self.tables.len() as u64;
        while exists
            && !mutant(Mutant::NoWriteProtection)
            && let Some(slot) = self.lists.first(Owner::Frame(gfn as u32))
        {
            let (id, index) = (slot / 512, slot as usize % 512);
            let entry = self.entry(id, index);
            self.set(id, index, entry & !RW, None);
        }
        // All are in sync before the first is read: it may map the table itself.
        let unsync = &mut self.unsync;
        self.pool.for_each(gfn, |id, page| {
            page.unsync = false;
            unsync.retain(|&other| other != id);
        });
        let mut i = 0;
        while let Some(id) = self.shadow(gfn, i) {
            i += 1;
            self.sync_page(id);
        }
    }

    /// The guest flushes everything: all tables out of sync are read again, and those that it has not written protected.
    pub(super) fn sync_all(&mut self) {
        let mut some_idle = false;
        for i in 0..self.unsync.len() {
            if let Some(&id) = self.unsync.get(i) {
                let written = self.sync_page(id);
                let page = self.pool.page_mut(id);
                page.idle = if written { 0 } else { page.idle + 1 };
                some_idle |= page.idle > self.limits.idle;
            }
        }
        if some_idle {
            self.end_idle();
        }
    }

    /// Ends the time out of sync of tables that the guest does not write any more. The list of these may lose several pages at a time, as a
    /// table can have several shadows.
    #[cold]
    fn end_idle(&mut self) {
        let is_idle = |mmu: &Self, id: PageId| mmu.pool.page(id).idle > mmu.limits.idle;
        while let Some(id) = self.unsync.iter().copied().find(|&id| is_idle(self, id)) {
            let key = self.pool.page(id).key;
            let orphan = !self.is_root(id) && self.lists.first(Owner::Page(id)).is_none();
            match key {
                Some(key) if !orphan => self.protect(key.gfn),
                Some(_) => {
                    self.zap(id);
                    self.zapped += 1;
                }
                None => self.unsync.retain(|&other| other != id),
            }
        }
    }

    /// A page is about to be linked. For the guest, what it leads to was not reachable there, so that it needs no flush: nothing in it
    /// may be out of date.
    pub(super) fn sync_before_link(&mut self, child: PageId) {
        if mutant(Mutant::LinkOutOfStep) {
            return;
        }
        let page = self.pool.page(child);
        if page.key.is_some_and(|key| key.role.level == 1) {
            if page.unsync {
                self.sync_page(child);
            }
            return;
        }
        for i in 0..self.unsync.len() {
            if let Some(&id) = self.unsync.get(i) {
                self.sync_page(id);
            }
        }
    }

    /// The guest flushes one page, and with it whatever the CPU remembers of the tables above (SDM vol 3A 4.10.4.1).
    pub(super) fn sync_page_of(&mut self, cpu: usize, va: u64) {
        for i in 0..self.unsync.len() {
            if let Some(&id) = self.unsync.get(i)
                && self.pool.page(id).key.is_some_and(|key| key.role.level > 1)
            {
                self.sync_page(id);
            }
        }
        let Some((id, index)) = self.last_entry(cpu, va) else {
            return;
        };
        let page = self.pool.page(id);
        let Some(key) = page.key.filter(|key| page.unsync && key.role.level == 1) else {
            return;
        };
        let size = key.entry_size();
        let at = Gpa((key.gfn << 12) + key.guest_index(index) as u64 * size);
        if let Ok(entry) = self.memory.inner().read_value(at, size as usize) {
            self.sync_entry(id, &key, index, entry);
        }
    }

    /// The level of a shadow page, and which of its entries is on the way to `va`.
    pub(super) fn place(&self, id: PageId, va: u64) -> (u8, usize) {
        let level = self.pool.page(id).key.map_or(3, |key| key.role.level);
        let mask = if self.pool.is_root(id) { 3 } else { 511 };
        let index = va >> (12 + 9 * (u32::from(level) - 1)) & mask;
        (level, index as usize)
    }

    /// The lowest shadow page on the way to `va` from the root of CPU `cpu`, and the entry there.
    fn last_entry(&self, cpu: usize, va: u64) -> Option<(PageId, usize)> {
        let mut id = self.cpus[cpu].root?;
        loop {
            let (_, index) = self.place(id, va);
            match self.child(id, index) {
                Some(child) => id = child,
                None => return Some((id, index)),
            }
        }
    }

    /// The guest flushes one page of a virtual TLB: the entry goes, or all that belong to one large page.
    pub(super) fn drop_page(&mut self, cpu: usize, va: u64) {
        let Some(mut id) = self.cpus[cpu].root else {
            return;
        };
        loop {
            let key = self.pool.page(id).key;
            let (level, index) = self.place(id, va);
            let child = self.child(id, index);
            let direct = |id| self.pool.page(id).key.is_some_and(|key| key.role.direct);
            match child {
                Some(child) if !direct(child) || mutant(Mutant::InvlpgDropsPart) => id = child,
                _ => {
                    self.unlink(id, index);
                    // Two shadow entries for a page of 4 MiB.
                    if key.is_some_and(|key| !key.role.reading.wide) && level == 2 {
                        self.unlink(id, index ^ 1);
                    }
                    return;
                }
            }
        }
    }
}
