//! A set of vectors, as in IRR, ISR and TMR: eight registers of 32 bits.

/// 256 bits, of which the highest is known. Vectors below 16, which no local APIC takes, are not kept.
#[derive(Clone, Copy, Default)]
pub(super) struct Vectors {
    words: [u32; 8],
    /// Which words are not zero.
    any: u8,
    /// The highest vector whose bit is set, or 0.
    top: u8,
}

impl Vectors {
    /// Sets the bit of `vector`.
    #[inline]
    pub(super) fn set(&mut self, vector: u8) {
        let word = vector >> 5;
        if let Some(w) = self.words.get_mut(usize::from(word)) {
            *w |= 1 << (vector & 31);
        }
        self.any |= 1 << word;
        self.top = self.top.max(vector);
    }

    /// Clears the bit and tells whether it was set.
    #[inline]
    pub(super) fn clear(&mut self, vector: u8) -> bool {
        let word = vector >> 5;
        let Some(w) = self.words.get_mut(usize::from(word)) else {
            return false;
        };
        let bit = 1 << (vector & 31);
        if *w & bit == 0 {
            return false;
        }
        *w &= !bit;
        if *w == 0 {
            self.any &= !(1 << word);
        }
        if vector == self.top {
            self.top = self.search();
        }
        true
    }

    /// The highest vector whose bit is set, or 0.
    #[inline]
    fn search(&self) -> u8 {
        let Some(word) = self.any.checked_ilog2() else {
            return 0;
        };
        let bits = self.words.get(word as usize).copied().unwrap_or(0);
        (word << 5) as u8 | bits.checked_ilog2().unwrap_or(0) as u8
    }

    /// The vector, if it is the only one in the set.
    #[inline]
    pub(super) fn only(&self) -> Option<u8> {
        let word = self.words.get(usize::from(self.top >> 5))?;
        (self.any.is_power_of_two() && word.is_power_of_two()).then_some(self.top)
    }

    /// Whether `vector` is in the set.
    pub(super) fn contains(&self, vector: u8) -> bool {
        let word = self
            .words
            .get(usize::from(vector >> 5))
            .copied()
            .unwrap_or(0);
        word >> (vector & 31) & 1 != 0
    }

    /// The highest vector whose bit is set.
    #[inline]
    pub(super) fn highest(&self) -> Option<u8> {
        (self.top != 0).then_some(self.top)
    }

    /// The register at `offset`, of which bits 6:4 count.
    pub(super) fn word(&self, offset: u64) -> u32 {
        self.words
            .get((offset >> 4 & 7) as usize)
            .copied()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::testing::Random;

    #[test]
    fn highest_and_only_agree_with_a_plain_set_whatever_is_set_and_cleared() {
        let mut random = Random::from_env("UMBRA_SEED", 1);
        let (mut vectors, mut plain) = (Vectors::default(), alloc::collections::BTreeSet::new());
        for _ in 0..20_000 {
            let vector = random.below(240) as u8 + 16;
            match random.below(8) < 3 {
                true => {
                    vectors.set(vector);
                    plain.insert(vector);
                }
                false => assert_eq!(vectors.clear(vector), plain.remove(&vector)),
            }
            assert_eq!(vectors.highest(), plain.last().copied());
            assert_eq!(vectors.contains(vector), plain.contains(&vector));
            let only = (plain.len() == 1).then(|| *plain.first().unwrap());
            assert_eq!(vectors.only(), only);
        }
    }
}
