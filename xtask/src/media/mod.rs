//! What a guest file is, found from its content, and whether it can boot at all.
//!
//! CD images must boot by the rules of SeaBIOS ([`iso`]). Disk images need the boot signature of their first sector; Linux kernels the
//! header of the Linux/x86 boot protocol. Disk images in some formats of other hypervisors are opened ([`image`]); further formats and compressed files are refused by
//! name ([`foreign`]).

mod disk;
mod floppy;
mod foreign;
mod image;
mod iso;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::Result;

pub use self::disk::{Disk, DiskArg, Keep, make_disk, open_disk, parse_size};
pub use self::floppy::{Floppy, open_floppy};
use self::foreign::refuse_foreign;
pub use self::image::Format;
use self::iso::CD_SECTOR;
use crate::outcome::refuse;

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
    /// A bootable raw floppy image.
    Floppy,
    /// A Linux kernel which needs this much memory to start, in bytes.
    Kernel {
        /// The header's `init_size`.
        init_size: u64,
    },
}

/// By which firmware a medium boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boots {
    /// A BIOS only, or none: a Linux kernel is started without firmware.
    Bios,
    /// UEFI only.
    Uefi,
    /// Either.
    Both,
}

/// A guest file that passed its checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Medium {
    /// The absolute path.
    pub path: PathBuf,
    /// Whether it is a hard disk that the guest cannot write.
    pub readonly: bool,
    /// Its format, if it is a hard disk.
    pub format: Format,
    /// What the file is.
    pub kind: Kind,
    /// By which firmware it boots.
    pub boots: Boots,
    /// Its length in bytes.
    pub length: u64,
    /// What is wrong with it, though it boots: each goes on from the file's name.
    pub warnings: Vec<String>,
}

impl Medium {
    /// Opens and checks the guest in `path`.
    ///
    /// # Errors
    ///
    /// A [`Refused`](crate::outcome::Refused) that says why the file cannot boot.
    pub fn open(path: &Path) -> Result<Medium> {
        Medium::of(&path.into())
    }

    /// Opens and checks the guest that is in a file, which is a hard disk if it has a format.
    ///
    /// # Errors
    ///
    /// A [`Refused`](crate::outcome::Refused) that says why the file cannot boot.
    pub fn of(disk: &DiskArg) -> Result<Medium> {
        let path = &disk.path;
        let (mut file, length) = open(path, "guest")?;
        let format = disk.format_of(&mut file)?;
        if format != Format::Raw || disk.format.is_some() {
            return Medium::of_image(disk, format);
        }
        let name = path.display();
        let head = read_at(&mut file, 0, 0x300);
        let mut warnings = Vec::new();
        let mut boots = Boots::Bios;
        let signed = head.get(BOOT_SIGNATURE..BOOT_SIGNATURE + 2) == Some(&[0x55, 0xaa]);
        let extension = path
            .extension()
            .map(|extension| extension.to_string_lossy().to_ascii_lowercase())
            .unwrap_or_default();
        refuse_foreign(&mut file, path, "guest")?;
        let kind = if iso::is_iso(&mut file) {
            (boots, warnings) = iso::check(&mut file, length, path)?;
            Kind::Cdrom
        } else if extension == "iso" {
            if iso::is_too_short(length) {
                refuse!("{name} is too short to be an ISO 9660 image ({length} bytes)");
            }
            refuse!(
                "{name} is not an ISO 9660 image: it has no volume descriptor in sector 16 or 17"
            );
        } else if head.get(KERNEL_MAGIC..KERNEL_MAGIC + 4) == Some(b"HdrS") {
            if !signed {
                refuse!("{name} looks like a Linux kernel, but lacks the boot signature 55 AA");
            }
            Kind::Kernel {
                init_size: u64::from(le32(&head, KERNEL_INIT_SIZE)),
            }
        } else if floppy::has_length(length) && (signed || floppy::is_boot_sector(&head)) {
            Kind::Floppy
        } else if signed {
            if !length.is_multiple_of(DISK_SECTOR) {
                refuse!(
                    "{name} is a truncated disk image: {length} bytes are no whole number of sectors"
                );
            }
            boots = disk::boots(&mut file);
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
            readonly: false,
            format,
            kind,
            boots,
            length,
            warnings,
        })
    }

    /// A hard disk of this format.
    fn of_image(disk: &DiskArg, format: Format) -> Result<Medium> {
        let path = &disk.path;
        let (mut file, length) = match format {
            Format::Raw => open(path, "guest")?,
            _ => {
                let length = image::length(path, format, false)?;
                (image::beginning(path, format)?, length)
            }
        };
        let head = read_at(&mut file, 0, DISK_SECTOR as usize);
        if head.get(BOOT_SIGNATURE..) != Some(&[0x55, 0xaa]) {
            refuse!(
                "{} is not a bootable disk image: its first sector lacks the boot signature 55 AA",
                path.display()
            );
        }
        Ok(Medium {
            path: absolute(path)?,
            readonly: disk.readonly,
            format,
            kind: Kind::Disk,
            boots: disk::boots(&mut file),
            length,
            warnings: Vec::new(),
        })
    }

    /// The hard disk that it is, if it is one.
    pub fn disk(&self) -> Option<DiskArg> {
        (self.kind == Kind::Disk).then(|| DiskArg {
            path: self.path.clone(),
            readonly: self.readonly,
            format: Some(self.format),
        })
    }

    /// The same, after what is wrong with it was told.
    pub fn warned(self) -> Medium {
        for warning in &self.warnings {
            eprintln!("warning: {} {warning}", self.path.display());
        }
        self
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

/// Checks that `path` can serve as a medium of a CD-ROM drive, and gives its absolute path.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused) that says what is wrong with it.
pub fn open_cdrom(path: &Path) -> Result<PathBuf> {
    let (mut file, length) = open(path, "CD image")?;
    refuse_foreign(&mut file, path, "CD image")?;
    if length < CD_SECTOR {
        refuse!("the CD image {} is shorter than one block", path.display());
    }
    absolute(path)
}

/// Opens a regular file or a block device for reading, and gives its length.
fn open(path: &Path, what: &str) -> Result<(File, u64)> {
    let name = path.display();
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => refuse!("the {what} {name} cannot be opened: {}", plain(&error)),
    };
    // Opening a FIFO waits for its writer, and a device's end may never come.
    let kind = metadata.file_type();
    if kind.is_dir() {
        refuse!("the {what} {name} is a directory");
    } else if !kind.is_file() && !kind.is_block_device() {
        refuse!("the {what} {name} is neither a regular file nor a block device");
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

/// The file's last `length` bytes; less if it has not as many.
fn read_end(file: &mut File, length: u64) -> Vec<u8> {
    let end = file.seek(SeekFrom::End(0)).unwrap_or(0);
    read_at(file, end.saturating_sub(length), length as usize)
}

/// Whether the file has a Linux kernel's header.
fn kernel_magic(file: &mut File) -> bool {
    read_at(file, KERNEL_MAGIC as u64, 4) == b"HdrS"
}

/// The little-endian word at `at`, 0 behind the end.
fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|field| field.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::iso::tests::iso;
    use super::*;
    use crate::outcome::Refused;

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
        let mut floppy = vec![0; 1440 << 10];
        floppy[..3].copy_from_slice(&[0xeb, 0x3c, 0x90]);
        assert_eq!(open("dos.img", &floppy).unwrap(), Kind::Floppy);
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
    fn a_fifo_is_refused_without_waiting_for_its_writer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        for result in [
            Medium::open(&path).map(drop),
            open_disk(&path).map(drop),
            open_cdrom(&path).map(drop),
            open_initrd(&path).map(drop),
        ] {
            let error = result.expect_err("a FIFO");
            assert!(error.to_string().contains("neither a regular file nor"));
        }
        assert!(Medium::open(Path::new("/dev/null")).is_err());
    }

    #[test]
    fn a_compressed_guest_is_refused_by_the_name_of_its_format() {
        let gzip = [&b"\x1f\x8b\x08"[..], &[0; 1000]].concat();
        assert!(refusal("a.img", &gzip).contains("compressed by gzip"));
        assert!(refusal("a.iso", &gzip).contains("gunzip"));
    }
}
