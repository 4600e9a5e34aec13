//! The system packages that the tool needs, and their installation by apt on Debian and Ubuntu.

use std::io::{BufRead, BufReader, IsTerminal};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::outcome::refuse;
use crate::package::{Package, package};
use crate::progress::Step;

/// What links the tool and Umbra.
const BUILD: &[Package] = &[package("gcc", "/usr/bin/cc")];
/// The virtual machine's firmware.
const FIRMWARE: &[Package] = &[package("seabios", "/usr/share/seabios/bios-256k.bin")];
/// The virtual machine's firmware for guests that boot by UEFI.
const UEFI: &[Package] = &[package("ovmf", "/usr/share/OVMF/OVMF_CODE_4M.fd")];
/// What guests are made with.
const GUESTS: &[Package] = &[
    package("xorriso", "/usr/bin/xorriso"),
    package("isolinux", "/usr/lib/ISOLINUX/isolinux.bin"),
    package(
        "syslinux-common",
        "/usr/lib/syslinux/modules/bios/ldlinux.c32",
    ),
    package("grub-common", "/usr/bin/grub-mkimage"),
    package("grub-pc-bin", "/usr/lib/grub/i386-pc/multiboot2.mod"),
    package("e2fsprogs", "/sbin/mke2fs"),
    package("mtools", "/usr/bin/mformat"),
    package("xz-utils", "/usr/bin/xz"),
];
/// What the bootable image is made with.
const IMAGE: &[Package] = &[
    package("grub-common", "/usr/bin/grub-mkrescue"),
    package("grub-pc-bin", "/usr/lib/grub/i386-pc/multiboot2.mod"),
    package(
        "grub-efi-amd64-bin",
        "/usr/lib/grub/x86_64-efi/multiboot2.mod",
    ),
    package("xorriso", "/usr/bin/xorriso"),
    package("mtools", "/usr/bin/mformat"),
];
/// What knows disk images that are not raw.
const IMAGES: &[Package] = &[package("qemu-utils", "/usr/bin/qemu-img")];
/// What libFuzzer is built with.
const FUZZ: &[Package] = &[package("g++", "/usr/bin/c++")];
/// What the tests need besides.
const TEST: &[Package] = &[
    package("acpica-tools", "/usr/bin/iasl"),
    package("dmidecode", "/usr/sbin/dmidecode"),
    package("binutils", "/usr/bin/objdump"),
    package("gdb", "/usr/bin/gdb"),
];
/// What Debian's archive is verified with.
const KEYS: &[Package] = &[package(
    "debian-archive-keyring",
    "/usr/share/keyrings/debian-archive-keyring.gpg",
)];
/// What debootstrap needs.
const DEBOOTSTRAP: &[Package] = &[
    package("wget", "/usr/bin/wget"),
    package("tar", "/usr/bin/tar"),
];
/// What the packages are wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To run a guest. Its rig needs more.
    Run,
    /// To run a guest that boots by UEFI.
    Uefi,
    /// To open a disk image that is not raw.
    Images,
    /// To install a system onto a disk image.
    Install,
    /// To fetch and build the test guests.
    Guests,
    /// To fetch guests from Debian on another system.
    DebianKeys,
    /// To build the bootable image.
    Image,
    /// To build the fuzz targets.
    Fuzz,
    /// To run all tests.
    Test,
}

impl Purpose {
    fn groups(self) -> Vec<&'static [Package]> {
        match self {
            Purpose::Run => vec![BUILD, FIRMWARE],
            Purpose::Install => vec![BUILD, FIRMWARE, GUESTS, KEYS, DEBOOTSTRAP],
            Purpose::Uefi => vec![UEFI],
            Purpose::Images => vec![IMAGES],
            Purpose::Guests => vec![GUESTS],
            Purpose::DebianKeys => vec![KEYS],
            Purpose::Image => vec![BUILD, FIRMWARE, GUESTS, IMAGE],
            Purpose::Fuzz => vec![BUILD, FUZZ],
            Purpose::Test => vec![BUILD, FIRMWARE, GUESTS, IMAGE, IMAGES, FUZZ, UEFI, TEST],
        }
    }
}

/// The packages for `purpose`, and of `more`, that are not there, by what `present` says about files.
fn missing(
    purpose: Purpose,
    more: &[&'static [Package]],
    present: impl Fn(&Path) -> bool,
) -> Vec<Package> {
    let mut absent: Vec<Package> = Vec::new();
    let groups = purpose.groups();
    for package in groups
        .into_iter()
        .chain(more.iter().copied())
        .flatten()
        .copied()
    {
        if !present(Path::new(package.file))
            && absent.iter().all(|other| other.name != package.name)
        {
            absent.push(package);
        }
    }
    absent
}

/// Installs what `purpose` needs and the system lacks.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused) with the line to type when the tool may not install, or an error when apt fails.
pub fn require(purpose: Purpose) -> Result<()> {
    require_with(purpose, &[])
}

/// [`require`], and `more` packages.
///
/// # Errors
///
/// As [`require`].
pub fn require_with(purpose: Purpose, more: &[&'static [Package]]) -> Result<()> {
    // A second round: a package of another release (backports, for one) cannot stand beside what the first one installs, and apt removes it.
    for _ in 0..2 {
        let absent = missing(purpose, more, Path::exists);
        if absent.is_empty() {
            return Ok(());
        }
        install(&absent)?;
    }
    match missing(purpose, more, Path::exists).first() {
        Some(package) => bail!(
            "the package {} was installed but has no {}",
            package.name,
            package.file
        ),
        None => Ok(()),
    }
}

/// Installs `absent`, with the lists of packages that are there or else with new ones.
fn install(absent: &[Package]) -> Result<()> {
    let names: Vec<&str> = absent.iter().map(|package| package.name).collect();
    let line = format!(
        "apt-get install --no-install-recommends {}",
        names.join(" ")
    );
    let Some(prefix) = privilege() else {
        refuse!("some system packages are missing; install them with: sudo {line}");
    };
    eprintln!(
        "Some system packages are missing; installing them with: {}{line}",
        if prefix.is_empty() { "" } else { "sudo " }
    );
    let lists = std::fs::read_dir("/var/lib/apt/lists").is_ok_and(|mut lists| {
        lists.any(|entry| {
            entry.is_ok_and(|entry| entry.file_name().to_string_lossy().contains("Packages"))
        })
    });
    let install = [&["install", "--no-install-recommends", "--yes"], &names[..]].concat();
    let installed = lists && apt(prefix, &install, "Installing packages").is_ok();
    if !installed {
        apt(prefix, &["update"], "Fetching the lists of packages")?;
        if let Err(error) = apt(prefix, &install, "Installing packages") {
            return Err(error.context(format!(
                "apt could not install the packages; try it yourself: sudo {line}"
            )));
        }
    }
    Ok(())
}

/// Fetches apt's lists of packages, where the tool may do that: old lists name files that the archive no longer has.
///
/// # Errors
///
/// apt fails.
pub fn refresh_lists() -> Result<()> {
    match privilege() {
        Some(prefix) => apt(prefix, &["update"], "Fetching the lists of packages"),
        None => Ok(()),
    }
}

/// The words before apt-get with which we may install, if there are such.
fn privilege() -> Option<&'static [&'static str]> {
    const AS_ROOT: &[&str] = &[];
    const WITH_SUDO: &[&str] = &["sudo", "--"];
    if !Path::new("/usr/bin/apt-get").exists() {
        return None;
    }
    if output_of("id", &["-u"]).is_some_and(|id| id.trim() == "0") {
        return Some(AS_ROOT);
    }
    let asks_nothing = Command::new("sudo")
        .args(["-n", "true"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let may_ask = std::io::stdin().is_terminal() && asks_nothing.is_ok();
    (may_ask || asks_nothing.is_ok_and(|status| status.success())).then_some(WITH_SUDO)
}

fn output_of(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs apt-get, showing its progress, and its words when it fails.
fn apt(prefix: &[&str], arguments: &[&str], what: &str) -> Result<()> {
    if prefix.first() == Some(&"sudo") {
        // A password is asked for here, before anything draws over the question.
        let status = Command::new("sudo")
            .arg("-v")
            .status()
            .context("cannot start sudo")?;
        if !status.success() {
            bail!("sudo was refused");
        }
    }
    let words = [
        prefix,
        &[
            "env",
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "-o",
            "APT::Status-Fd=1",
            "-o",
            "DPkg::Lock::Timeout=300",
            "-q",
        ],
        arguments,
    ]
    .concat();
    let (program, rest) = words.split_first().context("no program")?;
    let step = Step::percent(what);
    let mut child = Command::new(program)
        .args(rest)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let errors = child
        .stderr
        .take()
        .map(|errors| std::thread::spawn(move || std::io::read_to_string(errors)));
    let mut words = Vec::new();
    for line in child
        .stdout
        .take()
        .into_iter()
        .flat_map(|output| BufReader::new(output).lines())
        .map_while(Result::ok)
    {
        match percent(&line) {
            Some(percent) => step.at(percent),
            None => words.push(line),
        }
    }
    let errors = errors
        .and_then(|thread| thread.join().ok())
        .and_then(Result::ok)
        .unwrap_or_default();
    if child.wait()?.success() {
        step.done();
        return Ok(());
    }
    drop(step);
    for line in words.iter().rev().take(15).rev() {
        eprintln!("{line}");
    }
    bail!(
        "apt-get {} failed: {}",
        arguments.first().unwrap_or(&""),
        errors.trim()
    );
}

/// The progress in a line of apt's status channel, of which downloads are the first half.
fn percent(line: &str) -> Option<u64> {
    let mut fields = line.split(':');
    let kind = fields.next()?;
    if !["dlstatus", "pmstatus"].contains(&kind) {
        return None;
    }
    let percent: f64 = fields.nth(1)?.parse().ok()?;
    Some(if kind == "dlstatus" {
        percent / 2.0
    } else {
        50.0 + percent / 2.0
    } as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_absent_is_installed_and_once() {
        const MORE: &[Package] = &[package("more", "/more"), package("xorriso", "/xorriso")];
        assert!(missing(Purpose::Test, &[MORE], |_| true).is_empty());
        let all = missing(Purpose::Test, &[MORE], |_| false);
        for name in ["more", "xorriso"] {
            let found = all.iter().filter(|package| package.name == name);
            assert_eq!(found.count(), 1, "{name}");
        }
        let absent = missing(Purpose::Run, &[], |file| !file.ends_with("bios-256k.bin"));
        assert_eq!(
            absent
                .iter()
                .map(|package| package.name)
                .collect::<Vec<_>>(),
            ["seabios"]
        );
    }

    #[test]
    fn apts_status_lines_give_percent() {
        assert_eq!(percent("dlstatus:1:50.0:Retrieving file 1 of 2"), Some(25));
        assert_eq!(percent("pmstatus:xorriso:80.0:Configuring"), Some(90));
        assert_eq!(percent("Setting up xorriso"), None);
    }
}
