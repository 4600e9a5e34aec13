//! One channel of the 8254 (Intel 8254 datasheet, order number 231164, "Mode Definitions" and "Read Operations").
//!
//! A channel knows at which tick its counting element was loaded and computes the rest. Ticks are signed, so that a load can
//! lie before time 0.

/// Control word: the mode field's place.
const MODE_SHIFT: u8 = 1;
/// Control word: count in BCD.
const BCD: u8 = 1 << 0;
/// Control word: the access field's place.
const ACCESS_SHIFT: u8 = 4;
/// Control word: what the status byte repeats.
const PROGRAMMED: u8 = 0x3f;
/// Status byte: the output pin.
const STATUS_OUT: u8 = 1 << 7;
/// Status byte: the count written last is not yet in the counting element.
const STATUS_NULL: u8 = 1 << 6;

/// The modes by their datasheet titles.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// Mode 0.
    TerminalCount,
    /// Mode 1.
    OneShot,
    /// Modes 2 and 6.
    RateGenerator,
    /// Modes 3 and 7.
    SquareWave,
    /// Mode 4.
    SoftwareStrobe,
    /// Mode 5.
    HardwareStrobe,
}

/// Which bytes of the count are read and written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Access {
    Low,
    High,
    Both,
}

/// What the counting element does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Run {
    /// It waits for a count or for the gate.
    Idle,
    /// It has counted since it was loaded at this tick, which may be the next one.
    Since(i64),
    /// The gate holds it, this many ticks after it was loaded.
    Held(i64),
}

/// A counter with its registers.
#[derive(Clone, Debug)]
pub(super) struct Channel {
    control: u8,
    gate: bool,
    run: Run,
    /// What the counting element was loaded with, 1 to 65,536.
    count: i64,
    /// The count register, 1 to 65,536; none until it is written after a control word.
    reload: Option<i64>,
    /// When a periodic mode takes `reload` over.
    takes_over: Option<i64>,
    /// The count register was not yet loaded into the counting element.
    null: bool,
    /// The low byte of a count whose high byte comes next.
    low_byte: Option<u8>,
    /// The high byte is read next.
    read_high: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

impl Channel {
    /// A channel in power-on state: mode 3 and no count yet.
    pub(super) const fn new(gate: bool) -> Self {
        Self {
            control: 3 << ACCESS_SHIFT | 3 << MODE_SHIFT,
            gate,
            run: Run::Idle,
            count: 0x1_0000,
            reload: None,
            takes_over: None,
            null: true,
            low_byte: None,
            read_high: false,
            latched_count: None,
            latched_status: None,
        }
    }

    fn mode(&self) -> Mode {
        match self.control >> MODE_SHIFT & 7 {
            0 => Mode::TerminalCount,
            1 => Mode::OneShot,
            2 | 6 => Mode::RateGenerator,
            3 | 7 => Mode::SquareWave,
            4 => Mode::SoftwareStrobe,
            _ => Mode::HardwareStrobe,
        }
    }

    fn access(&self) -> Access {
        match self.control >> ACCESS_SHIFT & 3 {
            1 => Access::Low,
            2 => Access::High,
            _ => Access::Both,
        }
    }

    fn bcd(&self) -> bool {
        self.control & BCD != 0
    }

    /// After how many ticks the count is back at the same value.
    fn modulus(&self) -> i64 {
        if self.bcd() { 10_000 } else { 0x1_0000 }
    }

    /// Takes a control word other than the latch and read-back commands. The output takes the mode's first level.
    pub(super) fn program(&mut self, control: u8) {
        *self = Self {
            control: control & PROGRAMMED,
            count: self.count,
            ..Self::new(self.gate)
        };
    }

    /// Writes the counter's port.
    pub(super) fn write(&mut self, tick: i64, value: u8) {
        match self.access() {
            Access::Low => self.write_count(tick, value.into()),
            Access::High => self.write_count(tick, u16::from(value) << 8),
            Access::Both => match self.low_byte.take() {
                Some(low) => self.write_count(tick, u16::from_le_bytes([low, value])),
                None => {
                    self.low_byte = Some(value);
                    if self.mode() == Mode::TerminalCount {
                        // The first byte stops mode 0, its output goes low.
                        self.run = Run::Idle;
                    }
                }
            },
        }
    }

    /// A complete count has been written at `tick`.
    fn write_count(&mut self, tick: i64, value: u16) {
        self.settle(tick);
        let count = match i64::from(if self.bcd() { from_bcd(value) } else { value }) {
            0 => self.modulus(),
            n => n,
        };
        self.reload = Some(count);
        self.null = true;
        match self.mode() {
            Mode::TerminalCount | Mode::SoftwareStrobe => self.load(tick),
            Mode::OneShot | Mode::HardwareStrobe => {
                if self.run == Run::Idle {
                    self.count = count;
                }
            }
            Mode::RateGenerator | Mode::SquareWave => match self.run {
                Run::Since(start) if tick >= start => {
                    self.takes_over = Some(self.segment_end(tick, start))
                }
                _ if self.gate => self.load(tick),
                _ => self.count = count,
            },
        }
    }

    /// Loads the counting element at the clock after `tick`.
    fn load(&mut self, tick: i64) {
        let Some(count) = self.reload else { return };
        self.count = count;
        self.takes_over = None;
        self.null = false;
        let held = !self.gate && matches!(self.mode(), Mode::TerminalCount | Mode::SoftwareStrobe);
        self.run = if held {
            Run::Held(0)
        } else {
            Run::Since(tick + 1)
        };
    }

    /// The first tick after `tick` at which a periodic mode looks at the count register: the end of mode 2's period and of
    /// mode 3's half period.
    fn segment_end(&self, tick: i64, start: i64) -> i64 {
        let phase = (tick - start).rem_euclid(self.count);
        let period = tick - phase;
        let high = high_ticks(self.count);
        if self.mode() == Mode::SquareWave && phase < high {
            period + high
        } else {
            period + self.count
        }
    }

    /// Lets a periodic mode take a new count over if the moment has come.
    fn settle(&mut self, tick: i64) {
        let (Some(at), Some(count), Run::Since(start)) = (self.takes_over, self.reload, self.run)
        else {
            return;
        };
        if tick < at {
            return;
        }
        let rises = (at - start).rem_euclid(self.count) == 0;
        self.count = count;
        self.takes_over = None;
        self.null = false;
        self.run = Run::Since(if rises { at } else { at - high_ticks(count) });
    }

    /// Drives the gate input.
    pub(super) fn set_gate(&mut self, tick: i64, gate: bool) {
        if self.gate == gate {
            return;
        }
        self.settle(tick);
        self.gate = gate;
        match self.mode() {
            Mode::TerminalCount | Mode::SoftwareStrobe => {
                self.run = match self.run {
                    Run::Since(start) if !gate => Run::Held(tick - start),
                    Run::Held(elapsed) if gate => Run::Since(tick - elapsed),
                    run => run,
                }
            }
            Mode::OneShot | Mode::HardwareStrobe => {
                if gate {
                    self.load(tick);
                }
            }
            Mode::RateGenerator | Mode::SquareWave => {
                if gate {
                    self.load(tick);
                } else {
                    self.run = Run::Idle;
                    self.takes_over = None;
                }
            }
        }
    }

    /// Ticks since the counting element was loaded.
    fn elapsed(&self, tick: i64) -> Option<i64> {
        match self.run {
            Run::Idle => None,
            Run::Since(start) => Some(tick - start),
            Run::Held(elapsed) => Some(elapsed),
        }
    }

    /// The output pin.
    pub(super) fn out(&mut self, tick: i64) -> bool {
        self.settle(tick);
        let n = self.count;
        match (self.mode(), self.elapsed(tick)) {
            (mode, None) => mode != Mode::TerminalCount,
            (Mode::TerminalCount, Some(e)) => e >= n,
            (Mode::OneShot, Some(e)) => e < 0 || e >= n,
            (Mode::RateGenerator, Some(e)) => e < 0 || e % n != n - 1,
            (Mode::SquareWave, Some(e)) => e < 0 || e % n < high_ticks(n),
            (Mode::SoftwareStrobe | Mode::HardwareStrobe, Some(e)) => e != n,
        }
    }

    /// The output's level apart from the low times of the periodic and strobe modes.
    pub(super) fn rests_high(&mut self, tick: i64) -> bool {
        self.mode() != Mode::TerminalCount || self.out(tick)
    }

    /// The first tick after `tick` at which the output rises by itself.
    pub(super) fn next_rise(&mut self, tick: i64) -> Option<i64> {
        self.settle(tick);
        let Run::Since(start) = self.run else {
            return None;
        };
        let n = self.count;
        let once = |rise: i64| (rise > tick).then_some(rise);
        match self.mode() {
            Mode::TerminalCount | Mode::OneShot => once(start + n),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => once(start + n + 1),
            Mode::RateGenerator | Mode::SquareWave => match (self.takes_over, self.reload) {
                // In the high half the new count gives the low half's length.
                (Some(at), Some(next)) if (at - start).rem_euclid(n) != 0 => {
                    Some(at + next - high_ticks(next))
                }
                _ => Some(start + ((tick - start).div_euclid(n).max(0) + 1) * n),
            },
        }
    }

    /// The count as it is read.
    fn value(&mut self, tick: i64) -> u16 {
        self.settle(tick);
        let n = self.count;
        let e = self.elapsed(tick).map_or(0, |e| e.max(0));
        let value = match self.mode() {
            Mode::RateGenerator => n - e % n,
            Mode::SquareWave => {
                // It counts by twos, from the next lower even number, once in each half.
                let phase = e % n;
                let high = high_ticks(n);
                (n & !1) - 2 * if phase < high { phase } else { phase - high }
            }
            _ => n - e,
        };
        let value = value.rem_euclid(self.modulus()) as u16;
        if self.bcd() { to_bcd(value) } else { value }
    }

    /// Latches the count until it has been read.
    pub(super) fn latch_count(&mut self, tick: i64) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.value(tick));
        }
    }

    /// Latches the status until it has been read.
    pub(super) fn latch_status(&mut self, tick: i64) {
        if self.latched_status.is_none() {
            let out = if self.out(tick) { STATUS_OUT } else { 0 };
            let loading = matches!(self.run, Run::Since(start) if tick < start);
            let null = if self.null || loading { STATUS_NULL } else { 0 };
            self.latched_status = Some(out | null | self.control);
        }
    }

    /// Reads the counter's port: a latched status first, then a latched count, then the count as it is.
    pub(super) fn read(&mut self, tick: i64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let value = match self.latched_count {
            Some(value) => value,
            None => self.value(tick),
        };
        let [low, high] = value.to_le_bytes();
        let (byte, last) = match self.access() {
            Access::Low => (low, true),
            Access::High => (high, true),
            Access::Both => {
                self.read_high = !self.read_high;
                if self.read_high {
                    (low, false)
                } else {
                    (high, true)
                }
            }
        };
        if last {
            self.latched_count = None;
        }
        byte
    }
}

/// How long mode 3's output is high in a period of `n` ticks.
const fn high_ticks(n: i64) -> i64 {
    (n + 1) / 2
}

fn from_bcd(value: u16) -> u16 {
    (0..4)
        .rev()
        .fold(0, |n, i| n * 10 + (value >> (4 * i) & 15))
}

fn to_bcd(value: u16) -> u16 {
    let digit = |unit: u16| value / unit % 10;
    (digit(1000) << 12) | (digit(100) << 8) | (digit(10) << 4) | digit(1)
}
