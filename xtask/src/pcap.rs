//! What was on a wire, as QEMU's filter-dump writes it: a file of tcpdump's first format (libpcap's `pcap-savefile(5)`).

use anyhow::{Context, Result, ensure};

/// Microseconds, in this machine's byte order.
const MAGIC: u32 = 0xa1b2_c3d4;
const FILE_HEADER: usize = 24;
const FRAME_HEADER: usize = 16;
/// Where the number of bytes is that were kept of a frame.
const KEPT: usize = 8;

/// Ethernet types (IEEE 802 numbers).
const IPV4: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];

/// A frame, as far as it tells who has sent it, and to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Ethernet addresses.
    pub to: [u8; 6],
    /// See [`Frame::to`].
    pub from: [u8; 6],
    /// The sender's IPv4 address, in IP and in ARP.
    pub ip: Option<[u8; 4]>,
}

/// All frames of a file. The last may be cut off, as by an emulator that is killed.
///
/// # Errors
///
/// It is no such file.
pub fn frames(file: &[u8]) -> Result<Vec<Frame>> {
    let magic = file.first_chunk::<4>().context("it is too short")?;
    ensure!(u32::from_ne_bytes(*magic) == MAGIC, "it is no capture");
    let mut rest = file.get(FILE_HEADER..).unwrap_or_default();
    let mut all = Vec::new();
    while let Some((header, more)) = rest.split_at_checked(FRAME_HEADER) {
        let len = header.get(KEPT..).and_then(|kept| kept.first_chunk::<4>());
        let len = len.map_or(0, |len| u32::from_ne_bytes(*len)) as usize;
        let Some((bytes, next)) = more.split_at_checked(len) else {
            break;
        };
        all.extend(frame(bytes));
        rest = next;
    }
    Ok(all)
}

fn frame(bytes: &[u8]) -> Option<Frame> {
    let (&to, rest) = bytes.split_first_chunk::<6>()?;
    let (&from, rest) = rest.split_first_chunk::<6>()?;
    let (kind, packet) = rest.split_first_chunk::<2>()?;
    let ip = match *kind {
        IPV4 => packet.get(12..16),
        ARP => packet.get(14..18),
        _ => None,
    };
    let ip = ip.and_then(|ip| ip.first_chunk::<4>()).copied();
    Some(Frame { to, from, ip })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_tell_their_senders() {
        let mut file = MAGIC.to_ne_bytes().to_vec();
        file.extend([0; 20]);
        for (kind, at) in [(IPV4, 12), (ARP, 14), ([0x86, 0xdd], 0)] {
            let mut bytes = [[1; 6], [2; 6]].concat();
            bytes.extend(kind);
            bytes.extend([0; 46]);
            bytes[14 + at..18 + at].copy_from_slice(&[10, 0, 2, 15]);
            file.extend([0; 8]);
            file.extend(60_u32.to_ne_bytes());
            file.extend(60_u32.to_ne_bytes());
            file.extend(bytes);
        }
        let whole = frames(&file).unwrap();
        let ips: Vec<_> = whole.iter().map(|frame| frame.ip).collect();
        assert_eq!(ips, [Some([10, 0, 2, 15]), Some([10, 0, 2, 15]), None]);
        assert!(
            whole
                .iter()
                .all(|frame| (frame.to, frame.from) == ([1; 6], [2; 6]))
        );
        assert_eq!(frames(&file[..file.len() - 1]).unwrap().len(), 2);
        assert!(frames(&[0; 30]).is_err() && frames(&[]).is_err());
    }
}
