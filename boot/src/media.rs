//! Where the guest's CD-ROM and hard disk come from.
//!
//! In the order of preference: the ATA drive that the command line names, the virtio disk with the medium's serial number, the ATA
//! drive with its name as model or serial number, the boot module.

use crate::disk::{self, ModuleDisk};
use crate::guest::bytes;
use crate::ide;
use crate::loader::BootInfo;
use crate::options::Options;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use ata::{Role, choose};
use hv_core::backend::BlockBackend;

/// The guest's media.
#[derive(Default)]
pub struct Media {
    /// In its CD-ROM drive.
    pub cdrom: Option<Box<dyn BlockBackend>>,
    /// Its hard disk.
    pub disk: Option<Box<dyn BlockBackend>>,
}

impl Media {
    /// Finds them.
    ///
    /// # Errors
    /// A sentence that says why the drive cannot be used that the command line names.
    pub fn find(boot: &BootInfo, options: &Options) -> Result<Self, String> {
        let module = |role: &str| -> Option<Box<dyn BlockBackend>> {
            Some(Box::new(ModuleDisk(bytes(boot.module(role)?))))
        };
        let mut media = Self {
            cdrom: module("cdrom").or_else(|| module("iso")),
            disk: module("disk"),
        };
        let virtio = disk::find();
        let mut drives = ide::find();
        for role in [Role::Cdrom, Role::Disk] {
            let (named, slot) = match role {
                Role::Cdrom => (options.cdrom, &mut media.cdrom),
                Role::Disk => (options.disk, &mut media.disk),
            };
            let known: Vec<_> = drives.iter().map(|(at, f)| (*at, &f.identity)).collect();
            let chosen = choose(&known, role, named)?;
            let chosen = chosen.and_then(|place| drives.iter().position(|(at, _)| *at == place));
            let Some(index) = chosen else { continue };
            let (place, found) = drives.swap_remove(index);
            match found.open(role == Role::Cdrom, ide::dma_buffer) {
                Ok(medium) => {
                    log::info!("{place} is the guest's {}", role.option());
                    *slot = Some(medium);
                }
                Err(why) if named.is_some() => {
                    return Err(alloc::format!("{}={place} cannot be: {why}", role.option()));
                }
                Err(why) => log::warn!("{place} is not used: {why}"),
            }
        }
        for (serial, found) in virtio {
            if serial == Role::Cdrom.name() && options.cdrom.is_none() {
                media.cdrom = Some(found);
            } else if serial == Role::Disk.name() && options.disk.is_none() {
                media.disk = Some(found);
            }
        }
        Ok(media)
    }
}
