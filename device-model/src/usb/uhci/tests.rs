//! Schedules as drivers build them.

use super::*;
use crate::usb::tablet::{Point, Tablet};
use crate::usb::{Answer, MAX_PACKET};
use hv_core::testing::{Bench, Random, RecordingIrqs};
use std::sync::Arc;
use std::vec::Vec;

const LIST: u32 = 0x1000;
const QH: u32 = 0x3000;
const TD: u32 = 0x4000;
const DATA: u32 = 0x5000;

/// Control of a transfer descriptor: active, three errors.
const ACTIVE: u32 = 1 << 23 | 3 << 27;
const IOC: u32 = 1 << 24;
const SPD: u32 = 1 << 29;
const STALLED: u32 = 1 << 22;
const NAK: u32 = 1 << 19;
const TIMEOUT: u32 = 1 << 18;
const IN: u32 = 0x69;
const OUT: u32 = 0xe1;
const SETUP: u32 = 0x2d;
const IRQ: u8 = 5;

struct Rig<D: UsbDevice> {
    uhci: Uhci<D>,
    bench: Bench,
    irqs: Arc<RecordingIrqs>,
}

impl<D: UsbDevice> Rig<D> {
    fn with(device: D) -> Self {
        let irqs = RecordingIrqs::new();
        let line = IrqLine::new(irqs.clone(), IRQ);
        let mut rig = Self {
            uhci: Uhci::new(line, WindowId(0), device),
            bench: Bench::new(),
            irqs,
        };
        rig.uhci
            .config_write(&mut rig.bench.cx(), 4, AccessSize::Word, 5);
        for entry in 0..1024 {
            rig.poke(LIST + 4 * entry, 1);
        }
        rig.bench.now = PLUG;
        rig.uhci.poll(&mut rig.bench.cx());
        rig
    }

    fn out(&mut self, port: u16, value: u16) {
        let value = value.into();
        self.uhci
            .port_write(&mut self.bench.cx(), 0xc120 + port, AccessSize::Word, value);
    }

    fn inw(&mut self, port: u16) -> u16 {
        let port = 0xc120 + port;
        self.uhci
            .port_read(&mut self.bench.cx(), port, AccessSize::Word) as u16
    }

    fn poke(&self, at: u32, value: u32) {
        let written = self.bench.mem.write(Gpa(at.into()), &value.to_le_bytes());
        written.unwrap();
    }

    fn peek(&self, at: u32) -> u32 {
        self.bench.mem.read_u32(Gpa(at.into())).unwrap()
    }

    fn td(&self, at: u32, link: u32, control: u32, token: u32, buffer: u32) {
        for (n, word) in (0..).zip([link, control, token, buffer]) {
            self.poke(at + 4 * n, word);
        }
    }

    fn qh(&self, at: u32, link: u32, element: u32) {
        self.poke(at, link);
        self.poke(at + 4, element);
    }

    /// As Linux starts it: all interrupts enabled, port 1 reset and enabled.
    fn start(&mut self) {
        self.out(0x10, 0x0200);
        self.out(0x10, 0);
        self.out(0x10, 0x000e);
        self.uhci
            .port_write(&mut self.bench.cx(), 0xc128, AccessSize::Dword, LIST);
        self.out(4, 0xf);
        self.out(0, 0x00c1);
    }

    /// Lets so many frames pass, polled as the machine does.
    fn pass(&mut self, frames: u64) -> u32 {
        let end = self.bench.now + VmTime(FRAME.0 * frames);
        let mut polls = 0;
        let mut next = self.uhci.poll(&mut self.bench.cx());
        while let Some(at) = next.filter(|&at| at <= end) {
            assert!(at > self.bench.now, "polled again and again");
            self.bench.now = at;
            polls += 1;
            next = self.uhci.poll(&mut self.bench.cx());
        }
        self.bench.now = end;
        polls
    }

    fn irq(&self) -> bool {
        self.irqs.level(IRQ)
    }

    /// In every frame the queue at [`QH`] and nothing else, with these descriptors one behind the other.
    fn queue(&mut self, transfers: &[(u32, u32, u32)]) {
        let count = transfers.len() as u32;
        for (n, &(control, token, buffer)) in (0..).zip(transfers) {
            let link = if n + 1 == count {
                1
            } else {
                (TD + 16 * (n + 1)) | 4
            };
            self.td(TD + 16 * n, link, control, token, buffer);
        }
        self.qh(QH, 1, TD);
        for entry in 0..1024 {
            self.poke(LIST + 4 * entry, QH | 2);
        }
    }
}

fn tablet() -> Rig<Tablet> {
    let mut rig = Rig::with(Tablet::new());
    rig.start();
    assert_eq!(rig.inw(0x10), 0x0095);
    rig
}

fn token(pid: u32, address: u32, endpoint: u32, length: u32) -> u32 {
    pid | address << 8 | endpoint << 15 | (length.wrapping_sub(1) & 0x7ff) << 21
}

/// A device that answers as it is told, at address 0.
#[derive(Default)]
struct Puppet {
    answers: Vec<Answer>,
    got: Vec<Vec<u8>>,
}

impl UsbDevice for Puppet {
    fn bus_reset(&mut self) {}
    fn address(&self) -> u8 {
        0
    }
    fn setup(&mut self, _: u8, request: [u8; 8]) -> Answer {
        self.output(0, &request)
    }
    fn output(&mut self, _: u8, data: &[u8]) -> Answer {
        self.got.push(data.to_vec());
        self.answers.pop().unwrap_or(Answer::Data(data.len()))
    }
    fn input(&mut self, _: VmTime, _: u8, packet: &mut [u8; MAX_PACKET]) -> Answer {
        packet.fill(0xab);
        self.answers.pop().unwrap_or(Answer::Nak)
    }
    fn take_news(&mut self) -> bool {
        false
    }
    fn due(&self) -> VmTime {
        VmTime::NEVER
    }
    fn wakes(&self) -> bool {
        false
    }
}

fn puppet(answers: &[Answer]) -> Rig<Puppet> {
    let answers = answers.iter().rev().copied().collect();
    let mut rig = Rig::with(Puppet {
        answers,
        got: Vec::new(),
    });
    rig.start();
    rig
}

#[test]
fn identity_is_the_piix3s() {
    let mut rig = Rig::with(Tablet::new());
    let mut read = |at| {
        rig.uhci
            .config_read(&mut rig.bench.cx(), at, AccessSize::Dword)
    };
    assert_eq!(read(0), 0x7020_8086);
    assert_eq!(read(8), 0x0c03_0001);
    assert_eq!(read(0x20), 1);
    assert_eq!(read(0x3c), 0x400);
    assert_eq!(read(0x60), 0x10);
    assert_eq!(read(0xc0), 0x2000);
    // Linux: no traps, and the interrupt on PIRQD.
    for (value, kept) in [(0x8f00, 0), (0x2000, 0x2000)] {
        rig.uhci
            .config_write(&mut rig.bench.cx(), 0xc0, AccessSize::Word, value);
        let read = rig
            .uhci
            .config_read(&mut rig.bench.cx(), 0xc0, AccessSize::Word);
        assert_eq!(read, kept);
    }
}

#[test]
fn power_on_values_and_two_ports() {
    let mut rig = Rig::with(Tablet::new());
    let read: Vec<u16> = (0..16).map(|n| rig.inw(2 * n)).collect();
    assert_eq!(
        read,
        [0, 0x20, 0, 0, 0, 0, 0x40, 0, 0x93, 0x80, 0, 0, 0, 0, 0, 0]
    );
}

#[test]
fn registers_keep_what_is_theirs_in_any_width() {
    let mut rig = Rig::with(Tablet::new());
    for (port, value, kept) in [
        (4, 0xffff, 0xf),
        (6, 0xffff, 0x7ff),
        (8, 0xffff, 0xf000),
        (0xa, 0x1234, 0x1234),
        (0xc, 0xffff, 0x7f),
    ] {
        rig.out(port, value);
        assert_eq!(rig.inw(port), kept, "{port:x}");
    }
    let cx = &mut rig.bench.cx();
    assert_eq!(rig.uhci.port_read(cx, 8, AccessSize::Dword), 0x1234_f000);
    rig.uhci.port_write(cx, 9, AccessSize::Byte, 0x50);
    assert_eq!(rig.uhci.port_read(cx, 8, AccessSize::Dword), 0x1234_5000);
    assert_eq!(rig.uhci.port_read(cx, 0xb, AccessSize::Byte), 0x12);
    assert_eq!(rig.uhci.port_read(cx, 0x1f, AccessSize::Dword), 0);
}

#[test]
fn the_frame_number_counts_milliseconds_while_it_runs() {
    let mut rig = Rig::with(Tablet::new());
    rig.out(6, 0x7fe);
    rig.start();
    assert_eq!(rig.inw(2), 0);
    for number in [0x7fe, 0x7ff, 0, 1] {
        assert_eq!(rig.inw(6), number);
        rig.bench.now = rig.bench.now + FRAME;
    }
    rig.out(6, 0);
    assert_eq!(rig.inw(6), 2, "it cannot be written while it runs");
    rig.bench.now = rig.bench.now + VmTime::from_millis(10_000);
    assert_eq!(rig.inw(6), (2 + 10_000) & 0x7ff);
    rig.out(0, 0);
    assert_eq!(rig.inw(2), 0x20);
    rig.bench.now = rig.bench.now + VmTime::from_millis(10);
    assert_eq!(rig.inw(6), (2 + 10_000) & 0x7ff);
    assert_eq!(rig.pass(100), 0);
}

/// As SeaBIOS and Linux read the first bytes of a device.
#[test]
fn a_control_transfer_goes_through_its_stages_in_a_frame_and_interrupts() {
    let mut rig = tablet();
    rig.bench
        .mem
        .write(Gpa(DATA.into()), &[0x80, 6, 0, 1, 0, 0, 18, 0])
        .unwrap();
    rig.queue(&[
        (ACTIVE, token(SETUP, 0, 0, 8), DATA),
        (ACTIVE | SPD, token(IN, 0, 0, 8), DATA + 0x100),
        (ACTIVE | SPD, token(IN, 0, 0, 8), DATA + 0x108),
        (ACTIVE | SPD, token(IN, 0, 0, 2), DATA + 0x110),
        (ACTIVE | IOC, token(OUT, 0, 0, 0), 0),
    ]);
    rig.pass(1);
    assert_eq!(rig.peek(DATA + 0x100), 0x0110_0112);
    assert_eq!(rig.peek(QH + 4), 1, "the queue is empty");
    for (n, actual) in [(0, 7), (1, 7), (2, 7), (3, 1), (4, 0x7ff)] {
        let control = rig.peek(TD + 16 * n + 4);
        assert_eq!((control >> 17 & 0x7f, control & 0x7ff), (0, actual), "{n}");
    }
    assert!(rig.irq());
    assert_eq!(rig.inw(2), 1);
    rig.out(2, 1);
    assert!(!rig.irq());
}

#[test]
fn a_transfer_behind_another_waits_for_the_next_frame_unless_it_is_depth_first() {
    let mut rig = puppet(&[]);
    rig.queue(&[
        (ACTIVE, token(OUT, 0, 1, 3), DATA),
        (ACTIVE, token(OUT, 0, 1, 4), DATA),
    ]);
    rig.poke(TD, TD + 16);
    rig.pass(1);
    assert_eq!(rig.uhci.device.got.len(), 1);
    assert_eq!(rig.peek(QH + 4), TD + 16);
    rig.pass(1);
    assert_eq!(rig.uhci.device.got, [vec![0; 3], vec![0; 4]]);
}

#[test]
fn nak_leaves_the_queue_where_it_is() {
    let mut rig = puppet(&[Answer::Nak, Answer::Data(3)]);
    rig.queue(&[(ACTIVE | IOC, token(IN, 0, 1, 8), DATA)]);
    rig.pass(1);
    assert_eq!(rig.peek(TD + 4), ACTIVE | IOC | NAK);
    assert!(!rig.irq());
    rig.pass(1);
    assert_eq!(rig.peek(TD + 4), 3 << 27 | IOC | 2, "NAK is of the past");
    assert_eq!(rig.peek(DATA), 0x00ab_abab);
    assert!(rig.irq());
}

#[test]
fn a_short_packet_stops_the_queue_if_it_is_to_be_detected() {
    for (spd, element, status) in [(SPD, TD, 1), (0, (TD + 16) | 4, 0)] {
        let mut rig = puppet(&[Answer::Data(3), Answer::Nak]);
        rig.queue(&[
            (ACTIVE | spd, token(IN, 0, 1, 8), DATA),
            (ACTIVE, token(IN, 0, 1, 8), DATA),
        ]);
        rig.pass(1);
        assert_eq!(rig.peek(QH + 4), element);
        assert_eq!(rig.inw(2), status);
        assert_eq!(rig.irq(), status != 0);
        rig.out(4, 4);
        assert!(!rig.irq(), "short packets are enabled apart");
    }
}

#[test]
fn stall_ends_a_transfer_with_an_error() {
    let mut rig = puppet(&[Answer::Stall]);
    rig.queue(&[(ACTIVE, token(IN, 0, 1, 8), DATA)]);
    rig.pass(2);
    assert_eq!(rig.peek(TD + 4), 3 << 27 | STALLED | 0x7ff);
    assert_eq!(rig.peek(QH + 4), TD);
    assert_eq!(rig.inw(2), 2);
    assert!(rig.irq());
}

#[test]
fn nobody_at_the_address_is_tried_three_times() {
    let mut rig = puppet(&[]);
    rig.queue(&[(ACTIVE | IOC, token(IN, 9, 1, 8), DATA)]);
    rig.pass(1);
    assert_eq!(rig.peek(TD + 4), 1 << 23 | 2 << 27 | IOC | TIMEOUT);
    rig.pass(1);
    assert_eq!(rig.inw(2), 0);
    rig.pass(1);
    assert_eq!(rig.peek(TD + 4), IOC | STALLED | TIMEOUT | 0x7ff);
    assert_eq!(rig.inw(2), 3);
}

#[test]
fn more_than_was_asked_for_is_babble() {
    let mut rig = puppet(&[Answer::Data(8)]);
    rig.queue(&[(ACTIVE, token(IN, 0, 1, 4), DATA)]);
    rig.pass(1);
    assert_eq!(rig.peek(TD + 4), 3 << 27 | STALLED | 1 << 20 | 0x7ff);
    assert_eq!(rig.peek(DATA + 4), 0);
}

#[test]
fn a_disabled_or_suspended_port_lets_nothing_through() {
    for port in [0, 0x1004] {
        let mut rig = puppet(&[]);
        rig.out(0x10, port);
        rig.queue(&[(ACTIVE, token(OUT, 0, 0, 8), DATA)]);
        rig.pass(1);
        assert!(rig.uhci.device.got.is_empty());
    }
}

#[test]
fn what_is_no_descriptor_halts_the_controller() {
    let mut rig = puppet(&[]);
    rig.queue(&[(ACTIVE, token(0x55, 0, 0, 8), DATA)]);
    rig.pass(1);
    assert_eq!((rig.inw(2), rig.inw(0)), (0x30, 0xc0));
    assert!(rig.irq());
    rig.out(2, 0x10);
    assert!(!rig.irq());
    let mut rig = puppet(&[]);
    rig.queue(&[(ACTIVE, token(IN, 0, 0, 0x501), DATA)]);
    rig.pass(1);
    assert_eq!(rig.inw(2), 0x30);
}

#[test]
fn memory_that_does_not_answer_halts_the_controller() {
    // The frame list, a queue, a descriptor, a buffer.
    for n in 0..4 {
        let mut rig = puppet(&[]);
        rig.queue(&[(
            ACTIVE,
            token(OUT, 0, 0, 8),
            if n == 3 { 0xffff_fff8 } else { DATA },
        )]);
        match n {
            0 => rig.out(0xa, 0xffff),
            1 => (0..1024).for_each(|entry| rig.poke(LIST + 4 * entry, 0xfff0_0002)),
            2 => rig.poke(QH + 4, 0xfff0_0000),
            _ => {}
        }
        rig.pass(1);
        assert_eq!((rig.inw(2), rig.inw(0)), (0x28, 0xc0), "{n}");
    }
}

#[test]
fn a_function_that_is_no_bus_master_reads_nothing() {
    let mut rig = puppet(&[]);
    rig.queue(&[(ACTIVE, token(OUT, 0, 0, 8), DATA)]);
    rig.uhci
        .config_write(&mut rig.bench.cx(), 4, AccessSize::Word, 1);
    rig.pass(3);
    assert!(rig.uhci.device.got.is_empty());
    assert_eq!((rig.inw(2), rig.inw(6)), (0, 3));
}

/// Linux frees what it has unlinked at the interrupt of an inactive descriptor (`uhci_set_next_interrupt`).
#[test]
fn an_inactive_descriptor_interrupts_when_it_is_fetched() {
    let mut rig = tablet();
    rig.queue(&[(IOC, token(IN, 0, 0, 0), 0)]);
    rig.pass(1);
    assert!(rig.irq());
    assert_eq!(rig.peek(QH + 4), TD);
}

/// Linux links its last queue to itself while it wants the rest of the frame.
#[test]
fn queues_in_a_circle_end_with_the_frame() {
    let mut rig = puppet(&[]);
    rig.queue(&[(ACTIVE, token(OUT, 0, 1, 64), DATA)]);
    // Never empty: the descriptor behind it is it again.
    rig.poke(TD, TD | 4);
    rig.qh(QH, QH | 2, TD);
    rig.pass(1);
    assert_eq!(rig.uhci.device.got.len(), 1, "it is not active any more");
    let mut rig = puppet(&[]);
    for n in 0..200 {
        rig.td(
            TD + 16 * n,
            TD + 16 * (n + 1),
            ACTIVE,
            token(OUT, 0, 1, 8),
            DATA,
        );
    }
    rig.qh(QH, QH | 2, TD);
    (0..1024).for_each(|entry| rig.poke(LIST + 4 * entry, QH | 2));
    rig.pass(1);
    let got = rig.uhci.device.got.len();
    assert!((60..115).contains(&got), "a frame has 1500 bytes: {got}");
}

/// How long chains are does not make a frame's work longer than its bound.
#[test]
fn endless_chains_of_descriptors_and_queues_are_bounded() {
    let mut rig = puppet(&[]);
    rig.td(TD, TD, 0, 0, 0);
    rig.qh(QH, (QH + 16) | 2, QH | 2);
    rig.qh(QH + 16, QH | 2, 1);
    for (entry, link) in (0..1024).zip([TD, QH | 2].into_iter().cycle()) {
        rig.poke(LIST + 4 * entry, link);
    }
    rig.pass(100);
    assert_eq!(rig.inw(2), 0);
}

#[test]
fn an_idle_schedule_is_looked_at_less_and_less() {
    let mut rig = puppet(&[]);
    rig.queue(&[(ACTIVE, token(IN, 0, 1, 8), DATA)]);
    let first = rig.pass(100);
    assert!(first < 25, "{first}");
    rig.pass(100);
    let second = rig.pass(10_000);
    assert!((300..330).contains(&second), "{second}");
    assert_eq!(rig.inw(6), 10_200 & 0x7ff);
}

#[test]
fn what_a_driver_queues_after_a_long_time_is_found_and_then_each_frame_has_its_turn() {
    let mut rig = puppet(&[]);
    rig.pass(5_000);
    rig.queue(&[
        (ACTIVE, token(OUT, 0, 1, 3), DATA),
        (ACTIVE, token(OUT, 0, 1, 4), DATA),
    ]);
    rig.poke(TD, TD + 16);
    let mut passed = 0;
    while rig.uhci.device.got.len() < 2 {
        rig.pass(1);
        passed += 1;
    }
    assert!(passed <= LONGEST + 1, "{passed}");
    rig.poke(TD + 4, ACTIVE);
    rig.poke(QH + 4, TD);
    rig.pass(2);
    assert_eq!(rig.uhci.device.got.len(), 3);
}

/// Interrupt queues are in few frames: each of those that are made up for is looked at.
#[test]
fn no_frame_is_left_out_while_it_looks_seldom() {
    let mut rig = puppet(&[Answer::Data(8)]);
    rig.pass(5_000);
    rig.td(TD, 1, ACTIVE | IOC, token(IN, 0, 1, 8), DATA);
    rig.qh(QH, 1, TD);
    let entry = (rig.inw(6) + 20) & 0x3ff;
    rig.poke(LIST + 4 * u32::from(entry), QH | 2);
    rig.pass(60);
    assert!(rig.irq());
}

#[test]
fn news_of_the_tablets_reach_a_guest_that_listens_within_its_interval() {
    let mut rig = tablet();
    rig.uhci.device.setup(0, [0, 9, 1, 0, 0, 0, 0, 0]);
    rig.td(TD, 1, ACTIVE | IOC, token(IN, 0, 1, 8), DATA);
    rig.qh(QH, 1, TD);
    for entry in (0..1024).step_by(4) {
        rig.poke(LIST + 4 * entry, QH | 2);
    }
    rig.pass(3_000);
    assert!(!rig.irq());
    assert!(rig.uhci.device.in_use(rig.bench.now));
    rig.uhci.device_mut().point(Point {
        x: 0x123,
        ..Point::default()
    });
    rig.pass(4);
    assert!(rig.irq());
    assert_eq!(rig.peek(DATA), 0x0001_2300);
}

/// What Linux does with its root hub, `suspend_rh` and `wakeup_rh`.
#[test]
fn a_suspended_bus_is_woken_by_the_tablet() {
    let mut rig = tablet();
    rig.uhci.device.setup(0, [0, 9, 1, 0, 0, 0, 0, 0]);
    rig.uhci.device.setup(0, [0, 3, 1, 0, 0, 0, 0, 0]);
    rig.out(0x10, 0x1004);
    rig.out(4, 2);
    rig.out(0, 0x48);
    assert_eq!(rig.pass(1_000), 0, "it does nothing");
    rig.uhci.device_mut().point(Point {
        x: 1,
        ..Point::default()
    });
    rig.pass(1);
    assert!(rig.irq());
    assert_eq!((rig.inw(0), rig.inw(2)), (0x58, 0x24));
    assert_eq!(rig.inw(0x10), 0x10d5);
    rig.out(2, 4);
    assert!(!rig.irq());
    rig.out(0, 0x40);
    rig.out(0, 0xc1);
    rig.out(0x10, 0x0004);
    assert_eq!(rig.inw(0x10), 0x0095);
}

/// The driver has stopped polling, and something comes before the port, or the whole bus, is suspended.
#[test]
fn what_comes_while_the_bus_is_about_to_be_suspended_wakes_it() {
    for moved in [0, 1] {
        let mut rig = tablet();
        rig.uhci.device.setup(0, [0, 9, 1, 0, 0, 0, 0, 0]);
        rig.uhci.device.setup(0, [0, 3, 1, 0, 0, 0, 0, 0]);
        for step in 0..2 {
            if step == moved {
                let point = Point {
                    x: 1,
                    ..Point::default()
                };
                rig.uhci.device_mut().point(point);
                rig.pass(1);
            }
            if step == 0 {
                rig.out(0x10, 0x1004);
                assert_eq!(rig.inw(0x10) & 0x40 != 0, moved == 0, "port resumes");
            }
        }
        rig.out(4, 2);
        rig.out(0, 0x48);
        assert!(rig.irq(), "moved before step {moved}");
        assert_eq!((rig.inw(0), rig.inw(2)), (0x58, 0x24));
        assert_eq!(rig.inw(0x10), 0x10d5);
    }
}

#[test]
fn a_tablet_that_may_not_wake_the_bus_stays_silent() {
    let mut rig = tablet();
    rig.uhci.device.setup(0, [0, 9, 1, 0, 0, 0, 0, 0]);
    rig.out(0x10, 0x1004);
    rig.out(4, 2);
    rig.out(0, 0x48);
    rig.uhci.device_mut().point(Point {
        x: 1,
        ..Point::default()
    });
    rig.pass(1);
    assert!(!rig.irq());
}

#[test]
fn resets_of_the_controller_and_of_the_bus() {
    let mut rig = tablet();
    rig.uhci.device.setup(0, [0, 9, 1, 0, 0, 0, 0, 0]);
    rig.out(0, 2);
    assert_eq!((rig.inw(0), rig.inw(2), rig.inw(4)), (0, 0x20, 0));
    assert_eq!(rig.inw(0x10), 0x009b, "a device comes, and is not enabled");
    rig.out(0x10, 0x000a);
    assert_eq!(rig.inw(0x10), 0x0091);
    rig.out(0, 4);
    assert_eq!((rig.inw(0), rig.inw(0x10)), (4, 0x0093));
    rig.out(0, 0);
    let mut rig = tablet();
    rig.out(2, 0);
    rig.uhci.reset(&mut rig.bench.cx());
    assert_eq!((rig.inw(0), rig.inw(0x10)), (0, 0x0080));
    assert_eq!(rig.pass(2_000), 1);
    assert_eq!(rig.inw(0x10), 0x0093);
}

/// SeaBIOS finds nothing, and stops the controller; Linux, whose root hub has gone to sleep, is told.
#[test]
fn the_device_is_plugged_in_after_a_second() {
    let mut rig = Rig::with(Tablet::new());
    rig.uhci.reset(&mut rig.bench.cx());
    rig.out(4, 2);
    rig.out(0, 0x48);
    rig.pass(999);
    assert_eq!((rig.inw(0x10), rig.inw(2)), (0x0080, 0x20));
    rig.pass(1);
    assert_eq!((rig.inw(0x10), rig.inw(2)), (0x0093, 0x24));
    assert!(rig.irq());
    rig.out(0, 4);
    rig.out(0, 0);
    assert_eq!(
        rig.inw(0x10),
        0x0093,
        "a reset of the bus does not unplug it"
    );
}

#[test]
fn a_port_without_a_device_cannot_be_enabled() {
    let mut rig = Rig::with(Tablet::new());
    rig.out(0x12, 0xffff);
    rig.out(0x12, 0x0004);
    assert_eq!(rig.inw(0x12), 0x0080);
}

#[test]
fn random_abuse_never_panics_and_never_polls_without_end() {
    let mut rig = Rig::with(Tablet::new());
    let mut random = Random::from_env("UMBRA_SEED", 72);
    for _ in 0..60_000 {
        let x = random.next();
        match x & 15 {
            0..4 => rig.out((x >> 4) as u16 & 0x1f, (x >> 32) as u16),
            4 => drop(rig.inw((x >> 4) as u16 & 0x1f)),
            5 => rig.start(),
            6..10 => {
                let near = |x: u64| (x & 0xf0) as u32 | 0x3000 | (x & 7) as u32;
                let at = [LIST, QH, TD][(x >> 8) as usize % 3] + (x >> 16 & 0xfc) as u32;
                rig.poke(at, near(x >> 24));
            }
            10 => {
                let control = ACTIVE | (x >> 8) as u32 & 0x2700_0000;
                let pid = [IN, OUT, SETUP, 0][(x >> 40) as usize & 3];
                let token = token(pid, 0, (x >> 44) as u32 & 1, (x >> 48) as u32 & 0xff);
                rig.td(
                    (0x3000 + (x >> 4) as u32) & 0x30f0,
                    near_link(x),
                    control,
                    token,
                    DATA,
                );
            }
            11 => rig.uhci.device_mut().point(Point {
                x: (x >> 8) as u16,
                ..Point::default()
            }),
            12 => rig.uhci.reset(&mut rig.bench.cx()),
            _ => drop(rig.pass(x >> 8 & 0x3f)),
        }
    }
}

fn near_link(x: u64) -> u32 {
    (x >> 12) as u32 & 0x30f7 | 0x3000
}
