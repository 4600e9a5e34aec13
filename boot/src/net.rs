//! The host's network card, a virtio one: what the guest's card is plugged into.
//!
//! Frames that arrive wait in the card's own ring of buffers until the guest's card takes them; its interrupt says that there are some.
//! Nothing is allocated for a frame.

use crate::virtio::{self, HostHal, HostTransport};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use hv_core::backend::{NetBackend, NullNet};
use spin::Mutex;
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

static CARD: Mutex<Option<Card>> = Mutex::new(None);
/// The card has interrupted because frames have arrived.
static ARRIVED: AtomicBool = AtomicBool::new(false);

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

/// The guest's end of the cable.
struct Cable;

impl NetBackend for Cable {
    fn send(&mut self, frame: &[u8]) {
        if let Some(card) = &mut *CARD.lock() {
            card.send(frame);
        }
    }

    fn receive(&mut self, buf: &mut [u8]) -> Option<usize> {
        CARD.lock().as_mut()?.receive(buf)
    }
}

/// Plugs the guest into the host's card, if there is one.
pub fn open() -> Box<dyn NetBackend> {
    let Some(mut found) = virtio::find(DeviceType::Network).into_iter().next() else {
        return Box::new(NullNet);
    };
    let Some(by) = found.enable_interrupt(interrupt) else {
        log::warn!(
            "the network card at {} is not used: it has neither MSI-X nor an interrupt line",
            found.function
        );
        return Box::new(NullNet);
    };
    let net = match VirtIONetRaw::new(found.transport) {
        Ok(net) => net,
        Err(error) => {
            log::warn!(
                "the network card at {} cannot be used: {error}",
                found.function
            );
            return Box::new(NullNet);
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
    *CARD.lock() = Some(card);
    Box::new(Cable)
}

/// The card interrupts: frames have arrived, or have been sent.
fn interrupt() {
    if let Some(card) = &mut *CARD.lock() {
        card.net.ack_interrupt();
        card.sent();
        if card.net.poll_receive().is_some() {
            ARRIVED.store(true, Ordering::Relaxed);
        }
    }
}

/// Whether frames have arrived since this was last asked.
pub fn arrived() -> bool {
    ARRIVED.swap(false, Ordering::Relaxed)
}
