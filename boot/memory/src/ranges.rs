//! Ranges of free memory.

use crate::PAGE;

/// A range of physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// Past the last byte.
    pub end: u64,
}

impl Range {
    const EMPTY: Range = Range { start: 0, end: 0 };

    const fn len(self) -> u64 {
        self.end - self.start
    }
}

/// The most ranges that are kept apart.
const MOST: usize = 1024;
/// Of these, as many as only Umbra's own memory makes: what guests give back leaves them.
const OWN: usize = 128;

/// Free memory in whole pages: sorted ranges that neither overlap nor touch.
pub struct Ranges {
    list: [Range; MOST],
    len: usize,
    lost: u64,
}

impl Default for Ranges {
    fn default() -> Self {
        Self::new()
    }
}

impl Ranges {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            list: [Range::EMPTY; MOST],
            len: 0,
            lost: 0,
        }
    }

    /// The ranges, from the lowest on.
    #[must_use]
    pub fn list(&self) -> &[Range] {
        self.list.get(..self.len).unwrap_or_default()
    }

    /// How many bytes are free.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.list().iter().map(|r| r.len()).sum()
    }

    /// How many bytes are free in whole pieces of `size`, a power of two, that are aligned to it.
    #[must_use]
    pub fn total_in(&self, size: u64) -> u64 {
        let whole = |r: &Range| (r.end & !(size - 1)).saturating_sub(up(r.start, size));
        self.list().iter().map(whole).sum()
    }

    /// How many bytes could not be given back because there were too many ranges: a fault of ours, and no danger.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether a range can be given back that is not Umbra's own, wherever it is. Guests choose what they give, and in how many pieces.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.len + OWN < MOST
    }

    /// Makes the whole pages of `range` free, none of which is.
    pub fn give(&mut self, range: Range) {
        let range = Range {
            start: up(range.start, PAGE),
            end: range.end & !(PAGE - 1),
        };
        if range.start >= range.end {
            return;
        }
        let at = self.list().partition_point(|r| r.end < range.start);
        let touching = self.list().get(at..).unwrap_or_default();
        let count = touching.iter().take_while(|r| r.start <= range.end).count();
        let touched = touching.get(..count).unwrap_or_default();
        let joined = Range {
            start: touched
                .first()
                .map_or(range.start, |r| r.start.min(range.start)),
            end: touched.last().map_or(range.end, |r| r.end.max(range.end)),
        };
        self.replace(at, count, &[joined]);
    }

    /// Takes what is free of `hole` and of the pages that it begins and ends in away.
    pub fn cut(&mut self, hole: Range) {
        let (start, end) = (hole.start & !(PAGE - 1), up(hole.end, PAGE));
        let at = self.list().partition_point(|r| r.end <= start);
        let touching = self.list().get(at..).unwrap_or_default();
        let count = touching.iter().take_while(|r| r.start < end).count();
        let touched = touching.get(..count).unwrap_or_default();
        let (Some(first), Some(last)) = (touched.first(), touched.last()) else {
            return;
        };
        let below = Range {
            start: first.start,
            end: start.max(first.start),
        };
        let above = Range {
            start: end.min(last.end),
            end: last.end,
        };
        match (below.len() != 0, above.len() != 0) {
            (true, true) => self.replace(at, count, &[below, above]),
            (true, false) => self.replace(at, count, &[below]),
            (false, true) => self.replace(at, count, &[above]),
            (false, false) => self.replace(at, count, &[]),
        }
    }

    /// Takes `len` bytes aligned to `align`, a power of two, from the top of the highest range that has them, below `limit`.
    pub fn take(&mut self, len: u64, align: u64, limit: u64) -> Option<u64> {
        let fit = |r: &Range| {
            let at = r.end.min(limit).checked_sub(len)? & !(align - 1);
            (at >= r.start).then_some(at)
        };
        let at = self.list().iter().rev().find_map(fit)?;
        self.cut(Range {
            start: at,
            end: at + len,
        });
        Some(at)
    }

    /// Puts `new` in the place of `count` ranges from `at` on. What there is no room for is lost.
    fn replace(&mut self, at: usize, count: usize, new: &[Range]) {
        let room = MOST - self.len + count;
        let kept = new.get(..room.min(new.len())).unwrap_or_default();
        self.lost += new.iter().skip(room).map(|r| r.len()).sum::<u64>();
        let len = self.len - count + kept.len();
        self.list.copy_within(at + count..self.len, at + kept.len());
        self.list[at..at + kept.len()].copy_from_slice(kept);
        self.len = len;
    }
}

const fn up(address: u64, align: u64) -> u64 {
    address.saturating_add(align - 1) & !(align - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::testing::Random;

    fn range(start: u64, end: u64) -> Range {
        Range { start, end }
    }

    #[test]
    fn the_highest_place_below_the_limit_is_taken() {
        let mut r = Ranges::new();
        r.give(range(0x10_0000, 0x100_0000));
        r.give(range(0x1_0000_0000, 0x1_0100_0000));
        assert_eq!(r.take(0x1000, 0x1000, u64::MAX), Some(0x1_00ff_f000));
        assert_eq!(r.take(0x1000, 0x1000, 1 << 32), Some(0xff_f000));
        assert_eq!(r.take(0x20_0000, 0x20_0000, 1 << 32), Some(0xc0_0000));
        assert_eq!(r.take(0x200_0000, 0x1000, u64::MAX), None);
        r.give(range(0xc0_0000, 0xe0_0000));
        r.give(range(0xff_f000, 0x100_0000));
        r.give(range(0x1_00ff_f000, 0x1_0100_0000));
        let all = [
            range(0x10_0000, 0x100_0000),
            range(0x1_0000_0000, 0x1_0100_0000),
        ];
        assert_eq!(r.list(), all);
        assert_eq!(r.total_in(0x40_0000), 0xc0_0000 + 0x100_0000);
    }

    #[test]
    fn random_gives_cuts_and_takes_are_what_a_model_of_pages_says() {
        const PAGES: u64 = 200;
        let mut random = Random::new(77);
        let (mut r, mut model) = (Ranges::new(), [false; PAGES as usize]);
        for _ in 0..50_000 {
            let start = random.below(PAGES);
            let end = (start + 1 + random.below(20)).min(PAGES);
            let span = start as usize..end as usize;
            match random.below(3) {
                0 if model[span.clone()].iter().all(|free| !free) => {
                    r.give(range(start * PAGE, end * PAGE));
                    model[span].fill(true);
                }
                1 => {
                    r.cut(range(start * PAGE + 1, end * PAGE - 1));
                    model[span].fill(false);
                }
                _ => {
                    let len = random.below(8) + 1;
                    let align = 1 << random.below(4);
                    let limit = random.below(PAGES);
                    let fits = |at: &u64| {
                        at.is_multiple_of(align)
                            && at + len <= limit
                            && (*at..at + len).all(|page| model[page as usize])
                    };
                    let want = (0..PAGES).rev().find(fits);
                    let got = r.take(len * PAGE, align * PAGE, limit * PAGE);
                    // In one range it need not be the highest place of all, but there is one where the model has one.
                    assert_eq!(got.is_some(), want.is_some());
                    if let Some(at) = got.map(|at| at / PAGE) {
                        assert!(fits(&at));
                        model[at as usize..(at + len) as usize].fill(false);
                    }
                }
            }
            let free = model.iter().filter(|&&free| free).count() as u64;
            assert_eq!((r.total(), r.lost()), (free * PAGE, 0));
            assert!(r.list().windows(2).all(|w| w[0].end < w[1].start));
        }
    }

    #[test]
    fn more_ranges_than_there_is_room_for_are_lost_and_nothing_else_is() {
        let mut r = Ranges::new();
        for n in 0..MOST as u64 + 3 {
            r.give(range(2 * n * PAGE, (2 * n + 1) * PAGE));
        }
        assert_eq!(r.lost(), 3 * PAGE);
        assert!(!r.has_room());
        assert_eq!(r.total(), MOST as u64 * PAGE);
        r.cut(range(0, PAGE));
        assert_eq!(r.total(), (MOST as u64 - 1) * PAGE);
    }
}
