//! Overlay pages (TLFS, "GPA Overlay Pages"): pages of the hypervisor's that the guest places over its memory. What is below is
//! hidden as long as one lies there, and comes back unchanged.
//!
//! Guest memory itself holds what is to be seen, and each overlay holds what it hides: placing one exchanges the two, so that CPUs, both
//! kinds of paging and devices all see the same, and nothing has to be mapped. The page below has to be RAM. Where several overlays lie on one
//! page, the last one placed is seen, and each holds the contents of the one below it.

use crate::Gpa;
use crate::mem::{GuestMemory, STRUCTURE};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// The length of an overlay in bytes.
const PAGE: usize = 0x1000;

/// Which overlay of a virtual machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slot {
    /// The code that makes a hypercall.
    Hypercall,
    /// How the time-stamp counter becomes reference time.
    ReferenceTsc,
    /// The VP assist page of this CPU.
    Assist(usize),
    /// Its messages.
    Messages(usize),
    /// Its event flags.
    Events(usize),
}

impl Slot {
    /// Of the virtual machine.
    const SHARED: usize = 2;
    /// Of each of its CPUs.
    const OWN: usize = 3;

    fn count(cpus: usize) -> usize {
        Self::SHARED + Self::OWN * cpus
    }

    fn index(self) -> usize {
        match self {
            Slot::Hypercall => 0,
            Slot::ReferenceTsc => 1,
            Slot::Assist(cpu) => Self::SHARED + Self::OWN * cpu,
            Slot::Messages(cpu) => Self::SHARED + Self::OWN * cpu + 1,
            Slot::Events(cpu) => Self::SHARED + Self::OWN * cpu + 2,
        }
    }
}

/// One overlay.
struct Overlay {
    at: Option<Gpa>,
    /// While it lies over memory: what it hides. Otherwise: its own contents.
    held: Box<[u8]>,
}

/// Where an overlay's contents are.
enum Contents {
    /// With this overlay: itself, or the next one above it.
    Held(usize),
    /// In guest memory.
    Seen(Gpa),
}

/// The overlays of a virtual machine.
pub struct Overlays {
    all: Vec<Overlay>,
    /// Those that lie over memory, from the first placed to the last.
    placed: Vec<usize>,
}

impl Overlays {
    /// Those of a machine with so many CPUs, all zeroes, none placed. All memory that they will ever need is allocated here.
    #[must_use]
    pub fn new(cpus: usize) -> Self {
        let count = Slot::count(cpus);
        let overlay = || Overlay {
            at: None,
            held: alloc::vec![0; PAGE].into_boxed_slice(),
        };
        Self {
            all: (0..count).map(|_| overlay()).collect(),
            placed: Vec::with_capacity(count),
        }
    }

    /// The memory that those of a machine with so many CPUs take, in bytes.
    #[must_use]
    pub fn bytes(cpus: usize) -> usize {
        Slot::count(cpus) * PAGE
    }

    /// Whether an overlay can be placed at `at`: on a page of RAM.
    #[must_use]
    pub fn can_lie(mem: &dyn GuestMemory, at: Gpa) -> bool {
        at.page_offset() == 0 && mem.contains(at, PAGE, true)
    }

    /// Places an overlay at `at`, from wherever it is, or takes it away. False: it cannot lie there, and nothing has changed.
    #[must_use]
    pub fn place(&mut self, mem: &dyn GuestMemory, slot: Slot, at: Option<Gpa>) -> bool {
        let index = slot.index();
        let Some(overlay) = self.all.get(index) else {
            return false;
        };
        if overlay.at == at {
            return true;
        }
        if at.is_some_and(|at| !Self::can_lie(mem, at)) {
            return false;
        }
        self.take_away(mem, index);
        if let (Some(at), Some(overlay)) = (at, self.all.get_mut(index)) {
            overlay.at = Some(at);
            exchange(mem, at, &mut overlay.held);
            self.placed.push(index);
        }
        true
    }

    fn take_away(&mut self, mem: &dyn GuestMemory, index: usize) {
        let Some(at) = self.all.get_mut(index).and_then(|o| o.at.take()) else {
            return;
        };
        let above = self.above(index, at);
        self.placed.retain(|&other| other != index);
        match above.map(|above| self.all.get_disjoint_mut([index, above])) {
            Some(Ok([own, above])) => core::mem::swap(&mut own.held, &mut above.held),
            Some(Err(_)) => {}
            None => {
                if let Some(own) = self.all.get_mut(index) {
                    exchange(mem, at, &mut own.held);
                }
            }
        }
    }

    /// The overlay next above overlay `index` on the page `at`.
    fn above(&self, index: usize, at: Gpa) -> Option<usize> {
        let mut above = self
            .placed
            .iter()
            .skip_while(|&&other| other != index)
            .skip(1);
        above
            .find(|&&other| self.all.get(other).is_some_and(|o| o.at == Some(at)))
            .copied()
    }

    /// Whether the overlay lies over memory and is not to be seen there, because another one lies over it.
    #[must_use]
    pub fn is_covered(&self, slot: Slot) -> bool {
        let at = self.all.get(slot.index()).and_then(|o| o.at);
        at.is_some_and(|at| self.above(slot.index(), at).is_some())
    }

    /// Writes the overlay's contents from `offset` on, wherever they are. What does not fit into it is left out.
    pub fn write(&mut self, mem: &dyn GuestMemory, slot: Slot, offset: usize, bytes: &[u8]) {
        let end = offset.saturating_add(bytes.len());
        match self.contents(slot) {
            Some(Contents::Held(holder)) => {
                let held = self.all.get_mut(holder).map(|o| &mut o.held);
                if let Some(place) = held.and_then(|held| held.get_mut(offset..end)) {
                    place.copy_from_slice(bytes);
                }
            }
            Some(Contents::Seen(at)) if end <= PAGE => {
                let _ = mem.write(at.add(offset as u64), bytes);
            }
            _ => {}
        }
    }

    /// Reads the overlay's contents from `offset` on, wherever they are. False: it does not have so many.
    #[must_use]
    pub fn read(&self, mem: &dyn GuestMemory, slot: Slot, offset: usize, buf: &mut [u8]) -> bool {
        let end = offset.saturating_add(buf.len());
        match self.contents(slot) {
            Some(Contents::Held(holder)) => {
                let held = self.all.get(holder).and_then(|o| o.held.get(offset..end));
                held.is_some_and(|held| {
                    buf.copy_from_slice(held);
                    true
                })
            }
            Some(Contents::Seen(at)) => end <= PAGE && mem.read(at.add(offset as u64), buf).is_ok(),
            None => false,
        }
    }

    fn contents(&self, slot: Slot) -> Option<Contents> {
        let index = slot.index();
        let Some(at) = self.all.get(index)?.at else {
            return Some(Contents::Held(index));
        };
        Some(match self.above(index, at) {
            Some(above) => Contents::Held(above),
            None => Contents::Seen(at),
        })
    }

    /// Takes the overlay away, and fills it with zeroes.
    pub fn clear(&mut self, mem: &dyn GuestMemory, slot: Slot) {
        let index = slot.index();
        self.take_away(mem, index);
        if let Some(overlay) = self.all.get_mut(index) {
            overlay.held.fill(0);
        }
    }
}

/// Exchanges what is in memory and what is in `held`.
fn exchange(mem: &dyn GuestMemory, at: Gpa, held: &mut [u8]) {
    for (n, part) in held.chunks_mut(STRUCTURE).enumerate() {
        let at = at.add((n * STRUCTURE) as u64);
        let mut there = [0; STRUCTURE];
        let Some(there) = there.get_mut(..part.len()) else {
            return;
        };
        // It was RAM when the overlay was placed, and RAM does not go away.
        if mem.read(at, there).is_ok() && mem.write(at, part).is_ok() {
            part.copy_from_slice(there);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::VecMemory;

    const A: Gpa = Gpa(0x2000);
    const B: Gpa = Gpa(0x4000);

    /// Memory whose bytes are 1 at `A` and 2 at `B`, with overlays that are 0x11 and 0x22.
    fn new() -> (VecMemory, Overlays) {
        let m = VecMemory::new(0x8000);
        for (at, byte) in [(A, 1), (B, 2)] {
            m.write(at, &[byte; PAGE]).unwrap();
        }
        let mut o = Overlays::new(1);
        for (slot, byte) in [(Slot::Hypercall, 0x11), (Slot::ReferenceTsc, 0x22)] {
            o.write(&m, slot, 0, &[byte; PAGE]);
        }
        (m, o)
    }

    /// The byte that a whole page consists of.
    fn shows(m: &VecMemory, at: Gpa) -> u8 {
        let mut page = [0; PAGE];
        m.read(at, &mut page).unwrap();
        assert!(page.iter().all(|&b| b == page[0]));
        page[0]
    }

    #[test]
    fn an_overlay_hides_what_is_below_and_gives_it_back() {
        let (m, mut o) = new();
        assert!(o.place(&m, Slot::Hypercall, Some(A)));
        assert_eq!((shows(&m, A), shows(&m, B)), (0x11, 2));
        // What the guest writes is written to the overlay.
        m.write(A, &[7; PAGE]).unwrap();
        assert!(o.place(&m, Slot::Hypercall, Some(B)), "it moves");
        assert_eq!((shows(&m, A), shows(&m, B)), (1, 7));
        assert!(o.place(&m, Slot::Hypercall, None));
        assert_eq!((shows(&m, A), shows(&m, B)), (1, 2));
    }

    #[test]
    fn of_two_on_one_page_the_last_one_is_seen_and_each_may_go_first() {
        for first_goes in [true, false] {
            let (m, mut o) = new();
            assert!(o.place(&m, Slot::Hypercall, Some(A)));
            assert!(o.place(&m, Slot::ReferenceTsc, Some(A)));
            assert_eq!(shows(&m, A), 0x22);
            // It is written though it is hidden.
            o.write(&m, Slot::Hypercall, 0, &[0x33; PAGE]);
            o.write(&m, Slot::ReferenceTsc, 0, &[0x44; PAGE]);
            assert_eq!(shows(&m, A), 0x44);
            if first_goes {
                assert!(o.place(&m, Slot::Hypercall, Some(B)));
                assert_eq!((shows(&m, A), shows(&m, B)), (0x44, 0x33));
                o.clear(&m, Slot::ReferenceTsc);
            } else {
                assert!(o.place(&m, Slot::ReferenceTsc, Some(B)));
                assert_eq!((shows(&m, A), shows(&m, B)), (0x33, 0x44));
                o.clear(&m, Slot::Hypercall);
            }
            assert_eq!(shows(&m, A), 1);
            o.clear(&m, Slot::Hypercall);
            o.clear(&m, Slot::ReferenceTsc);
            assert_eq!((shows(&m, A), shows(&m, B)), (1, 2));
            assert!(o.place(&m, Slot::Hypercall, Some(A)));
            assert_eq!(shows(&m, A), 0, "reset");
        }
    }

    #[test]
    fn an_overlay_lies_on_a_page_of_ram_or_stays_where_it_is() {
        let (m, mut o) = new();
        assert!(o.place(&m, Slot::Hypercall, Some(A)));
        for nowhere in [Gpa(A.0 + 8), Gpa(0x8000), Gpa(!0xfff)] {
            assert!(!o.place(&m, Slot::Hypercall, Some(nowhere)));
            assert_eq!(shows(&m, A), 0x11);
        }
        o.write(&m, Slot::Hypercall, PAGE - 1, &[9, 9]);
        o.write(&m, Slot::Hypercall, usize::MAX, &[9]);
        assert_eq!(shows(&m, A), 0x11);
    }
}
