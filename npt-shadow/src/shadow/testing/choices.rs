//! What decides what a program does: a seed, or a fuzzer's bytes.

use hv_core::testing::Random;

/// Decisions.
pub(super) enum Choices {
    /// Without end.
    Random(Random),
    /// Until the bytes are used up; then all decisions are 0.
    Bytes { bytes: Vec<u8>, at: usize },
}

impl Choices {
    pub(super) fn is_exhausted(&self) -> bool {
        matches!(self, Choices::Bytes { bytes, at } if *at >= bytes.len())
    }

    fn bytes(&mut self, count: usize) -> u64 {
        match self {
            Choices::Random(random) => random.next(),
            Choices::Bytes { bytes, at } => {
                let end = (*at + count).min(bytes.len());
                let taken = &bytes[*at..end];
                *at = end;
                taken.iter().fold(0, |n, &byte| n << 8 | u64::from(byte))
            }
        }
    }

    /// 64 bits.
    pub(super) fn next(&mut self) -> u64 {
        self.bytes(8)
    }

    /// A number below `n`, which is not 0.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        match self {
            Choices::Random(random) => random.below(n),
            Choices::Bytes { .. } if n <= 256 => self.bytes(1) % n,
            Choices::Bytes { .. } => self.bytes(3) % n,
        }
    }

    /// True once in `n` times.
    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of several; there is one.
    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}
