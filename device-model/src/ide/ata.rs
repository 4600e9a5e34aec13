//! The commands of a hard disk. ATA/ATAPI-6 8, "Command descriptions".

use super::channel::Channel;
use super::drive::{Disk, Drive, Kind, MULTIPLE_MAX, SECTOR, TransferMode};
use super::identify;
use super::taskfile::{Addressing, Error};
use super::transfer::{Phase, Protocol, Span, Transfer};
use hv_core::device::DevCx;

/// EXECUTE DEVICE DIAGNOSTIC, which is for both drives.
pub(super) const EXECUTE_DEVICE_DIAGNOSTIC: u8 = 0x90;

/// IDENTIFY DEVICE.
pub(super) const IDENTIFY_DEVICE: u8 = 0xec;
/// SET FEATURES.
pub(super) const SET_FEATURES: u8 = 0xef;
/// CHECK POWER MODE, and what older drives had at 98h.
const CHECK_POWER_MODE: [u8; 2] = [0xe5, 0x98];
/// What CHECK POWER MODE answers in the count register: active or idle.
const POWER_ACTIVE: u8 = 0xff;

/// The device register's bit for LBA instead of cylinder, head and sector.
const DEVICE_LBA: u8 = 0x40;
/// Sectors that 28 bits address.
const LBA28_SECTORS: u64 = 1 << 28;

/// What is done with sectors.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// By `Phase`, with so many sectors a data block.
    Data(Phase, u8),
    Verify,
}

/// Whether `command` is a power management command without data that we can take as done: STANDBY, IDLE, SLEEP.
pub(super) fn is_power_command(command: u8) -> bool {
    matches!(command, 0xe0..=0xe3 | 0xe6 | 0x94..=0x97 | 0x99)
}

/// Whether `command` is CHECK POWER MODE.
pub(super) fn is_check_power(command: u8) -> bool {
    CHECK_POWER_MODE.contains(&command)
}

impl Channel {
    fn disk(&mut self) -> Option<&mut Disk> {
        match &mut self.drives[self.selected()] {
            Some(Drive {
                kind: Kind::Disk(disk),
                ..
            }) => Some(disk),
            _ => None,
        }
    }

    /// A hard disk is selected and gets `command`.
    pub(super) fn disk_command(&mut self, cx: &mut DevCx<'_>, command: u8) {
        use Access::{Data, Verify};
        let multiple = self.disk().map_or(0, |d| d.multiple);
        match command {
            0x20 | 0x21 => self.access(cx, Data(Phase::PioIn, 1), false), // READ SECTOR(S)
            0x24 => self.access(cx, Data(Phase::PioIn, 1), true),         // READ SECTOR(S) EXT
            0x25 => self.access(cx, Data(Phase::DmaIn, 1), true),         // READ DMA EXT
            0x29 => self.access(cx, Data(Phase::PioIn, multiple), true),  // READ MULTIPLE EXT
            0x30 | 0x31 => self.access(cx, Data(Phase::PioOut, 1), false), // WRITE SECTOR(S)
            0x34 => self.access(cx, Data(Phase::PioOut, 1), true),        // WRITE SECTOR(S) EXT
            0x35 => self.access(cx, Data(Phase::DmaOut, 1), true),        // WRITE DMA EXT
            0x39 => self.access(cx, Data(Phase::PioOut, multiple), true), // WRITE MULTIPLE EXT
            0x40 | 0x41 => self.access(cx, Verify, false),                // READ VERIFY SECTOR(S)
            0x42 => self.access(cx, Verify, true), // READ VERIFY SECTOR(S) EXT
            0xc4 => self.access(cx, Data(Phase::PioIn, multiple), false), // READ MULTIPLE
            0xc5 => self.access(cx, Data(Phase::PioOut, multiple), false), // WRITE MULTIPLE
            0xc8 | 0xc9 => self.access(cx, Data(Phase::DmaIn, 1), false), // READ DMA
            0xca | 0xcb => self.access(cx, Data(Phase::DmaOut, 1), false), // WRITE DMA
            0x10..=0x1f | 0x70..=0x7f => self.succeed(cx), // RECALIBRATE, SEEK
            0x27 => self.native_max(cx, true),     // READ NATIVE MAX ADDRESS EXT
            0xf8 => self.native_max(cx, false),    // READ NATIVE MAX ADDRESS
            0x91 => self.initialize_parameters(cx), // INITIALIZE DEVICE PARAMETERS
            0xc6 => self.set_multiple(cx),         // SET MULTIPLE MODE
            0xe7 | 0xea => self.flush(cx),         // FLUSH CACHE, FLUSH CACHE EXT
            IDENTIFY_DEVICE => self.identify(cx),
            SET_FEATURES => self.set_features(cx),
            _ if is_check_power(command) => self.check_power(cx),
            _ if is_power_command(command) => self.succeed(cx),
            _ => self.fail(cx, Error::ABRT),
        }
    }

    /// Reads, writes or verifies sectors.
    fn access(&mut self, cx: &mut DevCx<'_>, access: Access, ext: bool) {
        let position = self.selected();
        let device = self.device;
        let Some(disk) = self.disk() else { return };
        let addressing = if ext {
            Addressing::Lba48
        } else if device & DEVICE_LBA != 0 {
            Addressing::Lba28
        } else {
            Addressing::Chs {
                heads: disk.heads,
                spt: disk.spt,
            }
        };
        let capacity = disk.backend.sectors();
        let read_only = disk.backend.read_only();
        let regs = &self.regs[position];
        let sectors = regs.sectors(addressing);
        let within = |first: &u64| {
            first
                .checked_add(sectors.into())
                .is_some_and(|end| end <= capacity)
        };
        let Some(first) = regs.address(addressing, device).filter(within) else {
            self.fail(cx, Error::IDNF);
            return;
        };
        match access {
            Access::Verify => {
                self.regs[position].set_address(
                    addressing,
                    &mut self.device,
                    first + u64::from(sectors) - 1,
                );
                self.succeed(cx);
            }
            Access::Data(_, 0) => self.fail(cx, Error::ABRT),
            Access::Data(Phase::PioOut | Phase::DmaOut, _) if read_only => {
                self.fail(cx, Error::UNC | Error::ABRT)
            }
            Access::Data(phase, block) => {
                let span = Span {
                    sector: first,
                    left: sectors,
                };
                let transfer = Transfer {
                    span,
                    block: usize::from(block) * SECTOR,
                    ..Transfer::new(phase, Protocol::Ata(addressing), position)
                };
                self.begin(cx, transfer);
            }
        }
    }

    fn native_max(&mut self, cx: &mut DevCx<'_>, ext: bool) {
        let position = self.selected();
        let Some(last) = self.disk().and_then(|d| d.backend.sectors().checked_sub(1)) else {
            self.fail(cx, Error::ABRT);
            return;
        };
        let (addressing, last) = if ext {
            (Addressing::Lba48, last)
        } else {
            (Addressing::Lba28, last.min(LBA28_SECTORS - 1))
        };
        self.regs[position].set_address(addressing, &mut self.device, last);
        self.succeed(cx);
    }

    fn initialize_parameters(&mut self, cx: &mut DevCx<'_>) {
        let spt = self.regs[self.selected()].count.now();
        let heads = (self.device & 0xf) + 1;
        match self.disk() {
            Some(disk) if spt != 0 => {
                (disk.spt, disk.heads) = (spt, heads);
                self.succeed(cx);
            }
            _ => self.fail(cx, Error::ABRT),
        }
    }

    fn set_multiple(&mut self, cx: &mut DevCx<'_>) {
        let count = self.regs[self.selected()].count.now();
        match self.disk() {
            Some(disk) if count == 0 || count <= MULTIPLE_MAX && count.is_power_of_two() => {
                disk.multiple = count;
                self.succeed(cx);
            }
            _ => self.fail(cx, Error::ABRT),
        }
    }

    fn flush(&mut self, cx: &mut DevCx<'_>) {
        let transfer = Transfer::new(Phase::Flush, Protocol::AtaPlain, self.selected());
        self.begin(cx, transfer);
    }

    /// CHECK POWER MODE: always active.
    pub(super) fn check_power(&mut self, cx: &mut DevCx<'_>) {
        self.regs[self.selected()].count.set(POWER_ACTIVE);
        self.succeed(cx);
    }

    fn identify(&mut self, cx: &mut DevCx<'_>) {
        let position = self.selected();
        let Some(Drive {
            kind: Kind::Disk(disk),
            mode,
        }) = &self.drives[position]
        else {
            return;
        };
        let data = identify::disk(disk, *mode, position);
        self.offer(cx, Protocol::AtaPlain, &data);
    }

    /// Offers `data`, at most a buffer full, as one PIO data block.
    pub(super) fn offer(&mut self, cx: &mut DevCx<'_>, protocol: Protocol, data: &[u8]) {
        let Some(buf) = self.buf.get_mut(..data.len()) else {
            return;
        };
        buf.copy_from_slice(data);
        let transfer = Transfer {
            block: data.len(),
            end: data.len(),
            ..Transfer::new(Phase::PioIn, protocol, self.selected())
        };
        self.begin(cx, transfer);
    }

    /// SET FEATURES. ATA/ATAPI-6 8.46, "SET FEATURES".
    /// What does not change anything that can be seen is accepted where drivers use it.
    pub(super) fn set_features(&mut self, cx: &mut DevCx<'_>) {
        let position = self.selected();
        let (feature, count) = (
            self.regs[position].features.now(),
            self.regs[position].count.now(),
        );
        let Some(drive) = &mut self.drives[position] else {
            return;
        };
        let accepted = match (feature, &mut drive.kind) {
            (0x03, _) => match TransferMode::decode(count) {
                Some(mode) => {
                    drive.mode = mode;
                    true
                }
                None => false,
            },
            (0x02 | 0x82, Kind::Disk(disk)) => {
                disk.write_cache = feature == 0x02;
                true
            }
            (0xaa | 0x55, Kind::Disk(disk)) => {
                disk.look_ahead = feature == 0xaa;
                true
            }
            // Power management, acoustics, keeping or losing settings at a reset.
            (0x05 | 0x85 | 0x42 | 0xc2, Kind::Disk(_)) | (0x66 | 0xcc, _) => true,
            _ => false,
        };
        if accepted {
            self.succeed(cx);
        } else {
            self.fail(cx, Error::ABRT);
        }
    }
}
