//! Receiving (317453, "Packet Reception"): a frame that the filter lets through goes into as many of the driver's buffers as it needs.
//!
//! Frames wait outside while the ring has no room for them, and are lost only while the receiver is off or there is no link.

use super::E1000;
use super::filter::Kind;
use super::interrupts::Cause;
use super::offload::{self, Checked};
use super::registers::{Control, ReceiveChecksum, ReceiveControl, offset};
use super::ring::Ring;
use alloc::boxed::Box;
use alloc::vec;
use hv_core::Gpa;
use hv_core::checksum::sum;
use hv_core::device::DevCx;

/// Bytes that there is room for: more than a back end gives, for what comes back in loopback.
const ROOM: usize = 16_384;
/// The shortest frame, to which shorter ones are padded, and the longest that is not long, with a VLAN tag; without check sequence.
const SHORTEST: usize = 60;
const LONGEST: usize = 1518;
/// The longest of the long (RCTL, "Long Packet Reception Enable").
const LONG: usize = 16_384 - FCS;
/// Bytes of the frame check sequence. Nobody has sent one: zeros stand for it.
const FCS: usize = 4;
/// Bytes of a VLAN tag, and where it is.
const TAG: usize = 4;
const TAG_AT: usize = 12;
/// Frames that are moved during one call at most.
const BURST: usize = 64;
/// Pauses (IEEE 802.3 annex 31A).
const PAUSE: [u8; 2] = [0x88, 0x08];

/// Status of a descriptor: done, last of its frame, checksums not looked at, a tag was taken off, checksums looked at, inexact match.
const DD: u8 = 1 << 0;
const EOP: u8 = 1 << 1;
const IXSM: u8 = 1 << 2;
const VP: u8 = 1 << 3;
const TCPCS: u8 = 1 << 5;
const IPCS: u8 = 1 << 6;
const PIF: u8 = 1 << 7;
/// Errors: TCP or UDP, and IP checksum.
const TCPE: u8 = 1 << 5;
const IPE: u8 = 1 << 6;

/// The ring, and the frame that waits for a place in it.
pub(super) struct Receiver {
    pub(super) ring: Ring,
    frame: Box<[u8]>,
    /// Its length. 0: there is none.
    len: usize,
}

/// What a descriptor is told about its frame.
#[derive(Clone, Copy)]
struct Report {
    checksum: u16,
    status: u8,
    errors: u8,
    tag: u16,
}

impl Receiver {
    pub(super) fn new() -> Self {
        Self {
            ring: Ring::default(),
            frame: vec![0; ROOM].into_boxed_slice(),
            len: 0,
        }
    }

    pub(super) fn reset(&mut self) {
        (self.ring, self.len) = (Ring::default(), 0);
    }

    /// Whether a frame waits for descriptors.
    pub(super) fn waits(&self) -> bool {
        self.len != 0
    }

    /// The frame that has arrived, padded.
    fn set(&mut self, len: usize) {
        self.len = len.max(SHORTEST);
        if let Some(padding) = self.frame.get_mut(len..self.len) {
            padding.fill(0);
        }
    }
}

impl E1000 {
    /// Whether frames are taken in from outside.
    fn receives(&self) -> bool {
        self.control_receive.contains(ReceiveControl::EN)
            && self.is_master()
            && self.link
            && !self.loops_back()
    }

    /// Takes frames in. True: there may be more.
    pub(super) fn receive(&mut self, cx: &mut DevCx<'_>) -> bool {
        if !self.receives() {
            // Nobody listens: what is on the wire is lost.
            self.receiver.len = 0;
            return (0..BURST).all(|_| self.net.receive(&mut self.receiver.frame).is_some());
        }
        for _ in 0..BURST {
            if self.receiver.len == 0 {
                let Some(len) = self.net.receive(&mut self.receiver.frame) else {
                    return false;
                };
                self.receiver.set(len);
            }
            if !self.place(cx) {
                // Until the driver adds descriptors.
                return false;
            }
        }
        true
    }

    /// What the card has sent comes back. It is lost where there is no room for it.
    pub(super) fn loop_back(&mut self, cx: &mut DevCx<'_>, frame: &[u8]) {
        let receives = self.control_receive.contains(ReceiveControl::EN);
        if let Some(to) = self.receiver.frame.get_mut(..frame.len())
            && receives
        {
            to.copy_from_slice(frame);
            self.receiver.set(frame.len());
            if !self.place(cx) {
                self.receiver.len = 0;
                self.statistics.missed();
                self.interrupts.raise(Cause::RXO);
            }
        }
    }

    /// Puts the waiting frame into the ring, or drops it if it is not for this card or can never fit. False: there is no room now.
    fn place(&mut self, cx: &mut DevCx<'_>) -> bool {
        let control = self.control_receive;
        let Some(frame) = self.receiver.frame.get(..self.receiver.len) else {
            return true;
        };
        let tagged = frame.get(TAG_AT..TAG_AT + 2) == Some(&self.tag_type()[..]);
        let tag = match frame.get(TAG_AT + 2..TAG_AT + TAG) {
            Some(&[high, low]) => u16::from_be_bytes([high, low]),
            _ => 0,
        };
        let foreign = tagged && control.contains(ReceiveControl::VFE) && !self.filter.has_lan(tag);
        let pause = control.contains(ReceiveControl::DPF) && frame.get(12..14) == Some(&PAUSE);
        let accepted = self.filter.accepts(control, frame);
        let Some(accepted) = accepted.filter(|_| !foreign && !pause) else {
            self.receiver.len = 0;
            return true;
        };
        let longest = if control.contains(ReceiveControl::LPE) {
            LONG
        } else {
            LONGEST
        };
        let kind = Kind::of(frame);
        if frame.len() > longest {
            self.statistics.oversized();
            self.receiver.len = 0;
            return true;
        }
        let strip = tagged && self.control.contains(Control::VME);
        let fcs = if control.contains(ReceiveControl::SECRC) {
            0
        } else {
            FCS
        };
        let len = frame.len() - if strip { TAG } else { 0 };
        let needed = (len + fcs).div_ceil(control.buffer()) as u32;
        if needed > self.receiver.ring.available() {
            if needed < self.receiver.ring.descriptors() {
                return false;
            }
            self.statistics.missed();
            self.receiver.len = 0;
            return true;
        }
        self.statistics.received(kind, self.receiver.len);
        if strip {
            self.receiver
                .frame
                .copy_within(TAG_AT + TAG..self.receiver.len, TAG_AT);
        }
        if let Some(end) = self.receiver.frame.get_mut(len..len + fcs) {
            end.fill(0);
        }
        let mut report = self.report(len);
        if strip {
            report.status |= VP;
            report.tag = tag;
        }
        if accepted.inexact {
            report.status |= PIF;
        }
        self.scatter(cx, len + fcs, report);
        self.receiver.len = 0;
        self.received(cx);
        true
    }

    /// The Ethernet type of VLAN tags.
    pub(super) fn tag_type(&self) -> [u8; 2] {
        (self.kept.read(offset::VET) as u16).to_be_bytes()
    }

    /// What is said about the first `len` bytes.
    fn report(&self, len: usize) -> Report {
        let control = ReceiveChecksum::from_bits_retain(self.kept.read(offset::RXCSUM));
        let frame = self.receiver.frame.get(..len).unwrap_or_default();
        let mut checked = Checked::default();
        if control.intersects(ReceiveChecksum::IPOFL | ReceiveChecksum::TUOFL) {
            checked = offload::check(frame);
        }
        let ip = checked
            .ip
            .filter(|_| control.contains(ReceiveChecksum::IPOFL));
        let transport = checked
            .transport
            .filter(|_| control.contains(ReceiveChecksum::TUOFL));
        let (mut status, mut errors) = (0, 0);
        if ip.is_none() && transport.is_none() {
            status |= IXSM;
        }
        for (result, seen, wrong) in [(ip, IPCS, IPE), (transport, TCPCS, TCPE)] {
            status |= result.map_or(0, |_| seen);
            errors |= result.map_or(0, |right| if right { 0 } else { wrong });
        }
        let start = (control.bits() & 0xff) as usize;
        Report {
            checksum: frame.get(start..).map_or(0, |part| sum(0, part)),
            status,
            errors,
            tag: 0,
        }
    }

    /// Writes `len` bytes into buffers, of which there are enough.
    fn scatter(&mut self, cx: &mut DevCx<'_>, len: usize, report: Report) {
        let bytes = self.receiver.frame.get(..len).unwrap_or_default();
        let mut parts = bytes.chunks(self.control_receive.buffer()).peekable();
        while let Some(part) = parts.next() {
            let Some(at) = self.receiver.ring.next() else {
                return;
            };
            // A descriptor or a buffer that is no memory ends the transfer on the bus, and nothing more.
            if let Ok(buffer) = cx.dma.read_u64(at) {
                let _ = cx.dma.write(Gpa(buffer), part);
                let last = parts.peek().is_none();
                let (status, errors) = match last {
                    true => (report.status | DD | EOP, report.errors),
                    false => (report.status | DD, 0),
                };
                let value = u64::from(part.len() as u16)
                    | u64::from(report.checksum) << 16
                    | u64::from(status) << 32
                    | u64::from(errors) << 40
                    | u64::from(report.tag) << 48;
                let _ = cx.dma.write_value(Gpa(at.0.wrapping_add(8)), 8, value);
            }
            self.receiver.ring.advance();
        }
    }

    /// A frame is in memory: the driver is told now or later.
    fn received(&mut self, cx: &mut DevCx<'_>) {
        if self.receive_delay.event(cx.now) {
            self.interrupts.raise(Cause::RXT0);
        }
        let ring = &self.receiver.ring;
        if ring.available() <= ring.descriptors() >> self.control_receive.threshold() {
            self.interrupts.raise(Cause::RXDMT0);
        }
    }
}
