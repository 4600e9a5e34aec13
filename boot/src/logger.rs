//! The log: lines on COM1, with the time since start.

use crate::clock;
use crate::serial::Serial;
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
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &Record<'_>) {
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

/// Starts the log at `level`.
pub fn init() {
    COM1.lock().init(false);
    let _ = log::set_logger(&SerialLog);
    log::set_max_level(LevelFilter::Info);
}

/// Writes to COM1 even if the panicking code holds its lock.
pub fn emergency(args: fmt::Arguments<'_>) {
    let _ = Serial::new(0x3f8).write_fmt(args);
}
