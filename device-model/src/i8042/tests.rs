use super::I8042;
use crate::a20::A20;
use hv_core::VmTime;
use hv_core::device::AccessSize::{Byte, Dword, Word};
use hv_core::device::WindowId;
use hv_core::device::{Device, PowerAction};
use hv_core::irq::IrqLine;
use hv_core::testing::{Bench, Random, RecordingIrqs};
use std::sync::Arc;

struct Rig {
    dev: I8042,
    bench: Bench,
    irqs: Arc<RecordingIrqs>,
}

impl Rig {
    fn new() -> Self {
        let irqs = RecordingIrqs::new();
        let line = |pin| IrqLine::new(irqs.clone(), pin);
        Self {
            dev: I8042::new(line(1), line(12), A20::new(WindowId(0))),
            bench: Bench::new(),
            irqs,
        }
    }
    /// After a BIOS: both interfaces and interrupts on, translating.
    fn ready() -> Self {
        let mut r = Self::new();
        r.command(0x60);
        r.data(0x47);
        r
    }
    fn command(&mut self, value: u8) {
        self.dev
            .port_write(&mut self.bench.cx(), 0x64, Byte, value.into());
    }
    fn data(&mut self, value: u8) {
        self.dev
            .port_write(&mut self.bench.cx(), 0x60, Byte, value.into());
    }
    fn status(&mut self) -> u8 {
        self.dev.port_read(&mut self.bench.cx(), 0x64, Byte) as u8
    }
    fn read(&mut self) -> u8 {
        self.dev.port_read(&mut self.bench.cx(), 0x60, Byte) as u8
    }
    fn poll(&mut self) -> Option<VmTime> {
        self.dev.poll(&mut self.bench.cx())
    }
    fn wait(&mut self, us: u64) {
        self.bench.now = self.bench.now + VmTime::from_micros(us);
        self.poll();
    }
    /// As a driver polls: status every 50 microseconds until OBF, at most a millisecond. Data and whether it is AUX.
    fn receive(&mut self) -> Option<(u8, bool)> {
        for _ in 0..20 {
            let status = self.status();
            if status & 1 != 0 {
                return Some((self.read(), status & 0x20 != 0));
            }
            self.bench.now = self.bench.now + VmTime::from_micros(50);
        }
        None
    }
    fn receive_all(&mut self) -> Vec<u8> {
        core::iter::from_fn(|| self.receive())
            .map(|(data, _)| data)
            .collect()
    }
    fn mouse(&mut self, value: u8) -> Vec<(u8, bool)> {
        self.command(0xd4);
        self.data(value);
        core::iter::from_fn(|| self.receive()).collect()
    }
}

#[test]
fn status_and_command_byte_after_power_on_and_self_test() {
    let mut r = Rig::new();
    assert_eq!(r.status(), 0x18);
    r.command(0x20);
    assert_eq!(r.receive(), Some((0x03, false)));
    r.command(0xaa);
    assert_eq!(r.receive(), Some((0x55, false)));
    assert_eq!(r.status(), 0x1c);
}

#[test]
fn seabios_keyboard_set_up() {
    let mut r = Rig::new();
    r.command(0xad);
    r.command(0xa7);
    assert_eq!(r.receive(), None);
    r.command(0xaa);
    assert_eq!(r.receive_all(), [0x55]);
    r.command(0xab);
    assert_eq!(r.receive_all(), [0x00]);
    for (mode, command, answer) in [
        (0x30, 0xff, &[0xfa, 0xaa][..]),
        (0x20, 0xf5, &[0xfa]),
        (0x20, 0xf0, &[0xfa]),
        (0x20, 0x02, &[0xfa]),
        (0x60, 0xf4, &[0xfa]),
    ] {
        r.command(0x60);
        r.data(mode);
        r.data(command);
        assert_eq!(r.receive_all(), answer, "{command:#x}");
    }
    r.irqs.take();
    r.command(0x60);
    r.data(0x61);
    assert_eq!(r.dev.key_scancodes(&[0x1e, 0x9e]), 2);
    r.poll();
    assert_eq!(r.irqs.take(), [(1, true)]);
    assert_eq!(r.receive_all(), [0x1e, 0x9e]);
    assert_eq!(r.irqs.take(), [(1, false), (1, true), (1, false)]);
}

#[test]
fn linux_aux_loop_comes_back_as_mouse_data_even_when_disabled() {
    let mut r = Rig::new();
    r.command(0xaa);
    r.receive();
    r.command(0xa7);
    for value in [0x5a, 0xf0, 0x56, 0xa4] {
        r.command(0xd3);
        r.data(value);
        assert_eq!(r.status() & 0x21, 0x21);
        assert_eq!(r.read(), value);
    }
    r.command(0xa9);
    assert_eq!(r.receive(), Some((0, false)));
    r.command(0xa8);
    r.command(0x20);
    assert_eq!(r.receive(), Some((0x03, false)));
}

#[test]
fn linux_aux_irq_test_gets_irq_12() {
    let mut r = Rig::new();
    r.command(0xd3);
    r.data(0xa5);
    assert_eq!(r.irqs.take(), [(12, true)]);
    assert_eq!(r.receive(), Some((0xa5, true)));
    assert_eq!(r.irqs.take(), [(12, false)]);
    r.command(0xd2);
    r.data(0x1e);
    assert_eq!(r.irqs.take(), [(1, true)]);
    assert_eq!(r.receive(), Some((0x1e, false)));
}

#[test]
fn no_interrupt_unless_enabled_and_enabling_raises_it() {
    let mut r = Rig::new();
    r.command(0x60);
    r.data(0x00);
    r.command(0xd3);
    r.data(0xa5);
    assert_eq!(r.irqs.take(), []);
    r.command(0x60);
    r.data(0x02);
    assert_eq!(r.irqs.take(), [(12, true)]);
}

#[test]
fn next_byte_comes_200_us_after_the_read_with_a_new_edge() {
    let mut r = Rig::ready();
    r.dev.key_scancodes(&[0x1e, 0x9e]);
    assert_eq!(r.poll(), None);
    assert_eq!(r.irqs.take(), [(1, true)]);
    r.bench.now = VmTime::from_micros(1000);
    assert_eq!(r.read(), 0x1e);
    assert_eq!(r.irqs.take(), [(1, false)]);
    assert_eq!(r.bench.requests.wake, Some(VmTime::from_micros(1200)));
    assert_eq!(r.poll(), Some(VmTime::from_micros(1200)));
    assert_eq!(r.status() & 1, 0);
    assert_eq!(r.read(), 0x1e, "an empty buffer reads its last byte");
    r.wait(200);
    assert_eq!(r.irqs.take(), [(1, true)]);
    assert_eq!(r.read(), 0x9e);
    assert_eq!(r.poll(), None);
}

#[test]
fn translation_is_the_controllers() {
    let mut r = Rig::ready();
    r.data(0xf2);
    assert_eq!(r.receive_all(), [0xfa, 0xab, 0x41]);
    r.data(0xf0);
    r.receive_all();
    r.data(0x00);
    assert_eq!(r.receive_all(), [0xfa, 0x41]);
    r.command(0x60);
    r.data(0x03);
    r.data(0xf2);
    assert_eq!(r.receive_all(), [0xfa, 0xab, 0x83]);
    assert_eq!(r.dev.key_scancodes(&[0xe0, 0x48, 0xe0, 0xc8]), 4);
    assert_eq!(r.receive_all(), [0xe0, 0x75, 0xe0, 0xf0, 0x75]);
}

#[test]
fn a_disabled_keyboard_takes_no_keys_and_keeps_what_it_has() {
    let mut r = Rig::ready();
    assert_eq!(r.dev.key_scancodes(&[0x1e]), 1);
    r.poll();
    r.command(0xad);
    assert_eq!(r.receive(), Some((0x1e, false)), "was in the buffer before");
    r.command(0xae);
    assert_eq!(r.dev.key_scancodes(&[0x1e, 0x9e]), 2);
    assert_eq!(r.receive(), Some((0x1e, false)));
    r.command(0xad);
    assert_eq!(r.dev.key_scancodes(&[0x1f]), 0);
    assert_eq!(r.receive(), None);
    r.command(0xae);
    assert_eq!(r.receive(), Some((0x9e, false)));
}

#[test]
fn mouse_answers_through_d4_with_aux_status_and_irq_12() {
    let mut r = Rig::ready();
    assert_eq!(r.mouse(0xff), [(0xfa, true), (0xaa, true), (0x00, true)]);
    assert_eq!(r.irqs.take(), [(12, true), (12, false)].repeat(3));
    r.command(0xa7);
    assert_eq!(
        r.mouse(0xf2),
        [(0xfa, true), (0, true)],
        "a byte to the mouse enables it"
    );
    for rate in [200, 100, 80] {
        r.mouse(0xf3);
        r.mouse(rate);
    }
    r.mouse(0xf4);
    r.dev.mouse_move(3, -2, 1, 1);
    assert_eq!(r.receive_all(), [0x09, 3, 2, 1]);
}

#[test]
fn a20_reads_back_and_output_port_shows_the_lines() {
    let mut r = Rig::ready();
    for (command, data, out) in [
        (0xdd, None, 0xcd),
        (0xdf, None, 0xcf),
        (0xd1, Some(0xdd), 0xcd),
        (0xd1, Some(0xdf), 0xcf),
    ] {
        r.command(command);
        if let Some(d) = data {
            r.data(d);
        }
        r.command(0xd0);
        assert_eq!(r.receive(), Some((out, false)));
    }
    r.command(0xc0);
    r.command(0xd0);
    assert_eq!(r.receive_all(), [0x80, 0xdf]);
    assert_eq!(r.bench.requests.power, None);
}

#[test]
fn fe_and_output_port_bit_0_reset() {
    let mut r = Rig::ready();
    r.command(0xff);
    assert_eq!(r.bench.requests.power, None);
    r.command(0xfe);
    assert_eq!(r.bench.requests.power.take(), Some(PowerAction::Reset));
    r.command(0xd1);
    r.data(0x02);
    assert_eq!(r.bench.requests.power.take(), Some(PowerAction::Reset));
}

#[test]
fn controller_memory_is_memory() {
    let mut r = Rig::ready();
    r.command(0x7f);
    r.data(0x5a);
    r.command(0x3f);
    assert_eq!(r.receive(), Some((0x5a, false)));
}

#[test]
fn reset_lowers_the_lines_and_forgets() {
    let mut r = Rig::ready();
    r.dev.key_scancodes(&[0x1e, 0x9e]);
    r.poll();
    assert!(r.irqs.level(1));
    r.dev.reset(&mut r.bench.cx());
    assert!(!r.irqs.level(1));
    assert_eq!(r.status(), 0x18);
    assert_eq!(r.receive(), None);
}

#[test]
fn random_abuse_never_panics() {
    let mut r = Rig::new();
    let mut random = Random::new(0xfeed_f00d_1234_5678);
    for i in 0..40_000 {
        let x = random.next();
        let size = [Byte, Word, Dword][(x >> 16) as usize % 3];
        let port = if x >> 20 & 1 == 0 { 0x60 } else { 0x64 };
        match x >> 24 & 7 {
            0..2 => r.dev.port_write(
                &mut r.bench.cx(),
                port,
                size,
                (x >> 32) as u32 & size.ones(),
            ),
            2 => {
                _ = r.mouse(if x >> 40 & 1 == 0 {
                    0xe6 + (x >> 32) as u8 % 26
                } else {
                    (x >> 32) as u8
                })
            }
            3 => {
                let keys = x.to_le_bytes();
                assert!(r.dev.key_scancodes(&keys) <= keys.len());
            }
            4 => r.dev.mouse_move(
                (x >> 8) as i32,
                (x >> 16) as i32,
                (x >> 24) as i32,
                (x >> 40) as u8,
            ),
            5 => assert!(r.poll().is_none_or(|t| t > r.bench.now)),
            6 => r.bench.now = r.bench.now + VmTime(x & 0xf_ffff),
            _ => assert_eq!(
                r.dev.port_read(&mut r.bench.cx(), port, size) & !size.ones(),
                0
            ),
        }
        if i == 30_000 {
            r.dev.reset(&mut r.bench.cx());
        }
    }
}
