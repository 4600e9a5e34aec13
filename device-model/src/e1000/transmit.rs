//! Sending (317453, "Packet Transmission"): descriptors of three kinds say where the parts of a frame are, and what is to be done to it.
//!
//! The ring is walked when the tail moves. A walk is bounded, and goes on soon if it has not come to the end: so a guest whose descriptors say
//! that megabytes are to be sent byte by byte keeps nobody.

use super::E1000;
use super::filter::Kind;
use super::interrupts::Cause;
use super::offload::{Checksum, Context, Segment};
use super::registers::{Control, TransmitControl};
use super::ring::Ring;
use alloc::boxed::Box;
use alloc::vec;
use hv_core::Gpa;
use hv_core::device::DevCx;

/// Bytes of the longest frame, and of a VLAN tag that is put into it.
const LONGEST: usize = 16_288;
const TAG: usize = 4;
const TAG_AT: usize = 12;
/// Bytes of an Ethernet header; of the shortest frame, without check sequence.
const HEADER: usize = 14;
const SHORTEST: usize = 60;
/// Bytes of all headers at most: HDRLEN has eight bits.
const HEADERS: usize = 256;
/// Parts that are looked at during one call at most.
const STEPS: usize = 128;
/// Bytes of a descriptor's status.
const STATUS: u64 = 12;
const DD: u8 = 1;

bitflags::bitflags! {
    /// Commands of a descriptor, and of the legacy kind IC at TSE's place.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Command: u8 {
        /// The last of its frame.
        const EOP = 1 << 0;
        /// The frame is cut into segments; in the legacy kind: a checksum is inserted.
        const TSE = 1 << 2;
        /// The driver wants to know when it is done.
        const RS = 1 << 3;
        /// It is of the extended kinds.
        const DEXT = 1 << 5;
        /// A VLAN tag is put in.
        const VLE = 1 << 6;
        /// Interrupts are put off.
        const IDE = 1 << 7;
        const _ = !0;
    }
}

/// Where the other commands of a context are: TCP, IPv4.
const CONTEXT_TCP: u8 = 1 << 0;
const CONTEXT_IP: u8 = 1 << 1;
/// The type of a data descriptor.
const DATA: u64 = 1;
/// Options of a data descriptor: the checksum of IP, that of TCP or UDP.
const IXSM: u8 = 1 << 0;
const TXSM: u8 = 1 << 1;

/// What a descriptor says.
#[derive(Clone, Copy)]
struct Descriptor {
    command: Command,
    kind: Described,
}

#[derive(Clone, Copy)]
enum Described {
    Context(Context),
    Data {
        buffer: u64,
        len: usize,
        options: u8,
        tag: u16,
    },
    Legacy {
        buffer: u64,
        len: usize,
        checksum: Checksum,
        tag: u16,
    },
}

impl Descriptor {
    fn decode(bytes: [u8; 16]) -> Self {
        let [low, high] = [0, 8].map(|at| {
            let mut half = [0; 8];
            half.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(half)
        });
        let byte = |half: u64, at: u32| (half >> at) as u8;
        let word = |half: u64, at: u32| (half >> at) as u16;
        let command = Command::from_bits_retain(byte(high, 24));
        let checksum = |at: u32| Checksum {
            start: byte(low, at).into(),
            at: byte(low, at + 8).into(),
            last: word(low, at + 16).into(),
        };
        let len = (high & 0xf_ffff) as usize;
        let kind = if !command.contains(Command::DEXT) {
            Described::Legacy {
                buffer: low,
                len: len & 0xffff,
                checksum: Checksum {
                    at: byte(high, 16).into(),
                    start: byte(high, 40).into(),
                    last: 0,
                },
                tag: word(high, 48),
            }
        } else if high >> 20 & 0xf == DATA {
            Described::Data {
                buffer: low,
                len,
                options: byte(high, 40),
                tag: word(high, 48),
            }
        } else {
            Described::Context(Context {
                ip: checksum(0),
                transport: checksum(32),
                tcp: command.bits() & CONTEXT_TCP != 0,
                ipv4: command.bits() & CONTEXT_IP != 0,
                header: byte(high, 40).into(),
                segment: word(high, 48).into(),
            })
        };
        Self { command, kind }
    }
}

/// The frame that is being put together.
#[derive(Clone, Copy, Default)]
struct Packet {
    /// Bytes that have been read of it: of a segmented one, since its headers.
    len: usize,
    /// Bytes that have been read of the descriptor.
    done: usize,
    begun: bool,
    /// It cannot be sent.
    lost: bool,
    segmented: bool,
    options: u8,
    segment: Segment,
}

/// The ring, and what is on the way.
pub(super) struct Transmitter {
    pub(super) ring: Ring,
    frame: Box<[u8]>,
    /// The headers of a segmented frame.
    headers: [u8; HEADERS],
    packet: Packet,
    /// The contexts: for frames as they are, and for those that are cut.
    contexts: [Context; 2],
}

impl Transmitter {
    pub(super) fn new() -> Self {
        Self {
            ring: Ring::default(),
            frame: vec![0; LONGEST + TAG].into_boxed_slice(),
            headers: [0; HEADERS],
            packet: Packet::default(),
            contexts: [Context::default(); 2],
        }
    }

    pub(super) fn reset(&mut self) {
        self.ring = Ring::default();
        self.packet = Packet::default();
        self.contexts = [Context::default(); 2];
    }

    /// Where the driver has put the head is where the next frame begins.
    pub(super) fn forget_packet(&mut self) {
        self.packet = Packet::default();
    }
}

impl E1000 {
    /// Whether the ring may be looked at.
    fn sends(&self) -> bool {
        self.control_transmit.contains(TransmitControl::EN) && self.is_master()
    }

    /// Walks the ring. True: there is more.
    pub(super) fn transmit(&mut self, cx: &mut DevCx<'_>) -> bool {
        let mut any = false;
        for _ in 0..STEPS {
            if !self.sends() {
                return false;
            }
            let Some(at) = self.transmitter.ring.next() else {
                if any {
                    self.interrupts.raise(Cause::TXQE);
                }
                return false;
            };
            any = true;
            let mut bytes = [0; 16];
            if cx.dma.read(at, &mut bytes).is_err() {
                // It is no memory: there is nothing to be sent.
                self.transmitter.ring.advance();
                continue;
            }
            let descriptor = Descriptor::decode(bytes);
            if self.take(cx, &descriptor) {
                self.transmitter.packet.done = 0;
                self.transmitter.ring.advance();
                self.write_back(cx, at, descriptor.command);
            }
        }
        true
    }

    /// Takes a descriptor, or a part of it. True: all of it.
    fn take(&mut self, cx: &mut DevCx<'_>, descriptor: &Descriptor) -> bool {
        let command = descriptor.command;
        let (buffer, len, options, tag) = match descriptor.kind {
            Described::Context(context) => {
                let cut = command.contains(Command::TSE);
                self.transmitter.contexts[usize::from(cut)] = context;
                return true;
            }
            Described::Data {
                buffer,
                len,
                options,
                tag,
            } => (buffer, len, options, tag),
            Described::Legacy {
                buffer, len, tag, ..
            } => (buffer, len, 0, tag),
        };
        let extended = command.contains(Command::DEXT);
        let packet = &mut self.transmitter.packet;
        if !packet.begun {
            packet.begun = true;
            packet.segmented = extended && command.contains(Command::TSE);
            packet.options = options;
        }
        if !self.gather(cx, buffer, len) {
            return false;
        }
        if command.contains(Command::EOP) {
            let checksum = match descriptor.kind {
                Described::Legacy { checksum, .. } if command.contains(Command::TSE) => {
                    Some(checksum)
                }
                _ => None,
            };
            let tag = command.contains(Command::VLE).then_some(tag);
            self.finish(cx, checksum, tag);
        }
        true
    }

    /// Reads what the frame has room for of `len` bytes at `buffer`. True: all of them are read.
    fn gather(&mut self, cx: &mut DevCx<'_>, buffer: u64, len: usize) -> bool {
        let cut = self.transmitter.contexts[1];
        let packet = &self.transmitter.packet;
        let room = match packet.segmented {
            true => cut.header + cut.segment,
            false => LONGEST,
        };
        let impossible = packet.segmented && (cut.segment == 0 || room > LONGEST);
        let left = len.saturating_sub(packet.done);
        if left == 0 {
            return true;
        }
        if packet.segmented && packet.len == room && !impossible && !packet.lost {
            // There is more behind what is a whole segment.
            self.send_segment(cx, false, None);
        }
        let Transmitter { frame, packet, .. } = &mut self.transmitter;
        let n = left.min(room.saturating_sub(packet.len));
        if impossible || packet.lost || n == 0 {
            packet.lost = true;
            return true;
        }
        let at = Gpa(buffer.wrapping_add(packet.done as u64));
        let to = frame.get_mut(packet.len..packet.len + n);
        if to.is_none_or(|to| cx.dma.read(at, to).is_err()) {
            packet.lost = true;
            return true;
        }
        packet.len += n;
        packet.done += n;
        packet.done == len
    }

    /// The last descriptor of a frame is read.
    fn finish(&mut self, cx: &mut DevCx<'_>, checksum: Option<Checksum>, tag: Option<u16>) {
        let packet = self.transmitter.packet;
        if packet.segmented {
            let headers = self.transmitter.contexts[1].header;
            let good = !packet.lost && packet.len >= headers;
            if good {
                self.send_segment(cx, true, tag);
            }
            self.statistics.segmented(good);
        } else if !packet.lost {
            let context = self.transmitter.contexts[0];
            if let Some(frame) = self.transmitter.frame.get_mut(..packet.len) {
                insert(frame, packet.options, &context);
                if let Some(checksum) = checksum {
                    checksum.insert(frame, false);
                }
            }
            self.emit(cx, packet.len, tag);
        }
        self.transmitter.packet = Packet::default();
    }

    /// What has been read is a segment: it is sent, and the next begins behind the headers.
    fn send_segment(&mut self, cx: &mut DevCx<'_>, last: bool, tag: Option<u16>) {
        let Transmitter {
            frame,
            headers,
            packet,
            contexts,
            ..
        } = &mut self.transmitter;
        let (context, len, options) = (contexts[1], packet.len, packet.options);
        if let (Some(frame), Some(kept)) = (
            frame.get_mut(..context.header),
            headers.get_mut(..context.header),
        ) {
            if packet.segment.number == 0 {
                kept.copy_from_slice(frame);
            } else {
                frame.copy_from_slice(kept);
            }
        }
        packet.segment.last = last;
        if let Some(frame) = frame.get_mut(..len) {
            context.cut(frame, packet.segment);
            insert(frame, options, &context);
        }
        let payload = len.saturating_sub(context.header) as u32;
        packet.segment.number = packet.segment.number.wrapping_add(1);
        packet.segment.offset = packet.segment.offset.wrapping_add(payload);
        packet.len = context.header;
        self.emit(cx, len, tag);
    }

    /// Sends the first `len` bytes.
    fn emit(&mut self, cx: &mut DevCx<'_>, len: usize, tag: Option<u16>) {
        let mut frame = core::mem::take(&mut self.transmitter.frame);
        let mut len = len;
        if let Some(tag) = tag
            && self.control.contains(Control::VME)
            && len >= HEADER
        {
            frame.copy_within(TAG_AT..len, TAG_AT + TAG);
            len += TAG;
            let [a, b] = self.tag_type();
            let [c, d] = tag.to_be_bytes();
            frame[TAG_AT..TAG_AT + TAG].copy_from_slice(&[a, b, c, d]);
        }
        if self.control_transmit.contains(TransmitControl::PSP)
            && let Some(padding) = frame.get_mut(len..SHORTEST)
        {
            padding.fill(0);
            len = SHORTEST;
        }
        // What is no frame gets nowhere, as on a wire.
        let whole = frame.get(..len).filter(|whole| whole.len() >= HEADER);
        let loops = self.loops_back();
        if let Some(whole) = whole.filter(|_| loops || self.link) {
            self.statistics.sent(Kind::of(whole), len);
            if loops {
                self.loop_back(cx, whole);
            } else {
                self.net.send(whole);
            }
        }
        self.transmitter.frame = frame;
    }

    /// Tells the driver that a descriptor is done, if it wants to know.
    fn write_back(&mut self, cx: &mut DevCx<'_>, at: Gpa, command: Command) {
        if !command.contains(Command::RS) {
            return;
        }
        let _ = cx.dma.write(Gpa(at.0.wrapping_add(STATUS)), &[DD]);
        if !command.contains(Command::IDE) || self.transmit_delay.event(cx.now) {
            self.interrupts.raise(Cause::TXDW);
        }
    }
}

/// Inserts the checksums that `options` ask for.
fn insert(frame: &mut [u8], options: u8, context: &Context) {
    if options & TXSM != 0 {
        context.transport.insert(frame, !context.tcp);
    }
    if options & IXSM != 0 {
        context.ip.insert(frame, false);
    }
}
