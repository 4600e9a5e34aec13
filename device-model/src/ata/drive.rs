//! A hard disk or a CD-ROM drive.

use super::packet::Sense;
use alloc::boxed::Box;
use hv_core::backend::BlockBackend;
use hv_core::machine::IdeDrive;

/// Heads of the default translation.
pub(crate) const HEADS: u8 = IdeDrive::HEADS;
/// Sectors a track of the default translation.
pub(crate) const SECTORS_PER_TRACK: u8 = IdeDrive::SECTORS_PER_TRACK;
/// Most sectors a data block of READ and WRITE MULTIPLE.
pub(crate) const MULTIPLE_MAX: u8 = 16;
/// Bytes of a disk's sector, the unit of [`BlockBackend`].
pub(crate) const SECTOR: usize = 512;
/// [`SECTOR`]s in a block of a CD.
pub(crate) const SECTORS_PER_BLOCK: u32 = 4;
/// Bytes of a block of a CD.
pub(crate) const BLOCK: usize = SECTOR * SECTORS_PER_BLOCK as usize;

/// A drive to be given to a controller.
pub struct Drive {
    pub(crate) kind: Kind,
    pub(crate) mode: TransferMode,
}

pub(crate) enum Kind {
    Disk(Disk),
    Cdrom(Cdrom),
}

/// What can be seen of a CD-ROM drive from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CdromState {
    /// There is a medium in it, or on its tray.
    pub loaded: bool,
    /// Its tray is open.
    pub open: bool,
    /// The guest has locked it (MMC-4 6.16, "PREVENT ALLOW MEDIUM REMOVAL").
    pub locked: bool,
}

impl Drive {
    /// A hard disk.
    #[must_use]
    pub fn disk(backend: Box<dyn BlockBackend>) -> Self {
        Self {
            kind: Kind::Disk(Disk::new(backend)),
            mode: TransferMode::default(),
        }
    }

    /// A CD-ROM or (if the medium is too large for a CD) DVD-ROM drive, perhaps with a medium in it. Of a medium's length
    /// whole blocks of 2,048 bytes count.
    #[must_use]
    pub fn cdrom(medium: Option<Box<dyn BlockBackend>>) -> Self {
        Self {
            kind: Kind::Cdrom(Cdrom::new(medium)),
            mode: TransferMode::default(),
        }
    }

    pub(crate) fn is_cdrom(&self) -> bool {
        matches!(self.kind, Kind::Cdrom(_))
    }

    /// How its CD-ROM drive is, if it is one.
    pub(crate) fn cdrom_state(&self) -> Option<CdromState> {
        match &self.kind {
            Kind::Disk(_) => None,
            Kind::Cdrom(cd) => Some(CdromState {
                loaded: cd.medium.is_some(),
                open: cd.tray_open,
                locked: cd.locked,
            }),
        }
    }

    /// Changes the medium of a CD-ROM drive, closes its tray and returns the old one. Another drive takes none.
    pub(crate) fn change(
        &mut self,
        medium: Option<Box<dyn BlockBackend>>,
    ) -> Option<Box<dyn BlockBackend>> {
        match &mut self.kind {
            Kind::Disk(_) => medium,
            Kind::Cdrom(cd) => cd.change(medium),
        }
    }

    /// The medium, if there is one.
    pub(crate) fn medium(&mut self) -> Option<&mut dyn BlockBackend> {
        match &mut self.kind {
            Kind::Disk(disk) => Some(&mut *disk.backend),
            Kind::Cdrom(cd) => cd.medium.as_deref_mut().map(|m| m as &mut dyn BlockBackend),
        }
    }

    /// Everything that the guest has set, back to what it is at power-on.
    pub(crate) fn power_on(&mut self) {
        self.mode = TransferMode::default();
        match &mut self.kind {
            Kind::Disk(disk) => disk.power_on(),
            Kind::Cdrom(cd) => cd.power_on(),
        }
    }
}

/// The transfer mode that the host selected with SET FEATURES 03h. It has no effect but to be shown by IDENTIFY.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TransferMode {
    /// Programmed I/O.
    Pio,
    /// Multiword DMA mode 0 to 2.
    Multiword(u8),
    /// Ultra DMA mode 0 to 5.
    Ultra(u8),
}

impl TransferMode {
    /// Decodes the count register of SET FEATURES 03h; none if the mode is not supported. ATA/ATAPI-6 8.46, "SET
    /// FEATURES".
    pub(crate) fn decode(count: u8) -> Option<Self> {
        match (count >> 3, count & 7) {
            (0, 0 | 1) | (1, 0..=4) => Some(Self::Pio),
            (4, n @ 0..=2) => Some(Self::Multiword(n)),
            (8, n @ 0..=5) => Some(Self::Ultra(n)),
            _ => None,
        }
    }
}

impl Default for TransferMode {
    fn default() -> Self {
        Self::Ultra(5)
    }
}

/// A hard disk.
pub(crate) struct Disk {
    pub(crate) backend: Box<dyn BlockBackend>,
    /// Heads of the current translation, 1 to 16.
    pub(crate) heads: u8,
    /// Sectors a track of the current translation, 1 to 255.
    pub(crate) spt: u8,
    /// Sectors a block of READ and WRITE MULTIPLE; 0: these commands are disabled.
    pub(crate) multiple: u8,
    pub(crate) write_cache: bool,
    pub(crate) look_ahead: bool,
    /// SMART is switched on.
    pub(crate) smart: bool,
}

impl Disk {
    fn new(backend: Box<dyn BlockBackend>) -> Self {
        Self {
            backend,
            heads: HEADS,
            spt: SECTORS_PER_TRACK,
            multiple: MULTIPLE_MAX,
            write_cache: true,
            look_ahead: true,
            smart: true,
        }
    }

    fn power_on(&mut self) {
        (self.heads, self.spt) = (HEADS, SECTORS_PER_TRACK);
        self.multiple = MULTIPLE_MAX;
        (self.write_cache, self.look_ahead, self.smart) = (true, true, true);
    }

    /// Cylinders of the current translation, at most 65,535.
    pub(crate) fn cylinders(&self) -> u16 {
        let track = u64::from(self.heads.max(1)) * u64::from(self.spt.max(1));
        u16::try_from(self.backend.sectors() / track).unwrap_or(u16::MAX)
    }
}

/// What became of the medium since the guest last asked with GET EVENT STATUS NOTIFICATION.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MediaEvent {
    /// Nothing.
    None,
    /// There is a new one.
    New,
    /// It was taken out.
    Removed,
}

/// A CD-ROM drive.
pub(crate) struct Cdrom {
    pub(crate) medium: Option<Box<dyn BlockBackend>>,
    pub(crate) tray_open: bool,
    pub(crate) locked: bool,
    /// What went wrong with the last command.
    pub(crate) sense: Sense,
    /// The unit attention that the next command has to report.
    pub(crate) attention: Option<Sense>,
    pub(crate) event: MediaEvent,
}

impl Cdrom {
    fn new(medium: Option<Box<dyn BlockBackend>>) -> Self {
        let mut cd = Self {
            medium,
            tray_open: false,
            locked: false,
            sense: Sense::NONE,
            attention: None,
            event: MediaEvent::None,
        };
        cd.power_on();
        cd
    }

    fn power_on(&mut self) {
        (self.tray_open, self.locked) = (false, false);
        self.sense = Sense::NONE;
        self.attention = Some(Sense::POWER_ON);
        self.event = if self.medium.is_some() {
            MediaEvent::New
        } else {
            MediaEvent::None
        };
    }

    /// Changes the medium and closes the tray.
    pub(crate) fn change(
        &mut self,
        medium: Option<Box<dyn BlockBackend>>,
    ) -> Option<Box<dyn BlockBackend>> {
        self.tray_open = false;
        if medium.is_some() {
            self.event = MediaEvent::New;
            self.attention = Some(Sense::MEDIUM_CHANGED);
        } else {
            self.event = MediaEvent::Removed;
        }
        core::mem::replace(&mut self.medium, medium)
    }

    /// The number of blocks, if a medium is loaded.
    pub(crate) fn blocks(&self) -> Option<u32> {
        let medium = self.medium.as_ref().filter(|_| !self.tray_open)?;
        Some(u32::try_from(medium.sectors() / u64::from(SECTORS_PER_BLOCK)).unwrap_or(u32::MAX))
    }
}
