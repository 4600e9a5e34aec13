//! Bootable images with GRUB, Umbra, the virtual machine's firmware and guests: `cargo xtask image` makes one for CD and USB, BIOS
//! and UEFI; a plainer one starts emulators that load nothing themselves.

pub mod command;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use protocol::MAX_VMS;
use protocol::options::{Options, Transport, prefix};
use tempfile::TempDir;

use crate::firmware::{self, Firmware};
use crate::media::Medium;
use crate::module::{Boot, Module};
use crate::progress::Step;
use crate::{cdrom, paths};

/// Where Umbra and its modules stand on the image.
const BOOT: &str = "boot/umbra";

/// What goes on an image.
#[derive(Debug)]
pub struct Contents {
    /// The menu.
    pub entries: Vec<Entry>,
    /// Seconds until the first entry starts by itself.
    pub timeout: u32,
}

/// Umbra with its guests.
#[derive(Debug)]
pub struct Entry {
    /// What the menu calls it.
    pub title: String,
    /// Umbra's options.
    pub options: String,
    /// What the boot loader loads besides, the virtual machine's firmware included.
    pub modules: Vec<Module>,
}

impl Entry {
    /// An entry for CDs, each in a virtual machine of its own with `memory` bytes. The machine's own screen shows the first; there is a
    /// host tool if `control` says how to speak to it.
    pub fn cdroms(guests: &[Medium], memory: u64, control: Option<Transport>) -> Entry {
        let mut modules = firmware::common();
        for (number, guest) in (1..).zip(guests) {
            let prefix = prefix(number);
            modules.extend(Firmware::for_guest(guest.boots).modules(&prefix));
            modules.push(Module {
                role: format!("{prefix}cdrom"),
                path: guest.path.clone(),
            });
        }
        let vm = protocol::options::Vm {
            memory: Some(memory),
            ..Default::default()
        };
        let options = Options {
            control,
            window: true,
            check: false,
            host_cpus: None,
            selftest: None,
            vms: vec![vm; guests.len()],
        };
        let title = |guest: &Medium| {
            let stem = guest.path.file_stem().unwrap_or_default();
            stem.to_string_lossy().into_owned()
        };
        let titles: Vec<String> = guests.iter().map(title).collect();
        Entry {
            title: titles.join(" and "),
            options: options.to_string(),
            modules,
        }
    }

    /// A menu of one entry for each of these CDs, and, if that can be, one for all of them side by side.
    fn menu(guests: &[Medium], memory: u64) -> Vec<Entry> {
        let each = guests.chunks(1);
        let together = (2..=MAX_VMS.into())
            .contains(&guests.len())
            .then_some(guests);
        each.chain(together)
            .map(|guests| Entry::cdroms(guests, memory, None))
            .collect()
    }
}

/// Makes the image in `path`, for BIOS and UEFI machines.
///
/// # Errors
///
/// A file cannot be read, or the image not be written.
pub fn make(path: &Path, umbra: &Path, contents: &Contents) -> Result<()> {
    let step = Step::start(format!("Writing {}", path.display()));
    let mut tree = Tree::new(path)?;
    let text = configuration(&mut tree, umbra, contents)?;
    fs::write(tree.root().join("boot/grub/grub.cfg"), text)?;
    let unfinished = unfinished(path);
    crate::command::run(
        Command::new("grub-mkrescue")
            .arg("-o")
            .arg(&unfinished)
            .arg(tree.root())
            .args(["--", "-volid", "UMBRA"]),
    )?;
    fs::rename(&unfinished, path).with_context(|| format!("cannot write {}", path.display()))?;
    step.done();
    Ok(())
}

/// Makes an image in `path` that a BIOS boots into `boot` at once, with graphics if `graphics`: in a fraction of a second, and
/// with as little of GRUB as an emulator gets through quickly.
///
/// # Errors
///
/// A file cannot be read, or the image not be written.
pub fn make_for_bios(path: &Path, boot: &Boot, graphics: bool) -> Result<()> {
    /// GRUB's own modules besides those that they need themselves.
    const MODULES: [&str; 4] = ["biosdisk", "iso9660", "multiboot2", "linux"];
    let mut tree = Tree::new(path)?;
    let mut text = String::from("set root=cd\n");
    // The text mode that is there costs nothing; without a word, GRUB takes graphics.
    text.push_str(&payload(graphics));
    match boot {
        Boot::Multiboot {
            umbra,
            options,
            modules,
        } => text.push_str(&tree.commands(umbra, options, modules)?),
        Boot::Native {
            kernel,
            initrd,
            cmdline,
        } => {
            let kernel = tree.put(kernel, "kernel")?;
            text.push_str(&format!("linux {kernel} {cmdline}\n"));
            if let Some(initrd) = initrd {
                text.push_str(&format!("initrd {}\n", tree.put(initrd, "initrd")?));
            }
        }
        Boot::Cd { .. } => bail!("a CD is its own image"),
    }
    text.push_str("boot\n");
    let configuration = tree.root().join("boot/grub/grub.cfg");
    fs::write(&configuration, text)?;
    cdrom::make_with_grub(path, tree.root(), &configuration, &MODULES)
}

/// The files of an image before it is made.
struct Tree {
    directory: TempDir,
    /// What is there already, and its name in the image.
    files: Vec<(PathBuf, String)>,
}

impl Tree {
    /// An empty one, beside the image that is to be `path`.
    fn new(path: &Path) -> Result<Tree> {
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        paths::make(parent)?;
        let directory = tempfile::Builder::new()
            .prefix("image-")
            .tempdir_in(parent)?;
        paths::make(&directory.path().join(BOOT))?;
        paths::make(&directory.path().join("boot/grub"))?;
        Ok(Tree {
            directory,
            files: Vec::new(),
        })
    }

    fn root(&self) -> &Path {
        self.directory.path()
    }

    /// Puts the file `from` in and gives its name in the image, which has `name` in it.
    fn put(&mut self, from: &Path, name: &str) -> Result<String> {
        if let Some((_, there)) = self.files.iter().find(|(path, _)| path == from) {
            return Ok(there.clone());
        }
        let mut inside = format!("/{BOOT}/{name}");
        for number in 1.. {
            if self.files.iter().all(|(_, there)| *there != inside) {
                break;
            }
            inside = format!("/{BOOT}/{name}{number}");
        }
        // A link where the file system can, since guests are large.
        let to = self.root().join(inside.trim_start_matches('/'));
        fs::hard_link(from, &to)
            .or_else(|_| fs::copy(from, &to).map(drop))
            .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
        self.files.push((from.to_owned(), inside.clone()));
        Ok(inside)
    }

    /// GRUB's commands that load Umbra with `options` and `modules`.
    ///
    /// GRUB gives a multiboot2 module the words behind its file's name, where QEMU's loader gives the name too: the role is the
    /// second word for both.
    fn commands(&mut self, umbra: &Path, options: &str, modules: &[Module]) -> Result<String> {
        let mut text = format!("multiboot2 {} {options}\n", self.put(umbra, "umbra")?);
        for Module { role, path } in modules {
            let file = self.put(path, role)?;
            text.push_str(&format!("module2 {file} {role} {role}\n"));
        }
        Ok(text)
    }
}

fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("part")
}

/// Which screen GRUB leaves to what it starts. Umbra draws the guest's screen itself and wants 32 bits a pixel.
fn payload(graphics: bool) -> String {
    let modes = if graphics {
        "1024x768x32,800x600x32,auto"
    } else {
        "text"
    };
    format!("set gfxpayload={modes}\n")
}

/// GRUB's menu, on the screen and on the first serial port; the menu itself stays in text. The files it names go into `tree`.
fn configuration(tree: &mut Tree, umbra: &Path, contents: &Contents) -> Result<String> {
    let mut text = format!("set timeout={}\nset default=0\n", contents.timeout);
    text.push_str("insmod all_video\nserial --unit=0 --speed=115200\n");
    text.push_str(&payload(true));
    text.push_str("terminal_input console serial\nterminal_output console serial\n");
    for entry in &contents.entries {
        let title: String = entry
            .title
            .chars()
            .filter(|c| !c.is_control() && !"'\"\\$".contains(*c))
            .collect();
        text.push_str(&format!("menuentry '{title} in Umbra' {{\n"));
        text.push_str(&format!("    echo 'Loading Umbra and {title} ...'\n"));
        for line in tree
            .commands(umbra, &entry.options, &entry.modules)?
            .lines()
        {
            text.push_str(&format!("    {line}\n"));
        }
        text.push_str("}\n");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{Boots, Kind};
    use crate::size::MIB;

    #[test]
    fn a_guest_that_boots_by_uefi_alone_brings_its_firmware() {
        let guest = |boots| Medium {
            path: PathBuf::from("/isos/a.iso"),
            readonly: false,
            format: crate::media::Format::Raw,
            kind: Kind::Cdrom,
            boots,
            length: 0,
            warnings: Vec::new(),
        };
        let entry = Entry::cdroms(&[guest(Boots::Both), guest(Boots::Uefi)], MIB, None);
        let roles: Vec<&str> = entry.modules.iter().map(|module| &*module.role).collect();
        let uefi = ["vm2-firmware", "vm2-vars", "vm2-cdrom"];
        assert_eq!(roles[..3], ["bios", "vgabios", "cdrom"]);
        assert_eq!(roles[3..], uefi);
    }

    #[test]
    fn the_last_entry_of_a_menu_has_all_guests() {
        let guest = |name: &str| Medium {
            path: PathBuf::from(format!("/isos/{name}.iso")),
            readonly: false,
            format: crate::media::Format::Raw,
            kind: Kind::Cdrom,
            boots: Boots::Bios,
            length: 0,
            warnings: Vec::new(),
        };
        let guests = [guest("debian"), guest("memtest")];
        let entries = Entry::menu(&guests, 512 * MIB);
        let titles: Vec<&str> = entries.iter().map(|entry| entry.title.as_str()).collect();
        assert_eq!(titles, ["debian", "memtest", "debian and memtest"]);
        let [_, memtest, both] = &entries[..] else {
            panic!("{} entries", entries.len())
        };
        assert_eq!(memtest.options, "window memory=512M paging=nested");
        assert_eq!(
            both.options,
            "window memory=512M paging=nested vm=2 memory=512M paging=nested"
        );
        let roles: Vec<&str> = both.modules.iter().map(|module| &*module.role).collect();
        assert_eq!(roles, ["bios", "vgabios", "cdrom", "vm2-cdrom"]);
        assert_eq!(Entry::menu(&guests[..1], 512 * MIB).len(), 1);
    }

    #[test]
    fn every_guest_is_a_menu_entry_with_the_firmware() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = directory.path().join(name);
            fs::write(&path, name).unwrap();
            path
        };
        let umbra = file("umbra.elf");
        let bios = file("bios.bin");
        let entry = |title: &str| Entry {
            title: title.to_owned(),
            options: "memory=512M window control=com2".to_owned(),
            modules: vec![
                Module {
                    role: "bios".to_owned(),
                    path: bios.clone(),
                },
                Module {
                    role: "cdrom".to_owned(),
                    path: file(title),
                },
            ],
        };
        let contents = Contents {
            entries: vec![entry("debian-12"), entry("it's")],
            timeout: 0,
        };
        let mut tree = Tree::new(&directory.path().join("x.iso")).unwrap();
        let text = configuration(&mut tree, &umbra, &contents).unwrap();
        assert_eq!(text.matches("menuentry '").count(), 2);
        assert!(text.contains("menuentry 'its in Umbra' {"));
        assert_eq!(
            text.matches("multiboot2 /boot/umbra/umbra memory=512M window control=com2\n")
                .count(),
            2
        );
        assert_eq!(
            text.matches("module2 /boot/umbra/bios bios bios\n").count(),
            2
        );
        assert!(text.contains("module2 /boot/umbra/cdrom cdrom cdrom\n"));
        assert!(text.contains("module2 /boot/umbra/cdrom1 cdrom cdrom\n"));
        assert_eq!(
            fs::read(tree.root().join("boot/umbra/cdrom1")).unwrap(),
            b"it's"
        );
    }
}
