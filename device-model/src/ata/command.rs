//! What commands lead to. ATA/ATAPI-6 8, "Command descriptions"; ATA8-ACS 7, "Command descriptions".

use super::drive::{Disk, Drive, Kind, MULTIPLE_MAX, TransferMode};
use super::taskfile::{Addressing, Error, TaskFile};
use super::{identify, smart};

/// EXECUTE DEVICE DIAGNOSTIC, which is the controller's: on a parallel cable it is for both drives.
pub(crate) const EXECUTE_DEVICE_DIAGNOSTIC: u8 = 0x90;
/// DEVICE RESET, which a packet drive takes at any time.
pub(crate) const DEVICE_RESET: u8 = 0x08;

const PACKET: u8 = 0xa0;
const IDENTIFY_PACKET_DEVICE: u8 = 0xa1;
const SMART: u8 = 0xb0;
const FLUSH_CACHE: [u8; 2] = [0xe7, 0xea];
const IDENTIFY_DEVICE: u8 = 0xec;
const SET_FEATURES: u8 = 0xef;
/// CHECK POWER MODE, and what older drives had at 98h.
const CHECK_POWER_MODE: [u8; 2] = [0xe5, 0x98];
/// What CHECK POWER MODE answers in the count register: active or idle.
const POWER_ACTIVE: u8 = 0xff;

/// PACKET's bit of the features register: data by DMA.
pub(crate) const FEATURE_DMA: u8 = 1;
/// Interrupt reason (in the count register): the drive wants the packet.
pub(crate) const REASON_COMMAND: u8 = 1;
/// Interrupt reason: data for the host.
pub(crate) const REASON_DATA_IN: u8 = 2;
/// Interrupt reason: the command is over.
pub(crate) const REASON_END: u8 = 3;

/// The device register's bit for LBA instead of cylinder, head and sector.
const DEVICE_LBA: u8 = 0x40;
/// Sectors that 28 bits address.
const LBA28_SECTORS: u64 = 1 << 28;

/// Where a drive is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Attached {
    /// Drive 0 or 1 of a parallel cable.
    Parallel(usize),
    /// At this port of a Serial ATA controller.
    Serial(usize),
}

/// A part of the medium.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Span {
    /// The next sector of 512 bytes.
    pub(crate) sector: u64,
    /// Sectors not yet moved.
    pub(crate) left: u32,
}

impl Span {
    /// Whether the next `sectors` lie on a medium of `end` sectors.
    pub(crate) fn fits(&self, sectors: u32, end: u64) -> bool {
        self.sector
            .checked_add(sectors.into())
            .is_some_and(|past| past <= end)
    }
}

/// Sectors that are to be moved. They exist, and may be written if that is it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub(crate) span: Span,
    /// How the command named them.
    pub(crate) addressing: Addressing,
    /// To the medium.
    pub(crate) write: bool,
    pub(crate) dma: bool,
    /// Sectors of a data block of PIO.
    pub(crate) block: u8,
}

/// What a command leads to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    /// Success.
    Done,
    /// Failure.
    Failed(Error),
    /// So many bytes for the host are in the buffer.
    Data(usize),
    /// Sectors.
    Access(Access),
    /// The medium is to be flushed.
    Flush,
    /// A packet is to be received.
    Packet,
    /// The drive drops what it does, and shows its signature.
    Reset,
}

/// The registers of a command.
pub(crate) struct Registers<'a> {
    pub(crate) file: &'a mut TaskFile,
    pub(crate) device: &'a mut u8,
}

/// What is done with sectors.
#[derive(Clone, Copy)]
enum Way {
    Verify,
    /// With so many sectors a data block.
    Read(u8),
    Write(u8),
    ReadDma,
    WriteDma,
}

/// Whether `command` is a power management command without data that we can take as done: STANDBY, IDLE, SLEEP.
fn is_power_command(command: u8) -> bool {
    matches!(command, 0xe0..=0xe3 | 0xe6 | 0x94..=0x97 | 0x99)
}

impl Drive {
    /// Carries out `command`, or says what is left to be done for it. Data for the host go to the beginning of `buf`, which has a sector's
    /// room at least.
    pub(crate) fn execute(
        &mut self,
        command: u8,
        regs: Registers<'_>,
        at: Attached,
        buf: &mut [u8],
    ) -> Outcome {
        match command {
            SET_FEATURES => return self.set_features(regs.file),
            _ if CHECK_POWER_MODE.contains(&command) => {
                regs.file.count.set(POWER_ACTIVE);
                return Outcome::Done;
            }
            _ if is_power_command(command) => return Outcome::Done,
            _ => {}
        }
        let mode = self.mode;
        match (&mut self.kind, command) {
            (Kind::Disk(disk), IDENTIFY_DEVICE) => {
                let data = identify::disk(disk, mode, at);
                answer(buf, &data)
            }
            (Kind::Disk(disk), SMART) => smart::smart(disk, regs.file, buf),
            (Kind::Disk(disk), _) => disk.execute(command, regs),
            (Kind::Cdrom(_), PACKET) => Outcome::Packet,
            (Kind::Cdrom(_), IDENTIFY_PACKET_DEVICE) => answer(buf, &identify::cdrom(mode, at)),
            (Kind::Cdrom(_), IDENTIFY_DEVICE) => {
                regs.file.set_signature(true);
                Outcome::Failed(Error::ABRT)
            }
            (Kind::Cdrom(_), DEVICE_RESET) => Outcome::Reset,
            // There is no cache.
            (Kind::Cdrom(_), _) if FLUSH_CACHE.contains(&command) => Outcome::Done,
            (Kind::Cdrom(_), _) => Outcome::Failed(Error::ABRT),
        }
    }

    /// SET FEATURES. ATA/ATAPI-6 8.46, "SET FEATURES".
    /// What does not change anything that can be seen is accepted where drivers use it.
    fn set_features(&mut self, regs: &TaskFile) -> Outcome {
        let (feature, count) = (regs.features.now(), regs.count.now());
        match (feature, &mut self.kind) {
            (0x03, _) => match TransferMode::decode(count) {
                Some(mode) => self.mode = mode,
                None => return Outcome::Failed(Error::ABRT),
            },
            (0x02 | 0x82, Kind::Disk(disk)) => disk.write_cache = feature == 0x02,
            (0xaa | 0x55, Kind::Disk(disk)) => disk.look_ahead = feature == 0xaa,
            // Power management, acoustics, keeping or losing settings at a reset.
            (0x05 | 0x85 | 0x42 | 0xc2, Kind::Disk(_)) | (0x66 | 0xcc, _) => {}
            _ => return Outcome::Failed(Error::ABRT),
        }
        Outcome::Done
    }
}

/// Puts `data` into `buf`.
fn answer(buf: &mut [u8], data: &[u8]) -> Outcome {
    match buf.get_mut(..data.len()) {
        Some(to) => {
            to.copy_from_slice(data);
            Outcome::Data(data.len())
        }
        None => Outcome::Failed(Error::ABRT),
    }
}

impl Disk {
    fn execute(&mut self, command: u8, regs: Registers<'_>) -> Outcome {
        let multiple = self.multiple;
        match command {
            0x20 | 0x21 => self.access(regs, Way::Read(1), false), // READ SECTOR(S)
            0x24 => self.access(regs, Way::Read(1), true),         // READ SECTOR(S) EXT
            0x25 => self.access(regs, Way::ReadDma, true),         // READ DMA EXT
            0x29 => self.access(regs, Way::Read(multiple), true),  // READ MULTIPLE EXT
            0x30 | 0x31 => self.access(regs, Way::Write(1), false), // WRITE SECTOR(S)
            0x34 => self.access(regs, Way::Write(1), true),        // WRITE SECTOR(S) EXT
            0x35 => self.access(regs, Way::WriteDma, true),        // WRITE DMA EXT
            0x39 => self.access(regs, Way::Write(multiple), true), // WRITE MULTIPLE EXT
            0x40 | 0x41 => self.access(regs, Way::Verify, false),  // READ VERIFY SECTOR(S)
            0x42 => self.access(regs, Way::Verify, true),          // READ VERIFY SECTOR(S) EXT
            0xc4 => self.access(regs, Way::Read(multiple), false), // READ MULTIPLE
            0xc5 => self.access(regs, Way::Write(multiple), false), // WRITE MULTIPLE
            0xc8 | 0xc9 => self.access(regs, Way::ReadDma, false), // READ DMA
            0xca | 0xcb => self.access(regs, Way::WriteDma, false), // WRITE DMA
            0x10..=0x1f | 0x70..=0x7f => Outcome::Done,            // RECALIBRATE, SEEK
            0x27 => self.native_max(regs, true),                   // READ NATIVE MAX ADDRESS EXT
            0xf8 => self.native_max(regs, false),                  // READ NATIVE MAX ADDRESS
            0x91 => self.initialize_parameters(&regs),             // INITIALIZE DEVICE PARAMETERS
            0xc6 => self.set_multiple(regs.file),                  // SET MULTIPLE MODE
            _ if FLUSH_CACHE.contains(&command) => Outcome::Flush,
            _ => Outcome::Failed(Error::ABRT),
        }
    }

    /// Whether so many sectors from `first` on are there to be read, or to be written.
    pub(crate) fn span(&self, first: u64, sectors: u32, write: bool) -> Result<Span, Error> {
        let span = Span {
            sector: first,
            left: sectors,
        };
        if !span.fits(sectors, self.backend.sectors()) {
            Err(Error::IDNF)
        } else if write && self.backend.read_only() {
            Err(Error::UNC | Error::ABRT)
        } else {
            Ok(span)
        }
    }

    /// Reads, writes or verifies sectors.
    fn access(&mut self, regs: Registers<'_>, way: Way, ext: bool) -> Outcome {
        let addressing = if ext {
            Addressing::Lba48
        } else if *regs.device & DEVICE_LBA != 0 {
            Addressing::Lba28
        } else {
            Addressing::Chs {
                heads: self.heads,
                spt: self.spt,
            }
        };
        let (write, dma, block) = match way {
            Way::Verify => (false, false, 1),
            Way::Read(block) => (false, false, block),
            Way::Write(block) => (true, false, block),
            Way::ReadDma => (false, true, 1),
            Way::WriteDma => (true, true, 1),
        };
        let sectors = regs.file.sectors(addressing);
        let first = regs.file.address(addressing, *regs.device);
        // Without sectors of that many a block the command is disabled, which is found out after the address.
        let span = first
            .ok_or(Error::IDNF)
            .and_then(|first| self.span(first, sectors, write && block != 0));
        match (way, span) {
            (_, Err(error)) => Outcome::Failed(error),
            (_, Ok(_)) if block == 0 => Outcome::Failed(Error::ABRT),
            (Way::Verify, Ok(span)) => {
                let last = span.sector + u64::from(sectors) - 1;
                regs.file.set_address(addressing, regs.device, last);
                Outcome::Done
            }
            (_, Ok(span)) => Outcome::Access(Access {
                span,
                addressing,
                write,
                dma,
                block,
            }),
        }
    }

    fn native_max(&mut self, regs: Registers<'_>, ext: bool) -> Outcome {
        let Some(last) = self.backend.sectors().checked_sub(1) else {
            return Outcome::Failed(Error::ABRT);
        };
        let (addressing, last) = if ext {
            (Addressing::Lba48, last)
        } else {
            (Addressing::Lba28, last.min(LBA28_SECTORS - 1))
        };
        regs.file.set_address(addressing, regs.device, last);
        Outcome::Done
    }

    fn initialize_parameters(&mut self, regs: &Registers<'_>) -> Outcome {
        let spt = regs.file.count.now();
        if spt == 0 {
            return Outcome::Failed(Error::ABRT);
        }
        (self.spt, self.heads) = (spt, (*regs.device & 0xf) + 1);
        Outcome::Done
    }

    fn set_multiple(&mut self, regs: &TaskFile) -> Outcome {
        let count = regs.count.now();
        if count != 0 && (count > MULTIPLE_MAX || !count.is_power_of_two()) {
            return Outcome::Failed(Error::ABRT);
        }
        self.multiple = count;
        Outcome::Done
    }
}
