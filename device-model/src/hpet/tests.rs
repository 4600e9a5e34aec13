//! The timers against a counter that counts.

use super::*;
use hv_core::testing::{Bench, Random, RecordingIrqs};

const PIN: u8 = 20;
const CONFIG: u64 = TIMERS + TIMER_CONFIG;
const COMPARATOR: u64 = TIMERS + TIMER_COMPARATOR;
const INT_ENB: u64 = 1 << 2;
const LEVEL: u64 = 1 << 1;
const PERIODIC: u64 = 1 << 3;
const VAL_SET: u64 = 1 << 6;
const MODE_32: u64 = 1 << 8;

struct Rig {
    bench: Bench,
    hpet: Hpet,
    irqs: Arc<RecordingIrqs>,
    /// The interrupts of the PIT and the RTC.
    others: [IrqLine; 2],
}

impl Rig {
    fn new() -> Self {
        let irqs = RecordingIrqs::new();
        let line = |pin| IrqLine::new(irqs.clone(), pin);
        let legacy = [0, 8].map(|pin| Replaceable::new(line(pin)));
        Self {
            bench: Bench::new(),
            others: [legacy[0].own(), legacy[1].own()],
            hpet: Hpet::new(legacy, line),
            irqs,
        }
    }

    fn read(&mut self, register: u64) -> u64 {
        self.hpet
            .mmio_read(&mut self.bench.cx(), WindowId(0), register, 8)
    }

    fn write(&mut self, register: u64, value: u64) {
        self.hpet
            .mmio_write(&mut self.bench.cx(), WindowId(0), register, 8, value);
    }

    /// Lets ticks pass, and whoever wants to be called is.
    fn pass(&mut self, ticks: u64) {
        self.bench.now = self.bench.now + VmTime(ticks * TICK_NS);
        self.hpet.poll(&mut self.bench.cx());
    }

    /// How often the wire has risen.
    fn rises(&self, pin: u8) -> usize {
        let changes = self.irqs.take();
        changes
            .iter()
            .filter(|&&change| change == (pin, true))
            .count()
    }
}

#[test]
fn identity_is_what_the_table_says_and_the_period_is_ten_nanoseconds() {
    let mut r = Rig::new();
    assert_eq!(r.read(CAPABILITIES), 10_000_000 << 32 | 0x8086_a201);
    r.write(CAPABILITIES, 0);
    assert_eq!(r.read(CAPABILITIES) as u32, HPET_ID);
    assert_eq!(r.read(CONFIG) >> 32, 0x00ff_0000);
    assert_eq!(r.read(COMPARATOR), u64::MAX);
}

#[test]
fn counter_counts_while_it_is_enabled_and_is_written_while_it_is_not() {
    let mut r = Rig::new();
    r.pass(100);
    assert_eq!(r.read(COUNTER), 0);
    r.write(COUNTER, 0xffff_ffff);
    r.write(CONFIGURATION, 1);
    r.pass(2);
    assert_eq!(r.read(COUNTER), 0x1_0000_0001);
    r.write(COUNTER, 5);
    assert_eq!(r.read(COUNTER), 0x1_0000_0001, "it runs");
    r.write(CONFIGURATION, 0);
    r.pass(7);
    assert_eq!(r.read(COUNTER), 0x1_0000_0001);
    let half = |r: &mut Rig, at, value| {
        r.hpet
            .mmio_write(&mut r.bench.cx(), WindowId(0), COUNTER + at, 4, value)
    };
    half(&mut r, 4, 0xaa);
    assert_eq!(r.read(COUNTER), 0xaa_0000_0001);
    half(&mut r, 2, 0xffff_ffff);
    assert_eq!(r.read(COUNTER), 0xaa_0000_0001, "it is not aligned");
}

/// Linux's `hpet_clkevt_set_state_periodic` and `hpet_clkevt_set_next_event`.
#[test]
fn timer_0_replaces_the_pit_as_linux_sets_it() {
    let mut r = Rig::new();
    r.others[0].pulse();
    assert_eq!(r.rises(0), 1);
    r.write(CONFIGURATION, 3);
    r.others[0].pulse();
    r.others[1].pulse();
    assert_eq!((r.rises(0), r.rises(8)), (0, 0), "they are replaced");
    r.write(CONFIG, INT_ENB | PERIODIC | VAL_SET | MODE_32);
    let now = r.read(COUNTER);
    r.write(COMPARATOR, now + 1000);
    r.write(COMPARATOR, 1000);
    assert_eq!(r.read(CONFIG) & VAL_SET, 0);
    r.pass(999);
    assert_eq!(r.rises(0), 0);
    for _ in 0..5 {
        r.pass(1000);
        assert_eq!(r.rises(0), 1);
    }
    // One shot.
    r.write(CONFIG, INT_ENB | MODE_32);
    let now = r.read(COUNTER);
    r.write(COMPARATOR, now + 300);
    r.pass(300);
    r.pass(100_000);
    assert_eq!(r.rises(0), 1);
    r.write(CONFIGURATION, 1);
    r.others[0].pulse();
    assert_eq!(r.rises(0), 1, "the PIT has it back");
}

#[test]
fn level_stays_until_its_status_is_cleared() {
    let mut r = Rig::new();
    r.write(CONFIG, INT_ENB | LEVEL | u64::from(PIN) << 9);
    r.write(COMPARATOR, 50);
    r.write(CONFIGURATION, 1);
    r.pass(60);
    assert!(r.irqs.level(PIN));
    assert_eq!(r.read(STATUS), 1);
    r.write(STATUS, 6);
    assert!(r.irqs.level(PIN));
    r.write(STATUS, 1);
    assert!(!r.irqs.level(PIN));
    assert_eq!(r.read(STATUS), 0);
}

#[test]
fn route_that_is_not_there_is_not_taken() {
    let mut r = Rig::new();
    r.write(CONFIG, u64::from(PIN) << 9);
    r.write(CONFIG, 2 << 9);
    assert_eq!(r.read(CONFIG) >> 9 & 0x1f, PIN.into());
}

#[test]
fn comparator_that_has_just_gone_by_fires_at_once_and_no_other_does() {
    let mut r = Rig::new();
    r.write(COUNTER, 10_000_000);
    r.write(CONFIG, INT_ENB | u64::from(PIN) << 9);
    r.write(CONFIGURATION, 1);
    r.write(COMPARATOR, 10_000_000 - 5);
    assert_eq!(r.rises(PIN), 1);
    r.write(COMPARATOR, 5);
    r.write(COMPARATOR, u64::MAX);
    r.write(CONFIG, INT_ENB | MODE_32 | u64::from(PIN) << 9);
    r.pass(1 << 20);
    assert_eq!(r.rises(PIN), 0);
}

#[test]
fn shortest_period_does_not_keep_the_host_from_anything_else() {
    let mut r = Rig::new();
    r.write(CONFIG, INT_ENB | PERIODIC | VAL_SET | u64::from(PIN) << 9);
    r.write(COMPARATOR, 1);
    r.write(CONFIGURATION, 1);
    r.pass(1_000_000);
    let next = r.hpet.poll(&mut r.bench.cx());
    assert!(next >= Some(r.bench.now + MIN_PERIOD));
}

#[test]
fn reset_gives_the_interrupts_back() {
    let mut r = Rig::new();
    r.write(CONFIG, INT_ENB | PERIODIC | VAL_SET);
    r.write(COMPARATOR, 10);
    r.write(CONFIGURATION, 3);
    r.pass(15);
    assert!(r.irqs.level(0));
    r.hpet.reset(&mut r.bench.cx());
    assert!(!r.irqs.level(0));
    r.irqs.take();
    r.pass(1000);
    r.others[0].pulse();
    assert_eq!(r.rises(0), 1);
    assert_eq!(r.read(COMPARATOR), u64::MAX);
}

/// A timer that looks at the counter at every tick.
struct Dumb {
    runs: bool,
    counter: u64,
    config: u64,
    comparator: u64,
    period: u64,
    status: bool,
    fired: bool,
}

impl Dumb {
    fn mask(&self) -> u64 {
        if self.config & MODE_32 != 0 {
            0xffff_ffff
        } else {
            u64::MAX
        }
    }

    fn look(&mut self) {
        if !self.runs || (self.counter ^ self.comparator) & self.mask() != 0 {
            return;
        }
        self.fired = true;
        self.status |= self.config & LEVEL != 0;
        if self.config & PERIODIC != 0 {
            self.comparator = self.comparator.wrapping_add(self.period) & self.mask();
        }
    }

    fn pass(&mut self, ticks: u64) {
        for _ in 0..ticks {
            if self.runs {
                self.counter = self.counter.wrapping_add(1);
                self.look();
            }
        }
    }

    fn write_comparator(&mut self, value: u64) {
        let periodic = self.config & PERIODIC != 0;
        if periodic {
            self.period = value & self.mask();
        }
        if !periodic || self.config & VAL_SET != 0 {
            self.comparator = value & self.mask();
            self.look();
        }
        self.config &= !(VAL_SET * u64::from(periodic));
    }
}

/// Every register and every edge of a timer are those of one that counts. Values lie ahead of the counter: what lies behind is a rule of its
/// own.
#[test]
fn timers_are_as_one_that_counts_every_tick() {
    let mut random = Random::from_env("UMBRA_SEED", 21);
    for _ in 0..300 {
        let r = &mut random;
        let mut rig = Rig::new();
        let mut dumb = Dumb {
            runs: false,
            counter: r.pick(&[0, 0xffff_ff00, 0xff_ffff_ff80, u64::MAX - 300]),
            config: 0,
            comparator: u64::MAX,
            period: 0,
            status: false,
            fired: false,
        };
        rig.write(COUNTER, dumb.counter);
        for _ in 0..120 {
            match r.below(10) {
                0 => {
                    let mode = r.pick(&[0, LEVEL]) | r.pick(&[0, PERIODIC]) | r.pick(&[0, MODE_32]);
                    let config = mode | INT_ENB | r.pick(&[0, VAL_SET]);
                    let changed = (dumb.config ^ config) & (PERIODIC | MODE_32) != 0;
                    dumb.config = config;
                    dumb.comparator &= dumb.mask();
                    dumb.period &= dumb.mask();
                    if dumb.config & LEVEL == 0 {
                        dumb.status = false;
                    }
                    if changed {
                        dumb.look();
                    }
                    rig.write(CONFIG, config | u64::from(PIN) << 9);
                }
                1..=3 => {
                    let ahead = 1 + r.below(200);
                    let periodic = dumb.config & PERIODIC != 0;
                    let value = match periodic && dumb.config & VAL_SET == 0 {
                        true => ahead,
                        false => dumb.counter.wrapping_add(ahead),
                    };
                    rig.write(COMPARATOR, value);
                    dumb.write_comparator(value);
                    if periodic {
                        // As systems do: the value, then the period.
                        let period = 1 + r.below(100);
                        rig.write(COMPARATOR, period);
                        dumb.write_comparator(period);
                    }
                }
                4 => {
                    dumb.runs = r.below(4) != 0;
                    dumb.look();
                    rig.write(CONFIGURATION, dumb.runs.into());
                }
                5 => {
                    dumb.status = false;
                    rig.write(STATUS, 1);
                }
                _ => {
                    let ticks = r.below(300);
                    dumb.pass(ticks);
                    rig.bench.now = rig.bench.now + VmTime(ticks * TICK_NS);
                }
            }
            assert_eq!(rig.read(COUNTER), dumb.counter);
            assert_eq!(rig.read(COMPARATOR), dumb.comparator, "{:#x}", dumb.config);
            assert_eq!(rig.read(STATUS) != 0, dumb.status);
            let rose = rig.rises(PIN) != 0;
            let level = dumb.config & LEVEL != 0;
            if level {
                assert_eq!(rig.irqs.level(PIN), dumb.status && dumb.runs);
            } else if dumb.config & INT_ENB != 0 {
                assert_eq!(rose, dumb.fired, "{:#x}", dumb.config);
            }
            dumb.fired = false;
        }
    }
}
