//! Virtio network devices (VIRTIO 1.2 5.1, "Network Device") on a [`NetBackend`]: one queue to receive, one to send.
//!
//! Frames wait outside until the driver has a buffer for them. What it sends is over at once. A driver that sends frame after frame is not
//! asked to tell of each: for `POLL` after one that came soon after another, the queue is looked at without being told.
//!
//! Not there: checksums and segmentation, merged receive buffers, the control queue (the switch outside knows the card's address, and hands
//! it nothing else but broadcasts and multicasts), several pairs of queues.

use super::queue::{Chain, Fault, chain};
use super::{CONFIG, DeviceType, Features, Kind, Queues};
use alloc::boxed::Box;
use alloc::vec;
use hv_core::backend::NetBackend;
use hv_core::device::DevCx;
use hv_core::mem::GuestMemory;
use hv_core::time::VmTime;

/// Features of network devices (5.1.3): there is an address, and a link status.
const MAC: u64 = 1 << 5;
const STATUS: u64 = 1 << 16;
/// The link is up (5.1.4, "Device configuration layout").
const LINK_UP: u16 = 1;

/// The queues (5.1.2).
const RECEIVE: usize = 0;
const SEND: usize = 1;
/// Bytes of the header before each frame (5.1.6, "Device Operation"), and of that of older versions, which lacks its last field.
const HEADER: usize = 12;
const LEGACY_HEADER: usize = 10;
/// Where the number of buffers of a received frame is in it.
const NUM_BUFFERS: usize = 10;
/// The shortest frame and the longest, with a VLAN tag, without the check sequence (IEEE 802.3 3.1.1).
const SHORTEST: usize = 14;
const LONGEST: usize = 1518;
/// Bytes that a back end may give.
const ROOM: usize = 2048;

/// Frames that are moved during one call, each way, at most.
const BURST: usize = 64;
/// For how long a queue is looked at without being told, and how soon after one frame another has to come for that.
const POLL: VmTime = VmTime::from_micros(100);

/// A network card.
pub struct Net {
    cable: Box<dyn NetBackend>,
    mac: [u8; 6],
    header: usize,
    /// A header and a frame.
    buffer: Box<[u8]>,
    /// A chain to be filled with the next frame that arrives.
    vacant: Chain,
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
            header: HEADER,
            buffer: vec![0; HEADER + ROOM].into_boxed_slice(),
            vacant: Chain::default(),
            sending: Chain::default(),
            sent: None,
            polls: None,
        }
    }

    /// Fills the driver's buffers with what has arrived. True: there may be more.
    fn receive(&mut self, memory: &dyn GuestMemory, queues: &mut Queues) -> Result<bool, Fault> {
        let Some(Some(queue)) = queues.get_mut(RECEIVE) else {
            return Ok(false);
        };
        for _ in 0..BURST {
            if self.vacant.is_empty()
                && !queue.pop(memory, &mut self.vacant)?
                && !(queue.ask_for_kicks(memory, true)? && queue.pop(memory, &mut self.vacant)?)
            {
                return Ok(false);
            }
            let (head, frame) = self.buffer.split_at_mut(self.header);
            let Some(len) = self.cable.receive(frame) else {
                // There is a buffer for the next: nothing is to be told.
                queue.ask_for_kicks(memory, false)?;
                return Ok(false);
            };
            head.fill(0);
            if let Some(count) = head.get_mut(NUM_BUFFERS) {
                *count = 1;
            }
            let whole = self.header + len;
            let room = chain::len(self.vacant.writable());
            if whole > room {
                // The driver has to have room for the longest (5.1.6.3.1, "Driver Requirements: Setting Up Receive Buffers").
                return Err(Fault::Request);
            }
            let from = self.buffer.get(..whole).unwrap_or_default();
            let written = chain::write(memory, self.vacant.writable(), 0, from)?;
            queue.push(memory, &self.vacant, written as u32)?;
            self.vacant.clear();
        }
        Ok(true)
    }

    /// Sends what is in the queue, and says how many frames it was.
    fn send(&mut self, memory: &dyn GuestMemory, queues: &mut Queues) -> Result<usize, Fault> {
        let Some(Some(queue)) = queues.get_mut(SEND) else {
            return Ok(0);
        };
        for n in 0..BURST {
            if !queue.pop(memory, &mut self.sending)? {
                return Ok(n);
            }
            let parts = self.sending.readable();
            let len = chain::len(parts)
                .checked_sub(self.header)
                .ok_or(Fault::Request)?;
            // What is no frame gets nowhere, as on a wire.
            if (SHORTEST..=LONGEST).contains(&len) {
                let frame = self.buffer.get_mut(..len).unwrap_or_default();
                chain::read(memory, parts, self.header, frame)?;
                self.cable.send(frame);
            }
            queue.push(memory, &self.sending, 0)?;
        }
        Ok(BURST)
    }

    /// Sends, and decides whether the driver is to tell of the next frame. Returns when the queue is looked at without that.
    fn serve(&mut self, cx: &mut DevCx<'_>, queues: &mut Queues) -> Result<Option<VmTime>, Fault> {
        let soon = self.sent.is_some_and(|sent| cx.now < sent + POLL);
        let count = self.send(cx.dma, queues)?;
        if count != 0 {
            self.sent = Some(cx.now);
            if soon {
                self.polls = Some(cx.now + POLL);
            }
        }
        if count == BURST {
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
        MAC | STATUS
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
        let version_1 = Features::from_bits_truncate(features).contains(Features::VERSION_1);
        self.header = if version_1 { HEADER } else { LEGACY_HEADER };
    }

    fn run(&mut self, cx: &mut DevCx<'_>, queues: &mut Queues) -> Result<Option<VmTime>, Fault> {
        let next = self.serve(cx, queues)?;
        let more = self.receive(cx.dma, queues)?;
        Ok(if more { Some(cx.now) } else { next })
    }

    fn reset(&mut self, _memory: &dyn GuestMemory) {
        self.vacant.clear();
        (self.sent, self.polls) = (None, None);
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
    use hv_core::testing::Bench;
    use std::sync::Mutex;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const BUFFERS: u64 = 0x1_0000;

    #[derive(Clone, Default)]
    struct Wire {
        arriving: Arc<Mutex<VecDeque<Vec<u8>>>>,
        sent: Arc<Mutex<Vec<Vec<u8>>>>,
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
}
