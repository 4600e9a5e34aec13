//! The UART as its drivers use it.

use super::{QUEUE_LEN, Uart};
use hv_core::VmTime;
use hv_core::device::AccessSize::{Byte, Dword, Word};
use hv_core::device::Device;
use hv_core::irq::IrqLine;
use hv_core::testing::{Bench, Random, RecordingIrqs, VecConsole};
use std::sync::Arc;

const BASE: u16 = 0x3f8;

struct Port {
    uart: Uart,
    bench: Bench,
    irqs: Arc<RecordingIrqs>,
    console: VecConsole,
}

impl Port {
    fn new() -> Self {
        let (irqs, console) = (RecordingIrqs::new(), VecConsole::default());
        let line = IrqLine::new(irqs.clone(), 4);
        let uart = Uart::new(BASE, line, Box::new(console.clone()));
        Self {
            uart,
            bench: Bench::new(),
            irqs,
            console,
        }
    }
    fn out(&mut self, register: u16, value: u8) {
        self.uart
            .port_write(&mut self.bench.cx(), BASE + register, Byte, value.into());
    }
    fn inb(&mut self, register: u16) -> u8 {
        self.uart
            .port_read(&mut self.bench.cx(), BASE + register, Byte) as u8
    }
    fn poll(&mut self) -> Option<VmTime> {
        self.uart.poll(&mut self.bench.cx())
    }
    fn after(&mut self, us: u64) -> Option<VmTime> {
        self.bench.now = self.bench.now + VmTime::from_micros(us);
        self.poll()
    }
    fn irq(&self) -> bool {
        self.irqs.level(4)
    }
    fn sent(&self) -> Vec<u8> {
        self.console.0.lock().unwrap().clone()
    }
}

#[test]
fn linux_autoconfig_finds_a_16550a() {
    let mut p = Port::new();
    // autoconfig(): interrupt enable has four bits.
    p.out(1, 0);
    assert_eq!(p.inb(1), 0);
    p.out(1, 0x0f);
    assert_eq!(p.inb(1), 0x0f);
    p.out(1, 0);
    // Loopback: OUT2 and RTS come back as DCD and CTS.
    p.out(4, 0x1a);
    assert_eq!(p.inb(6) & 0xf0, 0x90);
    p.out(4, 0x08);
    // EFR and FIFO tests.
    p.out(3, 0xbf);
    p.out(2, 0);
    p.out(3, 0);
    p.out(2, 1);
    assert_eq!(p.inb(2) >> 6, 3);
    p.out(3, 0x80);
    assert_ne!(p.inb(2), 0, "no enhanced feature register");
    p.out(3, 0);
    p.out(2, 0xe1);
    assert_eq!(p.inb(2) >> 5, 6, "no 64-byte FIFO");
    // autoconfig_16550a(): no UART unit enable bit as the Xscale's.
    p.out(1, 0x40);
    assert_eq!(p.inb(1), 0);
}

#[test]
fn idle_status_is_empty_and_connected() {
    let mut p = Port::new();
    assert_eq!(p.inb(5), 0x60);
    assert_eq!(p.inb(6), 0xb0);
    assert_eq!(p.inb(2), 0x01);
    assert_eq!(p.inb(0), 0);
}

#[test]
fn divisor_and_scratch_are_storage() {
    let mut p = Port::new();
    p.out(3, 0x83);
    assert_eq!((p.inb(0), p.inb(1)), (12, 0));
    p.out(0, 0x34);
    p.out(1, 0x12);
    assert_eq!((p.inb(0), p.inb(1)), (0x34, 0x12));
    p.out(3, 0x03);
    assert_eq!(p.inb(1), 0);
    p.out(7, 0xa5);
    assert_eq!(p.inb(7), 0xa5);
    assert_eq!(p.sent(), b"");
}

#[test]
fn bytes_are_sent_one_by_one_and_in_blocks() {
    let mut p = Port::new();
    p.out(0, b'a');
    p.uart
        .port_write_block(&mut p.bench.cx(), BASE, Byte, b"bcd");
    p.uart
        .port_write_block(&mut p.bench.cx(), BASE, Word, b"e-f-");
    assert_eq!(p.sent(), b"abcdef");
    assert_eq!(p.inb(5), 0x60);
}

#[test]
fn enabling_the_transmitter_interrupt_raises_it_and_reading_the_source_ends_it() {
    let mut p = Port::new();
    for _ in 0..2 {
        p.out(1, 0x02);
        assert!(p.irq());
        assert_eq!(p.inb(2), 0x02);
        assert!(!p.irq());
        assert_eq!(p.inb(2), 0x01);
        p.out(1, 0);
    }
}

#[test]
fn each_byte_sent_is_a_new_edge() {
    let mut p = Port::new();
    p.out(1, 0x02);
    p.inb(2);
    p.irqs.take();
    p.out(0, b'x');
    assert_eq!(p.irqs.take(), [(4, true)]);
    p.out(0, b'y');
    assert_eq!(p.irqs.take(), [(4, false), (4, true)]);
}

#[test]
fn reading_the_id_keeps_the_transmitter_interrupt_when_it_is_not_the_source() {
    let mut p = Port::new();
    p.out(1, 0x03);
    p.uart.receive(b"k");
    p.poll();
    assert_eq!(p.inb(2), 0x04);
    assert_eq!(p.inb(0), b'k');
    assert_eq!(p.inb(2), 0x02);
    assert_eq!(p.inb(2), 0x01);
    assert!(!p.irq());
}

#[test]
fn out2_gates_the_interrupt() {
    let mut p = Port::new();
    p.out(4, 0);
    p.out(1, 0x02);
    assert!(!p.irq());
    p.out(4, 0x08);
    assert!(p.irq());
    p.out(4, 0x18);
    assert!(!p.irq(), "loopback disconnects OUT2");
}

#[test]
fn received_bytes_interrupt_at_the_next_poll() {
    let mut p = Port::new();
    p.out(1, 0x01);
    p.uart.receive(b"q");
    assert_eq!(p.inb(5), 0x60);
    p.poll();
    assert!(p.irq());
    assert_eq!(p.inb(5), 0x61);
    assert_eq!(p.inb(0), b'q');
    assert!(!p.irq());
}

#[test]
fn without_fifos_each_byte_is_an_edge_a_character_apart() {
    let mut p = Port::new();
    p.out(3, 0x80);
    p.out(0, 1);
    p.out(3, 0x03);
    p.out(1, 0x01);
    p.uart.receive(b"ab");
    p.poll();
    p.irqs.take();
    assert_eq!(p.inb(0), b'a');
    assert_eq!(p.bench.requests.wake.take(), Some(VmTime(86_806)));
    assert_eq!(p.poll(), Some(VmTime(86_806)));
    assert_eq!(p.inb(5), 0x60);
    p.after(87);
    assert_eq!(p.inb(0), b'b');
    assert_eq!(p.irqs.take(), [(4, false), (4, true), (4, false)]);
}

#[test]
fn fifo_interrupts_at_its_trigger_and_after_the_timeout() {
    let mut p = Port::new();
    p.out(2, 0xc7);
    p.out(1, 0x01);
    p.uart.receive(&[7; 15]);
    let deadline = p.poll();
    assert_eq!(deadline, Some(VmTime(4_000_000)));
    assert_eq!(p.inb(2), 0xc4);
    p.inb(0);
    p.inb(0);
    assert_eq!(p.inb(2), 0xc1);
    assert!(!p.irq());
    p.after(4_000);
    assert_eq!(p.inb(2), 0xcc);
    assert!(p.irq());
    p.inb(0);
    assert_eq!(p.inb(2), 0xc1);
    assert!(!p.irq());
}

#[test]
fn a_long_paste_arrives_whole_and_in_order() {
    let mut p = Port::new();
    p.out(2, 0x81);
    p.out(1, 0x01);
    let text: Vec<u8> = (0..1000u32).map(|i| i as u8).collect();
    p.uart.receive(&text);
    let mut got = Vec::new();
    for _ in 0..200 {
        p.after(1_000);
        while p.inb(5) & 1 != 0 {
            got.push(p.inb(0));
        }
    }
    assert_eq!(got, text);
    assert_eq!(p.poll(), None);
}

#[test]
fn what_exceeds_the_queue_is_lost() {
    let mut p = Port::new();
    p.uart.receive(&[1; QUEUE_LEN + 100]);
    p.uart.receive(&[2; 10]);
    assert_eq!(p.uart.queue.len(), QUEUE_LEN);
}

#[test]
fn loopback_sends_to_the_receiver_and_overruns() {
    let mut p = Port::new();
    p.out(4, 0x1b);
    p.uart.receive(b"outside");
    p.out(0, b'x');
    p.poll();
    assert_eq!(p.inb(5), 0x61);
    assert_eq!(p.inb(0), b'x');
    p.out(0, b'y');
    p.out(0, b'z');
    assert_eq!(p.inb(5), 0x63);
    assert_eq!(p.inb(5), 0x61, "reading the line status ends the overrun");
    assert_eq!(p.inb(0), b'z');
    assert_eq!(p.sent(), b"");
    p.out(4, 0x0b);
    p.after(1_000);
    assert_eq!(p.inb(0), b'o');
}

#[test]
fn overrun_is_the_highest_interrupt() {
    let mut p = Port::new();
    p.out(1, 0x0f);
    p.out(4, 0x18);
    p.out(0, 1);
    p.out(0, 2);
    let mut ids = Vec::new();
    ids.push(p.inb(2));
    p.inb(5);
    ids.push(p.inb(2));
    p.inb(0);
    ids.push(p.inb(2));
    ids.push(p.inb(2));
    p.inb(6);
    ids.push(p.inb(2));
    assert_eq!(ids, [0x06, 0x04, 0x02, 0x00, 0x01]);
}

#[test]
fn modem_changes_show_until_read() {
    let mut p = Port::new();
    p.out(4, 0x14);
    assert_eq!(p.inb(6), 0x4b);
    assert_eq!(p.inb(6), 0x40);
    p.out(4, 0x10);
    assert_eq!(p.inb(6), 0x04);
}

#[test]
fn changing_the_fifo_enable_empties_the_fifo() {
    let mut p = Port::new();
    p.out(2, 0x01);
    p.uart.receive(b"abc");
    p.poll();
    p.out(2, 0x00);
    assert_eq!(p.inb(5), 0x60);
}

#[test]
fn reset_lowers_the_line_and_keeps_the_console() {
    let mut p = Port::new();
    p.out(1, 0x02);
    p.out(7, 0x55);
    assert!(p.irq());
    p.uart.reset(&mut p.bench.cx());
    assert!(!p.irq());
    assert_eq!((p.inb(1), p.inb(2), p.inb(7)), (0, 1, 0));
    p.out(0, b'!');
    assert_eq!(p.sent(), b"!");
}

#[test]
fn random_abuse_never_panics_and_the_line_follows_the_source() {
    let mut p = Port::new();
    let mut random = Random::new(0xfeed_face_cafe_beef);
    for _ in 0..50_000 {
        let x = random.next();
        let size = [Byte, Word, Dword][(x >> 16) as usize % 3];
        let (port, value) = (BASE + (x & 7) as u16, (x >> 32) as u32 & size.ones());
        match x >> 8 & 7 {
            0..=2 => p.uart.port_write(&mut p.bench.cx(), port, size, value),
            3..=5 => {
                let read = p.uart.port_read(&mut p.bench.cx(), port, size);
                assert_eq!(read & !size.ones(), 0);
            }
            6 => p.uart.receive(&x.to_le_bytes()),
            _ => {
                let step = (x >> 40) & ((1 << (x >> 20 & 31)) - 1);
                p.bench.now = p.bench.now + VmTime(step);
                if let Some(next) = p.poll() {
                    assert!(next > p.bench.now);
                }
            }
        }
        let gate = p.uart.mcr.bits() & 0x18 == 0x08;
        assert_eq!(p.irq(), gate && p.uart.source().is_some());
        assert!(p.uart.fifo.len <= 16 && p.uart.queue.len() <= QUEUE_LEN);
    }
    p.bench.now = VmTime::NEVER;
    p.poll();
}
