//! A virtual machine's firmware: SeaBIOS, OVMF from the distribution's package, or any image.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Result;
use protocol::options::{FIRMWARE_STEP, MAX_FIRMWARE};

use crate::media::{Boots, Kind, Medium};
use crate::outcome::refuse;
use crate::rig::Module;

/// The BIOS, which all virtual machines have in common, and their VGA's, by role.
const BIOS: [(&str, &str); 2] = [
    ("bios", "/usr/share/seabios/bios-256k.bin"),
    ("vgabios", "/usr/share/seabios/vgabios-stdvga.bin"),
];
/// OVMF's code and its empty variable store: the pair of 4 MiB, which every Debian and Ubuntu of today has.
const OVMF: [(&str, &str); 2] = [
    ("firmware", "/usr/share/OVMF/OVMF_CODE_4M.fd"),
    ("vars", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
];

/// What `--firmware` says, and what a virtual machine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// OVMF.
    Uefi,
    /// An image: a BIOS, or UEFI with or without a variable store.
    File(PathBuf),
}

impl FromStr for Firmware {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "bios" => Self::Bios,
            "uefi" => Self::Uefi,
            file => Self::File(file.into()),
        })
    }
}

impl Firmware {
    /// The firmware for `guest`: what is `wanted`, or what the guest boots by. Nothing is the default guest, which boots by a BIOS.
    ///
    /// # Errors
    ///
    /// A [`Refused`](crate::outcome::Refused): they do not go together, or the file is no firmware.
    pub fn choose(wanted: Option<&Firmware>, guest: Option<&Medium>) -> Result<Firmware> {
        if let (Some(_), Some(Kind::Kernel { .. })) = (wanted, guest.map(|guest| guest.kind)) {
            refuse!("--firmware cannot go with a Linux kernel, which is started without firmware");
        }
        let boots = guest.map_or(Boots::Bios, |guest| guest.boots);
        let Some(wanted) = wanted else {
            return Ok(boots.firmware());
        };
        match (wanted, boots, guest) {
            (Firmware::Bios, Boots::Uefi, Some(guest)) => refuse!(
                "{} boots by UEFI only: leave out --firmware bios",
                guest.path.display()
            ),
            (Firmware::Uefi, Boots::Bios, Some(guest)) => eprintln!(
                "warning: {} does not boot by UEFI: the firmware's own shell comes up, unless another medium boots",
                guest.path.display()
            ),
            _ => {}
        }
        match wanted {
            Firmware::File(path) => Ok(Firmware::File(check(path)?)),
            other => Ok(other.clone()),
        }
    }

    /// Whether it comes from OVMF's package.
    pub fn is_uefi(&self) -> bool {
        *self == Firmware::Uefi
    }

    /// The boot modules that a virtual machine has it by, whose roles begin with `prefix`.
    pub fn modules(&self, prefix: &str) -> Vec<Module> {
        let module = |role: &str, path: &Path| Module {
            role: format!("{prefix}{role}"),
            path: path.to_owned(),
        };
        match self {
            Firmware::Bios => Vec::new(),
            Firmware::Uefi => {
                let parts = OVMF.iter();
                parts
                    .map(|(role, path)| module(role, path.as_ref()))
                    .collect()
            }
            Firmware::File(path) => vec![module("firmware", path)],
        }
    }
}

/// What all virtual machines have in common, as modules.
pub fn common() -> Vec<Module> {
    let module = |(role, path): (&str, &str)| Module {
        role: role.to_owned(),
        path: path.into(),
    };
    BIOS.into_iter().map(module).collect()
}

/// Checks that `path` is a firmware image, and gives its absolute path.
fn check(path: &Path) -> Result<PathBuf> {
    let name = path.display();
    match std::fs::metadata(path) {
        Ok(file) if !file.is_file() => refuse!("the firmware {name} is no file"),
        Ok(file)
            if !(1..=MAX_FIRMWARE).contains(&file.len())
                || !file.len().is_multiple_of(FIRMWARE_STEP) =>
        {
            refuse!(
                "the firmware {name} has {} bytes instead of a multiple of 64 KiB up to 16 MiB",
                file.len()
            )
        }
        Ok(_) => {}
        Err(error) => refuse!("the firmware {name} cannot be opened: {error}"),
    }
    Ok(std::fs::canonicalize(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Refused;

    fn medium(kind: Kind, boots: Boots) -> Medium {
        Medium {
            path: "/m".into(),
            kind,
            boots,
            length: 0,
            warnings: Vec::new(),
        }
    }

    #[test]
    fn uefi_is_chosen_where_a_medium_boots_by_nothing_else() {
        let choose = |boots| Firmware::choose(None, Some(&medium(Kind::Cdrom, boots))).unwrap();
        assert_eq!(choose(Boots::Uefi), Firmware::Uefi);
        assert_eq!(choose(Boots::Both), Firmware::Bios);
        assert_eq!(choose(Boots::Bios), Firmware::Bios);
        assert_eq!(Firmware::choose(None, None).unwrap(), Firmware::Bios);
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let kernel = medium(Kind::Kernel { init_size: 0 }, Boots::Bios);
        let efi = medium(Kind::Cdrom, Boots::Uefi);
        let directory = tempfile::tempdir().unwrap();
        let short = directory.path().join("short.fd");
        std::fs::write(&short, [0; 1000]).unwrap();
        for (wanted, guest, part) in [
            ("uefi", &kernel, "Linux kernel"),
            ("bios", &efi, "UEFI only"),
            ("/nowhere.fd", &efi, "cannot be opened"),
            (directory.path().to_str().unwrap(), &efi, "no file"),
            (short.to_str().unwrap(), &efi, "multiple of 64 KiB"),
        ] {
            let wanted = wanted.parse().unwrap();
            let error = Firmware::choose(Some(&wanted), Some(guest)).unwrap_err();
            assert!(error.is::<Refused>());
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
