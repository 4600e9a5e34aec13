//! The Motorola MC146818 real-time clock with 128 bytes of CMOS memory at ports 70h and 71h.
//!
//! Sources: Motorola MC146818A datasheet, "Real-Time Clock plus RAM"; for the century bytes ACPI 6.5 5.2.9, "Fixed ACPI
//! Description Table" (32h, as our tables say), and the place where Windows XP looks (37h).
//!
//! The clock is a function of the VM's time: nothing ticks while nobody looks and no interrupt is enabled. What ticks went
//! by shows in register C when it is read. While the guest sets the clock (register B, SET) or holds the divider, the ten time
//! bytes are plain memory; otherwise a write to one of them moves the clock at once.
//!
//! The flags of register C are set whether their interrupts are enabled or not, and enabling one whose flag is set asserts the line at
//! once (datasheet, "Interrupts"). QEMU, Bochs and Xen start the periodic ticks when PIE is set, so that the first comes a period later.
//! Guests wait for either; that they find the interrupt if their I/O APIC's input is masked when it comes is seen to
//! [there](mod@super::irq).
//!
//! Periodic interrupts that came due while the one before was not yet acknowledged are made up for, up to `LOST_MAX`:
//! the HALs of Windows XP to 7 keep the time of day with them.
//!
//! Not implemented: daylight saving (DSE), the square-wave pin, a day of the week that disagrees with the date.

mod date;

use crate::pm::RtcAlarm;
use bitflags::bitflags;
use date::{DAY, Date};
use hv_core::VmTime;
use hv_core::device::{AccessSize, DevCx, Device};
use hv_core::irq::IrqLine;

/// Index port; bit 7 masks NMI.
const INDEX: u16 = 0x70;
/// Data port.
const DATA: u16 = 0x71;

/// Bytes of CMOS memory with the clock's registers.
const CMOS_SIZE: usize = 128;

const SECONDS: u8 = 0x00;
const SECONDS_ALARM: u8 = 0x01;
const MINUTES: u8 = 0x02;
const MINUTES_ALARM: u8 = 0x03;
const HOURS: u8 = 0x04;
const HOURS_ALARM: u8 = 0x05;
const DAY_OF_WEEK: u8 = 0x06;
const DAY_OF_MONTH: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const REGISTER_A: u8 = 0x0a;
const REGISTER_B: u8 = 0x0b;
const REGISTER_C: u8 = 0x0c;
const REGISTER_D: u8 = 0x0d;
const CENTURY: u8 = 0x32;
const CENTURY_PS2: u8 = 0x37;

/// Hours register: afternoon, in 12-hour mode.
const PM: u8 = 1 << 7;
/// An alarm byte from here on matches every value.
const ANY: u8 = 0xc0;

/// Register A: update in progress.
const UIP: u8 = 1 << 7;
/// Register A: the divider chain's mode (DV2 to DV0).
const DIVIDER: u8 = 0x70;
/// Register A: the divider chain runs from 32768 Hz.
const DIVIDER_RUNS: u8 = 0x20;
/// Register A: rate of the periodic interrupt (RS3 to RS0).
const RATE: u8 = 0x0f;
/// Register D: the battery is good.
const VRT: u8 = 1 << 7;

bitflags! {
    /// Register B.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Control: u8 {
        /// The guest sets the clock: no updates.
        const SET = 1 << 7;
        /// Periodic interrupt enable.
        const PIE = 1 << 6;
        /// Alarm interrupt enable.
        const AIE = 1 << 5;
        /// Update-ended interrupt enable.
        const UIE = 1 << 4;
        /// Square wave enable.
        const SQWE = 1 << 3;
        /// Binary, not BCD.
        const DM = 1 << 2;
        /// 24-hour mode.
        const H24 = 1 << 1;
        /// Daylight saving enable.
        const DSE = 1 << 0;
    }
}

bitflags! {
    /// Register C. The bits of the sources are where register B has their enables.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Flags: u8 {
        /// The interrupt line is asserted.
        const IRQF = 1 << 7;
        /// A periodic interrupt is due.
        const PF = 1 << 6;
        /// The alarm time came.
        const AF = 1 << 5;
        /// The time was updated.
        const UF = 1 << 4;
    }
}

/// The reason for a start of the firmware, in CMOS memory (IBM AT Technical Reference, "Shutdown status byte").
const SHUTDOWN_STATUS: u8 = 0x0f;
/// That reason after S3, as QEMU's clock writes it (`hw/rtc/mc146818rtc.c`): SeaBIOS and OVMF wake the system then.
const WOKEN: u8 = 0xfe;

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;
/// The time base in hertz.
const BASE_HZ: u64 = 32_768;
/// How long before an update UIP is set, in nanoseconds (datasheet, "Update Cycle": 244 microseconds).
const UIP_BEFORE: u64 = 244_141;
/// At most so many periodic interrupts are made up for.
const LOST_MAX: u64 = 64;

/// The real-time clock and CMOS memory.
pub struct Rtc {
    irq8: IrqLine,
    /// Where the alarm ends besides, and whether its interrupt is asserted.
    power: Option<RtcAlarm>,
    rings: bool,
    index: u8,
    /// Memory and alarm bytes; the time bytes are only up to date while the clock stands still.
    cmos: [u8; CMOS_SIZE],
    a: u8,
    b: Control,
    c: Flags,
    /// What is to be added to the VM's time so that seconds begin at multiples of [`SECOND`]; below one second.
    phase: u64,
    /// Seconds since 1970 at second 0 of the phase-shifted VM time.
    offset: i64,
    /// The phase-shifted second up to which [`Rtc::sync`] has looked.
    seen_second: u64,
    /// The count of periodic ticks up to which [`Rtc::sync`] has looked.
    seen_tick: u64,
    /// The phase-shifted second of the next alarm.
    alarm: Option<u64>,
    /// Periodic interrupts to be made up for, and when the next may come.
    lost: u64,
    make_up_at: VmTime,
}

impl Rtc {
    /// A clock that shows `unix_seconds` since 1970, UTC, at VM time 0, in BCD and 24-hour mode.
    #[must_use]
    pub fn new(irq8: IrqLine, unix_seconds: u64) -> Self {
        Self {
            irq8,
            power: None,
            rings: false,
            index: 0,
            cmos: [0; CMOS_SIZE],
            a: 0x26,
            b: Control::H24,
            c: Flags::empty(),
            phase: 0,
            // The year 9999 is the last that the registers can show.
            offset: unix_seconds.min(253_402_300_799) as i64,
            seen_second: 0,
            seen_tick: 0,
            alarm: None,
            lost: 0,
            make_up_at: VmTime(0),
        }
    }

    /// The same with its alarm wired to power management too.
    #[must_use]
    pub fn with_alarm(mut self, power: RtcAlarm) -> Self {
        self.power = Some(power);
        self
    }

    /// Sets a byte of CMOS memory (`index` below 128) as the factory does. Clock registers A to D and time bytes are not memory:
    /// setting them does nothing.
    pub fn set_cmos(&mut self, index: u8, value: u8) {
        if is_time(index) || (REGISTER_A..=REGISTER_D).contains(&index) {
            return;
        }
        if let Some(byte) = self.cmos.get_mut(usize::from(index)) {
            *byte = value;
        }
    }

    /// A byte of CMOS memory, as [`set_cmos`](Self::set_cmos) counts them.
    #[must_use]
    pub fn cmos(&self, index: u8) -> u8 {
        self.byte(index)
    }

    fn byte(&self, index: u8) -> u8 {
        self.cmos.get(usize::from(index)).copied().unwrap_or(0xff)
    }

    fn set_byte(&mut self, index: u8, value: u8) {
        if let Some(byte) = self.cmos.get_mut(usize::from(index)) {
            *byte = value;
        }
    }

    /// The VM's time shifted so that the clock's seconds begin at whole seconds.
    fn shifted(&self, now: VmTime) -> u64 {
        now.0.saturating_add(self.phase)
    }

    /// The VM's time of a shifted one.
    fn unshifted(&self, shifted: u64) -> VmTime {
        VmTime(shifted.saturating_sub(self.phase))
    }

    fn divider_runs(&self) -> bool {
        // 4.194304 MHz and 1.048576 MHz crystals (0 and 1) count as running, too: the divider is not held in reset.
        self.a & DIVIDER <= DIVIDER_RUNS
    }

    /// Whether the time advances.
    fn updates(&self) -> bool {
        self.divider_runs() && !self.b.contains(Control::SET)
    }

    /// The period of the periodic interrupt in ticks of [`BASE_HZ`], as a power of two.
    fn period_log2(&self) -> Option<u32> {
        match self.a & RATE {
            _ if !self.divider_runs() => None,
            0 => None,
            // With a 32768 Hz time base, rates 1 and 2 are those of 8 and 9 (datasheet, table 5).
            rate @ 1..=2 => Some(u32::from(rate) + 6),
            rate => Some(u32::from(rate) - 1),
        }
    }

    fn tick(&self, now: VmTime) -> u64 {
        self.period_log2()
            .map_or(0, |p| VmTime(self.shifted(now)).ticks(BASE_HZ) >> p)
    }

    /// Forgets what was due before: the rate or the phase has changed.
    fn restart(&mut self, now: VmTime) {
        self.seen_second = self.shifted(now) / SECOND;
        self.seen_tick = self.tick(now);
        self.lost = 0;
        self.find_alarm();
    }

    /// Brings register C and the interrupt line up to `now`.
    fn sync(&mut self, now: VmTime) {
        let second = self.shifted(now) / SECOND;
        if second > self.seen_second && self.updates() {
            self.c |= Flags::UF;
            if self.alarm.is_some_and(|a| a <= second) {
                self.c |= Flags::AF;
            }
            self.seen_second = second;
            if self.alarm.is_some_and(|a| a <= second) {
                self.find_alarm();
            }
        }
        self.seen_second = self.seen_second.max(second);
        let tick = self.tick(now);
        let ticks = tick.saturating_sub(self.seen_tick);
        self.seen_tick = tick;
        if ticks > 0 {
            if self.b.contains(Control::PIE) {
                let missed = ticks - u64::from(!self.c.contains(Flags::PF));
                self.lost = self.lost.saturating_add(missed).min(LOST_MAX);
            }
            self.c |= Flags::PF;
        } else if self.lost > 0 && !self.c.contains(Flags::PF) && now >= self.make_up_at {
            self.lost -= 1;
            self.c |= Flags::PF;
        }
        self.drive();
    }

    fn drive(&mut self) {
        let asserted =
            self.c.bits() & self.b.bits() & (Flags::PF | Flags::AF | Flags::UF).bits() != 0;
        self.c.set(Flags::IRQF, asserted);
        self.irq8.set(asserted);
        let rings = self.b.contains(Control::AIE) && self.c.contains(Flags::AF);
        if rings
            && !self.rings
            && let Some(power) = &self.power
        {
            power.ring();
        }
        self.rings = rings;
    }

    /// When [`Rtc::sync`] next raises an interrupt.
    fn next(&self, now: VmTime) -> Option<VmTime> {
        let waits = |enable, flag| self.b.contains(enable) && !self.c.contains(flag);
        let mut next = VmTime::NEVER;
        if waits(Control::PIE, Flags::PF)
            && let Some(p) = self.period_log2()
        {
            next = self.unshifted(
                VmTime::of_ticks(
                    self.seen_tick.saturating_add(1).saturating_mul(1 << p),
                    BASE_HZ,
                )
                .0,
            );
            if self.lost > 0 {
                next = next.min(self.make_up_at.max(now));
            }
        }
        if self.updates() {
            let start = |second: u64| self.unshifted(second.saturating_mul(SECOND));
            if waits(Control::UIE, Flags::UF) {
                next = next.min(start(self.seen_second.saturating_add(1)));
            }
            if let Some(second) = self.alarm.filter(|_| waits(Control::AIE, Flags::AF)) {
                next = next.min(start(second));
            }
        }
        (next != VmTime::NEVER).then_some(next)
    }

    fn encode(&self, value: u8) -> u8 {
        if self.b.contains(Control::DM) {
            value
        } else {
            ((value / 10 % 10) << 4) | (value % 10)
        }
    }

    fn decode(&self, byte: u8) -> u8 {
        if self.b.contains(Control::DM) {
            byte
        } else {
            (byte >> 4) * 10 + (byte & 0xf)
        }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.b.contains(Control::H24) {
            return self.encode(hour);
        }
        let twelve = if hour.is_multiple_of(12) {
            12
        } else {
            hour % 12
        };
        self.encode(twelve) | if hour >= 12 { PM } else { 0 }
    }

    fn decode_hour(&self, byte: u8) -> u8 {
        if self.b.contains(Control::H24) {
            return self.decode(byte);
        }
        self.decode(byte & !PM) % 12 + if byte & PM != 0 { 12 } else { 0 }
    }

    fn date(&self, now: VmTime) -> Date {
        Date::of_unix(
            self.offset
                .saturating_add((self.shifted(now) / SECOND) as i64),
        )
    }

    /// A time byte of a running clock.
    fn time_byte(&self, index: u8, now: VmTime) -> u8 {
        let date = self.date(now);
        match index {
            SECONDS => self.encode(date.second),
            MINUTES => self.encode(date.minute),
            HOURS => self.encode_hour(date.hour),
            DAY_OF_WEEK => date.weekday,
            DAY_OF_MONTH => self.encode(date.day),
            MONTH => self.encode(date.month),
            YEAR => self.encode((date.year % 100) as u8),
            _ => self.encode((date.year / 100) as u8),
        }
    }

    /// Stops the clock: the time goes to the time bytes.
    fn latch(&mut self, now: VmTime) {
        for index in TIME_BYTES {
            let value = self.time_byte(index, now);
            self.set_byte(index, value);
        }
    }

    /// Makes the clock go on from the time bytes.
    fn unlatch(&mut self, now: VmTime) {
        let date = Date {
            year: u16::from(self.decode(self.byte(CENTURY))) * 100
                + u16::from(self.decode(self.byte(YEAR))),
            month: self.decode(self.byte(MONTH)),
            day: self.decode(self.byte(DAY_OF_MONTH)),
            weekday: 1,
            hour: self.decode_hour(self.byte(HOURS)),
            minute: self.decode(self.byte(MINUTES)),
            second: self.decode(self.byte(SECONDS)),
        };
        self.offset = date
            .to_unix()
            .saturating_sub((self.shifted(now) / SECOND) as i64);
        self.seen_second = self.shifted(now) / SECOND;
        self.find_alarm();
    }

    /// Finds the first second after the one seen last that matches the alarm bytes.
    fn find_alarm(&mut self) {
        let field = |byte: u8, value: u8, limit: u8| match byte {
            ANY.. => Some(None),
            _ if value < limit => Some(Some(i64::from(value))),
            _ => None,
        };
        let bytes = [SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM].map(|i| self.byte(i));
        let [s, m, h] = bytes;
        let fields = (
            field(s, self.decode(s), 60),
            field(m, self.decode(m), 60),
            field(h, self.decode_hour(h), 24),
        );
        let (Some(second), Some(minute), Some(hour)) = fields else {
            self.alarm = None;
            return;
        };
        let from = self.seen_second.saturating_add(1);
        let start = self.offset.saturating_add(from as i64).rem_euclid(DAY);
        // The time of day rises from one candidate to the next: skip to the next hour, minute or second that may match.
        let mut t = start;
        while t < start + 2 * DAY {
            if hour.is_some_and(|h| h != t / 3_600 % 24) {
                t = (t / 3_600 + 1) * 3_600;
            } else if minute.is_some_and(|m| m != t / 60 % 60) {
                t = (t / 60 + 1) * 60;
            } else if second.is_some_and(|s| s != t % 60) {
                t += 1;
            } else {
                break;
            }
        }
        self.alarm = Some(from.saturating_add((t - start) as u64));
    }

    fn write_a(&mut self, value: u8, now: VmTime) {
        let (ran, updated) = (self.divider_runs(), self.updates());
        let value = value & !UIP;
        let stops = value & DIVIDER > DIVIDER_RUNS;
        if stops && updated {
            self.latch(now);
        }
        let changed = value != self.a;
        self.a = value;
        if !ran && self.divider_runs() {
            // Datasheet, "DV2, DV1, DV0": the first update comes half a second after the reset of the divider is released.
            self.phase = (SECOND / 2 + SECOND - now.0 % SECOND) % SECOND;
        }
        if self.updates() && !updated {
            self.unlatch(now);
        }
        if changed {
            self.restart(now);
        }
    }

    fn write_b(&mut self, value: u8, now: VmTime) {
        let updated = self.updates();
        let mut b = Control::from_bits_retain(value);
        if b.contains(Control::SET) {
            b.remove(Control::UIE);
            if updated {
                self.latch(now);
            }
        }
        if (b ^ self.b).contains(Control::PIE) {
            self.lost = 0;
        }
        self.b = b;
        if self.updates() && !updated {
            self.unlatch(now);
        }
        self.find_alarm();
        self.drive();
    }

    fn write(&mut self, index: u8, value: u8, now: VmTime) {
        match index {
            REGISTER_A => self.write_a(value, now),
            REGISTER_B => self.write_b(value, now),
            REGISTER_C | REGISTER_D => {}
            SECONDS_ALARM | MINUTES_ALARM | HOURS_ALARM => {
                self.set_byte(index, value);
                self.find_alarm();
            }
            _ if is_time(index) => {
                if self.updates() {
                    self.latch(now);
                }
                self.set_byte(index, value);
                if index == CENTURY || index == CENTURY_PS2 {
                    self.set_byte(CENTURY, value);
                    self.set_byte(CENTURY_PS2, value);
                }
                if self.updates() {
                    self.unlatch(now);
                }
            }
            _ => self.set_byte(index, value),
        }
    }

    fn read(&mut self, index: u8, now: VmTime) -> u8 {
        match index {
            REGISTER_A => {
                let left = SECOND - self.shifted(now) % SECOND;
                self.a
                    | if self.updates() && left <= UIP_BEFORE {
                        UIP
                    } else {
                        0
                    }
            }
            REGISTER_B => self.b.bits(),
            REGISTER_C => {
                let c = self.c.bits();
                self.c = Flags::empty();
                self.drive();
                if let Some(p) = self.period_log2() {
                    // Half a period apart, so that the guest also gets on with its work.
                    self.make_up_at = now + VmTime(VmTime::of_ticks(1 << p, BASE_HZ).0 / 2);
                }
                c
            }
            REGISTER_D => VRT,
            _ if is_time(index) && self.updates() => self.time_byte(index, now),
            _ => self.byte(index),
        }
    }
}

/// The bytes that the clock counts.
const TIME_BYTES: [u8; 9] = [
    SECONDS,
    MINUTES,
    HOURS,
    DAY_OF_WEEK,
    DAY_OF_MONTH,
    MONTH,
    YEAR,
    CENTURY,
    CENTURY_PS2,
];

fn is_time(index: u8) -> bool {
    matches!(
        index,
        SECONDS | MINUTES | HOURS | DAY_OF_WEEK..=YEAR | CENTURY | CENTURY_PS2
    )
}

impl Device for Rtc {
    fn name(&self) -> &'static str {
        "rtc"
    }

    /// The RESET pin (datasheet, "RESET"): interrupts are disabled and forgotten; time, memory and modes stay.
    fn reset(&mut self, cx: &mut DevCx<'_>) {
        self.sync(cx.now);
        self.index = 0;
        self.b &= !(Control::PIE | Control::AIE | Control::UIE | Control::SQWE);
        self.c = Flags::empty();
        self.lost = 0;
        self.drive();
    }

    /// It has power while the machine sleeps, and its alarm may have woken it.
    fn wake(&mut self, cx: &mut DevCx<'_>) {
        self.sync(cx.now);
        self.index = 0;
        self.set_byte(SHUTDOWN_STATUS, WOKEN);
    }

    fn poll(&mut self, cx: &mut DevCx<'_>) -> Option<VmTime> {
        self.sync(cx.now);
        self.next(cx.now)
    }

    fn port_read(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize) -> u32 {
        if port != DATA {
            return size.ones();
        }
        self.sync(cx.now);
        let value = self.read(self.index, cx.now);
        if self.index == REGISTER_C
            && let Some(next) = self.next(cx.now)
        {
            cx.requests.wake_at(next);
        }
        size.ones() & !0xff | u32::from(value)
    }

    fn port_write(&mut self, cx: &mut DevCx<'_>, port: u16, _size: AccessSize, value: u32) {
        let value = value as u8;
        match port {
            INDEX => self.index = value & 0x7f,
            DATA => {
                self.sync(cx.now);
                self.write(self.index, value, cx.now);
                if let Some(next) = self.next(cx.now) {
                    cx.requests.wake_at(next);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
