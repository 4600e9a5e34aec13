//! Hard disk images: what can serve as one, and how one is made.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Result;

use super::foreign::{self, refuse_foreign};
use super::image::{self, Format};
use super::{Boots, DISK_SECTOR, absolute, iso, kernel_magic, le32, open, plain, read_at};
use crate::outcome::refuse;
use crate::size::{MIB, bytes};

/// The size of a disk that is made, if nothing else is said. The file is sparse: it takes what the guest has written.
const DISK_SIZE: u64 = 16 << 30;
/// The least size of a disk that is made: a partition table and something to put there.
const LEAST_DISK: u64 = 1 << 20;
/// The largest: what 48-bit addresses reach, and every file system holds as a sparse file.
const MOST_DISK: u64 = 8 << 40;

/// A flag of open(2), as Linux has it on x86.
const O_EXCL: i32 = 0o200;

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

/// What the command line says of a hard disk: a file, with words behind commas. A text that is a file's name as it stands is that file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskArg {
    /// The file.
    pub path: PathBuf,
    /// Whether the guest cannot write it: `readonly`.
    pub readonly: bool,
    /// Its format, if that is said: `format=`.
    pub format: Option<Format>,
}

impl FromStr for DiskArg {
    type Err = String;

    fn from_str(text: &str) -> Result<DiskArg, String> {
        let mut disk = DiskArg::from(Path::new(text));
        if disk.path.exists() {
            return Ok(disk);
        }
        let mut words = text.split(',');
        // What begins with a comma is no name, but the words of none.
        disk.path = words.next().unwrap_or_default().into();
        for word in words {
            match (word, word.split_once('=')) {
                ("readonly", _) => disk.readonly = true,
                (_, Some(("format", format))) => disk.format = Some(format.parse()?),
                _ => {
                    return Err(format!(
                        "there is no such file, and {word:?} is no option of a disk: use FILE,readonly or FILE,format=qcow2"
                    ));
                }
            }
        }
        if disk.path.as_os_str().is_empty() {
            return Err("a file's name is missing".to_owned());
        }
        Ok(disk)
    }
}

impl From<&Path> for DiskArg {
    fn from(path: &Path) -> DiskArg {
        DiskArg {
            path: path.to_owned(),
            readonly: false,
            format: None,
        }
    }
}

/// A hard disk that passed its checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The absolute path.
    pub path: PathBuf,
    /// Whether the guest may write it.
    pub writable: bool,
    /// What the host's QEMU opens it as.
    pub format: Format,
}

/// Whether what the guest writes to its disks is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// It goes into the files.
    Written,
    /// It is forgotten at the end (`--snapshot`): the files are only read.
    Nothing,
}

impl DiskArg {
    /// Whether the disk image is there. One that is there must be of `size`, if a size is said; one that is not must have a
    /// directory to be made in.
    ///
    /// # Errors
    ///
    /// A [`Refused`](crate::outcome::Refused) that says what is wrong.
    pub fn check(&self, size: Option<u64>, keep: Keep) -> Result<bool> {
        let path = &self.path;
        let name = path.display();
        if !path.exists() {
            if self.readonly {
                refuse!(
                    "there is no disk image {name}, and one that cannot be written is not made"
                );
            }
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
        let (_, length) = self.inspect(keep)?;
        if let Some(size) = size.filter(|&size| size != length) {
            refuse!(
                "the disk image {name} exists and has {length} bytes, and not {size} as --disk-size says"
            );
        }
        Ok(true)
    }

    /// The disk, whose image is made with this size if there is none.
    ///
    /// # Errors
    ///
    /// A [`Refused`](crate::outcome::Refused) that says why it cannot be.
    pub fn make(&self, size: Option<u64>, keep: Keep) -> Result<Disk> {
        if !self.check(size, keep)? {
            let path = &self.path;
            let size = size.unwrap_or(DISK_SIZE);
            let format = self.said();
            if format != Format::Raw {
                image::make(path, format, size)?;
            } else if let Err(error) = File::create_new(path).and_then(|file| file.set_len(size)) {
                refuse!(
                    "the disk image {} cannot be made: {}",
                    path.display(),
                    plain(&error)
                );
            }
        }
        self.open(keep)
    }

    /// Checks that the file can serve as a hard disk.
    ///
    /// # Errors
    ///
    /// A [`Refused`](crate::outcome::Refused) that says what is wrong with it.
    pub fn open(&self, keep: Keep) -> Result<Disk> {
        self.inspect(keep).map(|(disk, _)| disk)
    }

    /// The format that the command line says, by word or by name.
    fn said(&self) -> Format {
        let by_name = || Format::said_by(&self.path);
        self.format.or_else(by_name).unwrap_or_default()
    }

    /// The format that the disk is opened as, or made in if there is none.
    ///
    /// # Errors
    ///
    /// The file cannot be opened, or a [`Refused`](crate::outcome::Refused): its content says something else.
    pub fn opened_as(&self) -> Result<Format> {
        match self.path.exists() {
            true => self.format_of(&mut open(&self.path, "disk image")?.0),
            false => Ok(self.said()),
        }
    }

    /// The format that the disk in `file` is opened as.
    pub(super) fn format_of(&self, file: &mut File) -> Result<Format> {
        let name = self.path.display();
        if self.format == Some(Format::Raw) {
            return Ok(Format::Raw);
        }
        match (self.said(), foreign::image(file)) {
            (Format::Raw, None) => Ok(Format::Raw),
            (said, Some((found, _))) if said == found => Ok(said),
            (Format::Raw, Some((found, known))) => refuse!(
                "the disk image {name} begins like {known}, but its name does not end in .{0}; a guest can write that to a raw disk, so say what it is: {name},format={0} or {name},format=raw",
                found.name()
            ),
            (said, _) => refuse!(
                "the disk image {name} is named as one in the format {0} and does not begin like one; say {name},format=raw if it is a raw disk",
                said.name()
            ),
        }
    }

    /// The disk, and its length in bytes.
    fn inspect(&self, keep: Keep) -> Result<(Disk, u64)> {
        let path = &self.path;
        let (mut file, mut length) = open(path, "disk image")?;
        let name = path.display();
        let format = self.format_of(&mut file)?;
        let written = !self.readonly && keep == Keep::Written;
        if format != Format::Raw {
            length = image::length(path, format, written)?;
        } else if self.format.is_none() {
            self.check_raw(&mut file)?;
        }
        if length == 0 || !length.is_multiple_of(DISK_SECTOR) {
            refuse!(
                "the disk image {name} has {length} bytes, which is no whole number of 512-byte sectors"
            );
        }
        if written {
            check_writable(path)?;
        }
        let disk = Disk {
            path: absolute(path)?,
            writable: !self.readonly,
            format,
        };
        Ok((disk, length))
    }

    /// Checks that the content is not what a guest would destroy.
    fn check_raw(&self, file: &mut File) -> Result<()> {
        let name = self.path.display();
        refuse_foreign(file, &self.path, "disk image")?;
        if iso::is_iso(file) {
            refuse!(
                "the disk image {name} is an ISO 9660 image, which the guest would overwrite: give it as the guest or with --cdrom"
            );
        }
        if kernel_magic(file) {
            refuse!("the disk image {name} is a Linux kernel: give it as the guest");
        }
        Ok(())
    }
}

/// Checks that the disk in `path` can be written, and that nobody else has it where it is a block device: open(2), `O_EXCL`.
fn check_writable(path: &Path) -> Result<()> {
    let name = path.display();
    let exclusive = match path.metadata()?.file_type().is_block_device() {
        true => O_EXCL,
        false => 0,
    };
    match File::options()
        .write(true)
        .custom_flags(exclusive)
        .open(path)
    {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::ResourceBusy => refuse!(
            "the disk {name} is in use here, as one with a mounted file system is; {name},readonly only reads it"
        ),
        Err(error) => refuse!(
            "the disk image {name} cannot be written: {}; {name},readonly is a disk that the guest only reads",
            plain(&error)
        ),
    }
}

/// The disk in `path`, made with this size if there is none, which the guest writes.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused) that says why it cannot be.
pub fn make_disk(path: &Path, size: u64) -> Result<Disk> {
    DiskArg::from(path).make(Some(size), Keep::Written)
}

/// The disk in `path`, which the guest writes.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused) that says what is wrong with it.
pub fn open_disk(path: &Path) -> Result<Disk> {
    DiskArg::from(path).open(Keep::Written)
}

/// By which firmware a disk with a boot signature boots, from its partition table: UEFI Specification 5.2.3, "Protective MBR", and 5.3, "GUID
/// Partition Table (GPT) Disk Layout". A boot sector without code is none for a BIOS.
pub(super) fn boots(file: &mut File) -> Boots {
    /// Code of a boot sector, and its four partitions (5.2.1, "Legacy Master Boot Record").
    const CODE: usize = 440;
    const PARTITIONS: usize = 446;
    const TYPE: usize = 4;
    const EFI_SYSTEM: u8 = 0xef;
    let sector = read_at(file, 0, DISK_SECTOR as usize);
    let bios = sector.iter().take(CODE).any(|&byte| byte != 0);
    let entries = sector.get(PARTITIONS..PARTITIONS + 64).unwrap_or_default();
    let mut entries = entries.chunks_exact(16);
    let uefi =
        entries.any(|entry| entry.get(TYPE) == Some(&EFI_SYSTEM)) || has_system_partition(file);
    match (bios, uefi) {
        (false, true) => Boots::Uefi,
        (true, true) => Boots::Both,
        (_, false) => Boots::Bios,
    }
}

/// Whether the disk has a GPT with an EFI system partition.
fn has_system_partition(file: &mut File) -> bool {
    /// C12A7328-F81F-11D2-BA4B-00A0C93EC93B: UEFI Specification 5.3.3, "GPT Partition Entry Array".
    const EFI_SYSTEM: [u8; 16] = [
        0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9,
        0x3b,
    ];
    /// Entries that are looked at: as many as every tool makes.
    const MOST: u32 = 128;
    let header = read_at(file, DISK_SECTOR, 92);
    if !header.starts_with(b"EFI PART") || header.len() < 92 {
        return false;
    }
    let (start, count, size) = (le32(&header, 72), le32(&header, 80), le32(&header, 84));
    if !(128..=4096).contains(&size) {
        return false;
    }
    let length = count.min(MOST) * size;
    let entries = read_at(file, u64::from(start) * DISK_SECTOR, length as usize);
    let mut entries = entries.chunks_exact(size as usize);
    entries.any(|entry| entry.starts_with(&EFI_SYSTEM))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Refused;

    fn check_disk(path: &Path, size: Option<u64>) -> Result<bool> {
        DiskArg::from(path).check(size, Keep::Written)
    }

    fn make_disk(path: &Path, size: Option<u64>) -> Result<Disk> {
        DiskArg::from(path).make(size, Keep::Written)
    }

    #[test]
    fn words_behind_a_disks_name_are_its_options() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let read = |name: &str| path(name).to_str().unwrap().parse::<DiskArg>();
        assert_eq!(read("d.img"), Ok(path("d.img").as_path().into()));
        let readonly = DiskArg {
            path: path("d.img"),
            readonly: true,
            format: None,
        };
        assert_eq!(read("d.img,readonly"), Ok(readonly.clone()));
        let image = DiskArg {
            format: Some(Format::Vdi),
            ..readonly
        };
        assert_eq!(read("d.img,format=vdi,readonly"), Ok(image));
        let error = read("d.img,format=zip").unwrap_err();
        assert!(error.contains("qcow2"), "{error}");
        // What is not understood makes no disk of that name.
        let error = read("d.img,readonyl").unwrap_err();
        assert!(error.contains("\"readonyl\""), "{error}");
        assert!(",readonly".parse::<DiskArg>().is_err());
        assert!("".parse::<DiskArg>().is_err());
        // A file with a comma is a file.
        std::fs::write(path("a,b.img"), [0; 512]).unwrap();
        assert_eq!(read("a,b.img"), Ok(path("a,b.img").as_path().into()));
    }

    #[test]
    fn a_disk_that_is_only_read_needs_no_permission_and_is_not_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d.img");
        let readonly = DiskArg {
            path: path.clone(),
            readonly: true,
            format: None,
        };
        let error = readonly.make(None, Keep::Written).unwrap_err();
        assert!(error.to_string().contains("is not made"), "{error}");
        assert!(!path.exists());
        std::fs::write(&path, [0; 1024]).unwrap();
        let mut permissions = std::fs::metadata(&path).unwrap().permissions();
        permissions.set_readonly(true);
        std::fs::set_permissions(&path, permissions).unwrap();
        let disk = readonly.make(Some(1024), Keep::Written).unwrap();
        assert!(!disk.writable);
        let forgotten = DiskArg::from(path.as_path()).open(Keep::Nothing).unwrap();
        assert!(forgotten.writable, "the guest writes, and nothing is kept");
        // Root may write everything.
        if File::options().write(true).open(&path).is_err() {
            let error = open_disk(&path).unwrap_err().to_string();
            assert!(error.contains(",readonly"), "{error}");
        }
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
    fn a_format_is_what_name_and_content_say_together() {
        let directory = tempfile::tempdir().unwrap();
        let name = |name: &str| directory.path().join(name);
        let opened = |file: &str| {
            let text = name(file).to_str().unwrap().to_owned();
            text.parse::<DiskArg>().unwrap().opened_as()
        };
        let head = |bytes: &[u8]| [bytes, &[0; 1024]].concat();
        std::fs::write(name("raw.img"), head(&[0xeb])).unwrap();
        std::fs::write(name("written.img"), head(b"QFI\xfb")).unwrap();
        std::fs::write(name("a.qcow2"), head(b"QFI\xfb")).unwrap();
        std::fs::write(name("A.VMDK"), head(b"KDMV")).unwrap();
        std::fs::write(name("raw.vdi"), head(&[0xeb])).unwrap();
        for (file, format) in [
            ("raw.img", Format::Raw),
            ("written.img,format=raw", Format::Raw),
            ("written.img,format=qcow2", Format::Qcow2),
            ("a.qcow2", Format::Qcow2),
            ("a.qcow2,format=raw,readonly", Format::Raw),
            ("A.VMDK", Format::Vmdk),
            ("raw.vdi,format=raw", Format::Raw),
            ("new.vhdx", Format::Vhdx),
            ("new.img", Format::Raw),
            ("new.img,format=qcow2", Format::Qcow2),
        ] {
            assert_eq!(opened(file).unwrap(), format, "{file}");
        }
        for (file, part) in [
            ("written.img", "written.img,format=raw"),
            ("raw.vdi", "raw.vdi,format=raw"),
            ("raw.img,format=qcow2", "does not begin"),
            ("a.qcow2,format=vmdk", "does not begin"),
        ] {
            let error = opened(file).unwrap_err();
            assert!(error.is::<Refused>(), "{file}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn a_disk_is_made_in_the_format_of_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d.qcow2");
        if !image::tests::create(&directory.path().join("probe"), "qcow2", &[]) {
            return;
        }
        let disk = make_disk(&path, Some(64 << 20)).unwrap();
        assert_eq!((disk.format, disk.writable), (Format::Qcow2, true));
        assert!(std::fs::read(&path).unwrap().starts_with(b"QFI\xfb"));
        let error = make_disk(&path, Some(32 << 20)).unwrap_err();
        assert!(error.to_string().contains("has 67108864 bytes"), "{error}");
        let medium = super::super::Medium::open(&path).unwrap_err();
        assert!(medium.to_string().contains("55 AA"), "{medium}");
    }

    #[test]
    fn a_file_that_the_guest_would_destroy_is_refused_by_the_name_of_its_format() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d.img");
        let mut qcow2 = vec![0; 4096];
        qcow2[..4].copy_from_slice(b"QFI\xfb");
        let mut kernel = vec![0; 4096];
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        for (bytes, part) in [
            (qcow2, "format=raw"),
            (iso::tests::iso(), "ISO 9660"),
            (kernel, "Linux kernel"),
        ] {
            std::fs::write(&path, &bytes).unwrap();
            for result in [
                open_disk(&path).map(drop),
                check_disk(&path, None).map(drop),
                make_disk(&path, None).map(drop),
            ] {
                let error = result.expect_err(part);
                assert!(error.is::<Refused>());
                assert!(error.to_string().contains(part), "{error}");
            }
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "it is as it was");
        }
    }
}
