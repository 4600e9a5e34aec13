//! A byte queue of fixed size, as the microcontrollers of keyboard and mouse have one.

/// At most `N` bytes, first in, first out.
#[derive(Clone, Debug)]
pub struct Queue<const N: usize> {
    bytes: [u8; N],
    first: usize,
    len: usize,
}

impl<const N: usize> Queue<N> {
    /// An empty queue.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: [0; N],
            first: 0,
            len: 0,
        }
    }

    /// Whether nothing is queued.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many more bytes fit.
    #[must_use]
    pub fn room(&self) -> usize {
        N.saturating_sub(self.len)
    }

    /// Appends `bytes`, all or none of them, and tells whether they fitted.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.room() {
            return false;
        }
        for &b in bytes {
            if let Some(slot) = self.bytes.get_mut((self.first + self.len) % N) {
                *slot = b;
                self.len += 1;
            }
        }
        true
    }

    /// Takes the oldest byte.
    pub fn pop(&mut self) -> Option<u8> {
        if self.len == 0 {
            return None;
        }
        let byte = self.bytes.get(self.first).copied();
        self.first = (self.first + 1) % N;
        self.len -= 1;
        byte
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::Queue;

    #[test]
    fn first_in_first_out_around_the_end_and_all_or_nothing() {
        let mut q = Queue::<4>::new();
        for round in 0..10 {
            assert!(q.push(&[round, round + 1, round + 2]));
            assert!(!q.push(&[9, 9]));
            assert_eq!(q.room(), 1);
            assert_eq!(
                [q.pop(), q.pop(), q.pop(), q.pop()],
                [Some(round), Some(round + 1), Some(round + 2), None]
            );
        }
    }
}
