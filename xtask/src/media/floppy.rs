//! Raw images of 3.5" floppies.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::foreign::refuse_foreign;
use super::{absolute, open};
use crate::outcome::refuse;

/// The lengths of images: 720, 1440 and 2880 KiB.
const LENGTHS: [u64; 3] = [720 << 10, 1440 << 10, 2880 << 10];

/// A floppy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Floppy {
    /// The absolute path.
    pub path: PathBuf,
    /// Whether the guest may write it.
    pub writable: bool,
}

/// Whether an image of so many bytes can be a floppy's.
pub(super) fn has_length(length: u64) -> bool {
    LENGTHS.contains(&length)
}

/// Whether a first sector begins as boot sectors of floppies do, which need no signature: with a jump over the parameter block.
pub(super) fn is_boot_sector(head: &[u8]) -> bool {
    matches!(head, [0xeb, _, 0x90, ..] | [0xe9, ..])
}

/// Checks that `path` can serve as a floppy. A file that cannot be written is write-protected.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused) that says what is wrong with it.
pub fn open_floppy(path: &Path) -> Result<Floppy> {
    let (mut file, length) = open(path, "floppy image")?;
    refuse_foreign(&mut file, path, "floppy image")?;
    if !has_length(length) {
        refuse!(
            "the floppy image {} has {length} bytes; a 3.5\" floppy has 737280, 1474560 or 2949120 (720, 1440 or 2880 KiB)",
            path.display()
        );
    }
    Ok(Floppy {
        writable: File::options().write(true).open(path).is_ok(),
        path: absolute(path)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Refused;

    #[test]
    fn three_lengths_are_floppies_and_others_are_refused_with_words() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f.img");
        for length in LENGTHS {
            std::fs::write(&path, vec![0; length as usize]).unwrap();
            assert!(open_floppy(&path).unwrap().writable);
        }
        for length in [1, 360 << 10, 1_474_561] {
            std::fs::write(&path, vec![0; length]).unwrap();
            let error = open_floppy(&path).unwrap_err();
            assert!(error.is::<Refused>());
            assert!(error.to_string().contains("a 3.5\" floppy has"), "{error}");
        }
    }
}
