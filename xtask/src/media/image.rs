//! Hard disk images of the formats that the host's QEMU opens besides raw ones, as `qemu-img` knows them.
//!
//! What a raw disk begins with is what its guest has written there, and that may be the header of a QCOW2 image which names any file of this computer. So no
//! content makes a file an image: its name's ending or `format=` says so, and the content has to agree. Files that an image rests on have to lie
//! beside it, with their formats recorded: one that somebody else has made shows its guest nothing else of this computer.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use super::absolute;
use crate::command;
use crate::outcome::refuse;
use crate::setup::{self, Purpose};

/// Images that one may rest on, one behind the other.
const DEPTH: usize = 16;

/// The format of a hard disk image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// The disk's sectors and nothing else.
    #[default]
    Raw,
    /// QEMU's.
    Qcow2,
    /// VMware's.
    Vmdk,
    /// VirtualBox's.
    Vdi,
    /// Hyper-V's.
    Vhdx,
}

impl Format {
    /// All of them.
    const ALL: [Format; 5] = [
        Format::Raw,
        Format::Qcow2,
        Format::Vmdk,
        Format::Vdi,
        Format::Vhdx,
    ];

    /// What QEMU calls it, and how the names of its files end.
    pub const fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Vmdk => "vmdk",
            Format::Vdi => "vdi",
            Format::Vhdx => "vhdx",
        }
    }

    /// The format that the name of a file says, if it says one.
    pub fn said_by(path: &Path) -> Option<Format> {
        let ending = path.extension()?.to_str()?.to_ascii_lowercase();
        ending.parse().ok()
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Format, String> {
        let mut all = Format::ALL.into_iter();
        all.find(|format| format.name() == text)
            .ok_or_else(|| format!("{text:?} is no format: use raw, qcow2, vmdk, vdi or vhdx"))
    }
}

/// The length of the disk in the image `path`, in bytes. `written` says whether its guest's writes go into the file.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused) that says why it cannot be a guest's disk.
pub(super) fn length(path: &Path, format: Format, written: bool) -> Result<u64> {
    let name = path.display();
    let mut file = absolute(path)?;
    let directory = file.parent().map(Path::to_owned).unwrap_or_default();
    let mut kind = format;
    let mut length = None;
    for depth in 0..DEPTH {
        let info = info(&file, kind)?;
        let data = &info["format-specific"]["data"];
        if info["encrypted"] == true || !data["encrypt"].is_null() {
            refuse!("the disk image {name} is encrypted, and nobody asks for its key");
        }
        if data["corrupt"] == true {
            refuse!("the disk image {name} is marked as damaged: see qemu-img check");
        }
        if written && depth == 0 && data["create-type"] == "streamOptimized" {
            refuse!(
                "the disk image {name} is a compressed VMDK image, which can only be read: give it with ,readonly, or convert it"
            );
        }
        let extents = data["extents"].as_array().into_iter().flatten();
        let extents = extents.map(|extent| &extent["filename"]);
        for other in extents
            .chain([&data["data-file"]])
            .filter_map(Value::as_str)
        {
            beside(path, &directory, other)?;
        }
        let virtual_size = info["virtual-size"].as_u64();
        let length = *length.get_or_insert(virtual_size.context("qemu-img says no size")?);
        let Some(backing) = info["full-backing-filename"].as_str() else {
            return Ok(length);
        };
        let said = info["backing-filename-format"].as_str();
        kind = match said.map(str::parse) {
            Some(Ok(kind)) => kind,
            Some(Err(_)) | None => refuse!(
                "the disk image {name} rests on {backing} and does not say that file's format, as qemu-img rebase -u -F writes it"
            ),
        };
        file = beside(path, &directory, backing)?;
    }
    refuse!("the disk image {name} rests on more than {DEPTH} others")
}

/// The file `other` that `image` rests on, if it lies in its directory.
fn beside(image: &Path, directory: &Path, other: &str) -> Result<PathBuf> {
    match directory.join(other).canonicalize() {
        Ok(path) if path.parent() == Some(directory) => Ok(path),
        _ => refuse!(
            "the disk image {} rests on {other}, and a file that an image rests on has to be beside it",
            image.display()
        ),
    }
}

/// What qemu-img says of a file, not of others that it rests on.
fn info(path: &Path, format: Format) -> Result<Value> {
    setup::require(Purpose::Images)?;
    let output = Command::new("qemu-img")
        .args(["info", "--output=json", "-U", "-f", format.name()])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .context("cannot start qemu-img")?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let last = words.lines().last().unwrap_or_default();
        refuse!(
            "the disk image {} cannot be opened as {}: {}",
            path.display(),
            format.name(),
            last.trim_start_matches("qemu-img: ")
        );
    }
    serde_json::from_slice(&output.stdout).map_err(|error| anyhow!("qemu-img: {error}"))
}

/// What the disk in an image begins with, a mebibyte at most, as a file of its own.
///
/// # Errors
///
/// It cannot be read.
pub(super) fn beginning(path: &Path, format: Format) -> Result<File> {
    let copy = tempfile::NamedTempFile::new()?;
    let (from, to) = (absolute(path)?, copy.path());
    command::run(
        Command::new("qemu-img")
            .args([
                "dd",
                "-U",
                "-f",
                format.name(),
                "-O",
                "raw",
                "bs=1M",
                "count=1",
            ])
            .arg(format!("if={}", from.display()))
            .arg(format!("of={}", to.display())),
    )?;
    File::open(to).context("cannot read what qemu-img wrote")
}

/// Makes an image with an empty disk of so many bytes.
///
/// # Errors
///
/// It cannot be made.
pub(super) fn make(path: &Path, format: Format, size: u64) -> Result<()> {
    setup::require(Purpose::Images)?;
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", format.name(), "--"]);
    // A name is a path: what stands before a colon would be a protocol.
    command::run(create.arg(std::path::absolute(path)?).arg(size.to_string()))?;
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::outcome::Refused;

    /// Makes an image with these options of `qemu-img create`. Without qemu-img there is none, and nothing to test.
    pub fn create(path: &Path, format: &str, options: &[&str]) -> bool {
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", format])
            .args(options)
            .arg(path)
            .arg("4M")
            .status();
        made.is_ok_and(|status| status.success())
    }

    fn refusal(path: &Path, format: Format, written: bool) -> String {
        let error = length(path, format, written).unwrap_err();
        assert!(error.is::<Refused>(), "{error}");
        error.to_string()
    }

    #[test]
    fn a_disk_is_as_long_as_its_image_says() {
        let directory = tempfile::tempdir().unwrap();
        for format in Format::ALL {
            let path = directory.path().join(format.name());
            if create(&path, format.name(), &[]) {
                assert_eq!(length(&path, format, true).unwrap(), 4 << 20, "{format:?}");
                let mut head = beginning(&path, format).unwrap();
                assert_eq!(super::super::read_at(&mut head, 0, 512), [0; 512]);
            }
        }
    }

    #[test]
    fn what_an_image_rests_on_is_beside_it_and_has_a_format() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let text = |name: &str| path(name).to_str().unwrap().to_owned();
        std::fs::create_dir(path("far")).unwrap();
        if !create(&path("base.qcow2"), "qcow2", &[]) {
            return;
        }
        create(&path("far/base.qcow2"), "qcow2", &[]);
        let over = ["-b", &text("base.qcow2"), "-F", "qcow2"];
        assert!(create(&path("near.qcow2"), "qcow2", &over));
        assert_eq!(
            length(&path("near.qcow2"), Format::Qcow2, true).unwrap(),
            4 << 20
        );
        let over = ["-b", &text("far/base.qcow2"), "-F", "qcow2"];
        assert!(create(&path("far.qcow2"), "qcow2", &over));
        assert!(refusal(&path("far.qcow2"), Format::Qcow2, true).contains("beside"));
        // One that somebody else has made: -u does not look whether it is there.
        let over = ["-u", "-b", "/etc/passwd", "-F", "raw"];
        assert!(create(&path("evil.qcow2"), "qcow2", &over));
        assert!(refusal(&path("evil.qcow2"), Format::Qcow2, false).contains("/etc/passwd"));
        // An old one, which says no format: the header extension with it is taken away.
        let mut bytes = std::fs::read(path("near.qcow2")).unwrap();
        let at = bytes
            .windows(4)
            .position(|four| four == [0xe2, 0x79, 0x2a, 0xca]);
        bytes[at.unwrap()] = 0x12;
        std::fs::write(path("old.qcow2"), bytes).unwrap();
        assert!(refusal(&path("old.qcow2"), Format::Qcow2, true).contains("format"));
        let outside = format!("data_file={}", text("far/data"));
        if create(&path("split.qcow2"), "qcow2", &["-o", &outside]) {
            assert!(refusal(&path("split.qcow2"), Format::Qcow2, true).contains("beside"));
        }
        let parts = ["-o", "subformat=twoGbMaxExtentFlat"];
        assert!(create(&path("parts.vmdk"), "vmdk", &parts));
        assert!(length(&path("parts.vmdk"), Format::Vmdk, true).is_ok());
        let description = std::fs::read_to_string(path("parts.vmdk")).unwrap();
        let elsewhere = description.replace("parts-f001.vmdk", "/etc/passwd");
        std::fs::write(path("evil.vmdk"), elsewhere).unwrap();
        refusal(&path("evil.vmdk"), Format::Vmdk, false);
    }

    #[test]
    fn what_cannot_be_written_or_opened_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let packed = ["-o", "subformat=streamOptimized"];
        if !create(&path("a.vmdk"), "vmdk", &packed) {
            return;
        }
        assert!(refusal(&path("a.vmdk"), Format::Vmdk, true).contains(",readonly"));
        assert_eq!(
            length(&path("a.vmdk"), Format::Vmdk, false).unwrap(),
            4 << 20
        );
        let secret = [
            "--object",
            "secret,id=s,data=abc",
            "-o",
            "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
        ];
        if create(&path("a.qcow2"), "qcow2", &secret) {
            assert!(refusal(&path("a.qcow2"), Format::Qcow2, true).contains("encrypted"));
        }
        std::fs::write(path("bad.vhdx"), [&b"vhdxfile"[..], &[0; 4096]].concat()).unwrap();
        assert!(refusal(&path("bad.vhdx"), Format::Vhdx, true).contains("as vhdx"));
    }
}
