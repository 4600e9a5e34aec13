//! The high precision event timers at FED0_0000h: a counter of 100 MHz and three timers on it (IA-PC HPET specification 1.0a).
//!
//! A timer interrupts through an input of the I/O APIC, one of [`PINS`], or under *legacy replacement* in place of another chip: timer 0 is
//! then IRQ0 and timer 1 IRQ8, and the PIT and the RTC reach no interrupt. Each can be periodic and has 64 bits or 32.
//!
//! Nothing counts in the background: the counter is computed from the time of the access, and timers that interrupt have deadlines. Of several
//! matches that a late poll finds, one interrupts. An edge leaves its wire high, as the PIT's does. A one-shot timer whose
//! comparator is written with a value that has *just* gone by fires at once: where a CPU may stand still between two instructions it
//! would be lost otherwise, and QEMU and Xen do so too.
//!
//! Not implemented: interrupts by messages (Tn_FSB_INT_DEL_CAP is 0). Writes of less than 32 bits do nothing (2.2, "Register Overview", has none).

#[cfg(test)]
mod tests;
mod timer;

use crate::irq::Replaceable;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bitflags::bitflags;
use core::ops::Range;
use hv_core::VmTime;
use hv_core::device::{DevCx, Device, WindowId};
use hv_core::irq::IrqLine;
use hv_core::machine::HPET_ID;
use timer::{Config, Timer};

/// Inputs of the I/O APIC that timers can be routed to: those that no other device has.
pub const PINS: Range<u8> = 16..24;

/// Registers (2.3, "Memory Mapped Registers").
const CAPABILITIES: u64 = 0x000;
const CONFIGURATION: u64 = 0x010;
const STATUS: u64 = 0x020;
const COUNTER: u64 = 0x0f0;
const TIMERS: u64 = 0x100;
const TIMER_LEN: u64 = 0x20;
/// Within a timer's.
const TIMER_CONFIG: u64 = 0x00;
const TIMER_COMPARATOR: u64 = 0x08;

/// How many timers there are. The identity says so too.
const COUNT: usize = 3;
const _: () = assert!((HPET_ID >> 8 & 0x1f) as usize == COUNT - 1);
/// Nanoseconds and femtoseconds of a tick.
const TICK_NS: u64 = 10;
const TICK_FS: u64 = TICK_NS * 1_000_000;
/// The least time between two deadlines: the host outlives a guest that sets a period of one tick.
const MIN_PERIOD: VmTime = VmTime::from_micros(20);

bitflags! {
    /// General Configuration.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct General: u32 {
        /// The counter runs, and timers may interrupt.
        const ENABLE = 1 << 0;
        /// Timers 0 and 1 are IRQ0 and IRQ8.
        const LEG_RT = 1 << 1;
    }
}

/// The HPET.
pub struct Hpet {
    /// IRQ0 and IRQ8.
    legacy: [Arc<Replaceable>; 2],
    legacy_wires: [IrqLine; 2],
    /// Wires to [`PINS`].
    pins: Vec<IrqLine>,
    general: General,
    /// Bits of level-triggered timers that have matched.
    status: u32,
    /// The counter's value, if it runs that at tick `since`.
    counter: u64,
    since: i64,
    timers: [Timer; COUNT],
    /// Before this there is no deadline.
    quiet_until: VmTime,
}

/// The whole tick that `now` is in.
fn tick_of(now: VmTime) -> i64 {
    (now.0 / TICK_NS) as i64
}

impl Hpet {
    /// The device after reset. `legacy` are IRQ0 and IRQ8, `pin` makes a wire to one of [`PINS`].
    #[must_use]
    pub fn new(legacy: [Arc<Replaceable>; 2], pin: impl FnMut(u8) -> IrqLine) -> Self {
        Self {
            legacy_wires: [legacy[0].timer(), legacy[1].timer()],
            legacy,
            pins: PINS.map(pin).collect(),
            general: General::empty(),
            status: 0,
            counter: 0,
            since: 0,
            timers: [const { Timer::new() }; COUNT],
            quiet_until: VmTime(0),
        }
    }

    fn runs(&self) -> bool {
        self.general.contains(General::ENABLE)
    }

    fn counter_at(&self, tick: i64) -> u64 {
        match self.runs() {
            true => self
                .counter
                .wrapping_add_signed(tick.saturating_sub(self.since)),
            false => self.counter,
        }
    }

    /// The wire of timer `n`, if it is routed anywhere.
    fn wire(&self, n: usize) -> Option<&IrqLine> {
        if self.general.contains(General::LEG_RT)
            && let Some(wire) = self.legacy_wires.get(n)
        {
            return Some(wire);
        }
        let route = self.timers.get(n)?.route;
        self.pins.get(usize::from(route.checked_sub(PINS.start)?))
    }

    /// The level of timer `n`'s output.
    fn output(&self, n: usize) -> bool {
        let Some(timer) = self.timers.get(n) else {
            return false;
        };
        let high = match timer.config.contains(Config::INT_TYPE) {
            true => self.status >> n & 1 != 0,
            false => timer.pulsed,
        };
        high && self.runs() && timer.config.contains(Config::INT_ENB)
    }

    /// Does what is due by `now`.
    fn sync(&mut self, now: VmTime) {
        let tick = tick_of(now);
        let before = self.status;
        for n in 0..COUNT {
            let Some(timer) = self.timers.get_mut(n) else {
                continue;
            };
            if !timer.advance(tick) {
                continue;
            }
            let config = timer.config;
            if config.contains(Config::INT_TYPE) {
                self.status |= 1 << n;
            } else if config.contains(Config::INT_ENB) {
                timer.pulsed = true;
                if let Some(wire) = self.wire(n) {
                    wire.pulse();
                }
            }
        }
        if self.status != before {
            self.drive();
        }
    }

    /// Brings every wire to its level.
    fn drive(&self) {
        let on = |wire: &IrqLine| {
            let of = |n: usize| self.wire(n).is_some_and(|own| core::ptr::eq(own, wire));
            (0..COUNT).any(|n| of(n) && self.output(n))
        };
        for wire in self.legacy_wires.iter().chain(&self.pins) {
            wire.set(on(wire));
        }
    }

    /// When [`sync`](Self::sync) next interrupts.
    fn deadline(&self) -> Option<VmTime> {
        let waits = |(n, timer): (usize, &Timer)| {
            let held = timer.config.contains(Config::INT_TYPE) && self.status >> n & 1 != 0;
            let interrupts = timer.config.contains(Config::INT_ENB) && !held;
            timer.due.filter(|_| interrupts)
        };
        let due = self.timers.iter().enumerate().filter_map(waits).min()?;
        let ticks = u64::try_from(due).unwrap_or(0);
        let at = VmTime(ticks.checked_mul(TICK_NS)?);
        Some(at.max(self.quiet_until))
    }

    /// After a change: brings the wires up to date and asks for the next deadline.
    fn settle(&mut self, cx: &mut DevCx<'_>) {
        self.sync(cx.now);
        self.drive();
        if let Some(at) = self.deadline() {
            cx.requests.wake_at(at);
        }
    }

    fn configure(&mut self, value: u32, tick: i64) {
        let counter = self.counter_at(tick);
        self.general = General::from_bits_truncate(value);
        (self.counter, self.since) = (counter, tick);
        let legacy = self.general.contains(General::LEG_RT);
        for line in &self.legacy {
            line.replace(legacy);
        }
        let runs = self.runs();
        for timer in &mut self.timers {
            match runs {
                true => timer.schedule(counter, tick, false),
                false => (timer.due, timer.pulsed) = (None, false),
            }
        }
    }

    fn write_timer(&mut self, n: usize, register: u64, value: u64, bits: u64, tick: i64) {
        let (counter, runs) = (self.counter_at(tick), self.runs());
        let Some(timer) = self.timers.get_mut(n) else {
            return;
        };
        let (changed, just) = match register {
            TIMER_CONFIG if bits as u32 != 0 => {
                let changed = timer.write_config(value as u32);
                if !timer.config.contains(Config::INT_ENB) {
                    timer.pulsed = false;
                }
                if !timer.config.contains(Config::INT_TYPE) {
                    self.status &= !(1 << n);
                } else {
                    timer.pulsed = false;
                }
                (changed, false)
            }
            TIMER_COMPARATOR => (timer.write_comparator(value, bits), true),
            _ => return,
        };
        if changed && runs {
            timer.schedule(counter, tick, just);
        }
    }

    fn read(&self, register: u64, tick: i64) -> u64 {
        match register {
            CAPABILITIES => TICK_FS << 32 | u64::from(HPET_ID),
            CONFIGURATION => self.general.bits().into(),
            STATUS => self.status.into(),
            COUNTER => self.counter_at(tick),
            TIMERS.. => {
                let (n, register) = place(register);
                match (self.timers.get(n), register) {
                    (Some(timer), TIMER_CONFIG) => timer.read_config(),
                    (Some(timer), TIMER_COMPARATOR) => timer.comparator(),
                    _ => 0,
                }
            }
            _ => 0,
        }
    }
}

/// The timer that a register belongs to, and the register's place there.
fn place(register: u64) -> (usize, u64) {
    let at = register - TIMERS;
    ((at / TIMER_LEN) as usize, at % TIMER_LEN)
}

impl Device for Hpet {
    fn name(&self) -> &'static str {
        "hpet"
    }

    fn reset(&mut self, _cx: &mut DevCx<'_>) {
        self.general = General::empty();
        (self.status, self.counter, self.since) = (0, 0, 0);
        self.timers = [const { Timer::new() }; COUNT];
        for line in &self.legacy {
            line.replace(false);
        }
        self.drive();
    }

    fn poll(&mut self, cx: &mut DevCx<'_>) -> Option<VmTime> {
        self.quiet_until = cx.now + MIN_PERIOD;
        self.sync(cx.now);
        self.deadline()
    }

    fn mmio_read(&mut self, cx: &mut DevCx<'_>, _: WindowId, offset: u64, size: usize) -> u64 {
        self.sync(cx.now);
        let value = self.read(offset & !7, tick_of(cx.now)) >> (8 * (offset & 7));
        match size {
            8 => value,
            _ => value & ((1 << (8 * size as u32)) - 1),
        }
    }

    fn mmio_write(
        &mut self,
        cx: &mut DevCx<'_>,
        _: WindowId,
        offset: u64,
        size: usize,
        value: u64,
    ) {
        let (value, bits) = match (size, offset & 7) {
            (8, 0) => (value, u64::MAX),
            (4, 0) => (value, u64::from(u32::MAX)),
            (4, 4) => (value << 32, u64::MAX << 32),
            _ => return,
        };
        self.sync(cx.now);
        let tick = tick_of(cx.now);
        match offset & !7 {
            CONFIGURATION if bits as u32 != 0 => self.configure(value as u32, tick),
            STATUS => self.status &= !(value as u32),
            COUNTER if !self.runs() => self.counter = self.counter & !bits | value & bits,
            register @ TIMERS.. => {
                let (n, register) = place(register);
                self.write_timer(n, register, value, bits, tick);
            }
            _ => {}
        }
        self.settle(cx);
    }
}
