//! What drivers do, and the rules of the ring.

use super::Ne2k;
use super::receive::multicast_bit;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use hv_core::backend::NetBackend;
use hv_core::device::{AccessSize, Device};
use hv_core::irq::IrqLine;
use hv_core::testing::{Bench, Random, RecordingIrqs};
use hv_core::time::VmTime;
use std::sync::Mutex;

const IO: u16 = 0xc100;
const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const PIN: u8 = 11;

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
        let f = self.0.lock().unwrap().coming.pop_front()?;
        let n = f.len().min(buf.len());
        buf[..n].copy_from_slice(&f[..n]);
        Some(f.len())
    }
}

struct Rig {
    nic: Ne2k,
    bench: Bench,
    irqs: Arc<RecordingIrqs>,
    wire: Wire,
}

impl Rig {
    fn new() -> Self {
        let (irqs, wire) = (RecordingIrqs::new(), Wire::default());
        let nic = Ne2k::new(IrqLine::new(irqs.clone(), PIN), MAC, Box::new(wire.clone()));
        Self {
            nic,
            bench: Bench::new(),
            irqs,
            wire,
        }
    }
    fn inb(&mut self, reg: u16) -> u8 {
        self.nic
            .port_read(&mut self.bench.cx(), IO + reg, AccessSize::Byte) as u8
    }
    fn outb(&mut self, reg: u16, value: u8) {
        self.nic.port_write(
            &mut self.bench.cx(),
            IO + reg,
            AccessSize::Byte,
            value.into(),
        );
    }
    fn outs(&mut self, list: &[(u16, u8)]) {
        for &(reg, value) in list {
            self.outb(reg, value);
        }
    }
    fn poll(&mut self) -> Option<VmTime> {
        self.nic.poll(&mut self.bench.cx())
    }

    /// Sets the remote DMA up: `command` is 0Ah to read, 12h to write.
    fn remote(&mut self, at: u16, len: u16, command: u8) {
        let ([a, b], [c, d]) = (at.to_le_bytes(), len.to_le_bytes());
        self.outs(&[
            (0, 0x22),
            (0x0a, c),
            (0x0b, d),
            (8, a),
            (9, b),
            (0, command),
        ]);
    }
    fn read(&mut self, at: u16, len: usize) -> Vec<u8> {
        self.remote(at, len as u16, 0x0a);
        let mut v = vec![0; len.next_multiple_of(2)];
        self.nic
            .port_read_block(&mut self.bench.cx(), IO + 0x10, AccessSize::Word, &mut v);
        v.truncate(len);
        v
    }
    fn write(&mut self, at: u16, data: &[u8]) {
        self.remote(at, data.len() as u16, 0x12);
        self.nic
            .port_write_block(&mut self.bench.cx(), IO + 0x10, AccessSize::Word, data);
    }

    /// Linux's __NS8390_init(dev, 1): transmit pages 40h-45h, ring 46h-80h.
    fn start(&mut self) {
        self.outs(&[
            (0, 0x21),
            (0x0e, 0x49),
            (0x0a, 0),
            (0x0b, 0),
            (0x0c, 0x20),
            (0x0d, 2),
        ]);
        self.outs(&[
            (4, 0x40),
            (1, 0x46),
            (3, 0x7f),
            (2, 0x80),
            (7, 0xff),
            (0x0f, 0),
            (0, 0x61),
        ]);
        for (i, b) in MAC.into_iter().enumerate() {
            self.outb(1 + i as u16, b);
        }
        self.outs(&[
            (7, 0x46),
            (0, 0x21),
            (7, 0xff),
            (0x0f, 0x3f),
            (0, 0x22),
            (0x0d, 0),
            (0x0c, 4),
        ]);
    }
    fn current(&mut self) -> u8 {
        self.outb(0, 0x62);
        let v = self.inb(7);
        self.outb(0, 0x22);
        v
    }
    fn arrive(&mut self, frame: &[u8]) {
        self.wire.0.lock().unwrap().coming.push_back(frame.to_vec());
        self.poll();
    }
    /// Lets a moment pass.
    fn moment(&mut self) {
        self.bench.now = self.bench.now + VmTime::from_micros(100);
        self.poll();
    }
    /// Lets time pass to when the card wants to be called, and calls it. False: it does not want that.
    fn wake(&mut self) -> bool {
        let Some(at) = self.bench.requests.wake.take() else {
            return false;
        };
        self.bench.now = self.bench.now.max(at);
        self.poll();
        true
    }
    fn waiting(&self) -> usize {
        self.wire.0.lock().unwrap().coming.len()
    }
    fn sent(&self) -> Vec<Vec<u8>> {
        core::mem::take(&mut self.wire.0.lock().unwrap().sent)
    }

    /// Linux's ei_receive: takes the next frame off the ring.
    fn take(&mut self) -> Option<Vec<u8>> {
        let current = self.current();
        let mut this = self.inb(3) + 1;
        if this >= 0x80 {
            this = 0x46;
        }
        if this == current {
            return None;
        }
        let h = self.read(u16::from(this) << 8, 4);
        let len = usize::from(u16::from_le_bytes([h[2], h[3]])) - 4;
        let expected = this + 1 + ((len + 4) >> 8) as u8;
        assert!(
            [0, 1]
                .map(|d| expected + d)
                .iter()
                .any(|&e| h[1] == e || h[1] + 0x3a == e),
            "bogus next page"
        );
        let frame = self.read((u16::from(this) << 8) + 4, len);
        self.outb(3, h[1] - 1);
        Some(frame)
    }

    /// Linux's ei_interrupt with ei_receive: takes at most nine frames, then acknowledges PRX, as long as there are interrupts.
    /// True: it gave up.
    fn interrupt(&mut self, taken: &mut Vec<Vec<u8>>) -> bool {
        let mut serviced = 0;
        loop {
            let interrupts = self.inb(7);
            serviced += 1;
            if interrupts == 0 || serviced == 12 {
                break;
            }
            if interrupts & 1 != 0 {
                taken.extend((0..9).map_while(|_| self.take()));
                self.outb(7, 5);
            }
            self.outs(&[(7, interrupts & 0x40), (0, 0x22)]);
        }
        if serviced == 12 {
            self.outb(7, 0x3f);
        }
        serviced == 12
    }
}

fn frame(destination: [u8; 6], len: usize) -> Vec<u8> {
    let mut f: Vec<u8> = (0..len).map(|i| (i * 7 + len) as u8).collect();
    f[..6].copy_from_slice(&destination);
    f
}

#[test]
fn linux_ne2k_pci_probe_finds_the_chip_and_its_address() {
    let mut rig = Rig::new();
    assert_ne!(rig.inb(0), 0xff);
    rig.outb(0, 0x61);
    let regd = rig.inb(0x0d);
    rig.outs(&[(0x0d, 0xff), (0, 0x20)]);
    rig.inb(0x0d);
    assert_eq!((regd, rig.inb(0x0d)), (0, 0));
    let v = rig.inb(0x1f);
    rig.outb(0x1f, v);
    assert_eq!(rig.inb(7) & 0x80, 0x80);
    rig.outb(7, 0xff);
    rig.outs(&[
        (0, 0x21),
        (0x0e, 0x49),
        (0x0a, 0),
        (0x0b, 0),
        (0x0f, 0),
        (7, 0xff),
        (0x0c, 0x20),
        (0x0d, 2),
    ]);
    rig.outs(&[(0x0a, 32), (0x0b, 0), (8, 0), (9, 0), (0, 0x0a)]);
    // Bytes read in word mode take a word each.
    let prom: Vec<u8> = (0..16).map(|_| rig.inb(0x10)).collect();
    assert_eq!(prom[..6], MAC);
    assert_eq!(prom[14..], [0x57, 0x57]);
    assert_eq!(rig.inb(7) & 0x40, 0x40);
    assert_eq!(rig.inb(0x10), 0xff);
}

#[test]
fn ipxe_probe_tells_word_cards_by_writing_memory() {
    let mut rig = Rig::new();
    let v = rig.inb(0x1f);
    rig.outb(0x1f, v);
    // ns8390 first tries byte mode with memory at 8 KiB: it must not find any there.
    rig.outs(&[(0, 0x21), (0x0c, 0x20), (0x0e, 0x48), (1, 0x20), (2, 0x40)]);
    rig.write(0x2000, b"NE1000 byte mode");
    assert_ne!(rig.read(0x2000, 16), b"NE1000 byte mode");
    rig.outs(&[(0, 0x21), (0x0e, 0x49), (1, 0x40), (2, 0x80)]);
    rig.write(0x4000, b"NE2000 word mode");
    assert_eq!(rig.read(0x4000, 16), b"NE2000 word mode");
    assert_eq!(
        rig.read(0, 12),
        [
            0x52, 0x52, 0x54, 0x54, 0, 0, 0x12, 0x12, 0x34, 0x34, 0x56, 0x56
        ]
    );
}

#[test]
fn all_access_widths_move_the_same_bytes() {
    let mut rig = Rig::new();
    rig.outb(0x0e, 0x48);
    rig.remote(0x4000, 8, 0x12);
    for b in 1..=8 {
        rig.outb(0x10, b);
    }
    assert_eq!(rig.inb(7) & 0x40, 0x40);
    rig.remote(0x4001, 7, 0x0a);
    let d = rig
        .nic
        .port_read(&mut rig.bench.cx(), IO + 0x10, AccessSize::Dword);
    let w = rig
        .nic
        .port_read(&mut rig.bench.cx(), IO + 0x12, AccessSize::Word);
    assert_eq!(
        (d, w, rig.inb(0x10), rig.inb(0x10)),
        (0x0504_0302, 0x0706, 8, 0xff)
    );
}

#[test]
fn transfer_of_nothing_is_complete_at_once() {
    let mut rig = Rig::new();
    rig.remote(0x4000, 0, 0x0a);
    assert_eq!(rig.inb(7), 0x40);
}

#[test]
fn frame_is_sent_when_commanded_and_interrupts() {
    let mut rig = Rig::new();
    rig.start();
    let f = frame([1; 6], 77);
    rig.write(0x4000, &[&f[..], &[0]].concat());
    rig.outs(&[(7, 0x40), (5, 77), (6, 0), (0, 0x26)]);
    assert_eq!(rig.sent(), [f]);
    assert_eq!((rig.inb(0), rig.inb(4), rig.inb(7)), (0x22, 1, 2));
    assert!(rig.irqs.level(PIN));
    rig.outb(7, 2);
    assert!(!rig.irqs.level(PIN));
}

#[test]
fn impossible_frames_are_not_sent_but_complete() {
    let mut rig = Rig::new();
    rig.start();
    for (page, len) in [
        (0x40, 0u16),
        (0x40, 1519),
        (0x40, 0xffff),
        (0xbf, 1500),
        (0, 60),
        (0xff, 60),
    ] {
        let [low, high] = len.to_le_bytes();
        rig.outs(&[(7, 0xff), (4, page), (5, low), (6, high), (0, 0x26)]);
        assert_eq!(rig.inb(7), 2, "{page:#x} {len}");
    }
    assert!(rig.sent().is_empty());
}

#[test]
fn received_frame_has_header_and_padding_and_interrupts() {
    let mut rig = Rig::new();
    rig.start();
    rig.arrive(&frame(MAC, 42));
    assert!(rig.irqs.level(PIN));
    assert_eq!(rig.inb(7), 1);
    assert_eq!(rig.current(), 0x47);
    assert_eq!(rig.read(0x4600, 4), [1, 0x47, 64, 0]);
    assert_eq!(rig.inb(0x0c), 1);
    let mut f = frame(MAC, 42);
    f.resize(60, 0);
    assert_eq!(rig.take(), Some(f));
    assert_eq!(rig.take(), None);
}

#[test]
fn filter_follows_receive_configuration_and_page_1_address() {
    let group = [1, 0, 0x5e, 0, 0, 1];
    let other = [2, 0, 0, 0, 0, 9];
    for (rcr, mar, destination, taken) in [
        (0x00, 0xff, MAC, true),
        (0x00, 0xff, [0xff; 6], false),
        (0x04, 0x00, [0xff; 6], true),
        (0x00, 0xff, group, false),
        (0x08, 0x00, group, false),
        (0x08, 0xff, group, true),
        (0x0c, 0xff, other, false),
        (0x10, 0x00, other, true),
        (0x30, 0x00, MAC, false),
    ] {
        let mut rig = Rig::new();
        rig.start();
        rig.outb(0, 0x62);
        for reg in 8..16 {
            rig.outb(reg, mar);
        }
        rig.outs(&[(0, 0x22), (0x0c, rcr)]);
        rig.arrive(&frame(destination, 60));
        assert_eq!(
            rig.take().is_some(),
            taken,
            "RCR {rcr:#x} MAR {mar:#x} {destination:x?}"
        );
    }
    // Another station address than the PROM's.
    let mut rig = Rig::new();
    rig.start();
    rig.outs(&[
        (0, 0x62),
        (1, 2),
        (2, 0),
        (3, 0),
        (4, 0),
        (5, 0),
        (6, 9),
        (0, 0x22),
    ]);
    rig.arrive(&frame(MAC, 60));
    assert_eq!(rig.take(), None);
    rig.arrive(&frame(other, 60));
    assert!(rig.take().is_some());
}

#[test]
fn only_the_hash_bit_of_a_group_lets_it_through() {
    let group = [0x33, 0x33, 0, 0, 0, 1];
    let bit = multicast_bit(&group);
    for i in 0..64 {
        let mut rig = Rig::new();
        rig.start();
        rig.outs(&[
            (0, 0x62),
            (8 + u16::from(i / 8), 1 << (i % 8)),
            (0, 0x22),
            (0x0c, 8),
        ]);
        rig.arrive(&frame(group, 60));
        assert_eq!(rig.inb(0x0c) == 0x21, i == bit);
        assert_eq!(rig.take().is_some(), i == bit);
    }
}

#[test]
fn frames_survive_many_turns_around_the_ring() {
    let mut rig = Rig::new();
    rig.start();
    for i in 0..500 {
        let f = frame(MAC, 60 + i * 97 % 1455);
        rig.arrive(&f);
        assert!(rig.take() == Some(f), "frame {i}");
        rig.outb(7, 1);
        rig.moment();
    }
}

#[test]
fn driver_that_reads_nine_frames_and_acknowledges_all_gets_every_frame() {
    for len in [60, 300, 1514] {
        for late in [0, 1, 7, 8, 9, 10] {
            let mut rig = Rig::new();
            rig.start();
            let frames: Vec<_> = (0..400).map(|i| frame(MAC, len - i % 50)).collect();
            let mut taken = Vec::new();
            for (i, f) in frames.iter().enumerate() {
                rig.wire.0.lock().unwrap().coming.push_back(f.clone());
                // The host's interrupt comes at every frame, or late.
                if late == 0 || i % late == 0 {
                    rig.poll();
                }
                if i % 3 == 0 && rig.irqs.level(PIN) {
                    assert!(!rig.interrupt(&mut taken), "too much work at interrupt");
                }
            }
            rig.poll();
            while rig.irqs.level(PIN) || rig.wake() {
                if rig.irqs.level(PIN) {
                    assert!(!rig.interrupt(&mut taken), "too much work at interrupt");
                }
            }
            assert_eq!(taken.len(), frames.len(), "{len} {late}");
            for (i, f) in frames.iter().enumerate() {
                assert_eq!(taken[i][..f.len()], f[..], "frame {i}");
            }
        }
    }
}

#[test]
fn no_frame_comes_in_between_the_last_look_at_the_ring_and_the_acknowledgement() {
    let mut rig = Rig::new();
    rig.start();
    rig.arrive(&frame(MAC, 60));
    assert!(rig.take().is_some());
    assert_eq!(rig.take(), None);
    rig.arrive(&frame(MAC, 61));
    rig.outb(7, 1);
    assert!(!rig.irqs.level(PIN));
    assert!(rig.wake() && rig.irqs.level(PIN));
    assert!(rig.take().is_some());
}

#[test]
fn polling_driver_that_never_acknowledges_gets_every_frame() {
    let mut rig = Rig::new();
    rig.start();
    rig.outb(0x0f, 0);
    let frames: Vec<_> = (0..100).map(|i| frame(MAC, 60 + i)).collect();
    for f in &frames {
        rig.arrive(f);
    }
    for (i, f) in frames.iter().enumerate() {
        let taken = rig.take().or_else(|| {
            rig.wake();
            rig.take()
        });
        assert!(taken.as_ref() == Some(f), "frame {i}");
    }
}

#[test]
fn full_ring_keeps_the_boundary_and_loses_nothing() {
    let mut rig = Rig::new();
    rig.start();
    let frames: Vec<_> = (0..30).map(|i| frame(MAC, 1000 + i)).collect();
    for f in &frames {
        rig.arrive(f);
        rig.outb(7, 1);
        rig.moment();
    }
    assert!(rig.waiting() > 0);
    assert_ne!(rig.current(), 0x7f);
    for (i, f) in frames.iter().enumerate() {
        assert!(rig.take().as_ref() == Some(f), "frame {i}");
        rig.outb(7, 1);
        rig.moment();
    }
    assert_eq!((rig.take(), rig.waiting()), (None, 0));
    assert_eq!(rig.inb(7) & 0x10, 0);
}

/// Linux's `__ei_interrupt` does so after twelve rounds.
#[test]
fn driver_that_acknowledges_frames_it_has_not_read_is_told_again() {
    let mut rig = Rig::new();
    rig.start();
    for _ in 0..40 {
        rig.wire
            .0
            .lock()
            .unwrap()
            .coming
            .push_back(frame(MAC, 1514));
    }
    for _ in 0..20 {
        rig.poll();
        rig.outb(7, 0xff);
        rig.bench.now = rig.bench.now + VmTime::from_millis(1);
    }
    assert_ne!(rig.waiting(), 0, "the ring is full");
    rig.poll();
    assert!(rig.irqs.level(PIN));
    assert_eq!(rig.inb(7) & 1, 1);
}

/// Linux's `ei_receive` keeps the boundary one page behind the next frame, and does not let it go around the end of the ring.
#[test]
fn boundary_before_the_ring_keeps_the_frames_at_its_beginning() {
    let mut rig = Rig::new();
    rig.start();
    rig.outb(3, 0x45);
    let frames: Vec<_> = (0..30).map(|i| frame(MAC, 1000 + i)).collect();
    for f in &frames {
        rig.arrive(f);
        rig.outb(7, 1);
        rig.moment();
    }
    assert!(rig.waiting() > 0, "the ring is full");
    for (i, f) in frames.iter().enumerate() {
        assert!(rig.take().as_ref() == Some(f), "frame {i}");
        rig.outb(7, 1);
        rig.moment();
    }
    assert_eq!((rig.take(), rig.waiting()), (None, 0));
}

#[test]
fn boundary_outside_the_ring_is_no_obstacle() {
    let mut rig = Rig::new();
    rig.start();
    rig.outb(3, 0);
    rig.arrive(&frame(MAC, 60));
    assert_eq!(rig.current(), 0x47);
}

#[test]
fn linux_init_in_loopback_and_monitor_mode_neither_sends_nor_stores() {
    let mut rig = Rig::new();
    rig.start();
    rig.outs(&[(0x0c, 0x20), (0x0d, 2)]);
    rig.write(0x4000, &frame(MAC, 60));
    rig.outs(&[(5, 60), (6, 0), (0, 0x26)]);
    assert!(rig.sent().is_empty());
    assert_eq!((rig.inb(7) & 3, rig.inb(0x0c)), (2, 0x41));
}

#[test]
fn loopback_modes_receive_what_is_sent_and_overflow_a_full_ring() {
    for mode in [2, 4, 6] {
        let mut rig = Rig::new();
        rig.start();
        rig.outb(0x0d, mode);
        let f = frame(MAC, 1024);
        rig.write(0x4000, &f);
        rig.outs(&[(5, 0), (6, 4), (0, 0x26)]);
        assert_eq!(rig.inb(7) & 0x13, 3);
        assert!(rig.take() == Some(f));
        for _ in 0..20 {
            rig.outb(0, 0x26);
        }
        assert_eq!(rig.inb(7) & 0x13, 0x13);
        assert!(rig.sent().is_empty());
    }
}

#[test]
fn stopped_card_hears_nothing() {
    let mut rig = Rig::new();
    rig.arrive(&frame(MAC, 60));
    assert_eq!((rig.waiting(), rig.inb(7)), (0, 0x80));
}

#[test]
fn send_packet_command_reads_the_next_frame_and_moves_the_boundary() {
    let mut rig = Rig::new();
    rig.start();
    rig.outb(3, 0x46);
    let f = frame(MAC, 60);
    rig.arrive(&f);
    rig.outb(0, 0x1a);
    let mut v = [0; 64];
    rig.nic
        .port_read_block(&mut rig.bench.cx(), IO + 0x10, AccessSize::Word, &mut v);
    assert_eq!(v[4..], f);
    assert_eq!(rig.inb(3), 0x47);
}

#[test]
fn poll_interval_wakes_a_running_card_only() {
    let mut rig = Rig::new();
    rig.nic.poll_every(Some(VmTime::from_millis(1)));
    assert_eq!(rig.poll(), None);
    rig.start();
    assert_eq!(rig.bench.requests.wake, Some(VmTime::from_millis(1)));
    assert_eq!(rig.poll(), Some(VmTime::from_millis(1)));
    rig.nic.poll_every(None);
    assert_eq!(rig.poll(), None);
}

#[test]
fn ports_repeat_and_word_access_to_registers_is_two_bytes() {
    let mut rig = Rig::new();
    assert_eq!(
        rig.nic
            .port_read(&mut rig.bench.cx(), IO + 0xe0 + 0x0a, AccessSize::Word),
        0x4350
    );
    // OpenBSD reads two counters as a word.
    assert_eq!(
        rig.nic
            .port_read(&mut rig.bench.cx(), IO + 0x0d, AccessSize::Word),
        0
    );
    // Beyond register 15 a wide access finds nothing.
    assert_eq!(
        rig.nic
            .port_read(&mut rig.bench.cx(), IO + 0x0e, AccessSize::Dword),
        0xffff_0000
    );
}

#[test]
fn reset_port_stops_the_card_and_lowers_the_line() {
    let mut rig = Rig::new();
    rig.start();
    rig.arrive(&frame(MAC, 60));
    assert!(rig.irqs.level(PIN));
    rig.inb(0x18);
    assert!(!rig.irqs.level(PIN));
    assert_eq!((rig.inb(0), rig.inb(7)), (0x21, 0x80));
}

#[test]
fn random_accesses_and_frames_do_not_panic() {
    for seed in 1..=20u64 {
        let mut random = Random::new(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(seed));
        let mut next = move || random.next();
        let mut rig = Rig::new();
        let mut block = [0; 4096];
        for i in 0..6_000 {
            if i % 1000 == 0 {
                rig.start();
            }
            let (r, port) = (next(), (next() % 256) as u16);
            let size = [AccessSize::Byte, AccessSize::Word, AccessSize::Dword][(r % 3) as usize];
            let len = next() as usize % 1024 * 4;
            match (r >> 8) % 12 {
                0 => {
                    let mut f = vec![0xff; (next() % 0x1_0000) as usize >> (next() % 12)];
                    if next() % 2 == 0 && f.len() > 6 {
                        f[..6].copy_from_slice(&MAC);
                    }
                    rig.arrive(&f);
                }
                1 => {
                    rig.nic
                        .port_read_block(&mut rig.bench.cx(), IO + 0x10, size, &mut block[..len])
                }
                2 => rig
                    .nic
                    .port_write_block(&mut rig.bench.cx(), IO + 0x10, size, &block[..len]),
                3 => rig
                    .nic
                    .port_read_block(&mut rig.bench.cx(), port, size, &mut block[..16]),
                4 => rig.outb([1, 2, 3, 3][(next() % 4) as usize], next() as u8),
                5 => rig.outs(&[(0, 0x62), (7, next() as u8), (0, 0x22)]),
                6 => rig.outb(
                    0,
                    [0x22, 0x26, 0x0a, 0x12, 0x1a, 0x21][(next() % 6) as usize],
                ),
                7 => drop(rig.nic.port_read(&mut rig.bench.cx(), port, size)),
                8 if next() % 32 == 0 => rig.nic.reset(&mut rig.bench.cx()),
                _ => {
                    rig.nic
                        .port_write(&mut rig.bench.cx(), port, size, next() as u32 & size.ones())
                }
            }
            rig.bench.now = rig.bench.now + VmTime(next() % 1000);
        }
    }
}
