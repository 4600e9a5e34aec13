//! The statistics registers (317453, "Statistics Registers"): reading clears them, and they stay at their largest value. Counts of bytes are of
//! 64 bits: reading the upper half clears both.

use super::filter::Kind;

/// The registers by number: their offsets from 4000h, by four.
mod register {
    pub const MISSED: usize = 0x10 / 4;
    /// Received, and sent, by length: six each.
    pub const RECEIVED_BY_LENGTH: usize = 0x5c / 4;
    pub const SENT_BY_LENGTH: usize = 0xd8 / 4;
    pub const GOOD_RECEIVED: usize = 0x74 / 4;
    pub const BROADCASTS_RECEIVED: usize = 0x78 / 4;
    pub const MULTICASTS_RECEIVED: usize = 0x7c / 4;
    pub const GOOD_SENT: usize = 0x80 / 4;
    pub const GOOD_BYTES_RECEIVED: usize = 0x88 / 4;
    pub const GOOD_BYTES_SENT: usize = 0x90 / 4;
    pub const OVERSIZED: usize = 0xac / 4;
    pub const BYTES_RECEIVED: usize = 0xc0 / 4;
    pub const BYTES_SENT: usize = 0xc8 / 4;
    pub const RECEIVED: usize = 0xd0 / 4;
    pub const SENT: usize = 0xd4 / 4;
    pub const MULTICASTS_SENT: usize = 0xf0 / 4;
    pub const BROADCASTS_SENT: usize = 0xf4 / 4;
    pub const SEGMENTED: usize = 0xf8 / 4;
    pub const SEGMENTED_FAILED: usize = 0xfc / 4;
    /// The lower halves of counts of 64 bits.
    pub const LONG: [usize; 4] = [
        GOOD_BYTES_RECEIVED,
        GOOD_BYTES_SENT,
        BYTES_RECEIVED,
        BYTES_SENT,
    ];
}

/// Bytes of the frame check sequence, which the counts have in them.
const FCS: usize = 4;
/// The longest frames of each class of length.
const LENGTHS: [usize; 5] = [64, 127, 255, 511, 1023];

/// All of them.
pub(super) struct Statistics([u32; 64]);

impl Statistics {
    pub(super) fn new() -> Self {
        Self([0; 64])
    }

    fn count(&mut self, register: usize) {
        let value = &mut self.0[register % 64];
        *value = value.saturating_add(1);
    }

    fn add(&mut self, low: usize, bytes: usize) {
        let (low, high) = (low % 64, (low + 1) % 64);
        let value = u64::from(self.0[high]) << 32 | u64::from(self.0[low]);
        let value = value.saturating_add(bytes as u64);
        self.0[low] = value as u32;
        self.0[high] = (value >> 32) as u32;
    }

    /// The register at this offset from the first is read.
    pub(super) fn take(&mut self, offset: u32) -> u32 {
        let at = (offset / 4) as usize % 64;
        if register::LONG.contains(&at) {
            return self.0[at];
        }
        if at > 0 && register::LONG.contains(&(at - 1)) {
            self.0[at - 1] = 0;
        }
        core::mem::take(&mut self.0[at])
    }

    /// A frame was received: `len` is without its check sequence.
    pub(super) fn received(&mut self, kind: Kind, len: usize) {
        let bytes = len + FCS;
        self.count(register::RECEIVED_BY_LENGTH + class(bytes));
        self.count(register::RECEIVED);
        self.count(register::GOOD_RECEIVED);
        match kind {
            Kind::Unicast => {}
            Kind::Multicast => self.count(register::MULTICASTS_RECEIVED),
            Kind::Broadcast => self.count(register::BROADCASTS_RECEIVED),
        }
        self.add(register::GOOD_BYTES_RECEIVED, bytes);
        self.add(register::BYTES_RECEIVED, bytes);
    }

    /// A frame was sent, likewise.
    pub(super) fn sent(&mut self, kind: Kind, len: usize) {
        let bytes = len + FCS;
        self.count(register::SENT_BY_LENGTH + class(bytes));
        self.count(register::SENT);
        self.count(register::GOOD_SENT);
        match kind {
            Kind::Unicast => {}
            Kind::Multicast => self.count(register::MULTICASTS_SENT),
            Kind::Broadcast => self.count(register::BROADCASTS_SENT),
        }
        self.add(register::GOOD_BYTES_SENT, bytes);
        self.add(register::BYTES_SENT, bytes);
    }

    /// A frame was lost, since no ring of this length has room for it.
    pub(super) fn missed(&mut self) {
        self.count(register::MISSED);
    }

    /// A frame was too long.
    pub(super) fn oversized(&mut self) {
        self.count(register::OVERSIZED);
        self.count(register::RECEIVED);
    }

    /// A message was cut into segments, or could not be.
    pub(super) fn segmented(&mut self, good: bool) {
        self.count(if good {
            register::SEGMENTED
        } else {
            register::SEGMENTED_FAILED
        });
    }
}

fn class(bytes: usize) -> usize {
    LENGTHS.iter().take_while(|&&most| bytes > most).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_clears_and_the_upper_half_clears_both() {
        let mut s = Statistics::new();
        s.received(Kind::Broadcast, 60);
        s.received(Kind::Unicast, 1514);
        assert_eq!((s.take(0x74), s.take(0x74)), (2, 0));
        assert_eq!((s.take(0x78), s.take(0x7c)), (1, 0));
        assert_eq!((s.take(0x5c), s.take(0x60), s.take(0x70)), (1, 0, 1));
        assert_eq!((s.take(0xc0), s.take(0xc0)), (64 + 1518, 64 + 1518));
        assert_eq!((s.take(0xc4), s.take(0xc0)), (0, 0));
    }

    #[test]
    fn counts_stay_at_their_largest() {
        let mut s = Statistics([!0; 64]);
        s.sent(Kind::Multicast, 60);
        assert_eq!((s.take(0xd4), s.take(0xc8), s.take(0xcc)), (!0, !0, !0));
    }
}
