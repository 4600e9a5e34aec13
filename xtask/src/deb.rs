//! Debian packages as a source of guests: fetched by apt and unpacked into the cache, never installed.
//!
//! The test guests are the same everywhere: they are of Debian 12. A package may be named with another architecture, as apt writes that,
//! and with another suite: `busybox-static:i386`, `debian-installer-13-netboot-amd64/trixie`. Where they come from is told in [`source`].

mod source;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};

pub use self::source::{KEYRING, MIRROR, mirror};
use self::source::{Place, Source};
use crate::command;
use crate::outcome::{Interrupted, interrupted};
use crate::paths;
use crate::progress::Step;

/// The release of which test guests are.
pub const RELEASE: &str = "bookworm";

/// The file in an unpacked package that says that all of it is there.
const COMPLETE: &str = ".complete";
/// The file that is locked by who fetches a package.
const TURN: &str = "lock";

/// A package by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Name<'a> {
    package: &'a str,
    /// If it is not the usual one.
    architecture: Option<&'a str>,
    suite: &'a str,
}

impl Name<'_> {
    fn parse(text: &str) -> Name<'_> {
        let (text, suite) = text.split_once('/').unwrap_or((text, RELEASE));
        let (package, architecture) = match text.split_once(':') {
            Some((package, architecture)) => (package, Some(architecture)),
            None => (text, None),
        };
        Name {
            package,
            architecture,
            suite,
        }
    }

    /// What the cache calls it.
    fn label(&self) -> String {
        let mut label = self.package.to_owned();
        if let Some(architecture) = self.architecture {
            label += &format!(":{architecture}");
        }
        if self.suite != RELEASE {
            label += &format!("@{}", self.suite);
        }
        label
    }
}

/// Reads `text` as everything that apt prints.
pub fn parse(text: &str) {
    source::parse(text);
    let _ = parse_dependency(text, "linux-image-");
}

/// The files of `package`, fetched and unpacked if they are not yet in the cache.
///
/// # Errors
///
/// The package cannot be found, fetched or unpacked.
pub fn unpacked(package: &str) -> Result<PathBuf> {
    let name = Name::parse(package);
    unpacked_from(&name.label(), name.package, || Place::of(name))
}

/// The files of a package of this system's own sources, likewise: of a tool that the system has in its own version.
///
/// # Errors
///
/// As [`unpacked`].
pub fn unpacked_tool(package: &str) -> Result<PathBuf> {
    unpacked_from(&format!("{package}@own"), package, || Ok(Place::System))
}

fn unpacked_from(
    label: &str,
    package: &str,
    place: impl FnOnce() -> Result<Place>,
) -> Result<PathBuf> {
    let packages = paths::guests().join("packages");
    let directory = packages.join(label);
    let complete = directory.join(COMPLETE);
    if complete.exists() {
        return Ok(directory);
    }
    // To find out may take another package.
    let place = place()?;
    // Others may want the same package at the same time: one fetches, whatever thread or process it is of.
    paths::make(&packages)?;
    let turn = fs::File::create(packages.join(TURN))?;
    turn.lock().context("cannot lock the packages")?;
    if complete.exists() {
        return Ok(directory);
    }
    if directory.exists() {
        fs::remove_dir_all(&directory)
            .with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    paths::make(&directory)?;
    let source = place.source(package)?;
    let (file, length) = source
        .file(package)
        .with_context(|| format!("apt does not know the package {label}"))?;
    download(&source, package, length, &directory)?;
    let archive = fs::read_dir(&directory)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt did not bring {file}"))?;
    let step = Step::start(format!("Unpacking {package}"));
    command::run(
        Command::new("dpkg-deb")
            .arg("-x")
            .arg(&archive)
            .arg(&directory),
    )?;
    fs::remove_file(&archive)?;
    fs::write(complete, file)?;
    step.done();
    Ok(directory)
}

/// The package on which the package `meta` depends whose name starts with `prefix`.
///
/// # Errors
///
/// Neither the system's sources nor Debian's know it.
pub fn dependency(meta: &str, prefix: &str) -> Result<String> {
    let name = Name::parse(meta);
    let output = Place::of(name)?
        .source(name.package)?
        .command("apt-cache")
        .args(["depends", name.package])
        .output()
        .context("cannot start apt-cache")?;
    parse_dependency(&String::from_utf8_lossy(&output.stdout), prefix)
        .with_context(|| format!("the package {meta} depends on no {prefix}..."))
}

fn parse_dependency(text: &str, prefix: &str) -> Option<String> {
    let names = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "));
    names
        .map(str::trim)
        .find(|name| name.starts_with(prefix))
        .map(str::to_owned)
}

/// Fetches `package` into `directory`, showing how far it is.
fn download(source: &Source, package: &str, length: u64, directory: &Path) -> Result<()> {
    let step = Step::bytes(format!("Fetching {package}"), length);
    let mut child = source
        .command("apt-get")
        .args(["download", "-q", package])
        .current_dir(directory)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start apt-get")?;
    while child.try_wait()?.is_none() {
        if interrupted() {
            child.kill()?;
            child.wait()?;
            return Err(Interrupted.into());
        }
        let arrived = fs::read_dir(directory)?
            .flatten()
            .filter_map(|entry| entry.metadata().ok())
            .map(|file| file.len())
            .sum();
        step.at(arrived);
        sleep(Duration::from_millis(100));
    }
    let output = child.wait_with_output()?;
    command::check("apt-get download", &output)?;
    step.done();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_may_name_its_architecture_and_its_suite() {
        let name = |package, architecture, suite| Name {
            package,
            architecture,
            suite,
        };
        for (text, wanted) in [
            ("busybox-static", name("busybox-static", None, RELEASE)),
            (
                "busybox-static:i386",
                name("busybox-static", Some("i386"), RELEASE),
            ),
            ("seabios/trixie", name("seabios", None, "trixie")),
        ] {
            assert_eq!(Name::parse(text), wanted);
        }
    }

    #[test]
    fn the_kernel_behind_a_meta_package_is_found() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(
            parse_dependency(text, "linux-image-").unwrap(),
            "linux-image-6.1.0-56-cloud-amd64"
        );
        assert_eq!(parse_dependency("x\n", "linux-image-"), None);
    }
}
