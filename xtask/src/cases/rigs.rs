//! Tests of the rigs themselves: other versions of the emulators.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{Case, by_hand, own};
use crate::{command, deb, kernel, paths};

/// QEMU 10 for Debian 12: what makes a tree in which it finds its files.
const QEMU_10: [&str; 4] = [
    "qemu-system-x86/bookworm-backports",
    "qemu-system-common/bookworm-backports",
    "qemu-system-data/bookworm-backports",
    "seabios",
];
/// The tests that run on it: nested paging and the three kinds of shadow paging.
const ON_QEMU_10: [&str; 6] = [
    "kernel-power-off",
    "kernel-i386-pae",
    "shadow-vtlb-kernel",
    "shadow-cached-kernel-i386",
    "shadow-pool-is-bounded",
    "shadow-grub-without-nested-paging",
];

/// These tests.
pub(super) fn cases() -> Vec<Case> {
    vec![by_hand(own("qemu-10", &[], qemu_10, 0, 0))]
}

/// Guests on QEMU 10, which is unpacked beside the installed one unless that is of this version.
fn qemu_10(_: &Case, umbra: &Path, _: &Path) -> Result<()> {
    let installed = PathBuf::from("qemu-system-x86_64");
    let program = if version(&installed).is_ok_and(|version| version >= 10) {
        installed
    } else {
        beside("qemu-10", &QEMU_10)?.join("usr/bin/qemu-system-x86_64")
    };
    ensure!(version(&program)? >= 10, "{} is too old", program.display());
    again(&ON_QEMU_10, umbra, ("UMBRA_QEMU", &program))
}

/// The packages' files in one tree under this name.
fn beside(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let tree = paths::guests().join(name);
    paths::make(&tree)?;
    for package in packages {
        let from = deb::unpacked(package)?.join("usr");
        command::run(
            Command::new("cp")
                .args(["--archive", "--link", "--force"])
                .args([&from, &tree]),
        )?;
    }
    Ok(tree)
}

/// The number before the first dot in what a QEMU says of its version.
fn version(program: &Path) -> Result<u32> {
    let output = command::run(Command::new(program).arg("--version"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    parse_version(&text).with_context(|| format!("no version in {text:?}"))
}

fn parse_version(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("version ")?;
    rest.split('.').next()?.parse().ok()
}

/// Runs these tests by a tool of their own, which has `variable` in its environment.
fn again(tests: &[&str], umbra: &Path, (variable, value): (&str, &Path)) -> Result<()> {
    let output = Command::new(std::env::current_exe()?)
        .arg("test")
        .args(tests)
        .env(kernel::OVERRIDE, umbra)
        .env(variable, value)
        .stdin(Stdio::null())
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout).trim_end()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_behind_the_word() {
        let text = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\n";
        assert_eq!(parse_version(text), Some(10));
        assert_eq!(parse_version("QEMU"), None);
    }

    #[test]
    fn the_tests_on_other_emulators_are_there() {
        let all = super::super::all();
        for name in ON_QEMU_10 {
            assert!(all.iter().any(|case| case.name == name), "{name}");
        }
    }
}
