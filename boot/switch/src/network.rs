//! The switch with the host's card, and what waits for the guests.

use crate::{Address, Ports, Queue, Switch};
use alloc::vec::Vec;
use hv_core::offload::{LARGEST, LONGEST, Offload, Offloads};

/// Frames that wait for a guest's card at most, besides those in the host card's ring.
const WAITING: usize = 64;
/// Frames that the largest one is divided into at the usual size of segments, 1,460 bytes.
const SEGMENTS: usize = 45;
/// Their bytes at most.
const BYTES: usize = 256 << 10;

/// The host's card, which is outside for the guests.
pub trait Uplink {
    /// What may be left to be done of frames that arrive.
    fn leaves(&self) -> Offloads;

    /// Gives the next frame that has arrived, and what is left to be done of it, to `take`. False: there is none.
    fn receive(&mut self, take: impl FnOnce(&[u8], &Offload)) -> bool;

    /// Sends a frame, of which `offload` is left to be done.
    fn send(&mut self, frame: &[u8], offload: &Offload);
}

/// A guest's end.
struct Guest {
    port: usize,
    queue: Queue,
    /// What may be left to be done of the frames in it.
    accepts: Offloads,
}

impl Guest {
    /// Puts a frame into the queue. False: nothing of it got there.
    fn put(&mut self, frame: &[u8], offload: &Offload) -> bool {
        if self.accepts.contains(offload.needs()) {
            return self.queue.put(frame, *offload);
        }
        let mut got = false;
        offload.finish(frame, &mut |frame| {
            got |= self.queue.put(frame, Offload::NONE);
        });
        got
    }
}

/// The switch with all that is plugged in.
///
/// A guest is told when a frame has come into its queue, and no other is. Frames that arrive are sorted at once: with a single guest, as far as
/// its queue has room, so that those behind them wait in the host card's ring, and that card, when it is full, makes the sender wait. With
/// several guests one that takes nothing loses frames and does not keep the others from theirs.
pub struct Network<U> {
    switch: Switch,
    /// The host's card, and its port.
    uplink: Option<(U, usize)>,
    guests: Vec<Guest>,
    /// Ports whose guests have not been told of what has come for them.
    arrived: Ports,
}

impl<U: Uplink> Network<U> {
    /// No guest, and the host's card, if it has one.
    #[must_use]
    pub fn new(uplink: Option<U>) -> Self {
        let mut switch = Switch::default();
        Self {
            uplink: uplink.and_then(|uplink| Some((uplink, switch.plug(None)?))),
            switch,
            guests: Vec::new(),
            arrived: Ports::NONE,
        }
    }

    /// Plugs a guest's card in, which has this address. Returns its port; None: the switch takes it not.
    pub fn plug(&mut self, address: Address) -> Option<usize> {
        let port = self.switch.plug(Some(address))?;
        self.guests.push(Guest {
            port,
            queue: Queue::new(WAITING, BYTES),
            accepts: Offloads::empty(),
        });
        Some(port)
    }

    /// The guest at `port` accepts frames of which this is left to be done. What waits for it is lost: it was made for another driver.
    pub fn accept(&mut self, port: usize, offloads: Offloads) {
        if let Some(guest) = self.guests.iter_mut().find(|guest| guest.port == port)
            && guest.accepts != offloads
        {
            guest.accepts = offloads;
            guest.queue.clear();
        }
    }

    /// The host's card.
    pub fn uplink(&mut self) -> Option<&mut U> {
        self.uplink.as_mut().map(|(uplink, _)| uplink)
    }

    /// How many frames from `port` were refused, since their source address does not belong there.
    #[must_use]
    pub fn refused(&self, port: usize) -> u64 {
        self.switch.refused(port)
    }

    /// A guest's card sends a frame, of which `offload` is left to be done. True: there is a guest more to be told.
    pub fn send(&mut self, from: usize, frame: &[u8], offload: &Offload) -> bool {
        let ports = self.switch.forward(from, frame);
        if let Some((uplink, port)) = &mut self.uplink
            && ports.contains(*port)
        {
            uplink.send(frame, offload);
        }
        let filled = deliver(&mut self.guests, ports, frame, offload);
        self.tell(filled)
    }

    /// Takes the next frame for the guest at `port` into `to`. Returns its length and what is left to be done of it, and whether there is a guest
    /// more to be told.
    pub fn receive(&mut self, port: usize, to: &mut [u8]) -> (Option<(usize, Offload)>, bool) {
        let Some(own) = self.guests.iter().position(|guest| guest.port == port) else {
            return (None, false);
        };
        let mut more = false;
        if self.guests[own].queue.is_empty() {
            let filled = self.fill();
            more = self.tell(filled.without(port));
        }
        (self.guests[own].queue.take(to), more)
    }

    /// Frames have arrived at the host's card.
    pub fn sort(&mut self) {
        let filled = self.fill();
        self.tell(filled);
    }

    /// The ports whose guests are to be told that frames have come, since this was last asked.
    pub fn arrived(&mut self) -> Ports {
        core::mem::take(&mut self.arrived)
    }

    /// Puts what has arrived at the host's card into the queues. Returns the ports of those that got something.
    fn fill(&mut self) -> Ports {
        let Self {
            switch,
            uplink,
            guests,
            ..
        } = self;
        let mut filled = Ports::NONE;
        if let Some((uplink, port)) = uplink {
            let large = uplink.leaves().intersects(Offloads::TCP4 | Offloads::TCP6);
            let (frames, longest) = match large {
                true => (SEGMENTS, LARGEST),
                false => (1, LONGEST),
            };
            while !matches!(&guests[..], [only] if !only.queue.has_room(frames, longest))
                && uplink.receive(|frame, offload| {
                    let ports = switch.forward(*port, frame);
                    filled = filled.and(deliver(guests, ports, frame, offload));
                })
            {}
        }
        filled
    }

    /// The guests at `ports` are to be told. True: one of them was not to be before.
    fn tell(&mut self, ports: Ports) -> bool {
        let before = self.arrived;
        self.arrived = before.and(ports);
        self.arrived != before
    }
}

/// Puts a frame into the queues of those of `ports` that are guests'. What they have no room for is lost. Returns those that got it.
fn deliver(guests: &mut [Guest], ports: Ports, frame: &[u8], offload: &Offload) -> Ports {
    let mut filled = Ports::NONE;
    for guest in guests {
        if ports.contains(guest.port) && guest.put(frame, offload) {
            filled = filled.and(Ports::one(guest.port));
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use alloc::collections::VecDeque;
    use alloc::vec;
    use hv_core::offload::{Checksum, Ip};
    use std::rc::Rc;

    const A: Address = [2, 0, 0, 0, 0, 1];
    const B: Address = [2, 0, 0, 0, 0, 2];
    const OUTSIDE: Address = [2, 9, 9, 9, 9, 9];
    const ALL: Address = [0xff; 6];

    /// A card with frames in its ring, and those that it has sent. It leaves of frames what it says.
    #[derive(Clone)]
    struct Card(Frames, Frames, Offloads);

    type Frames = Rc<std::cell::RefCell<VecDeque<(Vec<u8>, Offload)>>>;

    impl Card {
        fn new(leaves: Offloads) -> Self {
            Self(Frames::default(), Frames::default(), leaves)
        }

        fn arrives(&self, to: Address, number: u8) {
            self.arrives_unfinished(frame(to, OUTSIDE, number), Offload::NONE);
        }

        fn arrives_unfinished(&self, frame: Vec<u8>, offload: Offload) {
            self.0.borrow_mut().push_back((frame, offload));
        }

        fn waiting(&self) -> usize {
            self.0.borrow().len()
        }
    }

    impl Uplink for Card {
        fn leaves(&self) -> Offloads {
            self.2
        }

        fn receive(&mut self, take: impl FnOnce(&[u8], &Offload)) -> bool {
            let frame = self.0.borrow_mut().pop_front();
            frame
                .map(|(frame, offload)| take(&frame, &offload))
                .is_some()
        }

        fn send(&mut self, frame: &[u8], offload: &Offload) {
            self.1.borrow_mut().push_back((frame.to_vec(), *offload));
        }
    }

    fn frame(to: Address, from: Address, number: u8) -> Vec<u8> {
        [&to[..], &from, &[8, 0, number]].concat()
    }

    /// Two guests at the ports 1 and 2, and the host's card.
    fn network() -> (Network<Card>, Card) {
        let card = Card::new(Offloads::empty());
        let mut network = Network::new(Some(card.clone()));
        assert_eq!((network.plug(A), network.plug(B)), (Some(1), Some(2)));
        (network, card)
    }

    fn told(network: &mut Network<Card>) -> Vec<usize> {
        let arrived = network.arrived();
        (0..3).filter(|&port| arrived.contains(port)).collect()
    }

    /// The number of the next frame.
    fn next(network: &mut Network<Card>, port: usize) -> Option<u8> {
        let mut to = [0; 60];
        let (len, _) = network.receive(port, &mut to);
        len.map(|(len, _)| to[len - 1])
    }

    #[test]
    fn a_frame_from_outside_rouses_the_guest_whose_it_is_and_no_other() {
        for (to, expected) in [
            (A, vec![1]),
            (B, vec![2]),
            (ALL, vec![1, 2]),
            (OUTSIDE, vec![]),
        ] {
            let (mut network, card) = network();
            card.arrives(to, 1);
            network.sort();
            assert_eq!(told(&mut network), expected);
            // Each is told once.
            network.sort();
            assert_eq!(told(&mut network), []);
            for port in [1, 2] {
                let own = expected.contains(&port).then_some(1);
                assert_eq!(next(&mut network, port), own);
            }
        }
    }

    #[test]
    fn a_frame_of_a_guest_rouses_who_gets_it() {
        let (mut network, _) = network();
        assert!(network.send(1, &frame(B, A, 1), &Offload::NONE));
        // The session knows already.
        assert!(!network.send(1, &frame(B, A, 2), &Offload::NONE));
        assert_eq!(told(&mut network), [2]);
        assert!(!network.send(1, &frame(OUTSIDE, A, 3), &Offload::NONE));
        assert_eq!(told(&mut network), []);
    }

    /// The card's interrupt may come later.
    #[test]
    fn a_guest_that_looks_finds_its_own_and_the_other_is_told_of_its() {
        let (mut network, card) = network();
        for (to, number) in [(B, 1), (A, 2), (B, 3), (A, 4)] {
            card.arrives(to, number);
        }
        let mut to = [0; 60];
        assert_eq!(
            network.receive(1, &mut to),
            (Some((15, Offload::NONE)), true)
        );
        assert_eq!(to[14], 2);
        assert_eq!(told(&mut network), [2]);
        assert_eq!(next(&mut network, 1), Some(4));
        assert_eq!(next(&mut network, 1), None);
        assert_eq!([1, 3].map(Some), [2, 2].map(|p| next(&mut network, p)));
    }

    #[test]
    fn a_single_guest_that_is_slow_loses_nothing() {
        let card = Card::new(Offloads::empty());
        let mut network = Network::new(Some(card.clone()));
        assert_eq!(network.plug(A), Some(1));
        (0..100).for_each(|number| card.arrives(A, number));
        network.sort();
        assert_eq!(card.waiting(), 100 - WAITING);
        let frames = std::iter::from_fn(|| next(&mut network, 1));
        assert!(frames.eq(0..100));
    }

    #[test]
    fn one_that_takes_nothing_keeps_no_other_from_its_frames() {
        let (mut network, card) = network();
        (0..100).for_each(|number| card.arrives(A, number));
        card.arrives(B, 100);
        network.sort();
        assert_eq!(told(&mut network), [1, 2]);
        assert_eq!(next(&mut network, 2), Some(100));
        let frames = std::iter::from_fn(|| next(&mut network, 1));
        assert!(frames.eq(0..WAITING as u8));
    }

    /// TCP over IPv4 with so many bytes of data, and what is left to be done of it.
    fn large(to: Address, from: Address, data: usize) -> (Vec<u8>, Offload) {
        let ip = [8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0];
        let mut frame = [&to[..], &from, &ip, &[10, 0, 0, 1, 10, 0, 0, 2], &[0; 12]].concat();
        frame.extend([0x50, 0x10, 0, 0, 0, 0, 0, 0]);
        frame.extend(vec![7; data]);
        let sum = Checksum {
            start: 34,
            offset: 16,
        };
        let offload = Offload::segments_of(&frame, Ip::V4, 1000, sum).unwrap();
        (frame, offload)
    }

    #[test]
    fn a_guest_that_accepts_it_gets_a_large_frame_as_it_is_and_others_its_segments() {
        let (mut network, card) = network();
        let mut to = vec![0; LARGEST];
        let (frame, offload) = large(B, A, 60_000);
        network.send(1, &frame, &offload);
        let all = core::iter::from_fn(|| network.receive(2, &mut to).0);
        assert!(all.eq([(54 + 1000, Offload::NONE); 60]));
        network.accept(2, Offloads::CHECKSUM | Offloads::TCP4);
        network.send(1, &frame, &offload);
        assert_eq!(network.receive(2, &mut to).0, Some((frame.len(), offload)));
        assert!(to[..frame.len()] == frame[..]);
        // What was made for another driver is lost.
        network.send(1, &frame, &offload);
        network.accept(2, Offloads::CHECKSUM);
        assert_eq!(network.receive(2, &mut to).0, None);
        let (frame, offload) = large(OUTSIDE, A, 2500);
        network.send(1, &frame, &offload);
        // The host's card gets it as it is, with what is left.
        let sent = card.1.borrow().iter().cloned().collect::<Vec<_>>();
        assert!(sent == [(frame, offload)]);
    }

    #[test]
    fn a_large_frame_from_outside_is_divided_for_a_guest_that_does_not_accept_it() {
        let (mut network, card) = network();
        let mut to = vec![0; LARGEST];
        network.accept(2, Offloads::all());
        for guest in [A, B] {
            let (frame, offload) = large(guest, OUTSIDE, 2500);
            card.arrives_unfinished(frame, offload);
        }
        network.sort();
        let all = core::iter::from_fn(|| network.receive(1, &mut to).0);
        let lens: Vec<_> = all.map(|(len, _)| len).collect();
        assert_eq!(lens, [1054, 1054, 554]);
        let whole = network.receive(2, &mut to).0;
        assert_eq!(whole, Some((54 + 2500, large(B, OUTSIDE, 2500).1)));
    }

    #[test]
    fn a_single_guest_that_is_slow_loses_no_segment_of_a_large_frame() {
        let card = Card::new(Offloads::all());
        let mut network = Network::new(Some(card.clone()));
        assert_eq!(network.plug(A), Some(1));
        let (frame, offload) = large(A, OUTSIDE, 45_000);
        for _ in 0..5 {
            card.arrives_unfinished(frame.clone(), offload);
        }
        let mut to = [0; LONGEST];
        let all = std::iter::from_fn(|| network.receive(1, &mut to).0);
        assert_eq!(all.count(), 5 * 45);
    }
}
