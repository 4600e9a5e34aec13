//! What a network card's driver may leave to others of a frame that it sends: its checksum, and its division into segments.
//!
//! Whoever hands the frame on either leaves that to the next, who takes it so, or [finishes](Offload::finish) it. The terms are those of VIRTIO 1.2
//! 5.1.6, "Device Operation"; an [`Offload`] exists only for frames in which its places are there and mean what they should, so nobody
//! has to look a second time. Frames that say otherwise are the driver's mistake and go nowhere.
//!
//! Sources: RFC 791, 3.1, "Internet Header Format"; RFC 8200, 3, "IPv6 Header Format"; RFC 9293, 3.1,
//! "Header Format". Not there: IPv6 with extension headers, segments of UDP, tunnels.

use crate::checksum::sum;

bitflags::bitflags! {
    /// What may be left to be done of frames.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Offloads: u8 {
        /// The checksum.
        const CHECKSUM = 1 << 0;
        /// The division of TCP over IPv4 into segments.
        const TCP4 = 1 << 1;
        /// That of TCP over IPv6.
        const TCP6 = 1 << 2;
    }
}

/// The longest frame on a wire, with a VLAN tag, without the check sequence (IEEE 802.3 3.1.1, "Packet format").
pub const LONGEST: usize = 1518;
/// The longest frame that is to be divided: 65,535 bytes behind the Ethernet header with its tag.
pub const LARGEST: usize = 18 + 65_535;

/// Ethernet: where the type is, and the types.
const TYPE: usize = 12;
const VLAN: u16 = 0x8100;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// IPv4: total length, identification, fragment, protocol, checksum, source (RFC 791, 3.1).
const V4_LENGTH: usize = 2;
const V4_ID: usize = 4;
const V4_FRAGMENT: usize = 6;
const V4_PROTOCOL: usize = 9;
const V4_CHECKSUM: usize = 10;
const V4_ADDRESSES: core::ops::Range<usize> = 12..20;
/// More fragments, and the fragment offset.
const FRAGMENT: u16 = 0x3fff;
/// IPv6: payload length, next header, addresses (RFC 8200, 3).
const V6_LENGTH: usize = 4;
const V6_NEXT: usize = 6;
const V6_ADDRESSES: core::ops::Range<usize> = 8..40;
const V6_HEADER: usize = 40;
/// TCP: sequence number, data offset, flags, checksum (RFC 9293, 3.1).
const TCP: u8 = 6;
const TCP_SEQUENCE: usize = 4;
const TCP_OFFSET: usize = 12;
const TCP_FLAGS: usize = 13;
const TCP_CHECKSUM: u16 = 16;
const TCP_HEADER: usize = 20;
const FIN: u8 = 1;
const PSH: u8 = 8;
const CWR: u8 = 0x80;
/// The least bytes of a segment: with fewer, a frame would become too many.
const LEAST: u16 = 48;

/// Where a checksum is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checksum {
    /// It covers the frame from here on. Its field holds the sum of what else it covers.
    pub start: u16,
    /// Where its field is, from `start` on.
    pub offset: u16,
}

/// The version of the Internet protocol below TCP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ip {
    /// Version 4.
    V4,
    /// Version 6.
    V6,
}

/// How a frame is to be divided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segments {
    /// What is below TCP.
    pub ip: Ip,
    /// Bytes of data of each but the last.
    pub size: u16,
    /// The length of all headers, which each has.
    pub headers: u16,
    /// Where the Internet header is.
    internet: u16,
}

/// What is left to be done of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offload {
    checksum: Option<Checksum>,
    segments: Option<Segments>,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u16::from_be_bytes)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    let to = bytes.iter_mut().skip(at);
    to.zip(value).for_each(|(to, from)| *to = *from);
}

/// The checksum that belongs to a sum. Zero, which UDP takes for none, has another form.
fn checksum(sum: u16) -> [u8; 2] {
    match !sum {
        0 => [0xff; 2],
        sum => sum.to_be_bytes(),
    }
}

impl Offload {
    /// Nothing.
    pub const NONE: Self = Self {
        checksum: None,
        segments: None,
    };

    /// The checksum of `frame` from `start` on, whose field is `offset` behind that. None: the frame has no such field.
    #[must_use]
    pub fn checksum_of(frame: &[u8], start: u16, offset: u16) -> Option<Self> {
        let end = usize::from(start) + usize::from(offset) + 2;
        (frame.len() <= LONGEST && end <= frame.len()).then_some(Self {
            checksum: Some(Checksum { start, offset }),
            segments: None,
        })
    }

    /// The division of `frame`, which has a checksum as above, into segments of `size` bytes. None: it is no such frame.
    #[must_use]
    pub fn segments_of(
        frame: &[u8],
        ip: Ip,
        size: u16,
        Checksum { start, offset }: Checksum,
    ) -> Option<Self> {
        let mut kind = TYPE;
        if u16_at(frame, kind)? == VLAN {
            kind += 4;
        }
        let internet = kind + 2;
        let header = frame.get(internet..)?;
        let version = header.first()? >> 4;
        let (wanted, transport) = match ip {
            Ip::V4 => {
                let words = usize::from(header.first()? & 15);
                let whole = u16_at(header, V4_FRAGMENT)? & FRAGMENT == 0;
                let good = version == 4 && words >= 5 && whole && *header.get(V4_PROTOCOL)? == TCP;
                (good.then_some(IPV4)?, words * 4)
            }
            Ip::V6 => {
                let good = version == 6 && *header.get(V6_NEXT)? == TCP;
                (good.then_some(IPV6)?, V6_HEADER)
            }
        };
        let transport = internet + transport;
        let words = usize::from(frame.get(transport + TCP_OFFSET)? >> 4);
        let headers = transport + words * 4;
        let good = u16_at(frame, kind)? == wanted
            && usize::from(start) == transport
            && offset == TCP_CHECKSUM
            && words * 4 >= TCP_HEADER
            && headers < frame.len()
            && frame.len() - internet <= usize::from(u16::MAX)
            && size >= LEAST
            && headers + usize::from(size) <= LONGEST;
        good.then_some(Self {
            checksum: Some(Checksum { start, offset }),
            segments: Some(Segments {
                ip,
                size,
                headers: headers as u16,
                internet: internet as u16,
            }),
        })
    }

    /// The checksum that is left.
    #[must_use]
    pub const fn checksum(&self) -> Option<Checksum> {
        self.checksum
    }

    /// The division that is left.
    #[must_use]
    pub const fn segments(&self) -> Option<Segments> {
        self.segments
    }

    /// What one has to take who takes the frame as it is.
    #[must_use]
    pub fn needs(&self) -> Offloads {
        let mut needs = Offloads::empty();
        needs.set(Offloads::CHECKSUM, self.checksum.is_some());
        match self.segments {
            Some(Segments { ip: Ip::V4, .. }) => needs |= Offloads::TCP4,
            Some(Segments { ip: Ip::V6, .. }) => needs |= Offloads::TCP6,
            None => {}
        }
        needs
    }

    /// Does what is left of `frame`, the one that this was made for, and gives the frames that come of it to `send`.
    pub fn finish(&self, frame: &[u8], send: &mut dyn FnMut(&[u8])) {
        let mut buffer = [0; LONGEST];
        match *self {
            Self {
                segments: Some(segments),
                checksum: Some(checksum),
            } => divide(frame, segments, checksum, &mut buffer, send),
            Self {
                checksum: Some(Checksum { start, offset }),
                ..
            } => {
                let Some(to) = buffer.get_mut(..frame.len()) else {
                    return;
                };
                to.copy_from_slice(frame);
                let start = usize::from(start);
                let sum = sum(0, frame.get(start..).unwrap_or_default());
                put(to, start + usize::from(offset), &checksum(sum));
                send(to);
            }
            _ => send(frame),
        }
    }
}

/// Divides a frame into segments, each with its lengths, numbers and checksums.
fn divide(
    frame: &[u8],
    segments: Segments,
    Checksum { start, offset }: Checksum,
    buffer: &mut [u8; LONGEST],
    send: &mut dyn FnMut(&[u8]),
) {
    let size = usize::from(segments.size).max(1);
    let (internet, headers) = (
        usize::from(segments.internet),
        usize::from(segments.headers),
    );
    let (start, field) = (usize::from(start), usize::from(start) + usize::from(offset));
    let Some((head, data)) = frame.split_at_checked(headers) else {
        return;
    };
    let id = u16_at(head, internet + V4_ID).unwrap_or(0);
    let sequence = head.get(start + TCP_SEQUENCE..);
    let sequence = sequence.and_then(|bytes| bytes.first_chunk().copied());
    let sequence = sequence.map_or(0, u32::from_be_bytes);
    let flags = head.get(start + TCP_FLAGS).copied().unwrap_or(0);
    let count = data.len().div_ceil(size);
    for (n, part) in data.chunks(size).enumerate() {
        let len = headers + part.len();
        let Some(to) = buffer.get_mut(..len) else {
            return;
        };
        put(to, 0, head);
        put(to, headers, part);
        let length = (len - internet) as u16;
        let addresses = match segments.ip {
            Ip::V4 => {
                put(to, internet + V4_LENGTH, &length.to_be_bytes());
                let id = id.wrapping_add(n as u16);
                put(to, internet + V4_ID, &id.to_be_bytes());
                put(to, internet + V4_CHECKSUM, &[0; 2]);
                let sum = sum(0, to.get(internet..start).unwrap_or_default());
                put(to, internet + V4_CHECKSUM, &checksum(sum));
                V4_ADDRESSES
            }
            Ip::V6 => {
                let length = length - V6_HEADER as u16;
                put(to, internet + V6_LENGTH, &length.to_be_bytes());
                V6_ADDRESSES
            }
        };
        let sequence = sequence.wrapping_add((n * size) as u32);
        put(to, start + TCP_SEQUENCE, &sequence.to_be_bytes());
        let mut flags = flags;
        if n != 0 {
            flags &= !CWR;
        }
        if n + 1 != count {
            flags &= !(FIN | PSH);
        }
        put(to, start + TCP_FLAGS, &[flags]);
        put(to, field, &[0; 2]);
        let addresses = internet + addresses.start..internet + addresses.end;
        // The pseudo-header: addresses, protocol, length.
        let [high, low] = ((len - start) as u16).to_be_bytes();
        let pseudo = sum(0, to.get(addresses).unwrap_or_default());
        let pseudo = sum(pseudo, &[0, TCP, high, low]);
        let whole = sum(pseudo, to.get(start..).unwrap_or_default());
        put(to, field, &checksum(whole));
        send(to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;
    use alloc::vec;
    use alloc::vec::Vec;

    const CHECKSUM: u16 = 16;

    /// A frame of TCP with `data` behind it, and where its TCP header is. Its lengths and checksums are not filled in.
    fn tcp(ip: Ip, vlan: bool, options: usize, data: &[u8]) -> (Vec<u8>, u16) {
        let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        if vlan {
            f.extend([0x81, 0, 0, 7]);
        }
        match ip {
            Ip::V4 => {
                f.extend([8, 0, 0x46, 0, 0, 0, 0xff, 0xfe, 0x40, 0, 64, 6, 0, 0]);
                f.extend([10, 0, 2, 15, 10, 0, 2, 2, 1, 1, 1, 1]);
            }
            Ip::V6 => {
                f.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 6, 64]);
                f.extend((0..32).map(|n| n * 7));
            }
        }
        let start = f.len() as u16;
        f.extend([0x12, 0x34, 0, 80, 0xff, 0xff, 0xff, 0x00, 1, 2, 3, 4]);
        f.extend([(5 + options as u8) << 4, 0x99, 1, 0, 0, 0, 0, 0]);
        f.extend(vec![1; options * 4]);
        f.extend(data);
        (f, start)
    }

    /// RFC 1071 as it is written: the sum of all with the checksum is -0.
    fn sums_up(parts: &[&[u8]]) -> bool {
        let mut sum = 0u32;
        for part in parts {
            for pair in part.chunks(2) {
                let low = pair.get(1).copied().unwrap_or(0);
                sum += u32::from(pair[0]) * 256 + u32::from(low);
            }
        }
        while sum > 0xffff {
            sum = sum - 0x1_0000 + 1;
        }
        sum == 0xffff
    }

    fn finished(offload: Offload, frame: &[u8]) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        offload.finish(frame, &mut |f| frames.push(f.to_vec()));
        frames
    }

    #[test]
    fn checksum_is_put_where_the_driver_says_over_the_sum_that_is_there() {
        // RFC 1071, 3, "Numerical Examples": the sum of these is ddf2.
        let mut frame = vec![0; 14];
        frame.extend([0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7, 0, 0]);
        let offload = Offload::checksum_of(&frame, 14, 8).unwrap();
        assert_eq!(offload.needs(), Offloads::CHECKSUM);
        let [done] = &finished(offload, &frame)[..] else {
            panic!("one frame")
        };
        assert_eq!(done[22..], [0x22, 0x0d]);
        assert_eq!(done[..22], frame[..22]);
        assert_eq!(finished(Offload::NONE, &frame), [frame.clone()]);
        // A sum of FFFFh gives no 0.
        let frame = [vec![0; 14], vec![0xff, 0xff, 0, 0]].concat();
        let offload = Offload::checksum_of(&frame, 14, 2).unwrap();
        assert_eq!(finished(offload, &frame)[0][16..], [0xff, 0xff]);
    }

    #[test]
    fn checksum_outside_the_frame_is_refused() {
        let frame = [0; 60];
        assert!(Offload::checksum_of(&frame, 34, 24).is_some());
        for (start, offset) in [(34, 25), (59, 0), (60, 0), (0xffff, 0xffff), (0, 59)] {
            assert!(Offload::checksum_of(&frame, start, offset).is_none());
        }
        assert!(Offload::checksum_of(&[0; 1519], 34, 16).is_none());
    }

    #[test]
    fn segments_are_whole_frames_with_all_of_the_data() {
        let mut random = Random::new(9293);
        for round in 0..300 {
            let ip = if random.one_in(2) { Ip::V4 } else { Ip::V6 };
            let (vlan, options) = (random.one_in(2), random.below(11) as usize);
            let size = (48 + random.below(1300)) as u16;
            let mut data = vec![0; 1 + random.below(60_000) as usize];
            random.fill(&mut data);
            let (frame, start) = tcp(ip, vlan, options, &data);
            let sum = Checksum {
                start,
                offset: CHECKSUM,
            };
            let offload = Offload::segments_of(&frame, ip, size, sum).unwrap();
            let (internet, start) = (if vlan { 18 } else { 14 }, usize::from(start));
            let headers = start + 20 + options * 4;
            let frames = finished(offload, &frame);
            let mut all = Vec::<u8>::new();
            for (n, f) in frames.iter().enumerate() {
                let last = n + 1 == frames.len();
                assert!(f.len() <= LONGEST, "round {round}");
                let sequence = u32::from_be_bytes(f[start + 4..start + 8].try_into().unwrap());
                assert_eq!(sequence, 0xffff_ff00u32.wrapping_add(all.len() as u32));
                let flags = match (n, last) {
                    (0, true) => 0x99,
                    (0, false) => 0x90,
                    (_, true) => 0x19,
                    (_, false) => 0x10,
                };
                assert_eq!(f[start + 13], flags);
                let tcp_len = (f.len() - start) as u16;
                let pseudo = [[0, 6], tcp_len.to_be_bytes()].concat();
                let length = |at| usize::from(u16_at(f, internet + at).unwrap());
                match ip {
                    Ip::V4 => {
                        assert_eq!(length(2), f.len() - internet);
                        assert_eq!(length(4), usize::from(0xfffeu16.wrapping_add(n as u16)));
                        assert!(sums_up(&[&f[internet..start]]));
                        assert!(sums_up(&[
                            &f[internet + 12..internet + 20],
                            &pseudo,
                            &f[start..]
                        ]));
                    }
                    Ip::V6 => {
                        assert_eq!(length(4), f.len() - start);
                        assert!(sums_up(&[&f[internet + 8..start], &pseudo, &f[start..]]));
                    }
                }
                assert!(last || f.len() - headers == usize::from(size));
                all.extend(&f[headers..]);
            }
            assert!(all == data, "round {round}");
        }
    }

    #[test]
    fn frames_that_are_not_what_the_driver_says_are_refused() {
        let (good, start) = tcp(Ip::V4, false, 0, &[7; 5000]);
        let sum = |start, offset| Checksum { start, offset };
        let is = |f: &[u8], ip, size, s| Offload::segments_of(f, ip, size, s).is_some();
        assert!(is(&good, Ip::V4, 1400, sum(start, 16)));
        assert!(!is(&good, Ip::V6, 1400, sum(start, 16)));
        for (size, start, offset) in [
            (0, start, 16),
            (47, start, 16),
            (1500, start, 16),
            (u16::MAX, start, 16),
            (1400, start + 1, 16),
            (1400, 0, 16),
            (1400, start, 6),
            (1400, u16::MAX, u16::MAX),
        ] {
            assert!(!is(&good, Ip::V4, size, sum(start, offset)), "{size}");
        }
        let start16 = sum(start, 16);
        // Type, version, header length, fragment, protocol, data offset.
        let at = usize::from(start);
        for (at, value) in [
            (12, 9),
            (14, 0x66),
            (14, 0x44),
            (14, 0x4f),
            (20, 0x20),
            (21, 1),
            (23, 17),
            (at + 12, 0x40),
        ] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(!is(&bad, Ip::V4, 1400, start16), "{at}: {value:#x}");
        }
        // No data, and too much.
        assert!(!is(&good[..at + 20], Ip::V4, 1400, start16));
        let (long, _) = tcp(Ip::V4, false, 0, &[7; 65_536]);
        assert!(!is(&long, Ip::V4, 1400, start16));
        for len in 0..at + 20 {
            assert!(!is(&good[..len], Ip::V4, 1400, start16));
            assert!(!is(&good[..len], Ip::V6, 1400, start16));
        }
    }
}
