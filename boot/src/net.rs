//! The network: the guests' cards and the host's, a virtio one, are plugged into a [switch](switch::Switch).
//!
//! Frames that arrive wait in the host card's own ring of buffers until a guest's card asks for its next; its interrupt says that there
//! are some. What is another guest's then goes into that one's queue. Nothing is allocated for a frame.

use crate::lapic;
use crate::virtio::{self, HostHal, HostTransport};
use alloc::boxed::Box;
use alloc::vec::Vec;
use hv_core::backend::NetBackend;
use spin::Mutex;
use switch::{Address, Ports, Queue, Switch};
use virtio_drivers::device::net::VirtIONetRaw;
use virtio_drivers::transport::DeviceType;

/// Descriptors of each queue.
const QUEUE: usize = 64;
/// Bytes of a buffer: the largest frame, with a VLAN tag, and virtio's header (VIRTIO 1.2, 5.1.6, "Device Operation").
const BUFFER: usize = 2048;

/// A buffer that the card may have.
type Buffer = Box<[u8; BUFFER]>;

struct Card {
    net: VirtIONetRaw<HostHal, HostTransport, QUEUE>,
    /// Buffers that the card fills, by the token of the request.
    receiving: [Option<Buffer>; QUEUE],
    /// Buffers that the card sends, likewise, with their lengths.
    sending: [Option<(Buffer, usize)>; QUEUE],
    /// Buffers for frames to be sent.
    free: Vec<Buffer>,
}

// SAFETY: the transport holds pointers to device registers and queues that belong to this object alone.
unsafe impl Send for Card {}

/// Frames that wait for a guest's card at most, besides those in the host card's ring.
const WAITING: usize = 64;

/// The switch with what is plugged in.
struct Network {
    switch: Switch,
    /// The host's card, and its port.
    card: Option<(Card, usize)>,
    /// The guests' frames, with their ports.
    queues: Vec<(Queue, usize)>,
    /// Ports for which there is something that their guests have not been told of.
    arrived: Ports,
}

static NETWORK: Mutex<Option<Network>> = Mutex::new(None);

impl Card {
    /// Gives the card a buffer to fill.
    fn offer(&mut self, mut buffer: Buffer) {
        // SAFETY: the buffer stays where it is, and is not looked at before the request is complete.
        let token = unsafe { self.net.receive_begin(&mut buffer[..]) };
        if let Ok(token) = token
            && let Some(slot) = self.receiving.get_mut(usize::from(token))
        {
            *slot = Some(buffer);
        }
    }

    /// Takes back the buffers of frames that have been sent.
    fn sent(&mut self) {
        while let Some(token) = self.net.poll_transmit() {
            let slot = self.sending.get_mut(usize::from(token));
            let Some((buffer, len)) = slot.and_then(Option::take) else {
                return;
            };
            // SAFETY: the buffer is that of the request.
            let _ = unsafe { self.net.transmit_complete(token, &buffer[..len]) };
            self.free.push(buffer);
        }
    }

    /// Sends a frame. With all buffers on their way it is lost, as on a busy wire.
    fn send(&mut self, frame: &[u8]) {
        self.sent();
        let Some(mut buffer) = self.free.pop() else {
            return;
        };
        let header = self.net.fill_buffer_header(&mut buffer[..]).unwrap_or(0);
        let len = header + frame.len();
        let begun = match buffer.get_mut(header..len) {
            Some(to) => {
                to.copy_from_slice(frame);
                // SAFETY: the buffer stays where it is, and is not written before the request is complete.
                unsafe { self.net.transmit_begin(&buffer[..len]) }.ok()
            }
            None => None,
        };
        match begun.and_then(|token| self.sending.get_mut(usize::from(token))) {
            Some(slot) => *slot = Some((buffer, len)),
            None => self.free.push(buffer),
        }
    }

    /// Takes the next frame that has arrived into `to`, and returns its length.
    fn receive(&mut self, to: &mut [u8]) -> Option<usize> {
        loop {
            let token = self.net.poll_receive()?;
            let slot = self.receiving.get_mut(usize::from(token));
            let mut buffer = slot.and_then(Option::take)?;
            // SAFETY: the buffer is that of the request.
            let done = unsafe { self.net.receive_complete(token, &mut buffer[..]) };
            let frame = done
                .ok()
                .and_then(|(header, len)| buffer.get(header..header + len));
            let taken = frame.and_then(|frame| {
                to.get_mut(..frame.len())?.copy_from_slice(frame);
                Some(frame.len())
            });
            self.offer(buffer);
            // One that is too long is not taken.
            if taken.is_some() {
                return taken;
            }
        }
    }
}

impl Network {
    fn new() -> Self {
        let mut switch = Switch::default();
        let card = open_card().and_then(|card| Some((card, switch.plug(None)?)));
        Self {
            switch,
            card,
            queues: Vec::new(),
            arrived: Ports::NONE,
        }
    }

    /// Puts a frame into the queues of those of `ports` that are guests'. What they have no room for is lost.
    fn deliver(&mut self, ports: Ports, frame: &[u8]) {
        for (queue, port) in &mut self.queues {
            if ports.contains(*port) && queue.put(frame) {
                if !self.arrived.contains(*port) {
                    // That guest does not run now: the session is to tell it.
                    lapic::kick();
                }
                self.arrived = self.arrived.and(Ports::one(*port));
            }
        }
    }

    /// A guest's card sends a frame.
    fn send(&mut self, from: usize, frame: &[u8]) {
        let refused = self.switch.refused(from);
        let ports = self.switch.forward(from, frame);
        if self.switch.refused(from) != refused {
            self.tell_refused(from);
        }
        self.deliver(ports, frame);
        if let Some((card, port)) = &mut self.card
            && ports.contains(*port)
        {
            card.send(frame);
        }
    }

    /// Says that a guest's frame was refused: the first, the tenth, the hundredth, ...
    fn tell_refused(&self, from: usize) {
        let refused = self.switch.refused(from);
        if refused == 10u64.pow(refused.ilog10()) {
            let own = self.queues.iter().position(|(_, port)| *port == from);
            log::warn!(
                "VM {}: {refused} of its frames dropped, whose source address is not its card's",
                own.map_or(0, |index| index + 1)
            );
        }
    }

    /// Takes the next frame for the guest at `port` into `to`, and returns its length.
    fn receive(&mut self, port: usize, to: &mut [u8]) -> Option<usize> {
        let (queue, _) = self.queues.iter_mut().find(|(_, at)| *at == port)?;
        if let Some(len) = queue.take(to) {
            return Some(len);
        }
        loop {
            let (card, uplink) = self.card.as_mut()?;
            let (len, uplink) = (card.receive(to)?, *uplink);
            let frame = &to[..len];
            let ports = self.switch.forward(uplink, frame);
            self.deliver(ports.without(port), frame);
            if ports.contains(port) {
                return Some(len);
            }
        }
    }
}

/// A guest's end of the cable.
struct Cable {
    port: usize,
}

impl NetBackend for Cable {
    fn send(&mut self, frame: &[u8]) {
        if let Some(network) = &mut *NETWORK.lock() {
            network.send(self.port, frame);
        }
    }

    fn receive(&mut self, buf: &mut [u8]) -> Option<usize> {
        NETWORK.lock().as_mut()?.receive(self.port, buf)
    }
}

/// Plugs a guest's card in, which has this address. Returns its end of the cable, and its port; None: the switch has no more ports.
pub fn plug(address: Address) -> Option<(Box<dyn NetBackend>, usize)> {
    let mut network = NETWORK.lock();
    let network = network.get_or_insert_with(Network::new);
    let port = network.switch.plug(Some(address))?;
    network.queues.push((Queue::new(WAITING), port));
    Some((Box::new(Cable { port }), port))
}

/// The host's card, if there is one.
fn open_card() -> Option<Card> {
    let mut found = virtio::find(DeviceType::Network).into_iter().next()?;
    let Some(by) = found.enable_interrupt(interrupt) else {
        log::warn!(
            "the network card at {} is not used: it has neither MSI-X nor an interrupt line",
            found.function
        );
        return None;
    };
    let net = match VirtIONetRaw::new(found.transport) {
        Ok(net) => net,
        Err(error) => {
            log::warn!(
                "the network card at {} cannot be used: {error}",
                found.function
            );
            return None;
        }
    };
    let buffer = || Box::new([0; BUFFER]);
    let mut card = Card {
        net,
        receiving: [const { None }; QUEUE],
        sending: [const { None }; QUEUE],
        free: (0..QUEUE).map(|_| buffer()).collect(),
    };
    for _ in 0..QUEUE {
        card.offer(buffer());
    }
    card.net.enable_interrupts();
    let [a, b, c, d, e, f] = card.net.mac_address();
    log::info!("network card {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}, {by:?} interrupts");
    Some(card)
}

/// The card interrupts: frames have arrived, or have been sent.
fn interrupt() {
    if let Some(network) = &mut *NETWORK.lock()
        && let Some((card, _)) = &mut network.card
    {
        card.net.ack_interrupt();
        card.sent();
        if card.net.poll_receive().is_some() {
            // Whose they are is seen when the first guest looks.
            for (_, port) in &network.queues {
                network.arrived = network.arrived.and(Ports::one(*port));
            }
        }
    }
}

/// The ports at which frames may have arrived since this was last asked.
pub fn arrived() -> Ports {
    match &mut *NETWORK.lock() {
        Some(network) => core::mem::take(&mut network.arrived),
        None => Ports::NONE,
    }
}
