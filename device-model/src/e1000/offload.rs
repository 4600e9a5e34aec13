//! What the card does to frames in the driver's place: checksums of what is sent, the cut of a long TCP message into segments (317453, "TCP/IP
//! Context Transmit Descriptor" and "TCP Segmentation"), and checksums of what arrives ("Receive Packet Checksum Offloading").
//!
//! The guest says where everything is. What is not inside the frame is left alone.

use hv_core::checksum::sum;

/// Where a checksum is taken over, and where it goes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Checksum {
    pub(super) start: usize,
    pub(super) at: usize,
    /// The last byte. 0: that of the frame.
    pub(super) last: usize,
}

impl Checksum {
    /// Puts it into `frame`. In UDP (`never_zero`) a sum of 0 would mean that there is none (RFC 768, "Fields").
    pub(super) fn insert(self, frame: &mut [u8], never_zero: bool) {
        let end = match self.last {
            0 => frame.len(),
            last => frame.len().min(last + 1),
        };
        let Some(part) = frame.get(self.start..end) else {
            return;
        };
        let value = match !sum(0, part) {
            0 if never_zero => 0xffff,
            value => value,
        };
        put(frame, self.at, value);
    }
}

fn put(frame: &mut [u8], at: usize, value: u16) {
    if let Some(to) = frame.get_mut(at..at + 2) {
        to.copy_from_slice(&value.to_be_bytes());
    }
}

fn word(frame: &[u8], at: usize) -> u16 {
    frame
        .get(at..at + 2)
        .map_or(0, |b| u16::from_be_bytes([b[0], b[1]]))
}

/// What a context descriptor says.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Context {
    pub(super) ip: Checksum,
    pub(super) transport: Checksum,
    /// TCP, rather than UDP.
    pub(super) tcp: bool,
    /// IPv4, rather than IPv6.
    pub(super) ipv4: bool,
    /// Bytes of all headers, and the most of payload in a segment.
    pub(super) header: usize,
    pub(super) segment: usize,
}

/// Which segment of a message it is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Segment {
    /// Its number, from 0.
    pub(super) number: u16,
    /// Bytes of payload before it.
    pub(super) offset: u32,
    /// There is no further one.
    pub(super) last: bool,
}

/// TCP flags FIN and PSH, which only the last segment has (RFC 9293 3.1, "Header Format").
const FIN_PSH: u8 = 1 << 0 | 1 << 3;

impl Context {
    /// Makes the headers of `frame` those of a segment. The driver has left the lengths out of the headers and of the pseudo header's sum.
    pub(super) fn cut(&self, frame: &mut [u8], segment: Segment) {
        let len = frame.len();
        let after = |start: usize| len.saturating_sub(start) as u16;
        let ip = self.ip.start;
        if self.ipv4 {
            put(frame, ip + 2, after(ip));
            let number = word(frame, ip + 4).wrapping_add(segment.number);
            put(frame, ip + 4, number);
        } else {
            put(frame, ip + 4, after(ip + 40));
        }
        let transport = self.transport.start;
        if self.tcp {
            if let Some(bytes) = frame
                .get_mut(transport + 4..)
                .and_then(|b| b.first_chunk_mut::<4>())
            {
                let number = u32::from_be_bytes(*bytes).wrapping_add(segment.offset);
                *bytes = number.to_be_bytes();
            }
            if !segment.last
                && let Some(flags) = frame.get_mut(transport + 13)
            {
                *flags &= !FIN_PSH;
            }
        } else {
            put(frame, transport + 4, after(transport));
        }
        let at = self.transport.at;
        let seed = sum(word(frame, at), &after(transport).to_be_bytes());
        put(frame, at, seed);
    }
}

/// What the card has found out about checksums of a frame: whether they are right. None: it has not looked.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Checked {
    pub(super) ip: Option<bool>,
    pub(super) transport: Option<bool>,
}

/// Ethernet types (IEEE 802 numbers), protocols (assigned internet protocol numbers).
const IPV4: u16 = 0x0800;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// Checks the IPv4 packet in `frame`, if there is one. Of fragments and options of IPv6 the card knows nothing.
pub(super) fn check(frame: &[u8]) -> Checked {
    let mut checked = Checked::default();
    let Some((ethernet, packet)) = frame.split_at_checked(ETHERNET) else {
        return checked;
    };
    let Some(&first) = packet.first() else {
        return checked;
    };
    let (header, total) = (usize::from(first & 0xf) * 4, usize::from(word(packet, 2)));
    if word(ethernet, 12) != IPV4 || first >> 4 != 4 || header < 20 || total < header {
        return checked;
    }
    // Behind the packet there may be padding.
    let Some((header, payload)) = packet
        .get(..total)
        .and_then(|packet| packet.split_at_checked(header))
    else {
        return checked;
    };
    checked.ip = Some(sum(0, header) == 0xffff);
    let is_fragment = word(header, 6) & 0x3fff != 0;
    let protocol = header[9];
    let has_sum = match protocol {
        TCP => payload.len() >= 20,
        UDP => payload.len() >= 8 && word(payload, 6) != 0,
        _ => false,
    };
    if has_sum && !is_fragment {
        let [high, low] = (payload.len() as u16).to_be_bytes();
        let pseudo = sum(sum(0, &header[12..20]), &[0, protocol, high, low]);
        checked.transport = Some(sum(pseudo, payload) == 0xffff);
    }
    checked
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A TCP segment in IPv4 with right checksums.
    fn tcp(payload: usize) -> Vec<u8> {
        let mut frame = vec![0; 54 + payload];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        put(&mut frame, 16, 40 + payload as u16);
        frame[23] = TCP;
        frame[26..34].copy_from_slice(&[10, 0, 2, 15, 10, 0, 2, 2]);
        frame[46] = 0x50;
        for (n, byte) in (0u8..).zip(&mut frame[54..]) {
            *byte = n;
        }
        let pseudo = sum(sum(0, &frame[26..34]), &[0, TCP, 0, 20 + payload as u8]);
        put(&mut frame, 50, pseudo);
        let ip = Checksum {
            start: 14,
            at: 24,
            last: 33,
        };
        ip.insert(&mut frame, false);
        let transport = Checksum {
            start: 34,
            at: 50,
            last: 0,
        };
        transport.insert(&mut frame, false);
        frame
    }

    #[test]
    fn inserted_checksums_are_found_right_and_a_wrong_byte_wrong() {
        let mut frame = tcp(11);
        let right = Some(true);
        assert_eq!(
            check(&frame),
            Checked {
                ip: right,
                transport: right
            }
        );
        frame.extend([0; 6]);
        assert_eq!(check(&frame).transport, right, "padding does not count");
        frame[60] ^= 1;
        assert_eq!(
            (check(&frame).ip, check(&frame).transport),
            (right, Some(false))
        );
        frame[15] ^= 1;
        assert_eq!(check(&frame).ip, Some(false));
        frame[20] = 0x20;
        assert_eq!(check(&frame).transport, None, "a fragment");
    }

    #[test]
    fn what_is_no_packet_is_not_looked_at() {
        let whole = tcp(0);
        for len in 0..whole.len() {
            assert_eq!(check(&whole[..len]).transport, None);
        }
        for (at, value) in [(12, 9), (14, 0x65), (14, 0x44), (17, 10)] {
            let mut frame = whole.clone();
            frame[at] = value;
            assert_eq!(check(&frame), Checked::default(), "{at}");
        }
    }

    #[test]
    fn places_outside_the_frame_are_left_alone() {
        let mut frame = [1, 2, 3, 4];
        for (start, at, last) in [(5, 0, 0), (0, 3, 0), (0, 9, 9), (3, 0, 1)] {
            Checksum { start, at, last }.insert(&mut frame, false);
        }
        assert_eq!(frame, [1, 2, 3, 4]);
        let context = Context {
            tcp: true,
            ..Context::default()
        };
        for len in 0..40 {
            context.cut(&mut vec![0; len], Segment::default());
        }
    }
}
