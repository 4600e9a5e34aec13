use super::{Rtc, SECOND};
use hv_core::VmTime;
use hv_core::device::AccessSize::{Byte, Dword, Word};
use hv_core::device::Device;
use hv_core::irq::IrqLine;
use hv_core::testing::{Bench, Random, RecordingIrqs};
use std::sync::Arc;

/// 2009-02-13 23:31:30, a Friday.
const START: u64 = 1_234_567_890;

struct Rig {
    rtc: Rtc,
    bench: Bench,
    irqs: Arc<RecordingIrqs>,
}

impl Rig {
    fn new() -> Self {
        let irqs = RecordingIrqs::new();
        Self {
            rtc: Rtc::new(IrqLine::new(irqs.clone(), 8), START),
            bench: Bench::new(),
            irqs,
        }
    }
    fn read(&mut self, index: u8) -> u8 {
        self.rtc
            .port_write(&mut self.bench.cx(), 0x70, Byte, index.into());
        self.rtc.port_read(&mut self.bench.cx(), 0x71, Byte) as u8
    }
    fn write(&mut self, index: u8, value: u8) {
        self.rtc
            .port_write(&mut self.bench.cx(), 0x70, Byte, index.into());
        self.rtc
            .port_write(&mut self.bench.cx(), 0x71, Byte, value.into());
    }
    fn at(&mut self, ns: u64) -> &mut Self {
        self.bench.now = VmTime(ns);
        self
    }
    fn poll(&mut self) -> Option<VmTime> {
        self.rtc.poll(&mut self.bench.cx())
    }
    /// Follows the device's deadlines up to `end`, acknowledging; counts interrupts.
    fn interrupts_until(&mut self, end: u64) -> u32 {
        let mut count = 0;
        loop {
            let next = self.poll();
            if self.irqs.level(8) {
                count += 1;
                self.read(0x0c);
                continue;
            }
            match next {
                Some(t) if t.0 <= end => {
                    assert!(t >= self.bench.now, "deadlines do not lie in the past");
                    self.bench.now = t;
                }
                _ => break,
            }
        }
        self.bench.now = VmTime(end);
        count
    }
    fn clock(&mut self) -> Vec<u8> {
        [0x32, 9, 8, 7, 4, 2, 0].map(|i| self.read(i)).to_vec()
    }
}

#[test]
fn bcd_24_hours_shows_the_wall_clock() {
    let mut r = Rig::new();
    assert_eq!(r.clock(), [0x20, 0x09, 0x02, 0x13, 0x23, 0x31, 0x30]);
    assert_eq!((r.read(6), r.read(0x37), r.read(0x0d)), (6, 0x20, 0x80));
    r.at(30 * 60 * SECOND);
    assert_eq!(r.clock(), [0x20, 0x09, 0x02, 0x14, 0x00, 0x01, 0x30]);
}

#[test]
fn binary_12_hours() {
    let mut r = Rig::new();
    r.write(0x0b, 0x04);
    assert_eq!(r.clock(), [20, 9, 2, 13, 0x80 | 11, 31, 30]);
    r.at(30 * 60 * SECOND);
    assert_eq!(r.read(4), 12, "midnight is 12 am");
    r.at(13 * 3600 * SECOND);
    assert_eq!(r.read(4), 0x80 | 12, "noon is 12 pm");
}

#[test]
fn index_port_reads_all_ones_and_bit_7_is_no_index() {
    let mut r = Rig::new();
    assert_eq!(r.rtc.port_read(&mut r.bench.cx(), 0x70, Byte), 0xff);
    r.write(0x80 | 0x40, 0x5a);
    assert_eq!(r.read(0x40), 0x5a);
}

#[test]
fn linux_sets_the_clock_with_set_and_divider_reset() {
    let mut r = Rig::new();
    r.at(SECOND * 7 / 4);
    let (b, a) = (r.read(0x0b), r.read(0x0a));
    r.write(0x0b, b | 0x80);
    r.write(0x0a, a | 0x70);
    for (index, value) in [
        (9, 0x99),
        (8, 0x12),
        (7, 0x31),
        (4, 0x23),
        (2, 0x59),
        (0, 0x58),
        (0x32, 0x19),
    ] {
        r.write(index, value);
    }
    r.at(10 * SECOND);
    assert_eq!(r.read(0), 0x58, "stands still");
    r.write(0x0b, b);
    r.write(0x0a, a);
    assert_eq!(r.clock(), [0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58]);
    r.at(10 * SECOND + SECOND / 2);
    assert_eq!(
        r.read(0),
        0x59,
        "the first update comes after half a second"
    );
    r.at(12 * SECOND);
    assert_eq!(r.clock(), [0x20, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00]);
    assert_eq!(r.read(0x37), 0x20);
}

#[test]
fn a_write_without_set_moves_the_clock_at_once() {
    let mut r = Rig::new();
    r.write(4, 0x05);
    r.write(0x37, 0x21);
    r.at(SECOND);
    assert_eq!(r.clock(), [0x21, 0x09, 0x02, 0x13, 0x05, 0x31, 0x31]);
}

#[test]
fn month_zero_does_no_harm() {
    let mut r = Rig::new();
    r.write(8, 0);
    r.write(7, 0);
    assert_eq!((r.read(8), r.read(7)), (1, 1));
}

#[test]
fn uip_is_set_just_before_the_update_only() {
    let mut r = Rig::new();
    for (ns, uip) in [
        (0, 0),
        (SECOND - 250_000, 0),
        (SECOND - 200_000, 0x80),
        (SECOND - 1, 0x80),
        (SECOND, 0),
    ] {
        assert_eq!(r.at(ns).read(0x0a) & 0x80, uip, "{ns} ns");
    }
    r.write(0x0b, 0x82);
    assert_eq!(r.at(2 * SECOND - 1).read(0x0a) & 0x80, 0, "SET");
}

#[test]
fn seabios_periodic_interrupt_comes_1024_times_a_second() {
    let mut r = Rig::new();
    r.write(0x0a, 0x26);
    r.write(0x0b, 0x42);
    assert_eq!(r.interrupts_until(SECOND), 1024);
    assert_eq!(r.read(0x0b), 0x42);
}

#[test]
fn rates_1_and_2_are_those_of_8_and_9() {
    for (rate, hz) in [
        (1, 256),
        (2, 128),
        (3, 8192),
        (8, 256),
        (9, 128),
        (15, 2),
        (0, 0),
    ] {
        let mut r = Rig::new();
        r.write(0x0a, 0x20 | rate);
        r.write(0x0b, 0x42);
        assert_eq!(r.interrupts_until(SECOND), hz, "rate {rate}");
    }
}

#[test]
fn no_second_interrupt_before_register_c_is_read() {
    let mut r = Rig::new();
    r.write(0x0b, 0x42);
    r.at(SECOND / 100).poll();
    assert_eq!(r.irqs.take(), [(8, true)]);
    assert_eq!(r.at(SECOND / 50).poll(), None);
    assert_eq!(r.irqs.take(), []);
    assert_eq!(r.read(0x0c), 0xc0);
    assert_eq!(r.irqs.take(), [(8, false)]);
    assert_eq!(r.read(0x0c), 0);
}

#[test]
fn lost_periodic_interrupts_are_made_up_for() {
    let mut r = Rig::new();
    r.write(0x0b, 0x42);
    r.at(SECOND / 64).poll();
    assert_eq!(r.interrupts_until(SECOND), 1024);
    let mut r = Rig::new();
    r.write(0x0b, 0x42);
    r.at(100 * SECOND).poll();
    assert_eq!(
        r.interrupts_until(101 * SECOND),
        1024 + 1 + 64,
        "but not without bound"
    );
}

#[test]
fn update_interrupt_comes_every_second_and_set_clears_its_enable() {
    let mut r = Rig::new();
    r.write(0x0b, 0x12);
    assert_eq!(r.interrupts_until(5 * SECOND), 5);
    r.write(0x0b, 0x92);
    assert_eq!(r.read(0x0b), 0x82);
    assert_eq!(r.poll(), None);
}

#[test]
fn alarm_comes_at_its_time_once_a_day() {
    let mut r = Rig::new();
    for (index, value) in [(1, 0x00), (3, 0x00), (5, 0x06), (0x0b, 0x22)] {
        r.write(index, value);
    }
    let due = (6 * 3600 + 28 * 60 + 30) * SECOND;
    assert_eq!(r.poll(), Some(VmTime(due)));
    r.at(due).poll();
    assert!(r.irqs.level(8));
    assert_eq!(r.read(4), 0x06);
    assert_eq!(r.read(0x0c) & 0xa0, 0xa0);
    assert_eq!(r.poll(), Some(VmTime(due + 86_400 * SECOND)));
}

#[test]
fn the_alarm_outlasts_sleep_rings_at_power_management_and_tells_the_firmware() {
    let mut pm = crate::pm::Piix4Pm::new(IrqLine::new(RecordingIrqs::new(), 9));
    let mut r = Rig::new();
    r.rtc = Rtc::new(IrqLine::new(r.irqs.clone(), 8), START).with_alarm(pm.alarm());
    for (index, value) in [(5, 0x23), (3, 0x31), (1, 0x35), (0x0b, 0x22)] {
        r.write(index, value);
    }
    assert_eq!(r.poll(), Some(VmTime(5 * SECOND)));
    r.at(5 * SECOND).poll();
    assert!(pm.alarm().rings());
    r.rtc.wake(&mut r.bench.cx());
    pm.wake(&mut r.bench.cx());
    assert!(pm.alarm().rings() && r.irqs.level(8));
    assert_eq!((r.read(0x0f), r.read(0x0b)), (0xfe, 0x22));
    assert_eq!(r.read(0x0c) & 0xa0, 0xa0);
}

#[test]
fn alarm_bytes_from_c0_match_everything() {
    let mut r = Rig::new();
    for (index, value) in [(1, 0x15), (3, 0xff), (5, 0xc0), (0x0b, 0x22)] {
        r.write(index, value);
    }
    assert_eq!(r.poll(), Some(VmTime(45 * SECOND)));
    r.write(1, 0xff);
    assert_eq!(r.interrupts_until(10 * SECOND), 10);
    r.write(1, 0x99);
    assert_eq!(r.poll(), None, "no such second");
}

#[test]
fn flags_are_set_without_enables_and_raise_nothing() {
    let mut r = Rig::new();
    assert_eq!(r.at(2 * SECOND).read(0x0c), 0x50);
    assert_eq!(r.irqs.take(), []);
}

#[test]
fn cmos_and_time_survive_reset_and_interrupts_do_not() {
    let mut r = Rig::new();
    r.rtc.set_cmos(0x0f, 0x0a);
    r.rtc.set_cmos(0x09, 0x77);
    r.rtc.set_cmos(0xff, 0x77);
    r.write(0x3d, 0x23);
    r.write(0x0b, 0x72);
    r.at(SECOND).poll();
    assert!(r.irqs.level(8));
    r.rtc.reset(&mut r.bench.cx());
    assert!(!r.irqs.level(8));
    assert_eq!(
        (r.read(0x0f), r.read(0x3d), r.read(0x0b), r.read(0x0c)),
        (0x0a, 0x23, 0x02, 0)
    );
    assert_eq!(r.clock(), [0x20, 0x09, 0x02, 0x13, 0x23, 0x31, 0x31]);
}

#[test]
fn random_abuse_never_panics() {
    let mut r = Rig::new();
    let mut random = Random::new(0x1357_9bdf_0246_8ace);
    for i in 0..60_000 {
        let x = random.next();
        let size = [Byte, Word, Dword][(x >> 16) as usize % 3];
        let value = (x >> 32) as u32 & size.ones();
        let port = 0x70 | (x >> 8) as u16 & 1;
        match x >> 20 & 7 {
            0..3 => r.rtc.port_write(&mut r.bench.cx(), port, size, value),
            3 => r.write(x as u8 & 0x0f, value as u8),
            4 => {
                let next = r.poll();
                assert!(
                    i >= 59_000 || next.is_none_or(|t| t >= r.bench.now),
                    "step {i}: {next:?}"
                );
            }
            5 => r.bench.now = r.bench.now + VmTime(x & 0xffff_ffff),
            6 if x >> 24 & 0xff == 0 => r.rtc.reset(&mut r.bench.cx()),
            _ => assert_eq!(
                r.rtc.port_read(&mut r.bench.cx(), port, size) & !size.ones(),
                0
            ),
        }
        if i == 59_000 {
            r.bench.now = VmTime(u64::MAX - 1000);
        }
    }
}
