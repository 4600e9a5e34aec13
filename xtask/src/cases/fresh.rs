//! Both commands of the README as a new user gives them: in a system that debootstrap has just made and that has nothing but a C compiler,
//! with the Rust toolchain of this one. It needs the rights of root, and is run only when it is named.
//!
//! Of the tests, [`TESTS`] are run there; the environment variable [`NAMED`] names others, and all if it is empty. The system stays in
//! `target/fresh` until the next time.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{Case, Procedure, by_hand, own};
use crate::progress::Step;
use crate::{command, deb, paths};

/// Runs a command in the system.
const ENTER: &str = include_str!("fresh.sh");
/// What the system has besides what every one has.
const PACKAGES: &str = "--include=ca-certificates,gcc,libc6-dev";
/// The tests that are run there: each kind of guest and each emulator.
const TESTS: &str =
    "red-zone kernel-power-off kernel-i386-pae shadow-vtlb-kernel bochs-svm-cdrom image-uefi";
/// How long the installer may take to its first question, in seconds: it comes after two minutes, and the machine may be busy.
const LIMIT: &str = "3600";
/// Names other tests, between blanks.
const NAMED: &str = "UMBRA_FRESH_TESTS";

/// A system to try.
struct System {
    name: &'static str,
    suite: &'static str,
    archive: Archive,
}

/// Whose packages a system is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Archive {
    Debian,
    Ubuntu,
}

impl Archive {
    fn components(self) -> &'static str {
        match self {
            Archive::Debian => "main",
            Archive::Ubuntu => "main,universe",
        }
    }

    /// The package and the file with the keys.
    fn keys(self) -> (&'static str, &'static str) {
        match self {
            Archive::Debian => (
                "debian-archive-keyring/trixie",
                "usr/share/keyrings/debian-archive-keyring.gpg",
            ),
            Archive::Ubuntu => (
                "ubuntu-keyring/trixie",
                "usr/share/keyrings/ubuntu-archive-keyring.gpg",
            ),
        }
    }

    /// The environment variable with a mirror.
    fn variable(self) -> &'static str {
        match self {
            Archive::Debian => deb::MIRROR,
            Archive::Ubuntu => "UMBRA_UBUNTU_MIRROR",
        }
    }

    /// A mirror: the one that the environment names or this system uses, or else the one that debootstrap's `script` names.
    fn mirror(self, script: &Path) -> Result<String> {
        if self == Archive::Debian {
            return deb::mirror();
        }
        if let Ok(mirror) = env::var(self.variable()) {
            return Ok(mirror);
        }
        let text = fs::read_to_string(script)
            .with_context(|| format!("cannot read {}", script.display()))?;
        first_mirror(&text).with_context(|| {
            let variable = self.variable();
            format!("debootstrap knows no mirror; set {variable} to the address of one")
        })
    }
}

const DEBIAN_12: System = System {
    name: "debian12",
    suite: "bookworm",
    archive: Archive::Debian,
};
const DEBIAN_13: System = System {
    name: "debian13",
    suite: "trixie",
    archive: Archive::Debian,
};
const UBUNTU: System = System {
    name: "ubuntu",
    suite: "noble",
    archive: Archive::Ubuntu,
};

/// These tests.
pub(super) fn cases() -> Vec<Case> {
    let fresh = |name, procedure: Procedure| by_hand(own(name, &[], procedure, 0, 0));
    vec![
        fresh("fresh-debian12", |_, _, _| DEBIAN_12.check()),
        fresh("fresh-debian13", |_, _, _| DEBIAN_13.check()),
        fresh("fresh-ubuntu", |_, _, _| UBUNTU.check()),
    ]
}

impl System {
    fn check(&self) -> Result<()> {
        let tree = paths::target().join("fresh").join(self.name);
        self.make(&tree)?;
        let seen = "Select a language";
        self.run(
            &tree,
            &["run", "--headless", "--timeout", LIMIT, "--until", seen],
        )?;
        let tests = env::var(NAMED).unwrap_or_else(|_| TESTS.to_owned());
        let words: Vec<&str> = ["test"]
            .into_iter()
            .chain(tests.split_whitespace())
            .collect();
        self.run(&tree, &words)
    }

    /// Makes the system, with a copy of the project in it.
    fn make(&self, tree: &Path) -> Result<()> {
        if tree.exists() {
            fs::remove_dir_all(tree)
                .with_context(|| format!("cannot remove {}", tree.display()))?;
        }
        paths::make(tree)?;
        // An older one does not know the newer systems.
        let own = deb::unpacked("debootstrap/trixie")?;
        let (package, file) = self.archive.keys();
        let keys = deb::unpacked(package)?.join(file);
        let scripts = own.join("usr/share/debootstrap/scripts");
        let mirror = self.archive.mirror(&scripts.join(self.suite))?;
        // debootstrap would try for minutes.
        command::run(
            Command::new("wget")
                .args(["--quiet", "--spider", "--timeout=20", "--tries=1"])
                .arg(format!("{mirror}/dists/{}/Release", self.suite)),
        )
        .with_context(|| {
            format!(
                "{mirror} cannot be reached, or has no {}; set {} to the address of another mirror",
                self.suite,
                self.archive.variable()
            )
        })?;
        let mut command = Command::new("sh");
        command
            .arg(own.join("usr/sbin/debootstrap"))
            .env("DEBOOTSTRAP_DIR", own.join("usr/share/debootstrap"))
            .envs([("DEBIAN_FRONTEND", "noninteractive"), ("LC_ALL", "C")])
            .args(["--arch=amd64", "--variant=minbase", PACKAGES])
            .arg(format!("--components={}", self.archive.components()))
            .arg(format!("--keyring={}", keys.display()))
            .arg(self.suite)
            .arg(tree)
            .arg(&mirror);
        let step = Step::start(format!("Making a fresh {} with debootstrap", self.name));
        command::run(&mut command).with_context(|| {
            format!(
                "debootstrap cannot make a system of {} from {mirror}, for which it takes the rights of root",
                self.suite
            )
        })?;
        step.done();
        let project = tree.join("root/umbra");
        paths::make(&project)?;
        let copy = r#"tar -C "$1" --exclude-vcs --exclude=./target -cf - . | tar -C "$2" -xf -"#;
        command::run(
            Command::new("sh")
                .args(["-c", copy, "sh"])
                .args([paths::root(), project]),
        )?;
        Ok(())
    }

    /// Runs `cargo xtask` with these words in the system.
    fn run(&self, tree: &Path, words: &[&str]) -> Result<()> {
        let log = paths::new_log(&format!("fresh-{}-{}", self.name, words[0]))?;
        let output = File::create(&log)?;
        let home = |variable: &str, usual: &str| -> PathBuf {
            let home = env::var_os("HOME").unwrap_or_default();
            env::var_os(variable).map_or(Path::new(&home).join(usual), PathBuf::from)
        };
        let line = format!("cargo xtask {}", words.join(" "));
        let step = Step::start(format!("{line} in it, with its words in {}", log.display()));
        let status = Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                ENTER,
                "sh",
            ])
            .arg(tree)
            .args(["cargo", "xtask"])
            .args(words)
            .env("CARGO_HOME", home("CARGO_HOME", ".cargo"))
            .env("RUSTUP_HOME", home("RUSTUP_HOME", ".rustup"))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .status()
            .context("cannot start unshare")?;
        let text = fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(30)..);
        ensure!(
            status.success(),
            "{line} failed in a fresh {}:\n{}",
            self.name,
            tail.unwrap_or_default().join("\n")
        );
        step.done();
        Ok(())
    }
}

/// The first mirror that a script of debootstrap's names: that of suites that are supported.
fn first_mirror(script: &str) -> Option<String> {
    let mut mirrors = script
        .lines()
        .filter_map(|line| line.trim().strip_prefix("default_mirror "));
    mirrors.next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_of_a_supported_suite_comes_first() {
        let script = "case\n\t\tdefault_mirror http://m.example/ubuntu\n\tdefault_mirror http://o.example/ubuntu\n";
        assert_eq!(
            first_mirror(script).as_deref(),
            Some("http://m.example/ubuntu")
        );
    }
}
