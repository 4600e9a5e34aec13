//! Which frames the card takes (317453, "Packet Address Filtering" and "802.1q VLAN Packet Filtering"): sixteen addresses, a hash of the groups,
//! broadcasts, everything, and the virtual LANs.

use super::registers::ReceiveControl;

/// Exact addresses.
const ADDRESSES: usize = 16;
/// Words of the two tables of bits.
const TABLE: usize = 128;
/// In the high half of an address: it is valid; it is compared with the source address (bits 17:16 not 0), which no driver wants.
const VALID: u32 = 1 << 31;
const SELECT: u32 = 3 << 16;

/// RAL and RAH, MTA, VFTA.
pub(super) struct Filter {
    /// Low and high half of each.
    pub(super) addresses: [u32; 2 * ADDRESSES],
    pub(super) groups: [u32; TABLE],
    pub(super) lans: [u32; TABLE],
}

/// Where a frame goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// One station.
    Unicast,
    /// A group.
    Multicast,
    /// All.
    Broadcast,
}

impl Kind {
    /// By the first six bytes of `frame`.
    pub(super) fn of(frame: &[u8]) -> Self {
        match frame.first_chunk::<6>() {
            Some([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => Kind::Broadcast,
            Some([first, ..]) if first & 1 != 0 => Kind::Multicast,
            _ => Kind::Unicast,
        }
    }
}

impl Filter {
    /// The card's own address is the first.
    pub(super) fn new(mac: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = mac;
        let mut addresses = [0; 2 * ADDRESSES];
        addresses[0] = u32::from_le_bytes([a, b, c, d]);
        addresses[1] = u32::from_le_bytes([e, f, 0, 0]) | VALID;
        Self {
            addresses,
            groups: [0; TABLE],
            lans: [0; TABLE],
        }
    }

    /// Whether a frame to this address is for the card. `inexact` says whether no exact address told so.
    pub(super) fn accepts(&self, control: ReceiveControl, frame: &[u8]) -> Option<Accepted> {
        let &to = frame.first_chunk::<6>()?;
        if self.is_ours(to) {
            return Some(Accepted { inexact: false });
        }
        let accepted = match Kind::of(frame) {
            Kind::Unicast => control.contains(ReceiveControl::UPE),
            Kind::Broadcast => control.intersects(ReceiveControl::BAM | ReceiveControl::MPE),
            Kind::Multicast => {
                control.contains(ReceiveControl::MPE) || self.is_member(control.offset(), to)
            }
        };
        accepted.then_some(Accepted { inexact: true })
    }

    fn is_ours(&self, to: [u8; 6]) -> bool {
        let [a, b, c, d, e, f] = to;
        let low = u32::from_le_bytes([a, b, c, d]);
        let high = u32::from_le_bytes([e, f, 0, 0]);
        self.addresses.as_chunks::<2>().0.iter().any(|entry| {
            entry[0] == low && entry[1] & 0xffff == high && entry[1] & (VALID | SELECT) == VALID
        })
    }

    /// Twelve bits of the address, which the multicast offset chooses, lead to a bit.
    fn is_member(&self, offset: u32, to: [u8; 6]) -> bool {
        let high = u32::from(u16::from_le_bytes([to[4], to[5]]));
        // 47:36, 46:35, 45:34, 43:32.
        let shift = [4, 3, 2, 0][offset as usize % 4];
        bit(&self.groups, high >> shift)
    }

    /// Whether a frame of this virtual LAN is for the card.
    pub(super) fn has_lan(&self, tag: u16) -> bool {
        bit(&self.lans, u32::from(tag))
    }
}

/// That a frame is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Accepted {
    /// Only by hash or because everything is: software has to look.
    pub(super) inexact: bool,
}

fn bit(table: &[u32; TABLE], number: u32) -> bool {
    table[(number >> 5) as usize % TABLE] >> (number & 31) & 1 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

    #[test]
    fn own_address_and_no_other_without_promiscuity() {
        let f = Filter::new(MAC);
        let none = ReceiveControl::empty();
        let exact = Some(Accepted { inexact: false });
        assert_eq!(f.accepts(none, &MAC), exact);
        for to in [[0x52, 0x54, 0, 1, 2, 4], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
            assert_eq!(f.accepts(none, &to), None);
        }
        let inexact = Some(Accepted { inexact: true });
        assert_eq!(f.accepts(ReceiveControl::UPE, &[2; 6]), inexact);
        assert_eq!(f.accepts(ReceiveControl::BAM, &[0xff; 6]), inexact);
        assert_eq!(f.accepts(ReceiveControl::MPE, &[1; 6]), inexact);
        assert_eq!(f.accepts(ReceiveControl::all(), &[0; 5]), None);
    }

    #[test]
    fn groups_are_hashed_as_linux_does() {
        // e1000_hash_mc_addr, for 01:00:5e:00:01:02 (bytes 4 and 5 are 1 and 2).
        for (offset, hash) in [(0, 0x020), (1, 0x040), (2, 0x080), (3, 0x201)] {
            let mut f = Filter::new(MAC);
            f.groups[hash >> 5] = 1 << (hash & 31);
            let control = ReceiveControl::from_bits_retain(offset << 12);
            assert!(f.accepts(control, &[1, 0, 0x5e, 0, 1, 2]).is_some());
            assert!(f.accepts(control, &[1, 0, 0x5e, 0, 2, 1]).is_none());
        }
    }

    #[test]
    fn lans_are_told_by_twelve_bits() {
        let mut f = Filter::new(MAC);
        f.lans[3] = 1 << 4;
        assert!(f.has_lan(0x064) && f.has_lan(0xf064) && !f.has_lan(0x065));
    }
}
