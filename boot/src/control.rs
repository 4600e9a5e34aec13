//! The control channel to the host tool: frames `[kind: u8][length: u32 LE][payload]` both ways.
//!
//! From the tool they come on COM2. To it they go there too, or to Bochs's port E9h: Bochs gives a serial port its 115,200 baud of
//! virtual time, far too little for screens, and takes a byte at port E9h ("port_e9_hack" in bochsrc(5)) in one instruction.
//!
//! To the tool: `C` bytes of the guest's COM1, `T` text screen, `S` screenshot, `R` report, `E` event, and `V`, the number of the VM that
//! the frames behind it are about, the first to begin with. From it: `K` scan codes (set 1), `M` mouse movement, `I` bytes for the
//! guest's COM1, `S`, `R` (a report of each VM) and `Q` (quit); and `V`, the number of the VM that has the focus from then on: keyboard,
//! mouse, screen and COM1 are its.

use crate::serial::Serial;
use crate::{interrupts, logger, mouse};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use spin::Mutex;
use x86::io::{inb, outb};

/// How frames reach the host tool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// COM2.
    Com2,
    /// Port E9h of Bochs.
    E9,
}

/// COM2's line at the interrupt controllers.
const IRQ: u8 = 3;

/// Where Bochs takes bytes for its standard output; it reads as its own number.
const E9: u16 = 0xe9;

/// One direction of the channel, to the tool.
struct Sender {
    transport: Transport,
    com2: Serial,
    /// The VM that frames are about.
    about: u8,
}

impl Sender {
    const fn new(transport: Transport) -> Self {
        Self {
            transport,
            com2: Serial::new(0x2f8),
            about: 1,
        }
    }

    fn write(&mut self, byte: u8) {
        match self.transport {
            Transport::Com2 => self.com2.write(byte),
            // SAFETY: ring 0; Bochs alone has this port, and `open` has found it.
            Transport::E9 => unsafe { outb(E9, byte) },
        }
    }

    /// The frames from here on are about VM `vm`.
    fn about(&mut self, vm: u8) {
        if self.about != vm {
            self.about = vm;
            self.header(b'V', 1);
            self.write(vm);
        }
    }

    fn header(&mut self, kind: u8, len: usize) {
        self.write(kind);
        for b in (len as u32).to_le_bytes() {
            self.write(b);
        }
    }
}

struct Channel {
    sender: Sender,
    received: VecDeque<u8>,
    /// Bytes of a guest's COM1 that wait to be sent, and that guest's VM.
    console: (u8, Vec<u8>),
}

static CHANNEL: Mutex<Channel> = Mutex::new(Channel {
    sender: Sender::new(Transport::Com2),
    received: VecDeque::new(),
    console: (1, Vec::new()),
});
/// The VM that has the focus.
static FOCUS: AtomicU8 = AtomicU8::new(1);
static OPEN: AtomicBool = AtomicBool::new(false);
/// Whether the open channel's frames go to port E9h: for [`emergency`], which may not take the lock.
static ON_E9: AtomicBool = AtomicBool::new(false);

/// Bytes that may wait in either direction.
const LIMIT: usize = 64 * 1024;
/// Console bytes that are sent together at the latest.
const CONSOLE_CHUNK: usize = 512;

/// A request of the host tool.
pub enum Request {
    /// Scan codes for the guest's keyboard.
    Keys(Vec<u8>),
    /// The guest's mouse moves.
    Mouse(mouse::Move),
    /// Bytes for the guest's COM1.
    Console(Vec<u8>),
    /// The VM of this number gets the focus.
    Focus(u8),
    /// Send a screenshot.
    Screenshot,
    /// Send the report.
    Report,
    /// Stop.
    Quit,
}

/// Opens the channel. False: this machine lacks COM2, or the port that `transport` needs.
pub fn open(transport: Transport) -> bool {
    let mut c = CHANNEL.lock();
    c.sender.transport = transport;
    // SAFETY: ring 0; reading an absent port has no effect.
    let there = transport == Transport::Com2 || unsafe { inb(E9) } == E9 as u8;
    let ok = there && c.sender.com2.init(true);
    ON_E9.store(transport == Transport::E9, Ordering::Relaxed);
    OPEN.store(ok, Ordering::Relaxed);
    if ok {
        interrupts::unmask(IRQ, interrupt);
    }
    ok
}

/// Whether there is a tool at the other end.
pub fn is_open() -> bool {
    OPEN.load(Ordering::Relaxed)
}

/// Takes what has been received.
fn interrupt() {
    let mut c = CHANNEL.lock();
    while let Some(byte) = c.sender.com2.read() {
        if c.received.len() < LIMIT {
            c.received.push_back(byte);
        }
    }
}

/// Sends one frame about VM `vm`.
pub fn send(vm: u8, kind: u8, payload: &[u8]) {
    if is_open() {
        let mut c = CHANNEL.lock();
        c.sender.about(vm);
        c.sender.header(kind, payload.len());
        payload.iter().for_each(|&b| c.sender.write(b));
    }
}

/// Sends one frame about VM `vm` of `len` bytes that is made while it is sent.
pub fn send_parts(vm: u8, kind: u8, len: usize, make: impl FnOnce(&mut dyn FnMut(&[u8]))) {
    if is_open() {
        let mut c = CHANNEL.lock();
        c.sender.about(vm);
        c.sender.header(kind, len);
        make(&mut |part| part.iter().for_each(|&b| c.sender.write(b)));
    }
}

/// Tells the tool that something has happened to VM `vm`.
pub fn event(vm: u8, text: &str) {
    flush_console();
    send(vm, b'E', text.as_bytes());
}

/// Tells the tool, even if the panicking code holds the channel's lock.
pub fn emergency(text: &str) {
    if is_open() {
        let mut sender = Sender::new(if ON_E9.load(Ordering::Relaxed) {
            Transport::E9
        } else {
            Transport::Com2
        });
        sender.header(b'E', text.len());
        text.bytes().for_each(|b| sender.write(b));
    }
}

/// VM `vm` has the focus from now on.
pub fn set_focus(vm: u8) {
    FOCUS.store(vm, Ordering::Relaxed);
}

/// Sends a byte of the COM1 of VM `vm`, or of the console in its place: to the host tool, or where there is none, on our COM1, which is
/// that of the VM with the focus.
pub fn console(vm: u8, byte: u8) {
    if !is_open() {
        if vm == FOCUS.load(Ordering::Relaxed) {
            logger::write(byte);
        }
        return;
    }
    let other = {
        let c = CHANNEL.lock();
        c.console.0 != vm && !c.console.1.is_empty()
    };
    if other {
        flush_console();
    }
    let full = {
        let mut c = CHANNEL.lock();
        c.console.0 = vm;
        c.console.1.push(byte);
        c.console.1.len() >= CONSOLE_CHUNK
    };
    if full {
        flush_console();
    }
}

/// Whether console bytes wait to be sent.
pub fn console_waiting() -> bool {
    !CHANNEL.lock().console.1.is_empty()
}

/// Sends the waiting console bytes.
pub fn flush_console() {
    let (vm, bytes) = {
        let mut c = CHANNEL.lock();
        (c.console.0, core::mem::take(&mut c.console.1))
    };
    if !bytes.is_empty() {
        send(vm, b'C', &bytes);
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
        b'M' => {
            let &[x0, x1, y0, y1, wheel, buttons] = payload.as_slice() else {
                log::warn!("control channel: mouse movement of {} bytes", payload.len());
                return None;
            };
            Some(Request::Mouse(mouse::Move {
                dx: i16::from_le_bytes([x0, x1]).into(),
                dy: i16::from_le_bytes([y0, y1]).into(),
                wheel: i32::from(wheel as i8),
                buttons,
            }))
        }
        b'I' => Some(Request::Console(payload)),
        b'V' => payload.first().map(|&vm| Request::Focus(vm)),
        b'S' => Some(Request::Screenshot),
        b'R' => Some(Request::Report),
        b'Q' => Some(Request::Quit),
        kind => {
            log::warn!("control channel: unknown request {kind:#x}");
            None
        }
    }
}
