//! The drive and what is in it: a raw image of a 3.5" disk.

use alloc::boxed::Box;
use hv_core::backend::BlockBackend;
use hv_core::machine::FloppyDrive;

/// Heads of every disk.
const HEADS: u64 = 2;
/// The innermost track that a head reaches.
const LAST_TRACK: u8 = 82;
/// Step pulses of RECALIBRATE (82077AA, "Recalibrate").
const RECALIBRATE_STEPS: u8 = 80;

/// How a disk is laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Geometry {
    /// Tracks a side.
    pub(super) tracks: u8,
    /// Sectors a track.
    pub(super) sectors: u8,
    /// The data rate, as CCR and DSR select it.
    pub(super) rate: u8,
}

/// Data rates (82077AA, "Data Rate Select Register").
const KBPS_500: u8 = 0;
const KBPS_250: u8 = 2;
const KBPS_1000: u8 = 3;

impl Geometry {
    /// Of an image with so many sectors.
    pub(super) fn of(sectors: u64) -> Option<Self> {
        let (sectors, rate) = match sectors {
            1440 => (9, KBPS_250),
            2880 => (18, KBPS_500),
            5760 => (36, KBPS_1000),
            _ => return None,
        };
        Some(Self {
            tracks: 80,
            sectors,
            rate,
        })
    }
}

/// A drive.
pub(super) struct Drive {
    kind: FloppyDrive,
    medium: Option<Box<dyn BlockBackend>>,
    /// Where the head is.
    pub(super) track: u8,
    /// DSKCHG: the disk was taken out, or exchanged, and no step has been made with one in the drive since.
    pub(super) changed: bool,
}

impl Drive {
    pub(super) fn new(kind: FloppyDrive, medium: Option<Box<dyn BlockBackend>>) -> Self {
        Self {
            kind,
            medium,
            track: 0,
            changed: true,
        }
    }

    /// Exchanges the disk, and returns the old one.
    pub(super) fn change(
        &mut self,
        medium: Option<Box<dyn BlockBackend>>,
    ) -> Option<Box<dyn BlockBackend>> {
        self.changed = true;
        core::mem::replace(&mut self.medium, medium)
    }

    /// The disk, if there is one.
    pub(super) fn medium(&mut self) -> Option<&mut (dyn BlockBackend + 'static)> {
        self.medium.as_deref_mut()
    }

    /// Whether there is a disk.
    pub(super) fn loaded(&self) -> bool {
        self.medium.is_some()
    }

    /// Whether there is a disk that must not be written.
    pub(super) fn protected(&self) -> bool {
        self.medium.as_ref().is_some_and(|m| m.read_only())
    }

    /// What the head finds at this data rate: none if it finds no address marks.
    pub(super) fn readable(&self, rate: u8) -> Option<Geometry> {
        let geometry = Geometry::of(self.medium.as_ref()?.sectors())?;
        let fits = geometry.rate != KBPS_1000 || self.kind == FloppyDrive::M2880;
        (fits && geometry.rate == rate && self.track < geometry.tracks).then_some(geometry)
    }

    /// Moves the head by so many tracks inwards, or outwards, as far as it goes.
    pub(super) fn step(&mut self, tracks: u8, inwards: bool) {
        let from = self.track;
        self.track = match inwards {
            true => from.saturating_add(tracks).min(LAST_TRACK),
            false => from.saturating_sub(tracks),
        };
        if tracks != 0 && self.loaded() {
            self.changed = false;
        }
    }

    /// Moves the head to track 0. False: it was too far away.
    pub(super) fn recalibrate(&mut self) -> bool {
        self.step(self.track.min(RECALIBRATE_STEPS), false);
        self.track == 0
    }
}

impl Geometry {
    /// The sector of the image.
    pub(super) fn sector(&self, track: u8, head: u8, sector: u8) -> u64 {
        let track = u64::from(track) * HEADS + u64::from(head & 1);
        track * u64::from(self.sectors) + u64::from(sector) - 1
    }
}
