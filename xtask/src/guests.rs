//! The test guests: real systems from Debian's packages, unpacked or made into bootable images, and cached under `target`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::boot_entry::Entry;
use crate::cdrom;
use crate::cpio::Archive;
use crate::deb;
use crate::disk;
use crate::initrd;
use crate::media::Boots;
use crate::outcome::refuse;
use crate::paths;
use crate::setup::{self, Purpose};
use crate::work::{self, Width};

/// Raised when a recipe below changes, so that cached guests are made again.
const RECIPE: u32 = 7;

/// A guest that the tool can provide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// The Debian installer for 64-bit machines, on a CD.
    DebianAmd64,
    /// The same of Debian 13.
    Debian13Amd64,
    /// The Debian installer for 32-bit machines, on a CD.
    DebianI386,
    /// The graphical Debian installer for 64-bit machines, on a CD.
    DebianGtk,
    /// The memory tester, 64-bit, on a CD.
    MemtestX64,
    /// The memory tester, 32-bit, on a CD.
    MemtestIa32,
    /// GRUB's rescue shell, on a CD.
    GrubRescue,
    /// The network boot loader, on a CD.
    Ipxe,
    /// Debian's kernel for virtual machines.
    CloudKernel,
    /// A RAM disk for that kernel, with busybox and a script that says what it finds.
    CloudInitrd,
    /// The same kernel of Debian 13.
    Cloud13Kernel,
    /// A RAM disk for that kernel.
    Cloud13Initrd,
    /// Both of Debian 12 on a hard disk with its own boot loader.
    LinuxDisk,
    /// Both on a CD that boots by UEFI alone, through Debian's signed shim and GRUB.
    LinuxEfi,
    /// Debian's kernel for 32-bit machines, with 32-bit two-level paging.
    I386Kernel,
    /// A RAM disk for that kernel, as the cloud kernel's.
    I386Initrd,
    /// The same kernel with PAE paging.
    PaeKernel,
    /// A RAM disk for that kernel.
    PaeInitrd,
}

impl Guest {
    /// All of them.
    pub const ALL: [Guest; 18] = [
        Guest::DebianAmd64,
        Guest::Debian13Amd64,
        Guest::DebianI386,
        Guest::DebianGtk,
        Guest::MemtestX64,
        Guest::MemtestIa32,
        Guest::GrubRescue,
        Guest::Ipxe,
        Guest::CloudKernel,
        Guest::CloudInitrd,
        Guest::Cloud13Kernel,
        Guest::Cloud13Initrd,
        Guest::LinuxDisk,
        Guest::LinuxEfi,
        Guest::I386Kernel,
        Guest::I386Initrd,
        Guest::PaeKernel,
        Guest::PaeInitrd,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Guest::DebianAmd64 => "debian-amd64",
            Guest::Debian13Amd64 => "debian-13-amd64",
            Guest::DebianI386 => "debian-i386",
            Guest::DebianGtk => "debian-gtk",
            Guest::MemtestX64 => "memtest-x64",
            Guest::MemtestIa32 => "memtest-ia32",
            Guest::GrubRescue => "grub-rescue",
            Guest::Ipxe => "ipxe",
            Guest::CloudKernel => "cloud-kernel",
            Guest::CloudInitrd => "cloud-initrd",
            Guest::Cloud13Kernel => "cloud-13-kernel",
            Guest::Cloud13Initrd => "cloud-13-initrd",
            Guest::LinuxDisk => "linux-disk",
            Guest::LinuxEfi => "linux-efi",
            Guest::I386Kernel => "i386-kernel",
            Guest::I386Initrd => "i386-initrd",
            Guest::PaeKernel => "i386-pae-kernel",
            Guest::PaeInitrd => "i386-pae-initrd",
        }
    }

    /// What is run if nothing is named: the installer of the Debian that this system is, or else of the one of which the test guests are.
    pub fn usual() -> Guest {
        let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
        if is_debian(&system, TRIXIE.version) {
            Guest::Debian13Amd64
        } else {
            Guest::DebianAmd64
        }
    }

    /// The RAM disk that goes with a kernel.
    pub fn initrd(self) -> Option<Guest> {
        match self {
            Guest::CloudKernel => Some(Guest::CloudInitrd),
            Guest::Cloud13Kernel => Some(Guest::Cloud13Initrd),
            Guest::I386Kernel => Some(Guest::I386Initrd),
            Guest::PaeKernel => Some(Guest::PaeInitrd),
            _ => None,
        }
    }

    /// The guest with this name.
    pub fn named(name: &str) -> Option<Guest> {
        Guest::ALL.into_iter().find(|guest| guest.name() == name)
    }

    /// What it is, in a line.
    pub fn about(self) -> &'static str {
        match self {
            Guest::DebianAmd64 => "Debian 12 installer, 64-bit, text (ISO)",
            Guest::Debian13Amd64 => "Debian 13 installer, 64-bit, text (ISO)",
            Guest::DebianI386 => "Debian 12 installer, 32-bit, text (ISO)",
            Guest::DebianGtk => "Debian 12 installer, 64-bit, graphical (ISO)",
            Guest::MemtestX64 => "memtest86+, 64-bit (ISO)",
            Guest::MemtestIa32 => "memtest86+, 32-bit (ISO)",
            Guest::GrubRescue => "GRUB rescue CD (ISO)",
            Guest::Ipxe => "iPXE network boot loader (ISO)",
            Guest::CloudKernel => "Debian's Linux kernel for virtual machines (bzImage)",
            Guest::CloudInitrd => "a RAM disk for it that lists the hardware (initrd)",
            Guest::Cloud13Kernel => "the same kernel of Debian 13 (bzImage)",
            Guest::Cloud13Initrd => "a RAM disk for it that lists the hardware (initrd)",
            Guest::LinuxDisk => {
                "both of Debian 12 on a hard disk with GRUB in its boot sector (disk image)"
            }
            Guest::LinuxEfi => "both on a CD that boots by UEFI alone (ISO)",
            Guest::I386Kernel => "Debian's 32-bit Linux kernel without PAE (bzImage)",
            Guest::PaeKernel => "Debian's 32-bit Linux kernel with PAE (bzImage)",
            Guest::I386Initrd | Guest::PaeInitrd => {
                "a 32-bit RAM disk for it that lists the hardware (initrd)"
            }
        }
    }

    fn file(self) -> &'static str {
        match self {
            Guest::DebianAmd64 => "debian-12-amd64.iso",
            Guest::Debian13Amd64 => "debian-13-amd64.iso",
            Guest::DebianI386 => "debian-12-i386.iso",
            Guest::DebianGtk => "debian-12-gtk.iso",
            Guest::MemtestX64 => "memtest86+x64.iso",
            Guest::MemtestIa32 => "memtest86+ia32.iso",
            Guest::GrubRescue => "grub-rescue-cdrom.iso",
            Guest::Ipxe => "ipxe.iso",
            Guest::CloudKernel => "vmlinuz-cloud",
            Guest::CloudInitrd => "initrd-cloud.img",
            Guest::Cloud13Kernel => "vmlinuz-cloud-13",
            Guest::Cloud13Initrd => "initrd-cloud-13.img",
            Guest::LinuxDisk => "linux-disk.img",
            Guest::LinuxEfi => "linux-efi.iso",
            Guest::I386Kernel => "vmlinuz-i386",
            Guest::I386Initrd => "initrd-i386.img",
            Guest::PaeKernel => "vmlinuz-i386-pae",
            Guest::PaeInitrd => "initrd-i386-pae.img",
        }
    }

    /// The guest's file, fetched and made if it is not in the cache.
    ///
    /// # Errors
    ///
    /// It cannot be fetched or made.
    pub fn provide(self) -> Result<PathBuf> {
        let path = paths::guests().join(self.file());
        let stamp = paths::guests().join(format!(".{}", self.file()));
        let recipe = self.recipe();
        if path.exists() && fs::read_to_string(&stamp).is_ok_and(|made_by| made_by == recipe) {
            return Ok(path);
        }
        setup::require(Purpose::Guests)?;
        paths::make(&paths::guests())?;
        match self {
            Guest::DebianAmd64 => BOOKWORM.installer(&path, "amd64", "text", &TEXT_ENTRIES)?,
            Guest::Debian13Amd64 => TRIXIE.installer(&path, "amd64", "text", &TEXT_ENTRIES)?,
            Guest::DebianI386 => BOOKWORM.installer(&path, "i386", "text", &TEXT_ENTRIES)?,
            Guest::DebianGtk => BOOKWORM.installer(&path, "amd64", "gtk", &GTK_ENTRIES)?,
            Guest::MemtestX64 => {
                packaged(&path, "memtest86+", "usr/lib/memtest86+/memtest86+x64.iso")?
            }
            Guest::MemtestIa32 => {
                packaged(&path, "memtest86+", "usr/lib/memtest86+/memtest86+ia32.iso")?
            }
            Guest::GrubRescue => packaged(
                &path,
                "grub-rescue-pc",
                "usr/lib/grub-rescue/grub-rescue-cdrom.iso",
            )?,
            Guest::Ipxe => packaged(&path, "ipxe", "usr/lib/ipxe/ipxe.iso")?,
            Guest::CloudKernel => CLOUD.kernel(&path)?,
            Guest::CloudInitrd => CLOUD.initrd(&path)?,
            Guest::Cloud13Kernel => CLOUD_13.kernel(&path)?,
            Guest::Cloud13Initrd => CLOUD_13.initrd(&path)?,
            Guest::I386Kernel => I386.kernel(&path)?,
            Guest::I386Initrd => I386.initrd(&path)?,
            Guest::PaeKernel => PAE.kernel(&path)?,
            Guest::PaeInitrd => PAE.initrd(&path)?,
            Guest::LinuxEfi => cdrom::make_with(
                &path,
                "UMBRA_EFI",
                &Guest::CloudKernel.provide()?,
                &Guest::CloudInitrd.provide()?,
                &EFI_ENTRIES,
                Boots::Uefi,
                &[],
            )?,
            Guest::LinuxDisk => disk::make(
                &path,
                &Guest::CloudKernel.provide()?,
                &Guest::CloudInitrd.provide()?,
            )?,
        }
        fs::write(&stamp, recipe)?;
        Ok(path)
    }

    /// What the cached file depends on besides the packages.
    fn recipe(self) -> String {
        match self {
            Guest::CloudInitrd
            | Guest::Cloud13Initrd
            | Guest::I386Initrd
            | Guest::PaeInitrd
            | Guest::LinuxDisk
            | Guest::LinuxEfi => {
                format!(
                    "{RECIPE}\n{}\n{}\n{}\n{}",
                    initrd::DRIVERS.join(" "),
                    initrd::INIT,
                    initrd::LEASE,
                    work::SOURCE
                )
            }
            _ => RECIPE.to_string(),
        }
    }
}

/// A flavour of Debian's Linux kernel, and what its RAM disk is made of.
struct Flavour {
    /// The package that depends on the current version.
    meta: &'static str,
    /// The packages' architecture or suite in apt's notation, if it is not the usual one.
    suffix: &'static str,
    /// Where the current version's name is noted.
    note: &'static str,
    width: Width,
}

const CLOUD: Flavour = Flavour {
    meta: "linux-image-cloud-amd64",
    suffix: "",
    note: ".cloud-package",
    width: Width::Bits64,
};
const CLOUD_13: Flavour = Flavour {
    suffix: "/trixie",
    note: ".cloud-13-package",
    ..CLOUD
};
const I386: Flavour = Flavour {
    meta: "linux-image-686",
    suffix: ":i386",
    note: ".i386-package",
    width: Width::Bits32,
};
const PAE: Flavour = Flavour {
    meta: "linux-image-686-pae",
    note: ".pae-package",
    ..I386
};

impl Flavour {
    /// The package that holds the kernel's current version. It is asked for once, so that kernel and modules fit.
    fn package(&self) -> Result<String> {
        let note = paths::guests().join(self.note);
        if let Ok(package) = fs::read_to_string(&note) {
            return Ok(package);
        }
        let meta = format!("{}{}", self.meta, self.suffix);
        let package = deb::dependency(&meta, "linux-image-")?;
        fs::write(note, &package)?;
        Ok(package)
    }

    fn unpacked(&self) -> Result<PathBuf> {
        deb::unpacked(&format!("{}{}", self.package()?, self.suffix))
    }

    /// Where its modules are.
    fn modules(&self) -> Result<PathBuf> {
        Ok(merged(&self.unpacked()?, "lib/modules"))
    }

    /// Copies the kernel to `path`.
    fn kernel(&self, path: &Path) -> Result<()> {
        let package = self.package()?;
        let version = package.trim_start_matches("linux-image-");
        packaged(
            path,
            &format!("{package}{}", self.suffix),
            &format!("boot/vmlinuz-{version}"),
        )
    }

    /// Builds the RAM disk in `path`.
    fn initrd(&self, path: &Path) -> Result<()> {
        let busybox = deb::unpacked(&format!("busybox-static{}", self.suffix))?;
        let modules = self.modules()?;
        let image = initrd::build(&merged(&busybox, "bin/busybox"), &modules, self.width)?;
        place(path, &image)
    }
}

/// The modules of the cloud kernel.
///
/// # Errors
///
/// Its package cannot be had.
pub fn cloud_modules() -> Result<PathBuf> {
    CLOUD.modules()
}

/// The modules of that of Debian 13.
///
/// # Errors
///
/// Its package cannot be had.
pub fn cloud_13_modules() -> Result<PathBuf> {
    CLOUD_13.modules()
}

/// The modules of the 32-bit kernel.
///
/// # Errors
///
/// Its package cannot be had.
pub fn i386_modules() -> Result<PathBuf> {
    I386.modules()
}

/// `/bin` and `/lib` of an unpacked package: from Debian 13 on they are below `/usr`.
fn merged(files: &Path, path: &str) -> PathBuf {
    let place = files.join(path);
    match place.exists() {
        true => place,
        false => files.join("usr").join(path),
    }
}

/// Copies one file of a package.
fn packaged(path: &Path, package: &str, file: &str) -> Result<()> {
    let from = deb::unpacked(package)?.join(file);
    place(
        path,
        &fs::read(&from).with_context(|| format!("the package {package} has no {file}"))?,
    )
}

/// Writes a file so that it is there as a whole or not at all.
fn place(path: &Path, content: &[u8]) -> Result<()> {
    let unfinished = path.with_extension("part");
    fs::write(&unfinished, content)
        .with_context(|| format!("cannot write {}", unfinished.display()))?;
    fs::rename(&unfinished, path).with_context(|| format!("cannot write {}", path.display()))
}

/// What the installer's CD can boot. The default keeps the VGA's text mode, which needs no driver and whose characters can be read;
/// `graphics` is Debian's own entry, and `serial` puts the installer on COM1.
const TEXT_ENTRIES: [Entry<'_>; 3] = [
    Entry {
        label: "install",
        cmdline: "vga=normal nomodeset --- quiet",
    },
    Entry {
        label: "graphics",
        cmdline: "vga=788 --- quiet",
    },
    Entry {
        label: "serial",
        cmdline: "console=ttyS0,115200 --- quiet",
    },
];
/// The graphical installer as Debian starts it, with the kernel's messages.
const GTK_ENTRIES: [Entry<'_>; 1] = [Entry {
    label: "install",
    cmdline: "vga=788 ---",
}];

/// What the CD for UEFI boots.
const EFI_ENTRIES: [Entry<'_>; 1] = [Entry {
    label: "linux",
    cmdline: "console=tty0 console=ttyS0 quiet umbra.then=poweroff",
}];

/// A release of Debian that has an installer.
struct Release {
    version: &'static str,
    codename: &'static str,
}

const BOOKWORM: Release = Release {
    version: "12",
    codename: "bookworm",
};
const TRIXIE: Release = Release {
    version: "13",
    codename: "trixie",
};

impl Release {
    /// Makes the CD of a flavour of its installer.
    fn installer(
        &self,
        path: &Path,
        architecture: &str,
        flavour: &str,
        entries: &[Entry<'_>],
    ) -> Result<()> {
        let Release { version, codename } = self;
        let package = format!("debian-installer-{version}-netboot-{architecture}/{codename}");
        let files = deb::unpacked(&package)?
            .join("usr/lib/debian-installer/images")
            .join(version)
            .join(architecture)
            .join(flavour)
            .join("debian-installer")
            .join(architecture);
        let volume = format!("DEBIAN_{version}_{}", architecture.to_uppercase());
        let make = if architecture == "amd64" {
            cdrom::make_for_both
        } else {
            cdrom::make
        };
        make(
            path,
            &volume,
            &files.join("linux"),
            &files.join("initrd.gz"),
            entries,
        )
    }
}

/// Whether this system, by what it says of itself (os-release(5)), is Debian of `version`.
fn is_debian(os_release: &str, version: &str) -> bool {
    let says = |name: &str, value: &str| {
        os_release.lines().any(|line| {
            line.split_once('=')
                .is_some_and(|(key, is)| key == name && is.trim_matches('"') == value)
        })
    };
    says("ID", "debian") && says("VERSION_ID", version)
}

/// Provides the named guests, or all, and says where they are.
///
/// # Errors
///
/// A name is unknown, or a guest cannot be had.
pub fn provide(names: &[String], list: bool) -> Result<()> {
    let mut wanted = Vec::new();
    for name in names {
        match Guest::named(name) {
            Some(guest) => wanted.push(guest),
            None => {
                refuse!("there is no test guest named {name}; cargo xtask guests --list names them")
            }
        }
    }
    if names.is_empty() {
        wanted.extend(Guest::ALL);
    }
    for guest in wanted {
        if list {
            println!("{:16} {}", guest.name(), guest.about());
        } else {
            println!("{:16} {}", guest.name(), guest.provide()?.display());
        }
    }
    Ok(())
}

impl Guest {
    /// A RAM disk in `directory`: this one, of a test guest, with `archive` behind it. What both have is taken from `archive`.
    ///
    /// # Errors
    ///
    /// The RAM disk cannot be had or written.
    pub fn with_more(self, archive: Archive, directory: &Path) -> Result<PathBuf> {
        let mut image = fs::read(self.provide()?).context("cannot read the RAM disk")?;
        image.resize(image.len().next_multiple_of(512), 0);
        image.extend(archive.finish());
        let path = directory.join("initrd-more.img");
        fs::write(&path, image).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_what_the_system_says() {
        let trixie = "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nVERSION_ID=\"13\"\nID=debian\n";
        assert!(is_debian(trixie, "13"));
        assert!(!is_debian(trixie, "12"));
        assert!(!is_debian(
            "ID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"13\"\n",
            "13"
        ));
    }
}
