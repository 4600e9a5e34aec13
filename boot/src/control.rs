//! The control channel to the host tool: frames `[kind: u8][length: u32 LE][payload]` both ways on COM2.
//!
//! To the tool: `C` bytes of the guest's COM1, `T` text screen, `S` screenshot, `R` report, `E` event. From it: `K` scan codes
//! (set 1), `I` bytes for the guest's COM1, `S`, `R` and `Q` (quit).

use crate::serial::Serial;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use spin::Mutex;

struct Channel {
    port: Serial,
    received: VecDeque<u8>,
    /// Bytes of the guest's COM1 that wait to be sent.
    console: Vec<u8>,
}

static CHANNEL: Mutex<Channel> = Mutex::new(Channel {
    port: Serial::new(0x2f8),
    received: VecDeque::new(),
    console: Vec::new(),
});
static OPEN: AtomicBool = AtomicBool::new(false);

/// Bytes that may wait in either direction.
const LIMIT: usize = 64 * 1024;
/// Console bytes that are sent together at the latest.
const CONSOLE_CHUNK: usize = 512;

/// A request of the host tool.
pub enum Request {
    /// Scan codes for the guest's keyboard.
    Keys(Vec<u8>),
    /// Bytes for the guest's COM1.
    Console(Vec<u8>),
    /// Send a screenshot.
    Screenshot,
    /// Send the report.
    Report,
    /// Stop.
    Quit,
}

/// Opens the channel. False: there is no COM2.
pub fn open() -> bool {
    let ok = CHANNEL.lock().port.init(true);
    OPEN.store(ok, Ordering::Relaxed);
    ok
}

/// Whether there is a tool at the other end.
pub fn is_open() -> bool {
    OPEN.load(Ordering::Relaxed)
}

/// Takes what has been received.
pub fn interrupt() {
    let mut c = CHANNEL.lock();
    while let Some(byte) = c.port.read() {
        if c.received.len() < LIMIT {
            c.received.push_back(byte);
        }
    }
}

fn send_header(port: &mut Serial, kind: u8, len: usize) {
    port.write(kind);
    for b in (len as u32).to_le_bytes() {
        port.write(b);
    }
}

/// Sends one frame.
pub fn send(kind: u8, payload: &[u8]) {
    if is_open() {
        let mut c = CHANNEL.lock();
        send_header(&mut c.port, kind, payload.len());
        payload.iter().for_each(|&b| c.port.write(b));
    }
}

/// Sends one frame of `len` bytes that is made while it is sent.
pub fn send_parts(kind: u8, len: usize, make: impl FnOnce(&mut dyn FnMut(&[u8]))) {
    if is_open() {
        let mut c = CHANNEL.lock();
        send_header(&mut c.port, kind, len);
        make(&mut |part| part.iter().for_each(|&b| c.port.write(b)));
    }
}

/// Tells the tool that something has happened.
pub fn event(text: &str) {
    flush_console();
    send(b'E', text.as_bytes());
}

/// Tells the tool, even if the panicking code holds the channel's lock.
pub fn emergency(text: &str) {
    if is_open() {
        let mut port = Serial::new(0x2f8);
        send_header(&mut port, b'E', text.len());
        text.bytes().for_each(|b| port.write(b));
    }
}

/// The guest has written a byte to its COM1.
pub fn console(byte: u8) {
    let full = {
        let mut c = CHANNEL.lock();
        c.console.push(byte);
        c.console.len() >= CONSOLE_CHUNK
    };
    if full {
        flush_console();
    }
}

/// Whether console bytes wait to be sent.
pub fn console_waiting() -> bool {
    !CHANNEL.lock().console.is_empty()
}

/// Sends the waiting console bytes.
pub fn flush_console() {
    let bytes = core::mem::take(&mut CHANNEL.lock().console);
    if !bytes.is_empty() {
        send(b'C', &bytes);
    }
}

/// The next request, if a whole one has been received.
pub fn request() -> Option<Request> {
    let mut c = CHANNEL.lock();
    if c.received.len() < 5 {
        return None;
    }
    let header: [u8; 5] = core::array::from_fn(|i| c.received[i]);
    let len = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
    if len > LIMIT - 5 {
        log::warn!("control channel: a request of {len} bytes; forgetting what was received");
        c.received.clear();
        return None;
    }
    if c.received.len() < 5 + len {
        return None;
    }
    let payload: Vec<u8> = c.received.drain(..5 + len).skip(5).collect();
    match header[0] {
        b'K' => Some(Request::Keys(payload)),
        b'I' => Some(Request::Console(payload)),
        b'S' => Some(Request::Screenshot),
        b'R' => Some(Request::Report),
        b'Q' => Some(Request::Quit),
        kind => {
            log::warn!("control channel: unknown request {kind:#x}");
            None
        }
    }
}
