//! Debug consoles: port 402h, where SeaBIOS and OVMF write their logs, and port E9h, Bochs's.
//!
//! Both read E9h, by which firmware knows that somebody listens. One device serves either port or both.

use alloc::boxed::Box;
use hv_core::backend::ConsoleBackend;
use hv_core::device::{AccessSize, DevCx, Device};

/// What the ports read as.
const PRESENT: u32 = 0xe9;

/// A debug console.
pub struct DebugPort {
    console: Box<dyn ConsoleBackend>,
}

impl DebugPort {
    /// A debug console whose bytes go to `console`.
    #[must_use]
    pub fn new(console: Box<dyn ConsoleBackend>) -> Self {
        Self { console }
    }
}

impl Device for DebugPort {
    fn name(&self) -> &'static str {
        "debug"
    }

    fn port_read(&mut self, _cx: &mut DevCx<'_>, _port: u16, size: AccessSize) -> u32 {
        size.ones() & !0xff | PRESENT
    }

    fn port_write(&mut self, _cx: &mut DevCx<'_>, _port: u16, _size: AccessSize, value: u32) {
        self.console.write(value as u8);
    }

    fn port_write_block(&mut self, _cx: &mut DevCx<'_>, _port: u16, size: AccessSize, buf: &[u8]) {
        for &byte in buf.iter().step_by(size.bytes()) {
            self.console.write(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::DebugPort;
    use hv_core::device::AccessSize::{Byte, Word};
    use hv_core::device::Device;
    use hv_core::testing::{Bench, VecConsole};

    #[test]
    fn bytes_reach_the_console_one_by_one_and_in_blocks() {
        let (console, mut b) = (VecConsole::default(), Bench::new());
        let mut d = DebugPort::new(Box::new(console.clone()));
        assert_eq!(d.port_read(&mut b.cx(), 0x402, Byte), 0xe9);
        d.port_write(&mut b.cx(), 0x402, Byte, u32::from(b'S'));
        d.port_write_block(&mut b.cx(), 0x402, Byte, b"eaBIOS");
        d.port_write_block(&mut b.cx(), 0xe9, Word, b"!?");
        assert_eq!(*console.0.lock().unwrap(), b"SeaBIOS!");
    }
}
