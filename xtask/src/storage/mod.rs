//! The guest's disk under test: Debian's kernel with Debian's own tools for file systems, which make one, fill it, and find it again.

pub mod bench;
pub mod crash;

use std::path::{Path, PathBuf};

use anyhow::Result;
use protocol::options::{DiskBus, Profile};

use crate::cpio::Archive;
use crate::guests::{self, Guest};
use crate::media;
use crate::run::Options;
use crate::vm::Vm;
use crate::{initrd, programs};

/// What the guest does.
const SCRIPT: &str = include_str!("guest.sh");
/// Drivers for a journalling file system with checksums, besides those of the disk.
const DRIVERS: [&str; 2] = ["crc32c_generic", "ext4"];
/// What the script uses of busybox besides what every test guest has.
const APPLETS: [&str; 2] = ["mv", "umount"];

/// Programs by package: what makes a partition and a file system, and what checks one.
pub const MAKING: [(&str, &str); 2] = [("e2fsprogs", "sbin/mke2fs"), ("fdisk", "sbin/sfdisk")];
const CHECKING: (&str, &str) = ("e2fsprogs", "sbin/e2fsck");
/// Packages with their libraries.
pub const FILE_SYSTEM_LIBRARIES: [&str; 11] = [
    "libc6",
    "libext2fs2",
    "libcom-err2",
    "libblkid1",
    "libuuid1",
    "libfdisk1",
    "libsmartcols1",
    "libreadline8",
    "libtinfo6",
    "libselinux1",
    "libpcre2-8-0",
];

/// The kernel that has a driver for a disk on this bus, and its RAM disk. Debian 12's cloud kernel has none for AHCI.
pub const fn kernel(bus: DiskBus) -> (Guest, Guest) {
    match bus {
        DiskBus::Ide | DiskBus::Virtio => (Guest::CloudKernel, Guest::CloudInitrd),
        DiskBus::Ahci => (Guest::Cloud13Kernel, Guest::Cloud13Initrd),
    }
}

/// The RAM disk of the guest that works on its disk on `bus`, in `directory`, with `programs`.
///
/// # Errors
///
/// What it is made of cannot be had.
pub fn ram_disk(
    directory: &Path,
    bus: DiskBus,
    programs: &[(&str, &str)],
    libraries: &[&str],
) -> Result<PathBuf> {
    let mut archive = Archive::default();
    let modules = match bus {
        DiskBus::Ide | DiskBus::Virtio => guests::cloud_modules()?,
        DiskBus::Ahci => guests::cloud_13_modules()?,
    };
    let drivers = initrd::DRIVERS.into_iter().chain(DRIVERS);
    add_drivers(&mut archive, &modules, drivers)?;
    programs::add(&mut archive, programs, libraries)?;
    archive.program("storage.sh", SCRIPT.as_bytes());
    for applet in APPLETS {
        archive.link(&format!("bin/{applet}"), "busybox");
    }
    kernel(bus).1.with_more(archive, directory)
}

/// The RAM disk of the 32-bit guest that works on its floppy, in `directory`.
///
/// # Errors
///
/// What it is made of cannot be had.
pub fn floppy_ram_disk(directory: &Path) -> Result<PathBuf> {
    let mut archive = Archive::default();
    let drivers = initrd::DRIVERS.into_iter().chain(["floppy"]);
    add_drivers(&mut archive, &guests::i386_modules()?, drivers)?;
    archive.program("storage.sh", include_bytes!("floppy.sh"));
    Guest::I386Initrd.with_more(archive, directory)
}

/// Puts `drivers` of the kernel whose modules are below `modules` into an archive, with what they need and in an order that works.
///
/// # Errors
///
/// A file cannot be read.
pub fn add_drivers<'a>(
    archive: &mut Archive,
    modules: &Path,
    drivers: impl Iterator<Item = &'a str>,
) -> Result<()> {
    let mut order = String::new();
    for (name, content) in initrd::drivers(modules, drivers)? {
        archive.program(&format!("modules/{name}.ko"), &content);
        order.push_str(&name);
        order.push('\n');
    }
    archive.program("modules/order", order.as_bytes());
    Ok(())
}

/// An archive of the cloud kernel's drivers for the disk and of `drivers`, and of `programs`.
///
/// # Errors
///
/// They cannot be had.
pub fn archive<'a>(
    drivers: impl Iterator<Item = &'a str>,
    programs: &[(&str, &str)],
    libraries: &[&str],
) -> Result<Archive> {
    let mut archive = Archive::default();
    let wanted = initrd::DRIVERS.into_iter().chain(drivers);
    add_drivers(&mut archive, &guests::cloud_modules()?, wanted)?;
    programs::add(&mut archive, programs, libraries)?;
    Ok(archive)
}

/// The RAM disk with the tools for file systems.
///
/// # Errors
///
/// As for [`ram_disk`].
pub fn file_system_ram_disk(directory: &Path, bus: DiskBus) -> Result<PathBuf> {
    let programs = [&MAKING[..], &[CHECKING]].concat();
    ram_disk(directory, bus, &programs, &FILE_SYSTEM_LIBRARIES)
}

/// A run of that guest which does `work` with `disk` on `bus`.
///
/// # Errors
///
/// A file is not what it should be.
pub fn options(initrd: &Path, (disk, bus): (&Path, DiskBus), work: &str) -> Result<Options> {
    Ok(Options::headless(Vm {
        profile: Profile {
            disk_bus: Some(bus),
            ..Profile::default()
        },
        initrd: Some(media::open_initrd(initrd)?),
        disks: vec![media::open_disk(disk)?],
        cmdline: format!("console=ttyS0 quiet umbra.then=storage umbra.storage={work}"),
        memory: 512 << 20,
        ..Vm::of(&kernel(bus).0.provide()?)?
    }))
}
