//! Where the image of SeaBIOS belongs in the guest's address space.
//!
//! The whole image is flash below 4 GiB, where the CPU starts; its end is also seen below 1 MiB, as the 440FX shows it with all
//! PAM registers at their reset value. From there SeaBIOS switches to RAM and copies itself into it.

use core::fmt;
use core::ops::Range;
use hv_core::Gpa;
use hv_core::machine::HIGH_RAM;

/// Length of the image's end that is seen below 1 MiB after reset, in bytes.
pub const LOW_COPY_LEN: usize = 0x2_0000;
/// Where the CPU's first instruction is, as a distance from the end of the image: a far jump.
const RESET_VECTOR: usize = 16;
const FAR_JUMP: u8 = 0xea;
const ONE_MIB: u64 = 0x10_0000;

/// The file is no BIOS image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BiosError {
    /// Neither 128 nor 256 KiB: this many bytes.
    Size(usize),
    /// There is no far jump at the reset vector.
    NoResetVector,
}

impl fmt::Display for BiosError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BiosError::Size(len) => write!(
                f,
                "the BIOS image has {len} bytes instead of 128 or 256 KiB"
            ),
            BiosError::NoResetVector => {
                f.write_str("the BIOS image has no jump at its reset vector: it is not SeaBIOS")
            }
        }
    }
}

impl core::error::Error for BiosError {}

/// The places of a valid image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BiosPlacement {
    len: usize,
}

impl BiosPlacement {
    /// Checks an image.
    ///
    /// # Errors
    /// It has the wrong size, or does not begin where the CPU does.
    pub fn of(image: &[u8]) -> Result<Self, BiosError> {
        let len = image.len();
        if !matches!(len, 0x2_0000 | 0x4_0000) {
            return Err(BiosError::Size(len));
        }
        match image.get(len - RESET_VECTOR) {
            Some(&FAR_JUMP) => Ok(Self { len }),
            _ => Err(BiosError::NoResetVector),
        }
    }

    /// Where the whole image is as read-only flash: it ends at 4 GiB.
    #[must_use]
    pub const fn flash(&self) -> Gpa {
        Gpa(HIGH_RAM - self.len as u64)
    }

    /// Where the end of the image is seen after reset, and which part of the image that is: 0xE0000 to 0xFFFFF.
    #[must_use]
    pub const fn low_copy(&self) -> (Gpa, Range<usize>) {
        (
            Gpa(ONE_MIB - LOW_COPY_LEN as u64),
            self.len - LOW_COPY_LEN..self.len,
        )
    }

    /// Where the whole image is in RAM when shadowing is done for it (PAM0 preset to 0x10): it ends at 1 MiB.
    #[must_use]
    pub const fn shadow(&self) -> (Gpa, Range<usize>) {
        (Gpa(ONE_MIB - self.len as u64), 0..self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(len: usize) -> Vec<u8> {
        let mut image = vec![0; len];
        if let Some(at) = len.checked_sub(16) {
            image[at] = 0xea;
        }
        image
    }

    #[test]
    fn flash_ends_at_4_gib_and_the_low_copy_at_1_mib() {
        let b = BiosPlacement::of(&image(256 << 10)).unwrap();
        assert_eq!(b.flash(), Gpa(0xfffc_0000));
        assert_eq!(b.low_copy(), (Gpa(0xe_0000), 0x2_0000..0x4_0000));
        assert_eq!(b.shadow(), (Gpa(0xc_0000), 0..0x4_0000));
        let b = BiosPlacement::of(&image(128 << 10)).unwrap();
        assert_eq!(b.flash(), Gpa(0xfffe_0000));
        assert_eq!(b.low_copy(), (Gpa(0xe_0000), 0..0x2_0000));
    }

    #[test]
    fn other_sizes_and_other_files_are_refused() {
        for len in [0, 1, 16, 64 << 10, (128 << 10) + 1, 512 << 10] {
            assert_eq!(BiosPlacement::of(&image(len)), Err(BiosError::Size(len)));
        }
        assert_eq!(
            BiosPlacement::of(&vec![0; 256 << 10]),
            Err(BiosError::NoResetVector)
        );
    }

    #[test]
    fn debians_seabios_is_accepted() {
        for name in ["bios.bin", "bios-256k.bin"] {
            let path = format!("/usr/share/seabios/{name}");
            match std::fs::read(&path) {
                Ok(image) => assert!(BiosPlacement::of(&image).is_ok(), "{path}"),
                Err(_) if std::env::var("UMBRA_REQUIRE_TOOLS").as_deref() != Ok("1") => {
                    eprintln!("SKIPPED: no {path}")
                }
                Err(e) => panic!("{path}: {e}"),
            }
        }
    }
}
