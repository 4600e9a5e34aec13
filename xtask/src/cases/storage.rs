//! Guests and their disks: what boots first, and what is still there after a kill.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use protocol::options::{CdBus, DiskBus, Profile};

use super::network::md5;
use super::{Case, What, by_hand, case, own, until};
use crate::command;
use crate::guests::Guest;
use crate::media::{self, DiskArg, Keep};
use crate::rig::Paging;
use crate::run::Options;
use crate::storage::crash::{Crash, DISK};
use crate::storage::{floppy_ram_disk, options};
use crate::vm::Vm;

/// These tests.
pub(super) fn cases() -> Vec<Case> {
    let found = [until("STORAGE-FOUND 20 files")];
    vec![
        case(
            "disk-survives-a-kill",
            What::Own(&[Guest::CloudKernel, Guest::CloudInitrd], survive),
            512,
            300,
            &found,
            &[],
        ),
        own(
            "disk-keeps-what-was-flushed",
            &[Guest::CloudKernel, Guest::CloudInitrd],
            keep,
            512,
            300,
        ),
        own(
            "disk-boots-before-the-cd",
            &[Guest::GrubRescue, Guest::LinuxDisk],
            order,
            512,
            120,
        ),
        own(
            "virtio-disk-boots-and-keeps-what-is-written",
            &[Guest::LinuxDisk],
            virtio,
            512,
            120,
        ),
        own(
            "ahci-boots-a-disk-and-a-cd",
            &[Guest::LinuxDisk, Guest::GrubRescue],
            ahci,
            512,
            120,
        ),
        by_hand(own(
            "ahci-disk-keeps-what-was-flushed",
            &[Guest::Cloud13Kernel, Guest::Cloud13Initrd],
            keep_on_ahci,
            512,
            200,
        )),
        own(
            "floppy-is-read-and-written-by-linux",
            &[Guest::I386Kernel, Guest::I386Initrd],
            floppy,
            256,
            200,
        ),
    ]
}

/// A guest partitions its disk, makes a file system, writes files and syncs. It is killed at once; the next boot finds the files.
fn survive(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let disk = scratch.join("disk.img");
    let made = Crash::new(umbra, scratch, DiskBus::Ide, 0)?;
    let options = options(made.initrd(), (&disk, DiskBus::Ide), "check")?;
    case.run_once(&options, umbra, scratch)
}

/// Three kills at random moments of a write load with flushes.
fn keep(_: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    keep_on(DiskBus::Ide, 3, umbra, scratch)
}

/// One of such kills, on an AHCI disk with queued commands.
fn keep_on_ahci(_: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    keep_on(DiskBus::Ahci, 1, umbra, scratch)
}

fn keep_on(bus: DiskBus, kills: u32, umbra: &Path, scratch: &Path) -> Result<()> {
    let seed = u64::from(std::process::id());
    let mut test = Crash::new(umbra, scratch, bus, seed)?;
    for kill in 1..=kills {
        test.kill()
            .with_context(|| format!("kill {kill}, seed {seed}"))?;
    }
    ensure!(test.next > 0, "nothing was written in the time");
    Ok(())
}

/// Linux's own driver reads a floppy of 1.44 MB, and writes to it; what it wrote is in the image.
fn floppy(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    const SIZE: usize = 1440 << 10;
    let image: Vec<u8> = (0..SIZE).map(|n| (n * n / 512 + n / 7) as u8).collect();
    let path = scratch.join("floppy.img");
    fs::write(&path, &image)?;
    let initrd = floppy_ram_disk(scratch)?;
    let options = Options {
        script: vec![
            until(&format!("FLOPPY-READ {}", md5(&path)?)),
            until(&format!("FLOPPY-SIZE {}", SIZE / 512)),
            until("FLOPPY-DONE"),
        ],
        ..Options::headless(Vm {
            initrd: Some(media::open_initrd(&initrd)?),
            floppies: vec![media::open_floppy(&path)?],
            cmdline: "console=ttyS0 quiet umbra.then=storage".to_owned(),
            memory: case.memory,
            ..Vm::of(&Guest::I386Kernel.provide()?)?
        })
    };
    case.run_once(&options, umbra, scratch)?;
    // A hundred sectors of a program, and nothing else.
    let written = fs::read(&path)?;
    let (new, end) = (700 * 512, 800 * 512);
    let kept = written.get(..new) == image.get(..new) && written.get(end..) == image.get(end..);
    ensure!(
        kept && written.get(new..new + 4) == Some(b"\x7fELF"),
        "the image does not have what the guest wrote"
    );
    Ok(())
}

/// SeaBIOS and GRUB boot Linux from a virtio disk, a QCOW2 image, which its own driver writes to; the next boot, under shadow paging, finds
/// that.
fn virtio(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let disk = scratch.join("virtio.qcow2");
    let raw = Guest::LinuxDisk.provide()?;
    command::run(
        Command::new("qemu-img")
            .args(["convert", "-O", "qcow2"])
            .args([&raw, &disk]),
    )?;
    for (paging, text) in [
        (Paging::Nested, "GUEST-BOOTS 1"),
        (Paging::Shadow, "GUEST-BOOTS 2"),
    ] {
        let options = Options {
            script: vec![until("GUEST-DISK vda"), until(text)],
            ..Options::headless(Vm::of(&disk)?)
        };
        let case = Case {
            paging,
            profile: Profile {
                disk_bus: Some(DiskBus::Virtio),
                ..Profile::default()
            },
            ..case.clone()
        };
        case.run_once(&options, umbra, scratch)
            .with_context(|| format!("until {text}"))?;
    }
    Ok(())
}

/// SeaBIOS boots GRUB from AHCI: from a disk, and from a CD with an empty disk beside it.
fn ahci(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let disk = scratch.join("ahci.img");
    fs::copy(Guest::LinuxDisk.provide()?, &disk).context("cannot copy the disk")?;
    let cd = Vm {
        disks: vec![media::make_disk(&scratch.join("empty.img"), DISK)?],
        ..Vm::of(&Guest::GrubRescue.provide()?)?
    };
    for (vm, text) in [(Vm::of(&disk)?, "GUEST-GRUB"), (cd, "GNU GRUB")] {
        let options = Options {
            script: vec![until(text)],
            ..Options::headless(vm)
        };
        let case = Case {
            profile: Profile {
                disk_bus: Some(DiskBus::Ahci),
                cd_bus: Some(CdBus::Ahci),
                ..Profile::default()
            },
            ..case.clone()
        };
        case.run_once(&options, umbra, scratch)
            .with_context(|| format!("until {text}"))?;
    }
    Ok(())
}

/// With a CD in the drive: an empty disk is passed over, one that boots is booted. The guest cannot write that, though it tries to.
fn order(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let cd = Vm::of(&Guest::GrubRescue.provide()?)?;
    let empty = media::make_disk(&scratch.join("empty.img"), DISK)?;
    let bootable = scratch.join("bootable.img");
    let original = Guest::LinuxDisk.provide()?;
    fs::copy(&original, &bootable).context("cannot copy the disk")?;
    let protected = DiskArg {
        readonly: true,
        ..DiskArg::from(bootable.as_path())
    };
    for (disk, text) in [
        (empty, "GNU GRUB"),
        (protected.open(Keep::Written)?, "GUEST-BOOTS 1"),
    ] {
        let options = Options {
            script: vec![until(text)],
            ..Options::headless(Vm {
                disks: vec![disk],
                ..cd.clone()
            })
        };
        case.run_once(&options, umbra, scratch)
            .with_context(|| format!("until {text}"))?;
    }
    ensure!(
        fs::read(&bootable)? == fs::read(&original)?,
        "the guest has written to a disk that it only reads"
    );
    Ok(())
}
