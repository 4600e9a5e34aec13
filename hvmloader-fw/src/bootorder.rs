//! Which device the firmware boots from: fw_cfg's `bootorder` file (SeaBIOS and OVMF) in Open Firmware's device paths.
//!
//! The hard disks come first, as on the machines people have: a system that was installed from the CD then starts from its disk. An
//! empty disk is no obstacle: SeaBIOS (`boot.c`, `boot_disk`) goes on to the next device when the first sector lacks the boot
//! signature, and so does the boot code of a partitioned disk without an active partition (INT 18h). Its boot menu (Esc) has the CD
//! for when the disk boots and the CD is wanted. What the user wants first comes before the others, which keep their order.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use hv_core::machine::{AHCI, BootFrom, IDE, ISA_BRIDGE, IdeDrive, MachineDesc, NIC, pci_disk};

/// The usual order. The network is booted from if it is asked for.
const USUAL: [BootFrom; 3] = [BootFrom::Disk, BootFrom::Cdrom, BootFrom::Floppy];

/// Its number in the boot nibbles of CMOS 38h and 3Dh.
pub(crate) const fn cmos_code(from: BootFrom) -> u8 {
    match from {
        BootFrom::Floppy => 1,
        BootFrom::Disk => 2,
        BootFrom::Cdrom => 3,
        BootFrom::Network => 4,
    }
}

/// Whether the machine has such a device, with a medium in it or not.
fn present(desc: &MachineDesc, from: BootFrom) -> bool {
    let has = |wanted: fn(&IdeDrive) -> bool| desc.ata_drives().any(|drive| wanted(&drive));
    match from {
        BootFrom::Disk => {
            desc.pci_disks != 0 || has(|drive| matches!(drive, IdeDrive::Disk { .. }))
        }
        BootFrom::Cdrom => has(|drive| *drive == IdeDrive::Cdrom),
        BootFrom::Floppy => true,
        BootFrom::Network => desc.boot_nic().is_some(),
    }
}

/// What is booted from, first choice first.
#[must_use]
pub fn boot_order(desc: &MachineDesc) -> Vec<BootFrom> {
    let others = USUAL.into_iter().filter(|from| Some(*from) != desc.boot);
    let order = desc.boot.into_iter().chain(others);
    order.filter(|from| present(desc, *from)).collect()
}

/// The paths of all devices of a kind, as SeaBIOS composes them (`boot.c`).
fn paths(desc: &MachineDesc, from: BootFrom) -> Vec<String> {
    let is = |drive: &IdeDrive| match drive {
        IdeDrive::Disk { .. } => from == BootFrom::Disk,
        IdeDrive::Cdrom => from == BootFrom::Cdrom,
    };
    match from {
        // `drive` is the channel, `disk` 0 for the master.
        BootFrom::Disk | BootFrom::Cdrom => (0..)
            .zip(&desc.drives)
            .filter(|(_, drive)| drive.as_ref().is_some_and(is))
            .map(|(n, _): (usize, _)| {
                format!(
                    "/pci@i0cf8/ide@{:x},{:x}/drive@{}/disk@{}",
                    IDE.device,
                    IDE.function,
                    n / 2,
                    n % 2
                )
            })
            .chain(sata_drives(desc, is))
            .chain(pci_disks(desc, from))
            .collect(),
        BootFrom::Floppy => [format!(
            "/pci@i0cf8/isa@{:x}/fdc@03f0/floppy@0",
            ISA_BRIDGE.device
        )]
        .into(),
        BootFrom::Network => [format!("/pci@i0cf8/ethernet@{:x}", NIC.device)].into(),
    }
}

/// The paths of drives at the AHCI controller's ports. OVMF (`QemuBootOrderLib`) knows the controller by its IDs.
fn sata_drives(desc: &MachineDesc, is: impl Fn(&IdeDrive) -> bool) -> impl Iterator<Item = String> {
    (0..)
        .zip(&desc.sata)
        .filter(move |(_, drive)| drive.as_ref().is_some_and(&is))
        .map(|(port, _): (usize, _)| {
            format!(
                "/pci@i0cf8/pci8086,2922@{:x}/drive@{port:x}/disk@0",
                AHCI.device
            )
        })
}

/// The paths of hard disks on the PCI bus, if these are what is asked for.
fn pci_disks(desc: &MachineDesc, from: BootFrom) -> impl Iterator<Item = String> {
    let count = match from {
        BootFrom::Disk => desc.pci_disks,
        _ => 0,
    };
    (0..count).map(|n| format!("/pci@i0cf8/scsi@{:x}/disk@0,0", pci_disk(n).device))
}

/// The `bootorder` file: one path a line, ended by a NUL.
#[must_use]
pub fn bootorder(desc: &MachineDesc) -> Vec<u8> {
    let paths: Vec<String> = boot_order(desc)
        .into_iter()
        .flat_map(|from| paths(desc, from))
        .collect();
    let mut file = paths.join("\n").into_bytes();
    file.push(0);
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::machine;

    const DISK: &str = "/pci@i0cf8/ide@1,1/drive@0/disk@0";
    const CD: &str = "/pci@i0cf8/ide@1,1/drive@1/disk@0";
    const FLOPPY: &str = "/pci@i0cf8/isa@1/fdc@03f0/floppy@0";
    const NET: &str = "/pci@i0cf8/ethernet@3";

    fn lines(desc: &MachineDesc) -> Vec<String> {
        let file = String::from_utf8(bootorder(desc)).unwrap();
        let text = file.strip_suffix('\0').unwrap();
        text.split('\n').map(String::from).collect()
    }

    #[test]
    fn disk_then_cd_then_floppy_one_path_a_line() {
        assert_eq!(lines(&machine(1 << 30, 1)), [DISK, CD, FLOPPY]);
    }

    #[test]
    fn what_is_wanted_first_is_first_and_the_others_keep_their_order() {
        for (boot, order) in [
            (BootFrom::Disk, &[DISK, CD, FLOPPY][..]),
            (BootFrom::Cdrom, &[CD, DISK, FLOPPY]),
            (BootFrom::Floppy, &[FLOPPY, DISK, CD]),
            (BootFrom::Network, &[NET, DISK, CD, FLOPPY]),
        ] {
            let desc = MachineDesc {
                boot: Some(boot),
                ..machine(1 << 30, 1)
            };
            assert_eq!(lines(&desc), order);
        }
    }

    #[test]
    fn all_disks_are_there_in_their_order() {
        let disk = Some(IdeDrive::Disk { sectors: 1000 });
        let desc = MachineDesc {
            drives: [disk, disk, None, disk],
            ..machine(1 << 30, 1)
        };
        let slave = "/pci@i0cf8/ide@1,1/drive@0/disk@1";
        let fourth = "/pci@i0cf8/ide@1,1/drive@1/disk@1";
        assert_eq!(lines(&desc), [DISK, slave, fourth, FLOPPY]);
    }

    #[test]
    fn disks_on_the_pci_bus_have_the_paths_of_their_functions() {
        let desc = MachineDesc {
            drives: [None, None, Some(IdeDrive::Cdrom), None],
            pci_disks: 2,
            ..machine(1 << 30, 1)
        };
        let disk = |slot| format!("/pci@i0cf8/scsi@{slot}/disk@0,0");
        assert_eq!(lines(&desc), [&*disk(8), &*disk(9), CD, FLOPPY]);
    }

    #[test]
    fn drives_at_the_ahci_controller_have_the_paths_of_their_ports() {
        let disk = Some(IdeDrive::Disk { sectors: 1000 });
        let mut sata = [disk, disk, None, None, None, Some(IdeDrive::Cdrom)];
        let path = |port| format!("/pci@i0cf8/pci8086,2922@1f/drive@{port}/disk@0");
        let mut desc = MachineDesc {
            drives: [None; 4],
            sata,
            ..machine(1 << 30, 1)
        };
        let all = [&*path(0), &*path(1), &*path(5), FLOPPY];
        assert_eq!(lines(&desc), all);
        sata = [None; 6];
        desc.sata = sata;
        assert_eq!(lines(&desc), [FLOPPY]);
    }

    #[test]
    fn a_machine_without_media_has_its_floppy_drive() {
        let desc = MachineDesc {
            drives: [None; 4],
            boot: Some(BootFrom::Cdrom),
            ..machine(1 << 30, 1)
        };
        assert_eq!(lines(&desc), [FLOPPY]);
    }
}
