//! The timer as its drivers use it, and its waveforms tick by tick.

use super::Pit;
use hv_core::VmTime;
use hv_core::device::AccessSize::{Byte, Dword, Word};
use hv_core::device::Device;
use hv_core::irq::IrqLine;
use hv_core::machine::PIT_HZ;
use hv_core::testing::{Bench, Random, RecordingIrqs};
use std::sync::Arc;

struct Rig {
    pit: Pit,
    bench: Bench,
    irqs: Arc<RecordingIrqs>,
}

impl Rig {
    fn new() -> Self {
        let irqs = RecordingIrqs::new();
        Self {
            pit: Pit::new(IrqLine::new(irqs.clone(), 0)),
            bench: Bench::new(),
            irqs,
        }
    }
    fn out(&mut self, port: u16, value: u8) {
        self.pit
            .port_write(&mut self.bench.cx(), port, Byte, value.into());
    }
    fn inb(&mut self, port: u16) -> u8 {
        self.pit.port_read(&mut self.bench.cx(), port, Byte) as u8
    }
    fn word(&mut self, port: u16) -> u16 {
        u16::from_le_bytes([self.inb(port), self.inb(port)])
    }
    fn program(&mut self, channel: u8, control: u8, count: u16) {
        self.out(0x43, channel << 6 | 0x30 | control);
        for byte in count.to_le_bytes() {
            self.out(0x40 + u16::from(channel), byte);
        }
    }
    /// Goes to the start of a tick.
    fn at(&mut self, tick: u64) {
        self.bench.now = VmTime::of_ticks(tick, PIT_HZ);
    }
    fn out2(&mut self) -> bool {
        self.inb(0x61) & 0x20 != 0
    }
    fn edges(&self) -> usize {
        self.irqs.take().iter().filter(|(_, level)| *level).count()
    }
    /// Channel 2's output in each tick of a range.
    fn outs(&mut self, ticks: core::ops::Range<u64>) -> String {
        ticks
            .map(|t| {
                self.at(t);
                if self.out2() { '1' } else { '0' }
            })
            .collect()
    }
}

#[test]
fn seabios_tick_is_exact_over_an_hour() {
    let mut r = Rig::new();
    r.program(0, 0x04, 0);
    r.irqs.take();
    let mut next = r.bench.requests.wake.unwrap();
    assert_eq!(next, VmTime::of_ticks(65_537, PIT_HZ));
    let mut edges = 0;
    while next < VmTime(3_600_000_000_000) {
        r.bench.now = VmTime(next.0 - 1);
        assert_eq!(r.pit.poll(&mut r.bench.cx()), Some(next));
        assert_eq!(r.edges(), 0, "not early");
        r.bench.now = next;
        next = r.pit.poll(&mut r.bench.cx()).unwrap();
        edges += r.edges();
    }
    assert_eq!(edges, 65_543);
}

#[test]
fn a_late_poll_delivers_one_edge_and_stays_in_phase() {
    let mut r = Rig::new();
    r.program(0, 0x06, 1000);
    r.irqs.take();
    r.at(5_501);
    assert_eq!(
        r.pit.poll(&mut r.bench.cx()),
        Some(VmTime::of_ticks(6_001, PIT_HZ))
    );
    assert_eq!(r.edges(), 1);
}

#[test]
fn edges_are_bounded_in_rate() {
    let mut r = Rig::new();
    r.program(0, 0x04, 2);
    r.at(100);
    let next = r.pit.poll(&mut r.bench.cx()).unwrap();
    assert_eq!(next, r.bench.now + VmTime::from_micros(20));
}

#[test]
fn mode_0_raises_the_line_once_at_terminal_count() {
    let mut r = Rig::new();
    r.program(0, 0x00, 10);
    assert!(!r.irqs.level(0));
    assert_eq!(r.bench.requests.wake, Some(VmTime::of_ticks(11, PIT_HZ)));
    r.at(11);
    assert_eq!(r.pit.poll(&mut r.bench.cx()), None);
    assert_eq!(r.irqs.take(), [(0, true)]);
    r.at(70_000);
    assert_eq!(r.pit.poll(&mut r.bench.cx()), None);
    assert_eq!(r.edges(), 0);
    // The next count lowers it again.
    r.out(0x40, 5);
    assert!(!r.irqs.level(0));
}

#[test]
fn linux_one_shot_in_mode_4_interrupts_after_each_count() {
    let mut r = Rig::new();
    r.out(0x43, 0x38);
    r.irqs.take();
    for count in [100u16, 5000] {
        for byte in count.to_le_bytes() {
            r.out(0x40, byte);
        }
        let start = r.bench.now.ticks(PIT_HZ);
        let due = VmTime::of_ticks(start + u64::from(count) + 2, PIT_HZ);
        assert_eq!(r.pit.poll(&mut r.bench.cx()), Some(due));
        r.bench.now = due;
        assert_eq!(r.pit.poll(&mut r.bench.cx()), None);
        assert_eq!(r.edges(), 1);
    }
}

#[test]
fn reprogramming_does_not_lose_a_due_edge() {
    let mut r = Rig::new();
    r.program(0, 0x04, 100);
    r.irqs.take();
    r.at(150);
    r.program(0, 0x04, 200);
    assert_eq!(r.edges(), 1);
}

#[test]
fn seabios_calibrates_with_channel_2_in_mode_0() {
    let mut r = Rig::new();
    let port61 = r.inb(0x61);
    r.out(0x61, port61 & !0x02 | 0x01);
    r.program(2, 0x00, 1000);
    r.at(1000);
    assert!(!r.out2());
    r.at(1001);
    assert!(r.out2());
    assert_eq!(r.bench.requests.wake, None, "channel 2 has no deadline");
}

#[test]
fn linux_quick_calibration_sees_the_high_byte_fall() {
    let mut r = Rig::new();
    r.out(0x61, 0x01);
    r.program(2, 0x00, 0xffff);
    for (tick, high) in [(2, 0xff), (0x180, 0xfe), (0x2a0, 0xfd), (0xff02, 0x00)] {
        r.at(tick);
        r.inb(0x42);
        assert_eq!(r.inb(0x42), high);
    }
}

#[test]
fn the_gate_holds_mode_0() {
    let mut r = Rig::new();
    r.program(2, 0x00, 10);
    r.at(500);
    assert_eq!(r.word(0x42), 10);
    r.out(0x61, 1);
    r.at(504);
    assert_eq!(r.word(0x42), 6);
    r.out(0x61, 0);
    r.at(600);
    assert_eq!(r.word(0x42), 6);
    assert!(!r.out2());
    r.out(0x61, 1);
    r.at(606);
    assert!(r.out2());
}

#[test]
fn modes_have_their_waveforms() {
    // Control, count, output from the tick of the last write on; the gate rises in tick 0 for modes 1 and 5.
    for (mode, count, wave) in [
        (0, 3, "0000111111"),
        (1, 3, "1000111111"),
        (2, 3, "1110110110"),
        (3, 4, "1110011001"),
        (3, 5, "1111001110"),
        (4, 3, "1111011111"),
        (5, 3, "1111011111"),
        (6, 3, "1110110110"),
        (7, 4, "1110011001"),
    ] {
        let mut r = Rig::new();
        let gated = matches!(mode, 1 | 5);
        r.out(0x61, u8::from(!gated));
        r.program(2, mode << 1, count);
        r.out(0x61, 1);
        assert_eq!(r.outs(0..10), wave, "mode {mode}");
    }
}

#[test]
fn counts_follow_the_mode() {
    for (mode, count, values) in [
        (0, 3, [3, 3, 2, 1, 0, 0xffff, 0xfffe]),
        (2, 3, [3, 3, 2, 1, 3, 2, 1]),
        (3, 4, [4, 4, 2, 4, 2, 4, 2]),
        (3, 5, [4, 4, 2, 0, 4, 2, 4]),
        (4, 3, [3, 3, 2, 1, 0, 0xffff, 0xfffe]),
    ] {
        let mut r = Rig::new();
        r.out(0x61, 1);
        r.program(2, mode << 1, count);
        for (tick, value) in values.into_iter().enumerate() {
            r.at(tick as u64);
            assert_eq!(r.word(0x42), value, "mode {mode} count {count} tick {tick}");
        }
    }
}

#[test]
fn bcd_counts_by_ten() {
    let mut r = Rig::new();
    r.out(0x61, 1);
    r.program(2, 0x01, 0x1000);
    r.at(2);
    assert_eq!(r.word(0x42), 0x0999);
    r.at(1002);
    assert_eq!(r.word(0x42), 0x9999);
    r.program(2, 0x05, 0);
    r.at(1003);
    assert_eq!(r.word(0x42), 0x0000);
    r.at(1004);
    assert_eq!(r.word(0x42), 0x9999);
}

#[test]
fn a_new_count_waits_for_the_period_in_mode_2_and_the_half_in_mode_3() {
    for (mode, wave) in [(2, "11110111011101"), (3, "11001100110011")] {
        let mut r = Rig::new();
        r.out(0x61, 1);
        r.program(2, mode << 1, if mode == 2 { 5 } else { 8 });
        r.at(3);
        for byte in [4, 0] {
            r.out(0x42, byte);
        }
        // Mode 2: the period that started in tick 1 ends with tick 5. Mode 3: its high half ends with tick 4.
        let from = if mode == 2 { 1 } else { 3 };
        assert_eq!(r.outs(from..from + 14), wave, "mode {mode}");
    }
}

#[test]
fn single_byte_accesses_are_low_or_high() {
    let mut r = Rig::new();
    r.out(0x61, 1);
    r.out(0x43, 0x90);
    r.out(0x42, 0x40);
    assert_eq!([r.inb(0x42), r.inb(0x42)], [0x40, 0x40]);
    r.out(0x43, 0xa0);
    r.out(0x42, 0x12);
    assert_eq!([r.inb(0x42), r.inb(0x42)], [0x12, 0x12]);
}

#[test]
fn a_latched_count_stays_until_it_is_read() {
    let mut r = Rig::new();
    r.out(0x61, 1);
    r.program(2, 0x04, 1000);
    r.at(101);
    r.out(0x43, 0x80);
    r.at(201);
    r.out(0x43, 0x80);
    assert_eq!(r.word(0x42), 900);
    assert_eq!(r.word(0x42), 800);
}

#[test]
fn read_back_latches_status_before_count() {
    let mut r = Rig::new();
    r.program(0, 0x04, 500);
    r.out(0x43, 0xe2);
    assert_eq!(r.inb(0x40), 0xf4, "the count is not yet loaded");
    r.at(11);
    r.out(0x43, 0xc2);
    assert_eq!(r.inb(0x40), 0xb4);
    assert_eq!(r.word(0x40), 490);
    r.at(21);
    r.out(0x43, 0xd2);
    r.at(31);
    assert_eq!(r.word(0x40), 480, "only the count");
    r.program(1, 0x00, 500);
    r.at(200);
    r.out(0x43, 0xee);
    assert_eq!(r.inb(0x41), 0x30, "output low before terminal count");
    assert_eq!(r.inb(0x42), 0xf6, "no count yet");
}

#[test]
fn refresh_bit_toggles_each_15_microseconds() {
    let mut r = Rig::new();
    let mut toggles = 0;
    let mut last = r.inb(0x61);
    for us in 0..1000 {
        r.bench.now = VmTime::from_micros(us);
        let now = r.inb(0x61);
        toggles += u32::from((now ^ last) & 0x10 != 0);
        last = now;
    }
    assert_eq!(toggles, 66);
}

#[test]
fn port_61_keeps_four_bits() {
    let mut r = Rig::new();
    r.out(0x61, 0xff);
    assert_eq!(r.inb(0x61) & 0xcf, 0x0f);
}

#[test]
fn reset_stops_the_interrupt() {
    let mut r = Rig::new();
    r.program(0, 0x04, 100);
    r.pit.reset(&mut r.bench.cx());
    assert!(!r.irqs.level(0));
    assert_eq!(r.pit.poll(&mut r.bench.cx()), None);
}

/// The outputs between two accesses, looked at in each tick, have a rising edge exactly where `next_rise` says.
#[test]
fn random_programs_rise_when_announced() {
    let mut r = Rig::new();
    let mut random = Random::new(0x0dd_ba11_5eed_1234);
    let mut tick = 0;
    for _ in 0..3_000 {
        let x = random.next();
        r.at(tick);
        match x & 3 {
            0 => r.out(0x43, 0xb0 | (x >> 8) as u8 & 0x0e),
            1 => r.out(0x61, (x >> 8) as u8 & 1),
            _ => {}
        }
        // Counts below 2 are illegal in the periodic modes and have no waveform.
        r.out(0x42, ((x >> 16) as u8 & 15).max(2));
        r.out(0x42, 0);
        let mut channel = r.pit.channels[2].clone();
        let mut announced = channel.next_rise(tick as i64);
        let mut out = channel.out(tick as i64);
        for t in tick as i64 + 1..tick as i64 + 40 {
            let now = channel.out(t);
            assert_eq!(now && !out, announced == Some(t), "{channel:?} at {t}");
            if announced == Some(t) {
                announced = channel.next_rise(t);
            }
            out = now;
        }
        tick += x >> 50 & 31;
    }
}

#[test]
fn random_abuse_never_panics_and_deadlines_lie_ahead() {
    let mut r = Rig::new();
    let mut random = Random::new(0xabad_1dea_0000_0001);
    for i in 0..100_000 {
        let x = random.next();
        let size = [Byte, Word, Dword][(x >> 16) as usize % 3];
        let port = [0x40, 0x41, 0x42, 0x43, 0x43, 0x61, 0x44, 0x40][(x & 7) as usize];
        let value = (x >> 32) as u32 & size.ones();
        if x >> 8 & 1 == 0 {
            r.pit.port_write(&mut r.bench.cx(), port, size, value);
        } else {
            let read = r.pit.port_read(&mut r.bench.cx(), port, size);
            assert_eq!(read & !size.ones(), 0);
        }
        let step = (x >> 24) & ((1 << (x >> 20 & 31)) - 1);
        r.bench.now = r.bench.now + VmTime(step);
        if i == 90_000 {
            r.bench.now = VmTime(u64::MAX - 1_000_000_000);
        }
        r.irqs.take();
        if let Some(next) = r.pit.poll(&mut r.bench.cx()) {
            assert!(next > r.bench.now);
        }
        assert!(r.edges() <= 1);
    }
}
