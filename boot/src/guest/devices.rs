//! What is plugged into a guest's machine: drives, cards, further devices, flash memory, and the firmware's configuration device.

use super::consoles::Screen;
use crate::entropy::Entropy;
use crate::memory::HostDeviceRam;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use device_model::ata::Drive;
use device_model::flash;
use device_model::fwcfg::FwCfg;
use device_model::mapped::Mapped;
use device_model::virtio::DeviceType;
use device_model::virtio::balloon::{self, Balloon};
use device_model::virtio::block::Block;
use device_model::virtio::console::{Console, Terminal};
use device_model::virtio::rng::Rng;
use hv_core::Gpa;
use hv_core::backend::BlockBackend;
use hv_core::machine::{self, IdeDrive, MachineDesc, NetworkCard, Nic, PCI_DISKS, Slot, pci_disk};
use hvmloader_fw::fwcfg::{self, Roms};
use protocol::options;

/// The first VM's network card: locally administered, like QEMU's default.
const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];

/// The network cards of VM `number`. What has no address is given one: by the VM in its last byte, by the card in the fourth.
pub(super) fn network_cards(
    number: u8,
    profile: &options::Profile,
) -> [Option<NetworkCard>; machine::NICS] {
    let mut cards = (0..).zip(profile.nics()).filter_map(|(n, card)| {
        let mut mac = numbered(MAC, number);
        mac[3] += n;
        Some(NetworkCard {
            nic: match card.nic {
                options::Nic::None => return None,
                options::Nic::Ne2k => Nic::Ne2k,
                options::Nic::E1000 => Nic::E1000,
                options::Nic::Virtio => Nic::Virtio,
            },
            mac: card.mac.map_or(mac, |mac| mac.0),
        })
    });
    core::array::from_fn(|_| cards.next())
}

/// The drives of VM `number` on the IDE channels, or at the AHCI controller's ports: the CD-ROM drive has its place, if there is one, and the
/// hard disks the others.
pub(super) fn ata_drives<const N: usize>(
    number: u8,
    disks: Vec<Box<dyn BlockBackend>>,
    cdrom: Option<(usize, Box<dyn BlockBackend>)>,
) -> ([Option<IdeDrive>; N], [Option<Drive>; N]) {
    let mut described = [None; N];
    let mut drives = [const { None::<Drive> }; N];
    if let Some((at, medium)) = cdrom {
        described[at] = Some(IdeDrive::Cdrom);
        drives[at] = Some(Drive::cdrom(Some(medium)));
    }
    for disk in disks {
        let Some(at) = drives.iter().position(Option::is_none) else {
            log::warn!("VM {number}: a further hard disk is not used: all {N} places are taken");
            continue;
        };
        let sectors = disk.sectors();
        described[at] = Some(IdeDrive::Disk { sectors });
        drives[at] = Some(Drive::disk(disk));
    }
    (described, drives)
}

/// The hard disks of VM `number` on the PCI bus, with so many queues each.
pub(super) fn pci_disks(
    number: u8,
    disks: Vec<Box<dyn BlockBackend>>,
    queues: u16,
) -> Vec<(Slot, Box<dyn DeviceType>)> {
    if disks.len() > PCI_DISKS {
        log::warn!("VM {number}: only {PCI_DISKS} hard disks are used");
    }
    let disk = |(n, medium): (usize, Box<dyn BlockBackend>)| {
        let name = alloc::format!("umbra-disk{}", n + 1);
        let device: Box<dyn DeviceType> = Box::new(Block::new(medium, &name, queues));
        (pci_disk(n), device)
    };
    (0..PCI_DISKS).zip(disks).map(disk).collect()
}

/// Adds the virtio devices of VM `number` that are neither disks nor cards. Returns the keyboard of its console, if it has one.
pub(super) fn small_devices(
    number: u8,
    profile: &options::Profile,
    balloon: Option<&Balloon>,
    virtio: &mut Vec<(Slot, Box<dyn DeviceType>)>,
) -> Option<Terminal> {
    if profile.rng() {
        match Entropy::find() {
            Some(source) => virtio.push((machine::RNG, Box::new(Rng::new(source)))),
            None => log::warn!(
                "VM {number} has no entropy device: this machine's CPU has neither RDSEED nor RDRAND, and nothing else here is random"
            ),
        }
    }
    if let Some(balloon) = balloon.filter(|_| profile.balloon()) {
        let device = balloon::Device::new(balloon.clone());
        virtio.push((machine::BALLOON, Box::new(device)));
    }
    (profile.console == options::Console::Virtio).then(|| {
        let (console, terminal) = Console::new(Box::new(Screen(number)));
        virtio.push((machine::CONSOLE, Box::new(console)));
        terminal
    })
}

/// The flash chip at `at` of VM `number`, with UEFI's variables from `medium`, which keeps them if it can be written.
pub(super) fn variables(
    number: u8,
    at: Gpa,
    mut medium: Box<dyn BlockBackend>,
) -> Result<flash::Parts, String> {
    const SECTOR: usize = 512;
    let failed = |what: &str| alloc::format!("VM {number}: UEFI's variables {what}");
    let length = medium.sectors() as usize * SECTOR;
    let memory = device_ram(length).ok_or_else(|| failed("find no memory"))?;
    let mut block = [0; flash::BLOCK];
    for offset in (0..length).step_by(flash::BLOCK) {
        let sector = (offset / SECTOR) as u64;
        let read = medium.read(sector, &mut block);
        read.map_err(|_| failed("cannot be read"))?;
        memory.ram.write(offset, &block);
    }
    let lasts = !medium.read_only();
    log::info!(
        "VM {number}: UEFI's variables {}",
        match lasts {
            true => "are kept",
            false => "last until power-off",
        }
    );
    Ok(flash::Parts {
        at,
        memory,
        medium: lasts.then_some(medium),
    })
}

/// What belongs to VM `number`, made from the first VM's.
pub(super) fn numbered<const N: usize>(mut first: [u8; N], number: u8) -> [u8; N] {
    if let Some(last) = first.last_mut() {
        *last = last.wrapping_add(number - 1);
    }
    first
}

/// Memory of `len` bytes that a device has and the guest can be given.
pub(super) fn device_ram(len: usize) -> Option<Mapped> {
    let ram = HostDeviceRam::allocate(len as u64)?;
    let hpa = ram.hpa();
    Some(Mapped { ram, hpa })
}

/// The firmware's configuration device with everything it reads there.
pub(super) fn fw_cfg(desc: &MachineDesc, roms: Roms<'_>) -> FwCfg {
    let mut device = FwCfg::new();
    let items = fwcfg::fw_cfg_items(desc, roms);
    for (key, value) in items.keys {
        device.add_key(key, value);
    }
    for (name, value) in items.files {
        device.add_file(&name, value);
    }
    device
}
