//! RSDP, revision 2: the way in (ACPI 5.2.5.3, "Root System Description Pointer (RSDP) Structure"). It points to an RSDT, which
//! XP and SeaBIOS use, and an XSDT with the same tables.

use super::loader::{Script, Zone};
use super::{RSDP_FILE, TABLES_FILE};
use crate::blob::Blob;
use alloc::vec::Vec;

const LEN: usize = 36;
/// What the first checksum covers: the ACPI 1.0 structure.
const LEN_1_0: u32 = 20;
const CHECKSUM: u32 = 8;
const REVISION: usize = 15;
const RSDT: usize = 16;
const LENGTH: usize = 20;
const XSDT: usize = 24;
const EXTENDED_CHECKSUM: u32 = 32;

/// The RSDP for an RSDT and an XSDT at these offsets of the tables blob.
pub(super) fn build(rsdt: u32, xsdt: u32, script: &mut Script) -> Vec<u8> {
    let mut b = Blob::zeroed(LEN);
    b.set(0, b"RSD PTR ").set(9, crate::OEM).set8(REVISION, 2);
    b.set32(RSDT, rsdt)
        .set32(LENGTH, LEN as u32)
        .set64(XSDT, u64::from(xsdt));
    script.allocate(RSDP_FILE, 16, Zone::FSegment);
    script.add_pointer(RSDP_FILE, RSDT as u32, 4, TABLES_FILE);
    script.add_pointer(RSDP_FILE, XSDT as u32, 8, TABLES_FILE);
    script.add_checksum(RSDP_FILE, CHECKSUM, 0, LEN_1_0);
    script.add_checksum(RSDP_FILE, EXTENDED_CHECKSUM, 0, LEN as u32);
    b.0
}
