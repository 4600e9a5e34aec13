//! The log: lines on COM1, with the time since start. Where no host tool is at the control channel, COM1 carries the guest's COM1 and
//! Umbra's console too.

use crate::clock;
use crate::interrupts::{self, Concerns};
use crate::serial::Serial;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt::{self, Write};
use log::{LevelFilter, Log, Metadata, Record};
use spin::Mutex;

static COM1: Mutex<Serial> = Mutex::new(Serial::new(0x3f8));

struct SerialLog;

impl Write for Serial {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for b in s.bytes() {
            if b == b'\n' {
                self.write(b'\r');
            }
            self.write(b);
        }
        Ok(())
    }
}

impl Log for SerialLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // The crate gdbstub tells of each packet that it does not know.
        !metadata.target().starts_with("gdbstub")
    }
    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let ms = clock::since_start_ms();
        let mut out = COM1.lock();
        let _ = writeln!(
            out,
            "[{:5}.{:03}] {:5} {}",
            ms / 1000,
            ms % 1000,
            record.level(),
            record.args()
        );
    }
    fn flush(&self) {}
}

/// COM1's line at the interrupt controllers.
const IRQ: u8 = 4;
/// What has been received; more than this is lost.
static RECEIVED: Mutex<VecDeque<u8>> = Mutex::new(VecDeque::new());
const LIMIT: usize = 4096;

/// COM1 is the guest's too, and the console's: what is received waits for [`received`] from now on.
pub fn listen() {
    COM1.lock().listen();
    interrupts::unmask(IRQ, interrupt);
}

fn interrupt() -> Concerns {
    let (mut port, mut received) = (COM1.lock(), RECEIVED.lock());
    while let Some(byte) = port.read() {
        if received.len() < LIMIT {
            received.push_back(byte);
        }
    }
    Concerns::Session
}

/// Takes what has been received.
pub fn received() -> Vec<u8> {
    RECEIVED.lock().drain(..).collect()
}

/// Sends a byte of the guest's or the console's.
pub fn write(byte: u8) {
    COM1.lock().write(byte);
}

/// Starts the log.
pub fn init() {
    COM1.lock().init(false);
    let _ = log::set_logger(&SerialLog);
    log::set_max_level(LevelFilter::Info);
}

/// Holds the log for good: a test of Umbra itself.
pub fn hold() {
    core::mem::forget(COM1.lock());
}

/// Writes to COM1 even if its lock is held. All other CPUs have stopped.
pub fn emergency(args: fmt::Arguments<'_>) {
    let _ = Serial::new(0x3f8).write_fmt(args);
}
