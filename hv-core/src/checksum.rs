//! The internet checksum (RFC 1071, "Computing the Internet Checksum"): the ones' complement sum of 16-bit words, the first byte of each the
//! high one.

/// The folded sum of `bytes`, which begins with `seed`. An odd last byte is the high one of a word.
#[must_use]
pub fn sum(seed: u16, bytes: &[u8]) -> u16 {
    // The sum may be made of longer words, and turned at the end (RFC 1071 2, "Calculating the Checksum": parallel summation, byte order).
    let (words, rest) = bytes.as_chunks::<4>();
    let mut total = words
        .iter()
        .fold(u64::from(seed.swap_bytes()), |total, word| {
            // 2^32 words at most: no overflow.
            total + u64::from(u32::from_le_bytes(*word))
        });
    let mut last = [0; 4];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    total += u64::from(u32::from_le_bytes(last));
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    (total as u16).swap_bytes()
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn sums_are_those_of_the_rfc() {
        assert_eq!(sum(0, &[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(sum(0, &[0x12]), 0x1200);
        assert_eq!(sum(0xffff, &[0, 1]), 1);
        assert_eq!(sum(0, &[]), 0);
    }

    #[test]
    fn sums_in_parts_are_those_of_the_whole() {
        let bytes: Vec<u8> = (0..=255).cycle().take(1501).collect();
        for cut in (0..1501).step_by(2) {
            let (first, second) = bytes.split_at(cut);
            assert_eq!(sum(sum(0, first), second), sum(0, &bytes));
        }
    }
}
