//! Input status register 1: where the beam is.
//!
//! Time-based as a 720x400 text screen at 70 Hz has it, so that games keep their pace, and with guaranteed progress for
//! programs that poll: a loop that waits for a bit to change ends even if each of its reads takes longer than the pulse,
//! or if time stands still. IBM PS/2 Hardware Interface Technical Reference, Video Subsystem, "Input Status Register 1".

use hv_core::time::VmTime;

/// Bit 0: no picture is drawn (horizontal or vertical blanking).
pub(super) const DISPLAY_DISABLED: u8 = 1 << 0;
/// Bit 3: vertical retrace.
pub(super) const VERTICAL_RETRACE: u8 = 1 << 3;

/// A scan line, in nanoseconds (31.47 kHz).
const LINE: u64 = 31_778;
/// The shown part of a scan line, in nanoseconds.
const LINE_SHOWN: u64 = LINE * 8 / 10;
/// Scan lines of a frame.
const LINES: u64 = 449;
/// Scan lines shown.
const LINES_SHOWN: u64 = 400;
/// Lines with vertical retrace: more than the real two, so that a poller of some microseconds a read sees them.
const RETRACE: core::ops::Range<u64> = 412..428;
/// A frame, in nanoseconds.
pub(super) const FRAME: u64 = LINE * LINES;

/// Equal reads of bit 0 outside vertical blanking, which is long, after which it is turned for one read.
const PATIENCE_DISPLAY: u32 = 16;
/// Equal reads of bit 3, spread over two frames, after which it is turned for one read.
const PATIENCE_RETRACE: u32 = 8;
/// Equal reads after which either bit is turned for one read whatever the time: no poller makes so many in two frames.
const PATIENCE_ALWAYS: u32 = 1 << 16;

/// The beam as a polling guest sees it.
#[derive(Default, Debug)]
pub(super) struct Retrace {
    /// What was read last.
    last: u8,
    /// Reads since bit 0 changed.
    display_reads: u32,
    /// Reads since bit 3 changed.
    retrace_reads: u32,
    /// When bit 3 changed.
    retrace_since: VmTime,
}

impl Retrace {
    /// Reads input status 1 at `now`.
    pub fn read(&mut self, now: VmTime) -> u8 {
        let mut v = by_time(now);
        if (v ^ self.last) & VERTICAL_RETRACE == 0 {
            self.retrace_reads += 1;
            let overdue =
                self.retrace_reads >= PATIENCE_RETRACE && (now - self.retrace_since).0 >= 2 * FRAME;
            if overdue || self.retrace_reads >= PATIENCE_ALWAYS {
                v ^= VERTICAL_RETRACE;
            }
        }
        // Programs know no retrace outside blanking.
        if v & VERTICAL_RETRACE != 0 {
            v |= DISPLAY_DISABLED;
        }
        if (v ^ self.last) & DISPLAY_DISABLED == 0 {
            self.display_reads += 1;
            let patience = if in_blanking(now) {
                PATIENCE_ALWAYS
            } else {
                PATIENCE_DISPLAY
            };
            if self.display_reads >= patience {
                v ^= DISPLAY_DISABLED;
            }
        }
        if v & DISPLAY_DISABLED == 0 {
            v &= !VERTICAL_RETRACE;
        }
        if (v ^ self.last) & VERTICAL_RETRACE != 0 {
            self.retrace_reads = 0;
            self.retrace_since = now;
        }
        if (v ^ self.last) & DISPLAY_DISABLED != 0 {
            self.display_reads = 0;
        }
        self.last = v;
        v
    }
}

/// Whether the beam is below the picture.
fn in_blanking(now: VmTime) -> bool {
    now.0 % FRAME >= LINE * LINES_SHOWN
}

fn by_time(now: VmTime) -> u8 {
    let t = now.0 % FRAME;
    let line = t / LINE;
    let mut v = 0;
    if line >= LINES_SHOWN || t % LINE >= LINE_SHOWN {
        v |= DISPLAY_DISABLED;
    }
    if RETRACE.contains(&line) {
        v |= VERTICAL_RETRACE;
    }
    v
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Polls with `step` nanoseconds a read until `bit` is `level`; answers the time it took.
    fn wait(r: &mut Retrace, now: &mut u64, step: u64, bit: u8, level: bool) -> u64 {
        let start = *now;
        for _ in 0..200_000 {
            if (r.read(VmTime(*now)) & bit != 0) == level {
                return *now - start;
            }
            *now += step;
        }
        panic!("bit {bit:#x} never became {level}");
    }

    #[test]
    fn retrace_paces_a_polling_game_at_70_hz() {
        let (mut r, mut now) = (Retrace::default(), 0);
        for _ in 0..70 {
            wait(&mut r, &mut now, 1_500, VERTICAL_RETRACE, false);
            wait(&mut r, &mut now, 1_500, VERTICAL_RETRACE, true);
        }
        assert!(
            (950_000_000..1_050_000_000).contains(&now),
            "70 frames took {now} ns"
        );
    }

    #[test]
    fn waiting_ends_even_if_time_stands_still() {
        for at in [0, FRAME * 95 / 100, LINE_SHOWN + 1] {
            let (mut r, mut now) = (Retrace::default(), at);
            for _ in 0..3 {
                wait(&mut r, &mut now, 0, VERTICAL_RETRACE, true);
                wait(&mut r, &mut now, 0, VERTICAL_RETRACE, false);
                wait(&mut r, &mut now, 0, DISPLAY_DISABLED, true);
                wait(&mut r, &mut now, 0, DISPLAY_DISABLED, false);
            }
        }
    }

    #[test]
    fn waiting_ends_soon_if_every_read_misses_the_pulse() {
        let (mut r, mut now) = (Retrace::default(), 0);
        for _ in 0..3 {
            wait(&mut r, &mut now, FRAME, VERTICAL_RETRACE, true);
            wait(&mut r, &mut now, FRAME, VERTICAL_RETRACE, false);
        }
        assert!(now < 100 * FRAME);
    }

    #[test]
    fn cga_snow_avoidance_waits_microseconds_not_frames() {
        let (mut r, mut now) = (Retrace::default(), 0);
        for _ in 0..100 {
            wait(&mut r, &mut now, 8_000, DISPLAY_DISABLED, false);
            wait(&mut r, &mut now, 8_000, DISPLAY_DISABLED, true);
        }
        assert!(now < 3 * FRAME, "{now} ns");
    }

    #[test]
    fn retrace_implies_display_disabled() {
        let mut r = Retrace::default();
        for i in 0..100_000 {
            let v = r.read(VmTime(i * 700));
            assert!(v & VERTICAL_RETRACE == 0 || v & DISPLAY_DISABLED != 0);
        }
    }
}
