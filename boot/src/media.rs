//! Where the guest's CD-ROMs, hard disks and floppies come from.
//!
//! In the order of preference: the ATA drive that the command line names, the virtio disk with the medium's serial number, the ATA
//! drive with its name as model or serial number, the boot module. `umbra-cdrom2`, `umbra-disk2` and so on are further media of a kind. The
//! names of the second VM's media are `umbra-vm2-cdrom` and so on.

use crate::disk::{self, ModuleDisk};
use crate::ide::{self, HostPorts};
use crate::loader::BootInfo;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use ata::{Found, Place, Role, choose};
use device_model::fdc;
use hv_core::backend::BlockBackend;
use protocol::options::{self, HostDrive, Options};

/// Media of a kind that are looked for.
const MOST: usize = 32;

/// The guest's media.
#[derive(Default)]
pub struct Media {
    /// For its CD-ROM drive: the first is in it.
    pub cdroms: Vec<Box<dyn BlockBackend>>,
    /// Its hard disks.
    pub disks: Vec<Box<dyn BlockBackend>>,
    /// For its floppy drive: the first is in it.
    pub floppies: Vec<Box<dyn BlockBackend>>,
    /// What keeps UEFI's variables. A read-only one has them as the machine finds them the first time.
    pub variables: Option<Box<dyn BlockBackend>>,
}

/// A medium for the CD-ROM or the floppy drive.
pub struct Disc {
    /// Its volume identifier.
    pub name: String,
    /// Its length in bytes.
    pub length: u64,
    /// The medium, unless it is in the drive.
    medium: Option<Box<dyn BlockBackend>>,
}

/// All media for such a drive.
#[derive(Default)]
pub struct Cabinet {
    discs: Vec<Disc>,
    /// The one that is in the drive.
    inside: Option<usize>,
}

impl Cabinet {
    /// All these media, and the first of them, which is in the drive.
    pub fn of(media: Vec<Box<dyn BlockBackend>>) -> (Self, Option<Box<dyn BlockBackend>>) {
        let disc = |mut medium: Box<dyn BlockBackend>| Disc {
            name: volume(&mut *medium).unwrap_or_else(|| "(no name)".into()),
            length: medium.sectors() * 512,
            medium: Some(medium),
        };
        let mut discs: Vec<Disc> = media.into_iter().map(disc).collect();
        let first = discs.first_mut().and_then(|disc| disc.medium.take());
        let inside = first.is_some().then_some(0);
        (Self { discs, inside }, first)
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

/// The volume's name of an ISO 9660 image (ECMA-119, 8.4, "Primary Volume Descriptor") or of a FAT file system (Microsoft FAT
/// specification, "Boot sector and BPB").
fn volume(medium: &mut dyn BlockBackend) -> Option<String> {
    const DESCRIPTOR: u64 = 64;
    let mut sectors = [0; 2048];
    let name = if medium.sectors() >= DESCRIPTOR + 4
        && medium.read(DESCRIPTOR, &mut sectors).is_ok()
        && sectors.starts_with(b"\x01CD001")
    {
        sectors.get(40..72)?
    } else {
        const EXTENDED: u8 = 0x29;
        medium.read(0, sectors.get_mut(..512)?).ok()?;
        let extended = sectors.get(0x26) == Some(&EXTENDED) && sectors.get(510) == Some(&0x55);
        sectors.get(0x2b..0x36).filter(|_| extended)?
    };
    let printable = name.iter().filter(|b| (b' '..=b'~').contains(b));
    let name: String = printable.map(|&b| char::from(b)).collect();
    let name = name.trim();
    (!name.is_empty()).then(|| name.into())
}

/// Finds the media of all VMs.
///
/// # Errors
/// A sentence that says why a drive cannot be used that the command line names.
pub fn find(boot: &BootInfo, options: &Options<'_>) -> Result<Vec<Media>, String> {
    let mut virtio = disk::find();
    let mut drives = ide::find();
    let mut sources = Sources {
        boot,
        virtio: &mut virtio,
        drives: &mut drives,
    };
    let vms = (1..).zip(&options.vms);
    vms.map(|(number, vm)| Media::find(number, vm, &mut sources))
        .collect()
}

/// The media that nobody has taken yet.
struct Sources<'a> {
    boot: &'a BootInfo,
    virtio: &'a mut Vec<(String, Box<dyn BlockBackend>)>,
    drives: &'a mut Vec<(Place, Found<HostPorts>)>,
}

impl Sources<'_> {
    /// The `number`th medium of a role for the VM `vm`, all numbers from 1.
    fn take(
        &mut self,
        vm: usize,
        role: Role,
        number: usize,
        named: Option<HostDrive>,
    ) -> Result<Option<Box<dyn BlockBackend>>, String> {
        let prefix = options::prefix(vm);
        if named.is_none() {
            let name = role.name(&prefix, number);
            if let Some(index) = self.virtio.iter().position(|(serial, _)| *serial == name) {
                return Ok(Some(self.virtio.swap_remove(index).1));
            }
        }
        let known: Vec<_> = self
            .drives
            .iter()
            .map(|(at, f)| (*at, &f.identity))
            .collect();
        let place = named.map(|drive| drive.place);
        let chosen = choose(&known, (role, number), &prefix, place)?;
        let index = chosen.and_then(|place| self.drives.iter().position(|(at, _)| *at == place));
        if let Some(index) = index {
            let (place, found) = self.drives.swap_remove(index);
            let readonly = role == Role::Cdrom || named.is_some_and(|drive| drive.readonly);
            match found.open(readonly, ide::dma_buffer) {
                Ok(medium) => {
                    let how = if readonly { ", read-only" } else { "" };
                    log::info!("{place} is VM {vm}'s {}{how}", role.option());
                    return Ok(Some(medium));
                }
                Err(why) if named.is_some() => {
                    return Err(alloc::format!("{}={place} cannot be: {why}", role.option()));
                }
                Err(why) => log::warn!("{place} is not used: {why}"),
            }
        }
        Ok(self.module(vm, role, number))
    }

    fn module(&self, vm: usize, role: Role, number: usize) -> Option<Box<dyn BlockBackend>> {
        let module = |role: &str| self.boot.module(vm, role);
        let found = match (role, number) {
            (Role::Cdrom, 1) => module("cdrom").or_else(|| module("iso")),
            (_, 1) => module(role.option()),
            _ => module(&alloc::format!("{}{number}", role.option())),
        };
        Some(Box::new(ModuleDisk(found?.bytes())))
    }
}

impl Media {
    /// Takes those of one VM.
    fn find(
        vm: usize,
        options: &options::Vm<'_>,
        sources: &mut Sources<'_>,
    ) -> Result<Self, String> {
        let mut media = Self::default();
        for (role, named, found) in [
            (Role::Cdrom, &options.cdroms, &mut media.cdroms),
            (Role::Disk, &options.disks, &mut media.disks),
            (Role::Floppy, &options.floppies, &mut media.floppies),
        ] {
            for number in 1..=MOST {
                let named = named.get(number - 1).copied();
                found.extend(sources.take(vm, role, number, named)?);
            }
        }
        media.variables = sources.take(vm, Role::Variables, 1, None)?;
        media.floppies.retain(|floppy| {
            let usable = fdc::drive_for(floppy.sectors()).is_some();
            if !usable {
                let kib = floppy.sectors() / 2;
                log::warn!(
                    "VM {vm}: a floppy of {kib} KiB is not used: it has to have 720, 1440 or 2880"
                );
            }
            usable
        });
        Ok(media)
    }
}
