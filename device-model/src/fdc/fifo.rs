//! The bytes between the guest and the controller: a command with its parameters on the way in, its results on the way out.

/// Most bytes of a command, or of its results.
pub(super) const LONGEST: usize = 10;

/// A queue that cannot grow beyond [`LONGEST`], whatever is put into it.
#[derive(Clone, Copy, Default)]
pub(super) struct Fifo {
    bytes: [u8; LONGEST],
    len: usize,
    /// So many have been taken.
    taken: usize,
}

impl Fifo {
    /// A queue that holds these bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut fifo = Self::default();
        bytes.iter().for_each(|&byte| fifo.put(byte));
        fifo
    }

    /// Puts a byte behind the others. One for which there is no room is lost.
    pub(super) fn put(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
    }

    /// Takes the first byte.
    pub(super) fn take(&mut self) -> Option<u8> {
        let held = self.bytes.get(..self.len)?;
        let byte = *held.get(self.taken)?;
        self.taken += 1;
        Some(byte)
    }

    /// How many bytes have been put in.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether everything has been taken.
    pub(super) fn is_empty(&self) -> bool {
        self.taken == self.len
    }

    /// The byte at `index`, 0 if there is none.
    pub(super) fn at(&self, index: usize) -> u8 {
        self.bytes.get(index).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_the_order_and_its_bound() {
        let mut fifo = Fifo::default();
        for byte in 0..20 {
            fifo.put(byte);
        }
        assert_eq!(fifo.len(), LONGEST);
        for byte in 0..LONGEST as u8 {
            assert_eq!(fifo.take(), Some(byte));
        }
        assert!(fifo.is_empty() && fifo.take().is_none());
        assert_eq!((fifo.at(3), fifo.at(LONGEST)), (3, 0));
    }
}
