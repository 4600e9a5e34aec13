//! The header before each frame (VIRTIO 1.2 5.1.6, "Device Operation"): what is left to be done of it.

use super::super::queue::{Buffer, Fault, chain};
use hv_core::mem::GuestMemory;
use hv_core::offload::{Checksum, Ip, LARGEST, LONGEST, Offload, Offloads};

/// Its bytes.
pub const NEW: usize = 12;
/// Those of the header of older versions without merged buffers, which lacks its last field.
pub const LEGACY: usize = 10;

// Offsets: flags, type of division, length of the headers, bytes of a segment, where the checksum begins, where its field is from there, buffers.
const FLAGS: usize = 0;
const GSO_TYPE: usize = 1;
const HDR_LEN: usize = 2;
const GSO_SIZE: usize = 4;
const CSUM_START: usize = 6;
const CSUM_OFFSET: usize = 8;
const NUM_BUFFERS: usize = 10;

/// The checksum is to be completed.
const NEEDS_CSUM: u8 = 1;
/// Types of division: none, TCP over IPv4, TCP over IPv6.
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;

/// A header, as it was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    flags: u8,
    gso_type: u8,
    /// A hint, which nobody relies on (5.1.6.2.2, "Device Requirements: Packet Transmission").
    hdr_len: u16,
    gso_size: u16,
    checksum: Checksum,
}

impl Header {
    /// That at the beginning of `parts`, which are long enough.
    pub(super) fn read(memory: &dyn GuestMemory, parts: &[Buffer]) -> Result<Self, Fault> {
        let mut bytes = [0; LEGACY];
        chain::read(memory, parts, 0, &mut bytes)?;
        Ok(Self::from_bytes(bytes))
    }

    /// That which is in `bytes`.
    #[must_use]
    pub fn from_bytes(bytes: [u8; LEGACY]) -> Self {
        let [
            flags,
            gso_type,
            _,
            _,
            size_low,
            size_high,
            start_low,
            start_high,
            offset_low,
            offset_high,
        ] = bytes;
        Self {
            flags,
            gso_type,
            hdr_len: 0,
            gso_size: u16::from_le_bytes([size_low, size_high]),
            checksum: Checksum {
                start: u16::from_le_bytes([start_low, start_high]),
                offset: u16::from_le_bytes([offset_low, offset_high]),
            },
        }
    }

    /// That of a frame of which `offload` is left to be done.
    #[must_use]
    pub fn of(offload: &Offload) -> Self {
        let checksum = offload.checksum();
        let segments = offload.segments();
        Self {
            flags: if checksum.is_some() { NEEDS_CSUM } else { 0 },
            gso_type: match segments.map(|s| s.ip) {
                None => GSO_NONE,
                Some(Ip::V4) => GSO_TCPV4,
                Some(Ip::V6) => GSO_TCPV6,
            },
            hdr_len: segments.map_or(0, |s| s.headers),
            gso_size: segments.map_or(0, |s| s.size),
            checksum: checksum.unwrap_or(Checksum {
                start: 0,
                offset: 0,
            }),
        }
    }

    /// Writes it to `to`, with no number of buffers.
    pub fn write(&self, to: &mut [u8]) {
        to.fill(0);
        let mut put = |at: usize, value: &[u8]| {
            let to = to.iter_mut().skip(at);
            to.zip(value).for_each(|(to, from)| *to = *from);
        };
        put(FLAGS, &[self.flags]);
        put(GSO_TYPE, &[self.gso_type]);
        put(HDR_LEN, &self.hdr_len.to_le_bytes());
        put(GSO_SIZE, &self.gso_size.to_le_bytes());
        put(CSUM_START, &self.checksum.start.to_le_bytes());
        put(CSUM_OFFSET, &self.checksum.offset.to_le_bytes());
    }

    /// The longest frame behind it, of a driver that may leave what `takes` says.
    #[must_use]
    pub const fn longest(&self, takes: Offloads) -> usize {
        match self.gso_type {
            GSO_TCPV4 if takes.contains(Offloads::TCP4) => LARGEST,
            GSO_TCPV6 if takes.contains(Offloads::TCP6) => LARGEST,
            _ => LONGEST,
        }
    }

    /// What it leaves to be done of `frame`, of a driver that may leave what `takes` says. None: that cannot be done. A driver that may leave
    /// nothing has said nothing, whatever is here.
    #[must_use]
    pub fn offload(&self, frame: &[u8], takes: Offloads) -> Option<Offload> {
        if !takes.contains(Offloads::CHECKSUM) {
            return Some(Offload::NONE);
        }
        let needs = self.flags & NEEDS_CSUM != 0;
        let Checksum { start, offset } = self.checksum;
        let offload = match self.gso_type {
            GSO_NONE if !needs => return Some(Offload::NONE),
            GSO_NONE => Offload::checksum_of(frame, start, offset)?,
            // "If gso_type differs from VIRTIO_NET_HDR_GSO_NONE, the driver MUST also set the VIRTIO_NET_HDR_F_NEEDS_CSUM bit" (5.1.6.2.1).
            _ if !needs => return None,
            GSO_TCPV4 => Offload::segments_of(frame, Ip::V4, self.gso_size, self.checksum)?,
            GSO_TCPV6 => Offload::segments_of(frame, Ip::V6, self.gso_size, self.checksum)?,
            _ => return None,
        };
        takes.contains(offload.needs()).then_some(offload)
    }
}

/// In how many buffers the frame lies whose first begins with a header of `len` bytes.
#[must_use]
pub fn buffers(first: &[u8], len: usize) -> u16 {
    let number = first.get(NUM_BUFFERS..NEW).filter(|_| len == NEW);
    number.map_or(1, |number| u16::from_le_bytes([number[0], number[1]]))
}

/// Says in the header, of `len` bytes, of the frame `whole` in how many buffers it lies.
pub(super) fn set_buffers(whole: &mut [u8], len: usize, count: u16) {
    if len == NEW
        && let Some(to) = whole.get_mut(NUM_BUFFERS..NEW)
    {
        to.copy_from_slice(&count.to_le_bytes());
    }
}
