//! The card as drivers use it, and what it does with what they should not do.

use super::{E1000, Windows};
use crate::pci::PciFunction;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use hv_core::Gpa;
use hv_core::backend::NetBackend;
use hv_core::checksum::sum;
use hv_core::device::{AccessSize, Device, WindowId};
use hv_core::irq::IrqLine;
use hv_core::mem::GuestMemory;
use hv_core::testing::{Bench, RecordingIrqs};
use hv_core::time::VmTime;
use std::sync::Mutex;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const PIN: u8 = 11;
const REGISTERS: WindowId = WindowId(1);
const IO: u16 = 0xc000;
const RECEIVE: u64 = 0x1000;
const SEND: u64 = 0x2000;
const BUFFERS: u64 = 0x1_0000;

const CTRL: u64 = 0;
const STATUS: u64 = 8;
const ICR: u64 = 0xc0;
const ITR: u64 = 0xc4;
const IMS: u64 = 0xd0;
const IMC: u64 = 0xd8;
const RCTL: u64 = 0x100;
const TCTL: u64 = 0x400;
const RDT: u64 = 0x2818;
const RDTR: u64 = 0x2820;
const RADV: u64 = 0x282c;
const TDH: u64 = 0x3810;
const TDT: u64 = 0x3818;
const TIDV: u64 = 0x3820;
const RXCSUM: u64 = 0x5000;

const TXDW: u64 = 1;
const TXQE: u64 = 2;
const LSC: u64 = 4;
const RXDMT0: u64 = 0x10;
const RXT0: u64 = 0x80;

#[derive(Default)]
struct Frames {
    sent: Vec<Vec<u8>>,
    coming: VecDeque<Vec<u8>>,
}

#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Frames>>);

impl NetBackend for Wire {
    fn send(&mut self, frame: &[u8]) {
        self.0.lock().unwrap().sent.push(frame.to_vec());
    }
    fn receive(&mut self, buf: &mut [u8]) -> Option<usize> {
        let frame = self.0.lock().unwrap().coming.pop_front()?;
        buf[..frame.len()].copy_from_slice(&frame);
        Some(frame.len())
    }
}

struct Rig {
    card: E1000,
    bench: Bench,
    irqs: Arc<RecordingIrqs>,
    wire: Wire,
    /// Where the driver puts its next descriptor to send.
    tail: u64,
}

impl Rig {
    fn new() -> Self {
        let (irqs, wire) = (RecordingIrqs::new(), Wire::default());
        let windows = Windows {
            registers: REGISTERS,
            ports: WindowId(2),
        };
        let line = IrqLine::new(irqs.clone(), PIN);
        Self {
            card: E1000::new(line, windows, MAC, Box::new(wire.clone())),
            bench: Bench::new(),
            irqs,
            wire,
            tail: 0,
        }
    }

    fn read(&mut self, at: u64) -> u64 {
        let value = self.card.mmio_read(&mut self.bench.cx(), REGISTERS, at, 4);
        value & 0xffff_ffff
    }

    fn write(&mut self, at: u64, value: u64) {
        self.card
            .mmio_write(&mut self.bench.cx(), REGISTERS, at, 4, value);
    }

    fn command(&mut self, value: u32) {
        self.card
            .config_write(&mut self.bench.cx(), 4, AccessSize::Word, value);
    }

    fn poll(&mut self) -> Option<VmTime> {
        self.card.poll(&mut self.bench.cx())
    }

    /// As Linux's e1000_reset_hw and e1000_configure do: sixteen descriptors each, buffers of 2 KiB, of which the card has `buffers`.
    fn started(buffers: u64) -> Self {
        let mut rig = Self::new();
        rig.command(7);
        rig.write(IMC, 0xffff_ffff);
        rig.write(CTRL, 1 << 26);
        rig.write(CTRL, 0x241);
        for (ring, base) in [(0x2800, RECEIVE), (0x3800, SEND)] {
            rig.write(ring + 8, 256);
            rig.write(ring, base);
            rig.write(ring + 4, 0);
            rig.write(ring + 0x18, 0);
            rig.write(ring + 0x10, 0);
        }
        for n in 0..16 {
            rig.put(RECEIVE + 16 * n, &u64::to_le_bytes(BUFFERS + 0x1000 * n));
        }
        rig.write(TCTL, 0xa);
        rig.write(RCTL, 0x8002);
        rig.write(RDT, buffers);
        rig.read(ICR);
        rig.write(IMS, 0x9f);
        rig
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.bench.mem.write(Gpa(at), bytes).unwrap();
    }

    fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.bench.mem.read(Gpa(at), &mut bytes).unwrap();
        bytes
    }

    fn arrives(&self, frame: &[u8]) {
        self.wire.0.lock().unwrap().coming.push_back(frame.to_vec());
    }

    fn sent(&self) -> Vec<Vec<u8>> {
        core::mem::take(&mut self.wire.0.lock().unwrap().sent)
    }

    /// The second half of receive descriptor `n`: length, checksum, status, errors, tag.
    fn report(&self, n: u64) -> (u16, u16, u8, u8, u16) {
        let b = self.get(RECEIVE + 16 * n + 8, 8);
        let word = |at: usize| u16::from_le_bytes([b[at], b[at + 1]]);
        (word(0), word(2), b[4], b[5], word(6))
    }

    /// A descriptor to send: its two halves. The card does not know of it yet.
    fn descriptor(&mut self, low: u64, high: u64) {
        let at = SEND + 16 * self.tail;
        self.put(at, &low.to_le_bytes());
        self.put(at + 8, &high.to_le_bytes());
        self.tail = (self.tail + 1) % 16;
    }

    fn go(&mut self) {
        self.write(TDT, self.tail);
    }

    fn legacy(&mut self, at: u64, bytes: &[u8], command: u64) {
        self.put(at, bytes);
        self.descriptor(at, bytes.len() as u64 | command << 24);
    }

    fn data(&mut self, at: u64, bytes: &[u8], command: u64, options: u64) {
        self.put(at, bytes);
        let high = bytes.len() as u64 | 1 << 20 | (command | 0x20) << 24 | options << 40;
        self.descriptor(at, high);
    }
}

fn frame(to: [u8; 6], len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|n| n as u8).collect();
    frame[..6].copy_from_slice(&to);
    frame[12..14].copy_from_slice(&[0x90, 0]);
    frame
}

#[test]
fn identity_is_that_of_the_desktop_card_and_registers_are_reached_by_ports_too() {
    let mut rig = Rig::new();
    let cx = &mut rig.bench.cx();
    assert_eq!(rig.card.config_read(cx, 0, AccessSize::Dword), 0x100e_8086);
    // Linux resets the 82540 by its ports (e1000_reset_hw).
    rig.card.port_write(cx, IO, AccessSize::Dword, 0);
    rig.card
        .port_write(cx, IO + 4, AccessSize::Dword, 1 << 26 | 0x40);
    rig.card.port_write(cx, IO, AccessSize::Dword, 0xfff0_5400);
    let low = rig.card.port_read(cx, IO + 4, AccessSize::Dword);
    assert_eq!(low.to_le_bytes(), MAC[..4]);
    assert_eq!(rig.read(CTRL), 0x201, "the reset is over");
    assert_eq!(rig.read(0x5404), 0x8000_5634);
}

#[test]
fn link_comes_when_software_lets_it_and_tells_so() {
    let mut rig = Rig::new();
    assert_eq!(rig.read(STATUS) & 2, 0);
    rig.write(IMS, LSC);
    rig.write(CTRL, 0x41);
    assert_eq!(rig.read(STATUS) & 0xc3, 0x83);
    assert!(rig.irqs.level(PIN));
    assert_eq!((rig.read(ICR), rig.read(ICR)), (LSC, 0));
    assert!(!rig.irqs.level(PIN));
    // The PHY is reset: gone, and back after the negotiation.
    rig.write(CTRL, 0x8000_0041);
    assert_eq!((rig.read(STATUS) & 2, rig.read(ICR)), (0, LSC));
    rig.write(CTRL, 0x41);
    let at = rig.poll().expect("there is something to come");
    rig.bench.now = at;
    rig.poll();
    assert_eq!((rig.read(STATUS) & 2, rig.read(ICR)), (2, LSC));
}

#[test]
fn frame_is_received_with_its_length_and_told_of() {
    let mut rig = Rig::started(15);
    rig.arrives(&frame(MAC, 100));
    rig.arrives(&frame([0xff; 6], 20));
    rig.arrives(&frame([2; 6], 60));
    rig.poll();
    assert!(rig.irqs.level(PIN));
    assert_eq!(rig.read(ICR) & RXT0, RXT0);
    let (len, checksum, status, errors, _) = rig.report(0);
    // Done, last, no checksums looked at.
    assert_eq!((len, status, errors), (104, 7, 0));
    assert_eq!(checksum, sum(0, &frame(MAC, 100)));
    assert_eq!(rig.get(BUFFERS, 100), frame(MAC, 100));
    let (len, _, status, ..) = rig.report(1);
    assert_eq!((len, status & 0x83), (64, 0x83), "padded; inexact match");
    assert_eq!(rig.report(2).2, 0, "another's");
    assert_eq!((rig.read(0x4074), rig.read(0x4074)), (2, 0), "GPRC");
}

#[test]
fn long_frame_is_spread_over_small_buffers_and_waits_until_there_are_enough() {
    let mut rig = Rig::started(0);
    rig.write(RCTL, 0x8002 | 3 << 16 | 1 << 26);
    rig.arrives(&frame(MAC, 600));
    rig.arrives(&frame(MAC, 60));
    rig.poll();
    rig.write(RDT, 2);
    assert_eq!(rig.report(0).2, 0, "three are needed");
    rig.write(RDT, 3);
    let parts = [0, 1, 2].map(|n| (rig.report(n).0, rig.report(n).2));
    assert_eq!(parts, [(256, 5), (256, 5), (88, 7)]);
    let whole = [0, 1, 2].map(|n| rig.get(BUFFERS + n * 0x1000, [256, 256, 88][n as usize]));
    assert_eq!(whole.concat(), frame(MAC, 600));
    rig.poll();
    rig.write(RDT, 4);
    assert_eq!(rig.report(3).0, 60, "the next has waited");
    assert_eq!(rig.read(ICR) & RXDMT0, RXDMT0);
}

#[test]
fn frame_that_no_ring_has_room_for_is_counted_and_stops_nobody() {
    let mut rig = Rig::started(0);
    rig.write(0x2808, 128);
    rig.write(RCTL, 0x8002 | 3 << 16 | 0x20);
    rig.write(RDT, 7);
    rig.arrives(&frame(MAC, 2040));
    rig.arrives(&frame(MAC, 60));
    rig.poll();
    assert_eq!((rig.report(0).0, rig.read(0x4010)), (64, 1));
}

#[test]
fn frames_that_nobody_listens_to_are_lost() {
    for step in 0..4 {
        let mut rig = Rig::started(15);
        match step {
            0 => rig.write(RCTL, 0x8000),
            1 => rig.command(3),
            2 => rig.write(CTRL, 0x201),
            _ => rig.write(CTRL, 1 << 26),
        }
        rig.arrives(&frame(MAC, 60));
        rig.poll();
        assert!(rig.wire.0.lock().unwrap().coming.is_empty(), "{step}");
        assert_eq!(rig.report(0).2, 0);
    }
}

#[test]
fn oversized_frames_need_long_packets() {
    for (control, count) in [(0x8002, 1), (0x8022, 0)] {
        let mut rig = Rig::started(15);
        rig.write(RCTL, control);
        rig.arrives(&frame(MAC, 1519));
        rig.poll();
        assert_eq!(rig.read(0x40ac), count, "ROC");
        assert_eq!(rig.report(0).0, if count == 0 { 1523 } else { 0 });
    }
}

#[test]
fn tags_are_stripped_and_inserted_and_lans_told_apart() {
    let mut rig = Rig::started(15);
    rig.write(CTRL, 0x4000_0241);
    let mut tagged = frame(MAC, 64);
    tagged[12..16].copy_from_slice(&[0x81, 0, 0x20, 0x05]);
    rig.arrives(&tagged);
    rig.poll();
    let (len, _, status, _, tag) = rig.report(0);
    assert_eq!((len, status & 8, tag), (64, 8, 0x2005));
    let mut plain = tagged.clone();
    plain.drain(12..16);
    assert_eq!(rig.get(BUFFERS, 60), plain);
    // The same goes out again.
    rig.put(0x8000, &plain);
    rig.descriptor(0x8000, 60 | 0x4b << 24 | 0x2005 << 48);
    rig.go();
    assert_eq!(rig.sent(), vec![tagged.clone()]);
    rig.write(RCTL, 0x4_8002);
    rig.arrives(&tagged);
    rig.poll();
    assert_eq!(rig.report(1).2, 0);
    rig.write(0x5600, 1 << 5);
    rig.arrives(&tagged);
    rig.poll();
    assert_eq!(rig.report(1).4, 0x2005);
}

#[test]
fn legacy_descriptors_make_a_frame_and_are_written_back_when_asked() {
    let mut rig = Rig::started(0);
    let whole = frame([2; 6], 100);
    rig.legacy(0x8000, &whole[..30], 0);
    rig.legacy(0x9001, &whole[30..], 0x9);
    rig.go();
    assert_eq!(rig.sent(), vec![whole.clone()]);
    assert_eq!(
        (rig.get(SEND + 12, 1), rig.get(SEND + 28, 1)),
        (vec![0], vec![1])
    );
    assert_eq!((rig.read(TDH), rig.read(ICR)), (2, TXDW | TXQE));
    // Short ones are padded, and a checksum is inserted.
    rig.put(0x8000, &whole[..40]);
    rig.descriptor(0x8000, 40 | 20 << 16 | 0x5 << 24 | 14 << 40);
    rig.go();
    let sent = &rig.sent()[0];
    assert_eq!(sent.len(), 60);
    let mut part = whole[14..40].to_vec();
    let expected = !sum(0, &part);
    part[6..8].copy_from_slice(&expected.to_be_bytes());
    assert_eq!(sent[14..40], part);
}

/// Headers of a long TCP message, as Linux leaves them for the card: no lengths, no IP checksum.
fn headers(ipv4: bool) -> Vec<u8> {
    let ip = if ipv4 { 20 } else { 40 };
    let mut h = vec![0; 14 + ip + 20];
    h[..6].copy_from_slice(&[2; 6]);
    h[6..12].copy_from_slice(&MAC);
    let (addresses, len) = if ipv4 {
        h[12..14].copy_from_slice(&[8, 0]);
        h[14] = 0x45;
        h[18..20].copy_from_slice(&[0xff, 0xff]);
        h[23] = 6;
        h[26..34].copy_from_slice(&[10, 0, 2, 15, 10, 0, 2, 2]);
        (26, 8)
    } else {
        h[12..14].copy_from_slice(&[0x86, 0xdd]);
        h[14] = 0x60;
        h[20] = 6;
        for (n, byte) in (0..).zip(&mut h[22..54]) {
            *byte = n;
        }
        (22, 32)
    };
    let tcp = 14 + ip;
    h[tcp + 4..tcp + 8].copy_from_slice(&[0xff, 0xff, 0xff, 0x00]);
    h[tcp + 12] = 0x50;
    h[tcp + 13] = 0x19;
    let pseudo = sum(sum(0, &h[addresses..addresses + len]), &[0, 6]);
    h[tcp + 16..tcp + 18].copy_from_slice(&pseudo.to_be_bytes());
    h
}

#[test]
fn message_is_cut_into_segments_with_right_headers_and_sums() {
    for ipv4 in [true, false] {
        let mut rig = Rig::started(0);
        let headers = headers(ipv4);
        let tcp = headers.len() as u64 - 20;
        let payload: Vec<u8> = (0..2500_u32).map(|n| (n % 251) as u8).collect();
        let context = 14 | 24 << 8 | (tcp - 1) << 16 | tcp << 32 | (tcp + 16) << 40;
        let command = if ipv4 { 0x27 } else { 0x25 };
        let high = 2500 | command << 24 | (headers.len() as u64) << 40 | 1000 << 48;
        rig.descriptor(context, high);
        let options = if ipv4 { 3 } else { 2 };
        rig.data(0x8000, &headers, 4, options);
        rig.data(0x9000, &payload[..700], 4, options);
        rig.data(0xa000, &payload[700..], 0xd, options);
        rig.go();
        let sent = rig.sent();
        assert_eq!(sent.len(), 3);
        let tcp = tcp as usize;
        for (n, frame) in sent.iter().enumerate() {
            let part = &payload[n * 1000..payload.len().min(n * 1000 + 1000)];
            assert_eq!(&frame[tcp + 20..], part);
            let sequence = 0xffff_ff00_u32.wrapping_add(n as u32 * 1000);
            assert_eq!(frame[tcp + 4..tcp + 8], sequence.to_be_bytes());
            let flags = if n == 2 { 0x19 } else { 0x10 };
            assert_eq!(frame[tcp + 13], flags);
            let len = (frame.len() - tcp) as u16;
            let (addresses, end) = if ipv4 { (26, 34) } else { (22, 54) };
            let pseudo = sum(sum(0, &frame[addresses..end]), &[0, 6]);
            let pseudo = sum(pseudo, &len.to_be_bytes());
            assert_eq!(sum(pseudo, &frame[tcp..]), 0xffff, "TCP's sum");
            if ipv4 {
                assert_eq!(frame[16..18], (len + 20).to_be_bytes());
                assert_eq!(
                    frame[18..20],
                    0xffff_u16.wrapping_add(n as u16).to_be_bytes()
                );
                assert_eq!(sum(0, &frame[14..34]), 0xffff, "IP's sum");
            } else {
                assert_eq!(frame[18..20], len.to_be_bytes());
            }
        }
        assert_eq!(rig.read(0x40f8), 1, "TSCTC");
    }
}

#[test]
fn checksums_are_inserted_where_the_context_says() {
    let mut rig = Rig::started(0);
    let mut whole = headers(true);
    whole.extend([7; 33]);
    whole[16..18].copy_from_slice(&73_u16.to_be_bytes());
    let pseudo = sum(sum(0, &whole[26..34]), &[0, 6, 0, 53]);
    whole[50..52].copy_from_slice(&pseudo.to_be_bytes());
    rig.descriptor(14 | 24 << 8 | 33 << 16 | 34 << 32 | 50 << 40, 0x23 << 24);
    rig.data(0x8000, &whole, 9, 3);
    rig.go();
    let sent = rig.sent();
    // What the card sends it would find right.
    let mut rig = Rig::started(15);
    rig.write(RXCSUM, 0x300);
    let mut back = sent[0].clone();
    back[..6].copy_from_slice(&MAC);
    rig.arrives(&back);
    back[70] ^= 1;
    rig.arrives(&back);
    rig.poll();
    let (_, _, status, errors, _) = rig.report(0);
    assert_eq!((status, errors), (0x63, 0));
    let (_, _, status, errors, _) = rig.report(1);
    assert_eq!((status, errors), (0x63, 0x20));
}

#[test]
fn interrupts_are_put_off_and_throttled_as_the_registers_say() {
    let mut rig = Rig::started(15);
    rig.write(RDTR, 100);
    rig.write(RADV, 150);
    rig.arrives(&frame(MAC, 60));
    let next = rig.poll();
    assert_eq!((rig.irqs.level(PIN), next), (false, Some(VmTime(102_400))));
    rig.bench.now = VmTime(102_400);
    rig.poll();
    assert!(rig.irqs.level(PIN));
    rig.write(ITR, 1000);
    rig.read(ICR);
    rig.write(RDTR, 0);
    rig.arrives(&frame(MAC, 60));
    rig.poll();
    assert!(rig.irqs.level(PIN), "the interval begins with this one");
    rig.read(ICR);
    rig.arrives(&frame(MAC, 60));
    let next = rig.poll();
    assert_eq!(next, Some(VmTime(102_400 + 256_000)));
    assert!(!rig.irqs.level(PIN));
    rig.bench.now = VmTime(102_400 + 256_000);
    rig.poll();
    assert!(rig.irqs.level(PIN));
    rig.read(ICR);
    // What is sent with IDE.
    rig.write(ITR, 0);
    rig.write(TIDV, 8);
    rig.legacy(0x8000, &frame([2; 6], 60), 0x89);
    rig.go();
    assert_eq!(rig.read(ICR), TXQE);
    rig.bench.now = rig.bench.now + VmTime(8 * 1024);
    rig.poll();
    assert_eq!(rig.read(ICR), TXDW);
}

#[test]
fn nobody_is_woken_for_what_is_masked_or_throttled() {
    let mut rig = Rig::started(15);
    rig.write(RDTR, 10);
    rig.write(ITR, 1000);
    rig.write(0xc8, LSC);
    assert!(rig.irqs.level(PIN), "the interval begins");
    rig.write(IMC, 0xffff_ffff);
    rig.read(ICR);
    rig.arrives(&frame(MAC, 60));
    assert_eq!(rig.poll(), None);
    rig.bench.requests.wake = None;
    rig.write(IMS, RXT0);
    assert_eq!(rig.bench.requests.wake, Some(VmTime(256_000)));
    rig.write(IMC, 0xffff_ffff);
    rig.bench.now = VmTime(10_240);
    assert_eq!(rig.read(ICR) & RXT0, RXT0, "who looks sees it");
}

#[test]
fn loopback_brings_back_what_is_sent() {
    let mut rig = Rig::started(15);
    rig.write(RCTL, 0x8042);
    rig.legacy(0x8000, &frame(MAC, 80), 9);
    rig.go();
    assert!(rig.sent().is_empty());
    assert_eq!(rig.get(BUFFERS, 80), frame(MAC, 80));
    assert_eq!(rig.report(0).2 & 3, 3);
}

#[test]
fn endless_ring_is_walked_in_bounded_pieces() {
    let mut rig = Rig::started(0);
    rig.write(0x3808, 0xf_ff80);
    rig.write(TDT, 0xfff7);
    let after_one = rig.read(TDH);
    assert!((1..=512).contains(&after_one), "{after_one}");
    assert_eq!(rig.poll(), Some(rig.bench.now), "it goes on");
    // A message of a megabyte in segments of one byte.
    let mut rig = Rig::started(0);
    rig.descriptor(0, 0x25 << 24 | 54 << 40 | 1 << 48);
    rig.descriptor(0, 0xf_ffff | 1 << 20 | 0x2d << 24);
    rig.go();
    assert!(rig.sent().len() <= 512);
    assert_eq!(rig.read(TDH), 1);
    rig.write(CTRL, 1 << 26);
    assert_eq!(rig.poll(), None, "a reset ends that");
}

#[test]
fn descriptors_and_buffers_that_are_no_memory_move_nothing() {
    let mut rig = Rig::started(15);
    rig.write(0x3804, 1);
    rig.write(TDT, 5);
    assert_eq!((rig.read(TDH), rig.sent().len()), (5, 0));
    rig.write(0x3804, 0);
    rig.tail = 5;
    rig.descriptor(1 << 40, 60 | 9 << 24);
    rig.go();
    assert_eq!((rig.read(TDH), rig.sent().len()), (6, 0));
    rig.put(RECEIVE, &u64::to_le_bytes(u64::MAX));
    rig.arrives(&frame(MAC, 60));
    rig.write(0x2804, 0);
    rig.poll();
    assert_eq!(rig.report(0).2 & 1, 1);
    rig.write(0x2804, !0);
    rig.arrives(&frame(MAC, 60));
    rig.poll();
    assert_eq!(rig.read(0x2810), 2);
}

#[test]
fn sleep_and_reset_leave_nothing_behind() {
    let mut rig = Rig::started(15);
    rig.write(0x5200, !0);
    rig.arrives(&frame(MAC, 60));
    rig.poll();
    assert!(rig.irqs.level(PIN));
    rig.card.wake(&mut rig.bench.cx());
    assert!(!rig.irqs.level(PIN));
    for at in [IMS, RCTL, TCTL, 0x2800, 0x2808, 0x5200, 0x4074] {
        assert_eq!(rig.read(at), 0, "{at:#x}");
    }
    assert_eq!(
        rig.card
            .config_read(&mut rig.bench.cx(), 4, AccessSize::Word),
        0
    );
}
