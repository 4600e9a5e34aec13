//! An Ethernet switch (IEEE 802.1D-2004, clause 7, "Principles of bridge operation") that learns nothing, because it knows where
//! everybody is: at each guest's port is one card, whose address the machine was made with (7.9.1, "Static Filtering Entries"), and
//! whatever has no guest's address is outside. There is no spanning tree: cards of guests and of the host make no loops.
//!
//! [`Switch`] says where a frame goes; [`Queue`] keeps frames for a card that has not taken them yet; [`Network`] puts them together and knows
//! which guests are to be told. Guests are not trusted. A guest's
//! frames carry its own address as their source; others are refused and counted. So no guest can pass for another or for a machine
//! outside, draw their frames to itself, or fill a table; and the outside cannot pass for a guest. A frame for an address that is
//! nobody's here goes outside, and to no guest.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod network;
mod queue;

pub use network::{Network, Uplink};
pub use queue::Queue;

use alloc::vec::Vec;

/// An Ethernet address.
pub type Address = [u8; 6];

/// Ports at most.
pub const PORTS: usize = 64;
/// Destination, source and type.
const HEADER: usize = 14;
/// The addresses from 01-80-C2-00-00-00 to 01-80-C2-00-00-0F stay on their link (7.12.6, "Reserved addresses"): pauses, spanning trees.
const RESERVED: [u8; 5] = [0x01, 0x80, 0xc2, 0x00, 0x00];

/// Some of the ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ports(u64);

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

    /// Whether any of `others` is one of them.
    #[must_use]
    pub const fn any_of(self, others: Self) -> bool {
        self.0 & others.0 != 0
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

/// What is plugged into the switch.
struct Port {
    /// The only address that may send from here. None: the network outside, where all addresses are that are no guest's.
    card: Option<Address>,
    /// Frames that were refused, since their source address does not belong here.
    refused: u64,
}

/// A switch.
#[derive(Default)]
pub struct Switch {
    ports: Vec<Port>,
}

/// Whether an address is of a group (IEEE 802-2014, 8.4, "Structure of universal addresses").
const fn is_group(address: Address) -> bool {
    address[0] & 1 != 0
}

impl Switch {
    /// A further port. `card` is the address of what is plugged in, if that is a guest's. Returns its number; None: there are no more,
    /// or the address is another's, or a group's.
    pub fn plug(&mut self, card: Option<Address>) -> Option<usize> {
        let taken = card.is_some_and(|card| is_group(card) || self.guest(card).is_some());
        let port = self.ports.len();
        if port == PORTS || taken {
            return None;
        }
        self.ports.push(Port { card, refused: 0 });
        Some(port)
    }

    /// Where a frame goes that has come in at `from`.
    pub fn forward(&mut self, from: usize, frame: &[u8]) -> Ports {
        let (Some((&to, rest)), true) = (frame.split_first_chunk(), frame.len() >= HEADER) else {
            return Ports::NONE;
        };
        let Some((&sender, _)) = rest.split_first_chunk() else {
            return Ports::NONE;
        };
        let belongs = self.may_send(from, sender);
        let Some(port) = self.ports.get_mut(from) else {
            return Ports::NONE;
        };
        if !belongs {
            port.refused = port.refused.saturating_add(1);
            return Ports::NONE;
        }
        if to.starts_with(&RESERVED) && to[5] < 0x10 {
            return Ports::NONE;
        }
        let wanted = match self.guest(to) {
            Some(port) => Ports::one(port),
            None => self.those(|port| is_group(to) || port.card.is_none()),
        };
        wanted.without(from)
    }

    /// How many frames from `port` were refused, since their source address does not belong there.
    #[must_use]
    pub fn refused(&self, port: usize) -> u64 {
        self.ports.get(port).map_or(0, |port| port.refused)
    }

    /// Whether frames from `port` may carry the source address `sender`.
    fn may_send(&self, port: usize, sender: Address) -> bool {
        match self.ports.get(port) {
            Some(Port {
                card: Some(card), ..
            }) => *card == sender,
            Some(Port { card: None, .. }) => !is_group(sender) && self.guest(sender).is_none(),
            None => false,
        }
    }

    /// The port of the guest that has this address.
    fn guest(&self, address: Address) -> Option<usize> {
        self.ports
            .iter()
            .position(|port| port.card == Some(address))
    }

    fn those(&self, are: impl Fn(&Port) -> bool) -> Ports {
        let ports = (0..).zip(&self.ports).filter(|(_, port)| are(port));
        ports.fold(Ports::NONE, |all, (n, _)| all.and(Ports::one(n)))
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
    fn a_group_is_everywhere_else() {
        for group in [ALL, [0x33, 0x33, 0, 0, 0, 1], [1, 0, 0x5e, 0, 0, 0xfb]] {
            assert_eq!(ports(switch().forward(1, &frame(group, A))), [0, 2]);
            assert_eq!(ports(switch().forward(0, &frame(group, OUTSIDE))), [1, 2]);
        }
    }

    #[test]
    fn guests_are_found_without_having_spoken() {
        assert_eq!(ports(switch().forward(0, &frame(B, OUTSIDE))), [2]);
        assert_eq!(ports(switch().forward(1, &frame(B, A))), [2]);
    }

    #[test]
    fn who_is_no_guest_is_outside_and_no_guest_hears() {
        let mut s = switch();
        assert_eq!(ports(s.forward(1, &frame(OUTSIDE, A))), [UPLINK]);
        assert_eq!(
            s.forward(0, &frame([2, 8, 8, 8, 8, 8], OUTSIDE)),
            Ports::NONE
        );
    }

    #[test]
    fn nothing_goes_back_to_where_it_came_from() {
        assert_eq!(switch().forward(1, &frame(A, A)), Ports::NONE);
    }

    #[test]
    fn a_guest_sends_with_its_own_address_and_what_is_refused_is_counted() {
        let mut s = switch();
        let random = [0x52, 0x54, 0, 0xab, 0xcd, 0xef];
        for foreign in [B, OUTSIDE, random, [0; 6], ALL, [3, 0, 0, 0, 0, 1]] {
            assert_eq!(s.forward(1, &frame(ALL, foreign)), Ports::NONE);
        }
        assert_eq!(ports(s.forward(1, &frame(ALL, A))), [0, 2]);
        assert_eq!([s.refused(0), s.refused(1), s.refused(2)], [0, 6, 0]);
    }

    #[test]
    fn the_outside_passes_for_no_guest() {
        let mut s = switch();
        assert_eq!(s.forward(0, &frame(ALL, B)), Ports::NONE);
        assert_eq!(s.forward(0, &frame(ALL, ALL)), Ports::NONE);
        assert_eq!(s.refused(0), 2);
    }

    /// A gateway that has been heard outside is not moved by a guest that sends as it.
    #[test]
    fn an_address_from_outside_cannot_be_taken() {
        let mut s = switch();
        s.forward(0, &frame(A, OUTSIDE));
        s.forward(2, &frame(A, OUTSIDE));
        assert_eq!(ports(s.forward(1, &frame(OUTSIDE, A))), [UPLINK]);
    }

    #[test]
    fn what_no_switch_passes_on_is_dropped() {
        let mut s = switch();
        let pause = [0x01, 0x80, 0xc2, 0, 0, 1];
        assert_eq!(s.forward(1, &frame(pause, A)), Ports::NONE);
        assert_eq!(s.forward(1, &frame(ALL, A)[..13]), Ports::NONE);
        assert_eq!(s.forward(7, &frame(ALL, OUTSIDE)), Ports::NONE);
        assert_eq!(s.refused(1), 0);
    }

    #[test]
    fn there_are_so_many_ports_and_no_more() {
        let mut s = Switch::default();
        assert!((0..PORTS).all(|n| s.plug(None) == Some(n)));
        assert_eq!(s.plug(None), None);
        assert_eq!(ports(s.forward(3, &frame(ALL, A))).len(), PORTS - 1);
    }

    #[test]
    fn an_address_is_plugged_in_once_and_is_one_cards() {
        let mut s = switch();
        assert_eq!(s.plug(Some(A)), None);
        assert_eq!(s.plug(Some(ALL)), None);
    }

    /// Against the rules, written down a second time.
    #[test]
    fn random_frames_go_where_a_simple_model_says() {
        let mut random = Random::new(802);
        let mut s = switch();
        for _ in 0..20_000 {
            let address = |n: u64| [2 + (n / 10) as u8, 0, 0, 0, 0, (n % 10) as u8];
            let (from, sender) = (random.below(3) as usize, address(random.below(20)));
            let to = address(random.below(20));
            let got: BTreeSet<usize> = ports(s.forward(from, &frame(to, sender)))
                .into_iter()
                .collect();
            let owner = |of: Address| match of {
                A => Some(1),
                B => Some(2),
                [3, ..] => None,
                _ => Some(UPLINK),
            };
            let mut expected = BTreeSet::new();
            if owner(sender) == Some(from) {
                expected = owner(to).map_or([0, 1, 2].into(), |port| [port].into());
                expected.remove(&from);
            }
            assert_eq!(got, expected, "{sender:?} at {from} to {to:?}");
        }
    }
}
