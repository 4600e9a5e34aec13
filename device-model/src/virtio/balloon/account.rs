//! Which pages of a guest are in its balloon, and what of its RAM is with the host meanwhile.
//!
//! A driver speaks of pages of 4 KiB; the host gives and takes *chunks* of 2 MiB. A chunk all of whose pages are in the balloon is *ripe*: the
//! host may take it. A chunk that is away and has a page that is no longer in the balloon is *wanted*: the host has to bring it back, and the
//! driver's request waits for that. While the machine is off, the host may have every chunk, and none is wanted.
//!
//! Invariant: only chunks that are ripe go away, so that a guest is without nothing that it has not given. What a driver says of pages that are
//! not RAM, or that are in the balloon (or out of it) already, changes nothing. The books are as large as the RAM asks for from the beginning.

use alloc::sync::Arc;
use alloc::vec::Vec;
use hv_core::lock::{Lock, Rank};

/// Pages of a chunk.
pub const CHUNK_PAGES: u64 = 512;
/// Bytes of a chunk.
pub const CHUNK: u64 = CHUNK_PAGES << 12;

/// Where a chunk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// Nowhere: there is no RAM.
    Nowhere,
    /// With the guest for ever: firmware, devices or holes are in it.
    Fixed,
    /// With the guest.
    Here,
    /// With the host.
    Away,
}

#[derive(Clone, Copy, Debug)]
struct Chunk {
    /// One bit a page: it is in the balloon.
    pages: [u64; CHUNK_PAGES as usize / 64],
    /// How many are.
    inside: u16,
    place: Place,
}

impl Chunk {
    fn is_full(&self) -> bool {
        u64::from(self.inside) == CHUNK_PAGES
    }
}

/// How a balloon is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Filling {
    /// Pages that are to be in it.
    pub target: u32,
    /// Pages that are in it.
    pub inside: u64,
    /// Chunks that are with the host.
    pub away: u64,
    /// Chunks that the host may take.
    pub ripe: u64,
    /// Chunks that the host has to bring back.
    pub wanted: u64,
}

struct Account {
    chunks: Vec<Chunk>,
    filling: Filling,
    /// Whether the machine is on.
    powered: bool,
    /// Whether the driver has agreed to wait for pages until it has been told that they are there.
    waits: bool,
}

impl Account {
    fn is_ripe(&self, chunk: &Chunk) -> bool {
        chunk.place == Place::Here && (!self.powered || self.waits && chunk.is_full())
    }

    fn is_wanted(&self, chunk: &Chunk) -> bool {
        chunk.place == Place::Away && self.powered && !chunk.is_full()
    }

    fn change(&mut self, index: usize, change: impl FnOnce(&mut Chunk)) {
        let Some(&old) = self.chunks.get(index) else {
            return;
        };
        let mut new = old;
        change(&mut new);
        for (chunk, add) in [(&old, false), (&new, true)] {
            let (ripe, wanted) = (self.is_ripe(chunk), self.is_wanted(chunk));
            let away = chunk.place == Place::Away;
            let filling = &mut self.filling;
            for (count, n) in [
                (&mut filling.ripe, u64::from(ripe)),
                (&mut filling.wanted, u64::from(wanted)),
                (&mut filling.away, u64::from(away)),
                (&mut filling.inside, u64::from(chunk.inside)),
            ] {
                *count = if add { *count + n } else { *count - n };
            }
        }
        if let Some(chunk) = self.chunks.get_mut(index) {
            *chunk = new;
        }
    }

    /// Counts anew what a change of the machine as a whole makes ripe or wanted.
    fn count(&mut self) {
        let (mut ripe, mut wanted) = (0, 0);
        for chunk in &self.chunks {
            ripe += u64::from(self.is_ripe(chunk));
            wanted += u64::from(self.is_wanted(chunk));
        }
        (self.filling.ripe, self.filling.wanted) = (ripe, wanted);
    }

    /// Nothing is in the balloon any more.
    fn empty(&mut self) {
        for chunk in &mut self.chunks {
            (chunk.pages, chunk.inside) = ([0; CHUNK_PAGES as usize / 64], 0);
        }
        self.filling.inside = 0;
    }

    /// Page `frame` goes into the balloon or leaves it.
    fn put(&mut self, frame: u64, inside: bool) {
        let index = (frame / CHUNK_PAGES) as usize;
        let page = frame % CHUNK_PAGES;
        let (word, bit) = ((page / 64) as usize, 1u64 << (page % 64));
        let Some(chunk) = self.chunks.get(index) else {
            return;
        };
        let is_inside = chunk.pages.get(word).is_some_and(|word| word & bit != 0);
        if chunk.place == Place::Nowhere || is_inside == inside {
            return;
        }
        self.change(index, |chunk| {
            if let Some(word) = chunk.pages.get_mut(word) {
                *word ^= bit;
            }
            chunk.inside = match inside {
                true => chunk.inside + 1,
                false => chunk.inside - 1,
            };
        });
    }

    fn find(&self, from: usize, is_it: impl Fn(&Self, &Chunk) -> bool) -> Option<usize> {
        let mut rest = self.chunks.iter().enumerate().skip(from);
        rest.find_map(|(index, chunk)| is_it(self, chunk).then_some(index))
    }
}

/// The balloon of a guest, which its device and the host share.
#[derive(Clone)]
pub struct Balloon(Arc<Lock<Account>>);

impl Balloon {
    /// An empty one, of a machine that is on, for guest-physical memory of so many chunks; `is_ram` says whether there is RAM in one, and `may_go` whether it
    /// can be given away. None: there is no memory for it.
    #[must_use]
    pub fn new(
        chunks: usize,
        is_ram: impl Fn(usize) -> bool,
        may_go: impl Fn(usize) -> bool,
    ) -> Option<Self> {
        let mut list = Vec::new();
        list.try_reserve_exact(chunks).ok()?;
        list.extend((0..chunks).map(|index| Chunk {
            pages: [0; CHUNK_PAGES as usize / 64],
            inside: 0,
            place: match (is_ram(index), may_go(index)) {
                (false, _) => Place::Nowhere,
                (true, false) => Place::Fixed,
                (true, true) => Place::Here,
            },
        }));
        let account = Account {
            chunks: list,
            filling: Filling::default(),
            powered: true,
            waits: false,
        };
        Some(Self(Arc::new(Lock::new(Rank::Part, account))))
    }

    /// The bytes that one for so many chunks takes.
    #[must_use]
    pub const fn bytes(chunks: usize) -> u64 {
        (chunks * size_of::<Chunk>()) as u64
    }

    /// How it is.
    #[must_use]
    pub fn filling(&self) -> Filling {
        self.0.lock().filling
    }

    /// So many pages are to be in it from now on. The device has to be polled then.
    pub fn set_target(&self, pages: u32) {
        self.0.lock().filling.target = pages;
    }

    /// The first chunk from `from` on that the host may take.
    #[must_use]
    pub fn ripe(&self, from: usize) -> Option<usize> {
        let account = self.0.lock();
        (account.filling.ripe != 0).then_some(())?;
        account.find(from, Account::is_ripe)
    }

    /// A chunk that the host has to bring back.
    #[must_use]
    pub fn wanted(&self) -> Option<usize> {
        let account = self.0.lock();
        (account.filling.wanted != 0).then_some(())?;
        account.find(0, Account::is_wanted)
    }

    /// The host has taken a chunk that was ripe.
    pub fn gone(&self, chunk: usize) {
        let account = &mut *self.0.lock();
        let ripe = account.chunks.get(chunk);
        let ripe = ripe.is_some_and(|chunk| account.is_ripe(chunk));
        assert!(ripe, "only what is ripe goes away");
        account.change(chunk, |chunk| chunk.place = Place::Away);
    }

    /// The host has brought a chunk back.
    pub fn back(&self, chunk: usize) {
        self.0.lock().change(chunk, |chunk| {
            if chunk.place == Place::Away {
                chunk.place = Place::Here;
            }
        });
    }

    /// The machine is off: its memory is the host's.
    pub fn power_off(&self) {
        let account = &mut *self.0.lock();
        account.powered = false;
        account.empty();
        account.count();
    }

    /// The machine is to start: it wants all of its memory.
    pub fn power_on(&self) {
        let account = &mut *self.0.lock();
        (account.powered, account.waits) = (true, false);
        account.empty();
        account.count();
    }

    /// Whether the machine is on.
    #[must_use]
    pub fn is_powered(&self) -> bool {
        self.0.lock().powered
    }

    /// The driver has agreed, or not, to wait until pages are there.
    pub(super) fn agree(&self, waits: bool) {
        let account = &mut *self.0.lock();
        account.waits = waits;
        account.count();
    }

    /// The driver knows nothing of the balloon any more: all of its pages are the guest's again.
    pub(super) fn forget(&self) {
        let account = &mut *self.0.lock();
        account.waits = false;
        account.empty();
        account.count();
    }

    /// These pages go into it, or leave it.
    pub(super) fn put(&self, frames: impl Iterator<Item = u32>, inside: bool) {
        let account = &mut *self.0.lock();
        frames.for_each(|frame| account.put(frame.into(), inside));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::testing::Random;
    use std::collections::BTreeSet;

    /// Chunk 0 stays, chunk 3 is a hole.
    fn balloon() -> Balloon {
        let balloon = Balloon::new(6, |n| n != 3, |n| n != 0).unwrap();
        balloon.agree(true);
        balloon
    }

    fn chunk(n: u32) -> impl Iterator<Item = u32> {
        n * 512..(n + 1) * 512
    }

    #[test]
    fn a_chunk_is_ripe_when_its_last_page_is_in_and_wanted_when_its_first_is_out_again() {
        let b = balloon();
        b.put(chunk(2).skip(1), true);
        assert_eq!((b.ripe(0), b.filling().inside), (None, 511));
        b.put([1024].into_iter(), true);
        assert_eq!((b.ripe(0), b.ripe(3)), (Some(2), None));
        b.gone(2);
        assert_eq!((b.ripe(0), b.wanted(), b.filling().away), (None, None, 1));
        b.put([1030].into_iter(), false);
        assert_eq!(b.wanted(), Some(2));
        b.back(2);
        assert_eq!((b.wanted(), b.filling().away), (None, 0));
        assert_eq!(b.filling().inside, 511, "the others are in it still");
    }

    #[test]
    fn what_makes_no_sense_changes_nothing() {
        let b = balloon();
        for twice in 0..2 {
            b.put(chunk(1).take(3), true);
            assert_eq!(b.filling().inside, 3, "round {twice}");
        }
        let before = b.filling();
        b.put(chunk(3), true);
        b.put([512 * 6, u32::MAX].into_iter(), true);
        b.put(chunk(4), false);
        assert_eq!(b.filling(), before);
        b.put(chunk(0), true);
        assert_eq!(b.filling().inside, 515, "it has given it");
        assert_eq!(b.ripe(0), None, "and the host does not take it");
    }

    #[test]
    fn nothing_goes_away_from_a_driver_that_does_not_wait() {
        let b = balloon();
        b.agree(false);
        b.put(chunk(1), true);
        assert_eq!(b.ripe(0), None);
        b.agree(true);
        assert_eq!(b.ripe(0), Some(1));
    }

    #[test]
    fn a_driver_that_is_reset_wants_everything() {
        let b = balloon();
        b.put(chunk(1).chain(chunk(2)), true);
        b.gone(1);
        b.forget();
        assert_eq!((b.wanted(), b.ripe(0)), (Some(1), None));
        assert_eq!(b.filling().inside, 0);
    }

    #[test]
    fn a_machine_that_is_off_has_nothing_and_wants_nothing_until_it_starts() {
        let b = balloon();
        b.put(chunk(1), true);
        b.gone(1);
        b.power_off();
        assert_eq!(b.filling().ripe, 3);
        while let Some(n) = b.ripe(0) {
            b.gone(n);
        }
        b.forget();
        assert_eq!((b.filling().away, b.wanted()), (4, None));
        b.power_on();
        let mut came = Vec::new();
        while let Some(n) = b.wanted() {
            b.back(n);
            came.push(n);
        }
        assert_eq!((came, b.filling().away), (vec![1, 2, 4, 5], 0));
    }

    #[test]
    fn random_requests_are_counted_as_a_model_of_pages_does() {
        let (b, mut random) = (balloon(), Random::new(5));
        let (mut model, mut away) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..20_000 {
            let start = random.below(6 * 512 + 40) as u32;
            let end = start + random.below(600) as u32;
            let inside = random.below(3) != 0;
            b.put(start..end, inside);
            for page in (start..end.min(6 * 512)).filter(|page| page / 512 != 3) {
                if inside {
                    model.insert(page);
                } else {
                    model.remove(&page);
                }
            }
            let full = |n: u32| chunk(n).all(|page| model.contains(&page));
            if let Some(n) = b.ripe(0).filter(|_| random.below(2) == 0) {
                assert!(full(n as u32) && n != 0 && away.insert(n));
                b.gone(n);
            }
            if let Some(n) = b.wanted().filter(|_| random.below(2) == 0) {
                assert!(!full(n as u32) && away.remove(&n));
                b.back(n);
            }
            let filling = b.filling();
            assert_eq!(filling.inside, model.len() as u64);
            assert_eq!(filling.away, away.len() as u64);
            let here = (1..6).filter(|n| !away.contains(&(*n as usize)));
            assert_eq!(filling.ripe, here.filter(|n| full(*n)).count() as u64);
        }
    }
}
