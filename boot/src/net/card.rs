//! The host's network card, a virtio one (VIRTIO 1.2 5.1, "Network Device"): one queue to receive, one to send.
//!
//! What a guest leaves to be done of its frames, checksums and the division of TCP into segments, is left to this card where it does that
//! (5.1.3, "Feature bits": CSUM, HOST_TSO4, HOST_TSO6), and what it leaves of frames that arrive (GUEST_CSUM, GUEST_TSO4, GUEST_TSO6) to the guest.
//! Nothing is allocated for a frame.

use crate::interrupts::Handler;
use crate::virtio::{self, HostHal, HostTransport};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use device_model::virtio::Features as Feature;
use device_model::virtio::net::Features;
use device_model::virtio::net::header::{self, Header, LEGACY, NEW};
use hv_core::offload::{LARGEST, LONGEST, Offload, Offloads};
use switch::{Address, Uplink};
use virtio_drivers::Result;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::{DeviceType, Transport};

bitflags::bitflags! {
    /// What a card is asked for.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Asked: u64 {
        /// Those features of network cards that are used here.
        const NET = Features::all().difference(Features::STATUS).bits();
        const VERSION_1 = Feature::VERSION_1.bits();
    }
}

/// What a card that offers these features can be asked for.
fn chosen(offered: u64) -> Asked {
    let mut net = Features::from_bits_truncate(offered);
    // The division of frames stands on their checksums (5.1.3.1, "Feature bit requirements").
    if !net.contains(Features::CSUM) {
        net.remove(Features::HOST_TSO4 | Features::HOST_TSO6);
    }
    // A large frame has its place in several buffers only.
    if !net.contains(Features::GUEST_CSUM | Features::MRG_RXBUF) {
        net.remove(Features::GUEST_TSO4 | Features::GUEST_TSO6);
    }
    Asked::from_bits_truncate(net.bits()) | Asked::VERSION_1
}

/// The queues (5.1.2, "Virtqueues").
const RECEIVE: u16 = 0;
const SEND: u16 = 1;
/// Descriptors of each. A buffer is one.
const QUEUE: usize = 64;
/// Bytes of a buffer: the longest frame of a wire and its header.
const BUFFER: usize = 2048;
const _: () = assert!(NEW + LONGEST <= BUFFER);
/// Buffers for frames that the card is to divide.
const LARGE: usize = 8;

/// A buffer that the card may have.
type Buffer = Box<[u8]>;

/// A buffer of so many bytes.
fn buffer(len: usize) -> Buffer {
    vec![0; len].into_boxed_slice()
}

/// The card.
pub struct Card {
    transport: HostTransport,
    receive: VirtQueue<HostHal, QUEUE>,
    send: VirtQueue<HostHal, QUEUE>,
    /// Bytes of the header of a frame.
    header: usize,
    /// What it does of frames that it sends, and what it may leave of those that it receives.
    accepts: Offloads,
    leaves: Offloads,
    /// Buffers that it fills, by the token of the request.
    receiving: [Option<Buffer>; QUEUE],
    /// Buffers that it sends, likewise, with their lengths.
    sending: [Option<(Buffer, usize)>; QUEUE],
    /// Buffers for frames to be sent, and for large ones.
    free: Vec<Buffer>,
    large: Vec<Buffer>,
    /// A frame that has arrived in several buffers. Empty: none does.
    whole: Box<[u8]>,
}

// SAFETY: the transport holds pointers to device registers and queues that belong to this object alone.
unsafe impl Send for Card {}

impl Card {
    /// The host's card, if there is one. `interrupt` is called when frames have arrived or have been sent.
    pub fn open(interrupt: Handler) -> Option<Self> {
        let mut found = virtio::find(DeviceType::Network).into_iter().next()?;
        let Some(by) = found.enable_interrupt(interrupt) else {
            log::warn!(
                "the network card at {} is not used: it has neither MSI-X nor an interrupt line",
                found.function
            );
            return None;
        };
        match Self::new(found.transport) {
            Ok((card, [a, b, c, d, e, f])) => {
                let offloads = [
                    (card.accepts, "checksums", "TCP segments"),
                    (card.leaves, "unfinished checksums", "large frames"),
                ];
                let mut does = alloc::string::String::new();
                for (offloads, checksums, segments) in offloads {
                    for (what, words) in [
                        (Offloads::CHECKSUM, checksums),
                        (Offloads::TCP4 | Offloads::TCP6, segments),
                    ] {
                        if offloads.intersects(what) {
                            does = does + ", " + words;
                        }
                    }
                }
                log::info!(
                    "network card {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}, {by:?} interrupts{does}"
                );
                Some(card)
            }
            Err(error) => {
                log::warn!(
                    "the network card at {} cannot be used: {error}",
                    found.function
                );
                None
            }
        }
    }

    /// The card behind `transport`, and its address.
    fn new(mut transport: HostTransport) -> Result<(Self, Address)> {
        let chosen = chosen(transport.read_device_features());
        let agreed = transport.begin_init(chosen);
        let features = Features::from_bits_truncate(agreed.bits());
        let address = match features.contains(Features::MAC) {
            true => transport.read_consistent(|| transport.read_config_space::<Address>(0))?,
            false => Address::default(),
        };
        let receive = VirtQueue::new(&mut transport, RECEIVE, false, false)?;
        let send = VirtQueue::new(&mut transport, SEND, false, false)?;
        transport.finish_init();
        let (accepts, leaves) = (features.left_to_device(), features.left_to_driver());
        let large = |offloads: Offloads| offloads.intersects(Offloads::TCP4 | Offloads::TCP6);
        let mut card = Self {
            transport,
            receive,
            send,
            header: match agreed.contains(Asked::VERSION_1)
                || features.contains(Features::MRG_RXBUF)
            {
                true => NEW,
                false => LEGACY,
            },
            accepts,
            leaves,
            receiving: [const { None }; QUEUE],
            sending: [const { None }; QUEUE],
            free: (0..QUEUE).map(|_| buffer(BUFFER)).collect(),
            large: (0..if large(accepts) { LARGE } else { 0 })
                .map(|_| buffer(NEW + LARGEST))
                .collect(),
            whole: buffer(if large(leaves) { LARGEST } else { 0 }),
        };
        for _ in 0..QUEUE {
            card.offer(buffer(BUFFER));
        }
        Ok((card, address))
    }

    /// The card has interrupted.
    pub fn acknowledge(&mut self) {
        self.transport.ack_interrupt();
        self.sent();
    }

    /// Gives the card a buffer to fill.
    fn offer(&mut self, mut buffer: Buffer) {
        // SAFETY: the buffer stays where it is, and is not looked at before the request is over.
        let token = unsafe { self.receive.add(&[], &mut [&mut buffer[..]]) };
        if let Ok(token) = token
            && let Some(slot) = self.receiving.get_mut(usize::from(token))
        {
            *slot = Some(buffer);
            if self.receive.should_notify() {
                self.transport.notify(RECEIVE);
            }
        }
    }

    /// Takes the next buffer that the card has filled, and how many bytes of it.
    fn filled(&mut self) -> Option<(Buffer, usize)> {
        let token = self.receive.peek_used()?;
        let slot = self.receiving.get_mut(usize::from(token));
        let mut buffer = slot.and_then(Option::take)?;
        // SAFETY: the buffer is that of the request.
        let done = unsafe { self.receive.pop_used(token, &[], &mut [&mut buffer[..]]) };
        let len = done.map_or(0, |len| len as usize).min(buffer.len());
        Some((buffer, len))
    }

    /// The frame that lies in `count` buffers and begins with `body`. Its buffers are over together (5.1.6.4, "Processing of Incoming Packets"). None:
    /// it is too long.
    fn gather(&mut self, body: &[u8], count: u16) -> Option<&[u8]> {
        let mut end = 0;
        let mut put = |whole: &mut [u8], part: &[u8]| {
            let place = whole.get_mut(end..end + part.len());
            end += part.len();
            if let Some(place) = place {
                place.copy_from_slice(part);
            }
        };
        put(&mut self.whole, body);
        for _ in 1..count {
            let Some((buffer, len)) = self.filled() else {
                break;
            };
            put(&mut self.whole, buffer.get(..len).unwrap_or_default());
            self.offer(buffer);
        }
        self.whole.get(..end)
    }

    /// Takes back the buffers of frames that have been sent.
    fn sent(&mut self) {
        while let Some(token) = self.send.peek_used() {
            let slot = self.sending.get_mut(usize::from(token));
            let Some((buffer, len)) = slot.and_then(Option::take) else {
                return;
            };
            // SAFETY: the buffer is that of the request.
            let _ = unsafe { self.send.pop_used(token, &[&buffer[..len]], &mut []) };
            self.put_back(buffer);
        }
    }

    fn put_back(&mut self, buffer: Buffer) {
        match buffer.len() {
            BUFFER => self.free.push(buffer),
            _ => self.large.push(buffer),
        }
    }

    /// Sends what fits one buffer. With all of them on their way it is lost, as on a busy wire.
    fn send_one(&mut self, frame: &[u8], offload: &Offload) {
        let len = self.header + frame.len();
        let from = match len <= BUFFER {
            true => &mut self.free,
            false => &mut self.large,
        };
        let Some(mut buffer) = from.pop() else {
            return;
        };
        let begun = match buffer.get_mut(..len) {
            Some(to) => {
                let (head, body) = to.split_at_mut(self.header);
                Header::of(offload).write(head);
                body.copy_from_slice(frame);
                // SAFETY: the buffer stays where it is, and is not written before the request is over.
                unsafe { self.send.add(&[&*to], &mut []) }.ok()
            }
            None => None,
        };
        match begun.and_then(|token| self.sending.get_mut(usize::from(token))) {
            Some(slot) => *slot = Some((buffer, len)),
            None => return self.put_back(buffer),
        }
        if self.send.should_notify() {
            self.transport.notify(SEND);
        }
    }
}

impl Uplink for Card {
    fn leaves(&self) -> Offloads {
        self.leaves
    }

    fn receive(&mut self, take: impl FnOnce(&[u8], &Offload)) -> bool {
        let Some((buffer, len)) = self.filled() else {
            return false;
        };
        let bytes = buffer.get(..len).unwrap_or_default();
        let leaves = self.leaves;
        let head = bytes.first_chunk().copied().map(Header::from_bytes);
        let count = header::buffers(bytes, self.header);
        let body = bytes.get(self.header..).unwrap_or_default();
        let frame = match count {
            0 | 1 => Some(body),
            _ => self.gather(body, count),
        };
        if let (Some(head), Some(frame)) = (head, frame)
            && let Some(offload) = head.offload(frame, leaves)
        {
            take(frame, &offload);
        }
        self.offer(buffer);
        true
    }

    fn send(&mut self, frame: &[u8], offload: &Offload) {
        self.sent();
        let room = frame.len() + self.header <= BUFFER || !self.large.is_empty();
        if self.accepts.contains(offload.needs()) && room {
            self.send_one(frame, offload);
        } else {
            offload.finish(frame, &mut |frame| self.send_one(frame, &Offload::NONE));
        }
    }
}
