//! Virtio network devices (VIRTIO 1.2 5.1, "Network Device") on a [`NetBackend`]: one queue to receive, one to send.
//!
//! Frames wait outside until the driver has a buffer for them. What it sends is over at once. A driver that sends frame after frame is not
//! asked to tell of each: for `POLL` after one that came soon after another, the queue is looked at without being told.
//!
//! Checksums and the division of TCP into segments may be left to the device, and to the driver; what that comes to is decided outside
//! ([`Offload`](hv_core::offload::Offload)). Received frames may lie in several buffers. Frames whose header does not fit them go nowhere.
//!
//! Not there: explicit congestion notification in divided frames, UDP's segments, the control queue (the switch outside knows the card's
//! address, and hands it nothing else but broadcasts and multicasts), several pairs of queues.

pub mod header;

use super::queue::{Chain, Fault, Queue, chain};
use super::{CONFIG, DeviceType, Features as All, Kind, Queues};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use header::{Header, LEGACY, NEW};
use hv_core::backend::NetBackend;
use hv_core::device::DevCx;
use hv_core::mem::GuestMemory;
use hv_core::offload::{LARGEST, Offloads};
use hv_core::time::VmTime;

bitflags::bitflags! {
    /// Features of network devices (5.1.3, "Feature bits").
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Features: u64 {
        /// The device completes checksums.
        const CSUM = 1 << 0;
        /// The driver does.
        const GUEST_CSUM = 1 << 1;
        /// There is an address.
        const MAC = 1 << 5;
        /// The driver takes TCP over IPv4 that is not divided into segments.
        const GUEST_TSO4 = 1 << 7;
        /// And over IPv6.
        const GUEST_TSO6 = 1 << 8;
        /// The device takes such over IPv4.
        const HOST_TSO4 = 1 << 11;
        /// And over IPv6.
        const HOST_TSO6 = 1 << 12;
        /// A received frame may lie in several buffers.
        const MRG_RXBUF = 1 << 15;
        /// There is a link status.
        const STATUS = 1 << 16;
    }
}

impl Features {
    /// What may be left to the device by those of them that were agreed on.
    #[must_use]
    pub fn left_to_device(self) -> Offloads {
        self.left(Self::CSUM, Self::HOST_TSO4, Self::HOST_TSO6)
    }

    /// What may be left to the driver.
    #[must_use]
    pub fn left_to_driver(self) -> Offloads {
        self.left(Self::GUEST_CSUM, Self::GUEST_TSO4, Self::GUEST_TSO6)
    }

    /// Division needs checksums (5.1.3.1, "Feature bit requirements").
    fn left(self, checksum: Self, tcp4: Self, tcp6: Self) -> Offloads {
        let mut left = Offloads::empty();
        if self.contains(checksum) {
            left |= Offloads::CHECKSUM;
            left.set(Offloads::TCP4, self.contains(tcp4));
            left.set(Offloads::TCP6, self.contains(tcp6));
        }
        left
    }
}

/// The link is up (5.1.4, "Device configuration layout").
const LINK_UP: u16 = 1;

/// The queues (5.1.2).
const RECEIVE: usize = 0;
const SEND: usize = 1;
/// The shortest frame (IEEE 802.3 3.1.1).
const SHORTEST: usize = 14;

/// Frames that are moved during one call, each way, at most, and their bytes.
const BURST: usize = 64;
const BYTES: usize = 256 << 10;
/// For how long a queue is looked at without being told, and how soon after one frame another has to come for that.
const POLL: VmTime = VmTime::from_micros(100);

/// Chains with room for the next frame that arrives. Those behind the first `count` are spare.
#[derive(Default)]
struct Vacant {
    chains: Vec<Chain>,
    count: usize,
    room: usize,
}

impl Vacant {
    /// Buffers of a frame at most: as many as a queue has.
    const MOST: usize = super::queue::LARGEST as usize;

    /// Takes one more from the queue. False: there is none, and the driver is asked to tell of one.
    fn more(&mut self, memory: &dyn GuestMemory, queue: &mut Queue) -> Result<bool, Fault> {
        if self.count == Self::MOST {
            return Err(Fault::Request);
        }
        if self.count == self.chains.len() {
            self.chains.try_reserve(1).map_err(|_| Fault::NoMemory)?;
            self.chains.push(Chain::default());
        }
        let Some(chain) = self.chains.get_mut(self.count) else {
            return Ok(false);
        };
        if !queue.pop_or_ask(memory, chain)? {
            return Ok(false);
        }
        self.count += 1;
        self.room += chain::len(chain.writable());
        Ok(true)
    }

    /// Writes `bytes` into them, one behind the other, and gives them back.
    fn fill(
        &mut self,
        memory: &dyn GuestMemory,
        queue: &mut Queue,
        bytes: &[u8],
    ) -> Result<(), Fault> {
        let chains = self.chains.get(..self.count).unwrap_or_default();
        let mut rest = bytes;
        for chain in chains {
            let written = chain::write(memory, chain.writable(), 0, rest)?;
            rest = rest.get(written..).unwrap_or_default();
        }
        let mut left = bytes.len();
        queue.push_all(
            memory,
            chains.iter().map(|chain| {
                let written = left.min(chain::len(chain.writable()));
                left -= written;
                (chain, written as u32)
            }),
        )?;
        self.clear();
        Ok(())
    }

    fn clear(&mut self) {
        (self.count, self.room) = (0, 0);
    }
}

/// A network card.
pub struct Net {
    cable: Box<dyn NetBackend>,
    mac: [u8; 6],
    agreed: Features,
    header: usize,
    /// A header and a frame that has arrived, and how long both are; 0: none has.
    incoming: Box<[u8]>,
    arrived: usize,
    vacant: Vacant,
    /// A frame to be sent.
    outgoing: Box<[u8]>,
    sending: Chain,
    /// When the driver has sent last.
    sent: Option<VmTime>,
    /// Until when the driver need not tell of what it sends.
    polls: Option<VmTime>,
}

impl Net {
    /// A card with this address at the end of `cable`.
    #[must_use]
    pub fn new(mac: [u8; 6], cable: Box<dyn NetBackend>) -> Self {
        Self {
            cable,
            mac,
            agreed: Features::empty(),
            header: NEW,
            incoming: vec![0; NEW + LARGEST].into_boxed_slice(),
            arrived: 0,
            vacant: Vacant::default(),
            outgoing: vec![0; LARGEST].into_boxed_slice(),
            sending: Chain::default(),
            sent: None,
            polls: None,
        }
    }

    /// Takes the next frame that has arrived, with its header, if there is one.
    fn take(&mut self) -> bool {
        let (head, frame) = self.incoming.split_at_mut(self.header);
        let Some((len, offload)) = self.cable.receive_unfinished(frame) else {
            return false;
        };
        Header::of(&offload).write(head);
        self.arrived = self.header + len;
        true
    }

    /// Fills the driver's buffers with what has arrived. True: there may be more.
    fn receive(&mut self, memory: &dyn GuestMemory, queues: &mut Queues) -> Result<bool, Fault> {
        let Some(Some(queue)) = queues.get_mut(RECEIVE) else {
            return Ok(false);
        };
        let merges = self.agreed.contains(Features::MRG_RXBUF);
        let mut bytes = 0;
        for _ in 0..BURST {
            if self.vacant.count == 0 && !self.vacant.more(memory, queue)? {
                return Ok(false);
            }
            if self.arrived == 0 && !self.take() {
                // There is a buffer for the next: nothing is to be told.
                queue.ask_for_kicks(memory, false)?;
                return Ok(false);
            }
            while self.vacant.room < self.arrived {
                // The driver has to have room for the longest (5.1.6.3.1, "Driver Requirements: Setting Up Receive Buffers").
                if !merges {
                    return Err(Fault::Request);
                }
                if !self.vacant.more(memory, queue)? {
                    return Ok(false);
                }
            }
            let whole = self.incoming.get_mut(..self.arrived).unwrap_or_default();
            header::set_buffers(whole, self.header, self.vacant.count as u16);
            self.vacant.fill(memory, queue, whole)?;
            bytes += core::mem::take(&mut self.arrived);
            if bytes >= BYTES {
                break;
            }
        }
        Ok(true)
    }

    /// Sends what is in the queue, and says how many frames it was, and whether there may be more.
    fn send(
        &mut self,
        memory: &dyn GuestMemory,
        queues: &mut Queues,
    ) -> Result<(usize, bool), Fault> {
        let Some(Some(queue)) = queues.get_mut(SEND) else {
            return Ok((0, false));
        };
        let takes = self.agreed.left_to_device();
        let mut bytes = 0;
        for n in 0..BURST {
            if bytes >= BYTES {
                return Ok((n, true));
            }
            if !queue.pop(memory, &mut self.sending)? {
                return Ok((n, false));
            }
            let parts = self.sending.readable();
            let len = chain::len(parts)
                .checked_sub(self.header)
                .ok_or(Fault::Request)?;
            let header = Header::read(memory, parts)?;
            // What is no frame gets nowhere, as on a wire.
            if (SHORTEST..=header.longest(takes)).contains(&len) {
                let frame = self.outgoing.get_mut(..len).unwrap_or_default();
                chain::read(memory, parts, self.header, frame)?;
                if let Some(offload) = header.offload(frame, takes) {
                    self.cable.send_unfinished(frame, &offload);
                }
                bytes += len;
            }
            queue.push(memory, &self.sending, 0)?;
        }
        Ok((BURST, true))
    }

    /// Sends, and decides whether the driver is to tell of the next frame. Returns when the queue is looked at without that.
    fn serve(&mut self, cx: &mut DevCx<'_>, queues: &mut Queues) -> Result<Option<VmTime>, Fault> {
        let soon = self.sent.is_some_and(|sent| cx.now < sent + POLL);
        let (count, more) = self.send(cx.dma, queues)?;
        if count != 0 {
            self.sent = Some(cx.now);
            if soon {
                self.polls = Some(cx.now + POLL);
            }
        }
        if more {
            return Ok(Some(cx.now));
        }
        self.polls = self.polls.filter(|&until| cx.now < until);
        let Some(Some(queue)) = queues.get_mut(SEND) else {
            return Ok(None);
        };
        let more = queue.ask_for_kicks(cx.dma, self.polls.is_none())?;
        Ok(if more { Some(cx.now) } else { self.polls })
    }
}

impl DeviceType for Net {
    fn kind(&self) -> Kind {
        Kind {
            name: "virtio-net",
            id: 1,
            pci_device: 0x1000,
            class: 0x02_0000,
        }
    }

    fn features(&self) -> u64 {
        Features::all().bits()
    }

    fn queues(&self) -> usize {
        2
    }

    fn config(&self) -> [u8; CONFIG] {
        let mut config = [0; CONFIG];
        let bytes = self.mac.into_iter().chain(LINK_UP.to_le_bytes());
        config.iter_mut().zip(bytes).for_each(|(b, v)| *b = v);
        config
    }

    fn agree(&mut self, features: u64) {
        self.agreed = Features::from_bits_truncate(features);
        let version_1 = All::from_bits_truncate(features).contains(All::VERSION_1);
        let merges = self.agreed.contains(Features::MRG_RXBUF);
        self.header = if version_1 || merges { NEW } else { LEGACY };
        self.cable.accept(self.agreed.left_to_driver());
    }

    fn run(&mut self, cx: &mut DevCx<'_>, queues: &mut Queues) -> Result<Option<VmTime>, Fault> {
        let next = self.serve(cx, queues)?;
        let more = self.receive(cx.dma, queues)?;
        Ok(if more { Some(cx.now) } else { next })
    }

    fn reset(&mut self, _memory: &dyn GuestMemory) {
        self.vacant.clear();
        (self.arrived, self.sent, self.polls) = (0, None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::queue::{Agreed, Queue};
    use crate::virtio::testing::Driver;
    use alloc::collections::VecDeque;
    use alloc::sync::Arc;
    use hv_core::Gpa;
    use hv_core::offload::{Checksum, Ip, Offload};
    use hv_core::testing::Bench;
    use std::sync::Mutex;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const BUFFERS: u64 = 0x1_0000;

    #[derive(Clone, Default)]
    struct Wire {
        arriving: Arc<Mutex<VecDeque<Vec<u8>>>>,
        sent: Arc<Mutex<Vec<Vec<u8>>>>,
        unfinished: Arc<Mutex<Vec<Offload>>>,
        accepted: Arc<Mutex<Offloads>>,
        /// What is left of those that arrive.
        left: Arc<Mutex<Offload>>,
    }

    impl NetBackend for Wire {
        fn send(&mut self, frame: &[u8]) {
            self.sent.lock().unwrap().push(frame.to_vec());
        }
        fn receive(&mut self, buf: &mut [u8]) -> Option<usize> {
            let frame = self.arriving.lock().unwrap().pop_front()?;
            buf[..frame.len()].copy_from_slice(&frame);
            Some(frame.len())
        }
        fn send_unfinished(&mut self, frame: &[u8], offload: &Offload) {
            self.unfinished.lock().unwrap().push(*offload);
            self.send(frame);
        }
        fn accept(&mut self, offloads: Offloads) {
            *self.accepted.lock().unwrap() = offloads;
        }
        fn receive_unfinished(&mut self, buf: &mut [u8]) -> Option<(usize, Offload)> {
            let left = *self.left.lock().unwrap();
            self.receive(buf).map(|len| (len, left))
        }
    }

    struct Rig {
        net: Net,
        wire: Wire,
        bench: Bench,
        drivers: [Driver; 2],
        queues: [Option<Queue>; 2],
    }

    impl Rig {
        fn new(features: u64) -> Self {
            let (bench, wire) = (Bench::new(), Wire::default());
            let mut net = Net::new(MAC, Box::new(wire.clone()));
            net.agree(features);
            let drivers =
                [0x8_0000, 0xa_0000].map(|at| Driver::new(&bench.mem, at, 16, Agreed::default()));
            let queues = [0, 1].map(|n| Some(Queue::new(drivers[n].place, Agreed::default())));
            Self {
                net,
                wire,
                bench,
                drivers,
                queues,
            }
        }

        fn run(&mut self) -> Result<Option<VmTime>, Fault> {
            self.net.run(&mut self.bench.cx(), &mut self.queues)
        }

        fn send(&mut self, n: u64, frame: &[u8], header: u32) {
            let at = BUFFERS + n * 0x1000;
            self.bench.mem.write(Gpa(at), &[0xff; 12]).unwrap();
            self.bench.mem.write(Gpa(at + 0x100), frame).unwrap();
            let parts = [(at, header, false), (at + 0x100, frame.len() as u32, false)];
            self.drivers[1].add(&parts, false);
        }
    }

    #[test]
    fn frames_are_sent_without_their_header_whatever_version_it_has() {
        for (features, header) in [(1 << 32, 12), (0, 10)] {
            let mut rig = Rig::new(features);
            rig.send(0, &[7; 60], header);
            rig.send(1, &[8; 1518], header);
            rig.send(2, &[9; 1519], header);
            rig.send(3, &[9; 13], header);
            rig.run().unwrap();
            assert_eq!(*rig.wire.sent.lock().unwrap(), [vec![7; 60], vec![8; 1518]]);
            let over = core::iter::from_fn(|| rig.drivers[1].take());
            assert_eq!(over.map(|o| o.1).collect::<Vec<_>>(), [0; 4]);
        }
    }

    #[test]
    fn frames_wait_outside_until_there_is_a_buffer() {
        for (features, header) in [(1 << 32, 12), (0, 10)] {
            let mut rig = Rig::new(features);
            for n in 0..3 {
                rig.wire.arriving.lock().unwrap().push_back(vec![n; 100]);
            }
            rig.run().unwrap();
            assert_eq!(rig.wire.arriving.lock().unwrap().len(), 3);
            assert!(rig.drivers[0].must_kick() || rig.wire.arriving.lock().unwrap().len() == 3);
            for n in 0..4 {
                rig.drivers[0].add(&[(BUFFERS + n * 0x1000, 2000, true)], false);
            }
            assert!(
                rig.drivers[0].must_kick(),
                "the driver is to tell of buffers"
            );
            rig.run().unwrap();
            for n in 0..3u8 {
                let (_, len) = rig.drivers[0].take().unwrap();
                assert_eq!(len, header + 100);
                let mut bytes = [0; 112];
                let at = Gpa(BUFFERS + u64::from(n) * 0x1000);
                rig.bench.mem.read(at, &mut bytes).unwrap();
                let (head, frame) = bytes.split_at(header as usize);
                assert_eq!(frame[..100], [n; 100]);
                assert_eq!(
                    head.iter().map(|b| usize::from(*b)).sum::<usize>(),
                    (header as usize - 10) / 2
                );
            }
            assert!(rig.drivers[0].take().is_none());
            rig.drivers[0].add(&[(BUFFERS, 2000, true)], false);
            assert!(!rig.drivers[0].must_kick(), "there is one already");
        }
    }

    #[test]
    fn driver_that_sends_in_quick_succession_need_not_tell_for_a_while() {
        let mut rig = Rig::new(1 << 32);
        rig.send(0, &[1; 60], 12);
        assert!(rig.drivers[1].must_kick());
        assert_eq!(rig.run(), Ok(None));
        rig.send(1, &[2; 60], 12);
        assert!(rig.drivers[1].must_kick(), "one frame is no succession");
        rig.bench.now = VmTime::from_micros(10);
        let next = rig.run().unwrap();
        assert_eq!(next, Some(VmTime::from_micros(110)));
        rig.send(2, &[3; 60], 12);
        assert!(!rig.drivers[1].must_kick());
        rig.bench.now = VmTime::from_micros(110);
        let next = rig.run().unwrap();
        assert_eq!(rig.wire.sent.lock().unwrap().len(), 3, "seen all the same");
        rig.bench.now = next.unwrap_or(rig.bench.now) + POLL;
        assert_eq!(rig.run(), Ok(None));
        rig.send(3, &[4; 60], 12);
        assert!(rig.drivers[1].must_kick(), "it is asked to tell again");
    }

    #[test]
    fn buffers_that_are_too_short_are_the_guests_fault() {
        let mut rig = Rig::new(1 << 32);
        rig.send(0, &[], 11);
        assert_eq!(rig.run(), Err(Fault::Request));
        let mut rig = Rig::new(1 << 32);
        rig.wire.arriving.lock().unwrap().push_back(vec![1; 100]);
        rig.drivers[0].add(&[(BUFFERS, 111, true)], false);
        assert_eq!(rig.run(), Err(Fault::Request));
    }

    /// TCP over IPv4, and how it is to be divided.
    fn large(data: usize) -> (Vec<u8>, Offload) {
        let ip = [8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0];
        let mut frame = [&[2; 12][..], &ip, &[10; 8], &[0; 12]].concat();
        frame.extend([0x50, 0x10, 0, 0, 0, 0, 0, 0]);
        frame.extend((0..data).map(|n| n as u8));
        let sum = Checksum {
            start: 34,
            offset: 16,
        };
        let offload = Offload::segments_of(&frame, Ip::V4, 1000, sum).unwrap();
        (frame, offload)
    }

    /// Flags, type, length of headers, bytes of a segment, start and offset of the checksum, buffers.
    const DIVIDES: [u8; 12] = [1, 1, 54, 0, 0xe8, 3, 34, 0, 16, 0, 0, 0];

    #[test]
    fn large_frames_are_sent_with_what_is_left_to_be_done_of_them() {
        let (frame, offload) = large(60_000);
        let all = Features::CSUM | Features::HOST_TSO4;
        let without = all - Features::CSUM;
        for (features, header, goes) in [
            (all, DIVIDES, true),
            (Features::CSUM, DIVIDES, false),
            (without, DIVIDES, false),
            // IPv6, which was not agreed to; UDP; no checksum; a wrong place; segments too small and too large.
            (all, [1, 4, 54, 0, 0xe8, 3, 34, 0, 16, 0, 0, 0], false),
            (all, [1, 3, 54, 0, 0xe8, 3, 34, 0, 16, 0, 0, 0], false),
            (all, [0, 1, 54, 0, 0xe8, 3, 34, 0, 16, 0, 0, 0], false),
            (all, [1, 1, 54, 0, 0xe8, 3, 33, 0, 16, 0, 0, 0], false),
            (all, [1, 1, 54, 0, 0xe8, 3, 34, 0, 15, 0, 0, 0], false),
            (all, [1, 1, 54, 0, 1, 0, 34, 0, 16, 0, 0, 0], false),
            (all, [1, 1, 54, 0, 0xff, 0xff, 34, 0, 16, 0, 0, 0], false),
            // The length of the headers is but a hint.
            (all, [1, 1, 0xff, 0xff, 0xe8, 3, 34, 0, 16, 0, 0, 0], true),
        ] {
            let mut rig = Rig::new(1 << 32 | features.bits());
            rig.bench.mem.write(Gpa(BUFFERS), &header).unwrap();
            rig.bench.mem.write(Gpa(BUFFERS + 12), &frame).unwrap();
            let parts = [(BUFFERS, 12, false), (BUFFERS + 12, 60_054, false)];
            rig.drivers[1].add(&parts, false);
            rig.run().unwrap();
            assert!(rig.drivers[1].take().is_some());
            let sent = rig.wire.sent.lock().unwrap();
            assert_eq!(sent.len(), usize::from(goes), "{header:?}");
            assert!(sent.iter().all(|sent| *sent == frame));
            let left = rig.wire.unfinished.lock().unwrap();
            assert!(left.iter().all(|left| *left == offload));
        }
    }

    #[test]
    fn checksum_of_a_short_frame_may_be_left_if_its_field_is_there() {
        for (start, goes) in [(34u8, true), (50, false)] {
            let mut rig = Rig::new(1 << 32 | Features::CSUM.bits());
            let header = [1, 0, 0, 0, 0, 0, start, 0, 16, 0, 0, 0];
            rig.bench.mem.write(Gpa(BUFFERS), &header).unwrap();
            rig.drivers[1].add(&[(BUFFERS, 12 + 60, false)], false);
            rig.run().unwrap();
            let left = rig.wire.unfinished.lock().unwrap();
            assert_eq!(left.len(), usize::from(goes));
            let sum = left.iter().filter_map(Offload::checksum).next();
            assert_eq!(sum.is_some(), goes);
        }
    }

    #[test]
    fn large_frames_lie_in_several_buffers_that_the_driver_sees_together() {
        let features = 1 << 32 | Features::all().bits();
        let mut rig = Rig::new(features);
        assert_eq!(*rig.wire.accepted.lock().unwrap(), Offloads::all());
        let (frame, offload) = large(10_000);
        *rig.wire.left.lock().unwrap() = offload;
        rig.net.incoming.fill(0xee);
        let arrives = frame.clone();
        rig.wire.arriving.lock().unwrap().push_back(arrives);
        for n in 0..2 {
            rig.drivers[0].add(&[(BUFFERS + n * 0x1000, 4096, true)], false);
        }
        rig.run().unwrap();
        assert!(rig.drivers[0].take().is_none(), "it waits for the third");
        rig.drivers[0].add(&[(BUFFERS + 0x2000, 4096, true)], false);
        assert!(rig.drivers[0].must_kick());
        rig.run().unwrap();
        let over = core::iter::from_fn(|| rig.drivers[0].take().map(|o| o.1));
        let rest = 12 + 10_054 - 2 * 4096;
        assert_eq!(over.collect::<Vec<_>>(), [4096, 4096, rest]);
        let mut bytes = vec![0; 12 + frame.len()];
        rig.bench.mem.read(Gpa(BUFFERS), &mut bytes).unwrap();
        let header = [&DIVIDES[..10], &[3, 0]].concat();
        assert!(bytes[..12] == header && bytes[12..] == frame);
    }

    #[test]
    fn older_drivers_that_merge_buffers_have_the_long_header() {
        let mut rig = Rig::new(Features::MRG_RXBUF.bits());
        rig.wire.arriving.lock().unwrap().push_back(vec![7; 60]);
        rig.drivers[0].add(&[(BUFFERS, 1500, true)], false);
        rig.run().unwrap();
        assert_eq!(rig.drivers[0].take().map(|o| o.1), Some(72));
        let mut head = [0xee; 13];
        rig.bench.mem.read(Gpa(BUFFERS), &mut head).unwrap();
        assert_eq!(head, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 7]);
    }

    #[test]
    fn frames_in_more_buffers_than_any_driver_has_are_the_guests_fault() {
        let mut rig = Rig::new(1 << 32 | Features::MRG_RXBUF.bits());
        rig.wire.arriving.lock().unwrap().push_back(vec![7; 1000]);
        while rig.drivers[0].has_room(1) {
            rig.drivers[0].add(&[(BUFFERS, 1, true)], false);
        }
        assert_eq!(rig.run(), Ok(None), "the driver may have more");
        let mut vacant = Vacant {
            count: Vacant::MOST,
            ..Vacant::default()
        };
        let queue = rig.queues[0].as_mut().unwrap();
        assert_eq!(vacant.more(&rig.bench.mem, queue), Err(Fault::Request));
    }
}
