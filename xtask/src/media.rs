//! What a guest file is, found from its content, and whether it can boot at all.
//!
//! ISO 9660 images are checked as a BIOS reads them: ECMA-119 8.4, "Primary Volume Descriptor", and the "El Torito" Bootable
//! CD-ROM Format Specification 1.0, 2.0 "The Boot Record Volume Descriptor" and 2.1 "Validation Entry". Disk images need the
//! boot signature of their first sector; Linux kernels the header of the Linux/x86 boot protocol.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::outcome::refuse;
use crate::rig::{MIB, bytes};

/// Bytes of a CD sector.
const CD_SECTOR: u64 = 2048;
/// The first volume descriptor's sector.
const FIRST_DESCRIPTOR: u64 = 16;
/// Volume descriptors looked at before a set without end is given up.
const MAX_DESCRIPTORS: u64 = 64;
/// Bytes of a disk sector.
const DISK_SECTOR: u64 = 512;
/// Where the boot signature stands in a disk's first sector, and in a kernel's.
const BOOT_SIGNATURE: usize = 510;
/// Where `HdrS` stands in a Linux kernel: Linux/x86 boot protocol, "The Real-Mode Kernel Header".
const KERNEL_MAGIC: usize = 0x202;
/// Where the kernel says what memory it needs from its load address on: `init_size`.
const KERNEL_INIT_SIZE: usize = 0x260;

/// What kind of medium a guest comes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A bootable CD-ROM image.
    Cdrom,
    /// A bootable raw hard disk image.
    Disk,
    /// A Linux kernel which needs this much memory to start, in bytes.
    Kernel {
        /// The header's `init_size`.
        init_size: u64,
    },
}

/// A guest file that passed its checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Medium {
    /// The absolute path.
    pub path: PathBuf,
    /// What the file is.
    pub kind: Kind,
    /// Its length in bytes.
    pub length: u64,
}

impl Medium {
    /// Opens and checks the guest in `path`.
    ///
    /// # Errors
    ///
    /// A [`Refused`](crate::outcome::Refused) that says why the file cannot boot.
    pub fn open(path: &Path) -> Result<Medium> {
        let (mut file, length) = open(path, "guest")?;
        let name = path.display();
        let head = read_at(&mut file, 0, 0x300);
        let descriptor = read_at(&mut file, FIRST_DESCRIPTOR * CD_SECTOR, CD_SECTOR as usize);
        let signed = head.get(BOOT_SIGNATURE..BOOT_SIGNATURE + 2) == Some(&[0x55, 0xaa]);
        let extension = path
            .extension()
            .map(|extension| extension.to_string_lossy().to_ascii_lowercase())
            .unwrap_or_default();
        let kind = if descriptor.get(1..6) == Some(b"CD001") {
            check_iso(&mut file, length, path)?;
            Kind::Cdrom
        } else if extension == "iso" {
            if length < (FIRST_DESCRIPTOR + 1) * CD_SECTOR {
                refuse!("{name} is too short to be an ISO 9660 image ({length} bytes)");
            }
            refuse!("{name} is not an ISO 9660 image: it has no volume descriptor at sector 16");
        } else if head.get(KERNEL_MAGIC..KERNEL_MAGIC + 4) == Some(b"HdrS") {
            if !signed {
                refuse!("{name} looks like a Linux kernel, but lacks the boot signature 55 AA");
            }
            Kind::Kernel {
                init_size: u64::from(le32(&head, KERNEL_INIT_SIZE)),
            }
        } else if signed {
            if !length.is_multiple_of(DISK_SECTOR) {
                refuse!(
                    "{name} is a truncated disk image: {length} bytes are no whole number of sectors"
                );
            }
            Kind::Disk
        } else if head.starts_with(b"\x7fELF") {
            refuse!(
                "{name} is an ELF file; a Linux guest needs the compressed kernel image (bzImage, vmlinuz)"
            );
        } else if extension == "img" {
            refuse!(
                "{name} is not a bootable disk image: its first sector lacks the boot signature 55 AA"
            );
        } else {
            refuse!(
                "{name} is no guest: not an ISO 9660 image, a disk image with a boot sector, or a Linux kernel"
            );
        };
        Ok(Medium {
            path: absolute(path)?,
            kind,
            length,
        })
    }
}

/// Checks that `path` can be read as an initial RAM disk, and gives its absolute path and its length.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused) that says what is wrong with it.
pub fn open_initrd(path: &Path) -> Result<(PathBuf, u64)> {
    let (_, length) = open(path, "initrd")?;
    Ok((absolute(path)?, length))
}

/// The size of a disk that is made, if nothing else is said. The file is sparse: it takes what the guest has written.
const DISK_SIZE: u64 = 16 << 30;
/// The least size of a disk that is made: a partition table and something to put there.
const LEAST_DISK: u64 = 1 << 20;
/// The largest: what 48-bit addresses reach, and every file system holds as a sparse file.
const MOST_DISK: u64 = 8 << 40;

/// A disk's size in bytes, as in `--disk-size 16G`. A number without a unit is in GiB.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused) when it is none.
pub fn parse_size(text: &str) -> Result<u64> {
    match bytes(text, &[('m', MIB)], 'g') {
        Some(size) if (LEAST_DISK..=MOST_DISK).contains(&size) => Ok(size),
        Some(_) => refuse!("--disk-size {text}: a disk has from 1M to 8T"),
        None => refuse!("--disk-size {text} is not a size; write it like 16G or 500M"),
    }
}

/// Whether there is a disk image in `path`. One that is there must be of `size`, if a size is said; one that is not must have a
/// directory to be made in.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused) that says what is wrong.
pub fn check_disk(path: &Path, size: Option<u64>) -> Result<bool> {
    let name = path.display();
    if !path.exists() {
        let directory = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        if !directory.is_dir() {
            refuse!(
                "the disk image {name} cannot be made: there is no directory {}",
                directory.display()
            );
        }
        return Ok(false);
    }
    let path = open_disk(path)?;
    let (_, length) = open(&path, "disk image")?;
    if let Some(size) = size.filter(|&size| size != length) {
        refuse!(
            "the disk image {name} exists and has {length} bytes, and not {size} as --disk-size says"
        );
    }
    Ok(true)
}

/// The absolute path of the disk image in `path`, which is made with this size if there is none.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused) that says why it cannot be.
pub fn make_disk(path: &Path, size: Option<u64>) -> Result<PathBuf> {
    if !check_disk(path, size)? {
        let made = File::create_new(path).and_then(|file| file.set_len(size.unwrap_or(DISK_SIZE)));
        if let Err(error) = made {
            refuse!(
                "the disk image {} cannot be made: {}",
                path.display(),
                plain(&error)
            );
        }
    }
    open_disk(path)
}

/// Checks that `path` can serve as a hard disk which the guest writes, and gives its absolute path.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused) that says what is wrong with it.
pub fn open_disk(path: &Path) -> Result<PathBuf> {
    let (_, length) = open(path, "disk image")?;
    let name = path.display();
    if length == 0 || !length.is_multiple_of(DISK_SECTOR) {
        refuse!(
            "the disk image {name} has {length} bytes, which is no whole number of 512-byte sectors"
        );
    }
    if let Err(error) = File::options().write(true).open(path) {
        refuse!("the disk image {name} cannot be written: {}", plain(&error));
    }
    absolute(path)
}

/// Checks that `path` can serve as a medium of a CD-ROM drive, and gives its absolute path.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused) that says what is wrong with it.
pub fn open_cdrom(path: &Path) -> Result<PathBuf> {
    let (_, length) = open(path, "CD image")?;
    if length < CD_SECTOR {
        refuse!("the CD image {} is shorter than one block", path.display());
    }
    absolute(path)
}

/// Opens a regular file for reading.
fn open(path: &Path, what: &str) -> Result<(File, u64)> {
    let name = path.display();
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => refuse!("the {what} {name} cannot be opened: {}", plain(&error)),
    };
    if metadata.is_dir() {
        refuse!("the {what} {name} is a directory");
    }
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) => refuse!("the {what} {name} cannot be read: {}", plain(&error)),
    };
    // The length of a block device is where its end is.
    let length = file.seek(SeekFrom::End(0)).unwrap_or(metadata.len());
    if length == 0 {
        refuse!("the {what} {name} is empty");
    }
    Ok((file, length))
}

/// An error's text without the system's number.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    text.get(..end).unwrap_or(&text).to_lowercase()
}

fn absolute(path: &Path) -> Result<PathBuf> {
    match std::fs::canonicalize(path) {
        Ok(path) => Ok(path),
        Err(error) => refuse!("{} cannot be opened: {}", path.display(), plain(&error)),
    }
}

/// What the file has at `offset`, up to `length` bytes; less at its end or where it cannot be read.
fn read_at(file: &mut File, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    if file.seek(SeekFrom::Start(offset)).is_ok() {
        // A short read is seen by whoever looks for a field that is not there.
        let _ = file.take(length as u64).read_to_end(&mut bytes);
    }
    bytes
}

/// The little-endian word at `at`, 0 behind the end.
fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|field| field.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

/// Checks an ISO 9660 image's size, boot record and boot catalogue.
fn check_iso(file: &mut File, length: u64, path: &Path) -> Result<()> {
    let name = path.display();
    let mut catalogue = None;
    let mut size = None;
    for sector in FIRST_DESCRIPTOR..FIRST_DESCRIPTOR + MAX_DESCRIPTORS {
        let descriptor = read_at(file, sector * CD_SECTOR, CD_SECTOR as usize);
        if descriptor.len() < CD_SECTOR as usize || descriptor.get(1..6) != Some(b"CD001") {
            refuse!("{name} is damaged or truncated: its volume descriptors have no end");
        }
        match descriptor.first() {
            Some(0)
                if descriptor
                    .get(7..)
                    .is_some_and(|id| id.starts_with(b"EL TORITO SPECIFICATION")) =>
            {
                catalogue = catalogue.or(Some(u64::from(le32(&descriptor, 0x47))));
            }
            Some(1) => size = size.or(Some(u64::from(le32(&descriptor, 80)) * CD_SECTOR)),
            Some(255) => break,
            _ => {}
        }
    }
    if let Some(size) = size.filter(|&size| size > length) {
        refuse!("{name} is truncated: it has {length} of {size} bytes");
    }
    let Some(catalogue) = catalogue else {
        refuse!("{name} is not bootable: it has no El Torito boot record");
    };
    let entries = read_at(file, catalogue * CD_SECTOR, CD_SECTOR as usize);
    let Some(validation) = entries.get(..32).filter(|entry| is_validation(entry)) else {
        refuse!("{name} is not bootable: its El Torito validation entry is damaged");
    };
    match bios_entry(&entries, validation) {
        None => refuse!("{name} is not bootable by a BIOS: its boot catalogue has no such entry"),
        Some(image) if image * CD_SECTOR >= length => {
            refuse!("{name} is not bootable: its boot image lies beyond the end of the file")
        }
        Some(_) => Ok(()),
    }
}

/// Whether `entry` has the marks and the checksum of a validation entry.
fn is_validation(entry: &[u8]) -> bool {
    let words = entry
        .chunks_exact(2)
        .filter_map(|word| word.try_into().ok())
        .map(u16::from_le_bytes);
    entry.first() == Some(&1)
        && entry.get(30..32) == Some(&[0x55, 0xaa])
        && words.fold(0_u16, u16::wrapping_add) == 0
}

/// The sector of the first boot image for an x86 BIOS.
fn bios_entry(entries: &[u8], validation: &[u8]) -> Option<u64> {
    let mut platform = *validation.get(1)?;
    for entry in entries.chunks_exact(32).skip(1) {
        match entry.first()? {
            0x90 | 0x91 => platform = *entry.get(1)?,
            0x88 if platform == 0 => return Some(u64::from(le32(entry, 8))),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Refused;

    /// A small El Torito image: descriptors at 16 to 18, the catalogue at 19, the boot image at 20.
    fn iso() -> Vec<u8> {
        let mut image = vec![0; 24 * 2048];
        for (sector, kind) in [(16, 1), (17, 0), (18, 255)] {
            image[sector * 2048] = kind;
            image[sector * 2048 + 1..][..5].copy_from_slice(b"CD001");
        }
        image[16 * 2048 + 80] = 24;
        image[17 * 2048 + 7..][..23].copy_from_slice(b"EL TORITO SPECIFICATION");
        image[17 * 2048 + 0x47] = 19;
        image[19 * 2048] = 1;
        image[19 * 2048 + 28..][..4].copy_from_slice(&[0xaa, 0x55, 0x55, 0xaa]);
        image[19 * 2048 + 32] = 0x88;
        image[19 * 2048 + 40] = 20;
        image
    }

    fn open(name: &str, bytes: &[u8]) -> Result<Kind> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        Medium::open(&path).map(|medium| medium.kind)
    }

    fn refusal(name: &str, bytes: &[u8]) -> String {
        let error = open(name, bytes).expect_err("refused");
        assert!(error.is::<Refused>());
        let text = error.to_string();
        assert!(!text.contains('\n'), "one sentence: {text}");
        text
    }

    #[test]
    fn a_bootable_iso_is_a_cdrom() {
        assert_eq!(open("a.iso", &iso()).unwrap(), Kind::Cdrom);
    }

    #[test]
    fn a_missing_file_or_directory_is_refused() {
        assert!(
            Medium::open(Path::new("/nonexistent/a.iso"))
                .unwrap_err()
                .is::<Refused>()
        );
        assert!(
            Medium::open(Path::new("/"))
                .unwrap_err()
                .to_string()
                .contains("is a directory")
        );
    }

    #[test]
    fn a_truncated_iso_is_refused_with_both_lengths() {
        let image = iso();
        assert!(
            refusal("a.iso", &image[..22 * 2048])
                .contains("truncated: it has 45056 of 49152 bytes")
        );
        assert!(refusal("a.iso", &image[..17 * 2048]).contains("truncated"));
        assert!(refusal("a.iso", &image[..5000]).contains("too short"));
    }

    #[test]
    fn an_iso_without_boot_record_is_refused() {
        let mut image = iso();
        image[17 * 2048 + 7] = b'X';
        assert!(refusal("a.iso", &image).contains("no El Torito boot record"));
    }

    #[test]
    fn a_damaged_validation_entry_is_refused() {
        let mut image = iso();
        image[19 * 2048 + 5] = 1;
        assert!(refusal("a.iso", &image).contains("validation entry"));
    }

    #[test]
    fn an_iso_only_for_uefi_is_refused() {
        let mut image = iso();
        image[19 * 2048 + 1] = 0xef;
        image[19 * 2048 + 28..][..2].copy_from_slice(&[0xaa, 0x66]);
        assert!(refusal("a.iso", &image).contains("not bootable by a BIOS"));
    }

    #[test]
    fn a_boot_image_beyond_the_end_is_refused() {
        let mut image = iso();
        image[19 * 2048 + 40] = 200;
        assert!(refusal("a.iso", &image).contains("beyond the end"));
    }

    #[test]
    fn a_file_that_is_no_iso_is_refused_by_its_name() {
        assert!(refusal("a.iso", &[0; 100_000]).contains("not an ISO 9660 image"));
        assert!(refusal("a.img", &[0; 1024]).contains("lacks the boot signature"));
        assert!(refusal("a.bin", &[0; 1024]).contains("is no guest"));
        assert!(refusal("vmlinux", b"\x7fELF").contains("ELF"));
        assert!(refusal("a.iso", &[]).contains("is empty"));
    }

    #[test]
    fn content_decides_and_not_the_name() {
        assert_eq!(open("cd.img", &iso()).unwrap(), Kind::Cdrom);
        let mut disk = vec![0; 4096];
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(open("disk.bin", &disk).unwrap(), Kind::Disk);
        disk[0x202..0x206].copy_from_slice(b"HdrS");
        disk[0x260..0x264].copy_from_slice(&[0, 0, 0x20, 0]);
        assert_eq!(
            open("vmlinuz", &disk).unwrap(),
            Kind::Kernel {
                init_size: 0x20_0000
            }
        );
    }

    #[test]
    fn a_disk_must_be_whole_sectors_and_writable() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d.img");
        std::fs::write(&path, [0; 1000]).unwrap();
        assert!(
            open_disk(&path)
                .unwrap_err()
                .to_string()
                .contains("512-byte sectors")
        );
        std::fs::write(&path, [0; 1024]).unwrap();
        assert!(open_disk(&path).is_ok());
    }

    #[test]
    fn a_disk_is_made_once_and_keeps_its_size() {
        use std::os::unix::fs::MetadataExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d.img");
        assert!(!check_disk(&path, None).unwrap());
        make_disk(&path, Some(64 << 20)).unwrap();
        let made = std::fs::metadata(&path).unwrap();
        assert_eq!((made.len(), made.blocks()), (64 << 20, 0), "sparse");
        assert!(check_disk(&path, Some(64 << 20)).unwrap());
        make_disk(&path, None).unwrap();
        let error = make_disk(&path, Some(32 << 20)).unwrap_err();
        assert!(error.is::<Refused>());
        assert!(
            error
                .to_string()
                .contains("has 67108864 bytes, and not 33554432"),
            "{error}"
        );
        assert!(
            make_disk(Path::new("/nonexistent/d.img"), None)
                .unwrap_err()
                .is::<Refused>()
        );
    }

    #[test]
    fn sizes_have_units() {
        for (text, size) in [
            ("16", 16 << 30),
            ("500M", 500 << 20),
            ("2TiB", 2 << 40),
            ("8g", 8 << 30),
        ] {
            assert_eq!(parse_size(text).unwrap(), size, "{text}");
        }
        for text in ["", "G", "-1G", "1.5G", "1k", "0", "9T", "99999999999T"] {
            assert!(parse_size(text).unwrap_err().is::<Refused>(), "{text}");
        }
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
            let _ = open("a.iso", &image);
        }
    }
}
