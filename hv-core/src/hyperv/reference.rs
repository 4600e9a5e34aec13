//! Reference time (TLFS, "Timers"): units of 100 ns since the virtual machine was created, from the time-stamp counter. The register and the page
//! with which the guest computes it without an exit use the same scale, so that they agree.

/// Units of reference time in a second.
pub const HZ: u64 = 10_000_000;

/// How ticks of the time-stamp counter become reference time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reference {
    /// Units a tick, as a fixed-point number with 64 fraction bits.
    scale: u64,
    tsc_hz: u64,
}

impl Reference {
    /// For a counter of `tsc_hz` ticks a second, which are more than there are units.
    #[must_use]
    pub fn new(tsc_hz: u64) -> Self {
        let hz = tsc_hz.max(HZ + 1);
        Self {
            scale: ((u128::from(HZ) << 64) / u128::from(hz)) as u64,
            tsc_hz: hz,
        }
    }

    /// Ticks of the time-stamp counter in a second.
    #[must_use]
    pub fn tsc_hz(self) -> u64 {
        self.tsc_hz
    }

    /// The reference time `ticks` ticks after the machine was created.
    #[must_use]
    pub fn of_ticks(self, ticks: u64) -> u64 {
        ((u128::from(ticks) * u128::from(self.scale)) >> 64) as u64
    }

    /// How many ticks after the machine was created the reference time is `time`, or a little more. None: in years.
    #[must_use]
    pub fn ticks_of(self, time: u64) -> Option<u64> {
        const FAR: u128 = 1 << 56;
        let ticks = (u128::from(time) * u128::from(self.tsc_hz)).div_ceil(u128::from(HZ)) + 1;
        (ticks < FAR).then_some(ticks as u64)
    }

    /// The contents of the page: sequence, scale and offset (TLFS, "Partition Reference TSC Page"). The guest's counter has the value `tsc`
    /// `ticks` ticks after the machine was created. Sequence 0 says that the register has to be asked.
    #[must_use]
    pub fn page(self, sequence: u32, tsc: u64, ticks: u64) -> [u8; 24] {
        let offset = self.of_ticks(ticks).wrapping_sub(self.of_ticks(tsc));
        let mut page = [0; 24];
        page[..4].copy_from_slice(&sequence.to_le_bytes());
        page[8..16].copy_from_slice(&self.scale.to_le_bytes());
        page[16..].copy_from_slice(&offset.to_le_bytes());
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_ten_million_units_at_any_frequency() {
        for hz in [10_000_001, 1_000_000_000, 2_597_123_456, 6_000_000_000] {
            let r = Reference::new(hz);
            assert_eq!(r.ticks_of(u64::MAX), None);
            for time in [0, 1, 999, 12_345_678_901] {
                let reached = r.of_ticks(r.ticks_of(time).unwrap());
                assert!(reached == time || reached == time + 1, "{hz}: {time}");
            }
            for seconds in [1, 120, 1_000_000] {
                assert!(r.of_ticks(hz * seconds).abs_diff(HZ * seconds) <= 1, "{hz}");
            }
        }
    }

    #[test]
    fn the_page_and_the_register_agree() {
        let r = Reference::new(2_597_123_456);
        // The guest's counter is behind, ahead, or has been set to anything.
        for tsc in [0, 5, 1 << 40, 1 << 63] {
            let created = 77_000_000_000;
            let page = r.page(1, tsc, created);
            let word = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap());
            for later in [0, 1, 1_000_000_000_000] {
                let by_page = ((u128::from(tsc + later) * u128::from(word(8))) >> 64) as u64;
                let by_page = by_page.wrapping_add(word(16));
                assert!(by_page.abs_diff(r.of_ticks(created + later)) <= 1);
            }
        }
    }
}
