//! The table of physical region descriptors. *Programming Interface for Bus Master IDE Controller*, 1.2, "Physical Region
//! Descriptor Table".

/// Bytes of a descriptor.
const ENTRY: usize = 8;
/// No region crosses a multiple of this; a count of zero stands for it.
const BOUNDARY: u32 = 0x1_0000;
/// Bit 15 of a descriptor's last word: it is the last of the table.
const END_OF_TABLE: u32 = 1 << 31;

/// Writes into `table` the descriptors of the memory from `start` on for `len` bytes, both even, and answers how many bytes they
/// take. None if `len` is zero, the memory does not end below 4 GiB, or there are more descriptors than `table` has room for.
pub(crate) fn build(start: u32, len: u32, table: &mut [u8]) -> Option<usize> {
    let mut at = u64::from(start);
    let end = at + u64::from(len);
    if len == 0 || end > 1 << 32 {
        return None;
    }
    let mut used = 0;
    while at < end {
        let boundary = (at | u64::from(BOUNDARY - 1)) + 1;
        let stop = boundary.min(end);
        let last = if stop == end { END_OF_TABLE } else { 0 };
        let count = (stop - at) as u32 & (BOUNDARY - 1);
        let entry = table.get_mut(used..used + ENTRY)?;
        entry[..4].copy_from_slice(&(at as u32).to_le_bytes());
        entry[4..].copy_from_slice(&(count | last).to_le_bytes());
        used += ENTRY;
        at = stop;
    }
    Some(used)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::testing::Random;

    fn regions(start: u32, len: u32) -> Vec<(u32, u32, bool)> {
        let mut table = [0; 64];
        let n = build(start, len, &mut table).unwrap();
        let words = |e: &[u8]| {
            let count = u32::from_le_bytes(e[4..].try_into().unwrap());
            (
                u32::from_le_bytes(e[..4].try_into().unwrap()),
                count & 0xffff,
                count >> 31 != 0,
            )
        };
        table[..n].chunks(8).map(words).collect()
    }

    #[test]
    fn a_region_ends_at_a_64_kib_boundary() {
        assert_eq!(
            regions(0x1_f000, 0x2_0000),
            [
                (0x1_f000, 0x1000, false),
                (0x2_0000, 0, false),
                (0x3_0000, 0xf000, true)
            ]
        );
    }

    #[test]
    fn a_whole_64_kib_has_a_count_of_zero() {
        assert_eq!(regions(0x5_0000, 0x1_0000), [(0x5_0000, 0, true)]);
    }

    #[test]
    fn the_last_byte_below_4_gib_can_be_described() {
        assert_eq!(regions(0xffff_f000, 0x1000), [(0xffff_f000, 0x1000, true)]);
        assert_eq!(build(0xffff_f000, 0x1002, &mut [0; 64]), None);
    }

    #[test]
    fn nothing_and_too_much_are_refused() {
        assert_eq!(build(0x1000, 0, &mut [0; 64]), None);
        assert_eq!(build(0, 0x9_0000, &mut [0; 64]), None);
    }

    #[test]
    fn regions_cover_the_memory_without_gap_or_overlap() {
        let mut r = Random::from_env("UMBRA_SEED", 0xa7a);
        for _ in 0..2_000 {
            let (start, len) = (r.next() as u32 & !1, (r.below(0x6_0000) as u32 & !1) + 2);
            if u64::from(start) + u64::from(len) > 1 << 32 {
                continue;
            }
            let mut at = u64::from(start);
            let regions = regions(start, len);
            for (i, &(address, count, last)) in regions.iter().enumerate() {
                let count = if count == 0 {
                    0x1_0000
                } else {
                    u64::from(count)
                };
                assert_eq!(u64::from(address), at);
                assert_eq!(at >> 16, (at + count - 1) >> 16);
                assert_eq!(last, i + 1 == regions.len());
                at += count;
            }
            assert_eq!(at, u64::from(start) + u64::from(len));
        }
    }
}
