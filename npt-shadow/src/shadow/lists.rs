//! Doubly linked lists of shadow entries, all in one array: a *slot* is one entry of one shadow page, and is in at most one list.
//!
//! What is listed, and by whom ([`Owner`]): the writable entries of a guest frame, so that write access can be taken from all of
//! them at once; the writable large entries of a 2 MiB region; the entries that point to a shadow page, its parents. Nothing is
//! allocated after [`Lists::new`]: a list is as long as there are entries.

use crate::room;
use alloc::vec::Vec;

/// An entry of a shadow page: page number * 512 + index.
pub type Slot = u32;

/// Whose list it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// Entries that map this guest frame writable.
    Frame(u32),
    /// Large entries that map this 2 MiB region writable.
    Region(u32),
    /// Entries that point to this shadow page.
    Page(u32),
}

/// No slot.
const NONE: u32 = u32::MAX;
/// In `prev`: the slot is the first of an owner's list. The kind of owner is in bits 31:30, its number below.
const KIND: u32 = 30;
const NUMBER: u32 = (1 << KIND) - 1;

impl Owner {
    const fn encode(self) -> u32 {
        match self {
            Owner::Frame(n) => 1 << KIND | n & NUMBER,
            Owner::Region(n) => 2 << KIND | n & NUMBER,
            // `Page(NUMBER)` would be NONE; there are never so many pages.
            Owner::Page(n) => 3 << KIND | n & NUMBER,
        }
    }

    const fn decode(code: u32) -> Option<Owner> {
        match (code >> KIND, code & NUMBER) {
            (1, n) => Some(Owner::Frame(n)),
            (2, n) => Some(Owner::Region(n)),
            (3, n) => Some(Owner::Page(n)),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Link {
    next: u32,
    /// The slot before, the owner of the list (see [`Owner::encode`]), or [`NONE`]: in no list.
    prev: u32,
}

/// The lists.
#[derive(Debug)]
pub struct Lists {
    links: Vec<Link>,
    frames: Vec<u32>,
    regions: Vec<u32>,
    pages: Vec<u32>,
}

impl Lists {
    /// Empty lists for so many shadow pages and guest frames. None: there is no memory for them.
    pub fn new(pages: usize, frames: usize) -> Option<Self> {
        let unlinked = Link {
            next: NONE,
            prev: NONE,
        };
        Some(Self {
            links: room::filled(unlinked, pages * 512)?,
            frames: room::filled(NONE, frames)?,
            regions: room::filled(NONE, frames.div_ceil(512))?,
            pages: room::filled(NONE, pages)?,
        })
    }

    /// The bytes that they take.
    pub const fn bytes(pages: usize, frames: usize) -> u64 {
        room::bytes::<Link>(pages * 512)
            + room::bytes::<u32>(frames)
            + room::bytes::<u32>(frames.div_ceil(512))
            + room::bytes::<u32>(pages)
    }

    fn head(&mut self, owner: Owner) -> Option<&mut u32> {
        match owner {
            Owner::Frame(n) => self.frames.get_mut(n as usize),
            Owner::Region(n) => self.regions.get_mut(n as usize),
            Owner::Page(n) => self.pages.get_mut(n as usize),
        }
    }

    /// The first slot of a list.
    pub fn first(&self, owner: Owner) -> Option<Slot> {
        let head = match owner {
            Owner::Frame(n) => self.frames.get(n as usize),
            Owner::Region(n) => self.regions.get(n as usize),
            Owner::Page(n) => self.pages.get(n as usize),
        };
        head.copied().filter(|&slot| slot != NONE)
    }

    /// The slot behind `slot` in its list.
    pub fn next(&self, slot: Slot) -> Option<Slot> {
        let link = self.links.get(slot as usize)?;
        Some(link.next).filter(|&next| next != NONE)
    }

    /// Puts `slot`, which is in no list, at the front of `owner`'s list. Owners that do not exist have none.
    pub fn insert(&mut self, owner: Owner, slot: Slot) {
        let Some(head) = self.head(owner) else {
            return;
        };
        let next = core::mem::replace(head, slot);
        if let Some(link) = self.links.get_mut(slot as usize) {
            debug_assert_eq!(link.prev, NONE, "slot {slot} is in a list");
            *link = Link {
                next,
                prev: owner.encode(),
            };
        }
        if let Some(link) = self.links.get_mut(next as usize) {
            link.prev = slot;
        }
    }

    /// Takes `slot` out of the list that it is in, if any.
    pub fn remove(&mut self, slot: Slot) {
        let Some(link) = self.links.get_mut(slot as usize) else {
            return;
        };
        let Link { next, prev } = core::mem::replace(
            link,
            Link {
                next: NONE,
                prev: NONE,
            },
        );
        if prev == NONE {
            return;
        }
        if let Some(after) = self.links.get_mut(next as usize) {
            after.prev = prev;
        }
        match Owner::decode(prev) {
            Some(owner) => {
                if let Some(head) = self.head(owner) {
                    *head = next;
                }
            }
            None => {
                if let Some(before) = self.links.get_mut(prev as usize) {
                    before.next = next;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::testing::Random;

    fn slots(lists: &Lists, owner: Owner) -> Vec<Slot> {
        core::iter::successors(lists.first(owner), |&slot| lists.next(slot)).collect()
    }

    #[test]
    fn random_lists_are_what_a_model_says() {
        let mut random = Random::new(5);
        let mut lists = Lists::new(4, 1024).unwrap();
        let owners = [
            Owner::Frame(0),
            Owner::Frame(1023),
            Owner::Region(1),
            Owner::Page(0),
            Owner::Page(3),
        ];
        let mut model: Vec<Vec<Slot>> = vec![Vec::new(); owners.len()];
        for _ in 0..20_000 {
            let slot = random.below(4 * 512) as Slot;
            match model.iter().position(|list| list.contains(&slot)) {
                Some(list) => {
                    lists.remove(slot);
                    model[list].retain(|&s| s != slot);
                }
                None => {
                    let list = random.below(owners.len() as u64) as usize;
                    lists.insert(owners[list], slot);
                    model[list].insert(0, slot);
                }
            }
            let list = random.below(owners.len() as u64) as usize;
            assert_eq!(slots(&lists, owners[list]), model[list]);
        }
    }

    #[test]
    fn what_does_not_exist_is_ignored() {
        let mut lists = Lists::new(1, 1).unwrap();
        lists.insert(Owner::Frame(1), 0);
        lists.remove(0);
        lists.remove(512);
        assert_eq!(lists.first(Owner::Frame(1)), None);
    }
}
