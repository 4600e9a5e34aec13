//! El Torito CD images with isolinux: the Debian installer's kernel and RAM disk, unmodified, as a bootable CD.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::boot_entry::Entry;
use crate::command;
use crate::efi;
use crate::media::Boots;
use crate::paths;
use crate::progress::Step;

const ISOLINUX: &str = "/usr/lib/ISOLINUX/isolinux.bin";
const LDLINUX: &str = "/usr/lib/syslinux/modules/bios/ldlinux.c32";

/// Seconds until the first entry starts by itself.
const TIMEOUT: u32 = 2;

/// Makes a CD image in `path` that boots `kernel` with `initrd` by the first of `entries`, if no other is typed in time.
///
/// # Errors
///
/// A file cannot be read, or the image not be written.
pub fn make(
    path: &Path,
    volume: &str,
    kernel: &Path,
    initrd: &Path,
    entries: &[Entry<'_>],
) -> Result<()> {
    make_with(path, volume, kernel, initrd, entries, Boots::Bios, &[])
}

/// The same of a 64-bit system, which boots by UEFI too.
///
/// # Errors
///
/// As [`make`].
pub fn make_for_both(
    path: &Path,
    volume: &str,
    kernel: &Path,
    initrd: &Path,
    entries: &[Entry<'_>],
) -> Result<()> {
    make_with(path, volume, kernel, initrd, entries, Boots::Both, &[])
}

/// The same by the firmware that `boots` says, with `files` besides, each with its name in the root directory.
///
/// # Errors
///
/// A file cannot be read, or the image not be written.
pub fn make_with(
    path: &Path,
    volume: &str,
    kernel: &Path,
    initrd: &Path,
    entries: &[Entry<'_>],
    boots: Boots,
    files: &[(&Path, &str)],
) -> Result<()> {
    let parent = path.parent().context("the image has no directory")?;
    paths::make(parent)?;
    let tree = tempfile::Builder::new()
        .prefix("cdrom-")
        .tempdir_in(parent)?;
    let boot = tree.path().join("isolinux");
    paths::make(&boot)?;
    for (from, name) in [
        (Path::new(ISOLINUX), "isolinux.bin"),
        (Path::new(LDLINUX), "ldlinux.c32"),
        (kernel, "linux"),
    ] {
        copy(from, &boot.join(name))?;
    }
    copy(initrd, &boot.join("initrd.gz"))?;
    for (from, name) in files {
        copy(from, &tree.path().join(name))?;
    }
    fs::write(boot.join("isolinux.cfg"), configuration(entries))?;
    let mut words = Vec::new();
    if boots != Boots::Uefi {
        words.extend(["-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat"]);
        words.extend(["-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"]);
    }
    if boots != Boots::Bios {
        efi::put(
            tree.path(),
            "/isolinux/linux",
            "/isolinux/initrd.gz",
            entries,
            TIMEOUT,
        )?;
        if boots == Boots::Both {
            words.push("-eltorito-alt-boot");
        }
        words.extend(["-e", efi::IMAGE, "-no-emul-boot"]);
    }
    let step = Step::start(format!("Writing {}", path.display()));
    let unfinished = path.with_extension("part");
    command::run(
        Command::new("xorriso")
            .args(["-as", "mkisofs", "-quiet", "-r", "-J", "-V", volume, "-o"])
            .arg(&unfinished)
            .args(words)
            .arg(tree.path()),
    )?;
    fs::rename(&unfinished, path).with_context(|| format!("cannot write {}", path.display()))?;
    step.done();
    Ok(())
}

/// Makes a CD image in `path` of the files below `tree` that boots GRUB, with `modules` in it and what the file `configuration` says.
///
/// # Errors
///
/// The loader cannot be made, or the image not be written.
pub fn make_with_grub(
    path: &Path,
    tree: &Path,
    configuration: &Path,
    modules: &[&str],
) -> Result<()> {
    const LOADER: &str = "boot/grub/core.img";
    command::run(
        Command::new("grub-mkimage")
            .args(["-O", "i386-pc-eltorito", "-p", "/boot/grub", "-c"])
            .arg(configuration)
            .arg("-o")
            .arg(tree.join(LOADER))
            .args(modules),
    )?;
    command::run(
        Command::new("xorriso")
            .args(["-as", "mkisofs", "-quiet", "-r", "-V", "UMBRA", "-o"])
            .arg(path)
            .args(["-b", LOADER, "-no-emul-boot", "-boot-load-size", "4"])
            .arg("-boot-info-table")
            .arg(tree),
    )?;
    Ok(())
}

/// Makes a CD image in `path` that boots the first `sectors` sectors of 512 bytes of `program`, which are loaded at 7C00h.
///
/// # Errors
///
/// The image cannot be written.
pub fn make_of_program(path: &Path, program: &Path, sectors: usize) -> Result<()> {
    let tree = tempfile::tempdir()?;
    copy(program, &tree.path().join("boot.img"))?;
    command::run(
        Command::new("xorriso")
            .args(["-as", "mkisofs", "-quiet", "-r", "-V", "UMBRA", "-o"])
            .arg(path)
            .args(["-b", "boot.img", "-no-emul-boot", "-boot-load-size"])
            .arg(sectors.to_string())
            .arg(tree.path()),
    )?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

/// The boot menu: a prompt on the screen and on COM1, which boots the first entry after a while.
fn configuration(entries: &[Entry<'_>]) -> String {
    let mut text = format!("SERIAL 0 115200\nPROMPT 1\nTIMEOUT {}\n", 10 * TIMEOUT);
    if let Some(first) = entries.first() {
        text.push_str(&format!("DEFAULT {}\n", first.label));
    }
    for entry in entries {
        text.push_str(&format!(
            "LABEL {}\n  KERNEL linux\n  APPEND initrd=initrd.gz {}\n",
            entry.label, entry.cmdline
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_entry_is_the_default() {
        let entries = [
            Entry {
                label: "install",
                cmdline: "vga=788 --- quiet",
            },
            Entry {
                label: "serial",
                cmdline: "x",
            },
        ];
        let text = configuration(&entries);
        assert!(text.contains("DEFAULT install\nLABEL install\n  KERNEL linux\n  APPEND initrd=initrd.gz vga=788 --- quiet\n"));
    }
}
