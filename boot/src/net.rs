//! The network: the guests' cards and the host's, a virtio one, are plugged into a [switch](switch::Network).
//!
//! The host card's interrupt says that frames have arrived; they are sorted into the guests' queues then, or when a guest's card
//! asks for its next, whichever is first. Nothing is allocated for a frame.

use crate::interrupts::Concerns;
use crate::smp;
use crate::virtio::{self, HostHal, HostTransport};
use alloc::boxed::Box;
use alloc::vec::Vec;
use hv_core::backend::NetBackend;
use hv_core::offload::{Offload, Offloads};
use spin::Mutex;
use switch::{Address, Network, Ports, Uplink};
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

static NETWORK: Mutex<Option<Network<Card>>> = Mutex::new(None);

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
}

impl Uplink for Card {
    fn receive(&mut self, take: impl FnOnce(&[u8])) -> bool {
        let Some(token) = self.net.poll_receive() else {
            return false;
        };
        let slot = self.receiving.get_mut(usize::from(token));
        let Some(mut buffer) = slot.and_then(Option::take) else {
            return false;
        };
        // SAFETY: the buffer is that of the request.
        let done = unsafe { self.net.receive_complete(token, &mut buffer[..]) };
        let frame = done
            .ok()
            .and_then(|(header, len)| buffer.get(header..header + len));
        if let Some(frame) = frame {
            take(frame);
        }
        self.offer(buffer);
        true
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
}

/// A guest's end of the cable.
struct Cable {
    /// The number of its VM.
    vm: u8,
    port: usize,
    /// How many of its frames were refused.
    refused: u64,
}

impl Cable {
    /// Says that frames were refused: of the first, the tenth, the hundredth, ...
    fn tell_refused(&mut self, refused: u64) {
        if refused != self.refused && refused == 10u64.pow(refused.ilog10()) {
            log::warn!(
                "VM {}: {refused} of its frames dropped, whose source address is not its card's",
                self.vm
            );
        }
        self.refused = refused;
    }
}

/// A guest that does not run now has got a frame: the session is to tell it.
fn tell(more: bool) {
    if more {
        smp::kick_first();
    }
}

impl NetBackend for Cable {
    fn send(&mut self, frame: &[u8]) {
        self.send_unfinished(frame, &Offload::NONE);
    }

    fn receive(&mut self, buf: &mut [u8]) -> Option<usize> {
        let (len, _) = self.receive_unfinished(buf)?;
        Some(len)
    }

    fn send_unfinished(&mut self, frame: &[u8], offload: &Offload) {
        if let Some(network) = &mut *NETWORK.lock() {
            tell(network.send(self.port, frame, offload));
            self.tell_refused(network.refused(self.port));
        }
    }

    fn accept(&mut self, offloads: Offloads) {
        if let Some(network) = &mut *NETWORK.lock() {
            network.accept(self.port, offloads);
        }
    }

    fn receive_unfinished(&mut self, buf: &mut [u8]) -> Option<(usize, Offload)> {
        let (frame, more) = NETWORK.lock().as_mut()?.receive(self.port, buf);
        tell(more);
        frame
    }
}

/// Plugs the card of VM `vm` in, which has this address. Returns its end of the cable, and its port; None: the switch has no more ports.
pub fn plug(vm: u8, address: Address) -> Option<(Box<dyn NetBackend>, usize)> {
    let mut network = NETWORK.lock();
    let network = network.get_or_insert_with(|| Network::new(open_card()));
    let port = network.plug(address)?;
    let cable = Cable {
        vm,
        port,
        refused: 0,
    };
    Some((Box::new(cable), port))
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
fn interrupt() -> Concerns {
    if let Some(network) = &mut *NETWORK.lock()
        && let Some(card) = network.uplink()
    {
        card.net.ack_interrupt();
        card.sent();
        network.sort();
    }
    Concerns::Devices
}

/// The ports of guests for which frames have come since this was last asked.
pub fn arrived() -> Ports {
    NETWORK
        .lock()
        .as_mut()
        .map_or(Ports::NONE, Network::arrived)
}
