//! A learning Ethernet switch (IEEE 802.1D-2004, clause 7, "Principles of bridge operation"), without the spanning tree: what is
//! plugged into it are the cards of guests and of the host, and those make no loops.
//!
//! [`Switch`] says where a frame goes; [`Queue`] keeps frames for a card that has not taken them yet. Guests are not trusted: a port
//! learns a bounded number of addresses, at the expense of its own others only; and the address that a guest's card was made with
//! stays its own (7.9.1, "Static Filtering Entries"), so that no other guest can draw its frames to itself.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod queue;

pub use queue::{FRAME, Queue};

use alloc::vec::Vec;

/// An Ethernet address.
pub type Address = [u8; 6];

/// Ports at most.
pub const PORTS: usize = 32;
/// Addresses that are learned at a port at most.
const ADDRESSES: usize = 64;
/// How long an address is remembered after its last frame, in milliseconds (IEEE 802.1D-2004, table 7-5, "Ageing time parameter
/// values").
const AGEING_TIME: u64 = 300_000;
/// Destination, source and type.
const HEADER: usize = 14;
/// The addresses from 01-80-C2-00-00-00 to 01-80-C2-00-00-0F stay on their link (7.12.6, "Reserved addresses"): pauses, spanning trees.
const RESERVED: [u8; 5] = [0x01, 0x80, 0xc2, 0x00, 0x00];

/// Some of the ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ports(u32);

impl Ports {
    /// None.
    pub const NONE: Ports = Ports(0);

    /// One.
    #[must_use]
    pub const fn one(port: usize) -> Self {
        Self(1 << (port % PORTS))
    }

    /// Whether `port` is one of them.
    #[must_use]
    pub const fn contains(self, port: usize) -> bool {
        port < PORTS && self.0 & 1 << port != 0
    }

    /// These but for `port`.
    #[must_use]
    pub const fn without(self, port: usize) -> Self {
        Self(self.0 & !Self::one(port).0)
    }

    /// These and those.
    #[must_use]
    pub const fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }
}

/// Where an address was seen.
struct Entry {
    address: Address,
    port: usize,
    /// When, in milliseconds. None: it was not learned, and stays.
    seen: Option<u64>,
}

/// A switch.
#[derive(Default)]
pub struct Switch {
    ports: usize,
    entries: Vec<Entry>,
}

/// Whether an address is of a group (IEEE 802-2014, 8.4, "Structure of universal addresses").
const fn is_group(address: Address) -> bool {
    address[0] & 1 != 0
}

impl Switch {
    /// A further port. `card` is the address of what is plugged in, if that is a guest's. Returns its number; None: there are no more.
    pub fn plug(&mut self, card: Option<Address>) -> Option<usize> {
        let port = self.ports;
        if port == PORTS {
            return None;
        }
        self.ports += 1;
        self.entries.extend(card.map(|address| Entry {
            address,
            port,
            seen: None,
        }));
        Some(port)
    }

    /// A frame has come in at `from`, `now` milliseconds after some beginning: learns where its sender is, and says where it goes.
    pub fn forward(&mut self, from: usize, frame: &[u8], now: u64) -> Ports {
        let Some((&to, rest)) = frame.split_first_chunk() else {
            return Ports::NONE;
        };
        let Some((&sender, _)) = rest.split_first_chunk().filter(|_| frame.len() >= HEADER) else {
            return Ports::NONE;
        };
        if from >= self.ports || is_group(sender) || !self.learn(from, sender, now) {
            return Ports::NONE;
        }
        if to.starts_with(&RESERVED) && to[5] < 0x10 {
            return Ports::NONE;
        }
        let all = Ports(((1u64 << self.ports) - 1) as u32);
        let known = self.entries.iter().find(|entry| {
            let fresh = entry
                .seen
                .is_none_or(|seen| now.saturating_sub(seen) < AGEING_TIME);
            entry.address == to && fresh
        });
        let wanted = known.map_or(all, |entry| Ports::one(entry.port));
        wanted.without(from)
    }

    /// Notes that `sender` is at `port`. False: it is another guest's.
    fn learn(&mut self, port: usize, sender: Address, now: u64) -> bool {
        if let Some(entry) = self.entries.iter_mut().find(|e| e.address == sender) {
            if entry.seen.is_none() {
                return entry.port == port;
            }
            entry.port = port;
            entry.seen = Some(now);
        } else {
            let new = Entry {
                address: sender,
                port,
                seen: Some(now),
            };
            let learned = |e: &&mut Entry| e.port == port && e.seen.is_some();
            if self.entries.iter_mut().filter(learned).count() < ADDRESSES {
                self.entries.push(new);
            } else if let Some(oldest) = self
                .entries
                .iter_mut()
                .filter(learned)
                .min_by_key(|e| e.seen)
            {
                *oldest = new;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use hv_core::testing::Random;
    use std::collections::BTreeSet;

    const UPLINK: usize = 0;
    const A: Address = [2, 0, 0, 0, 0, 1];
    const B: Address = [2, 0, 0, 0, 0, 2];
    const OUTSIDE: Address = [2, 9, 9, 9, 9, 9];
    const ALL: Address = [0xff; 6];

    /// The host's card, and two guests'.
    fn switch() -> Switch {
        let mut s = Switch::default();
        assert_eq!(s.plug(None), Some(UPLINK));
        assert_eq!(s.plug(Some(A)), Some(1));
        assert_eq!(s.plug(Some(B)), Some(2));
        s
    }

    fn frame(to: Address, from: Address) -> [u8; 60] {
        let mut frame = [0; 60];
        frame[..6].copy_from_slice(&to);
        frame[6..12].copy_from_slice(&from);
        frame
    }

    fn ports(of: Ports) -> Vec<usize> {
        (0..PORTS).filter(|&port| of.contains(port)).collect()
    }

    #[test]
    fn a_broadcast_goes_everywhere_else() {
        assert_eq!(ports(switch().forward(1, &frame(ALL, A), 0)), [0, 2]);
        assert_eq!(ports(switch().forward(0, &frame(ALL, OUTSIDE), 0)), [1, 2]);
    }

    #[test]
    fn guests_are_found_without_having_spoken() {
        assert_eq!(ports(switch().forward(0, &frame(B, OUTSIDE), 0)), [2]);
        assert_eq!(ports(switch().forward(1, &frame(B, A), 0)), [2]);
    }

    #[test]
    fn an_address_is_learned_moves_and_is_forgotten() {
        let mut s = switch();
        assert_eq!(
            ports(s.forward(1, &frame(OUTSIDE, A), 0)),
            [0, 2],
            "unknown"
        );
        s.forward(0, &frame(A, OUTSIDE), 1);
        assert_eq!(ports(s.forward(1, &frame(OUTSIDE, A), 2)), [0]);
        s.forward(2, &frame(A, OUTSIDE), 3);
        assert_eq!(ports(s.forward(1, &frame(OUTSIDE, A), 4)), [2]);
        let late = 3 + AGEING_TIME;
        assert_eq!(ports(s.forward(1, &frame(OUTSIDE, A), late)), [0, 2]);
    }

    #[test]
    fn nothing_goes_back_to_where_it_came_from() {
        let mut s = switch();
        s.forward(0, &frame(A, OUTSIDE), 0);
        assert_eq!(
            s.forward(0, &frame(OUTSIDE, [2, 8, 8, 8, 8, 8]), 0),
            Ports::NONE
        );
    }

    #[test]
    fn a_guest_cannot_take_anothers_address() {
        let mut s = switch();
        assert_eq!(s.forward(1, &frame(ALL, B), 0), Ports::NONE);
        assert_eq!(s.forward(0, &frame(ALL, B), 0), Ports::NONE);
        assert_eq!(ports(s.forward(0, &frame(B, OUTSIDE), 0)), [2]);
    }

    #[test]
    fn what_no_switch_passes_on_is_dropped() {
        let mut s = switch();
        let pause = [0x01, 0x80, 0xc2, 0, 0, 1];
        assert_eq!(s.forward(1, &frame(pause, A), 0), Ports::NONE);
        assert_eq!(
            s.forward(1, &frame(ALL, [3, 0, 0, 0, 0, 1]), 0),
            Ports::NONE
        );
        assert_eq!(s.forward(1, &frame(ALL, A)[..13], 0), Ports::NONE);
        assert_eq!(s.forward(7, &frame(ALL, OUTSIDE), 0), Ports::NONE);
    }

    #[test]
    fn a_flood_of_addresses_pushes_out_only_its_own() {
        let mut s = switch();
        s.forward(0, &frame(ALL, OUTSIDE), 0);
        for n in 0..10_000u32 {
            let [a, b, c, d] = n.to_be_bytes();
            s.forward(1, &frame(ALL, [2, 1, a, b, c, d]), u64::from(n));
        }
        assert!(s.entries.len() <= 3 * ADDRESSES);
        assert_eq!(ports(s.forward(2, &frame(OUTSIDE, B), 10_000)), [0]);
    }

    #[test]
    fn there_are_so_many_ports_and_no_more() {
        let mut s = Switch::default();
        assert!((0..PORTS).all(|n| s.plug(None) == Some(n)));
        assert_eq!(s.plug(None), None);
        assert_eq!(ports(s.forward(3, &frame(ALL, A), 0)).len(), PORTS - 1);
    }

    /// Against a switch that remembers everything and trusts everybody but for guests' addresses.
    #[test]
    fn random_frames_go_where_a_simple_model_says() {
        let mut random = Random::new(802);
        let mut s = switch();
        let mut seen: Vec<(Address, usize)> = Vec::new();
        for now in 0..20_000 {
            let address = |n: u64| [2, 0, 0, 0, 0, n as u8];
            let (from, sender) = (random.below(3) as usize, address(random.below(12)));
            let to = if random.one_in(8) {
                ALL
            } else {
                address(random.below(12))
            };
            let got: BTreeSet<usize> = ports(s.forward(from, &frame(to, sender), now))
                .into_iter()
                .collect();
            let owner = [(A, 1), (B, 2)].into_iter().find(|(a, _)| *a == sender);
            let mut expected = BTreeSet::new();
            if owner.is_none_or(|(_, port)| port == from) {
                seen.retain(|(a, _)| *a != sender);
                seen.push((sender, from));
                let place = seen.iter().chain(&[(A, 1), (B, 2)]).find(|(a, _)| *a == to);
                expected = match place {
                    Some(&(_, port)) => [port].into(),
                    None => [0, 1, 2].into(),
                };
                expected.remove(&from);
            }
            assert_eq!(got, expected, "{sender:?} at {from} to {to:?}");
        }
    }
}
