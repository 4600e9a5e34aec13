//! Rows of pixels, and the video memory that they are drawn from.

use hv_core::mem::DeviceRam;

/// Where rows go.
pub(super) struct Rows<'a> {
    /// Only those go there that are not as these say.
    pub(super) sums: Option<&'a mut [u64]>,
    row: &'a mut dyn FnMut(u32, &[u32]),
    /// Whether there was one.
    pub(super) any: bool,
}

impl<'a> Rows<'a> {
    pub(super) fn new(sums: Option<&'a mut [u64]>, row: &'a mut dyn FnMut(u32, &[u32])) -> Self {
        Self {
            sums,
            row,
            any: false,
        }
    }

    /// Whether row `y` is wanted, of whose source `sum` is a checksum.
    pub(super) fn wants(&mut self, y: u32, sum: impl FnOnce() -> u64) -> bool {
        let before = self.sums.as_mut().and_then(|s| s.get_mut(y as usize));
        before.is_none_or(|before| {
            let now = sum();
            core::mem::replace(before, now) != now
        })
    }

    pub(super) fn give(&mut self, y: u32, pixels: &[u32]) {
        self.any = true;
        (self.row)(y, pixels);
    }

    /// Row `y` is drawn.
    pub fn drawn(&mut self, y: u32, pixels: &[u32]) {
        if self.wants(y, || checksum(0, pixels.iter().map(|&p| p.into()))) {
            self.give(y, pixels);
        }
    }
}

/// A number that in all likelihood is another one for other `words`, and never 0.
pub(super) fn checksum(seed: u64, words: impl Iterator<Item = u64>) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = |sum: u64, word: u64| (sum.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    words.fold(mixed(0, seed), mixed).max(1)
}

/// Reads bytes from `at` on of a memory that begins again behind `wrap` (one less than a power of two).
pub(super) fn read_wrapped(vram: &dyn DeviceRam, at: usize, wrap: usize, buf: &mut [u8]) {
    let at = at & wrap;
    let (head, tail) = buf.split_at_mut((wrap + 1 - at).min(buf.len()));
    vram.read(at, head);
    if !tail.is_empty() {
        vram.read(0, tail);
    }
}
