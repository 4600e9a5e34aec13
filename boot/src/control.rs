//! The control channel to the host tool, which speaks the [`protocol`].
//!
//! From the tool its bytes come on COM2. To it they go there too, or to Bochs's port E9h: Bochs gives a serial port its 115,200 baud of
//! virtual time, far too little for screens, and takes a byte at port E9h ("port_e9_hack" in bochsrc(5)) in one instruction.

use crate::interrupts::{self, Concerns};
use crate::logger;
use crate::serial::Serial;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use protocol::options::Transport;
use protocol::{Decoder, Event, Item, MAX_PAYLOAD, Message, Request, VERSION};
use spin::Mutex;
use x86::io::{inb, outb};

/// COM2's line at the interrupt controllers.
const IRQ: u8 = 3;

/// Where Bochs takes bytes for its standard output; it reads as its own number.
const E9: u16 = 0xe9;

/// One direction of the channel, to the tool.
struct Sender {
    transport: Transport,
    com2: Serial,
}

impl Sender {
    const fn new(transport: Transport) -> Self {
        Self {
            transport,
            com2: Serial::new(0x2f8),
        }
    }

    fn write(&mut self, byte: u8) {
        match self.transport {
            Transport::Com2 => self.com2.write(byte),
            // SAFETY: ring 0; Bochs alone has this port, and `open` has found it.
            Transport::E9 => unsafe { outb(E9, byte) },
        }
    }

    /// Sends a message about VM `vm`.
    fn send(&mut self, vm: u8, message: &Message<'_>) {
        message.encode(vm, &mut |part| part.iter().for_each(|&b| self.write(b)));
    }
}

/// Bytes that may wait to be understood.
const WAITING: usize = 64 * 1024;

/// Bytes as they have come; more than [`WAITING`] are dropped.
struct Received {
    bytes: [u8; WAITING],
    first: usize,
    len: usize,
}

impl Received {
    fn push(&mut self, byte: u8) {
        if self.len < WAITING {
            self.bytes[(self.first + self.len) % WAITING] = byte;
            self.len += 1;
        }
    }

    /// Those at the front that lie together: some, if there are any.
    fn front(&self) -> &[u8] {
        let end = (self.first + self.len).min(WAITING);
        &self.bytes[self.first..end]
    }

    /// `n` of these have been taken.
    fn taken(&mut self, n: usize) {
        self.first = (self.first + n) % WAITING;
        self.len -= n;
    }
}

/// Console bytes that are sent together at the latest.
const CONSOLE_CHUNK: usize = 512;

/// Bytes of a guest's COM1 that wait to be sent.
struct Console {
    vm: u8,
    bytes: [u8; CONSOLE_CHUNK],
    len: usize,
}

struct Channel {
    sender: Sender,
    console: Console,
}

static CHANNEL: Mutex<Channel> = Mutex::new(Channel {
    sender: Sender::new(Transport::Com2),
    console: Console {
        vm: 1,
        bytes: [0; CONSOLE_CHUNK],
        len: 0,
    },
});
static RECEIVED: Mutex<Received> = Mutex::new(Received {
    bytes: [0; WAITING],
    first: 0,
    len: 0,
});
/// What understands the tool.
static DECODER: Mutex<Decoder> = Mutex::new(Decoder::new());
/// The VM that has the focus.
static FOCUS: AtomicU8 = AtomicU8::new(1);
static OPEN: AtomicBool = AtomicBool::new(false);
/// The tool speaks another version: nothing but a goodbye is understood.
static FOREIGN: AtomicBool = AtomicBool::new(false);
/// Whether the tool has greeted, or it was said that it does not.
static GREETED: AtomicBool = AtomicBool::new(false);
/// Whether the open channel's frames go to port E9h: for [`failed`], which takes no lock.
static ON_E9: AtomicBool = AtomicBool::new(false);

/// Opens the channel and says hello. False: this machine lacks COM2, or the port that `transport` needs.
pub fn open(transport: Transport) -> bool {
    let ok = {
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
    };
    send(1, &Message::Hello(VERSION));
    ok
}

/// Whether there is a tool at the other end.
pub fn is_open() -> bool {
    OPEN.load(Ordering::Relaxed)
}

/// Takes what has been received.
fn interrupt() -> Concerns {
    let (mut channel, mut received) = (CHANNEL.lock(), RECEIVED.lock());
    while let Some(byte) = channel.sender.com2.read() {
        received.push(byte);
    }
    Concerns::Session
}

/// Sends one message about VM `vm`.
pub fn send(vm: u8, message: &Message<'_>) {
    if is_open() {
        CHANNEL.lock().sender.send(vm, message);
    }
}

/// Tells the tool that something has happened to VM `vm`.
pub fn event(vm: u8, event: Event<&str>) {
    flush_console();
    send(vm, &Message::Event(event));
}

/// Holds the channel for good in the middle of a frame: a test of Umbra itself.
pub fn hold() {
    let mut channel = CHANNEL.lock();
    let bytes = [0; CONSOLE_CHUNK];
    let mut room = CONSOLE_CHUNK / 2;
    Message::Console(&bytes).encode(1, &mut |part| {
        let sent = &part[..part.len().min(room)];
        room -= sent.len();
        sent.iter().for_each(|&byte| channel.sender.write(byte));
    });
    core::mem::forget(channel);
}

/// Tells the tool what of Umbra itself has failed, even if the channel's lock is held and half a frame has been sent. All other CPUs have stopped.
pub fn failed(what: &str) {
    if is_open() {
        let mut sender = Sender::new(if ON_E9.load(Ordering::Relaxed) {
            Transport::E9
        } else {
            Transport::Com2
        });
        // That frame takes these for its payload, and none of the next frame.
        (0..MAX_PAYLOAD).for_each(|_| sender.write(0));
        sender.send(1, &Message::Event(Event::Failed(what)));
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
    let mut c = CHANNEL.lock();
    if c.console.vm != vm {
        c.flush_console();
        c.console.vm = vm;
    }
    let at = c.console.len;
    c.console.bytes[at] = byte;
    c.console.len += 1;
    if c.console.len == CONSOLE_CHUNK {
        c.flush_console();
    }
}

/// Whether console bytes wait to be sent.
pub fn console_waiting() -> bool {
    CHANNEL.lock().console.len != 0
}

/// Sends the waiting console bytes.
pub fn flush_console() {
    CHANNEL.lock().flush_console();
}

impl Channel {
    fn flush_console(&mut self) {
        let Console { vm, bytes, len } = &mut self.console;
        let len = core::mem::take(len);
        // Of no bytes nothing is sent.
        self.sender.send(*vm, &Message::Console(&bytes[..len]));
    }
}

/// Gives the next request to `f`, if a whole one has been received, and answers what `f` does.
pub fn request<T>(f: impl FnOnce(Request<&[u8]>) -> T) -> Option<T> {
    if !is_open() {
        return None;
    }
    let mut decoder = DECODER.lock();
    loop {
        let item = {
            let mut received = RECEIVED.lock();
            let front = received.front();
            if front.is_empty() {
                return None;
            }
            let mut rest = front;
            let item = decoder.next(&mut rest);
            let taken = front.len() - rest.len();
            received.taken(taken);
            item
        };
        let understood = match item {
            None => {
                if decoder.is_passing_over() && !GREETED.swap(true, Ordering::Relaxed) {
                    log::error!(
                        "what the host tool says is no frame of version {VERSION} of the control protocol: build it from the same source"
                    );
                }
                continue;
            }
            Some(Item::Frame(frame)) => Request::decode(frame),
            Some(Item::Skipped(skipped)) => Err(skipped),
        };
        match understood {
            Ok(Request::Hello(version)) => greeted(version),
            Ok(Request::Quit) => return Some(f(Request::Quit)),
            Ok(_) if FOREIGN.load(Ordering::Relaxed) => {}
            Ok(request) => return Some(f(request)),
            Err(skipped) => log::warn!("control channel: passed over {skipped}"),
        }
    }
}

/// The tool has said which version it speaks.
fn greeted(version: u16) {
    GREETED.store(true, Ordering::Relaxed);
    if version != VERSION {
        let why = alloc::format!(
            "the host tool speaks version {version} of the control protocol, and this Umbra version {VERSION}: build both from the same source"
        );
        log::error!("{why}");
        event(1, Event::Refused(&why));
        FOREIGN.store(true, Ordering::Relaxed);
    }
}
