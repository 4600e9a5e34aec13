//! What the multimedia commands of a CD-ROM drive answer: the structures of MMC-4 6 and 7. The medium is one session with
//! one data track.

use super::drive::{Cdrom, MediaEvent};
use super::packet::{PACKET_LEN, Reply, Sense, answer, be16, be32};

/// Blocks of the longest CD, of 80 minutes. A larger medium is a DVD.
const CD_BLOCKS_MAX: u32 = 80 * 60 * 75;
/// The lead-out's track number.
const LEAD_OUT: u8 = 0xaa;
/// Control and address of a data track: data, position in Q.
const DATA_TRACK: u8 = 0x14;
/// Profile of a CD-ROM. MMC-4 5, "Features and Profiles".
const PROFILE_CD_ROM: u16 = 0x0008;
/// Profile of a DVD-ROM.
const PROFILE_DVD_ROM: u16 = 0x0010;
/// First physical sector of the data area of a DVD.
const DVD_DATA_START: u32 = 0x3_0000;

/// An answer under construction, long enough for all that are not padded to a block.
struct Builder {
    bytes: [u8; 128],
    len: usize,
}

impl Builder {
    fn new() -> Self {
        Self {
            bytes: [0; 128],
            len: 0,
        }
    }
    fn put(&mut self, data: &[u8]) {
        if let Some(to) = self.bytes.get_mut(self.len..self.len + data.len()) {
            to.copy_from_slice(data);
            self.len += data.len();
        }
    }
    /// Stores at `at`, in two bytes, how many bytes follow offset `after`.
    fn set_length(&mut self, at: usize, after: usize) {
        let n = (self.len - after) as u16;
        self.bytes[at..at + 2].copy_from_slice(&n.to_be_bytes());
    }
    fn answer(&self, buf: &mut [u8], allocation: u16) -> Reply {
        answer(buf, &self.bytes[..self.len], allocation)
    }
}

/// `lba` as four bytes: minute, second and frame, or the number itself.
fn address(lba: u32, msf: bool) -> [u8; 4] {
    if !msf {
        return lba.to_be_bytes();
    }
    let frames = lba.saturating_add(150);
    [
        0,
        (frames / 75 / 60).min(255) as u8,
        (frames / 75 % 60) as u8,
        (frames % 75) as u8,
    ]
}

/// MODE SENSE (6) and (10). MMC-4 7, "Mode Parameters".
pub(crate) fn mode_sense(cd: &Cdrom, cdb: &[u8; PACKET_LEN], buf: &mut [u8], ten: bool) -> Reply {
    const SAVED: u8 = 3;
    const ALL: u8 = 0x3f;
    if cdb[2] >> 6 == SAVED {
        return Reply::Failed(Sense::NO_SAVED_PAGES);
    }
    let page = cdb[2] & 0x3f;
    let medium_type = if cd.tray_open {
        0x71
    } else if cd.medium.is_none() {
        0x70
    } else {
        0x01 // data CD of 120 mm
    };
    let mut b = Builder::new();
    if ten {
        b.put(&[0, 0, medium_type, 0, 0, 0, 0, 0]);
    } else {
        b.put(&[0, medium_type, 0, 0]);
    }
    let header = b.len;
    if matches!(page, 0x01 | ALL) {
        b.put(&[0x01, 6, 0, 5, 0, 0, 0, 0]); // read/write error recovery: five retries
    }
    if matches!(page, 0x0e | ALL) {
        b.put(&[0x0e, 14, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // audio control
    }
    if matches!(page, 0x2a | ALL) {
        // Capabilities: reads CD-R, CD-RW, DVD-ROM; tray that ejects and locks; 706 kB/s; 512 KiB buffer.
        let mechanism = 0x29 | u8::from(cd.locked) << 1;
        b.put(&[
            0x2a, 18, 0x0b, 0, 0, 0, mechanism, 0, 2, 0xc2, 0, 2, 2, 0, 2, 0xc2, 0, 0, 0, 0,
        ]);
    }
    if b.len == header {
        return Reply::Failed(Sense::INVALID_FIELD);
    }
    if ten {
        b.set_length(0, 2);
        b.answer(buf, be16(cdb, 7))
    } else {
        b.bytes[0] = (b.len - 1) as u8;
        b.answer(buf, cdb[4].into())
    }
}

/// GET CONFIGURATION. MMC-4 5, "Features and Profiles".
pub(crate) fn configuration(cd: &Cdrom, cdb: &[u8; PACKET_LEN], buf: &mut [u8]) -> Reply {
    const PERSISTENT: u8 = 2;
    let blocks = cd.blocks();
    let dvd = blocks.is_some_and(|b| b > CD_BLOCKS_MAX);
    let disc = blocks.is_some() && !dvd;
    let profile = match blocks {
        None => 0,
        Some(_) if dvd => PROFILE_DVD_ROM,
        Some(_) => PROFILE_CD_ROM,
    };
    let [dvd_high, dvd_low] = PROFILE_DVD_ROM.to_be_bytes();
    let [cd_high, cd_low] = PROFILE_CD_ROM.to_be_bytes();
    // Number, version, currently valid, data.
    let features: [(u16, u8, bool, &[u8]); 7] = [
        (
            0x0000,
            PERSISTENT,
            true,
            &[
                dvd_high,
                dvd_low,
                dvd.into(),
                0,
                cd_high,
                cd_low,
                disc.into(),
                0,
            ],
        ),
        (0x0001, PERSISTENT, true, &[0, 0, 0, 2]), // core: ATAPI
        (0x0002, PERSISTENT, true, &[0, 0, 0, 0]), // morphing: polled events only
        (0x0003, PERSISTENT, true, &[0x29, 0, 0, 0]), // removable medium: tray, eject, lock
        (0x0010, 0, blocks.is_some(), &[0, 0, 8, 0, 0, 16, 0, 0]), // random readable, 2,048 bytes a block
        (0x001e, 0, disc, &[]),                                    // CD read
        (0x001f, 0, dvd, &[]),                                     // DVD read
    ];
    let (kind, start) = (cdb[1] & 3, be16(cdb, 2));
    let mut b = Builder::new();
    b.put(&[0; 6]);
    b.put(&profile.to_be_bytes());
    for (number, flags, current, data) in features {
        let wanted = match kind {
            0 => number >= start,
            1 => number >= start && current,
            2 => number == start,
            _ => return Reply::Failed(Sense::INVALID_FIELD),
        };
        if wanted {
            b.put(&number.to_be_bytes());
            b.put(&[flags | u8::from(current), data.len() as u8]);
            b.put(data);
        }
    }
    b.set_length(2, 4); // the upper half of the length is zero
    b.answer(buf, be16(cdb, 7))
}

/// GET EVENT STATUS NOTIFICATION, polled, media class.
pub(crate) fn event_status(cd: &mut Cdrom, cdb: &[u8; PACKET_LEN], buf: &mut [u8]) -> Reply {
    const POLLED: u8 = 1;
    const MEDIA: u8 = 4;
    const NO_EVENT_AVAILABLE: u8 = 0x80;
    if cdb[1] & POLLED == 0 {
        return Reply::Failed(Sense::INVALID_FIELD);
    }
    let allocation = be16(cdb, 7);
    if cdb[4] & 1 << MEDIA == 0 {
        return answer(buf, &[0, 2, NO_EVENT_AVAILABLE, 1 << MEDIA], allocation);
    }
    let event = match cd.event {
        MediaEvent::None => 0,
        MediaEvent::New => 2,
        MediaEvent::Removed => 3,
    };
    if allocation > 4 {
        cd.event = MediaEvent::None;
    }
    let status = u8::from(cd.tray_open) | u8::from(cd.blocks().is_some()) << 1;
    answer(
        buf,
        &[0, 6, MEDIA, 1 << MEDIA, event, status, 0, 0],
        allocation,
    )
}

/// MECHANISM STATUS.
pub(crate) fn mechanism_status(cd: &Cdrom, cdb: &[u8; PACKET_LEN], buf: &mut [u8]) -> Reply {
    const DOOR_OPEN: u8 = 0x10;
    answer(
        buf,
        &[0, u8::from(cd.tray_open) * DOOR_OPEN, 0, 0, 0, 0, 0, 0],
        be16(cdb, 8),
    )
}

/// READ SUB-CHANNEL: no audio is playing.
pub(crate) fn subchannel(cdb: &[u8; PACKET_LEN], buf: &mut [u8]) -> Reply {
    const NO_AUDIO: u8 = 0x15;
    let allocation = be16(cdb, 7);
    if cdb[2] & 0x40 == 0 {
        return answer(buf, &[0, NO_AUDIO, 0, 0], allocation);
    }
    match cdb[3] {
        1 => answer(
            buf,
            &[
                0, NO_AUDIO, 0, 12, 1, DATA_TRACK, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0,
            ],
            allocation,
        ),
        format @ (2 | 3) => {
            let mut d = [0; 24]; // catalogue number, recording code: there is none
            d[..5].copy_from_slice(&[0, NO_AUDIO, 0, 20, format]);
            answer(buf, &d, allocation)
        }
        _ => Reply::Failed(Sense::INVALID_FIELD),
    }
}

/// READ TOC/PMA/ATIP, formats 0 (tracks), 1 (sessions) and 2 (full).
pub(crate) fn toc(cdb: &[u8; PACKET_LEN], buf: &mut [u8], blocks: u32) -> Reply {
    let msf = cdb[1] & 2 != 0;
    let start = cdb[6];
    // Older drives had the format in the last byte.
    let format = if cdb[2] & 0xf != 0 {
        cdb[2] & 0xf
    } else {
        cdb[9] >> 6
    };
    let mut b = Builder::new();
    b.put(&[0, 0, 1, 1]);
    match format {
        0 => {
            if start > 1 && start != LEAD_OUT {
                return Reply::Failed(Sense::INVALID_FIELD);
            }
            if start <= 1 {
                b.put(&[0, DATA_TRACK, 1, 0]);
                b.put(&address(0, msf));
            }
            b.put(&[0, DATA_TRACK, LEAD_OUT, 0]);
            b.put(&address(blocks, msf));
        }
        1 => {
            b.put(&[0, DATA_TRACK, 1, 0]);
            b.put(&address(0, msf));
        }
        2 => {
            let [_, minute, second, frame] = address(blocks, true);
            for (point, position) in [
                (0xa0, [1, 0, 0]), // first track, disc type
                (0xa1, [1, 0, 0]), // last track
                (0xa2, [minute, second, frame]),
                (0x01, [0, 2, 0]),
            ] {
                b.put(&[1, DATA_TRACK, 0, point, 0, 0, 0, 0]);
                b.put(&position);
            }
        }
        _ => return Reply::Failed(Sense::INVALID_FIELD),
    }
    b.set_length(0, 2);
    b.answer(buf, be16(cdb, 7))
}

/// READ DISC INFORMATION: a finished disc.
pub(crate) fn disc_information(cdb: &[u8; PACKET_LEN], buf: &mut [u8]) -> Reply {
    if cdb[1] & 7 != 0 {
        return Reply::Failed(Sense::INVALID_FIELD);
    }
    let mut d = [0; 34];
    d[..8].copy_from_slice(&[0, 32, 0x0e, 1, 1, 1, 1, 0x20]);
    answer(buf, &d, be16(cdb, 7))
}

/// READ TRACK INFORMATION of the only track.
pub(crate) fn track_information(cdb: &[u8; PACKET_LEN], buf: &mut [u8], blocks: u32) -> Reply {
    let at = be32(cdb, 2);
    match cdb[1] & 3 {
        0 if at < blocks => {}
        0 => return Reply::Failed(Sense::OUT_OF_RANGE),
        1 | 2 if matches!(at, 1 | 0xff) => {}
        _ => return Reply::Failed(Sense::INVALID_FIELD),
    }
    let mut d = [0; 36];
    d[..7].copy_from_slice(&[0, 34, 1, 1, 0, 4, 1]); // track 1, session 1, data, mode 1
    d[24..28].copy_from_slice(&blocks.to_be_bytes());
    answer(buf, &d, be16(cdb, 7))
}

/// READ DVD STRUCTURE, formats 0 (physical), 1 (copyright), 4 (manufacturer) and FFh (list).
pub(crate) fn dvd_structure(cdb: &[u8; PACKET_LEN], buf: &mut [u8], blocks: u32) -> Reply {
    const PAGE: usize = 2048;
    let (layer, format, allocation) = (cdb[6], cdb[7], be16(cdb, 8));
    if blocks <= CD_BLOCKS_MAX {
        return Reply::Failed(Sense::INCOMPATIBLE);
    }
    if cdb[1] & 0xf != 0 || layer != 0 {
        return Reply::Failed(Sense::INVALID_FIELD);
    }
    let mut d = [0; 4 + PAGE];
    let len = match format {
        0 => {
            let last = DVD_DATA_START.saturating_add(blocks - 1);
            d[4..8].copy_from_slice(&[1, 0x0f, 1, 0]); // DVD-ROM, 120 mm, one embossed layer
            d[8..12].copy_from_slice(&DVD_DATA_START.to_be_bytes());
            d[12..16].copy_from_slice(&last.to_be_bytes());
            d[16..20].copy_from_slice(&last.to_be_bytes());
            PAGE
        }
        1 => 4, // no copy protection
        4 => PAGE,
        0xff => {
            for (entry, (format, len)) in [(0u8, 0x804u16), (1, 8), (4, 0x804)]
                .into_iter()
                .enumerate()
            {
                let at = 4 + entry * 4;
                d[at] = format;
                d[at + 1] = 0x40; // readable
                d[at + 2..at + 4].copy_from_slice(&len.to_be_bytes());
            }
            12
        }
        _ => return Reply::Failed(Sense::INVALID_FIELD),
    };
    d[..2].copy_from_slice(&(len as u16 + 2).to_be_bytes());
    answer(buf, &d[..4 + len], allocation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cdb(bytes: &[u8]) -> [u8; PACKET_LEN] {
        let mut c = [0; PACKET_LEN];
        c[..bytes.len()].copy_from_slice(bytes);
        c
    }

    fn data(f: impl Fn(&mut [u8]) -> Reply) -> Vec<u8> {
        let mut buf = vec![0; 4096];
        match f(&mut buf) {
            Reply::Data(n) => buf[..n].to_vec(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn toc_has_one_data_track_and_the_lead_out() {
        let c = cdb(&[0x43, 0, 0, 0, 0, 0, 0, 0, 255]);
        let d = data(|b| toc(&c, b, 0x1234));
        assert_eq!(
            d,
            [
                0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x14, 0xaa, 0, 0, 0, 0x12, 0x34
            ]
        );
    }

    #[test]
    fn toc_in_minutes_counts_the_two_seconds_of_lead_in() {
        let c = cdb(&[0x43, 2, 0, 0, 0, 0, 0xaa, 0, 255]);
        assert_eq!(data(|b| toc(&c, b, 75 * 60))[8..], [0, 1, 2, 0]);
    }

    #[test]
    fn medium_longer_than_a_cd_has_a_dvd_structure() {
        let c = cdb(&[0xad, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
        let mut buf = [0; 4096];
        assert_eq!(
            dvd_structure(&c, &mut buf, CD_BLOCKS_MAX),
            Reply::Failed(Sense::INCOMPATIBLE)
        );
        let d = data(|b| dvd_structure(&c, b, 1_000_000));
        assert_eq!((d.len(), &d[..2]), (2052, &[8u8, 2][..]));
        assert_eq!(d[12..16], (0x3_0000u32 + 999_999).to_be_bytes());
    }

    #[test]
    fn no_answer_outgrows_its_builder() {
        let mut b = Builder::new();
        b.put(&[1; 100]);
        b.put(&[1; 100]);
        assert_eq!(b.len, 100);
    }

    #[test]
    fn address_past_the_last_minute_saturates() {
        assert_eq!(address(u32::MAX, true)[1], 255);
    }
}
