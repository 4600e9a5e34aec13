//! `cargo xtask image`: a bootable CD and USB image with GRUB, Umbra, the virtual machine's firmware and guests, for BIOS and UEFI.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cli::ImageArgs;
use crate::guests::Guest;
use crate::media::{Kind, Medium};
use crate::outcome::refuse;
use crate::progress::Step;
use crate::rig::{MIB, parse_memory};
use crate::run::FIRMWARE;
use crate::setup::{self, Purpose};
use crate::{deb, kernel, paths};

/// Where Umbra and its modules stand on the image.
const BOOT: &str = "boot/umbra";

/// What goes on an image.
#[derive(Debug)]
pub struct Contents {
    /// Guests' CD images, one menu entry each.
    pub guests: Vec<Medium>,
    /// Memory of the guests in bytes.
    pub memory: u64,
    /// Further options for Umbra.
    pub options: String,
    /// Seconds until the first entry starts by itself.
    pub timeout: u32,
}

/// The command.
///
/// # Errors
///
/// A guest cannot boot, or the image cannot be made.
pub fn image(args: &ImageArgs) -> Result<()> {
    let memory = parse_memory(&args.memory)?;
    let mut guests = Vec::new();
    for path in &args.guests {
        let medium = match path.to_str().and_then(Guest::named) {
            Some(guest) if !path.exists() => Medium::open(&guest.provide()?)?,
            _ => Medium::open(path)?,
        };
        if medium.kind != Kind::Cdrom {
            refuse!(
                "{} is not an ISO image; only those can go on the bootable image",
                path.display()
            );
        }
        guests.push(medium);
    }
    setup::require(Purpose::Image)?;
    if guests.is_empty() {
        guests.push(Medium::open(&Guest::DebianAmd64.provide()?)?);
    }
    let umbra = kernel::build()?;
    let output = args
        .output
        .clone()
        .unwrap_or_else(|| paths::target().join("umbra.iso"));
    make(
        &output,
        &umbra,
        &Contents {
            guests,
            memory,
            options: String::new(),
            timeout: 5,
        },
    )?;
    println!("{}", output.display());
    Ok(())
}

/// Makes the image in `path`.
///
/// # Errors
///
/// A file cannot be read, or the image not be written.
pub fn make(path: &Path, umbra: &Path, contents: &Contents) -> Result<()> {
    let step = Step::start(format!("Writing {}", path.display()));
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    paths::make(parent)?;
    let tree = tempfile::Builder::new()
        .prefix("image-")
        .tempdir_in(parent)?;
    let boot = tree.path().join(BOOT);
    paths::make(&boot)?;
    paths::make(&tree.path().join("boot/grub"))?;
    let put = |from: &Path, name: &str| {
        // A link where the file system can, since guests are large.
        let to = boot.join(name);
        fs::hard_link(from, &to)
            .or_else(|_| fs::copy(from, &to).map(drop))
            .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
    };
    put(umbra, "umbra")?;
    for (role, file) in FIRMWARE {
        put(Path::new(file), role)?;
    }
    let mut names = Vec::new();
    for (number, guest) in contents.guests.iter().enumerate() {
        put(&guest.path, &format!("guest{number}.iso"))?;
        names.push(guest.path.file_stem().map_or_else(
            || "guest".to_owned(),
            |stem| stem.to_string_lossy().into_owned(),
        ));
    }
    fs::write(
        tree.path().join("boot/grub/grub.cfg"),
        configuration(&names, contents),
    )?;
    let unfinished = unfinished(path);
    deb::run(
        Command::new("grub-mkrescue")
            .arg("-o")
            .arg(&unfinished)
            .arg(tree.path())
            .args(["--", "-volid", "UMBRA"]),
    )?;
    fs::rename(&unfinished, path).with_context(|| format!("cannot write {}", path.display()))?;
    step.done();
    Ok(())
}

fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("part")
}

/// GRUB's menu, on the screen and on the first serial port.
///
/// GRUB gives a multiboot2 module the words behind its file's name, where QEMU's loader gives the name too: the role is the
/// second word for both.
fn configuration(names: &[String], contents: &Contents) -> String {
    let mut text = format!("set timeout={}\nset default=0\n", contents.timeout);
    text.push_str("insmod all_video\nserial --unit=0 --speed=115200\n");
    // Umbra draws the guest's screen itself and wants 32 bits a pixel; the menu stays in text.
    text.push_str("set gfxpayload=1024x768x32,800x600x32,auto\n");
    text.push_str("terminal_input console serial\nterminal_output console serial\n");
    for (number, name) in names.iter().enumerate() {
        let title: String = name
            .chars()
            .filter(|c| !c.is_control() && !"'\"\\$".contains(*c))
            .collect();
        let options = format!(
            "memory={}M paging=nested window {}",
            contents.memory / MIB,
            contents.options
        );
        text.push_str(&format!("menuentry '{title} in Umbra' {{\n"));
        text.push_str("    echo 'Loading Umbra ...'\n");
        text.push_str(&format!(
            "    multiboot2 /{BOOT}/umbra {}\n",
            options.trim_end()
        ));
        for (role, _) in FIRMWARE {
            text.push_str(&format!("    module2 /{BOOT}/{role} {role} {role}\n"));
        }
        text.push_str(&format!("    echo 'Loading {title} ...'\n"));
        text.push_str(&format!(
            "    module2 /{BOOT}/guest{number}.iso cdrom cdrom\n}}\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guest_is_a_menu_entry_with_the_firmware() {
        let contents = Contents {
            guests: Vec::new(),
            memory: 512 * MIB,
            options: "control=com2".to_owned(),
            timeout: 0,
        };
        let text = configuration(&["debian-12".to_owned(), "it's".to_owned()], &contents);
        assert_eq!(text.matches("menuentry '").count(), 2);
        assert!(text.contains("menuentry 'its in Umbra' {"));
        assert!(text.contains(
            "multiboot2 /boot/umbra/umbra memory=512M paging=nested window control=com2\n"
        ));
        assert_eq!(
            text.matches("module2 /boot/umbra/bios bios bios\n").count(),
            2
        );
        assert!(text.contains("module2 /boot/umbra/guest1.iso cdrom cdrom\n"));
    }
}
