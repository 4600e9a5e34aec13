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
