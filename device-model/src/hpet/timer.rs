//! A timer of the HPET: a comparator that matches the main counter, once or every so often.

use super::PINS;
use bitflags::bitflags;

/// A comparator that was written with a value which the counter has passed by this many ticks or fewer matches at once: the writer was
/// kept from the CPU between reading the counter and writing (10 ms). Of what lies farther behind it is sure that it is meant to come.
const JUST_MISSED: u64 = 1_000_000;

bitflags! {
    /// Timer n Configuration and Capabilities, bits 31:0 without the route.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Config: u32 {
        /// Level triggered, not edge.
        const INT_TYPE = 1 << 1;
        /// It interrupts.
        const INT_ENB = 1 << 2;
        /// Periodic.
        const TYPE = 1 << 3;
        /// It can be periodic (read-only).
        const PER_INT_CAP = 1 << 4;
        /// It has 64 bits (read-only).
        const SIZE_CAP = 1 << 5;
        /// The next write to the comparator of a periodic timer sets it.
        const VAL_SET = 1 << 6;
        /// It has 32 bits all the same.
        const MODE_32 = 1 << 8;
    }
}

/// Bits that software sets.
const WRITABLE: Config = Config::INT_TYPE
    .union(Config::INT_ENB)
    .union(Config::TYPE)
    .union(Config::VAL_SET)
    .union(Config::MODE_32);
/// What every timer can.
const CAPABILITIES: Config = Config::PER_INT_CAP.union(Config::SIZE_CAP);
const ROUTE_SHIFT: u32 = 9;
const ROUTE: u32 = 0x1f;

/// One timer.
pub(super) struct Timer {
    pub(super) config: Config,
    /// The input of the I/O APIC that it drives, if it is one of [`PINS`].
    pub(super) route: u8,
    comparator: u64,
    /// What is added to the comparator of a periodic timer at each match.
    period: u64,
    /// When it next matches, in ticks of the machine's time: in the past if it has just been missed.
    pub(super) due: Option<i64>,
    /// An edge has raised the wire, and nothing has lowered it.
    pub(super) pulsed: bool,
}

impl Timer {
    /// As after reset.
    pub(super) const fn new() -> Self {
        Self {
            config: CAPABILITIES,
            route: 0,
            comparator: u64::MAX,
            period: 0,
            due: None,
            pulsed: false,
        }
    }

    fn mask(&self) -> u64 {
        match self.config.contains(Config::MODE_32) {
            true => u32::MAX.into(),
            false => u64::MAX,
        }
    }

    /// Ticks between two matches; none in 64 bits that do not come again.
    fn step(&self) -> Option<u64> {
        match self.config.contains(Config::TYPE) {
            true if self.period != 0 => Some(self.period),
            _ => self.mask().checked_add(1),
        }
    }

    /// The counter has the value `counter` at `tick` and runs on: finds the next match, or the one that has `just` been missed.
    pub(super) fn schedule(&mut self, counter: u64, tick: i64, just: bool) {
        let mask = self.mask();
        let behind = counter.wrapping_sub(self.comparator) & mask;
        self.due = match behind {
            0 => Some(tick),
            _ if just && behind <= JUST_MISSED => Some(tick.saturating_sub(behind as i64)),
            _ => {
                let ahead = self.comparator.wrapping_sub(counter) & mask;
                i64::try_from(ahead)
                    .ok()
                    .and_then(|ahead| tick.checked_add(ahead))
            }
        };
    }

    /// Goes on to `tick`. Whether it has matched since it was looked at.
    pub(super) fn advance(&mut self, tick: i64) -> bool {
        let Some(due) = self.due.filter(|&due| due <= tick) else {
            return false;
        };
        let Some(step) = self.step() else {
            self.due = None;
            return true;
        };
        let late = tick.abs_diff(due);
        let matches = late / step + 1;
        if self.config.contains(Config::TYPE) {
            let gone = self.period.wrapping_mul(matches);
            self.comparator = self.comparator.wrapping_add(gone) & self.mask();
        }
        // One step on from the last of them; `late / step * step` is at most `late`.
        let last = due.saturating_add_unsigned(late / step * step);
        self.due = i64::try_from(step)
            .ok()
            .and_then(|step| last.checked_add(step));
        true
    }

    /// Bits 63:0 of its configuration and capabilities.
    pub(super) fn read_config(&self) -> u64 {
        let pins = (PINS.start..PINS.end).fold(0u64, |all, pin| all | 1 << pin);
        pins << 32 | u64::from(self.config.bits() | u32::from(self.route) << ROUTE_SHIFT)
    }

    /// Writes bits 31:0. Whether the counter means something else to it now.
    pub(super) fn write_config(&mut self, value: u32) -> bool {
        let old = self.config;
        self.config = Config::from_bits_truncate(value) & WRITABLE | CAPABILITIES;
        let route = (value >> ROUTE_SHIFT & ROUTE) as u8;
        if PINS.contains(&route) {
            self.route = route;
        }
        self.comparator &= self.mask();
        self.period &= self.mask();
        (old ^ self.config).intersects(Config::TYPE | Config::MODE_32)
    }

    pub(super) fn comparator(&self) -> u64 {
        self.comparator
    }

    /// Writes `value` to the `bits` of the comparator, and of a periodic timer's period (HPET 1.0a 2.3.9.2.2, "Periodic Mode"). Whether
    /// the comparator has changed.
    pub(super) fn write_comparator(&mut self, value: u64, bits: u64) -> bool {
        let mask = self.mask();
        let merge = |old: u64| (old & !bits | value & bits) & mask;
        if !self.config.contains(Config::TYPE) {
            self.comparator = merge(self.comparator);
            return true;
        }
        self.period = merge(self.period);
        let set = self.config.contains(Config::VAL_SET);
        if set {
            self.comparator = merge(self.comparator);
            self.config.remove(Config::VAL_SET);
        }
        set
    }
}
