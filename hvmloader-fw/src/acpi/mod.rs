//! The ACPI tables: RSDP, RSDT and XSDT, FADT, FACS, DSDT, MADT, WAET, HPET, as two blobs and the script that relocates them.
//!
//! Not here: an HPET (we have none), MCFG (the i440FX has no memory-mapped configuration space), S4.
//!
//! Invariant: an address inside a blob is only ever stored together with an ADD_POINTER command of the script, so that
//! whoever places the blobs (SeaBIOS, OVMF or [`place`](crate::place)) resolves all of them.

mod aml;
mod dsdt;
pub mod facs;
mod fadt;
mod hpet;
pub mod loader;
mod madt;
mod processors;
mod rsdp;
mod waet;

#[cfg(test)]
mod checks;

use crate::blob::Blob;
use alloc::vec::Vec;
use hv_core::machine::MachineDesc;
use loader::{Script, Zone};

/// fw_cfg's name of the blob with all tables but the RSDP.
pub const TABLES_FILE: &str = "etc/acpi/tables";
/// fw_cfg's name of the blob with the RSDP.
pub const RSDP_FILE: &str = "etc/acpi/rsdp";
/// fw_cfg's name of the script that relocates the two.
pub const LOADER_FILE: &str = "etc/table-loader";

/// Length of the header that all tables but RSDP and FACS begin with.
const HEADER_LEN: usize = 36;
const HEADER_LENGTH: usize = 4;
const HEADER_CHECKSUM: usize = 9;

/// The tables before they have an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AcpiBlobs {
    /// [`TABLES_FILE`].
    pub tables: Vec<u8>,
    /// [`RSDP_FILE`].
    pub rsdp: Vec<u8>,
    /// [`LOADER_FILE`].
    pub script: Vec<u8>,
}

/// Builds the tables of a machine.
#[must_use]
pub fn build(desc: &MachineDesc) -> AcpiBlobs {
    let mut tables = Tables {
        bytes: Vec::new(),
        script: Script::default(),
    };
    tables.script.allocate(TABLES_FILE, 64, Zone::High);

    let facs = tables.add(&facs::build());
    let dsdt = tables.add(&table(b"DSDT", dsdt::REVISION, &dsdt::build(desc)));
    let fadt = tables.add(&table(b"FACP", fadt::REVISION, &fadt::body()));
    tables.pointer(fadt, fadt::FIRMWARE_CTRL, 4, facs);
    tables.pointer(fadt, fadt::DSDT, 4, dsdt);
    tables.pointer(fadt, fadt::X_DSDT, 8, dsdt);
    let madt = tables.add(&table(b"APIC", madt::revision(desc), &madt::body(desc)));
    let waet = tables.add(&table(b"WAET", 1, &waet::body()));

    let hpet = desc
        .hpet
        .then(|| tables.add(&table(b"HPET", 1, &hpet::body())));

    let listed: Vec<Table> = [fadt, madt, waet].into_iter().chain(hpet).collect();
    let rsdt = tables.add_root(b"RSDT", 4, &listed);
    let xsdt = tables.add_root(b"XSDT", 8, &listed);

    // Checksums come after all pointers: what they add up is final then.
    for table in [dsdt, rsdt, xsdt].iter().chain(&listed) {
        tables.checksum(*table);
    }
    let Tables { bytes, mut script } = tables;
    let rsdp = rsdp::build(rsdt.at, xsdt.at, &mut script);
    AcpiBlobs {
        tables: bytes,
        rsdp,
        script: script.finish(),
    }
}

/// A table within the tables blob.
#[derive(Clone, Copy)]
struct Table {
    at: u32,
    len: u32,
}

struct Tables {
    bytes: Vec<u8>,
    script: Script,
}

impl Tables {
    /// Appends a table, 64-byte aligned as the FACS must be.
    fn add(&mut self, table: &[u8]) -> Table {
        self.bytes.resize(self.bytes.len().next_multiple_of(64), 0);
        let at = self.bytes.len() as u32;
        self.bytes.extend_from_slice(table);
        Table {
            at,
            len: table.len() as u32,
        }
    }

    /// Appends an RSDT or XSDT: `size`-byte pointers to `listed`.
    fn add_root(&mut self, signature: &[u8; 4], size: usize, listed: &[Table]) -> Table {
        let root = self.add(&table(signature, 1, &alloc::vec![0; size * listed.len()]));
        for (i, table) in listed.iter().enumerate() {
            self.pointer(root, HEADER_LEN + i * size, size, *table);
        }
        root
    }

    /// Makes the `size` bytes at `offset` of `table` point to `to`.
    fn pointer(&mut self, table: Table, offset: usize, size: usize, to: Table) {
        let at = table.at as usize + offset;
        self.bytes[at..at + size].copy_from_slice(&u64::from(to.at).to_le_bytes()[..size]);
        self.script
            .add_pointer(TABLES_FILE, at as u32, size as u8, TABLES_FILE);
    }

    /// Has the table's checksum computed.
    fn checksum(&mut self, table: Table) {
        self.script.add_checksum(
            TABLES_FILE,
            table.at + HEADER_CHECKSUM as u32,
            table.at,
            table.len,
        );
    }
}

/// A system description table: the header (ACPI 5.2.6, "System Description Table Header") and `body`. The checksum is left to
/// the script.
fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut b = Blob::zeroed(HEADER_LEN);
    b.set(0, signature)
        .set32(HEADER_LENGTH, (HEADER_LEN + body.len()) as u32)
        .set8(8, revision);
    b.set(10, crate::OEM)
        .set(16, b"UMBRAPC ")
        .set32(24, 1)
        .set(28, b"UMBR")
        .set32(32, 1);
    b.push(body);
    b.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::machines;

    #[test]
    fn tables_fit_the_area_that_direct_boot_reserves() {
        for d in machines() {
            let blobs = build(&d);
            assert!(
                (blobs.tables.len() as u64) < crate::e820::TABLE_AREA_LEN / 2,
                "{} bytes",
                blobs.tables.len()
            );
            assert_eq!(blobs.rsdp.len(), 36);
            assert_eq!(blobs.script.len() % loader::ENTRY_LEN, 0);
        }
    }

    #[test]
    fn facs_is_first_so_that_its_alignment_is_the_blobs() {
        assert_eq!(&build(&machines()[0]).tables[..4], b"FACS");
    }

    #[test]
    fn all_tables_in_the_blob_have_a_header_with_their_length() {
        let blobs = build(&machines()[1]);
        let mut at = 0;
        let mut found = Vec::new();
        while at < blobs.tables.len() {
            found.push(blobs.tables[at..at + 4].to_vec());
            let len = u32::from_le_bytes(blobs.tables[at + 4..at + 8].try_into().unwrap()) as usize;
            at = (at + len).next_multiple_of(64);
        }
        let want: [&[u8; 4]; 7] = [
            b"FACS", b"DSDT", b"FACP", b"APIC", b"WAET", b"RSDT", b"XSDT",
        ];
        assert_eq!(found, want);
    }
}
