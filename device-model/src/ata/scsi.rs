//! The packets of a CD-ROM drive: SCSI command descriptor blocks. SPC-3 6, "Commands for all device types"; MMC-4 6,
//! "Commands"; SFF-8020i. What the multimedia commands answer is built in [`mmc`](mod@super::mmc).
//!
//! A unit attention (power-on, or another medium) is reported once, by the first command that is not INQUIRY, REQUEST SENSE,
//! GET CONFIGURATION or GET EVENT STATUS NOTIFICATION. A reset of the channel or drive alone does not raise one.
//!
//! A drive reports 28h, "not ready to ready change, medium may have changed", since it cannot know what was put on its open tray. Here
//! another medium comes from outside only ([`Cdrom::change`]), so a tray that the guest has opened and closes again has the same medium
//! on it, and that is no attention: as in QEMU (`hw/ide/atapi.c`), whose guests know it so. Linux closes the tray on its own when an
//! ejected disc is mounted, and lets the first read fail that meets a unit attention (`scsi_io_completion`).

use super::drive::{Cdrom, MediaEvent};
use super::identify::{CDROM_MODEL, FIRMWARE};
use super::mmc;
use super::packet::{PACKET_LEN, Reply, Sense, answer, be16, be32};

/// Operation codes.
mod op {
    pub(crate) const TEST_UNIT_READY: u8 = 0x00;
    pub(crate) const REQUEST_SENSE: u8 = 0x03;
    pub(crate) const INQUIRY: u8 = 0x12;
    pub(crate) const MODE_SENSE_6: u8 = 0x1a;
    pub(crate) const START_STOP_UNIT: u8 = 0x1b;
    pub(crate) const PREVENT_ALLOW_MEDIUM_REMOVAL: u8 = 0x1e;
    pub(crate) const READ_CAPACITY: u8 = 0x25;
    pub(crate) const READ_10: u8 = 0x28;
    pub(crate) const SEEK_10: u8 = 0x2b;
    pub(crate) const READ_SUBCHANNEL: u8 = 0x42;
    pub(crate) const READ_TOC: u8 = 0x43;
    pub(crate) const GET_CONFIGURATION: u8 = 0x46;
    pub(crate) const GET_EVENT_STATUS: u8 = 0x4a;
    pub(crate) const READ_DISC_INFORMATION: u8 = 0x51;
    pub(crate) const READ_TRACK_INFORMATION: u8 = 0x52;
    pub(crate) const MODE_SENSE_10: u8 = 0x5a;
    pub(crate) const READ_12: u8 = 0xa8;
    pub(crate) const READ_DVD_STRUCTURE: u8 = 0xad;
    pub(crate) const SET_CD_SPEED: u8 = 0xbb;
    pub(crate) const MECHANISM_STATUS: u8 = 0xbd;
    pub(crate) const READ_CD: u8 = 0xbe;
}

impl Cdrom {
    /// Carries `cdb` out. Data for the host go to the beginning of `buf`.
    pub(crate) fn execute(&mut self, cdb: &[u8; PACKET_LEN], buf: &mut [u8]) -> Reply {
        let quiet = matches!(
            cdb[0],
            op::INQUIRY | op::REQUEST_SENSE | op::GET_CONFIGURATION | op::GET_EVENT_STATUS
        );
        if !quiet && let Some(sense) = self.attention.take() {
            return Reply::Failed(sense);
        }
        if cdb[0] != op::REQUEST_SENSE {
            self.sense = Sense::NONE;
        }
        match cdb[0] {
            op::REQUEST_SENSE => self.request_sense(cdb, buf),
            op::INQUIRY => inquiry(cdb, buf),
            op::MODE_SENSE_6 | op::MODE_SENSE_10 => {
                mmc::mode_sense(self, cdb, buf, cdb[0] == op::MODE_SENSE_10)
            }
            op::START_STOP_UNIT => self.start_stop(cdb),
            op::PREVENT_ALLOW_MEDIUM_REMOVAL => {
                self.locked = cdb[4] & 1 != 0;
                Reply::Done
            }
            op::GET_CONFIGURATION => mmc::configuration(self, cdb, buf),
            op::GET_EVENT_STATUS => mmc::event_status(self, cdb, buf),
            op::SET_CD_SPEED => Reply::Done,
            op::MECHANISM_STATUS => mmc::mechanism_status(self, cdb, buf),
            _ => match self.blocks() {
                Some(blocks) => with_medium(cdb, buf, blocks),
                None if needs_medium(cdb[0]) => Reply::Failed(if self.tray_open {
                    Sense::TRAY_OPEN
                } else {
                    Sense::NO_MEDIUM
                }),
                None => Reply::Failed(Sense::INVALID_COMMAND),
            },
        }
    }

    fn request_sense(&mut self, cdb: &[u8; PACKET_LEN], buf: &mut [u8]) -> Reply {
        let sense = match core::mem::replace(&mut self.sense, Sense::NONE) {
            Sense::NONE => self.attention.take().unwrap_or(Sense::NONE),
            sense => sense,
        };
        let mut d = [0; 18];
        d[0] = 0x70; // current error, fixed format
        d[2] = sense.key;
        d[7] = 10;
        d[12..14].copy_from_slice(&sense.code);
        answer(buf, &d, cdb[4])
    }

    fn start_stop(&mut self, cdb: &[u8; PACKET_LEN]) -> Reply {
        if cdb[4] & 0xf0 != 0 {
            return Reply::Done; // a power condition
        }
        match cdb[4] & 3 {
            2 if self.locked => return Reply::Failed(Sense::LOCKED),
            2 if !self.tray_open => {
                self.tray_open = true;
                self.event = MediaEvent::Removed;
            }
            3 if self.tray_open => {
                self.tray_open = false;
                if self.medium.is_some() {
                    self.event = MediaEvent::New;
                }
            }
            _ => {}
        }
        Reply::Done
    }
}

fn inquiry(cdb: &[u8; PACKET_LEN], buf: &mut [u8]) -> Reply {
    if cdb[1] & 1 != 0 || cdb[2] != 0 {
        return Reply::Failed(Sense::INVALID_FIELD); // no vital product data
    }
    let mut d = [b' '; 36];
    d[..8].copy_from_slice(&[5, 0x80, 0, 0x21, 31, 0, 0, 0]); // CD-ROM, removable, ATAPI version 2, format 1
    for (field, text) in [(8..16, "UMBRA"), (16..32, CDROM_MODEL), (32..36, FIRMWARE)] {
        for (b, c) in d[field].iter_mut().zip(text.bytes()) {
            *b = c;
        }
    }
    answer(buf, &d, cdb[4])
}

/// Whether the command `opcode` is one of [`with_medium`].
fn needs_medium(opcode: u8) -> bool {
    matches!(
        opcode,
        op::TEST_UNIT_READY
            | op::READ_CAPACITY
            | op::READ_10
            | op::READ_12
            | op::READ_CD
            | op::SEEK_10
            | op::READ_SUBCHANNEL
            | op::READ_TOC
            | op::READ_DISC_INFORMATION
            | op::READ_TRACK_INFORMATION
            | op::READ_DVD_STRUCTURE
    )
}

/// The commands about a medium, which has `blocks` blocks.
fn with_medium(cdb: &[u8; PACKET_LEN], buf: &mut [u8], blocks: u32) -> Reply {
    match cdb[0] {
        op::TEST_UNIT_READY => Reply::Done,
        op::READ_CAPACITY => {
            let mut d = [0, 0, 0, 0, 0, 0, 8, 0]; // blocks of 2,048 bytes
            d[..4].copy_from_slice(&blocks.saturating_sub(1).to_be_bytes());
            answer(buf, &d, 8u8)
        }
        op::READ_10 => read(be32(cdb, 2), be16(cdb, 7).into(), blocks),
        op::READ_12 => read(be32(cdb, 2), be32(cdb, 6), blocks),
        op::READ_CD => read_cd(cdb, blocks),
        op::SEEK_10 => match read(be32(cdb, 2), 1, blocks) {
            Reply::Blocks { .. } => Reply::Done,
            failed => failed,
        },
        op::READ_SUBCHANNEL => mmc::subchannel(cdb, buf),
        op::READ_TOC => mmc::toc(cdb, buf, blocks),
        op::READ_DISC_INFORMATION => mmc::disc_information(cdb, buf),
        op::READ_TRACK_INFORMATION => mmc::track_information(cdb, buf, blocks),
        op::READ_DVD_STRUCTURE => mmc::dvd_structure(cdb, buf, blocks),
        _ => Reply::Failed(Sense::INVALID_COMMAND),
    }
}

fn read(first: u32, count: u32, blocks: u32) -> Reply {
    match first.checked_add(count) {
        Some(end) if end <= blocks => Reply::Blocks { first, count },
        _ => Reply::Failed(Sense::OUT_OF_RANGE),
    }
}

/// READ CD, of which only the user data of a sector can be had.
fn read_cd(cdb: &[u8; PACKET_LEN], blocks: u32) -> Reply {
    const CD_DA: u8 = 1;
    if cdb[1] >> 2 & 7 == CD_DA {
        return Reply::Failed(Sense::ILLEGAL_MODE);
    }
    let count = u32::from_be_bytes([0, cdb[6], cdb[7], cdb[8]]);
    match (read(be32(cdb, 2), count, blocks), cdb[9] & 0xf8) {
        (failed @ Reply::Failed(_), _) => failed,
        (_, 0) => Reply::Done,
        (blocks, 0x10) => blocks,
        _ => Reply::Failed(Sense::INVALID_FIELD),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ata::drive::{Drive, Kind};
    use alloc::boxed::Box;
    use hv_core::testing::RamDisk;

    fn cd(blocks: Option<usize>) -> Cdrom {
        let medium = blocks.map(|n| {
            Box::new(RamDisk {
                data: vec![0; n * 2048],
                read_only: true,
                fail: false,
            }) as Box<dyn hv_core::backend::BlockBackend>
        });
        match Drive::cdrom(medium).kind {
            Kind::Cdrom(cd) => cd,
            Kind::Disk(_) => unreachable!(),
        }
    }

    fn run(cd: &mut Cdrom, cdb: &[u8]) -> (Reply, Vec<u8>) {
        let (mut c, mut buf) = ([0; PACKET_LEN], vec![0xcc; 4096]);
        c[..cdb.len()].copy_from_slice(cdb);
        let r = cd.execute(&c, &mut buf);
        if let Reply::Data(n) = r {
            buf.truncate(n);
        }
        (r, buf)
    }

    #[test]
    fn unit_attention_is_reported_once_but_not_by_inquiry() {
        let mut cd = cd(Some(16));
        assert_eq!(run(&mut cd, &[0x12, 0, 0, 0, 36]).0, Reply::Data(36));
        assert_eq!(run(&mut cd, &[0]).0, Reply::Failed(Sense::POWER_ON));
        assert_eq!(run(&mut cd, &[0]).0, Reply::Done);
    }

    #[test]
    fn request_sense_reports_and_clears_a_pending_unit_attention() {
        let mut cd = cd(Some(16));
        let (_, d) = run(&mut cd, &[3, 0, 0, 0, 18]);
        assert_eq!((d[2], d[12], d[13]), (6, 0x29, 0));
        assert_eq!(run(&mut cd, &[0]).0, Reply::Done);
        assert_eq!(run(&mut cd, &[3, 0, 0, 0, 18]).1[2], 0);
    }

    #[test]
    fn empty_drive_says_no_medium() {
        let mut cd = cd(None);
        cd.attention = None;
        for op in [0x00, 0x25, 0x28, 0xa8, 0xbe, 0x43, 0x51, 0x52, 0xad, 0x2b] {
            assert_eq!(
                run(&mut cd, &[op]).0,
                Reply::Failed(Sense::NO_MEDIUM),
                "{op:#x}"
            );
        }
        for op in [0x12, 0x03, 0x1e, 0x1b, 0x46] {
            assert!(
                !matches!(run(&mut cd, &[op]).0, Reply::Failed(_)),
                "{op:#x}"
            );
        }
    }

    #[test]
    fn unknown_command_is_invalid() {
        let mut cd = cd(Some(1));
        cd.attention = None;
        assert_eq!(
            run(&mut cd, &[0xff]).0,
            Reply::Failed(Sense::INVALID_COMMAND)
        );
    }

    #[test]
    fn reading_past_the_end_or_with_wrapping_address_is_out_of_range() {
        let mut cd = cd(Some(16));
        cd.attention = None;
        assert_eq!(
            run(&mut cd, &[0x28, 0, 0, 0, 0, 15, 0, 0, 1]).0,
            Reply::Blocks {
                first: 15,
                count: 1
            }
        );
        assert_eq!(
            run(&mut cd, &[0x28, 0, 0, 0, 0, 15, 0, 0, 2]).0,
            Reply::Failed(Sense::OUT_OF_RANGE)
        );
        let wrap = [0xa8, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(run(&mut cd, &wrap).0, Reply::Failed(Sense::OUT_OF_RANGE));
        assert_eq!(run(&mut cd, &[0x25]).1, [0, 0, 0, 15, 0, 0, 8, 0]);
    }

    #[test]
    fn locked_tray_does_not_open() {
        let mut cd = cd(Some(16));
        cd.attention = None;
        run(&mut cd, &[0x1e, 0, 0, 0, 1]);
        assert_eq!(
            run(&mut cd, &[0x1b, 0, 0, 0, 2]).0,
            Reply::Failed(Sense::LOCKED)
        );
        run(&mut cd, &[0x1e]);
        assert_eq!(run(&mut cd, &[0x1b, 0, 0, 0, 2]).0, Reply::Done);
        assert_eq!(run(&mut cd, &[0]).0, Reply::Failed(Sense::TRAY_OPEN));
    }

    /// What `eject` and then `mount` of Linux (sr, cdrom.c `open_for_data`) send: the tray is open, is loaded, and the first read is to work.
    #[test]
    fn a_tray_closed_on_the_same_disc_reads_at_once() {
        let mut cd = cd(Some(16));
        cd.attention = None;
        run(&mut cd, &[0x1b, 0, 0, 0, 2]);
        let status = [0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8];
        assert_eq!(run(&mut cd, &status).1[4..6], [3, 1], "removed, open");
        assert_eq!(run(&mut cd, &[0]).0, Reply::Failed(Sense::TRAY_OPEN));
        assert_eq!(run(&mut cd, &[0x25]).0, Reply::Failed(Sense::TRAY_OPEN));
        assert_eq!(run(&mut cd, &[0x1b, 0, 0, 0, 3]).0, Reply::Done);
        let read = [0x28, 0, 0, 0, 0, 15, 0, 0, 1];
        assert!(matches!(run(&mut cd, &read).0, Reply::Blocks { .. }));
        assert_eq!(run(&mut cd, &status).1[4..6], [2, 2], "new, present");
        assert_eq!(run(&mut cd, &[3, 0, 0, 0, 18]).1[2], 0);
    }

    /// A medium exchanged while the tray was open is reported, whoever closes it: Windows (classpnp) verifies its volume then.
    #[test]
    fn a_disc_exchanged_on_the_open_tray_is_a_medium_change() {
        let mut cd = cd(Some(16));
        cd.attention = None;
        run(&mut cd, &[0x1b, 0, 0, 0, 2]);
        let old = cd.change(None);
        assert_eq!(run(&mut cd, &[0]).0, Reply::Failed(Sense::NO_MEDIUM));
        cd.change(old);
        let load = [0x1b, 0, 0, 0, 3];
        assert_eq!(run(&mut cd, &load).0, Reply::Failed(Sense::MEDIUM_CHANGED));
        assert_eq!(run(&mut cd, &load).0, Reply::Done);
        assert_eq!(run(&mut cd, &[0]).0, Reply::Done);
    }

    /// A medium that is taken out makes the drive not ready, which is no attention; one that comes is.
    #[test]
    fn a_medium_that_comes_is_an_attention_and_one_that_goes_is_none() {
        let mut cd = cd(Some(4));
        cd.attention = None;
        let disc = cd.change(None);
        assert_eq!(run(&mut cd, &[0x25]).0, Reply::Failed(Sense::NO_MEDIUM));
        assert_eq!(run(&mut cd, &[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8]).1[4], 3);
        assert!(cd.change(disc).is_none());
        assert_eq!(run(&mut cd, &[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8]).1[4], 2);
        assert_eq!(
            run(&mut cd, &[0x25]).0,
            Reply::Failed(Sense::MEDIUM_CHANGED)
        );
        assert_eq!(run(&mut cd, &[0x25]).1, [0, 0, 0, 3, 0, 0, 8, 0]);
    }

    #[test]
    fn allocation_length_cuts_the_answer() {
        let mut cd = cd(Some(16));
        assert_eq!(run(&mut cd, &[0x12, 0, 0, 0, 5]).1, [5, 0x80, 0, 0x21, 31]);
        assert_eq!(run(&mut cd, &[0x12]).0, Reply::Data(0));
    }
}
