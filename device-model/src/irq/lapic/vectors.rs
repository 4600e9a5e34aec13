//! A set of vectors, as in IRR, ISR and TMR: eight registers of 32 bits.

/// 256 bits with a fast search for the highest.
#[derive(Clone, Copy, Default)]
pub(super) struct Vectors {
    words: [u32; 8],
    /// Which words are not zero.
    any: u8,
}

impl Vectors {
    /// Sets the bit of `vector`.
    pub(super) fn set(&mut self, vector: u8) {
        let word = vector >> 5;
        self.any |= 1 << word;
        if let Some(w) = self.words.get_mut(usize::from(word)) {
            *w |= 1 << (vector & 31);
        }
    }

    /// Clears the bit and tells whether it was set.
    pub(super) fn clear(&mut self, vector: u8) -> bool {
        let word = vector >> 5;
        let Some(w) = self.words.get_mut(usize::from(word)) else {
            return false;
        };
        let bit = 1 << (vector & 31);
        let was = *w & bit != 0;
        *w &= !bit;
        if *w == 0 {
            self.any &= !(1 << word);
        }
        was
    }

    /// The vector, if it is the only one in the set.
    pub(super) fn only(&self) -> Option<u8> {
        let vector = self.highest()?;
        let word = self.words.get(usize::from(vector >> 5))?;
        (self.any.is_power_of_two() && word.is_power_of_two()).then_some(vector)
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
    pub(super) fn highest(&self) -> Option<u8> {
        let word = self.any.checked_ilog2()?;
        let bit = self.words.get(word as usize)?.checked_ilog2()?;
        Some((word << 5 | bit) as u8)
    }

    /// The register at `offset`, of which bits 6:4 count.
    pub(super) fn word(&self, offset: u64) -> u32 {
        self.words
            .get((offset >> 4 & 7) as usize)
            .copied()
            .unwrap_or(0)
    }
}
