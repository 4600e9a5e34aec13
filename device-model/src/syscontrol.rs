//! System control odds and ends: port 92h (82371SB datasheet 2.5.4.2, "Port 92 Register"), the APM ports B2h and B3h
//! (2.5.6, "Advanced Power Management"), the POST code port 80h and the coprocessor error port F0h.
//!
//! The APM ports are plain storage: there is no SMM to signal.

use crate::a20::A20;
use hv_core::device::{AccessSize, DevCx, Device, PowerAction};
use hv_core::irq::IrqLine;

/// POST codes; Linux writes here to pass a microsecond.
const POST: u16 = 0x80;
/// Fast reset and A20.
const PORT92: u16 = 0x92;
/// APM control.
const APM_CONTROL: u16 = 0xb2;
/// APM status.
const APM_STATUS: u16 = 0xb3;
/// A write here clears the coprocessor error.
const COPROCESSOR_ERROR: u16 = 0xf0;

/// Port 92h: a rising edge resets the CPU.
const FAST_INIT: u8 = 1 << 0;
/// Port 92h: A20 is on.
const FAST_A20: u8 = 1 << 1;

/// The system control ports.
pub struct SystemControl {
    ferr: IrqLine,
    a20: A20,
    /// Bit 0 of port 92h.
    fast_init: u8,
    apm_control: u8,
    apm_status: u8,
    post: u8,
}

impl SystemControl {
    /// The ports in power-on state; `ferr` is the wire of the coprocessor error, interrupt 13.
    #[must_use]
    pub fn new(ferr: IrqLine, a20: A20) -> Self {
        Self {
            ferr,
            a20,
            fast_init: 0,
            apm_control: 0,
            apm_status: 0,
            post: 0,
        }
    }

    /// The CPU asserts FERR#: an unmasked x87 exception with CR0.NE clear.
    pub fn raise_ferr(&mut self) {
        self.ferr.set(true);
    }

    /// The latest POST code.
    #[must_use]
    pub fn post_code(&self) -> u8 {
        self.post
    }
}

impl Device for SystemControl {
    fn name(&self) -> &'static str {
        "syscontrol"
    }

    fn reset(&mut self, cx: &mut DevCx<'_>) {
        self.ferr.set(false);
        self.a20.set(cx, true);
        *self = Self::new(self.ferr.clone(), self.a20.clone());
    }

    fn port_read(&mut self, _cx: &mut DevCx<'_>, port: u16, size: AccessSize) -> u32 {
        let byte = match port {
            POST => self.post,
            PORT92 if self.a20.is_on() => self.fast_init | FAST_A20,
            PORT92 => self.fast_init,
            APM_CONTROL => self.apm_control,
            APM_STATUS => self.apm_status,
            _ => 0xff,
        };
        size.ones() & !0xff | u32::from(byte)
    }

    fn port_write(&mut self, cx: &mut DevCx<'_>, port: u16, _size: AccessSize, value: u32) {
        let value = value as u8;
        match port {
            POST => self.post = value,
            PORT92 => {
                if value & !self.fast_init & FAST_INIT != 0 {
                    cx.requests.power = Some(PowerAction::Reset);
                }
                self.fast_init = value & FAST_INIT;
                self.a20.set(cx, value & FAST_A20 != 0);
            }
            APM_CONTROL => self.apm_control = value,
            APM_STATUS => self.apm_status = value,
            COPROCESSOR_ERROR => self.ferr.set(false),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::SystemControl;
    use crate::a20::A20;
    use hv_core::device::AccessSize::{Byte, Dword, Word};
    use hv_core::device::{Device, PowerAction, WindowId};
    use hv_core::irq::IrqLine;
    use hv_core::testing::{Bench, Random, RecordingIrqs};

    fn machine() -> (SystemControl, Bench, std::sync::Arc<RecordingIrqs>) {
        let irqs = RecordingIrqs::new();
        (
            SystemControl::new(IrqLine::new(irqs.clone(), 13), A20::new(WindowId(7))),
            Bench::new(),
            irqs,
        )
    }

    #[test]
    fn a20_reads_back_and_opens_the_wrap_when_it_goes_off() {
        let (mut s, mut b, _) = machine();
        for (value, moved) in [
            (0, Some((WindowId(7), Some(0x10_0000)))),
            (0, None),
            (2, Some((WindowId(7), None))),
            (2, None),
        ] {
            s.port_write(&mut b.cx(), 0x92, Byte, value);
            assert_eq!(s.port_read(&mut b.cx(), 0x92, Byte), value);
            assert_eq!(b.requests.moved.pop(), moved);
        }
        assert_eq!(b.requests.power, None);
        s.port_write(&mut b.cx(), 0x92, Byte, 0);
        b.requests.moved.clear();
        s.reset(&mut b.cx());
        assert_eq!(b.requests.moved, [(WindowId(7), None)]);
    }

    #[test]
    fn rising_bit_0_of_port_92_resets() {
        let (mut s, mut b, _) = machine();
        s.port_write(&mut b.cx(), 0x92, Byte, 3);
        assert_eq!(b.requests.power.take(), Some(PowerAction::Reset));
        s.port_write(&mut b.cx(), 0x92, Byte, 3);
        assert_eq!(b.requests.power, None);
    }

    #[test]
    fn apm_and_post_ports_are_latches() {
        let (mut s, mut b, _) = machine();
        for (port, value) in [(0xb2, 0xf1), (0xb3, 0x42), (0x80, 0x55)] {
            s.port_write(&mut b.cx(), port, Byte, value);
            assert_eq!(s.port_read(&mut b.cx(), port, Byte), value);
        }
        assert_eq!(s.post_code(), 0x55);
    }

    #[test]
    fn coprocessor_error_lasts_until_port_f0_is_written() {
        let (mut s, mut b, irqs) = machine();
        s.raise_ferr();
        assert!(irqs.level(13));
        s.port_write(&mut b.cx(), 0xf0, Byte, 0);
        assert!(!irqs.level(13));
        s.raise_ferr();
        s.reset(&mut b.cx());
        assert!(!irqs.level(13));
    }

    #[test]
    fn random_abuse_never_panics() {
        let (mut s, mut b, _) = machine();
        let mut random = Random::new(0x55aa_55aa_1234_5678);
        for _ in 0..10_000 {
            let x = random.next();
            let size = [Byte, Word, Dword][(x >> 16) as usize % 3];
            s.port_write(
                &mut b.cx(),
                x as u8 as u16,
                size,
                (x >> 32) as u32 & size.ones(),
            );
            assert_eq!(
                s.port_read(&mut b.cx(), (x >> 8) as u16, size) & !size.ones(),
                0
            );
        }
    }
}
