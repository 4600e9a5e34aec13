//! The Intel 8254 programmable interval timer at ports 40h to 43h, and port 61h (82371SB datasheet 2.5.4.1, "NMI Status and
//! Control Register"), which gates channel 2.
//!
//! All three channels count in all modes. Nothing counts in the background: counts and outputs are computed from the time
//! of the access, and only channel 0 has deadlines, at the rising edges of its output, which is IRQ0. An edge is a pulse that
//! leaves the line high; the line is low for long only in mode 0, before the terminal count. Power-on leaves the channels
//! waiting for a count, with their outputs high.
//!
//! Not implemented: sound, and catching up on edges that a late poll has missed: there is one edge a poll, in phase.
//!
//! Invariant: `due` is when the next edge of IRQ0 is to be delivered, whatever the guest has written.

mod channel;
#[cfg(test)]
mod tests;

use channel::Channel;
use hv_core::VmTime;
use hv_core::device::{AccessSize, DevCx, Device};
use hv_core::irq::IrqLine;
use hv_core::machine::PIT_HZ;

/// Channel 0; 1 and 2 follow.
const COUNTER_0: u16 = 0x40;
/// Channel 2.
const COUNTER_2: u16 = 0x42;
/// Control words.
const CONTROL: u16 = 0x43;
/// Gate of channel 2, speaker and their status.
const PORT61: u16 = 0x61;

/// Control word: the counter field's place, and its value for the read-back command.
const SELECT_SHIFT: u8 = 6;
const READ_BACK: u8 = 3;
/// Control word: the access field; 0 is the counter latch command.
const ACCESS: u8 = 3 << 4;
/// Read-back command: do not latch the count.
const NO_COUNT: u8 = 1 << 5;
/// Read-back command: do not latch the status.
const NO_STATUS: u8 = 1 << 4;

/// Port 61h: gate of channel 2.
const GATE2: u8 = 1 << 0;
/// Port 61h: the bits that can be written; the speaker and the NMI masks are storage.
const PORT61_WRITABLE: u8 = 0x0f;
/// Port 61h: toggles with each refresh.
const REFRESH: u8 = 1 << 4;
/// Port 61h: the output of channel 2.
const OUT2: u8 = 1 << 5;

/// Nanoseconds between two refreshes: 18 ticks.
const REFRESH_NS: u64 = 15_085;
/// The least time between two edges: the host outlives a guest that programs a count of 2.
const MIN_PERIOD: VmTime = VmTime::from_micros(20);

/// The whole tick that `now` is in.
fn ticks(now: VmTime) -> i64 {
    const SECOND: u64 = 1_000_000_000;
    (now.0 / SECOND * PIT_HZ + now.0 % SECOND * PIT_HZ / SECOND) as i64
}

/// The interval timer with port 61h.
pub struct Pit {
    irq0: IrqLine,
    channels: [Channel; 3],
    port61: u8,
    /// When the next edge of IRQ0 is due; [`VmTime::NEVER`] if none.
    due: VmTime,
    /// Before this no further edge is delivered.
    quiet_until: VmTime,
}

impl Pit {
    /// The timer in power-on state; `irq0` is the wire of channel 0's output.
    #[must_use]
    pub fn new(irq0: IrqLine) -> Self {
        Self {
            irq0,
            channels: [Channel::new(true), Channel::new(true), Channel::new(false)],
            port61: 0,
            due: VmTime::NEVER,
            quiet_until: VmTime(0),
        }
    }

    /// Delivers channel 0's edge if it is due.
    fn deliver(&mut self, now: VmTime) {
        if now >= self.due {
            self.irq0.pulse();
            self.quiet_until = now + MIN_PERIOD;
            self.schedule(ticks(now));
        }
    }

    /// Computes `due` anew.
    fn schedule(&mut self, tick: i64) {
        let [channel, ..] = &mut self.channels;
        self.due = match channel.next_rise(tick) {
            Some(rise) => VmTime::of_ticks(rise.max(0) as u64, PIT_HZ).max(self.quiet_until),
            None => VmTime::NEVER,
        };
    }

    /// Does `f` to channel `index`, and what follows from it for IRQ0.
    fn change(&mut self, cx: &mut DevCx<'_>, index: usize, f: impl FnOnce(&mut Channel, i64)) {
        let tick = ticks(cx.now);
        if index == 0 {
            self.deliver(cx.now);
        }
        let Some(channel) = self.channels.get_mut(index) else {
            return;
        };
        f(channel, tick);
        if index == 0 {
            let level = channel.rests_high(tick);
            self.irq0.set(level);
            self.schedule(tick);
            if self.due != VmTime::NEVER {
                cx.requests.wake_at(self.due);
            }
        }
    }

    fn control(&mut self, cx: &mut DevCx<'_>, value: u8) {
        let select = value >> SELECT_SHIFT;
        if select == READ_BACK {
            let tick = ticks(cx.now);
            for (i, channel) in self.channels.iter_mut().enumerate() {
                if value >> (i + 1) & 1 != 0 {
                    if value & NO_COUNT == 0 {
                        channel.latch_count(tick);
                    }
                    if value & NO_STATUS == 0 {
                        channel.latch_status(tick);
                    }
                }
            }
        } else if value & ACCESS == 0 {
            if let Some(channel) = self.channels.get_mut(usize::from(select)) {
                channel.latch_count(ticks(cx.now));
            }
        } else {
            self.change(cx, usize::from(select), |channel, _| channel.program(value));
        }
    }
}

impl Device for Pit {
    fn name(&self) -> &'static str {
        "pit"
    }

    fn reset(&mut self, _cx: &mut DevCx<'_>) {
        self.irq0.set(false);
        *self = Self::new(self.irq0.clone());
    }

    fn poll(&mut self, cx: &mut DevCx<'_>) -> Option<VmTime> {
        self.deliver(cx.now);
        (self.due != VmTime::NEVER).then_some(self.due)
    }

    fn port_read(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize) -> u32 {
        let tick = ticks(cx.now);
        let byte = match port {
            COUNTER_0..=COUNTER_2 => self
                .channels
                .get_mut(usize::from(port - COUNTER_0))
                .map_or(0xff, |channel| channel.read(tick)),
            PORT61 => {
                let [.., channel] = &mut self.channels;
                let out2 = if channel.out(tick) { OUT2 } else { 0 };
                let refresh = if (cx.now.0 / REFRESH_NS) & 1 != 0 {
                    REFRESH
                } else {
                    0
                };
                self.port61 | refresh | out2
            }
            _ => 0xff,
        };
        size.ones() & !0xff | u32::from(byte)
    }

    fn port_write(&mut self, cx: &mut DevCx<'_>, port: u16, _size: AccessSize, value: u32) {
        let value = value as u8;
        match port {
            COUNTER_0..=COUNTER_2 => {
                self.change(cx, usize::from(port - COUNTER_0), |channel, tick| {
                    channel.write(tick, value);
                });
            }
            CONTROL => self.control(cx, value),
            PORT61 => {
                self.port61 = value & PORT61_WRITABLE;
                let [.., channel] = &mut self.channels;
                channel.set_gate(ticks(cx.now), value & GATE2 != 0);
            }
            _ => {}
        }
    }
}
