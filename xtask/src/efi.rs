//! What UEFI boots from a CD: a FAT image with Debian's signed shim and GRUB (UEFI Specification 13.3.2.1, "ISO-9660 and El Torito", and
//! 3.5.1.1, "Removable Media Boot Behavior").
//!
//! The signed GRUB for CDs looks for the medium with `/.disk/info` and takes `/boot/grub/grub.cfg` from there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::boot_entry::Entry;
use crate::{command, deb, paths};

/// The image's name in the CD's root directory.
pub const IMAGE: &str = "efi.img";
/// Its length in sectors of 512 bytes: both programs have 5 MB.
const SECTORS: u32 = 8 << 11;

/// Puts the image and GRUB's configuration into `tree`, from which a CD is made: its entries start the kernel `kernel` with the RAM disk `initrd`, both
/// by their paths on the CD. The first starts after `timeout` seconds.
///
/// # Errors
///
/// A package cannot be had, or a file not be written.
pub fn put(
    tree: &Path,
    kernel: &str,
    initrd: &str,
    entries: &[Entry<'_>],
    timeout: u32,
) -> Result<()> {
    let image = tree.join(IMAGE);
    let format = [
        "-C",
        "-T",
        &SECTORS.to_string(),
        "-h",
        "16",
        "-s",
        "63",
        "-v",
        "UMBRA",
    ]
    .map(str::to_owned);
    command::run(
        Command::new("mformat")
            .arg("-i")
            .arg(&image)
            .args(format)
            .arg("::"),
    )?;
    command::run(
        Command::new("mmd")
            .arg("-i")
            .arg(&image)
            .args(["::EFI", "::EFI/BOOT"]),
    )?;
    for (program, name) in programs()? {
        command::run(
            Command::new("mcopy")
                .arg("-i")
                .arg(&image)
                .arg(&program)
                .arg(format!("::EFI/BOOT/{name}")),
        )?;
    }
    let disk = tree.join(".disk");
    paths::make(&disk)?;
    fs::write(disk.join("info"), "Umbra's test guest\n")?;
    let grub = tree.join("boot/grub");
    paths::make(&grub)?;
    fs::write(
        grub.join("grub.cfg"),
        configuration(kernel, initrd, entries, timeout),
    )
    .context("cannot write grub.cfg")
}

/// The programs, and their names: the first is what the firmware starts, which starts the second.
fn programs() -> Result<[(PathBuf, &'static str); 2]> {
    let shim = deb::unpacked("shim-signed")?.join("usr/lib/shim/shimx64.efi.signed");
    let grub = deb::unpacked("grub-efi-amd64-signed")?;
    let grub = grub.join("usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed");
    Ok([(shim, "BOOTX64.EFI"), (grub, "grubx64.efi")])
}

fn configuration(kernel: &str, initrd: &str, entries: &[Entry<'_>], timeout: u32) -> String {
    let mut text = format!("set timeout={timeout}\n");
    for entry in entries {
        text.push_str(&format!(
            "menuentry {} {{\n    linux {kernel} {}\n    initrd {initrd}\n}}\n",
            entry.label, entry.cmdline
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_entry_starts_by_itself() {
        let entries = [Entry {
            label: "install",
            cmdline: "quiet",
        }];
        assert_eq!(
            configuration("/linux", "/i", &entries, 2),
            "set timeout=2\nmenuentry install {\n    linux /linux quiet\n    initrd /i\n}\n"
        );
    }
}
