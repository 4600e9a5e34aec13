//! A virtual machine's firmware: SeaBIOS, OVMF from the distribution's package, or any image.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result};
use protocol::options::{FIRMWARE_STEP, MAX_FIRMWARE};

use crate::media::{Boots, Kind, Medium};
use crate::module::Module;
use crate::outcome::refuse;

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
    /// The one of a guest that boots so, if nothing else is said.
    pub fn for_guest(boots: Boots) -> Firmware {
        match boots {
            Boots::Uefi => Firmware::Uefi,
            Boots::Bios | Boots::Both => Firmware::Bios,
        }
    }

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
            return Ok(Firmware::for_guest(boots));
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

/// Where a machine whose first hard disk is `disk` keeps UEFI's variables.
pub fn variables_beside(disk: &Path) -> PathBuf {
    let mut name = disk.as_os_str().to_owned();
    name.push(".vars");
    name.into()
}

impl Firmware {
    /// Whether a system that is installed has to make a boot entry: the firmware is UEFI.
    ///
    /// # Errors
    ///
    /// It cannot be read, or a [`Refused`](crate::outcome::Refused): it is UEFI and keeps none.
    pub fn keeps_boot_entries(&self) -> Result<bool> {
        if self.fresh_variables()?.is_some() {
            return Ok(true);
        }
        if let Firmware::File(path) = self
            && has_volume(&fs::read(path)?)
        {
            refuse!(
                "{} is UEFI without a variable store, and an installed system boots by an entry in that: name an image that begins with one",
                path.display()
            );
        }
        Ok(false)
    }

    /// What the file of UEFI's variables begins as. None: it has none.
    fn fresh_variables(&self) -> Result<Option<Vec<u8>>> {
        let read =
            |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        Ok(match self {
            Firmware::Bios => None,
            Firmware::Uefi => Some(read(OVMF[1].1.as_ref())?),
            Firmware::File(path) => {
                let mut image = read(path)?;
                let length = store_in(&image);
                image.truncate(length);
                (length != 0).then_some(image)
            }
        })
    }

    /// Makes the file of UEFI's variables in `path` if there is none. Returns whether this firmware has any.
    ///
    /// # Errors
    ///
    /// It cannot be made, or a [`Refused`](crate::outcome::Refused): the one that is there is of another firmware.
    pub fn keep_variables(&self, path: &Path) -> Result<bool> {
        let name = path.display();
        let Some(fresh) = self.fresh_variables()? else {
            return Ok(false);
        };
        match fs::metadata(path) {
            Ok(there) if there.len() == fresh.len() as u64 => return Ok(true),
            Ok(there) => refuse!(
                "{name} has {} bytes, and this firmware's variables have {}: move it away, or name the firmware that it is of",
                there.len(),
                fresh.len()
            ),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => refuse!("{name} cannot be opened: {error}"),
        }
        // Whole or not at all.
        let directory = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let made = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(directory.unwrap_or(Path::new(".")))
            .and_then(|mut file| {
                file.write_all(&fresh)?;
                file.as_file().sync_all()?;
                file.persist_noclobber(path)?;
                Ok(())
            });
        made.with_context(|| format!("cannot make {name}"))?;
        Ok(true)
    }
}

/// The length of the variable store that an image begins with, or 0: UEFI Platform Initialization Specification vol 3, 3.2.1,
/// "EFI_FIRMWARE_VOLUME_HEADER", with EDK II's `gEfiSystemNvDataFvGuid`.
fn store_in(image: &[u8]) -> usize {
    const NV_DATA: [u8; 16] = [
        0x8d, 0x2b, 0xf1, 0xff, 0x96, 0x76, 0x8b, 0x4c, 0xa9, 0x85, 0x27, 0x47, 0x07, 0x5b, 0x4f,
        0x50,
    ];
    let is_store = image.get(16..32) == Some(&NV_DATA) && image.get(40..44) == Some(b"_FVH");
    let length = image.get(32..40).and_then(|bytes| bytes.try_into().ok());
    let length = usize::try_from(length.map_or(0, u64::from_le_bytes)).unwrap_or(0);
    if is_store && length < image.len() {
        length
    } else {
        0
    }
}

/// Whether there is a volume of UEFI's firmware in an image (in the same section): a BIOS has none.
fn has_volume(image: &[u8]) -> bool {
    const SIGNATURE: usize = 40;
    let mut blocks = image.chunks_exact(0x1000);
    blocks.any(|block| block[SIGNATURE..].starts_with(b"_FVH"))
}

/// Makes one image of OVMF's pair in `path`, for an emulator.
///
/// # Errors
///
/// A file cannot be read, or the image not be written.
pub fn join_ovmf(path: &Path) -> Result<()> {
    let [(_, code), (_, variables)] = OVMF;
    let read = |path| fs::read(path).with_context(|| format!("cannot read {path}"));
    fs::write(path, [read(variables)?, read(code)?].concat())
        .with_context(|| format!("cannot write {}", path.display()))
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
            readonly: false,
            format: crate::media::Format::Raw,
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
    fn variables_are_made_once_and_those_of_another_firmware_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mut image = vec![0; 1 << 20];
        image[16..32].copy_from_slice(&[
            0x8d, 0x2b, 0xf1, 0xff, 0x96, 0x76, 0x8b, 0x4c, 0xa9, 0x85, 0x27, 0x47, 0x07, 0x5b,
            0x4f, 0x50,
        ]);
        image[32..40].copy_from_slice(&0x2_0000u64.to_le_bytes());
        image[40..44].copy_from_slice(b"_FVH");
        fs::write(path("both.fd"), &image).unwrap();
        let firmware = Firmware::File(path("both.fd"));
        let vars = variables_beside(&path("d.img"));
        assert_eq!(vars, path("d.img.vars"));
        assert!(firmware.keep_variables(&vars).unwrap());
        assert_eq!(fs::read(&vars).unwrap(), image[..0x2_0000]);
        fs::write(&vars, vec![7; 0x2_0000]).unwrap();
        assert!(firmware.keep_variables(&vars).unwrap());
        assert_eq!(fs::read(&vars).unwrap()[0], 7, "what is there stays");
        fs::write(&vars, [7; 1000]).unwrap();
        let error = firmware.keep_variables(&vars).unwrap_err();
        assert!(error.is::<Refused>(), "{error}");
        fs::write(path("code.fd"), vec![0; 1 << 20]).unwrap();
        let without = Firmware::File(path("code.fd"));
        assert!(!without.keep_variables(&path("e.img.vars")).unwrap());
        assert!(firmware.keeps_boot_entries().unwrap());
        assert!(!without.keeps_boot_entries().unwrap(), "a BIOS");
        let mut code = vec![0; 1 << 20];
        code[0x1_0028..0x1_002c].copy_from_slice(b"_FVH");
        fs::write(path("code.fd"), &code).unwrap();
        let error = without.keeps_boot_entries().unwrap_err();
        assert!(error.is::<Refused>(), "{error}");
        assert!(!Firmware::Bios.keep_variables(&path("e.img.vars")).unwrap());
        assert!(!path("e.img.vars").exists());
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
