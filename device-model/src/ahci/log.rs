//! The logs of a disk that drivers read: the directory, and the log of the queued command that has failed. ATA8-ACS 7, "Command
//! descriptions", READ LOG EXT, and annex A, "Log Page Definitions".

use crate::ata::{Error, Status, TaskFile};

pub(super) const READ_LOG_EXT: u8 = 0x2f;

/// Bytes of a page.
pub(super) const PAGE: usize = 512;
/// The logs.
const DIRECTORY: u8 = 0x00;
pub(super) const NCQ_ERROR: u8 = 0x10;

/// The command that has ended a queue (annex A, "NCQ Command Error Log").
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueError {
    /// Its tag. None: it was not queued.
    pub(super) tag: Option<usize>,
    pub(super) status: Status,
    pub(super) error: Error,
    /// Where it failed.
    pub(super) lba: u64,
    pub(super) count: u16,
    pub(super) device: u8,
}

impl QueueError {
    fn page(&self, page: &mut [u8; PAGE]) {
        /// Byte 0: the command was not queued.
        const NOT_QUEUED: u8 = 1 << 7;
        let [a, b, c, d, e, f, ..] = self.lba.to_le_bytes();
        page[0] = self.tag.map_or(NOT_QUEUED, |tag| tag as u8 & 0x1f);
        page[2..4].copy_from_slice(&[self.status.bits(), self.error.bits()]);
        page[4..8].copy_from_slice(&[a, b, c, self.device]);
        page[8..11].copy_from_slice(&[d, e, f]);
        page[12..14].copy_from_slice(&self.count.to_le_bytes());
    }
}

/// The page of a log that `regs` ask for. None: there is no such page.
pub(super) fn read(regs: &TaskFile, error: Option<&QueueError>) -> Option<[u8; PAGE]> {
    let (log, first) = (regs.lba[0].now(), [regs.lba[1].now(), regs.lba[1].old()]);
    let pages = [regs.count.now(), regs.count.old()];
    if first != [0, 0] || pages != [1, 0] {
        return None;
    }
    let mut page = [0; PAGE];
    match log {
        DIRECTORY => {
            // Version 1, and how many pages each log has.
            page[0] = 1;
            page[2 * usize::from(NCQ_ERROR)] = 1;
        }
        NCQ_ERROR => {
            if let Some(error) = error {
                error.page(&mut page);
            }
            let sum = page.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
            page[PAGE - 1] = sum.wrapping_neg();
        }
        _ => return None,
    }
    Some(page)
}
