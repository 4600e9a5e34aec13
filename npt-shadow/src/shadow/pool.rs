//! Shadow pages: a fixed number of them, found by what they shadow.
//!
//! A page is free, in use, or in quarantine: no longer in use, but a CPU may remember where it was. Quarantine ends when no CPU in the guest
//! has still to flush for the generation in which the page was given up ([`hv_core::flush`]). Frames for tables are allocated when they are
//! first needed, and kept.

use super::role::Key;
use crate::room;
use alloc::vec::Vec;
use hv_core::Hpa;
use hv_core::mmu::Frames;

/// The number of a shadow page.
pub type PageId = u32;

/// No page.
const NONE: PageId = PageId::MAX;

/// The root of PAE tables of virtual CPU `cpu`: its first four entries. It is always there, and no other pages are like these.
pub const fn pae_root(cpu: usize) -> PageId {
    cpu as PageId
}

/// A shadow page.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Where its 512 entries are.
    pub frame: Hpa,
    /// What it shadows; None: it is not in use.
    pub key: Option<Key>,
    /// How many of its entries are present.
    pub present: u16,
    /// The guest may write the table that it shadows: what is in here may be older than that.
    pub unsync: bool,
    /// Entries that have been present since the page was taken: one bit each.
    pub known: [u64; 8],
    /// The table may have been written since the shadow was brought up to date.
    pub written: bool,
    /// How often in a row a shadow that is out of sync was found to be up to date.
    pub idle: u8,
    /// Writes to the table since the shadow was last used to resolve a fault.
    pub writes: u8,
    /// It has been used since the clock hand last came by.
    pub used: bool,
    /// The generation in which it was given up.
    given_up: u64,
    /// The next page whose key is in the same bucket, or that is free, or in quarantine.
    next: PageId,
}

impl Page {
    /// A page that shadows nothing, with its table in `frame`.
    const fn unused(frame: Hpa) -> Self {
        Self {
            frame,
            key: None,
            present: 0,
            unsync: false,
            known: [0; 8],
            written: false,
            idle: 0,
            writes: 0,
            used: false,
            given_up: 0,
            next: NONE,
        }
    }
}

/// All shadow pages of a VM.
pub struct Pool {
    pages: Vec<Page>,
    /// How many of them are PAE roots: the first.
    roots: PageId,
    /// How many there may be besides.
    capacity: usize,
    buckets: Vec<PageId>,
    free: PageId,
    free_count: usize,
    quarantine: PageId,
    /// Where the search for a page to give up goes on.
    hand: PageId,
    in_use: usize,
    /// The most that have been in use.
    pub most: usize,
    /// The frames of all pages with their numbers, sorted.
    by_frame: Vec<(u64, PageId)>,
}

impl Pool {
    /// A pool of up to `capacity` pages besides `roots` PAE roots, which are still to be added. None: there is no memory for its books.
    pub fn new(capacity: usize, roots: usize) -> Option<Self> {
        Some(Self {
            by_frame: room::for_up_to(capacity + roots)?,
            pages: room::for_up_to(capacity + roots)?,
            roots: roots as PageId,
            capacity,
            buckets: room::filled(NONE, capacity.next_power_of_two())?,
            free: NONE,
            free_count: 0,
            quarantine: NONE,
            hand: 0,
            in_use: 0,
            most: 0,
        })
    }

    /// Adds the next PAE root, whose table is in `frame`.
    pub fn add_root(&mut self, frame: Hpa) {
        self.add(frame);
    }

    /// Whether it is the PAE root of a CPU.
    pub const fn is_root(&self, id: PageId) -> bool {
        id < self.roots
    }

    /// The bytes that its books take.
    pub const fn bytes(capacity: usize, roots: usize) -> u64 {
        room::bytes::<Page>(capacity + roots)
            + room::bytes::<(u64, PageId)>(capacity + roots)
            + room::bytes::<PageId>(capacity.next_power_of_two())
    }

    /// How many pages there may be.
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many pages are in use.
    pub const fn in_use(&self) -> usize {
        self.in_use
    }

    /// How many table frames have been allocated.
    pub const fn frames(&self) -> usize {
        self.pages.len()
    }

    /// The page with number `id`, which is one of [`Pool::ids`].
    pub fn page(&self, id: PageId) -> &Page {
        &self.pages[id as usize]
    }

    /// The page with number `id`, to be changed.
    pub fn page_mut(&mut self, id: PageId) -> &mut Page {
        &mut self.pages[id as usize]
    }

    /// The numbers of all pages that have a frame, the PAE roots first.
    pub fn ids(&self) -> core::ops::Range<PageId> {
        0..self.pages.len() as PageId
    }

    fn bucket(&self, gfn: u64) -> usize {
        // Fibonacci hashing: the high bits of a product with 2^64 divided by the golden ratio.
        let hash = gfn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        hash as usize & (self.buckets.len() - 1)
    }

    /// The pages that shadow something at guest frame `gfn`, direct ones among them.
    pub fn of(&self, gfn: u64) -> impl Iterator<Item = PageId> {
        let mut id = self.buckets[self.bucket(gfn)];
        core::iter::from_fn(move || {
            while let Some(page) = self.pages.get(id as usize) {
                let this = core::mem::replace(&mut id, page.next);
                if page.key.is_some_and(|key| key.gfn == gfn) {
                    return Some(this);
                }
            }
            None
        })
    }

    /// Does `f` to the pages that shadow the table at guest frame `gfn`.
    pub fn for_each(&mut self, gfn: u64, mut f: impl FnMut(PageId, &mut Page)) {
        let mut id = self.buckets[self.bucket(gfn)];
        while let Some(page) = self.pages.get_mut(id as usize) {
            let this = core::mem::replace(&mut id, page.next);
            if page
                .key
                .is_some_and(|key| key.gfn == gfn && !key.role.direct)
            {
                f(this, page);
            }
        }
    }

    /// The page that shadows exactly this.
    pub fn find(&self, key: &Key) -> Option<PageId> {
        self.of(key.gfn)
            .find(|&id| self.page(id).key.as_ref() == Some(key))
    }

    /// How many pages can be taken before some have to be given up.
    pub const fn available(&self) -> usize {
        self.free_count + self.capacity + self.roots as usize - self.pages.len()
    }

    /// Adds a page that is not in use.
    fn grow(&mut self, frames: &mut impl Frames) -> Option<PageId> {
        let roots = self.roots as usize;
        if self.pages.len() >= self.capacity + roots {
            return None;
        }
        let Some(frame) = frames.allocate() else {
            // The host has no more: this is as large as the pool gets.
            self.capacity = self.pages.len() - roots;
            return None;
        };
        Some(self.add(frame))
    }

    fn add(&mut self, frame: Hpa) -> PageId {
        let id = self.pages.len() as PageId;
        self.pages.push(Page::unused(frame));
        let at = self.by_frame.partition_point(|&(f, _)| f < frame.0);
        self.by_frame.insert(at, (frame.0, id));
        id
    }

    /// Allocates the frames of the first `count` pages, so that they cannot lack later. Returns whether there are so many.
    pub fn provide(&mut self, count: usize, frames: &mut impl Frames) -> bool {
        while self.free_count < count {
            let Some(id) = self.grow(frames) else {
                return false;
            };
            self.page_mut(id).next = self.free;
            self.free = id;
            self.free_count += 1;
        }
        true
    }

    /// The page whose table is in `frame`.
    pub fn at(&self, frame: u64) -> Option<PageId> {
        let i = self
            .by_frame
            .binary_search_by_key(&frame, |&(f, _)| f)
            .ok()?;
        Some(self.by_frame.get(i)?.1)
    }

    /// Takes an empty page for `key`. None: there is none, or no frame for one.
    pub fn take(&mut self, key: Key, frames: &mut impl Frames) -> Option<PageId> {
        let id = if self.free != NONE {
            let id = self.free;
            self.free = self.page(id).next;
            self.free_count -= 1;
            id
        } else {
            self.grow(frames)?
        };
        let bucket = self.bucket(key.gfn);
        let next = core::mem::replace(&mut self.buckets[bucket], id);
        let page = self.page_mut(id);
        *page = Page {
            key: Some(key),
            used: true,
            next,
            ..Page::unused(page.frame)
        };
        self.in_use += 1;
        self.most = self.most.max(self.in_use);
        Some(id)
    }

    /// Puts a page, whose entries have been cleared, into quarantine. It was given up in this generation.
    pub fn retire(&mut self, id: PageId, generation: u64) {
        let Some(key) = self.page_mut(id).key.take() else {
            return;
        };
        let quarantine = self.quarantine;
        let page = self.page_mut(id);
        page.given_up = generation;
        let after = core::mem::replace(&mut page.next, quarantine);
        self.quarantine = id;
        self.in_use -= 1;
        let bucket = self.bucket(key.gfn);
        if self.buckets[bucket] == id {
            self.buckets[bucket] = after;
            return;
        }
        let mut at = self.buckets[bucket];
        while at != NONE {
            let page = self.page_mut(at);
            if page.next == id {
                page.next = after;
                return;
            }
            at = page.next;
        }
    }

    /// No CPU remembers what was given up in generation `settled` or before: it is free.
    pub fn release(&mut self, settled: u64) {
        // The last that came in is the first.
        let mut keep = NONE;
        let mut next = self.quarantine;
        while next != NONE && self.page(next).given_up > settled {
            (keep, next) = (next, self.page(next).next);
        }
        match keep {
            NONE => self.quarantine = NONE,
            id => self.page_mut(id).next = NONE,
        }
        while next != NONE {
            let (id, free) = (next, self.free);
            next = core::mem::replace(&mut self.page_mut(id).next, free);
            self.free = id;
            self.free_count += 1;
        }
    }

    /// The tables of the pages that are free.
    #[cfg(any(test, feature = "testing"))]
    pub fn free_frames(&self) -> alloc::collections::BTreeSet<Hpa> {
        let next = |&id: &PageId| Some(self.page(id).next).filter(|&id| id != NONE);
        let first = Some(self.free).filter(|&id| id != NONE);
        let free = core::iter::successors(first, next);
        free.map(|id| self.page(id).frame).collect()
    }

    /// A page in use that has not been used for the longest time, or nearly, and is not to be `kept`.
    pub fn oldest(&mut self, kept: impl Fn(PageId) -> bool) -> Option<PageId> {
        // In the second round no page is marked as used any more.
        for _ in 0..2 * self.pages.len() {
            self.hand = (self.hand + 1) % self.pages.len() as PageId;
            let (id, page) = (self.hand, &mut self.pages[self.hand as usize]);
            if page.key.is_none() || kept(id) {
                continue;
            }
            if !core::mem::take(&mut page.used) {
                return Some(id);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::role::{Reading, Rights, Role};
    use super::*;

    struct Numbered(u64);

    impl Frames for Numbered {
        fn allocate(&mut self) -> Option<Hpa> {
            self.0 += 0x1000;
            (self.0 < 0x20_000).then_some(Hpa(self.0))
        }
        fn free(&mut self, _: Hpa) {}
        fn read(&self, _: Hpa, _: usize) -> u64 {
            0
        }
        fn write(&mut self, _: Hpa, _: usize, _: u64) {}
    }

    fn key(gfn: u64) -> Key {
        Key {
            gfn,
            role: Role {
                level: 1,
                direct: false,
                quadrant: 0,
                rights: Rights::ALL,
                reading: Reading::NONE,
            },
        }
    }

    fn pool(capacity: usize) -> Pool {
        let mut pool = Pool::new(capacity, 1).unwrap();
        pool.add_root(Hpa(0));
        pool
    }

    #[test]
    fn what_was_given_up_is_used_again_only_when_its_generation_is_settled() {
        let (mut frames, mut pool) = (Numbered(0), pool(3));
        let ids: Vec<_> = (0..3)
            .map(|gfn| pool.take(key(gfn), &mut frames).unwrap())
            .collect();
        assert_eq!(pool.available(), 0);
        assert_eq!(pool.take(key(9), &mut frames), None);
        pool.retire(ids[1], 5);
        assert_eq!(pool.find(&key(1)), None);
        assert_eq!(pool.find(&key(2)), Some(ids[2]));
        assert_eq!(pool.take(key(9), &mut frames), None, "in quarantine");
        pool.release(4);
        assert_eq!(pool.take(key(9), &mut frames), None, "still in quarantine");
        pool.retire(ids[2], 6);
        pool.release(5);
        assert_eq!(pool.take(key(9), &mut frames), Some(ids[1]));
        assert_eq!((pool.in_use(), pool.most), (2, 3));
        assert_eq!(pool.take(key(10), &mut frames), None);
        pool.release(6);
        assert_eq!(pool.take(key(10), &mut frames), Some(ids[2]));
    }

    #[test]
    fn a_host_without_frames_makes_the_pool_smaller() {
        let (mut frames, mut pool) = (Numbered(0), pool(100));
        let mut taken = 0;
        while pool.take(key(taken), &mut frames).is_some() {
            taken += 1;
        }
        assert_eq!((taken, pool.capacity(), pool.available()), (31, 31, 0));
    }

    #[test]
    fn pages_come_up_for_giving_up_when_they_have_not_been_used() {
        let (mut frames, mut pool) = (Numbered(0), pool(4));
        let ids: Vec<_> = (0..4)
            .map(|gfn| pool.take(key(gfn), &mut frames).unwrap())
            .collect();
        let first = pool.oldest(|id| id == ids[0]).unwrap();
        assert_eq!(first, ids[1], "all are used, and the first is the root");
        pool.page_mut(ids[2]).used = true;
        assert_eq!(pool.oldest(|id| id == ids[0]), Some(ids[3]));
    }
}
