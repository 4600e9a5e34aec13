//! Where the guest's CD-ROM and hard disk come from.
//!
//! In the order of preference: the ATA drive that the command line names, the virtio disk with the medium's serial number, the ATA
//! drive with its name as model or serial number, the boot module. Virtio disks whose serial number is the CD-ROM's name and something
//! more, such as `umbra-cdrom2`, are further media for the CD-ROM drive. The names of the second VM's media are `umbra-vm2-cdrom` and so on.

use crate::disk::{self, ModuleDisk};
use crate::guest::bytes;
use crate::ide::{self, HostPorts};
use crate::loader::BootInfo;
use crate::options::{self, Options, VmOptions};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use ata::{Found, Place, Role, choose};
use hv_core::backend::BlockBackend;

/// The guest's media.
#[derive(Default)]
pub struct Media {
    /// In its CD-ROM drive.
    pub cdrom: Option<Box<dyn BlockBackend>>,
    /// Further media for that drive.
    pub more: Vec<Box<dyn BlockBackend>>,
    /// Its hard disk.
    pub disk: Option<Box<dyn BlockBackend>>,
}

/// A medium for the CD-ROM drive.
pub struct Disc {
    /// Its volume identifier.
    pub name: String,
    /// Its length in bytes.
    pub length: u64,
    /// The medium, unless it is in the drive.
    medium: Option<Box<dyn BlockBackend>>,
}

/// All media for the CD-ROM drive.
#[derive(Default)]
pub struct Cabinet {
    discs: Vec<Disc>,
    /// The one that is in the drive.
    inside: Option<usize>,
}

impl Cabinet {
    /// Notes the medium that is in the drive.
    pub fn note(&mut self, medium: &mut dyn BlockBackend) {
        self.inside = Some(self.discs.len());
        self.discs.push(Disc::new(medium));
    }

    /// Puts a medium in.
    pub fn add(&mut self, mut medium: Box<dyn BlockBackend>) {
        let disc = Disc::new(&mut *medium);
        self.discs.push(Disc {
            medium: Some(medium),
            ..disc
        });
    }

    /// All media, and for each whether it is in the drive.
    pub fn discs(&self) -> impl Iterator<Item = (&Disc, bool)> {
        let inside = self.inside;
        (0..)
            .zip(&self.discs)
            .map(move |(n, disc)| (disc, Some(n) == inside))
    }

    /// The first that is not in the drive.
    pub fn first_outside(&self) -> Option<usize> {
        self.discs().position(|(_, inside)| !inside)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.discs.len()
    }

    /// Exchanges the medium in the drive for the one with this index, or for none. `exchange` gives the drive a medium and returns the
    /// one that was in it.
    pub fn exchange(
        &mut self,
        wanted: Option<usize>,
        exchange: impl FnOnce(Option<Box<dyn BlockBackend>>) -> Option<Box<dyn BlockBackend>>,
    ) {
        let new = wanted.and_then(|index| self.discs.get_mut(index)?.medium.take());
        let old = exchange(new);
        if let Some(disc) = self.inside.and_then(|index| self.discs.get_mut(index)) {
            disc.medium = old;
        }
        self.inside = wanted;
    }
}

impl Disc {
    fn new(medium: &mut dyn BlockBackend) -> Self {
        Self {
            name: volume(medium).unwrap_or_else(|| "(no name)".into()),
            length: medium.sectors() * 512,
            medium: None,
        }
    }
}

/// The volume identifier of an ISO 9660 image (ECMA-119, 8.4, "Primary Volume Descriptor").
fn volume(medium: &mut dyn BlockBackend) -> Option<String> {
    const DESCRIPTOR: u64 = 64;
    let mut descriptor = [0; 2048];
    if medium.sectors() < DESCRIPTOR + 4 {
        return None;
    }
    medium.read(DESCRIPTOR, &mut descriptor).ok()?;
    if descriptor.get(..6)? != b"\x01CD001" {
        return None;
    }
    let name = descriptor.get(40..72)?;
    let printable = name.iter().filter(|b| (b' '..=b'~').contains(b));
    let name: String = printable.map(|&b| char::from(b)).collect();
    Some(name.trim().into())
}

/// Finds the media of all VMs.
///
/// # Errors
/// A sentence that says why a drive cannot be used that the command line names.
pub fn find(boot: &BootInfo, options: &Options) -> Result<Vec<Media>, String> {
    let mut virtio = disk::find();
    let mut drives = ide::find();
    let vms = (1..).zip(&options.vms);
    vms.map(|(number, vm)| Media::find(boot, number, vm, &mut virtio, &mut drives))
        .collect()
}

impl Media {
    /// Takes those of one VM.
    fn find(
        boot: &BootInfo,
        number: usize,
        options: &VmOptions,
        virtio: &mut Vec<(String, Box<dyn BlockBackend>)>,
        drives: &mut Vec<(Place, Found<HostPorts>)>,
    ) -> Result<Self, String> {
        let prefix = options::prefix(number);
        let module = |role: &str| -> Option<Box<dyn BlockBackend>> {
            Some(Box::new(ModuleDisk(bytes(boot.module(number, role)?))))
        };
        let mut media = Self {
            cdrom: module("cdrom").or_else(|| module("iso")),
            disk: module("disk"),
            more: Vec::new(),
        };
        for role in [Role::Cdrom, Role::Disk] {
            let (named, slot) = match role {
                Role::Cdrom => (options.cdrom, &mut media.cdrom),
                Role::Disk => (options.disk, &mut media.disk),
            };
            let known: Vec<_> = drives.iter().map(|(at, f)| (*at, &f.identity)).collect();
            let chosen = choose(&known, role, &prefix, named)?;
            let chosen = chosen.and_then(|place| drives.iter().position(|(at, _)| *at == place));
            let Some(index) = chosen else { continue };
            let (place, found) = drives.swap_remove(index);
            match found.open(role == Role::Cdrom, ide::dma_buffer) {
                Ok(medium) => {
                    log::info!("{place} is VM {number}'s {}", role.option());
                    *slot = Some(medium);
                }
                Err(why) if named.is_some() => {
                    return Err(alloc::format!("{}={place} cannot be: {why}", role.option()));
                }
                Err(why) => log::warn!("{place} is not used: {why}"),
            }
        }
        let (cdrom, disk) = (Role::Cdrom.name(&prefix), Role::Disk.name(&prefix));
        for (serial, found) in virtio.extract_if(.., |(serial, _)| {
            serial.starts_with(&cdrom) || *serial == disk
        }) {
            if serial == disk {
                if options.disk.is_none() {
                    media.disk = Some(found);
                }
            } else if serial == cdrom && options.cdrom.is_none() {
                media.cdrom = Some(found);
            } else {
                media.more.push(found);
            }
        }
        if media.cdrom.is_none() && !media.more.is_empty() {
            media.cdrom = Some(media.more.remove(0));
        }
        Ok(media)
    }
}
