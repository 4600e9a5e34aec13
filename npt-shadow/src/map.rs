//! The guest-physical map as ranges: what lies behind each page.

use alloc::vec::Vec;
use hv_core::mmu::Backing;
use hv_core::{Gpa, Hpa};

/// A range of pages with RAM or ROM; what is in no range is for the bus.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Range {
    /// First page.
    start: u64,
    /// The page behind the last.
    end: u64,
    /// Host-physical address of the first page.
    hpa: u64,
    writable: bool,
}

/// Host memory behind a guest-physical page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub hpa: Hpa,
    pub writable: bool,
    /// How many pages from this one on lie contiguously behind it, at least 1.
    pub pages: u64,
}

/// Ranges that there is room for from the beginning: pieces of RAM, and what devices' windows make of them.
const ROOM: usize = 64;

/// The map. Ranges do not overlap and are sorted; there are as many as devices make, not as the guest wishes.
#[derive(Default, Debug)]
pub(crate) struct Map {
    ranges: Vec<Range>,
    exhausted: bool,
}

impl Map {
    /// Has room for so many ranges from now on. False: there is no memory for them.
    pub fn reserve(&mut self, ranges: usize) -> bool {
        let more = ranges.saturating_sub(self.ranges.len());
        self.ranges.try_reserve_exact(more).is_ok()
    }

    /// The bytes that so many ranges take.
    pub const fn bytes(ranges: usize) -> u64 {
        (ranges * size_of::<Range>()) as u64
    }

    /// What is behind `[start, start + len)`, in whole pages, is `backing`.
    pub fn set(&mut self, start: Gpa, len: u64, backing: Backing) {
        let end = start.0.saturating_add(len) >> 12;
        let start = start.0 >> 12;
        if start >= end {
            return;
        }
        let touched = self.ranges.partition_point(|r| r.end <= start)
            ..self.ranges.partition_point(|r| r.start < end);
        let cut = self.ranges.get(touched.clone()).unwrap_or_default();
        let before = cut.first().filter(|r| r.start < start);
        let before = before.map(|&r| Range { end: start, ..r });
        let behind = cut.last().filter(|r| r.end > end).map(|&r| Range {
            start: end,
            hpa: r.hpa + ((end - r.start) << 12),
            ..r
        });
        let new = match backing {
            Backing::Ram { hpa, writable } => Some(Range {
                start,
                end,
                hpa: hpa.0 & !0xfff,
                writable,
            }),
            Backing::Mmio => None,
        };
        let mut at = touched.start;
        self.ranges.drain(touched);
        let more = ROOM.saturating_sub(self.ranges.len()).max(3);
        let room = self.ranges.try_reserve(more).is_ok();
        for range in [before, new, behind].into_iter().flatten() {
            if room || self.ranges.len() < self.ranges.capacity() {
                self.ranges.insert(at, range);
                at += 1;
            } else {
                // What is in no range is for the bus.
                self.exhausted = true;
            }
        }
        // What was cut and is whole again is one range: otherwise a guest could make ever more.
        self.ranges.dedup_by(|next, r| {
            let follows = r.end == next.start
                && r.hpa + ((r.end - r.start) << 12) == next.hpa
                && r.writable == next.writable;
            if follows {
                r.end = next.end;
            }
            follows
        });
    }

    /// Whether there was no memory for a range, so that it lacks.
    pub fn exhausted(&self) -> bool {
        self.exhausted
    }

    /// All ranges: where each starts, its length in bytes, and what is behind it.
    pub fn ranges(&self) -> impl Iterator<Item = (Gpa, u64, Backing)> + '_ {
        self.ranges.iter().map(|r| {
            let backing = Backing::Ram {
                hpa: Hpa(r.hpa),
                writable: r.writable,
            };
            (Gpa(r.start << 12), (r.end - r.start) << 12, backing)
        })
    }

    /// The page that `hpa` lies behind.
    pub fn page_of(&self, hpa: Hpa) -> Option<u64> {
        self.ranges.iter().find_map(|r| {
            let page = hpa.0.checked_sub(r.hpa)? >> 12;
            (page < r.end - r.start).then_some(r.start + page)
        })
    }

    /// What lies behind page `gfn`. None: it is for the bus.
    pub fn get(&self, gfn: u64) -> Option<Place> {
        let after = self.ranges.partition_point(|r| r.start <= gfn);
        let r = self.ranges.get(after.checked_sub(1)?)?;
        (gfn < r.end).then(|| Place {
            hpa: Hpa(r.hpa + ((gfn - r.start) << 12)),
            writable: r.writable,
            pages: r.end - gfn,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ram(hpa: u64, writable: bool) -> Backing {
        Backing::Ram {
            hpa: Hpa(hpa),
            writable,
        }
    }

    #[test]
    fn later_ranges_cut_earlier_ones() {
        let mut m = Map::default();
        m.set(Gpa(0), 0x10_0000, ram(0x4000_0000, true));
        m.set(Gpa(0xa_0000), 0x2_0000, Backing::Mmio);
        m.set(Gpa(0xc_0000), 0x1000, ram(0x5000_0000, false));
        let get = |gfn| m.get(gfn).map(|p| (p.hpa.0, p.writable, p.pages));
        assert_eq!(get(0), Some((0x4000_0000, true, 0xa0)));
        assert_eq!(get(0x9f), Some((0x4009_f000, true, 1)));
        assert_eq!(get(0xa0), None);
        assert_eq!(get(0xbf), None);
        assert_eq!(get(0xc0), Some((0x5000_0000, false, 1)));
        assert_eq!(get(0xc1), Some((0x400c_1000, true, 0x3f)));
        assert_eq!(get(0x100), None);
        assert_eq!(get(u64::MAX >> 12), None);
        for gfn in [0, 0x9f, 0xc0, 0xc1, 0xff] {
            assert_eq!(m.page_of(Hpa(get(gfn).unwrap().0 + 7)), Some(gfn));
        }
        assert_eq!(m.page_of(Hpa(0x400b_0000)), None);
    }

    #[test]
    fn a_hole_that_is_filled_again_leaves_nothing_behind() {
        let mut m = Map::default();
        m.set(Gpa(0), 0x10_0000, ram(0x4000_0000, true));
        for page in (0..0x10_0000).step_by(0x1000) {
            m.set(Gpa(page), 0x1000, Backing::Mmio);
            m.set(Gpa(page), 0x1000, ram(0x4000_0000 + page, true));
        }
        assert_eq!(m.ranges.len(), 1);
        m.set(Gpa(0x3000), 0x1000, ram(0x4000_3000, false));
        assert_eq!(m.ranges.len(), 3);
    }

    #[test]
    fn same_range_again_replaces() {
        let mut m = Map::default();
        for hpa in [0x1000, 0x9000] {
            m.set(Gpa(0x3000), 0x1000, ram(hpa, true));
        }
        assert_eq!(m.ranges.len(), 1);
        assert_eq!(m.get(3).map(|p| p.hpa), Some(Hpa(0x9000)));
        m.set(Gpa(0x3000), 0, Backing::Mmio);
        assert!(m.get(3).is_some());
        m.set(Gpa(0), u64::MAX, Backing::Mmio);
        assert!(m.get(3).is_none());
    }
}
