//! Which device the firmware boots from: fw_cfg's `bootorder` file (SeaBIOS and OVMF) in Open Firmware's device paths.
//!
//! The hard disk comes first, as on the machines people have: a system that was installed from the CD then starts from its disk. An
//! empty disk is no obstacle: SeaBIOS (`boot.c`, `boot_disk`) goes on to the next device when the first sector lacks the boot
//! signature, and so does the boot code of a partitioned disk without an active partition (INT 18h). Its boot menu (Esc) has the CD
//! for when the disk boots and the CD is wanted.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use hv_core::machine::{IDE, MachineDesc};

/// A device to boot from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BootDevice {
    /// The hard disk: primary master.
    Disk,
    /// The CD-ROM: secondary master.
    Cdrom,
}

impl BootDevice {
    /// Its number in the boot nibbles of CMOS 38h and 3Dh.
    #[must_use]
    pub const fn cmos_code(&self) -> u8 {
        match self {
            BootDevice::Disk => 2,
            BootDevice::Cdrom => 3,
        }
    }

    /// Its path as SeaBIOS composes it: `drive` is the channel, `disk` 0 for the master.
    fn path(self) -> String {
        let channel = match self {
            BootDevice::Disk => 0,
            BootDevice::Cdrom => 1,
        };
        format!(
            "/pci@i0cf8/ide@{:x},{:x}/drive@{channel}/disk@0",
            IDE.device, IDE.function
        )
    }
}

/// The devices to boot from, first choice first.
#[must_use]
pub fn boot_devices(desc: &MachineDesc) -> Vec<BootDevice> {
    let cdrom = desc.cdrom.then_some(BootDevice::Cdrom);
    let disk = desc.disk.then_some(BootDevice::Disk);
    disk.into_iter().chain(cdrom).collect()
}

/// The `bootorder` file: one path a line, ended by a NUL. Empty if there is nothing to boot from.
#[must_use]
pub fn bootorder(desc: &MachineDesc) -> Vec<u8> {
    let paths: Vec<String> = boot_devices(desc)
        .into_iter()
        .map(BootDevice::path)
        .collect();
    if paths.is_empty() {
        return Vec::new();
    }
    let mut file = paths.join("\n").into_bytes();
    file.push(0);
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::machine;

    #[test]
    fn disk_then_cd_one_path_a_line() {
        let want = b"/pci@i0cf8/ide@1,1/drive@0/disk@0\n/pci@i0cf8/ide@1,1/drive@1/disk@0\0";
        assert_eq!(bootorder(&machine(1 << 30, 1)), want);
    }

    #[test]
    fn a_machine_without_media_has_an_empty_file() {
        assert!(
            bootorder(&MachineDesc {
                disk: false,
                cdrom: false,
                ..machine(1 << 30, 1)
            })
            .is_empty()
        );
    }
}
