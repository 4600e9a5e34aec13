//! Virtio consoles (VIRTIO 1.2 5.3, "Console Device") on a [`ConsoleBackend`]: one port, which Linux calls `hvc0`.
//!
//! What the driver sends goes out before its notification returns, as Linux, which waits for that in a loop, likes it. `BUDGET`
//! bounds it; the rest follows at the next poll. What is typed waits in a [`Terminal`] until the driver has a buffer for it.
//!
//! Not there: several ports, the terminal's size, emergency writes.

use super::queue::{Chain, Fault, Queue, chain};
use super::{DeviceType, Kind, Queues};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use hv_core::backend::ConsoleBackend;
use hv_core::device::DevCx;
use hv_core::lock::{Lock, Rank};
use hv_core::mem::GuestMemory;
use hv_core::time::VmTime;

/// The queues of port 0 (5.3.2, "Virtqueues").
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Typed bytes that wait at most; further ones are lost, as on a wire.
const WAITING: usize = 4096;
/// Bytes that are moved during one call, each way, at most; a chain counts as [`CHAIN`] bytes more.
const BUDGET: usize = 8192;
const CHAIN: usize = 64;
/// Bytes that are moved together.
const PART: usize = 256;

struct Typed {
    /// Whether there is a driver that has set up its queue.
    driven: bool,
    bytes: VecDeque<u8>,
}

/// The keyboard of the terminal at the console.
#[derive(Clone)]
pub struct Terminal(Arc<Lock<Typed>>);

impl Terminal {
    fn new() -> Self {
        let typed = Typed {
            driven: false,
            bytes: VecDeque::with_capacity(WAITING),
        };
        Self(Arc::new(Lock::new(Rank::Part, typed)))
    }

    /// A byte is typed. False: no driver drives the console. Its device has to be polled then.
    #[must_use]
    pub fn typed(&self, byte: u8) -> bool {
        let typed = &mut *self.0.lock();
        if typed.driven && typed.bytes.len() < WAITING {
            typed.bytes.push_back(byte);
        }
        typed.driven
    }
}

/// A console.
pub struct Console {
    screen: Box<dyn ConsoleBackend>,
    terminal: Terminal,
    /// A chain to be filled with what is typed next.
    vacant: Chain,
    /// The chain that is being sent, and how much of it has been.
    sending: Chain,
    sent: usize,
}

impl Console {
    /// One whose output goes to `screen`; what is typed comes through the [`Terminal`].
    #[must_use]
    pub fn new(screen: Box<dyn ConsoleBackend>) -> (Self, Terminal) {
        let terminal = Terminal::new();
        let console = Self {
            screen,
            terminal: terminal.clone(),
            vacant: Chain::default(),
            sending: Chain::default(),
            sent: 0,
        };
        (console, terminal)
    }

    /// Sends what the driver has for us. True: there is more.
    fn send(&mut self, memory: &dyn GuestMemory, queue: &mut Queue) -> Result<bool, Fault> {
        let mut left = BUDGET;
        while left != 0 {
            if self.sending.is_empty() && !queue.pop_or_ask(memory, &mut self.sending)? {
                return Ok(false);
            }
            let mut bytes = [0; PART];
            let part = bytes.get_mut(..PART.min(left)).unwrap_or_default();
            let n = chain::read(memory, self.sending.readable(), self.sent, part)?;
            part.iter().take(n).for_each(|&b| self.screen.write(b));
            self.sent += n;
            left -= n;
            if self.sent == chain::len(self.sending.readable()) {
                queue.push(memory, &self.sending, 0)?;
                self.sending.clear();
                self.sent = 0;
                left = left.saturating_sub(CHAIN);
            }
        }
        Ok(true)
    }

    /// Gives the driver what was typed. A buffer gets what there is.
    fn receive(&mut self, memory: &dyn GuestMemory, queue: &mut Queue) -> Result<(), Fault> {
        let typed = &mut *self.terminal.0.lock();
        typed.driven = true;
        while !typed.bytes.is_empty() {
            if self.vacant.is_empty() && !queue.pop_or_ask(memory, &mut self.vacant)? {
                return Ok(());
            }
            let room = chain::len(self.vacant.writable());
            let mut bytes = [0; PART];
            let n = room.min(PART).min(typed.bytes.len());
            if n == 0 {
                return Err(Fault::Request);
            }
            for (to, from) in bytes.iter_mut().zip(typed.bytes.drain(..n)) {
                *to = from;
            }
            let part = bytes.get(..n).unwrap_or_default();
            let written = chain::write(memory, self.vacant.writable(), 0, part)?;
            queue.push(memory, &self.vacant, written as u32)?;
            self.vacant.clear();
        }
        // What is typed is looked at without being told of buffers.
        queue.ask_for_kicks(memory, false)?;
        Ok(())
    }
}

impl DeviceType for Console {
    fn kind(&self) -> Kind {
        Kind {
            name: "virtio-console",
            id: 3,
            pci_device: 0x1003,
            // Communication controller, other: what QEMU's has.
            class: 0x07_8000,
        }
    }

    fn queues(&self) -> usize {
        2
    }

    fn run(&mut self, cx: &mut DevCx<'_>, queues: &mut Queues) -> Result<Option<VmTime>, Fault> {
        if let Some(Some(queue)) = queues.get_mut(RECEIVE) {
            self.receive(cx.dma, queue)?;
        }
        let more = match queues.get_mut(TRANSMIT) {
            Some(Some(queue)) => self.send(cx.dma, queue)?,
            _ => false,
        };
        Ok(more.then_some(cx.now))
    }

    fn reset(&mut self, _memory: &dyn GuestMemory) {
        self.vacant.clear();
        self.sending.clear();
        self.sent = 0;
        let typed = &mut *self.terminal.0.lock();
        typed.driven = false;
        typed.bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::queue::Agreed;
    use crate::virtio::testing::Driver;
    use hv_core::Gpa;
    use hv_core::testing::Bench;
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl ConsoleBackend for Screen {
        fn write(&mut self, byte: u8) {
            self.0.lock().unwrap().push(byte);
        }
    }

    const BUFFERS: u64 = 0x1_0000;

    struct Rig {
        console: Console,
        terminal: Terminal,
        screen: Screen,
        bench: Bench,
        drivers: [Driver; 2],
        queues: [Option<Queue>; 2],
    }

    impl Rig {
        fn new() -> Self {
            let (bench, screen) = (Bench::new(), Screen::default());
            let (console, terminal) = Console::new(Box::new(screen.clone()));
            let drivers =
                [0x8_0000, 0xa_0000].map(|at| Driver::new(&bench.mem, at, 16, Agreed::default()));
            let queues = [0, 1].map(|n| Some(Queue::new(drivers[n].place, Agreed::default())));
            Self {
                console,
                terminal,
                screen,
                bench,
                drivers,
                queues,
            }
        }

        fn run(&mut self) -> Result<Option<VmTime>, Fault> {
            self.console.run(&mut self.bench.cx(), &mut self.queues)
        }

        fn screen(&self) -> Vec<u8> {
            core::mem::take(&mut self.screen.0.lock().unwrap())
        }
    }

    #[test]
    fn a_line_is_out_when_its_notification_returns() {
        let mut rig = Rig::new();
        rig.bench.mem.write(Gpa(BUFFERS), b"hello\r\n").unwrap();
        let parts = [(BUFFERS, 5, false), (BUFFERS + 5, 2, false)];
        rig.drivers[TRANSMIT].add(&parts, false);
        assert!(rig.drivers[TRANSMIT].must_kick());
        assert_eq!(rig.run(), Ok(None));
        assert_eq!(rig.screen(), b"hello\r\n");
        assert_eq!(rig.drivers[TRANSMIT].take().map(|o| o.1), Some(0));
        rig.drivers[TRANSMIT].add(&parts, false);
        assert!(rig.drivers[TRANSMIT].must_kick(), "each is told of");
    }

    #[test]
    fn much_goes_out_in_parts_and_none_of_it_twice() {
        let mut rig = Rig::new();
        let text: Vec<u8> = (0..20_000u32).map(|n| (n % 251) as u8).collect();
        rig.bench.mem.write(Gpa(BUFFERS), &text).unwrap();
        rig.drivers[TRANSMIT].add(&[(BUFFERS, 20_000, false)], false);
        let mut out = Vec::new();
        while rig.run().unwrap().is_some() {
            let part = rig.screen();
            assert!(!part.is_empty() && part.len() <= BUDGET);
            out.extend(part);
        }
        out.extend(rig.screen());
        assert!(out == text);
        assert!(rig.drivers[TRANSMIT].take().is_some());
    }

    #[test]
    fn keys_wait_for_a_buffer_and_are_the_serial_ports_without_a_driver() {
        let mut rig = Rig::new();
        assert!(!rig.terminal.typed(b'x'), "nobody listens");
        rig.run().unwrap();
        assert!(b"abc".iter().all(|&b| rig.terminal.typed(b)));
        rig.run().unwrap();
        for n in 0..3 {
            rig.drivers[RECEIVE].add(&[(BUFFERS + n * 16, 2, true)], false);
        }
        assert!(rig.drivers[RECEIVE].must_kick(), "it is to tell of buffers");
        rig.run().unwrap();
        let over = core::iter::from_fn(|| rig.drivers[RECEIVE].take().map(|o| o.1));
        assert_eq!(over.collect::<Vec<_>>(), [2, 1]);
        let mut bytes = [0; 17];
        rig.bench.mem.read(Gpa(BUFFERS), &mut bytes).unwrap();
        assert_eq!((&bytes[..2], bytes[16]), (&b"ab"[..], b'c'));
        assert!((0..2 * WAITING).all(|_| rig.terminal.typed(b'y')));
        assert_eq!(rig.terminal.0.lock().bytes.len(), WAITING);
        rig.console.reset(&rig.bench.mem);
        assert!(!rig.terminal.typed(b'z'));
    }

    #[test]
    fn a_buffer_without_room_for_keys_is_the_guests_fault() {
        let mut rig = Rig::new();
        rig.run().unwrap();
        assert!(rig.terminal.typed(b'a'));
        rig.drivers[RECEIVE].add(&[(BUFFERS, 16, false)], false);
        assert_eq!(rig.run(), Err(Fault::Request));
    }
}
