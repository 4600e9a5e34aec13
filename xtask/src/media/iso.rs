//! Whether SeaBIOS or UEFI boots a CD image: "El Torito" Bootable CD-ROM Format Specification 1.0, as SeaBIOS's `cdrom_boot` reads it, and
//! UEFI Specification 13.3.2.1, "ISO-9660 and El Torito".
//!
//! SeaBIOS looks at the boot record in sector 17, the validation entry's marks (its checksum it leaves alone) and the initial entry. What is
//! damaged besides is worth a warning: the file may be cut off, and still boot.

use std::fs::File;
use std::path::Path;

use anyhow::Result;

use super::{Boots, le32, read_at};
use crate::outcome::refuse;

/// Bytes of a CD sector.
pub(super) const CD_SECTOR: u64 = 2048;
/// The primary volume descriptor's sector: ECMA-119 8.4.
const PRIMARY_DESCRIPTOR: u64 = 16;
/// The boot record's sector: El Torito 2.0, "The Boot Record Volume Descriptor".
const BOOT_RECORD: u64 = 17;
/// What the boot record begins with: its type 0, the standard's identifier and version, the boot system's identifier with its end.
const BOOT_RECORD_MARK: &[u8] = b"\0CD001\x01EL TORITO SPECIFICATION\0";
/// Where the boot record has the boot catalogue's sector.
const CATALOGUE_POINTER: usize = 0x47;
/// The platform of an x86 BIOS, and that of UEFI: El Torito 2.1, "Validation Entry"; UEFI Specification 13.3.2.1.
const PLATFORM_X86: u8 = 0;
const PLATFORM_EFI: u8 = 0xef;
/// The indicator of a bootable entry: El Torito 2.2, "Initial/Default Entry".
const BOOTABLE: u8 = 0x88;
/// Sectors of 512 bytes, in which an entry says how much is loaded, in a CD sector.
const LOAD_SECTORS: u64 = 4;

/// Whether the image has a volume descriptor where an ISO 9660 image has its first two.
pub(super) fn is_iso(file: &mut File) -> bool {
    [PRIMARY_DESCRIPTOR, BOOT_RECORD]
        .iter()
        .any(|&sector| read_at(file, sector * CD_SECTOR, 8).get(1..6) == Some(b"CD001"))
}

/// Whether a file of `length` bytes ends before its first volume descriptor.
pub(super) fn is_too_short(length: u64) -> bool {
    length < (PRIMARY_DESCRIPTOR + 1) * CD_SECTOR
}

/// Checks that a BIOS or UEFI boots the image, and tells which, and what is wrong with it all the same.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused) with the reason why it does not boot.
pub(super) fn check(file: &mut File, length: u64, path: &Path) -> Result<(Boots, Vec<String>)> {
    let name = path.display();
    let record = read_at(file, BOOT_RECORD * CD_SECTOR, CD_SECTOR as usize);
    if !record.starts_with(BOOT_RECORD_MARK) {
        refuse!("{name} is not bootable: it has no El Torito boot record in sector 17");
    }
    let catalogue = u64::from(le32(&record, CATALOGUE_POINTER));
    let entries = read_at(file, catalogue * CD_SECTOR, CD_SECTOR as usize);
    let first = entries.first_chunk::<64>();
    let Some(first) = first.filter(|_| catalogue < length / CD_SECTOR) else {
        refuse!(
            "{name} is not bootable: its boot catalogue lies beyond the end of the file, which is cut off"
        );
    };
    let (validation, initial) = first.split_at(32);
    if validation[0] != 1 || validation[30..32] != [0x55, 0xaa] {
        refuse!("{name} is not bootable: its El Torito validation entry is damaged");
    }
    let platform = validation[1];
    let has_efi_section = has_efi_section(&entries);
    let boots = match (platform, initial[0] == BOOTABLE) {
        (PLATFORM_EFI, true) => Boots::Uefi,
        (PLATFORM_X86, true) if has_efi_section => Boots::Both,
        (_, _) if has_efi_section => return Ok((Boots::Uefi, warnings(file, length, validation))),
        (PLATFORM_X86, _) => Boots::Bios,
        (PLATFORM_EFI, false) => Boots::Uefi,
        (other, _) => refuse!(
            "{name} is not bootable: its boot catalogue is for platform {other:02X}h, neither a BIOS nor UEFI"
        ),
    };
    if initial[0] != BOOTABLE {
        refuse!("{name} is not bootable: the first entry of its boot catalogue is not bootable");
    }
    let load = u64::from(u16::from_le_bytes([initial[6], initial[7]]));
    // UEFI takes the rest of the medium where 0 or 1 is said: UEFI Specification 13.3.2.1, "ISO-9660 and El Torito".
    if load == 0 && boots != Boots::Uefi {
        refuse!(
            "{name} is not bootable: its boot catalogue says that 0 sectors of the boot image are to be loaded"
        );
    }
    let image = u64::from(le32(initial, 8));
    if image + load.div_ceil(LOAD_SECTORS) > length / CD_SECTOR {
        refuse!(
            "{name} is not bootable: its boot image lies beyond the end of the file, which is cut off"
        );
    }
    Ok((boots, warnings(file, length, validation)))
}

/// Whether a section of the catalogue is for UEFI and has a bootable entry: El Torito 2.3, "Section Header Entry", and 2.4, "Section Entry".
fn has_efi_section(catalogue: &[u8]) -> bool {
    const HEADER: u8 = 0x90;
    const LAST_HEADER: u8 = 0x91;
    let mut efi = false;
    for entry in catalogue.chunks_exact(32).skip(2) {
        match entry[0] {
            HEADER | LAST_HEADER => efi = entry[1] == PLATFORM_EFI,
            BOOTABLE if efi => return true,
            _ => {}
        }
    }
    false
}

/// What is wrong with an image that boots.
fn warnings(file: &mut File, length: u64, validation: &[u8]) -> Vec<String> {
    let mut warnings = Vec::new();
    let primary = read_at(file, PRIMARY_DESCRIPTOR * CD_SECTOR, 84);
    if primary.get(..6) == Some(b"\x01CD001") {
        let size = u64::from(le32(&primary, 80)) * CD_SECTOR;
        if size > length {
            warnings.push(format!(
                "is cut off: it has {length} of {size} bytes, and the guest may miss the rest"
            ));
        }
    } else {
        warnings.push("has no primary volume descriptor: it may be damaged".to_owned());
    }
    let words = validation
        .chunks_exact(2)
        .filter_map(|word| word.try_into().ok())
        .map(u16::from_le_bytes);
    if words.fold(0_u16, u16::wrapping_add) != 0 {
        warnings.push(
            "has a wrong checksum in its boot catalogue, which some BIOSes refuse".to_owned(),
        );
    }
    warnings
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::media::{Kind, Medium};
    use crate::outcome::Refused;

    /// A small El Torito image: descriptors at 16 to 18, the catalogue at 19, the boot image at 20.
    pub(in crate::media) fn iso() -> Vec<u8> {
        let mut image = vec![0; 24 * 2048];
        for (sector, kind) in [(16, 1), (17, 0), (18, 255)] {
            image[sector * 2048] = kind;
            image[sector * 2048 + 1..][..6].copy_from_slice(b"CD001\x01");
        }
        image[16 * 2048 + 80] = 24;
        image[17 * 2048 + 7..][..23].copy_from_slice(b"EL TORITO SPECIFICATION");
        image[17 * 2048 + 0x47] = 19;
        image[19 * 2048] = 1;
        image[19 * 2048 + 28..][..4].copy_from_slice(&[0xaa, 0x55, 0x55, 0xaa]);
        image[19 * 2048 + 32] = 0x88;
        image[19 * 2048 + 38] = 4;
        image[19 * 2048 + 40] = 20;
        image
    }

    fn open(bytes: &[u8]) -> Result<Medium> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.iso");
        std::fs::write(&path, bytes).unwrap();
        Medium::open(&path)
    }

    /// The image with these bytes changed is refused with a sentence that has `part`.
    fn refused(part: &str, changes: &[(usize, u8)]) {
        let mut image = iso();
        for &(at, byte) in changes {
            image[at] = byte;
        }
        let error = open(&image).expect_err(part);
        assert!(error.is::<Refused>());
        assert!(error.to_string().contains(part), "{error}");
    }

    /// The image with these bytes changed boots, with one warning that has `part`.
    fn warned(part: &str, changes: &[(usize, u8)], length: usize) {
        let mut image = iso();
        for &(at, byte) in changes {
            image[at] = byte;
        }
        let medium = open(&image[..length]).expect(part);
        assert_eq!(medium.kind, Kind::Cdrom);
        assert_eq!(medium.warnings.len(), 1, "{:?}", medium.warnings);
        assert!(medium.warnings[0].contains(part), "{:?}", medium.warnings);
    }

    const WHOLE: usize = 24 * 2048;
    const CATALOGUE: usize = 19 * 2048;

    #[test]
    fn a_whole_image_boots_without_a_warning() {
        let medium = open(&iso()).unwrap();
        assert_eq!(medium.kind, Kind::Cdrom);
        assert!(medium.warnings.is_empty());
    }

    #[test]
    fn what_seabios_boots_is_a_warning_at_most() {
        warned("cut off: it has 45056 of 49152", &[], 22 * 2048);
        warned("checksum", &[(CATALOGUE + 4, 1)], WHOLE);
        warned("no primary volume", &[(16 * 2048 + 1, 0)], WHOLE);
        // A set of volume descriptors without an end.
        let mut image = iso();
        image[18 * 2048..19 * 2048].fill(0);
        assert!(open(&image).unwrap().warnings.is_empty());
    }

    #[test]
    fn what_seabios_refuses_is_refused_with_the_reason() {
        refused("no El Torito boot record", &[(17 * 2048 + 7, b'X')]);
        refused("no El Torito boot record", &[(17 * 2048, 1)]);
        refused("catalogue lies beyond", &[(17 * 2048 + 0x47, 200)]);
        refused("validation entry is damaged", &[(CATALOGUE, 0)]);
        refused("validation entry is damaged", &[(CATALOGUE + 30, 0)]);
        refused("platform 02h", &[(CATALOGUE + 1, 2)]);
        refused("is not bootable: the first entry", &[(CATALOGUE + 32, 0)]);
        refused("0 sectors", &[(CATALOGUE + 38, 0)]);
        refused("image lies beyond", &[(CATALOGUE + 40, 24)]);
        refused("image lies beyond", &[(CATALOGUE + 38, 17)]);
    }

    #[test]
    fn the_catalogue_tells_by_which_firmware_it_boots() {
        let boots = |changes: &[(usize, u8)]| {
            let mut image = iso();
            for &(at, byte) in changes {
                image[at] = byte;
            }
            open(&image).unwrap().boots
        };
        assert_eq!(boots(&[]), Boots::Bios);
        assert_eq!(boots(&[(CATALOGUE + 1, 0xef)]), Boots::Uefi);
        let section = [(CATALOGUE + 64, 0x91), (CATALOGUE + 65, 0xef)];
        assert_eq!(boots(&section), Boots::Bios);
        let entry = [&section[..], &[(CATALOGUE + 96, 0x88)]].concat();
        assert_eq!(boots(&entry), Boots::Both);
        let only = [&entry[..], &[(CATALOGUE + 32, 0)]].concat();
        assert_eq!(boots(&only), Boots::Uefi);
        let for_bios = [&entry[..], &[(CATALOGUE + 65, 0)]].concat();
        assert_eq!(boots(&for_bios), Boots::Bios);
    }

    #[test]
    fn an_image_cut_before_its_boot_image_is_refused() {
        for (sectors, part) in [
            (20, "boot image lies beyond"),
            (19, "catalogue lies beyond"),
        ] {
            let error = open(&iso()[..sectors * 2048]).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
        assert!(
            open(&iso()[..5000])
                .unwrap_err()
                .to_string()
                .contains("too short")
        );
    }

    #[test]
    fn random_images_never_panic() {
        let mut state = 0x1234_5678_9abc_def1_u64;
        for _ in 0..300 {
            let mut image = iso();
            for _ in 0..20 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let at = 16 * 2048 + (state >> 8) as usize % (8 * 2048);
                image[at] = state as u8;
            }
            let _ = open(&image);
        }
    }
}
