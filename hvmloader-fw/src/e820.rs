//! The guest's memory map in the two forms that are wanted of us: what SeaBIOS and OVMF read from fw_cfg (`etc/e820`, RAM
//! only: they add what they reserve themselves) and the whole map for a kernel that is booted without firmware.
//!
//! The entry is INT 15h AX=E820h's: base, length, type, 20 bytes (ACPI 15.1, "INT 15H, E820H - Query System Address Map").

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use hv_core::machine::{HIGH_RAM, MachineDesc, PCI_WINDOW_END};

/// What a range of addresses is for (ACPI 15, "System Address Map Interfaces", table "Address Range Types").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum E820Type {
    /// RAM that the operating system may use.
    Ram = 1,
    /// In use or not RAM.
    Reserved = 2,
    /// RAM that holds ACPI tables and is free once they have been read.
    Acpi = 3,
    /// RAM that holds ACPI data which must be left alone, such as the FACS.
    Nvs = 4,
}

/// One range of the memory map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct E820Entry {
    /// First guest-physical address.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// What it is.
    pub kind: E820Type,
}

impl E820Entry {
    /// Length of an encoded entry in bytes.
    pub const SIZE: usize = 20;

    /// The entry as firmware and kernels read it.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&self.start.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.len.to_le_bytes());
        bytes[16..].copy_from_slice(&(self.kind as u32).to_le_bytes());
        bytes
    }
}

/// Where base memory ends when the last KiB below 640 KiB is the extended BIOS data area, as on any PC with a PS/2 mouse.
pub const BASE_MEMORY_END: u64 = 0x9_fc00;
/// Where RAM stops being base memory and the VGA window begins.
pub const VGA_WINDOW_START: u64 = 0xa_0000;
/// Where the option ROMs and the BIOS begin.
pub const ROM_AREA_START: u64 = 0xc_0000;
/// One MiB: where extended memory begins.
pub const EXTENDED_MEMORY: u64 = 0x10_0000;
/// Length of the area at the top of low RAM in which [`place`](crate::place) puts the tables for direct boot, in bytes.
pub const TABLE_AREA_LEN: u64 = 0x1_0000;

/// The area at the top of low RAM that holds the tables of a directly booted kernel. Empty if there is no extended memory for it.
#[must_use]
pub const fn table_area(desc: &MachineDesc) -> Range<u64> {
    let end = desc.low_ram();
    if end >= EXTENDED_MEMORY + TABLE_AREA_LEN {
        end - TABLE_AREA_LEN..end
    } else {
        end..end
    }
}

/// The window below 4 GiB for PCI devices' memory: it begins where SeaBIOS lets it begin on an i440FX (2 or 3 GiB, above RAM)
/// and ends below the I/O APIC.
#[must_use]
pub const fn pci_window(desc: &MachineDesc) -> Range<u64> {
    const TWO_GIB: u64 = 0x8000_0000;
    let low = desc.low_ram();
    let start = if low <= TWO_GIB {
        TWO_GIB
    } else {
        hv_core::machine::LOW_RAM_MAX
    };
    start..PCI_WINDOW_END
}

/// The RAM of the machine, as in fw_cfg's `etc/e820`.
#[must_use]
pub fn ram(desc: &MachineDesc) -> Vec<E820Entry> {
    let mut map = vec![E820Entry {
        start: 0,
        len: desc.low_ram(),
        kind: E820Type::Ram,
    }];
    if desc.high_ram() != 0 {
        map.push(E820Entry {
            start: HIGH_RAM,
            len: desc.high_ram(),
            kind: E820Type::Ram,
        });
    }
    map
}

/// The whole map for a kernel that is booted directly, in ascending order and without overlaps.
///
/// The VGA window is left out: like the PCI window it is no memory, and `_CRS` of the host bridge claims it.
#[must_use]
pub fn direct_boot(desc: &MachineDesc) -> Vec<E820Entry> {
    let tables = table_area(desc);
    let mut map = vec![];
    let mut add = |range: Range<u64>, kind| {
        if range.start < range.end {
            map.push(E820Entry {
                start: range.start,
                len: range.end - range.start,
                kind,
            });
        }
    };
    add(0..BASE_MEMORY_END, E820Type::Ram);
    add(BASE_MEMORY_END..VGA_WINDOW_START, E820Type::Reserved);
    add(ROM_AREA_START..EXTENDED_MEMORY, E820Type::Reserved);
    add(EXTENDED_MEMORY..tables.start, E820Type::Ram);
    // The FACS among the tables is written by the operating system, so they are not reclaimable.
    add(tables, E820Type::Nvs);
    add(HIGH_RAM..HIGH_RAM + desc.high_ram(), E820Type::Ram);
    map
}

/// A map as the bytes of fw_cfg's `etc/e820`.
#[must_use]
pub fn encode(map: &[E820Entry]) -> Vec<u8> {
    map.iter().flat_map(E820Entry::encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::machine;
    use hv_core::machine::{LOW_RAM_MAX, VGA_WINDOW};

    const GIB: u64 = 1 << 30;

    #[test]
    fn fw_cfg_map_is_ram_only_and_covers_all_of_it() {
        for memory in [16 << 20, GIB, 2 * GIB, 3 * GIB, 4 * GIB, 64 * GIB] {
            let map = ram(&machine(memory, 1));
            assert!(map.iter().all(|e| e.kind == E820Type::Ram));
            assert_eq!(map.iter().map(|e| e.len).sum::<u64>(), memory);
        }
        assert_eq!(ram(&machine(3 * GIB, 1)).len(), 1);
        assert_eq!(
            ram(&machine(5 * GIB, 1))[1],
            E820Entry {
                start: 4 * GIB,
                len: 2 * GIB,
                kind: E820Type::Ram
            }
        );
    }

    #[test]
    fn direct_boot_map_ascends_without_overlap_and_leaves_mmio_out() {
        for memory in [1 << 20, 2 << 20, 16 << 20, GIB, 3 * GIB, 8 * GIB] {
            let d = machine(memory, 1);
            let map = direct_boot(&d);
            for pair in map.windows(2) {
                assert!(pair[0].start + pair[0].len <= pair[1].start, "{map:x?}");
            }
            for e in &map {
                for hole in [VGA_WINDOW, LOW_RAM_MAX..HIGH_RAM] {
                    assert!(
                        e.start + e.len <= hole.start || e.start >= hole.end,
                        "{e:x?}"
                    );
                }
                assert!(e.start + e.len <= d.low_ram().max(EXTENDED_MEMORY) || e.start >= HIGH_RAM);
            }
        }
    }

    #[test]
    fn pci_window_starts_above_ram() {
        for memory in [GIB, 2 * GIB, 2 * GIB + (1 << 20), 3 * GIB, 9 * GIB] {
            let d = machine(memory, 1);
            assert!(pci_window(&d).start >= d.low_ram());
        }
        assert_eq!(pci_window(&machine(2 * GIB, 1)).start, 0x8000_0000);
        assert_eq!(pci_window(&machine(3 * GIB, 1)).start, 0xc000_0000);
    }

    #[test]
    fn an_entry_is_twenty_bytes_little_endian() {
        let e = E820Entry {
            start: 0x1_0000_0000,
            len: 0x20_0000,
            kind: E820Type::Reserved,
        };
        assert_eq!(
            e.encode(),
            [
                0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 2, 0, 0, 0
            ]
        );
    }
}
