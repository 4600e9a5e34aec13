//! Everything the firmware reads through fw_cfg: the numbered items and the named files (QEMU, "QEMU Firmware Configuration
//! (fw_cfg) Device"). The directory (key 19h) is the device's to make from the files, in the order given here.
//!
//! Not here: kernels (SeaBIOS' `-kernel`), because we boot those without firmware; HPET, NUMA and hotplug.

use crate::{acpi, bootorder, e820, smbios};
use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use hv_core::machine::{MachineDesc, Nic};

/// Numbers of the items (QEMU's `FW_CFG_*`).
mod key {
    pub const SIGNATURE: u16 = 0x00;
    pub const FEATURES: u16 = 0x01;
    pub const UUID: u16 = 0x02;
    pub const RAM_SIZE: u16 = 0x03;
    pub const NO_GRAPHIC: u16 = 0x04;
    pub const CPUS: u16 = 0x05;
    pub const NUMA: u16 = 0x0d;
    pub const BOOT_MENU: u16 = 0x0e;
    pub const MAX_CPUS: u16 = 0x0f;
    pub const ACPI_TABLES: u16 = 0x8000;
    pub const SMBIOS_ENTRIES: u16 = 0x8001;
    pub const IRQ0_OVERRIDE: u16 = 0x8002;
}

/// The device has the traditional interface (bit 0) and the DMA interface (bit 1).
const FEATURES: u32 = 3;
/// `etc/boot-fail-wait`: say that nothing is bootable and stay there, instead of rebooting for ever.
const NEVER_RETRY: u32 = u32::MAX;
/// `etc/system-states`, by sleep state: bit 7 says that it exists, the low bits are SLP_TYP. There is S3, which OVMF prepares for, and no S4.
const SYSTEM_STATES: [u8; 6] = [0x80, 0, 0, 0x81, 2, 0x80];
/// `etc/s3-resume-vga-init`: SeaBIOS starts the VGA BIOS again when the machine wakes, so that text shows for systems without a driver.
const VGA_AFTER_S3: u64 = 1;
/// The VGA BIOS as SeaBIOS looks it up: by vendor and device of the VGA's PCI function.
const VGA_ROM_FILE: &str = "pci1234,1111.rom";
/// The network card's option ROM, likewise.
const fn nic_rom_file(nic: Nic) -> &'static str {
    match nic {
        Nic::Ne2k => "pci10ec,8029.rom",
        Nic::Virtio => "pci1af4,1000.rom",
        Nic::E1000 => "pci8086,100e.rom",
    }
}

/// What fw_cfg has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Items {
    /// Items by number, little-endian. What is not listed reads as zeroes.
    pub keys: Vec<(u16, Vec<u8>)>,
    /// Files by name, sorted. Names are shorter than 56 bytes.
    pub files: Vec<(String, Vec<u8>)>,
}

/// Option ROMs, which SeaBIOS starts. Empty means that there is none.
#[derive(Clone, Copy, Default)]
pub struct Roms<'a> {
    /// SeaVGABIOS (`vgabios-stdvga.bin`).
    pub vga: &'a [u8],
    /// The network card's, to boot from the network (iPXE's `pxe-ne2k_pci.rom`).
    pub nic: &'a [u8],
}

/// For how many milliseconds SeaBIOS waits for devices at a port: what it could use would be there at once.
fn usb_wait(desc: &MachineDesc) -> Vec<u8> {
    match desc.tablet {
        true => 0u16.to_le_bytes().to_vec(),
        false => Vec::new(),
    }
}

/// The items of a machine with these option ROMs.
#[must_use]
pub fn fw_cfg_items(desc: &MachineDesc, roms: Roms<'_>) -> Items {
    let (cpus, max_cpus) = (desc.cpus as u16, desc.max_cpus as u16);
    let keys = vec![
        (key::SIGNATURE, b"QEMU".to_vec()),
        (key::FEATURES, FEATURES.to_le_bytes().to_vec()),
        (key::UUID, desc.uuid.to_vec()),
        (key::RAM_SIZE, desc.memory.to_le_bytes().to_vec()),
        (key::NO_GRAPHIC, 0u16.to_le_bytes().to_vec()),
        (key::CPUS, cpus.to_le_bytes().to_vec()),
        (key::NUMA, 0u64.to_le_bytes().to_vec()),
        (key::BOOT_MENU, 0u16.to_le_bytes().to_vec()),
        (key::MAX_CPUS, max_cpus.to_le_bytes().to_vec()),
        (key::ACPI_TABLES, 0u16.to_le_bytes().to_vec()),
        (key::SMBIOS_ENTRIES, 0u16.to_le_bytes().to_vec()),
        (key::IRQ0_OVERRIDE, 1u32.to_le_bytes().to_vec()),
    ];

    let acpi = acpi::build(desc);
    let smbios = smbios::build(desc);
    let mut files: Vec<(String, Vec<u8>)> = [
        (acpi::TABLES_FILE, acpi.tables),
        (acpi::RSDP_FILE, acpi.rsdp),
        (acpi::LOADER_FILE, acpi.script),
        (smbios::ANCHOR_FILE, smbios.anchor),
        (smbios::TABLES_FILE, smbios.tables),
        ("etc/e820", e820::encode(&e820::ram(desc))),
        ("etc/boot-menu-wait", 0u16.to_le_bytes().to_vec()),
        ("etc/boot-fail-wait", NEVER_RETRY.to_le_bytes().to_vec()),
        ("etc/show-boot-menu", 0u16.to_le_bytes().to_vec()),
        ("etc/system-states", SYSTEM_STATES.to_vec()),
        (
            "etc/s3-resume-vga-init",
            VGA_AFTER_S3.to_le_bytes().to_vec(),
        ),
        ("etc/usb-time-sigatt", usb_wait(desc)),
        ("bootorder", bootorder::bootorder(desc)),
        (VGA_ROM_FILE, roms.vga.to_vec()),
    ]
    .into_iter()
    .chain(
        desc.boot_nic()
            .map(|card| (nic_rom_file(card.nic), roms.nic.to_vec())),
    )
    .filter(|(_, bytes)| !bytes.is_empty())
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .collect();
    files.sort();
    Items { keys, files }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{machine, pluggable};

    fn key(n: u16) -> Vec<u8> {
        let items = fw_cfg_items(
            &MachineDesc {
                memory: 5 << 30,
                ..pluggable(3, 8)
            },
            Roms::default(),
        );
        items.keys.into_iter().find(|k| k.0 == n).unwrap().1
    }

    #[test]
    fn items_are_little_endian_and_as_wide_as_seabios_reads_them() {
        assert_eq!(key(0), b"QEMU");
        assert_eq!(key(1), [3, 0, 0, 0]);
        assert_eq!(key(2).len(), 16);
        assert_eq!(key(3), (5u64 << 30).to_le_bytes());
        assert_eq!(key(4), [0, 0]);
        assert_eq!(key(5), [3, 0]);
        assert_eq!(key(0x0f), [8, 0]);
        assert_eq!(key(0x8002), [1, 0, 0, 0]);
    }

    #[test]
    fn files_are_sorted_and_their_names_fit_the_directory() {
        let roms = Roms {
            vga: &[0x55, 0xaa],
            nic: &[0x55, 0xaa],
        };
        let items = fw_cfg_items(&machine(1 << 30, 1), roms);
        assert!(items.files.windows(2).all(|w| w[0].0 < w[1].0));
        assert!(items.files.iter().all(|f| f.0.len() < 56));
        for name in [
            "bootorder",
            "etc/acpi/rsdp",
            "etc/acpi/tables",
            "etc/boot-fail-wait",
            "etc/e820",
            "etc/smbios/smbios-anchor",
            "etc/smbios/smbios-tables",
            "etc/table-loader",
            "pci10ec,8029.rom",
            "pci1234,1111.rom",
        ] {
            assert!(items.files.iter().any(|f| f.0 == name), "{name}");
        }
    }

    #[test]
    fn without_option_roms_there_are_no_rom_files() {
        assert!(
            fw_cfg_items(&machine(1 << 30, 1), Roms::default())
                .files
                .iter()
                .all(|f| !f.0.ends_with(".rom"))
        );
    }
}
