//! Receiving: the address filter and the ring of 256-byte pages. DP8390D 7.0, "Packet Reception".
//!
//! The ring is pages PSTART to PSTOP (exclusive). The card writes from CURR on and never reaches BNRY, the page that the
//! driver will read next; CURR equal to BNRY therefore is an empty ring. The page before the ring stands for its last page: drivers that keep
//! BNRY one page behind what they read next do not all let it go around (Linux's `ei_receive` does not). Any other BNRY outside the ring
//! (ReactOS begins with 0) is never reached.
//!
//! Frames come in bursts, each with one interrupt (PRX), and a new burst only when the driver has acknowledged that, and has had
//! a moment to leave its interrupt handler; until then they wait outside, as IEEE 802.3x flow control has it. The
//! reason is that a driver may read first, a bounded number of frames, and then acknowledge all (Linux's `ei_receive`
//! does): of a frame that had come in meanwhile it would not be told again, and if that frame keeps the next ones out, never. On a wire
//! of 10 Mbit/s frames are too far apart for that. A driver that polls need not acknowledge: for it a burst begins when it
//! has read all of the last one for a moment.

use super::Ne2k;
use super::memory::{FRAME_MAX, FRAME_MIN, Memory, PAGE};
use super::registers::{Interrupts, ReceiveConfig, ReceiveStatus, Registers};
use alloc::boxed::Box;
use hv_core::device::DevCx;
use hv_core::time::VmTime;

/// Bytes before a frame in the ring: status, next page, length.
const HEADER: usize = 4;
/// Bytes of the frame check sequence.
const FCS: usize = 4;
/// Length of the buffer for one frame, as [`NetBackend`](hv_core::backend::NetBackend) wants it or more.
const STAGE: usize = 1536;
/// Most frames taken from the back end in one go when nobody listens.
const DISCARD: usize = 64;
/// Most frames in a burst: no more than drivers read before they acknowledge. Linux reads nine; the ring of an RTL8029AS
/// has room for as many of full length.
const BURST: usize = 8;
/// Most frames looked at for a burst; those that are not for this card are no part of it.
const LOOK: usize = 64;
/// How long the virtual CPU runs between an acknowledgement, or the end of the reading, and the next burst.
const PAUSE: VmTime = VmTime::from_micros(50);

/// When the next burst may come in.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Pace {
    /// A moment after the last acknowledgement.
    earliest: VmTime,
    /// A moment after the driver has read all frames, if it has.
    read: Option<VmTime>,
}

impl Pace {
    /// The driver has acknowledged PRX.
    pub(super) fn acknowledged(&mut self, now: VmTime) {
        self.earliest = now + PAUSE;
    }

    /// The driver has moved the boundary, and has read all frames at `now`, or has not.
    pub(super) fn emptied(&mut self, now: Option<VmTime>) {
        self.read = now.map(|now| now + PAUSE);
    }

    /// When a burst may begin if nothing more is heard of the driver. None: not before it is.
    fn next(&self, pending: bool) -> Option<VmTime> {
        if pending {
            self.read.map(|read| read.max(self.earliest))
        } else {
            Some(self.earliest)
        }
    }
}

/// A frame that has arrived but has no place in the ring yet.
pub(super) struct Stage {
    bytes: Box<[u8; STAGE]>,
    /// Length of the frame; 0: there is none.
    len: usize,
}

impl Stage {
    pub(super) fn new() -> Self {
        Self {
            bytes: Box::new([0; STAGE]),
            len: 0,
        }
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Replaces the staged frame by `frame`.
    pub(super) fn load(&mut self, frame: &[u8]) {
        self.set(frame.len(), |to| {
            for (to, from) in to.iter_mut().zip(frame) {
                *to = *from;
            }
        });
    }

    /// `fill` stores a frame of `len` bytes. Short frames are padded; what cannot be a frame is not staged.
    fn set(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) {
        self.len = 0;
        if !(6..=FRAME_MAX).contains(&len) {
            return;
        }
        fill(&mut self.bytes[..]);
        self.len = len.max(FRAME_MIN);
        self.bytes[len..self.len].fill(0);
    }

    fn frame(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// The bit of the multicast filter for `address`: the upper six bits of its CRC. DP8390D 10.0, "Internal
/// Registers".
pub(super) fn multicast_bit(address: &[u8]) -> u8 {
    let mut crc = u32::MAX;
    for byte in address {
        for bit in 0..8 {
            let feedback = (crc >> 31 != 0) != (byte >> bit & 1 != 0);
            crc = crc << 1 ^ if feedback { 0x04c1_1db7 } else { 0 };
        }
    }
    (crc >> 26) as u8
}

impl Registers {
    /// Whether the card takes a frame to `destination`, and what it notes about it.
    fn accepts(&self, destination: &[u8]) -> Option<ReceiveStatus> {
        let group = destination.first().is_some_and(|b| b & 1 != 0);
        let accepted = if self.rcr.contains(ReceiveConfig::PRO) {
            true
        } else if destination.iter().all(|&b| b == 0xff) {
            self.rcr.contains(ReceiveConfig::AB)
        } else if group {
            let bit = multicast_bit(destination);
            self.rcr.contains(ReceiveConfig::AM)
                && self.multicast[usize::from(bit >> 3)] >> (bit & 7) & 1 != 0
        } else {
            destination == self.station
        };
        let status = if group {
            ReceiveStatus::PRX | ReceiveStatus::PHY
        } else {
            ReceiveStatus::PRX
        };
        accepted.then_some(status)
    }

    /// Pages of the ring; 0 if the registers describe none.
    fn ring_pages(&self) -> u8 {
        let sound = Memory::has_pages(self.page_start, self.page_stop)
            && (self.page_start..self.page_stop).contains(&self.current);
        if sound {
            self.page_stop - self.page_start
        } else {
            0
        }
    }

    /// The boundary as a page of the ring, if it is one.
    fn boundary_page(&self) -> Option<u8> {
        if self.boundary.checked_add(1) == Some(self.page_start) {
            return self.page_stop.checked_sub(1);
        }
        (self.page_start..self.page_stop)
            .contains(&self.boundary)
            .then_some(self.boundary)
    }

    /// Whether the driver has read all frames, by either way of keeping the boundary: at the next frame, or at the page before it.
    pub(super) fn ring_is_read(&self) -> bool {
        let behind = |page: u8| {
            if page + 1 >= self.page_stop {
                self.page_start
            } else {
                page + 1
            }
        };
        self.ring_pages() == 0
            || self
                .boundary_page()
                .is_none_or(|boundary| boundary == self.current || behind(boundary) == self.current)
    }

    /// Pages that can be written before the boundary is reached.
    fn free_pages(&self) -> u8 {
        let pages = self.ring_pages();
        match self.boundary_page() {
            Some(boundary) if pages != 0 && boundary > self.current => boundary - self.current,
            Some(boundary) if pages != 0 => pages.saturating_sub(self.current - boundary),
            _ => pages,
        }
    }
}

/// How a burst has ended.
enum Burst {
    /// There are no more frames.
    All,
    /// There may be more, which wait for the driver, or until then.
    Until(Option<VmTime>),
}

impl Ne2k {
    /// Takes frames from the back end into the ring. Returns when to come again.
    pub(super) fn receive(&mut self, cx: &mut DevCx<'_>) -> Option<VmTime> {
        if !self.regs.running() || self.regs.loopback() {
            self.stage.clear();
            // Nobody listens: what is on the wire is lost.
            for _ in 0..DISCARD {
                self.net.receive(&mut self.stage.bytes[..])?;
            }
            return None;
        }
        let again = match self.burst(cx.now) {
            Burst::All => self.interval.map(|interval| cx.now + interval),
            Burst::Until(at) => at,
        };
        if let Some(at) = again {
            cx.requests.wake_at(at);
        }
        again
    }

    /// Takes a burst of frames into the ring, if it may.
    fn burst(&mut self, now: VmTime) -> Burst {
        let begin = self.pace.next(self.regs.receipt_is_pending());
        let mut placed = 0;
        for _ in 0..LOOK {
            if self.stage.len == 0 {
                let Some(len) = self.net.receive(&mut self.stage.bytes[..]) else {
                    return Burst::All;
                };
                self.stage.set(len, |_| {});
                continue;
            }
            if placed == 0 && begin.is_none_or(|begin| now < begin) {
                return Burst::Until(begin);
            }
            let current = self.regs.current;
            if placed == BURST {
                // Until the driver has acknowledged.
                return Burst::Until(None);
            }
            if !self.place_staged() {
                // Until the driver has moved the boundary. It may have acknowledged frames that it left in the ring, as Linux does after
                // twelve rounds in its interrupt handler; then it has to be told of them again, or would wait for ever. On a wire
                // the next frame would overflow the ring, and that interrupts.
                self.regs.signal(Interrupts::PRX);
                return Burst::Until(None);
            }
            if self.regs.current != current {
                placed += 1;
                self.pace.emptied(None);
            }
        }
        Burst::Until(Some(now + PAUSE))
    }

    /// Puts the staged frame into the ring, or drops it if it is not for this card or can never fit. False: there is no room
    /// now, and it stays.
    pub(super) fn place_staged(&mut self) -> bool {
        let frame = self.stage.frame();
        let regs = &mut self.regs;
        let Some(status) = frame
            .get(..6)
            .and_then(|destination| regs.accepts(destination))
        else {
            self.stage.clear();
            return true;
        };
        if regs.rcr.contains(ReceiveConfig::MON) {
            regs.rsr = status | ReceiveStatus::DIS;
            self.stage.clear();
            return true;
        }
        let len = frame.len() + FCS;
        let pages = (HEADER + len).div_ceil(PAGE) as u8;
        if pages >= regs.ring_pages() {
            self.stage.clear();
            return true;
        }
        if pages >= regs.free_pages() {
            return false;
        }
        let mut next = regs.current + pages;
        if next >= regs.page_stop {
            next -= regs.page_stop - regs.page_start;
        }
        let [low, high, ..] = len.to_le_bytes();
        let start = usize::from(regs.page_start) * PAGE;
        let stop = usize::from(regs.page_stop) * PAGE;
        let mut at = usize::from(regs.current) * PAGE;
        for part in [&[status.bits(), next, low, high], frame, &[0; FCS]] {
            let (first, second) = part.split_at(part.len().min(stop - at));
            self.memory.write(at as u16, first);
            at += first.len();
            if at == stop {
                at = start;
            }
            self.memory.write(at as u16, second);
            at += second.len();
        }
        regs.current = next;
        regs.rsr = status;
        regs.signal(Interrupts::PRX);
        self.stage.clear();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multicast_bits_are_those_of_the_ethernet_crc() {
        // 01:00:5e:00:00:01, the group of all IPv4 hosts.
        assert_eq!(multicast_bit(&[1, 0, 0x5e, 0, 0, 1]), 31);
        assert_eq!(multicast_bit(&[0x33, 0x33, 0, 0, 0, 1]), 62);
    }

    #[test]
    fn free_pages_for_every_ring_never_exceed_the_ring() {
        for start in (0..=255).step_by(5) {
            for stop in (0..=255).step_by(5) {
                for current in (0..=255).step_by(3) {
                    for boundary in (0..=255).step_by(3) {
                        let mut r = Registers::default();
                        (r.page_start, r.page_stop, r.current, r.boundary) =
                            (start, stop, current, boundary);
                        assert!(r.free_pages() <= r.ring_pages());
                    }
                }
            }
        }
    }
}
