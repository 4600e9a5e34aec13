//! The A20 gate: the line that lets address bit 20 out of the CPU (82371SB datasheet 2.5.4.2, "Port 92 Register"). With it off, the second
//! mebibyte is the first.
//!
//! Two ports drive the line: bit 1 of port 92h, and the output port of the keyboard controller. On a PC they are ORed. Here, as in QEMU, the
//! last write counts and both read the line: software that knows one of the two only can switch it off.
//!
//! Only bit 20 of addresses below 2 MiB is cut off, which is what code with A20 off can reach in real mode.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use hv_core::device::{DevCx, WindowId};
use hv_core::machine::A20_WRAP;

/// One end of the line. Clones are the same line.
#[derive(Clone, Debug)]
pub struct A20 {
    on: Arc<AtomicBool>,
    wrap: WindowId,
}

impl A20 {
    /// The line, which is on. `wrap` is the window that is open while it is off.
    #[must_use]
    pub fn new(wrap: WindowId) -> Self {
        Self {
            on: Arc::new(AtomicBool::new(true)),
            wrap,
        }
    }

    /// Whether bit 20 passes.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Drives the line.
    pub fn set(&self, cx: &mut DevCx<'_>, on: bool) {
        if self.on.swap(on, Ordering::Relaxed) != on {
            cx.requests
                .move_window(self.wrap, (!on).then_some(A20_WRAP));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::i8042::I8042;
    use crate::syscontrol::SystemControl;
    use hv_core::device::{AccessSize::Byte, Device};
    use hv_core::irq::IrqLine;
    use hv_core::testing::{Bench, RecordingIrqs};

    const WRAP: WindowId = WindowId(7);
    const OPEN: Option<u64> = Some(A20_WRAP);

    #[test]
    fn what_moves_the_line_is_asked_for_once_and_what_does_not_is_not() {
        let (line, mut bench) = (A20::new(WRAP), Bench::new());
        line.set(&mut bench.cx(), true);
        assert!(bench.requests.is_empty());
        // Before the machine carries it out: one entry, whose last place counts.
        for n in 0..10_000 {
            line.set(&mut bench.cx(), n % 2 != 0);
        }
        assert_eq!(bench.requests.moved, [(WRAP, None)]);
        line.set(&mut bench.cx(), false);
        assert_eq!(bench.requests.moved, [(WRAP, OPEN)]);
        bench.requests.moved.clear();
        line.set(&mut bench.cx(), false);
        assert!(bench.requests.is_empty());
    }

    #[test]
    fn both_ports_drive_one_line_and_ask_for_one_window() {
        let irqs = RecordingIrqs::new();
        let line = |n| IrqLine::new(irqs.clone(), n);
        let a20 = A20::new(WRAP);
        let mut control = SystemControl::new(line(13), a20.clone());
        let mut keyboard = I8042::new(line(1), line(12), a20.clone());
        let mut bench = Bench::new();
        // Off by port 92h.
        control.port_write(&mut bench.cx(), 0x92, Byte, 0);
        assert_eq!(bench.requests.moved, [(WRAP, OPEN)]);
        // On by the keyboard controller's output port ("write output port", D1h), as HIMEM.SYS and Linux do it.
        keyboard.port_write(&mut bench.cx(), 0x64, Byte, 0xd1);
        keyboard.port_write(&mut bench.cx(), 0x60, Byte, 0xdf);
        assert!(a20.is_on());
        assert_eq!(control.port_read(&mut bench.cx(), 0x92, Byte) & 2, 2);
        assert_eq!(bench.requests.moved, [(WRAP, None)]);
        // Off again, and the machine is reset: on.
        control.port_write(&mut bench.cx(), 0x92, Byte, 0);
        control.reset(&mut bench.cx());
        keyboard.reset(&mut bench.cx());
        assert!(a20.is_on());
        assert_eq!(bench.requests.moved, [(WRAP, None)]);
    }
}
