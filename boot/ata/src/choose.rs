//! Which of the host's drives becomes the guest's CD-ROM, hard disk or floppy.
//!
//! The user names one (`disk=ata0.1`), or a drive has the role's name as its model or serial number, as emulators let one set
//! them. A guest's hard disk is written to, so no drive ever becomes it by any other likeness.

use crate::identify::{Identity, Kind};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

pub use protocol::options::Place;

/// What a drive becomes to the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The CD-ROM: a CD-ROM drive, or a disk that holds a CD's image.
    Cdrom,
    /// A hard disk, which the guest writes.
    Disk,
    /// A floppy, likewise.
    Floppy,
    /// What keeps UEFI's variables, likewise.
    Variables,
}

impl Role {
    /// The model or serial number that a drive has to be the `number`th of its role (from 1) for the VM whose drives' names have `prefix`
    /// in them: `umbra-disk`, `umbra-disk2`.
    #[must_use]
    pub fn name(self, prefix: &str, number: usize) -> String {
        let role = self.option();
        match number {
            1 => alloc::format!("umbra-{prefix}{role}"),
            _ => alloc::format!("umbra-{prefix}{role}{number}"),
        }
    }

    /// The option that names a drive.
    #[must_use]
    pub const fn option(self) -> &'static str {
        match self {
            Self::Cdrom => "cdrom",
            Self::Disk => "disk",
            Self::Floppy => "floppy",
            Self::Variables => "vars",
        }
    }

    fn suits(self, kind: Kind) -> bool {
        match kind {
            Kind::Disk { .. } => true,
            // What cannot be written is a write-protected floppy.
            Kind::Cdrom => matches!(self, Self::Cdrom | Self::Floppy),
            Kind::Other(_) => false,
        }
    }
}

/// The `number`th drive (from 1) for `role`: the one that the user has `named`, or else the first with the role's [name](Role::name) as
/// model or serial number.
///
/// # Errors
/// A sentence that says why the named drive cannot be it, and which drives there are.
pub fn choose(
    drives: &[(Place, &Identity)],
    (role, number): (Role, usize),
    prefix: &str,
    named: Option<Place>,
) -> Result<Option<Place>, String> {
    let Some(place) = named else {
        let name = role.name(prefix, number);
        let has_name = |id: &Identity| id.model == name || id.serial == name;
        let found = drives
            .iter()
            .find(|(_, id)| has_name(id) && role.suits(id.kind));
        return Ok(found.map(|&(place, _)| place));
    };
    let why = match drives.iter().find(|(at, _)| *at == place) {
        Some((_, id)) if role.suits(id.kind) => return Ok(Some(place)),
        Some((_, id)) => alloc::format!("that is the {id}"),
        None => "there is no such drive".to_string(),
    };
    let list: Vec<String> = drives
        .iter()
        .map(|(at, id)| alloc::format!("{at} ({id})"))
        .collect();
    let there_are = match list.is_empty() {
        true => "no ATA drives".to_string(),
        false => list.join(", "),
    };
    Err(alloc::format!(
        "{}={place} cannot be: {why}; this machine has {there_are}",
        role.option()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::Dma;

    fn id(model: &str, serial: &str, kind: Kind) -> Identity {
        Identity {
            model: model.into(),
            serial: serial.into(),
            kind,
            lba48: false,
            flush: None,
            write_cache: false,
            dma: Dma::None,
            packet: 12,
            dmadir: false,
        }
    }

    const DISK: Kind = Kind::Disk { sectors: 4096 };

    fn at(channel: u8, position: u8) -> Place {
        Place { channel, position }
    }

    #[test]
    fn a_drive_is_known_by_its_model_or_serial_number() {
        let (other, model, serial) = (
            id("umbra-disk2", "1", DISK),
            id("umbra-disk", "2", DISK),
            id("QEMU DVD-ROM", "umbra-cdrom", Kind::Cdrom),
        );
        let drives = [(at(0, 0), &other), (at(0, 1), &model), (at(1, 0), &serial)];
        assert_eq!(
            choose(&drives, (Role::Disk, 1), "", None),
            Ok(Some(at(0, 1)))
        );
        assert_eq!(
            choose(&drives, (Role::Cdrom, 1), "", None),
            Ok(Some(at(1, 0)))
        );
        assert_eq!(choose(&drives[..1], (Role::Disk, 1), "", None), Ok(None));
        assert_eq!(
            choose(&drives, (Role::Disk, 2), "", None),
            Ok(Some(at(0, 0)))
        );
        let floppy = id("umbra-vm2-floppy2", "6", DISK);
        assert_eq!(
            choose(&[(at(0, 0), &floppy)], (Role::Floppy, 2), "vm2-", None),
            Ok(Some(at(0, 0)))
        );
        let second = id("umbra-vm2-disk", "5", DISK);
        let drives = [drives[1], (at(2, 0), &second)];
        assert_eq!(
            choose(&drives, (Role::Disk, 1), "vm2-", None),
            Ok(Some(at(2, 0)))
        );
    }

    #[test]
    fn a_cd_drive_is_no_disk_whatever_its_name() {
        let drive = id("umbra-disk", "", Kind::Cdrom);
        assert_eq!(
            choose(&[(at(0, 0), &drive)], (Role::Disk, 1), "", None),
            Ok(None)
        );
        let why = choose(&[(at(0, 0), &drive)], (Role::Disk, 1), "", Some(at(0, 0))).unwrap_err();
        assert!(why.contains("that is the CD-ROM drive"), "{why}");
    }

    #[test]
    fn the_user_names_any_drive_that_suits() {
        let (disk, named) = (id("ST340016A", "3", DISK), id("umbra-disk", "4", DISK));
        let drives = [(at(0, 0), &disk), (at(0, 1), &named)];
        for role in [Role::Cdrom, Role::Disk, Role::Floppy] {
            assert_eq!(
                choose(&drives, (role, 1), "", Some(at(0, 0))),
                Ok(Some(at(0, 0)))
            );
        }
    }

    #[test]
    fn a_drive_that_is_not_there_is_refused_with_those_that_are() {
        let disk = id("ST340016A", "3", DISK);
        let why = choose(&[(at(0, 0), &disk)], (Role::Disk, 1), "", Some(at(1, 0))).unwrap_err();
        assert_eq!(
            why,
            "disk=ata1.0 cannot be: there is no such drive; this machine has ata0.0 (disk \"ST340016A\", 2 MiB)"
        );
        let why = choose(&[], (Role::Cdrom, 1), "", Some(at(1, 0))).unwrap_err();
        assert!(why.ends_with("this machine has no ATA drives"), "{why}");
    }
}
