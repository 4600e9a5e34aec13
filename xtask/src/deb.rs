//! Debian packages as a source of guests: fetched by apt and unpacked into the cache, never installed.
//!
//! A package that the system's own sources do not have (on Ubuntu, or another release of Debian) comes from Debian 12's archive,
//! through a private configuration of apt which leaves the system's as it is. So does one of another architecture, written as apt
//! writes it: `busybox-static:i386`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::outcome::{Interrupted, interrupted};
use crate::paths;
use crate::progress::Step;
use crate::setup::{self, Purpose};

/// The keys that Debian's archive is signed with.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The environment variable with a Debian mirror, for systems whose own sources are not Debian 12's.
const MIRROR: &str = "UMBRA_DEBIAN_MIRROR";

/// The file in an unpacked package that says that all of it is there.
const COMPLETE: &str = ".complete";
/// The file that is locked by who fetches a package.
const TURN: &str = "lock";

/// Where packages are looked up.
enum Source {
    /// The system's configuration of apt.
    System,
    /// The options of a private configuration.
    Private(Vec<String>),
}

impl Source {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        if let Source::Private(options) = self {
            command.args(options.iter().flat_map(|option| ["-o", option]));
        }
        command.stdin(Stdio::null());
        command
    }

    /// The name, length and location of the file that holds `package`, if this source has it.
    fn file(&self, package: &str) -> Option<(String, u64)> {
        let output = self
            .command("apt-get")
            .args(["download", "--print-uris", split(package).0])
            .output()
            .ok()?;
        parse_uri(&String::from_utf8_lossy(&output.stdout))
    }
}

/// A package's name, and its architecture if it is not the system's.
fn split(package: &str) -> (&str, Option<&str>) {
    match package.split_once(':') {
        Some((name, architecture)) => (name, Some(architecture)),
        None => (package, None),
    }
}

/// Reads `'uri' file length hash`.
fn parse_uri(line: &str) -> Option<(String, u64)> {
    let mut fields = line
        .lines()
        .find(|line| line.starts_with('\''))?
        .split_whitespace()
        .skip(1);
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

/// Reads `text` as everything that apt prints.
pub fn parse(text: &str) {
    let _ = parse_uri(text);
    let _ = parse_dependency(text, "linux-image-");
    let _ = parse_archive(text);
}

/// The files of `package`, fetched and unpacked if they are not yet in the cache.
///
/// # Errors
///
/// The package cannot be found, fetched or unpacked.
pub fn unpacked(package: &str) -> Result<PathBuf> {
    let packages = paths::guests().join("packages");
    let directory = packages.join(package);
    let complete = directory.join(COMPLETE);
    if complete.exists() {
        return Ok(directory);
    }
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
    let source = source_of(package)?;
    let (file, length) = source
        .file(package)
        .with_context(|| format!("apt does not know the package {package}"))?;
    download(&source, split(package).0, length, &directory)?;
    let archive = fs::read_dir(&directory)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt did not bring {file}"))?;
    let step = Step::start(format!("Unpacking {package}"));
    run(Command::new("dpkg-deb")
        .arg("-x")
        .arg(&archive)
        .arg(&directory))?;
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
    let output = source_of(meta)?
        .command("apt-cache")
        .args(["depends", split(meta).0])
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

/// How old the lists of packages may be before a package is looked up in them.
const LISTS_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Brings lists of packages up to date with `fetch`, once a day for each `stamp`.
fn fresh(stamp: &Path, fetch: impl FnOnce() -> Result<()>) -> Result<()> {
    let age = fs::metadata(stamp)
        .and_then(|stamp| stamp.modified())
        .ok()
        .and_then(|at| at.elapsed().ok());
    if age.is_some_and(|age| age < LISTS_AGE) {
        return Ok(());
    }
    fetch()?;
    fs::write(stamp, "").with_context(|| format!("cannot write {}", stamp.display()))
}

/// The source that has `package`.
fn source_of(package: &str) -> Result<Source> {
    let (name, architecture) = split(package);
    let guests = paths::guests();
    paths::make(&guests)?;
    let system = match architecture {
        None => {
            fresh(&guests.join("lists-fetched"), setup::refresh_lists)?;
            Source::System
        }
        Some(architecture) => {
            let directory = guests.join(format!("apt-{architecture}"));
            let source = private_source(&directory, architecture, None)?;
            let stamp = directory.join("lists-fetched");
            fresh(&stamp, || {
                fetch_lists(&source, architecture);
                Ok(())
            })?;
            if source.file(package).is_none() {
                fs::remove_file(&stamp)?;
            }
            source
        }
    };
    if system.file(package).is_some() {
        return Ok(system);
    }
    let mirror = named_mirror().with_context(|| {
        format!(
            "this system's package sources do not have Debian 12's {name}: set {MIRROR} to the address of a Debian mirror \
             (the folder with dists/bookworm)"
        )
    })?;
    if !Path::new(KEYRING).exists() {
        setup::require(Purpose::DebianKeys)?;
    }
    let architecture = architecture.unwrap_or("amd64");
    let directory = guests.join(format!("apt-debian-{architecture}"));
    let debian = private_source(&directory, architecture, Some(&mirror))?;
    if debian.file(package).is_none() {
        fetch_lists(&debian, architecture);
    }
    Ok(debian)
}

/// The mirror that the environment names.
fn named_mirror() -> Option<String> {
    env::var(MIRROR).ok().filter(|mirror| !mirror.is_empty())
}

/// The address of Debian 12's archive (the folder with `dists/bookworm`), without a slash at its end: what the environment names,
/// or where this system's own packages come from.
///
/// # Errors
///
/// This system has other sources, and the environment names none.
pub fn archive() -> Result<String> {
    if let Some(mirror) = named_mirror() {
        return Ok(mirror.trim_end_matches('/').to_owned());
    }
    let output = Command::new("apt-get")
        .args(["indextargets", "--format"])
        .args([
            "$(LABEL) $(CODENAME) $(COMPONENT) $(REPO_URI)",
            "Created-By: Packages",
        ])
        .output()
        .context("cannot start apt-get")?;
    parse_archive(&String::from_utf8_lossy(&output.stdout)).with_context(|| {
        format!(
            "this system's package sources are not Debian 12's: set {MIRROR} to the address of a Debian mirror (the folder with \
             dists/bookworm)"
        )
    })
}

fn parse_archive(text: &str) -> Option<String> {
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix("Debian bookworm main "))?;
    Some(found.trim_end_matches('/').to_owned())
}

/// Fetches the lists of packages of a private configuration. Where one of several lists cannot be had, the others may do, and
/// what is missing is said when a package is not found.
fn fetch_lists(source: &Source, architecture: &str) {
    let step = Step::start(format!("Fetching the lists of packages for {architecture}"));
    match run(source.command("apt-get").arg("update")) {
        Ok(_) => step.done(),
        Err(_) => eprintln!("not all lists of packages for {architecture} could be fetched"),
    }
}

/// A private configuration of apt in `directory`, for one architecture: with Debian 12's archive in `mirror`, or with the
/// system's own sources.
fn private_source(directory: &Path, architecture: &str, mirror: Option<&str>) -> Result<Source> {
    for part in ["lists/partial", "cache/archives/partial", "etc"] {
        paths::make(&directory.join(part))?;
    }
    fs::write(directory.join("status"), "")?;
    let at = |part: &str| directory.join(part).display().to_string();
    let mut options = vec![
        format!("Dir::State={}", at("")),
        format!("Dir::State::Lists={}", at("lists")),
        format!("Dir::State::status={}", at("status")),
        format!("Dir::Cache={}", at("cache")),
        format!("APT::Architecture={architecture}"),
        format!("APT::Architectures::={architecture}"),
        "APT::Sandbox::User=root".to_owned(),
    ];
    if let Some(mirror) = mirror {
        let list =
            format!("deb [arch={architecture} signed-by={KEYRING}] {mirror} bookworm main\n");
        fs::write(directory.join("etc/sources.list"), list)?;
        options.extend([
            format!("Dir::Etc::SourceList={}", at("etc/sources.list")),
            "Dir::Etc::SourceParts=/nonexistent".to_owned(),
            "Dir::Etc::PreferencesParts=/nonexistent".to_owned(),
        ]);
    }
    Ok(Source::Private(options))
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
    check("apt-get download", &output)?;
    step.done();
    Ok(())
}

/// Runs `command` quietly; its words are the error when it fails.
///
/// # Errors
///
/// It cannot be started or fails.
pub fn run(command: &mut Command) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {name}"))?;
    check(&name, &output)?;
    Ok(output)
}

fn check(name: &str, output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    if interrupted() {
        return Err(Interrupted.into());
    }
    bail!(
        "{name} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apts_uris_give_file_and_length() {
        let line =
            "'http://mirror.example/p/ipxe_1.0_all.deb' ipxe_1.0_all.deb 1171912 SHA256:00\n";
        assert_eq!(
            parse_uri(line),
            Some(("ipxe_1.0_all.deb".to_owned(), 1_171_912))
        );
        assert_eq!(parse_uri("E: no such package"), None);
    }

    #[test]
    fn debians_archive_is_told_from_its_updates() {
        let text = "Debian bookworm-updates main http://m.example/debian/\n\
                    Debian-Security bookworm-security main http://m.example/security/\n\
                    Debian bookworm main http://m.example/debian/\n";
        assert_eq!(
            parse_archive(text).as_deref(),
            Some("http://m.example/debian")
        );
        assert_eq!(
            parse_archive("Ubuntu noble main http://u.example/ubuntu/\n"),
            None
        );
    }

    #[test]
    fn a_package_may_name_its_architecture() {
        assert_eq!(split("busybox-static"), ("busybox-static", None));
        assert_eq!(
            split("busybox-static:i386"),
            ("busybox-static", Some("i386"))
        );
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
