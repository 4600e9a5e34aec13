//! Files that are no raw media: image formats of other hypervisors, compressed files and archives, known by their magic numbers.
//!
//! A file of these formats taken for raw sectors cannot boot, and a guest that writes to it destroys it; so it is refused by name, where it is
//! not opened as what it is ([`image`](super::image)).

use std::fs::File;
use std::path::Path;

use anyhow::Result;

use super::image::Format;
use super::{read_at, read_end};
use crate::outcome::refuse;

/// How a file of the format becomes a raw one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cure {
    /// It can be a hard disk as it is, and `qemu-img convert` reads it.
    Image(Format),
    /// `qemu-img convert` reads it.
    Convert,
    /// This program, with these words, unpacks it.
    Unpack(&'static str),
    /// There is nothing that can be said in a line.
    None,
}

/// A format: its name, where its magic number stands, and the number.
struct Known {
    name: &'static str,
    offset: usize,
    magic: &'static [u8],
    cure: Cure,
}

const fn format(name: &'static str, offset: usize, magic: &'static [u8], cure: Cure) -> Known {
    Known {
        name,
        offset,
        magic,
        cure,
    }
}

/// What is known by the beginning of a file. The sources are the formats' own descriptions: QEMU's `docs/interop/qcow2.txt` and
/// `qed_spec.txt`, VMware's "Virtual Disk Format 5.0", VirtualBox's `VDICore.h`, Microsoft's "[MS-VHDX]", and file(1).
const BY_HEAD: &[Known] = &[
    format("a QCOW2 image", 0, b"QFI\xfb", Cure::Image(Format::Qcow2)),
    format("a QED image", 0, b"QED\0", Cure::Convert),
    format("a VMDK image", 0, b"KDMV", Cure::Image(Format::Vmdk)),
    format("a VMDK image", 0, b"COWD", Cure::Image(Format::Vmdk)),
    format(
        "the description of a VMDK image",
        0,
        b"# Disk DescriptorFile",
        Cure::Image(Format::Vmdk),
    ),
    format(
        "a VDI image",
        0x40,
        b"\x7f\x10\xda\xbe",
        Cure::Image(Format::Vdi),
    ),
    format("a VHDX image", 0, b"vhdxfile", Cure::Image(Format::Vhdx)),
    format("a VHD image", 0, b"conectix", Cure::Convert),
    format("a Parallels image", 0, b"WithoutFreeSpace", Cure::Convert),
    format("a Parallels image", 0, b"WithouFreSpacExt", Cure::Convert),
    format(
        "an image of Bochs's own formats",
        0,
        b"Bochs Virtual HD Image",
        Cure::Convert,
    ),
    format(
        "compressed by gzip",
        0,
        b"\x1f\x8b\x08",
        Cure::Unpack("gunzip --keep"),
    ),
    format(
        "compressed by xz",
        0,
        b"\xfd7zXZ\0",
        Cure::Unpack("unxz --keep"),
    ),
    format(
        "compressed by bzip2",
        0,
        b"BZh",
        Cure::Unpack("bunzip2 --keep"),
    ),
    format(
        "compressed by Zstandard",
        0,
        b"\x28\xb5\x2f\xfd",
        Cure::Unpack("unzstd --keep"),
    ),
    format(
        "compressed by LZ4",
        0,
        b"\x04\x22\x4d\x18",
        Cure::Unpack("unlz4"),
    ),
    format("a ZIP archive", 0, b"PK\x03\x04", Cure::Unpack("unzip")),
    format(
        "a 7z archive",
        0,
        b"7z\xbc\xaf\x27\x1c",
        Cure::Unpack("7z x"),
    ),
    format("a RAR archive", 0, b"Rar!\x1a\x07", Cure::Unpack("unrar x")),
    format("a WIM archive", 0, b"MSWIM\0\0\0", Cure::None),
];

/// What is known by the last 512 bytes of a file: a fixed VHD is raw sectors with a footer, a DMG has a trailer.
const BY_END: &[Known] = &[
    format("a VHD image", 0, b"conectix", Cure::Convert),
    format("a DMG image", 0, b"koly", Cure::Convert),
];

/// The format of a hard disk image that the file begins as, with its name and article.
pub(super) fn image(file: &mut File) -> Option<(Format, &'static str)> {
    match of(BY_HEAD, &read_at(file, 0, 0x60))? {
        &Known {
            cure: Cure::Image(format),
            name,
            ..
        } => Some((format, name)),
        _ => None,
    }
}

/// Refuses the file if it is of a format that is no raw medium; `what` is what it was to be.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused) with the name of the format and how to make a raw file of it.
pub(super) fn refuse_foreign(file: &mut File, path: &Path, what: &str) -> Result<()> {
    let head = read_at(file, 0, 0x60);
    let end = read_end(file, 512);
    let Some(format) = of(BY_HEAD, &head).or_else(|| of(BY_END, &end)) else {
        return Ok(());
    };
    let name = path.display();
    let cure = match format.cure {
        Cure::Image(_) | Cure::Convert => format!(
            ": make one with qemu-img convert -O raw {name} {}",
            path.with_extension("raw").display()
        ),
        Cure::Unpack(program) => format!(": unpack it with {program} {name}"),
        Cure::None => String::new(),
    };
    refuse!(
        "the {what} {name} is {}, and Umbra takes raw images{cure}",
        format.name
    )
}

fn of<'a>(formats: &'a [Known], bytes: &[u8]) -> Option<&'a Known> {
    formats.iter().find(|format| {
        bytes
            .get(format.offset..)
            .is_some_and(|rest| rest.starts_with(format.magic))
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::outcome::Refused;

    fn refusal(bytes: &[u8]) -> Option<String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let path = file.path().to_owned();
        let error = refuse_foreign(file.as_file_mut(), &path, "disk image").err()?;
        assert!(error.is::<Refused>());
        Some(error.to_string())
    }

    #[test]
    fn every_format_is_named() {
        for format in BY_HEAD {
            let mut bytes = vec![0; 4096];
            bytes[format.offset..][..format.magic.len()].copy_from_slice(format.magic);
            let text = refusal(&bytes).expect(format.name);
            assert!(text.contains(format.name), "{text}");
            assert!(!text.contains('\n'), "{text}");
        }
        for format in BY_END {
            let mut bytes = vec![0; 4096];
            bytes[4096 - 512..][..format.magic.len()].copy_from_slice(format.magic);
            assert!(
                refusal(&bytes).expect(format.name).contains(format.name),
                "{}",
                format.name
            );
        }
    }

    #[test]
    fn raw_sectors_of_any_length_are_no_format() {
        for bytes in [&[][..], &[0; 3], &[0; 512], &[0xeb; 4096]] {
            assert_eq!(refusal(bytes), None);
        }
    }

    #[test]
    fn what_qemu_img_makes_is_known() {
        let directory = tempfile::tempdir().unwrap();
        for format in ["qcow2", "vmdk", "vdi", "vhdx", "vpc", "qed", "parallels"] {
            let path = directory.path().join(format);
            let made = std::process::Command::new("qemu-img")
                .args(["create", "-q", "-f", format])
                .arg(&path)
                .arg("4M")
                .status();
            // A machine without qemu-img has the magic numbers above.
            if !made.is_ok_and(|status| status.success()) {
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            assert!(refusal(&bytes).is_some(), "{format}");
        }
    }
}
