//! `cargo xtask install`: an unattended installation of Debian in Umbra from a CD that has all it needs onto a disk image, then the
//! first boot from that disk, up to a login that is typed.
//!
//! The CD is made here with debootstrap(8), Debian's way to make a system out of its packages, fetched and verified, in a folder. In
//! Umbra, Linux partitions the disk, makes a file system, copies the system there, names it, adds users, and installs GRUB
//! (`install.sh`). No network is needed for that.
//!
//! The machine is started once: its firmware tries the disk first, which does not boot as long as it is empty, and then the CD. After
//! the installer's reboot the disk boots.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use protocol::options::MAX_CPUS;

use crate::boot_entry::Entry;
use crate::cdrom;
use crate::cli::InstallArgs;
use crate::command;
use crate::deb;
use crate::firmware::Firmware;
use crate::guests::Guest;
use crate::media::{Boots, DiskArg, Keep};
use crate::outcome::refuse;
use crate::progress::Step;
use crate::rig::{QEMU_SVM, parse_cpus, parse_memory};
use crate::run::{self, Options};
use crate::script;
use crate::setup::{self, Purpose};
use crate::storage;
use crate::vm::Vm;
use crate::{kernel, media, paths};

/// The installer: the CD's first program.
const INIT: &str = include_str!("install.sh");
/// Drivers for the CD and its file system, besides those for the disk; and those for UEFI's variables and its system partition.
const DRIVERS: [&str; 3] = ["isofs", "crc32c_generic", "ext4"];
const EFI_DRIVERS: [&str; 4] = ["efivarfs", "nls_cp437", "nls_ascii", "vfat"];
/// What is installed besides the packages that Debian calls required: a kernel, a boot loader, what starts the system, the network, and
/// something to read and write with.
const PACKAGES: &str = "linux-image-amd64,systemd-sysv,udev,kmod,ifupdown,isc-dhcp-client,iproute2,iputils-ping,login,passwd,\
    e2fsprogs,nano,less,procps";
/// The boot loader, and what goes with it.
const BIOS_PACKAGES: &str = "grub-pc";
const EFI_PACKAGES: &str = "grub-efi-amd64,efibootmgr,dosfstools";
/// Each line of the installer starts with it.
const SAYS: &str = "INSTALL ";
/// When the installation is given up.
const TIMEOUT: Duration = Duration::from_secs(3 * 60 * 60);

/// The command.
///
/// # Errors
///
/// The options cannot be, the installation fails, or the installed system does not let us log in.
pub fn install(args: &InstallArgs) -> Result<()> {
    let size = args
        .disk_size
        .as_deref()
        .map(media::parse_size)
        .transpose()?;
    let memory = parse_memory("--memory", &args.memory)?;
    let cpus = parse_cpus("--cpus", &args.cpus, MAX_CPUS)?;
    let disk = DiskArg::from(args.disk.as_path());
    if disk.check(size, Keep::Written)? {
        refuse!(
            "{} exists already; an installation writes over a whole disk, so name a new file",
            args.disk.display()
        );
    }
    let firmware = Firmware::choose(Some(&args.firmware), None)?;
    setup::require_with(Purpose::Install, &QEMU_SVM.packages(false))?;
    if firmware.is_uefi() {
        setup::require(Purpose::Uefi)?;
    }
    let efi = firmware.keeps_boot_entries()?;
    let umbra = kernel::build()?;
    let cd = cd(efi)?;
    let options = Options {
        script: script(efi),
        timeout: Some(TIMEOUT),
        screenshot: args.screenshot.clone(),
        ..Options::headless(Vm {
            memory,
            cpus,
            max_cpus: cpus,
            disks: vec![disk.make(size, Keep::Written)?],
            firmware: firmware.clone(),
            ..Vm::of(&cd)?
        })
    };
    let mut progress = Progress::new();
    let run = run::execute(&options, &umbra, "install", &mut |bytes| {
        progress.feed(bytes)
    })?;
    let resets = run.summary.resets;
    run::conclude(run)?;
    ensure!(resets > 0, "the machine was not started again");
    let needs = match &firmware {
        Firmware::File(path) => format!(" --firmware {}", path.display()),
        _ => String::new(),
    };
    println!(
        "Debian is installed in {0}: cargo xtask run {0}{needs}, and log in as root or user with the password umbra",
        args.disk.display()
    );
    Ok(())
}

/// What must be seen: the end of the installation, the installed system's login, and that it lets us in.
fn script(efi: bool) -> Vec<script::Step> {
    let until = |text: &str| script::Step::Until(text.to_owned());
    let keys = |text: &str| script::Step::Type(text.to_owned());
    if efi {
        // The screen is a picture, and nobody reads it: COM1 has a login of its own, and what the one on the screen is told to say.
        let pause = || script::Step::Sleep(Duration::from_secs(5));
        return vec![
            until("INSTALL done"),
            until("umbra login:"),
            pause(),
            keys("root\\n"),
            pause(),
            keys("umbra\\n"),
            pause(),
            keys("efibootmgr > /dev/ttyS0\\n"),
            until("* debian"),
            keys("echo installed-$(cat /etc/debian_version)-$(uname -m) > /dev/ttyS0\\n"),
            until("installed-12."),
        ];
    }
    vec![
        until("INSTALL done"),
        until("umbra login:"),
        keys("root\\n"),
        until("Password:"),
        keys("umbra\\n"),
        until("root@umbra:~#"),
        keys("echo installed-$(cat /etc/debian_version)-$(uname -m)\\n"),
        until("installed-12."),
    ]
}

/// The installer's CD, made unless it is in the cache. It boots by the firmware for which it installs.
fn cd(efi: bool) -> Result<PathBuf> {
    let (name, loader, boots) = match efi {
        true => ("debian-install-efi.iso", EFI_PACKAGES, Boots::Uefi),
        false => ("debian-install.iso", BIOS_PACKAGES, Boots::Bios),
    };
    let path = paths::guests().join(name);
    let stamp = paths::guests().join(format!(".{name}"));
    let packages = format!("{PACKAGES},{loader}");
    let recipe = format!("{packages}\n{INIT}");
    if path.exists() && fs::read_to_string(&stamp).is_ok_and(|made_by| made_by == recipe) {
        return Ok(path);
    }
    paths::make(&paths::guests())?;
    let scratch = tempfile::Builder::new()
        .prefix("install-")
        .tempdir_in(paths::guests())?;
    let tree = system(scratch.path(), &packages)?;
    let more = EFI_DRIVERS.into_iter().filter(|_| efi);
    let drivers = DRIVERS.into_iter().chain(more);
    let mut archive = storage::archive(drivers, &storage::MAKING, &storage::FILE_SYSTEM_LIBRARIES)?;
    archive.program("init", INIT.as_bytes());
    let initrd = Guest::CloudInitrd.with_more(archive, scratch.path())?;
    let entry = Entry {
        label: "install",
        cmdline: "console=tty0 console=ttyS0 quiet",
    };
    let files = [(tree.as_path(), "debian.tar")];
    let kernel = Guest::CloudKernel.provide()?;
    cdrom::make_with(
        &path,
        "DEBIAN_INSTALL",
        &kernel,
        &initrd,
        &[entry],
        boots,
        &files,
    )?;
    fs::write(&stamp, recipe)?;
    Ok(path)
}

/// Has debootstrap make the system in a folder of `scratch`, and gives the folder as an archive.
fn system(scratch: &Path, packages: &str) -> Result<PathBuf> {
    let own = deb::unpacked_tool("debootstrap")?;
    let archive = deb::mirror()?;
    let cache = paths::guests().join("debootstrap-cache");
    paths::make(&cache)?;
    let tree = scratch.join("debian");
    let step = Step::start(format!("Making a Debian system from {archive}"));
    command::run(
        Command::new("sh")
            .arg(own.join("usr/sbin/debootstrap"))
            .env("DEBOOTSTRAP_DIR", own.join("usr/share/debootstrap"))
            .envs([("DEBIAN_FRONTEND", "noninteractive"), ("LC_ALL", "C")])
            .args(["--arch=amd64", "--variant=minbase"])
            .arg(format!("--keyring={}", deb::KEYRING))
            .arg(format!("--cache-dir={}", cache.display()))
            .arg(format!("--include={packages}"))
            .arg(deb::RELEASE)
            .arg(&tree)
            .arg(archive),
    )
    .context("debootstrap, which needs the rights of root")?;
    let packed = scratch.join("debian.tar");
    command::run(
        Command::new("tar")
            .args([
                "--numeric-owner",
                "--exclude=./var/cache/apt/archives/*.deb",
                "-cf",
            ])
            .arg(&packed)
            .arg("-C")
            .arg(&tree)
            .arg("."),
    )?;
    step.done();
    Ok(packed)
}

/// Tells what the installer is at.
struct Progress {
    start: Instant,
    line: Vec<u8>,
}

impl Progress {
    fn new() -> Progress {
        Progress {
            start: Instant::now(),
            line: Vec::new(),
        }
    }

    /// Takes what COM1 said.
    fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            if let Some(what) = part(&String::from_utf8_lossy(&self.line)) {
                let seconds = self.start.elapsed().as_secs();
                eprintln!("{:3}:{:02} {what}", seconds / 60, seconds % 60);
            }
            self.line.clear();
        }
    }
}

/// What the installer says in a line of COM1, if it is the installer's.
fn part(line: &str) -> Option<&str> {
    line.trim().strip_prefix(SAYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_installers_lines_are_told_from_others() {
        assert_eq!(part("INSTALL partition\r"), Some("partition"));
        assert_eq!(part("I: Configuring libc6..."), None);
    }

    #[test]
    fn the_installer_says_what_the_script_waits_for() {
        assert!(INIT.contains("say done") && INIT.contains("echo \"INSTALL $*\""));
        assert!(INIT.contains("echo umbra > /target/etc/hostname"));
        assert!(INIT.contains("root:umbra"));
    }
}
