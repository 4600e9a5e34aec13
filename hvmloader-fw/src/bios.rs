//! Where a firmware image belongs in the guest's address space: a BIOS (SeaBIOS), or UEFI (OVMF) with its variable store.
//!
//! The whole image is flash that ends at 4 GiB, where the CPU starts. UEFI's variable store is the flash right below its code: a file of its
//! own, or the first firmware volume of one image that has both. The image's end is also seen below 1 MiB, as the 440FX shows it with
//! all PAM registers at their reset value. From there SeaBIOS switches to RAM and copies itself into it; OVMF does not look there.

use core::fmt;
use core::ops::Range;
use hv_core::Gpa;
use hv_core::machine::HIGH_RAM;

/// Length of the image's end that is seen below 1 MiB after reset, in bytes: all of a smaller image.
pub const LOW_COPY_LEN: usize = 0x2_0000;
/// What the length of code and variable store together is a multiple of.
pub const STEP: usize = 0x1_0000;
/// The most that both may have: above them is the end of memory, and below the local APIC.
pub const MOST: usize = 16 << 20;
/// What the lengths of code and store are multiples of, for each is mapped by itself.
const PAGE: usize = 0x1000;
/// Where the CPU's first instruction is, as a distance from the end of the image.
const RESET_VECTOR: usize = 16;
/// What it may be (SDM vol 2A, "JMP"): SeaBIOS has a far jump, OVMF a near one behind two NOPs, since 16-bit code before it may be short.
/// OVMF built for X64 alone begins with `MOV EAX, CR0`: it may start in protected mode elsewhere, and looks.
const FAR_JUMP: u8 = 0xea;
const NEAR_JUMP: u8 = 0xe9;
const SHORT_JUMP: u8 = 0xeb;
const NOP: u8 = 0x90;
const MOV_EAX_CR0: [u8; 3] = [0x0f, 0x20, 0xc0];
const ONE_MIB: u64 = 0x10_0000;

/// UEFI Platform Initialization Specification vol 3, 3.2.1, "EFI_FIRMWARE_VOLUME_HEADER": the places of `FileSystemGuid`, `FvLength` and
/// `Signature`, and the length of the fixed part.
mod volume {
    pub const GUID: usize = 16;
    pub const LENGTH: usize = 32;
    pub const SIGNATURE: usize = 40;
    pub const HEADER: usize = 56;
    /// EDK II's `gEfiSystemNvDataFvGuid`: FFF12B8D-7696-4C8B-A985-2747075B4F50.
    pub const NV_DATA: [u8; 16] = [
        0x8d, 0x2b, 0xf1, 0xff, 0x96, 0x76, 0x8b, 0x4c, 0xa9, 0x85, 0x27, 0x47, 0x07, 0x5b, 0x4f,
        0x50,
    ];
}

/// The file is no firmware image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BiosError {
    /// Its length in bytes, that of its variable store included, is none that a flash can have.
    Size(usize),
    /// There is neither a jump at the reset vector nor a look at CR0.
    NoResetVector,
}

impl fmt::Display for BiosError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BiosError::Size(len) => write!(
                f,
                "the firmware image has {len} bytes instead of a multiple of 64 KiB up to 16 MiB"
            ),
            BiosError::NoResetVector => f.write_str(
                "the firmware image has no code that we know at its reset vector: it is neither SeaBIOS nor OVMF",
            ),
        }
    }
}

impl core::error::Error for BiosError {}

/// The length of the variable store that an image begins with: 0 if it begins with none.
#[must_use]
pub fn store_in(image: &[u8]) -> usize {
    let Some(header) = image.get(..volume::HEADER) else {
        return 0;
    };
    let part = |at: usize, len: usize| header.get(at..at + len).unwrap_or_default();
    let length = part(volume::LENGTH, 8).try_into().map(u64::from_le_bytes);
    let length = usize::try_from(length.unwrap_or(0)).unwrap_or(0);
    let is_store = part(volume::GUID, 16) == volume::NV_DATA
        && part(volume::SIGNATURE, 4) == b"_FVH"
        && length < image.len();
    if is_store { length } else { 0 }
}

/// The places of a valid image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BiosPlacement {
    code: usize,
    store: usize,
}

impl BiosPlacement {
    /// Checks an image without its variable store, which has `store` bytes, or 0 if there is none.
    ///
    /// # Errors
    /// It has the wrong size, or does not begin where the CPU does.
    pub fn of(image: &[u8], store: usize) -> Result<Self, BiosError> {
        let code = image.len();
        let both = code.saturating_add(store);
        let fits = (STEP..=MOST).contains(&both) && both.is_multiple_of(STEP);
        if !fits || !code.is_multiple_of(PAGE) || code == 0 {
            return Err(BiosError::Size(both));
        }
        let vector = image.get(code - RESET_VECTOR..).unwrap_or_default();
        match vector.iter().find(|&&byte| byte != NOP) {
            Some(&(FAR_JUMP | NEAR_JUMP | SHORT_JUMP)) => Ok(Self { code, store }),
            _ if vector.starts_with(&MOV_EAX_CR0) => Ok(Self { code, store }),
            _ => Err(BiosError::NoResetVector),
        }
    }

    /// Where the code is as read-only memory: it ends at 4 GiB.
    #[must_use]
    pub const fn code(&self) -> Gpa {
        Gpa(HIGH_RAM - self.code as u64)
    }

    /// Where the variable store is: it ends where the code begins.
    #[must_use]
    pub const fn store(&self) -> Gpa {
        Gpa(HIGH_RAM - (self.code + self.store) as u64)
    }

    /// Where the end of the code is seen after reset, and which part of it that is: 0xE0000 to 0xFFFFF.
    #[must_use]
    pub const fn low_copy(&self) -> (Gpa, Range<usize>) {
        let len = if self.code < LOW_COPY_LEN {
            self.code
        } else {
            LOW_COPY_LEN
        };
        (Gpa(ONE_MIB - len as u64), self.code - len..self.code)
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
        let b = BiosPlacement::of(&image(256 << 10), 0).unwrap();
        assert_eq!(b.code(), Gpa(0xfffc_0000));
        assert_eq!(b.low_copy(), (Gpa(0xe_0000), 0x2_0000..0x4_0000));
        let b = BiosPlacement::of(&image(64 << 10), 0).unwrap();
        assert_eq!(b.code(), Gpa(0xffff_0000));
        assert_eq!(b.low_copy(), (Gpa(0xf_0000), 0..0x1_0000));
    }

    #[test]
    fn the_variable_store_is_right_below_the_code() {
        let b = BiosPlacement::of(&image(0x37_c000), 0x8_4000).unwrap();
        assert_eq!((b.store(), b.code()), (Gpa(0xffc0_0000), Gpa(0xffc8_4000)));
        let largest = BiosPlacement::of(&image(MOST - 0x1_0000), 0x1_0000).unwrap();
        assert_eq!(largest.store(), Gpa(0xff00_0000));
    }

    #[test]
    fn other_sizes_and_other_files_are_refused() {
        for len in [0, 1, 16, 0x1000, 96 << 10, (128 << 10) + 1, MOST + STEP] {
            assert_eq!(BiosPlacement::of(&image(len), 0), Err(BiosError::Size(len)));
        }
        // What is mapped by itself has whole pages.
        let both = |code, store| BiosPlacement::of(&image(code), store);
        assert_eq!(both(0x1_fff0, 0x10), Err(BiosError::Size(0x2_0000)));
        assert_eq!(both(0x37_c000, 0), Err(BiosError::Size(0x37_c000)));
        assert_eq!(both(0x1_0000, usize::MAX), Err(BiosError::Size(usize::MAX)));
        assert_eq!(both(0, 0x1_0000), Err(BiosError::Size(0x1_0000)));
        let refused = |image: &[u8]| BiosPlacement::of(image, 0);
        assert_eq!(refused(&[0; 256 << 10]), Err(BiosError::NoResetVector));
        assert_eq!(refused(&[NOP; 256 << 10]), Err(BiosError::NoResetVector));
    }

    /// The end of Debian 12's OVMF of 2 MiB: it looks at CR0.PE first.
    #[test]
    fn a_reset_vector_that_looks_at_the_mode_first_is_accepted() {
        let vector = [
            0x0f, 0x20, 0xc0, 0xa8, 0x01, 0x74, 0x05, 0xe9, 0x28, 0xff, 0xff, 0xff, 0xe9, 0x09,
            0xff, 0x90,
        ];
        let mut ovmf = vec![0xff; 2 << 20];
        ovmf[(2 << 20) - vector.len()..].copy_from_slice(&vector);
        assert!(BiosPlacement::of(&ovmf, 0).is_ok());
        // An access to another control register is none.
        ovmf[(2 << 20) - vector.len() + 2] = 0xd8;
        assert_eq!(BiosPlacement::of(&ovmf, 0), Err(BiosError::NoResetVector));
    }

    #[test]
    fn the_store_of_an_image_that_has_both_is_its_first_volume() {
        let mut both = image(1 << 20);
        assert_eq!(store_in(&both), 0);
        both[volume::GUID..][..16].copy_from_slice(&volume::NV_DATA);
        both[volume::LENGTH..][..8].copy_from_slice(&0x2_0000u64.to_le_bytes());
        both[volume::SIGNATURE..][..4].copy_from_slice(b"_FVH");
        assert_eq!(store_in(&both), 0x2_0000);
        both[volume::LENGTH..][..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(store_in(&both), 0);
        assert_eq!(store_in(&both[..20]), 0);
    }

    /// The distribution's image, where its package is installed.
    fn installed(path: &str) -> Option<Vec<u8>> {
        match std::fs::read(path) {
            Ok(image) => Some(image),
            Err(_) if std::env::var("UMBRA_REQUIRE_TOOLS").as_deref() != Ok("1") => {
                eprintln!("SKIPPED: no {path}");
                None
            }
            Err(e) => panic!("{path}: {e}"),
        }
    }

    #[test]
    fn debians_seabios_is_accepted() {
        for name in ["bios.bin", "bios-256k.bin"] {
            if let Some(image) = installed(&format!("/usr/share/seabios/{name}")) {
                assert_eq!(store_in(&image), 0, "{name}");
                assert!(BiosPlacement::of(&image, 0).is_ok(), "{name}");
            }
        }
    }

    #[test]
    fn debians_ovmf_is_accepted() {
        let file = |name: &str| installed(&format!("/usr/share/OVMF/{name}"));
        if let (Some(code), Some(store)) = (file("OVMF_CODE_4M.fd"), file("OVMF_VARS_4M.fd")) {
            let b = BiosPlacement::of(&code, store.len()).unwrap();
            assert_eq!(b.store(), Gpa(0xffc0_0000));
            let both = [store.clone(), code].concat();
            assert_eq!(store_in(&both), store.len());
        }
    }
}
