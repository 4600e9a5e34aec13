//! The firmware's part of placing tables, for a kernel that is booted without firmware: the table-loader script is applied to
//! guest RAM, and SMBIOS, MP table and $PIR go where kernels search for them.
//!
//! ```text
//! 0x00400               BIOS data area: base memory, EBDA segment, COM1 (what kernels ask it for)
//! 0xF0000               RSDP, then SMBIOS anchor, $PIR, MP pointer and table, each 16-byte aligned
//! top of low RAM - 64K  ACPI tables, SMBIOS structures (e820: NVS)
//! ```
//!
//! Nothing in guest memory is trusted or read: everything is composed here and written once.

use crate::acpi::loader::{Command, Zone, decode};
use crate::acpi::{self, AcpiBlobs};
use crate::blob::sum;
use crate::e820::{BASE_MEMORY_END, EXTENDED_MEMORY, table_area};
use crate::{mptable, pir, smbios};
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use hv_core::Gpa;
use hv_core::machine::MachineDesc;
use hv_core::mem::{GuestMemory, NotRam};

/// Where operating systems search for pointers to tables.
pub const F_SEGMENT: Range<u64> = 0xf_0000..EXTENDED_MEMORY;
/// Where the RSDP is after [`place`]: the first thing in the F segment. For the boot parameters of a kernel.
pub const RSDP: Gpa = Gpa(F_SEGMENT.start);

/// Where the tables are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placement {
    /// The RSDP, which is always at [`RSDP`].
    pub rsdp: Gpa,
    /// The blob of ACPI tables.
    pub acpi_tables: Gpa,
    /// The SMBIOS anchor.
    pub smbios: Gpa,
    /// The $PIR table.
    pub pir: Gpa,
    /// The MP floating pointer.
    pub mp: Gpa,
}

/// The tables could not be placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlaceError {
    /// The machine has too little RAM for a table area.
    NoRoom {
        /// Bytes wanted.
        wanted: u64,
        /// Bytes left in the zone.
        left: u64,
    },
    /// An address that should be RAM is not.
    NotRam(NotRam),
    /// The loader script contradicts its blobs: entry number.
    Script(usize),
}

impl fmt::Display for PlaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlaceError::NoRoom { wanted, left } => {
                write!(
                    f,
                    "no room for the firmware tables: {wanted} bytes wanted, {left} left; give the machine more RAM"
                )
            }
            PlaceError::NotRam(e) => write!(f, "cannot place the firmware tables: {e}"),
            PlaceError::Script(entry) => {
                write!(f, "entry {entry} of the table-loader script is wrong")
            }
        }
    }
}

impl core::error::Error for PlaceError {}

impl From<NotRam> for PlaceError {
    fn from(e: NotRam) -> Self {
        PlaceError::NotRam(e)
    }
}

/// Builds the tables of the machine and puts them into its RAM. 0xF0000 to 0xFFFFF must be writable RAM.
///
/// # Errors
/// The machine is too small, or its RAM is not where [`MachineDesc`] says.
pub fn place(desc: &MachineDesc, mem: &dyn GuestMemory) -> Result<Placement, PlaceError> {
    let mut zones = Zones {
        high: table_area(desc),
        f_segment: F_SEGMENT,
    };
    let AcpiBlobs {
        tables,
        rsdp,
        script,
    } = acpi::build(desc);
    let blobs = apply(
        &script,
        &[(acpi::TABLES_FILE, &tables), (acpi::RSDP_FILE, &rsdp)],
        &mut zones,
    )?;
    let (mut acpi_tables, mut rsdp) = (Gpa(0), Gpa(0));
    for blob in &blobs {
        mem.write(blob.at, &blob.bytes)?;
        match blob.name {
            acpi::RSDP_FILE => rsdp = blob.at,
            _ => acpi_tables = blob.at,
        }
    }

    let mut smbios = smbios::build(desc);
    let structures = zones.take(Zone::High, smbios.tables.len(), 16)?;
    smbios.set_address(structures.0 as u32);
    mem.write(structures, &smbios.tables)?;
    let smbios = zones.store(mem, &smbios.anchor)?;
    let pir = zones.store(mem, &pir::build())?;
    let mp = Gpa(zones.f_segment.start.next_multiple_of(16));
    let mp = zones.store(mem, &mptable::build(desc, mp))?;
    bios_data_area(mem)?;
    Ok(Placement {
        rsdp,
        acpi_tables,
        smbios,
        pir,
        mp,
    })
}

/// The few words of the BIOS data area that kernels read: they keep off the EBDA and look for the MP pointer there.
fn bios_data_area(mem: &dyn GuestMemory) -> Result<(), NotRam> {
    const COM1_PORT: Gpa = Gpa(0x400);
    const EBDA_SEGMENT: Gpa = Gpa(0x40e);
    const BASE_KIB: Gpa = Gpa(0x413);
    mem.write(COM1_PORT, &0x3f8u16.to_le_bytes())?;
    mem.write(EBDA_SEGMENT, &((BASE_MEMORY_END >> 4) as u16).to_le_bytes())?;
    mem.write(BASE_KIB, &((BASE_MEMORY_END >> 10) as u16).to_le_bytes())?;
    // The EBDA's first byte is its length in KiB.
    mem.write(Gpa(BASE_MEMORY_END), &[1])
}

/// What is left of the places for tables.
struct Zones {
    high: Range<u64>,
    f_segment: Range<u64>,
}

impl Zones {
    fn take(&mut self, zone: Zone, len: usize, align: u64) -> Result<Gpa, PlaceError> {
        let zone = match zone {
            Zone::High => &mut self.high,
            Zone::FSegment => &mut self.f_segment,
        };
        let wanted = len as u64;
        let start = zone.start.next_multiple_of(align.max(1));
        let end = start.saturating_add(wanted);
        if end > zone.end {
            return Err(PlaceError::NoRoom {
                wanted,
                left: zone.end.saturating_sub(start),
            });
        }
        zone.start = end;
        Ok(Gpa(start))
    }

    /// Puts `bytes` into the F segment, where all is found by searching at multiples of 16.
    fn store(&mut self, mem: &dyn GuestMemory, bytes: &[u8]) -> Result<Gpa, PlaceError> {
        let at = self.take(Zone::FSegment, bytes.len(), 16)?;
        mem.write(at, bytes)?;
        Ok(at)
    }
}

/// A blob that has its address.
struct Placed<'a> {
    name: &'a str,
    at: Gpa,
    bytes: Vec<u8>,
}

/// Executes a table-loader script over `files`.
fn apply<'a>(
    script: &'a [u8],
    files: &[(&str, &[u8])],
    zones: &mut Zones,
) -> Result<Vec<Placed<'a>>, PlaceError> {
    let mut placed: Vec<Placed<'a>> = Vec::new();
    for (number, command) in decode(script).enumerate() {
        let wrong = PlaceError::Script(number);
        match command.ok_or(wrong)? {
            Command::Allocate { file, align, zone } => {
                let (_, bytes) = files.iter().find(|f| f.0 == file).ok_or(wrong)?;
                let at = zones.take(zone, bytes.len(), u64::from(align))?;
                placed.push(Placed {
                    name: file,
                    at,
                    bytes: bytes.to_vec(),
                });
            }
            Command::AddPointer {
                file,
                target,
                offset,
                size,
            } => {
                let base = placed.iter().find(|b| b.name == target).ok_or(wrong)?.at;
                let blob = placed.iter_mut().find(|b| b.name == file).ok_or(wrong)?;
                let size = usize::from(size);
                let field = blob
                    .bytes
                    .get_mut(offset as usize..)
                    .and_then(|b| b.get_mut(..size))
                    .ok_or(wrong)?;
                let mut value = [0; 8];
                value.get_mut(..size).ok_or(wrong)?.copy_from_slice(field);
                let value = u64::from_le_bytes(value).wrapping_add(base.0);
                field.copy_from_slice(&value.to_le_bytes()[..size]);
            }
            Command::AddChecksum {
                file,
                offset,
                start,
                len,
            } => {
                let blob = placed.iter_mut().find(|b| b.name == file).ok_or(wrong)?;
                let summed = blob
                    .bytes
                    .get(start as usize..)
                    .and_then(|b| b.get(..len as usize))
                    .ok_or(wrong)?;
                let sum = sum(summed);
                let byte = blob.bytes.get_mut(offset as usize).ok_or(wrong)?;
                *byte = byte.wrapping_sub(sum);
            }
        }
    }
    Ok(placed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acpi::loader::Script;
    use crate::testing::{machine, machines};
    use hv_core::machine::MAX_CPUS;
    use hv_core::testing::{Random, VecMemory};

    fn placed(desc: &MachineDesc) -> (VecMemory, Placement) {
        let mem = VecMemory::new(desc.low_ram().min(64 << 20) as usize);
        let p = place(desc, &mem).unwrap();
        (mem, p)
    }

    fn bytes(mem: &VecMemory, at: u64, len: usize) -> Vec<u8> {
        let mut b = vec![0; len];
        mem.read(Gpa(at), &mut b).unwrap();
        b
    }

    /// A table at `at` whose checksum has been verified.
    fn table(mem: &VecMemory, at: u64) -> Vec<u8> {
        let t = bytes(mem, at, mem.read_u32(Gpa(at + 4)).unwrap() as usize);
        assert_eq!(
            sum(&t),
            0,
            "checksum of {:?}",
            String::from_utf8_lossy(&t[..4])
        );
        t
    }

    fn value(t: &[u8], at: usize, size: usize) -> u64 {
        t[at..at + size]
            .iter()
            .rev()
            .fold(0, |v, b| v << 8 | u64::from(*b))
    }

    #[test]
    fn all_acpi_pointers_resolve_to_tables_with_valid_checksums() {
        for cpus in [1, 4, 32] {
            let d = machine(32 << 20, cpus);
            let (mem, p) = placed(&d);
            assert_eq!(p.rsdp, RSDP);
            let rsdp = bytes(&mem, p.rsdp.0, 36);
            assert_eq!(
                (&rsdp[..8], sum(&rsdp[..20]), sum(&rsdp)),
                (&b"RSD PTR "[..], 0, 0)
            );
            let mut listed = vec![];
            for (at, size, name) in [(16, 4, b"RSDT"), (24, 8, b"XSDT")] {
                let root = table(&mem, value(&rsdp, at, size));
                assert_eq!(&root[..4], name);
                let names: Vec<_> = root[36..]
                    .chunks(size)
                    .map(|pointer| table(&mem, value(pointer, 0, size))[..4].to_vec())
                    .collect();
                assert_eq!(names, [b"FACP", b"APIC", b"WAET"]);
                listed.push(value(&root, 36, size));
            }
            assert_eq!(listed[0], listed[1]);
            let fadt = table(&mem, listed[0]);
            assert_eq!(fadt.len(), 244);
            let facs = value(&fadt, 36, 4);
            assert_eq!((facs % 64, bytes(&mem, facs, 4)), (0, b"FACS".to_vec()));
            assert_eq!(&table(&mem, value(&fadt, 40, 4))[..4], b"DSDT");
            assert_eq!(value(&fadt, 40, 4), value(&fadt, 140, 8));
        }
    }

    #[test]
    fn everything_lies_in_what_the_memory_map_reserves() {
        for d in machines().iter().filter(|d| d.low_ram() <= 64 << 20) {
            let (mem, p) = placed(d);
            let area = table_area(d);
            assert!(area.contains(&p.acpi_tables.0));
            let anchor = bytes(&mem, p.smbios.0, 31);
            assert!(area.contains(&value(&anchor, 0x18, 4)));
            assert_eq!(
                (&anchor[..4], sum(&anchor), sum(&anchor[16..])),
                (&b"_SM_"[..], 0, 0)
            );
            for at in [p.rsdp, p.smbios, p.pir, p.mp] {
                assert!(F_SEGMENT.contains(&at.0) && at.0 % 16 == 0);
            }
            assert_eq!(bytes(&mem, p.pir.0, 4), b"$PIR");
        }
    }

    #[test]
    fn the_mp_pointer_points_behind_itself() {
        let (mem, p) = placed(&machine(32 << 20, 2));
        let at = p.mp;
        assert_eq!(bytes(&mem, at.0, 4), b"_MP_");
        assert_eq!(mem.read_u32(at.add(4)).unwrap(), at.0 as u32 + 16);
        assert_eq!(bytes(&mem, at.0 + 16, 4), b"PCMP");
    }

    #[test]
    fn the_largest_machine_fits() {
        assert!(place(&machine(32 << 20, MAX_CPUS), &VecMemory::new(32 << 20)).is_ok());
    }

    #[test]
    fn a_machine_without_extended_memory_is_refused() {
        let d = machine(1 << 20, 1);
        assert!(matches!(
            place(&d, &VecMemory::new(1 << 20)),
            Err(PlaceError::NoRoom { .. })
        ));
    }

    #[test]
    fn ram_that_is_not_there_is_an_error() {
        let d = machine(32 << 20, 1);
        assert!(matches!(
            place(&d, &VecMemory::new(1 << 20)),
            Err(PlaceError::NotRam(_))
        ));
    }

    #[test]
    fn a_wrong_script_is_an_error_and_never_a_panic() {
        let mut scripts = vec![vec![7; 128], vec![1; 40]];
        let mut script = |f: &dyn Fn(&mut Script)| {
            let mut s = Script::default();
            s.allocate("a", 16, Zone::High);
            f(&mut s);
            scripts.push(s.finish());
        };
        script(&|s| s.allocate("missing", 16, Zone::High));
        script(&|s| s.add_pointer("a", 6, 4, "a"));
        script(&|s| s.add_pointer("a", 0, 9, "a"));
        script(&|s| s.add_pointer("a", u32::MAX, 8, "a"));
        script(&|s| s.add_pointer("a", 0, 4, "missing"));
        script(&|s| s.add_checksum("a", 8, 0, 8));
        script(&|s| s.add_checksum("a", 0, u32::MAX, u32::MAX));
        for s in scripts {
            let mut zones = Zones {
                high: 0x1000..0x2000,
                f_segment: F_SEGMENT,
            };
            assert!(matches!(
                apply(&s, &[("a", &[0; 8])], &mut zones),
                Err(PlaceError::Script(_))
            ));
        }
    }

    #[test]
    fn random_scripts_are_survived() {
        let mut random = Random::new(0x9e37_79b9_7f4a_7c15);
        let good = acpi::build(&machine(32 << 20, 2));
        for _ in 0..2_000 {
            let mut script = good.script.clone();
            for _ in 0..4 {
                let seed = random.next();
                let at = seed as usize % script.len();
                script[at] = (seed >> 32) as u8;
            }
            let mut zones = Zones {
                high: 0x10_0000..0x11_0000,
                f_segment: F_SEGMENT,
            };
            let _ = apply(
                &script,
                &[
                    (acpi::TABLES_FILE, &good.tables),
                    (acpi::RSDP_FILE, &good.rsdp),
                ],
                &mut zones,
            );
        }
    }
}
