//! SMBIOS 2.8: what `dmidecode` and Windows' system information show (DMTF DSP0134, "System Management BIOS (SMBIOS) Reference
//! Specification"). Types 0, 1, 3, 4, 16, 17, 19, 32 and 127 with a 2.1-style 32-bit anchor.
//!
//! The anchor comes with address 0: SeaBIOS, OVMF or [`place`](crate::place) put the tables somewhere and complete it.

use crate::blob::{Blob, fix_sum};
use crate::e820::{E820Entry, ram};
use alloc::format;
use alloc::vec::Vec;
use hv_core::machine::MachineDesc;

/// fw_cfg's name of the anchor.
pub const ANCHOR_FILE: &str = "etc/smbios/smbios-anchor";
/// fw_cfg's name of the structures.
pub const TABLES_FILE: &str = "etc/smbios/smbios-tables";

/// The anchor and the structures.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Smbios {
    /// [`ANCHOR_FILE`]: the 31-byte entry point (5.2.1, "SMBIOS 2.1 (32-bit) Entry Point").
    pub anchor: Vec<u8>,
    /// [`TABLES_FILE`]: the structures in a row.
    pub tables: Vec<u8>,
}

const ANCHOR_LEN: usize = 0x1f;
const ANCHOR_CHECKSUM: usize = 4;
const INTERMEDIATE: usize = 0x10;
const INTERMEDIATE_CHECKSUM: usize = 0x15;
const TABLE_ADDRESS: usize = 0x18;
const VERSION: (u8, u8) = (2, 8);

/// Handles: the structure's type and its number.
const fn handle(kind: u8, number: usize) -> u16 {
    (kind as u16) << 8 | number as u16
}

const NO_HANDLE: u16 = 0xffff;
/// "Error information not provided" (7.17.1 and 7.18).
const NO_ERROR_INFO: u16 = 0xfffe;
const MAKER: &str = "Umbra";
const PRODUCT: &str = "Umbra virtual PC";
const SOFTWARE_VERSION: &str = env!("CARGO_PKG_VERSION");
/// The firmware's date, month first; it tells nothing but must look like one.
const RELEASE_DATE: &str = "01/01/2025";
/// The size of one memory device, in bytes: memory is shown as modules of at most this size.
const DIMM: u64 = 16 << 30;
/// Handles of type 17 have eight bits for the number.
const MAX_DIMMS: u64 = 255;

/// Builds the structures of a machine.
#[must_use]
pub fn build(desc: &MachineDesc) -> Smbios {
    let mut t = Structures::default();
    bios(&mut t);
    system(&mut t, desc);
    chassis(&mut t);
    processor(&mut t, desc);
    memory(&mut t, desc);
    t.add(32, 0, &[0; 7], &[]);
    t.add(127, 0, &[], &[]);

    let mut a = Blob::zeroed(ANCHOR_LEN);
    a.set(0, b"_SM_")
        .set8(5, ANCHOR_LEN as u8)
        .set8(6, VERSION.0)
        .set8(7, VERSION.1)
        .set16(8, t.largest as u16);
    a.set(INTERMEDIATE, b"_DMI_")
        .set16(0x16, t.bytes.len() as u16)
        .set16(0x1c, t.count);
    a.set8(0x1e, VERSION.0 << 4 | VERSION.1);
    let mut smbios = Smbios {
        anchor: a.0,
        tables: t.bytes,
    };
    smbios.set_address(0);
    smbios
}

impl Smbios {
    /// Tells the anchor where the structures are and completes its checksums.
    pub fn set_address(&mut self, tables: u32) {
        let a = &mut self.anchor;
        a[TABLE_ADDRESS..TABLE_ADDRESS + 4].copy_from_slice(&tables.to_le_bytes());
        fix_sum(a, INTERMEDIATE_CHECKSUM, INTERMEDIATE..ANCHOR_LEN);
        fix_sum(a, ANCHOR_CHECKSUM, 0..ANCHOR_LEN);
    }
}

#[derive(Default)]
struct Structures {
    bytes: Vec<u8>,
    count: u16,
    largest: usize,
}

impl Structures {
    /// Appends structure `number` of type `kind`: header, `fields`, strings (numbered from 1), and the empty string that ends it.
    fn add(&mut self, kind: u8, number: usize, fields: &[u8], strings: &[&str]) {
        let start = self.bytes.len();
        self.bytes.extend([kind, 4 + fields.len() as u8]);
        self.bytes.extend(handle(kind, number).to_le_bytes());
        self.bytes.extend(fields);
        for s in strings {
            self.bytes.extend(s.as_bytes());
            self.bytes.push(0);
        }
        if strings.is_empty() {
            self.bytes.push(0);
        }
        self.bytes.push(0);
        self.count += 1;
        self.largest = self.largest.max(self.bytes.len() - start);
    }
}

/// 7.1, "BIOS Information (Type 0)".
fn bios(t: &mut Structures) {
    const PCI: u64 = 1 << 7;
    const BOOT_FROM_CD: u64 = 1 << 15;
    const SELECTABLE_BOOT: u64 = 1 << 16;
    /// Extension byte 2: the tables describe a virtual machine.
    const VIRTUAL_MACHINE: u8 = 1 << 4;
    const SEGMENT: u16 = 0xe800;
    let mut b = Blob::zeroed(0x18 - 4);
    b.set8(0, 1).set8(1, 2).set16(2, SEGMENT).set8(4, 3);
    // ROM size: 256 KiB in units of 64 KiB, less one.
    b.set8(5, 3)
        .set64(6, PCI | BOOT_FROM_CD | SELECTABLE_BOOT)
        .set8(0xf, VIRTUAL_MACHINE);
    // No embedded controller.
    b.set8(0x12, 0xff).set8(0x13, 0xff);
    t.add(0, 0, &b.0, &[MAKER, SOFTWARE_VERSION, RELEASE_DATE]);
}

/// 7.2, "System Information (Type 1)". The UUID's first three fields are little-endian from SMBIOS 2.6 on.
fn system(t: &mut Structures, desc: &MachineDesc) {
    const POWER_SWITCH: u8 = 6;
    let u = desc.uuid;
    let uuid = [
        u[3], u[2], u[1], u[0], u[5], u[4], u[7], u[6], u[8], u[9], u[10], u[11], u[12], u[13],
        u[14], u[15],
    ];
    let serial: alloc::string::String = u.iter().map(|b| format!("{b:02x}")).collect();
    let mut b = Blob::zeroed(0x1b - 4);
    b.set(0, &[1, 2, 3, 4])
        .set(4, &uuid)
        .set8(0x14, POWER_SWITCH)
        .set8(0x15, 5)
        .set8(0x16, 6);
    t.add(
        1,
        0,
        &b.0,
        &[
            MAKER,
            PRODUCT,
            SOFTWARE_VERSION,
            &serial,
            "pc",
            "Virtual Machine",
        ],
    );
}

/// 7.4, "System Enclosure or Chassis (Type 3)".
fn chassis(t: &mut Structures) {
    const OTHER: u8 = 1;
    const SAFE: u8 = 3;
    const UNKNOWN: u8 = 2;
    let mut b = Blob::zeroed(0x16 - 4);
    b.set(0, &[1, OTHER, 2, 0, 0, SAFE, SAFE, SAFE, UNKNOWN]);
    t.add(3, 0, &b.0, &[MAKER, SOFTWARE_VERSION]);
}

/// 7.5, "Processor Information (Type 4)": one socket with all CPUs as its cores, those enabled that are there from the start. Speed
/// and caches are unknown to us.
fn processor(t: &mut Structures, desc: &MachineDesc) {
    const CENTRAL: u8 = 3;
    const OTHER: u8 = 1;
    const POPULATED_ENABLED: u8 = 0x41;
    let cores = desc.topology().cores() as u8;
    let mut b = Blob::zeroed(0x2a - 4);
    b.set(0, &[1, CENTRAL, OTHER, 2])
        .set8(0xc, 3)
        .set8(0x14, POPULATED_ENABLED)
        .set8(0x15, OTHER);
    for cache in [0x16, 0x18, 0x1a] {
        b.set16(cache, NO_HANDLE);
    }
    b.set(0x1f, &[cores, desc.cpus as u8, cores])
        .set16(0x24, u16::from(OTHER));
    t.add(4, 0, &b.0, &["CPU 0", MAKER, SOFTWARE_VERSION]);
}

/// 7.17, "Physical Memory Array (Type 16)", 7.18, "Memory Device (Type 17)" and 7.20, "Memory Array Mapped Address (Type 19)".
fn memory(t: &mut Structures, desc: &MachineDesc) {
    const OTHER: u8 = 1;
    const SYSTEM_MEMORY: u8 = 3;
    /// Windows' hardware tests want ECC.
    const MULTI_BIT_ECC: u8 = 6;
    /// The largest array that the 32-bit field of KiB can tell.
    const MAX_ARRAY_KIB: u64 = 0x8000_0000;
    let dimms = desc.memory.div_ceil(DIMM).clamp(1, MAX_DIMMS);
    let kib = desc.memory >> 10;

    let mut b = Blob::zeroed(0x17 - 4);
    b.set(0, &[OTHER, SYSTEM_MEMORY, MULTI_BIT_ECC])
        .set16(7, NO_ERROR_INFO)
        .set16(9, dimms as u16);
    if kib < MAX_ARRAY_KIB {
        b.set32(3, kib as u32);
    } else {
        b.set32(3, MAX_ARRAY_KIB as u32).set64(0xb, desc.memory);
    }
    t.add(16, 0, &b.0, &[]);

    for n in 0..dimms {
        // The last module has what is left.
        let size = if n + 1 == dimms {
            desc.memory - n * DIMM
        } else {
            DIMM
        };
        device(t, n as usize, size >> 20);
    }
    for (n, E820Entry { start, len, .. }) in ram(desc).into_iter().enumerate() {
        mapped_range(t, n, start, (start + len).saturating_sub(1));
    }
}

fn device(t: &mut Structures, number: usize, mib: u64) {
    const UNKNOWN_WIDTH: u16 = 0xffff;
    const SIZE_IS_EXTENDED: u16 = 0x7fff;
    const DIMM_FORM: u8 = 9;
    const RAM: u8 = 7;
    const DETAIL_OTHER: u16 = 1 << 1;
    let mut b = Blob::zeroed(0x28 - 4);
    b.set16(0, handle(16, 0))
        .set16(2, NO_ERROR_INFO)
        .set16(4, UNKNOWN_WIDTH)
        .set16(6, UNKNOWN_WIDTH);
    if mib < u64::from(SIZE_IS_EXTENDED) {
        b.set16(8, mib as u16);
    } else {
        b.set16(8, SIZE_IS_EXTENDED)
            .set32(0x18, mib.min(0x7fff_ffff) as u32);
    }
    b.set8(0xa, DIMM_FORM)
        .set8(0xc, 1)
        .set8(0xe, RAM)
        .set16(0xf, DETAIL_OTHER)
        .set8(0x13, 2);
    t.add(17, number, &b.0, &[&format!("DIMM {number}"), MAKER]);
}

fn mapped_range(t: &mut Structures, number: usize, start: u64, last: u64) {
    const USE_EXTENDED: u32 = u32::MAX;
    let mut b = Blob::zeroed(0x1f - 4);
    match u32::try_from(last >> 10) {
        Ok(last_kib) if last_kib != USE_EXTENDED => {
            b.set32(0, (start >> 10) as u32).set32(4, last_kib);
        }
        _ => {
            b.set32(0, USE_EXTENDED)
                .set32(4, USE_EXTENDED)
                .set64(0xb, start)
                .set64(0x13, last);
        }
    }
    b.set16(8, handle(16, 0)).set8(0xa, 1);
    t.add(19, number, &b.0, &[]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::sum;
    use crate::testing::{machine, machines, pluggable, scratch, tool};
    use std::process::Command;

    /// Structures as (type, formatted area, strings).
    fn parse(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>, usize)> {
        let mut found = Vec::new();
        while let [kind, len, ..] = bytes {
            let len = usize::from(*len);
            let end = (len..)
                .find(|i| bytes[*i] == 0 && bytes[*i + 1] == 0)
                .unwrap();
            let strings = if end == len {
                0
            } else {
                bytes[len..end].split(|b| *b == 0).count()
            };
            found.push((*kind, bytes[..len].to_vec(), strings));
            bytes = &bytes[end + 2..];
        }
        found
    }

    #[test]
    fn types_are_there_in_order_and_handles_differ() {
        let found = parse(&build(&machine(5 << 30, 2)).tables);
        assert_eq!(
            found.iter().map(|s| s.0).collect::<Vec<_>>(),
            [0, 1, 3, 4, 16, 17, 19, 19, 32, 127]
        );
        let mut handles: Vec<_> = found.iter().map(|s| (s.1[2], s.1[3])).collect();
        handles.sort_unstable();
        handles.dedup();
        assert_eq!(handles.len(), found.len());
    }

    #[test]
    fn cpus_are_cores_of_one_socket_and_those_to_come_are_not_enabled() {
        for (cpus, max_cpus) in [(1, 1), (4, 4), (2, 32)] {
            let found = parse(&build(&pluggable(cpus, max_cpus)).tables);
            let sockets: Vec<_> = found.iter().filter(|s| s.0 == 4).collect();
            assert_eq!(sockets.len(), 1);
            // Core count, cores enabled, thread count.
            let (cpus, max_cpus) = (cpus as u8, max_cpus as u8);
            assert_eq!(sockets[0].1[0x23..0x26], [max_cpus, cpus, max_cpus]);
        }
    }

    #[test]
    fn anchor_adds_up_and_counts_right() {
        for d in machines() {
            let mut s = build(&d);
            s.set_address(0x000f_1230);
            assert_eq!(sum(&s.anchor), 0);
            assert_eq!(sum(&s.anchor[0x10..]), 0);
            let word =
                |at: usize| usize::from(u16::from_le_bytes([s.anchor[at], s.anchor[at + 1]]));
            assert_eq!(word(0x16), s.tables.len());
            assert_eq!(word(0x1c), parse(&s.tables).len());
        }
    }

    #[test]
    fn one_memory_device_for_each_16_gib() {
        let devices = |memory| {
            parse(&build(&machine(memory, 1)).tables)
                .iter()
                .filter(|s| s.0 == 17)
                .count()
        };
        assert_eq!(
            (
                devices(1 << 30),
                devices(16 << 30),
                devices(17 << 30),
                devices(40 << 30)
            ),
            (1, 1, 2, 3)
        );
    }

    #[test]
    fn the_smallest_machines_structures_fit_seabios_f_segment_limit_or_are_moved_high() {
        assert!(build(&machine(1 << 30, 1)).tables.len() < 0xffff);
        assert!(build(&machine(8 << 40, 1)).tables.len() < 0xffff);
    }

    #[test]
    fn dmidecode_reads_it() {
        for (n, d) in machines().into_iter().enumerate() {
            let mut s = build(&d);
            // dmidecode's dump format: the anchor at 0 with the structures at 20h.
            s.set_address(0x20);
            let mut dump = s.anchor.clone();
            dump.resize(0x20, 0);
            dump.extend(&s.tables);
            let dir = scratch(&format!("smbios{n}"));
            let file = dir.join("dump.bin");
            std::fs::write(&file, dump).unwrap();
            let dmidecode = if std::path::Path::new("/usr/sbin/dmidecode").exists() {
                "/usr/sbin/dmidecode"
            } else {
                "dmidecode"
            };
            let Some(out) = tool(Command::new(dmidecode).arg("--from-dump").arg(&file)) else {
                return;
            };
            let text = String::from_utf8_lossy(&out.stdout).into_owned()
                + &String::from_utf8_lossy(&out.stderr);
            for bad in [
                "<OUT OF SPEC>",
                "<BAD INDEX>",
                "TRUNCATED",
                "Wrong DMI",
                "Invalid entry",
                "No SMBIOS",
            ] {
                assert!(!text.contains(bad), "{text}");
            }
            for good in [
                "SMBIOS 2.8 present",
                "UUID: 00112233-4455-6677-8899-aabbccddeeff",
                "Manufacturer: Umbra",
                "Error Correction Type: Multi-bit ECC",
                "System is a virtual machine",
                "Form Factor: DIMM",
                "Core Count",
                "End Of Table",
            ] {
                assert!(text.contains(good), "no {good:?} in {text}");
            }
            std::fs::remove_dir_all(dir).unwrap();
        }
    }
}
