//! How often each of many things was there, in bounded memory: exits by port, and by MSR.

use core::fmt::{self, Write};

/// Counts by number. The table has `N` places, a power of two. A number has the place of its low bits, or one of the next; where all of
/// these have others, it is counted with all that have no place.
#[derive(Clone, Debug)]
pub struct Counts<const N: usize> {
    keys: [u32; N],
    counts: [u64; N],
    others: u64,
}

/// How many places are tried.
const TRIES: usize = 8;
/// How many numbers a report names.
const NAMED: usize = 64;

impl<const N: usize> Default for Counts<N> {
    fn default() -> Self {
        const { assert!(N.is_power_of_two()) };
        Self {
            keys: [0; N],
            counts: [0; N],
            others: 0,
        }
    }
}

impl<const N: usize> Counts<N> {
    /// Counts `key` once.
    #[inline]
    pub fn add(&mut self, key: u32) {
        let at = key as usize & (N - 1);
        if self.keys[at] == key {
            self.counts[at] += 1;
        } else {
            self.search(key, 1);
        }
    }

    /// Counts what another table has counted.
    pub fn add_all(&mut self, other: &Self) {
        for (&key, &count) in other.keys.iter().zip(&other.counts) {
            if count != 0 {
                self.search(key, count);
            }
        }
        self.others += other.others;
    }

    #[cold]
    #[inline(never)]
    fn search(&mut self, key: u32, times: u64) {
        for at in (0..TRIES).map(|n| (key as usize + n) & (N - 1)) {
            let free = self.counts[at] == 0;
            if free || self.keys[at] == key {
                self.keys[at] = key;
                self.counts[at] += times;
                return;
            }
        }
        self.others += times;
    }

    /// Writes the most frequent as a JSON object, from the most frequent on, and the rest as its member `others`.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn json(&self, out: &mut impl Write) -> fmt::Result {
        let all = || self.counts.iter().copied().zip(self.keys);
        let mut others = self.others + self.counts.iter().sum::<u64>();
        let mut last = (u64::MAX, u32::MAX);
        out.write_str("{ ")?;
        for _ in 0..NAMED {
            let next = all().filter(|&(count, key)| count != 0 && (count, key) < last);
            let Some((count, key)) = next.max() else {
                break;
            };
            write!(out, "\"{key:#x}\": {count}, ")?;
            others -= count;
            last = (count, key);
        }
        write!(out, "\"others\": {others} }}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    fn json<const N: usize>(counts: &Counts<N>) -> String {
        let mut out = String::new();
        counts.json(&mut out).unwrap();
        out
    }

    #[test]
    fn the_most_frequent_are_named_first() {
        let mut counts = Counts::<16>::default();
        assert_eq!(json(&counts), "{ \"others\": 0 }");
        for key in [0x3f8, 0, 0x3f8, 0xcfc, 0x3f8, 0] {
            counts.add(key);
        }
        assert_eq!(
            json(&counts),
            "{ \"0x3f8\": 3, \"0x0\": 2, \"0xcfc\": 1, \"others\": 0 }"
        );
    }

    #[test]
    fn numbers_that_want_the_same_place_are_told_apart_as_long_as_there_is_room() {
        let mut counts = Counts::<16>::default();
        for round in 0..3 {
            for n in 0..20 {
                (0..=round).for_each(|_| counts.add(n * 16 + 5));
            }
        }
        // Eight have places, six rounds each; twelve have none.
        let out = json(&counts);
        assert_eq!(out.matches(": 6,").count(), 8, "{out}");
        assert!(out.ends_with("\"others\": 72 }"), "{out}");
    }

    #[test]
    fn the_counts_of_two_tables_are_added() {
        let (mut one, mut two) = (Counts::<16>::default(), Counts::<16>::default());
        for key in [0x3f8, 0x3f8, 0] {
            one.add(key);
        }
        for key in (0..9).map(|n| 0x80 + 16 * n).chain([0x3f8, 0x70]) {
            two.add(key);
        }
        let alone = json(&two);
        one.add_all(&two);
        let sum = json(&one);
        assert!(sum.starts_with("{ \"0x3f8\": 3, "), "{sum}");
        let total = |text: &str| -> u64 {
            let counts = text
                .split([',', '}'])
                .filter_map(|entry| entry.rsplit(": ").next());
            counts
                .filter_map(|count| count.trim().parse::<u64>().ok())
                .sum()
        };
        assert_eq!((total(&alone), total(&sum)), (11, 14));
    }

    #[test]
    fn what_is_not_named_is_among_the_others() {
        let mut counts = Counts::<1024>::default();
        (0..100).for_each(|key| (0..=key).for_each(|_| counts.add(key)));
        let out = json(&counts);
        assert!(out.starts_with("{ \"0x63\": 100, "), "{out}");
        let rest: u32 = (1..=36).sum();
        assert!(
            out.ends_with(&alloc::format!("\"others\": {rest} }}")),
            "{out}"
        );
    }
}
